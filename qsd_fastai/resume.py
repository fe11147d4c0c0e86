"Going on with a run that was stopped, as if it had not been."
import json
import os
import random
import secrets
import sys
import time
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelEpochException
from fastai.torch_core import get_model, rank_distrib

__all__ = ['SaveState', 'random_state', 'run_folder', 'save_whole', 'set_random_state', 'stopped']


def random_state()->dict:
    "The state of every random number generator that training draws from, in types that `torch.load(weights_only=True)` reads"
    kind,keys,pos,has_gauss,cached = np.random.get_state()
    numpy = kind, torch.from_numpy(keys.astype(np.int64)), pos, has_gauss, cached
    return {'python': random.getstate(), 'numpy': numpy, 'torch': torch.get_rng_state(),
            'cuda': torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []}


def set_random_state(
    state:dict, # Of `random_state`
):
    "Put every generator back to where it was"
    random.setstate(_tuples(state['python']))
    kind,keys,*rest = state['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    if state['cuda'] and len(state['cuda']) == torch.cuda.device_count(): torch.cuda.set_rng_state_all(state['cuda'])


def stopped(
    known=None, # An exception that was being handled before
)->bool:
    "Is an exception, Ctrl-C say, on its way out? fastai runs the `after_` events of a fit all the same"
    return sys.exc_info()[1] not in (None, known)


def _tuples(o): return tuple(map(_tuples, o)) if isinstance(o, (list, tuple)) else o


class SaveState(Callback):
    """Keeps all that a run needs to go on, written whole at the end of each epoch: model, optimizer, scaler, generators, the table so far.

    With `resume=True` and the file there, `fit` and its kin, called with the same arguments, skip the epochs that are done (their rows
    are printed again as they were) and go on exactly as the uninterrupted run would have."""
    order = 70  # after everything else that happens at the end of an epoch

    def __init__(self,
        file,              # Where the state is kept, `runs/baseline.state`, say
        resume:bool=False, # Go on from the file if it is there? Else it is overwritten
    ): self.file,self.resume = Path(file),resume

    def before_fit(self):
        self.done,self.state,self.known = 0,None,sys.exc_info()[1]
        # validate, get_preds (which hold the lock) and lr_find also come through here
        self.run = not self.learn.lock.locked() and not hasattr(self.learn, 'lr_finder')
        if not (self.run and self.resume and self.file.is_file()): return
        self.state = torch.load(self.file, weights_only=True, map_location='cpu')
        if self.state['n_epoch'] != self.n_epoch:
            raise ValueError(f'{self.file} is of a run of {self.state["n_epoch"]} epochs, this one has {self.n_epoch}. '
                             'Resume with the same number, or start anew without resume.')
        try: get_model(self.learn.model).load_state_dict(self.state['model'])
        except RuntimeError as e: raise ValueError(f'{self.file} is of another model. Resume with the same arguments, or start anew.') from e
        self.learn.opt.load_state_dict(self.state['opt'])
        if self.state['scaler'] and hasattr(self.learn, 'scaler'): self.learn.scaler.load_state_dict(self.state['scaler'])
        self.done = self.state['done']
        print(f'Resuming after epoch {self.done} of {self.n_epoch}, from {self.file}')

    def before_epoch(self):
        if self.epoch < self.done:
            self.recorder.log += self.state['values'][self.epoch]
            raise CancelEpochException()
        if self.state is not None:
            set_random_state(self.state['random'])
            self.dls.train.rng.setstate(_tuples(self.state['loader']))
            self.recorder.lrs,self.recorder.losses = list(self.state['lrs']),list(self.state['losses'])
            self.state = None

    def after_epoch(self):
        if self.epoch < self.done or rank_distrib() or stopped(self.known): return
        scaler = getattr(self.learn, 'scaler', None)
        state = {'model': get_model(self.learn.model).state_dict(), 'opt': self.learn.opt.state_dict(), 'done': self.epoch + 1,
                 'n_epoch': self.n_epoch, 'values': [[_plain(v) for v in row] for row in self.recorder.values],
                 'lrs': [float(v) for v in self.recorder.lrs], 'losses': torch.tensor([float(v) for v in self.recorder.losses]).tolist(),
                 'random': random_state(), 'loader': self.dls.train.rng.getstate(), 'scaler': scaler.state_dict() if scaler else {}}
        save_whole(state, self.file)


def _plain(v): return v if v is None or isinstance(v, (int, str)) else float(v)


def save_whole(
    obj,  # For `torch.save`
    file, # Its folder is made
):
    "`torch.save` that leaves either the old file or the new one, whenever it is stopped"
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    partial = file.with_name(file.name + '.partial')
    torch.save(obj, partial)
    os.replace(partial, file)


def run_folder(
    name:str,    # Of the recipe: a new folder is `runs/<name>-<date>-<time>`
    out=None,    # The folder to use instead
    args:dict=None, # What the run is made with; kept in `run.json`, and compared when it is resumed
    resume:bool=False, # Go on with the run in `out`, or with the newest of this name
): # the folder, and a short name of the run that no other has
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
        file.write_text(json.dumps({'id': secrets.token_hex(4), 'args': args or {}}, indent=1))
    elif not file.is_file(): raise FileNotFoundError(f'{out} holds no run (no run.json) to resume. Start it without --resume.')
    kept = json.loads(file.read_text())
    other = {k: (kept['args'].get(k), v) for k,v in (args or {}).items() if kept['args'].get(k) != v}
    if other:
        listed = ', '.join(f'{k} was {a!r} and is {b!r}' for k,(a,b) in other.items())
        raise ValueError(f'{out} was started with other arguments: {listed}. Resume with the same ones.')
    return out, kept['id']
