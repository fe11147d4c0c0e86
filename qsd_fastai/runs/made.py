"What a run was made of and with: the content of its table, the versions of its libraries, and how two of them differ"
import hashlib
import platform
from importlib.metadata import version

from ..columns import table_hash

__all__ = ['changes', 'table_content', 'versions']

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
    names = 'torch', 'torchvision', 'fastai', 'timm', 'qsd_fastai'
    return {'python': platform.python_version(), **{o: version(o) for o in names}}


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
