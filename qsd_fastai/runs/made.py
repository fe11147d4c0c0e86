"What a run was made of and with: the content of its table, the versions of its libraries, and how two of them differ"
import hashlib
import json
import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path

import torch

from ..columns import table_hash

try:
    import resource
except ImportError: resource = None # Windows

__all__ = ['changes', 'made_with', 'package_state', 'peak_memory', 'reset_peak_memory', 'table_content',
           'versions']

COLUMNS = ('path', 'identity', 'camera', 'split', 'quality', 'true_quality')


def table_content(
    table, # Of pictures
)->dict:
    "Its hash, how many rows and identities it has, and a hash of each column that counts, to tell what has changed"
    columns = {f'column {c}': _hash(table[c]) for c in COLUMNS if c in table}
    return {'content': table_hash(table), 'rows': len(table), 'identities': int(table['identity'].nunique()), **columns}


def _hash(column):
    text = '\n'.join(map(str, column)).encode('utf-8', 'surrogateescape')
    return hashlib.sha256(text).hexdigest()[:12]


def versions()->dict:
    "Of Python, of what computes, and of this library"
    names = 'torch', 'torchvision', 'fastai', 'timm', 'wandb', 'qsd_fastai'
    return {'python': platform.python_version(), **{o: found for o in names if (found := _version(o))}}


def _version(name):
    try: return version(name)
    except PackageNotFoundError: return None


@cache
def package_state(
    folder=None, # That the package is in; its own when not given
)->dict: # `commit`; where files differ from it, `changed` and a hash of how; empty where nobody knows
    "The state of this library's repository, wherever it is run from; of a copy installed by pip, what pip has noted"
    folder = Path(folder or Path(__file__).parents[2])
    # a package may lie in the environment of a project that is in a repository: that one says nothing about it
    if _git(folder, 'ls-files', '--error-unmatch', 'qsd_fastai/__init__.py') is not None:
        commit = _git(folder, 'rev-parse', 'HEAD')
        changed = (_git(folder, 'status', '--porcelain', '--', 'qsd_fastai') or '').splitlines()
        differs = hashlib.sha256((_git(folder, 'diff', 'HEAD', '--', 'qsd_fastai') or '').encode()).hexdigest()[:12]
        return {'commit': commit, **({'changed': len(changed), 'diff': differs} if changed else {})}
    try: noted = json.loads(distribution('qsd_fastai').read_text('direct_url.json') or '{}')
    except (PackageNotFoundError, ValueError): noted = {}
    commit = noted.get('vcs_info', {}).get('commit_id')
    return {'commit': commit} if commit else {}


def _git(folder, *args):
    "What git says, or `None` where it fails or is not there"
    asked = ['git', '-C', str(folder), *args]
    try: done = subprocess.run(asked, capture_output=True, timeout=30, env={**os.environ, 'GIT_OPTIONAL_LOCKS': '0'})
    except (OSError, subprocess.TimeoutExpired): return None
    return done.stdout.decode('utf-8', 'replace').strip() if done.returncode == 0 else None


def made_with()->dict:
    "For the configuration of a run: `versions`, and the state of this library's repository as `package`"
    return {'versions': versions(), 'package': package_state()}


def peak_memory(
    device, # That is trained on, or `None`
)->dict: # GiB
    "The most that was in use: on a GPU by its tensors since `reset_peak_memory`, else by the whole process so far"
    if torch.device(device or 'cpu').type == 'cuda':
        return {'device_gib': torch.cuda.max_memory_allocated(device)/2**30}
    if resource is None: return {}
    unit = 1 if platform.system() == 'Darwin' else 2**10
    return {'process_gib': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*unit/2**30}


def reset_peak_memory(
    device, # That is trained on, or `None`
):
    "Count `peak_memory` of a GPU from now on; that of a process cannot be forgotten"
    if torch.device(device or 'cpu').type == 'cuda': torch.cuda.reset_peak_memory_stats(device)


def changes(
    was:dict, # Name -> number, version or hash
    now:dict, # The same, later
)->str: # Empty where they are the same
    "What differs, in words"
    differs = [k for k in {**was, **now} if was.get(k) != now.get(k)]
    told = [_change(k, was.get(k), now.get(k)) for k in differs if k != 'content']
    return ', '.join(told or ['its content'] if differs else [])


def _change(k, was, now):
    if k.startswith('column '): return f'{k} {"is new" if was is None else "is gone" if now is None else "differs"}'
    return f'{k} {"not known" if was is None else was} -> {"not known" if now is None else now}'
