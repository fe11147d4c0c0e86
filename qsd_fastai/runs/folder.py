"The folder of a run: of one process at a time, never written over, resumed with what its stages were made with"
import json
import re
import secrets
import shutil
import time
from contextlib import contextmanager
from pathlib import Path

from ..distributed import from_first, processes
from ..files import save_text
from .lock import hold, release
from .made import changes, package_state, versions

__all__ = ['FREE', 'JUDGED', 'RunFolder', 'model_artifact', 'opened', 'read_run', 'run_folder', 'run_or_nothing',
           'stage_file', 'stage_run']

# Options that a finished stage does not depend on: where its data lie, how a run is kept, loaded and judged, and how
# many seeds there are. Judging is done again at a resume, and the content of the data is looked at
JUDGED = 'degraded','far','flip','sets'
FREE = (*JUDGED, 'arms', 'data', 'group', 'keep', 'no_wandb', 'seeds', 'shuffle_quality', 'workers')
PARTS = {'id': str, 'args': dict, 'stages': dict, 'changed': list, 'versions': dict, 'package': dict, 'table': dict,
         'diverged': str, 'results': str, 'curves': dict}
opened = [] # Folders of runs that this process is at, the outermost first


class RunFolder:
    """A folder and its `run.json`: the id of the run, its options, which of them each stage was made with, of what
    table and with which versions, and what changed at a resume.

    Making one looks and refuses, and writes nothing; `open` does. A folder that holds a run is resumed or left
    alone. Of several processes the first one looks, and writes; all know what it has found."""
    def __init__(self,
        name:str,            # Of the recipe: a new folder is `runs/<name>-<date>-<time>`
        out=None,            # The folder to use instead
        args:dict=None,      # What the run is made with
        resume:bool=False,   # Go on with the run in `out`, or the newest of this name and `args`; None: that cannot be
        stagewise:bool=False,# May options differ at a resume that no stage so far was made with? Else those of `FREE`
    ):
        self.args = json.loads(json.dumps(args or {}, default=str)) # As they are written
        self.out = Path(from_first(lambda: self._place(name, resume)) if out is None else out)
        self.file,self.resumes,self.stagewise = self.out/'run.json',resume,stagewise
        self.anew,self.before,self.writes = [],set(),not processes()[0]
        self._told(self._look)

    def _place(self, name, resume):
        if not resume: return time.strftime(f'runs/{name}-%Y%m%d-%H%M%S')
        found,at = sorted(Path('runs').glob(f'{name}-*/run.json')),Path('runs').absolute()
        if not found: raise FileNotFoundError(f'There is no run to resume in {at}. Start one without --resume.')
        alike = (o for o in reversed(found) if self._is_alike(o))
        return next(alike, found[-1]).parent

    def _is_alike(self, file):
        "Was this run made with the same options, as far as these matter? The command is given once more"
        try: was = read_run(file)['args']
        except (OSError, ValueError): return False
        return not any(was.get(k) != self.args.get(k) for k in was | self.args if k not in FREE)

    def _told(self, look):
        "What the first process finds, kept by all"
        def found():
            look()
            return self.kept,self.anew
        self.kept,self.anew = from_first(found)

    def _look(self):
        "What is kept, or will be; refuses what cannot be"
        if self.resumes: self.kept = read_run(self.file)
        elif self.file.exists():
            go_on = '' if self.resumes is None else 'Go on with it by --resume, or name'
            raise FileExistsError(f'{self.out} already holds a run. {go_on or "Name"} another --out.')
        else:
            self.kept = {**{k: kind() for k,kind in PARTS.items()}, 'id': secrets.token_hex(4), 'args': self.args}
        free = set(FREE) - (set() if self.stagewise else {*JUDGED}) # A run in one go judges no part of itself again
        whole = {k: v for k,v in {**dict.fromkeys(self.args), **self.kept['args']}.items() if k not in free}
        made = self.kept['stages'] if self.stagewise else {'': whole}
        other = {title: o for title,uses in made.items() if (o := self._other(uses))}
        for title,differs in other.items():
            if set(differs) != self._rate(): self._refuse(title, differs)
        # a baseline goes on from before it diverged; fine-tunings are compared, and are made anew, all at one rate
        self.anew = list(other) if self._rate() == {'tune_lr'} else []

    @property
    def id(self):
        "A short name of the run that no other has"
        return self.kept['id']

    @property
    def begun(self):
        "Is there something to go on with?"
        return any(self.out.rglob('*.state')) or any(self.out.rglob('results.csv'))

    def _other(self, uses): return {k: (was, self.args.get(k)) for k,was in uses.items() if was != self.args.get(k)}

    def _rate(self):
        "The option that may differ where a stage has diverged"
        uses = self.kept['stages'].get(self.kept['diverged'], ())
        return {next(o for o in ('tune_lr', 'lr', None) if o in uses or o is None)}

    def _refuse(self, title, differs):
        listed = ', '.join(f'{k} was {a!r} and is {b!r}' for k,(a,b) in differs.items())
        what = f'The stage "{title}" of {self.out}' if title else self.out
        raise ValueError(f'{what} was started with other options: {listed}. Resume with the same ones.')

    def of_table(self,
        content:dict, # Of `table_content`
    ):
        "Note what the run is trained on; `ValueError` where a run that is resumed was begun with another table"
        if self.kept['table'] and (differs := changes(self.kept['table'], content)):
            raise ValueError(f'The table of {self.out} is another one than when the run was started: {differs}. '
                             'Put it back, or start another run without --resume.')
        self.kept['table'] = content

    def open(self):
        "Take the folder, make it, and write `run.json`; what changed since the last time is said and recorded"
        opened.append(self)
        try: self._told(self._take)
        except BaseException:
            self.close()
            raise
        return self

    def _take(self):
        self.before = {o.name for o in self.out.iterdir()} if self.out.is_dir() else None
        self.out.mkdir(parents=True, exist_ok=True)
        hold(self.out)
        table = self.kept['table']
        self._look()  # again: another process may have been here
        if table: self.of_table(table)
        was,now = self.kept['args'],versions()
        changed = {k: [was.get(k), self.args.get(k)] for k in was | self.args if was.get(k) != self.args.get(k)}
        if self.kept['versions'] not in ({}, now):
            changed['versions'] = [self.kept['versions'], now]
            print(f'Note: this run was begun with other versions: {changes(self.kept["versions"], now)}.')
        if self.kept['package'] not in ({}, package_state()):
            changed['package'] = [self.kept['package'], package_state()]
        if changed: self.kept['changed'].append({'at': time.strftime('%Y-%m-%d %H:%M:%S'), **changed})
        for title in self.anew:
            print(f'"{title}" is made anew, for "{self.kept["diverged"]}" diverged at its rate.')
            (self.out/stage_file(title, '.state')).unlink(missing_ok=True)
            del self.kept['stages'][title]
        self.kept |= {'args': self.args, 'versions': now, 'package': package_state(), 'diverged': ''}
        self._write()

    def begin(self,
        title:str, # Of the stage
        names,     # Of the options that it is made with
    ):
        "Record that a stage has begun, and with what: from now on this may not differ at a resume"
        self.kept['stages'][title] = {k: self.args.get(k) for k in names}
        self._write()

    def note(self,
        **parts, # Of `run.json`: `diverged`, `results`, `curves`
    ):
        "Record what became of the run"
        self.kept |= parts
        self._write()

    def _write(self):
        if self.writes: save_text(json.dumps(self.kept, indent=1) + '\n', self.file)

    def stopped(self):
        "What to say when it is stopped; `free` and `close` it"
        self.free()
        self.close()
        if not self.file.exists():
            return f'Stopped before an epoch was finished: there is nothing to go on with in {self.out}.'
        return f'Stopped. All finished epochs are kept in {self.out}: give the same command with --resume to go on.'

    def free(self):
        "Where no epoch was finished there is nothing to resume: what this run has put there goes"
        if not self.writes or self.begun or not self.file.exists(): return
        self.file.unlink()
        for o in self.out.iterdir():
            if o.name in (self.before or ()): continue
            if o.is_dir() and not o.is_symlink(): shutil.rmtree(o, ignore_errors=True)
            else: o.unlink(missing_ok=True)
        release(self.out)
        if self.before is None: self.out.rmdir()

    def close(self):
        "Leave the folder to others"
        if self.writes: release(self.out)
        if self in opened: opened.remove(self)


