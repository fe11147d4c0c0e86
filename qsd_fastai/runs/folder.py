"The folder of a run: never written over, resumed with what its stages were made with, left free where nothing came"
import json
import secrets
import time
from contextlib import contextmanager
from pathlib import Path

from ..files import in_one_move

__all__ = ['RunFolder', 'run_folder', 'run_or_nothing']


class RunFolder:
    """A folder and its `run.json`: the id of the run, its options, which of them each stage was made with, and what
    changed at a resume.

    Making one looks and refuses, and writes nothing; `open` does. A folder that holds a run is resumed or left
    alone."""
    def __init__(self,
        name:str,            # Of the recipe: a new folder is `runs/<name>-<date>-<time>`
        out=None,            # The folder to use instead
        args:dict=None,      # What the run is made with
        resume:bool=False,   # Go on with the run in `out`, or with the newest of this name
        stagewise:bool=False,# May options differ at a resume that no stage so far was made with? Else none may
    ):
        if resume and out is None:
            found = sorted(Path('runs').glob(f'{name}-*/run.json'))
            at = Path('runs').absolute()
            if not found: raise FileNotFoundError(f'There is no run to resume in {at}. Start one without --resume.')
            out = found[-1].parent
        self.out = Path(out if out is not None else time.strftime(f'runs/{name}-%Y%m%d-%H%M%S'))
        self.file,self.resumes = self.out/'run.json',resume
        self.args = json.loads(json.dumps(args or {}, default=str)) # As they are written
        if resume: self.kept = self._read()
        elif self.file.exists():
            raise FileExistsError(f'{self.out} already holds a run. Go on with it by --resume, or name another --out.')
        else: self.kept = {'id': secrets.token_hex(4), 'args': self.args, 'stages': {}, 'changed': []}
        made = self.kept['stages'] if stagewise else {'': {**dict.fromkeys(self.args), **self.kept['args']}}
        for title,uses in made.items(): self._refuse_other(title, uses)

    @property
    def id(self):
        "A short name of the run that no other has"
        return self.kept['id']

    def _read(self):
        if not self.file.is_file():
            raise FileNotFoundError(f'{self.out} holds no run (no run.json) to resume. Start it without --resume.')
        try: return {'stages': {}, 'changed': [], **json.loads(self.file.read_text(encoding='utf-8'))}
        except (TypeError, ValueError) as e:
            raise ValueError(f'{self.file} is not JSON ({e}). Start another run without --resume.') from e

    def _refuse_other(self, title, uses):
        other = {k: (was, self.args.get(k)) for k,was in uses.items() if was != self.args.get(k)}
        if not other: return
        listed = ', '.join(f'{k} was {a!r} and is {b!r}' for k,(a,b) in other.items())
        what = f'The stage "{title}" of {self.out}' if title else self.out
        raise ValueError(f'{what} was started with other options: {listed}. Resume with the same ones.')

    def open(self):
        "Make the folder and write `run.json`; options that changed since the last time are recorded"
        was = self.kept['args']
        changed = {k: [was.get(k), self.args.get(k)] for k in was | self.args if was.get(k) != self.args.get(k)}
        if changed: self.kept['changed'].append({'at': time.strftime('%Y-%m-%d %H:%M:%S'), **changed})
        self.kept['args'] = self.args
        self._write()
        return self

    def begin(self,
        title:str, # Of the stage
        names,     # Of the options that it is made with
    ):
        "Record that a stage has begun, and with what: from now on this may not differ at a resume"
        self.kept['stages'][title] = {k: self.args.get(k) for k in names}
        self._write()

    def _write(self):
        with in_one_move(self.file) as part: part.write_text(json.dumps(self.kept, indent=1) + '\n', encoding='utf-8')

    def free(self):
        "Where no epoch was finished there is nothing to resume: the folder holds no run any more"
        if any(self.out.glob('*.state')) or (self.out/'results.csv').exists(): return
        self.file.unlink(missing_ok=True)


def run_folder(
    name:str,          # Of the recipe: a new folder is `runs/<name>-<date>-<time>`
    out=None,          # The folder to use instead
    args:dict=None,    # What the run is made with; kept in `run.json`, and compared when it is resumed
    resume:bool=False, # Go on with the run in `out`, or with the newest of this name
)->tuple: # The folder, and a short name of the run that no other has
    "The folder of a run that is made in one go: it is resumed with the same options or left alone"
    folder = RunFolder(name, out, args, resume).open()
    return folder.out,folder.id


@contextmanager
def run_or_nothing(
    out, # Folder of a run that cannot be resumed
):
    "Where this block is left by an error, or by Ctrl-C, the folder holds no run any more: another one can have it"
    try: yield
    except BaseException:
        (Path(out)/'run.json').unlink(missing_ok=True)
        raise
