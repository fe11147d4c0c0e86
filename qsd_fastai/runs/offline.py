"W&B runs that were kept offline, read back without an account, by the reader that W&B itself brings (`wandb leet`)"
import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from .keys import key_of
from .wandb_run import wandb

__all__ = ['OfflineRun', 'offline_runs', 'read_offline', 'runs_frame']


@dataclass
class OfflineRun:
    "What is kept of a run; of one that was gone on with, of all its folders"
    folders:list                                   # Oldest first
    id:str
    header:dict = field(default_factory=dict)      # Of W&B: display_name, run_group, job_type, project, ...
    config:dict = field(default_factory=dict)
    summary:dict = field(default_factory=dict)
    history:list = field(default_factory=list)     # Rows that were logged
    artifacts:dict = field(default_factory=dict)   # By name, as W&B records them
    steps:dict = field(default_factory=dict)       # Which key the curves of others are drawn over
    exit:int = None                                # 0: finished, else failed; None: running, or killed

    @property
    def state(self): return 'unfinished' if self.exit is None else 'failed' if self.exit else 'finished'

    def rows(self,
        key:str, # Of the history
    )->list:
        "Rows that have it"
        return [row for row in self.history if key in row]


def records(
    file, # A `.wandb` file
)->list: # Of dicts
    "What W&B has written to it, in order; `ValueError` where it cannot be read"
    if wandb is None: raise ValueError('W&B is not installed, and its reader is needed. pip install wandb.')
    # `wandb leet inspect` itself would say to W&B that it was asked
    asked = wandb.util.get_core_path(),'leet','inspect','--json','--no-observability','--run-file',str(file)
    done = subprocess.run(asked, capture_output=True)
    if done.returncode:
        said = done.stderr.decode('utf-8', 'replace').strip().split('\n')[-1]
        raise ValueError(f'{file} cannot be read by W&B {wandb.__version__} ({said}). Take 0.31 or newer, and a whole '
                         'file.')
    return [json.loads(line) for line in done.stdout.splitlines()]


def _nested(flat):
    "Of W&B's keys with dots those of pictures and tables, whose parts begin with an underscore, as dicts again"
    found = {}
    for k,v in flat.items():
        key,dot,part = k.rpartition('.')
        if dot and (part.startswith('_') or f'{key}._type' in flat): found.setdefault(key, {})[part] = v
        else: found[k] = v
    return found


def read_offline(
    folders, # `offline-run-...` of one run, oldest first; or one such folder
)->OfflineRun:
    "A run as its files have it"
    folders = [Path(folders)] if isinstance(folders, (str, Path)) else [Path(o) for o in folders]
    run = OfflineRun(folders, '')
    for folder in folders:
        run.exit = None
        for file in folder.glob('run-*.wandb'):
            for record in records(file): _take(run, record)
    return run


def _take(run, record):
    what = record.get(kind := record['type'])
    if kind == 'run':
        run.id,run.header = what['run_id'],{k: v for k,v in what.items() if k != 'config'}
        run.config.update(what.get('config', {}).get('update', {}))
    elif kind == 'config': run.config.update(what.get('update', {}))
    elif kind == 'summary': run.summary.update(_nested(what.get('update', {})))
    elif kind == 'history': run.history.append(_nested(what['item']))
    elif kind == 'artifact': run.artifacts[what['name']] = what
    elif kind == 'metric' and 'glob_name' in what: run.steps[what['glob_name']] = what.get('step_metric')
    elif kind == 'exit': run.exit = what.get('exit_code', 0)


def offline_runs(
    folder, # Of a recipe, of a comparison, or one with many of them
)->list: # Of `OfflineRun`, oldest first
    "All runs that were kept offline in a folder and below it; `FileNotFoundError` where there are none"
    by_id = {}
    for file in sorted(Path(folder).rglob('offline-run-*/run-*.wandb'), key=lambda o: o.parent.name):
        by_id.setdefault((file.parents[1], file.stem), []).append(file.parent)
    if not by_id:
        raise FileNotFoundError(f'There is no offline run of W&B in {folder}. Name the folder of one; a run of '
                                '--no-wandb has its figures in results.csv.')
    return [read_offline(folders) for folders in by_id.values()]


def runs_frame(
    runs:list, # Of `OfflineRun`
)->pd.DataFrame:
    "A row a run: what it is, and its figures as the model came out, as their keys spell them: `mAP_worst`"
    rows = []
    for run in runs:
        what = {k: run.header.get(of, '') for k,of in (('group', 'run_group'), ('job', 'job_type'))}
        own = {k: run.config.get(k) for k in ('arm', 'seed')}
        final = {k.removeprefix('final/'): v for k,v in run.summary.items() if k.startswith('final/')}
        # runs from before keys had no blanks; where there are both, the later one counts
        figures = {key_of(k): final[k] for k in sorted(final, key=lambda k: k == key_of(k))}
        rows.append({'run': run.header.get('display_name', run.id), **what, **own, 'state': run.state,
                     'epochs': run.summary.get('epoch'), **figures})
    return pd.DataFrame(rows)