def read_run(
    file, # `run.json`
)->dict:
    "What is kept of a run; `FileNotFoundError` or `ValueError` naming the file where it is not"
    file,remedy = Path(file),'Start another run, in another folder'
    if not file.is_file():
        raise FileNotFoundError(f'{file.parent} holds no run (no run.json) to resume. Start it without --resume.')
    try: found = json.loads(file.read_text(encoding='utf-8'))
    except (RecursionError, ValueError) as e: raise ValueError(f'{file} is not JSON ({e}). {remedy}.') from e
    if not isinstance(found, dict): raise ValueError(f'{file} is not the record of a run. {remedy}.')
    kept = {**{k: kind() for k,kind in PARTS.items() if k not in ('id', 'args')}, **found}
    wrong = [k for k,kind in PARTS.items() if not isinstance(kept.get(k), kind)]
    if not wrong and not re.fullmatch(r'\w+', kept['id']): wrong = ['id']
    if not wrong and not all(isinstance(o, dict) for o in kept['stages'].values()): wrong = ['stages']
    if wrong: raise ValueError(f'{file} is not the record of a run: {wrong[0]} is {kept.get(wrong[0])!r}. {remedy}.')
    return kept


def stage_file(
    title:str, # Of a stage, as in tables
    ending='', # Of the file
)->str:
    "What a file of a stage is called: letters of ASCII, digits, `_`, `-` and `.`, which W&B takes in names as well"
    return re.sub(r'[^A-Za-z0-9_.-]', '_', re.sub("[,']", '', title)) + ending


