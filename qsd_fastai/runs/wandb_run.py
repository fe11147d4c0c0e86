"A Weights & Biases run from its start to its end: online with a key, offline without, and never left open"
import atexit
import netrc
import os
import re
import shlex
import time
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from pathlib import Path
from urllib.parse import urlsplit

from ..distributed import processes
from .made import made_with
from .no_run import NoRun

try:
    import wandb
except ImportError: wandb = None # Then runs are not tracked, and all else works

__all__ = ['active_run', 'finish_run', 'has_key', 'kept_beside', 'last_known', 'log_files', 'log_soon', 'send_rows',
           'start_run', 'trial_id', 'uses']

SECONDS = 5  # That a row waits at most, if others follow
at_exit = {} # By id, what Python is to do about a run that was started and not finished
waiting = {} # By id, rows that are to be logged, and since when there are any


def start_run(
    project:str='qsd_fastai', # W&B project
    name:str=None,            # Of the run
    group:str=None,           # Runs to be compared
    dir='runs',               # Where W&B keeps its files; made if missing
    id:str=None,              # Of a run to go on with
    config:dict=None,         # First part of the configuration
    job_type:str=None,        # What is done in it: train, fine-tune, evaluate, compare
    tracked:bool=True,        # Else nothing is kept: `NoRun`, as where W&B is not installed
): # The run, to be ended by `finish_run`
    """`wandb.init` that goes offline where there is no API key and `WANDB_MODE` does not decide

    Under an agent of a sweep (`wandb agent`) a run without an id, or with that of `trial_id()`, is the trial; others
    have nothing to do with the sweep.

    Of several processes the first one has the run; what the others have takes everything and keeps nothing.

    If Python ends before `finish_run`, by Ctrl-C say, the run is marked as failed, and the line that says where it is
    appears all the same.

    W&B itself adds the name of the machine and of its user, the command line and the paths of program and folder.
    Where others may look at the run, set WANDB_X_DISABLE_META=true and WANDB_X_DISABLE_MACHINE_INFO=true, and for the
    state of the repository WANDB_DISABLE_GIT=true."""
    if not tracked or processes()[0]: return NoRun(id, dir, config)
    if wandb is None:
        _say_that_it_lacks()
        return NoRun(id, dir, config)
    Path(dir).mkdir(parents=True, exist_ok=True)
    # W&B itself looks at the environment but once
    mode = os.environ.get('WANDB_MODE') or (None if has_key() else 'offline')
    known = {'project': project, 'name': name, 'group': group, 'id': id, 'job_type': job_type,
             'config': {**made_with(), **(config or {})}}
    # its process may be one that another program has started, elsewhere
    with _no_trial() if id not in (None, trial_id()) else nullcontext():
        run = wandb.init(**known, dir=str(Path(dir).absolute()), mode=mode, resume='allow' if id else None,
                         settings=wandb.Settings(silent=True, console='off'))
    # W&B counts an offline run that is gone on with from 0 again, and its server drops steps that it has
    if run.offline and (steps := _values_of(run, '_step')): run.log({}, step=max(steps) + 1, commit=False)
    at_exit[run.id] = atexit.register(partial(finish_run, run, failed=True))
    return run


@cache
def _say_that_it_lacks(): print('W&B is not installed: runs are not tracked there. pip install wandb changes that.')


def active_run():
    "The run of W&B that is open, or `None`"
    return wandb.run if wandb is not None else None


def trial_id(): # Or `None`
    "The id that an agent of a sweep has given to the run which it waits for, where it has started this program"
    return os.environ.get('WANDB_RUN_ID') if os.environ.get('WANDB_SWEEP_ID') else None


@contextmanager
def _no_trial():
    "W&B gives all runs of a program that an agent has started the id of the trial; here it does not know of the sweep"
    settings = wandb.setup().settings
    kept = {k: getattr(settings, k) for k in ('sweep_id', 'sweep_param_path', 'run_id')}
    for k in kept: setattr(settings, k, None)
    try: yield
    finally:
        for k,o in kept.items(): setattr(settings, k, o)


def has_key()->bool:
    "Is there an API key in the environment, or where `wandb login` keeps it?"
    settings,env = wandb.setup().settings,os.environ
    if env.get('WANDB_API_KEY') or env.get('WANDB_IDENTITY_TOKEN_FILE') or settings.api_key: return True
    # a key for the second one opens the first where that is W&B's own
    hosts = {urlsplit(settings.base_url).netloc, 'api.wandb.ai'}
    for file in [env['NETRC']] if env.get('NETRC') else ['~/.netrc', '~/_netrc']:
        try:
            kept = netrc.netrc(os.path.expanduser(file))
            if any(map(kept.authenticators, hosts)): return True
        except (OSError, netrc.NetrcParseError): pass
    return False


