"The folder of a run: never written over, resumed with the same arguments, left free where nothing came of it"
import json
import secrets
import time
from contextlib import contextmanager
from pathlib import Path

__all__ = ['resumable', 'run_folder', 'run_or_nothing']


def run_folder(
    name:str,    # Of the recipe: a new folder is `runs/<name>-<date>-<time>`
    out=None,    # The folder to use instead
    args:dict=None, # What the run is made with; kept in `run.json`, and compared when it is resumed
    resume:bool=False, # Go on with the run in `out`, or with the newest of this name
): # The folder, and a short name of the run that no other has
    "The folder of a run. A folder that holds a run is never written over: it is resumed, with the same arguments, or left alone"
    if resume and out is None:
        found = sorted(Path('runs').glob(f'{name}-*/run.json'))
        if not found: raise FileNotFoundError(f'There is no run to resume in {Path("runs").absolute()}. Start one without --resume.')
        out = found[-1].parent
    out = Path(out if out is not None else time.strftime(f'runs/{name}-%Y%m%d-%H%M%S'))
    file = out/'run.json'
    if not resume:
        if file.exists(): raise FileExistsError(f'{out} already holds a run. Go on with it by --resume, or name another --out.')
        out.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps({'id': secrets.token_hex(4), 'args': args or {}}, indent=1, default=str))
    elif not file.is_file(): raise FileNotFoundError(f'{out} holds no run (no run.json) to resume. Start it without --resume.')
    try: kept = json.loads(file.read_text())
    except ValueError as e: raise ValueError(f'{file} is not JSON ({e}). Start another run without --resume.') from e
    args = json.loads(json.dumps(args or {}, default=str))  # as they were written
    other = {k: (kept['args'].get(k), args.get(k)) for k in kept['args'] | args if kept['args'].get(k) != args.get(k)}
    if other:
        listed = ', '.join(f'{k} was {a!r} and is {b!r}' for k,(a,b) in other.items())
        raise ValueError(f'{out} was started with other arguments: {listed}. Resume with the same ones.')
    return out, kept['id']


@contextmanager
def run_or_nothing(
    out, # Folder of a run that cannot be resumed
):
    "Where this block is left by an error, or by Ctrl-C, the folder holds no run any more: another one can have it"
    try: yield
    except BaseException:
        (Path(out)/'run.json').unlink(missing_ok=True)
        raise


@contextmanager
def resumable(
    out, # Folder of the run
):
    "Ctrl-C in this block ends the program with a word on how to go on, instead of a traceback"
    try: yield
    except KeyboardInterrupt:
        raise SystemExit(f'\nStopped. All epochs that were finished are kept in {out}: give the same command with --resume to go on.') from None