def stage_run(
    id:str,    # Of the run of a recipe
    title:str, # Of a stage
)->str:
    "The id of its W&B run, with which the names of its artifacts begin: `-model`, `-table`, `-evaluation`"
    return f'{id}-{stage_file(title)}'


def model_artifact(
    learner, # The file of a stage, as a recipe leaves it
)->str: # Or `None` where the folder is of no run, or of one that is not tracked
    "What W&B calls the model of a stage"
    try: kept = read_run(Path(learner).with_name('run.json'))
    except (OSError, ValueError): return None
    found = [o for o in kept['stages'] if stage_file(o) == Path(learner).stem]
    return f'{stage_run(kept["id"], found[0])}-model' if found and not kept['args'].get('no_wandb') else None


def run_folder(
    name:str,          # Of the recipe: a new folder is `runs/<name>-<date>-<time>`
    out=None,          # The folder to use instead
    args:dict=None,    # What the run is made with; kept in `run.json`, and compared when it is resumed
    resume:bool=False, # Go on with the run in `out`, or with the newest of this name; None: that cannot be
    content:dict=None, # Of the table, of `table_content`; not looked at when not given
)->tuple: # The folder, and a short name of the run that no other has
    "The folder of a run that is made in one go: it is resumed with the same options or left alone"
    folder = RunFolder(name, out, args, resume)
    if content: folder.of_table(content)
    folder.open()
    return folder.out,folder.id


@contextmanager
def run_or_nothing(
    out, # Folder of a run that cannot be resumed
):
    "Where this block is left by an error, or by Ctrl-C, the folder holds no run any more: another one can have it"
    try: yield
    except BaseException:
        for folder in [o for o in opened if o.out == Path(out)]:
            folder.free()
            folder.close()
        raise