def finish_run(
    run,               # Of `start_run`
    failed:bool=False, # Mark it as stopped before its end?
    said:bool=True,    # Say where it is?
):
    "End a run, and say where it is"
    if isinstance(run, NoRun): return
    send_rows(run)
    atexit.unregister(at_exit.pop(run.id, None))
    folders,offline = _folders_of(run) if run.offline else [],run.offline
    url = None if offline or run.disabled else run.url
    run.finish(exit_code=int(failed))
    if not said: return
    here = Path.cwd()
    parts = shlex.join(str(o.relative_to(here) if o.is_relative_to(here) else o) for o in folders)
    if offline: print(f'W&B run kept offline. To upload it: wandb login, then wandb sync {parts}')
    elif url: print(f'W&B run: {url}')


def log_soon(
    run,      # Of W&B, or `NoRun`
    row:dict, # Key -> number
):
    """Log a row together with those that follow, after seconds or at `send_rows`; at once where others end the run

    What is logged with `commit=False` meanwhile joins the next row that is sent, not this one. Each time, W&B wakes
    threads of its own, and for one row this takes ten times as long as the row."""
    if run.id not in at_exit: return run.log(row)
    _,rows,since = waiting.setdefault(run.id, (run, [], time.perf_counter()))
    rows.append(row)
    if time.perf_counter() - since > SECONDS: send_rows(run)


def send_rows(
    *runs, # Of W&B, or `NoRun`; all that have rows when not given
):
    """Log now what `log_soon` kept: before anything else is logged, and at the end

    A run that somebody else has finished meanwhile takes none."""
    for id in [o.id for o in runs] if runs else [*waiting]:
        run,rows,_ = waiting.pop(id, (None, (), 0))
        try:
            for row in rows: run.log(row)
        except wandb.errors.UsageError: continue


def last_known(
    run,        # Of W&B, that may be one to go on with
    key:str,    # `epoch` or `batch`
    none:int=0, # The answer where W&B has not got one
)->int:
    """The last epoch or batch of a run that W&B has: a process that is killed loses what was not sent or written yet

    Of a run that is online W&B says it. Of one that is offline, files of the same id beside it have the rows."""
    if not run.offline: return int(run.summary.get(key, none))
    return max(_values_of(run, key), default=none)


def _folders_of(run):
    "Of an offline run, one for each time that it was gone on with, oldest first"
    own = Path(run.dir).parent # Its file may come late
    # a second one of the same second has a number behind the id
    files = own.parent.glob(f'offline-run-*/run-{run.id}.wandb')
    return sorted({own, *(o.parent for o in files)}) # By time, which is in their names


def _values_of(run, key):
    "Whole numbers in the files of an offline run: a key and its value, as text, in an item of a row"
    files = [o/f'run-{run.id}.wandb' for o in _folders_of(run)]
    # each length stands in a byte before its text
    item = re.compile(re.escape(bytes([len(key)]) + key.encode()) + rb'\x82\x01(.)', re.DOTALL)
    found = []
    for file in files:
        content = file.read_bytes() if file.is_file() else b''
        values = (content[m.end():m.end() + m[1][0]] for m in item.finditer(content))
        found += [int(o) for o in values if o.isdigit()]
    return found


@contextmanager
def kept_beside(
    run, # Of W&B
):
    "Artifacts of an offline run wait for their upload in the folder of the run, instead of the home directory"
    own = run.offline and not os.environ.get('WANDB_DATA_DIR')
    if own: os.environ['WANDB_DATA_DIR'] = str(Path(run.dir).parent)
    try: yield
    finally:
        if own: del os.environ['WANDB_DATA_DIR']


def log_files(
    run,           # Of W&B
    name:str,      # Behind the id of the run
    kind:str,      # Such as model, dataset, evaluation
    files:list,    # Each is copied
    metadata=None, # What is known of them, a dict
    aliases=None,  # A list
):
    "Files as an artifact of a run"
    with kept_beside(run): # From the first file on, of which a copy is made
        artifact = wandb.Artifact(f'{run.id}-{name}', kind, metadata=metadata)
        for file in files: artifact.add_file(str(file))
        run.log_artifact(artifact, aliases=aliases)


def uses(
    run,    # Of W&B
    *names, # Of artifacts, as `log_files` names them
):
    """What a run is made of: noted in its configuration, and where it is online as the lineage of its artifacts

    W&B keeps no lineage offline. What it does not find, for it was made offline and never sent, is passed over."""
    if not names: return
    run.config.update({'uses': list(names)}, allow_val_change=True)
    if run.offline or run.disabled: return
    for name in names:
        try: run.use_artifact(f'{name}:latest')
        except (wandb.errors.Error, ValueError) as e: print(f'W&B does not know {name}, which this run uses ({e}).')
