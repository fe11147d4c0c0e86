"Going on with a fit that was stopped, as if it had not been"
import random
from contextlib import contextmanager
from copy import deepcopy
from math import isfinite
from pathlib import Path

import numpy as np
import torch
from fastai.callback.core import Callback, CancelEpochException, CancelFitException
from fastai.torch_core import get_model, rank_distrib
from fastcore.foundation import L
from fastcore.xtras import join_path_file
from torch.utils._pytree import tree_map_only

from ..data.within import own_loader
from ..distributed import gather_objects, processes
from ..files import save_whole
from ..fits import is_fit
from ..models.heads.partial_fc import whole_state_dict
from ..shown import shown
from ..tensors import plain_tensor
from .found import highest_rates
from .kept import read_state, same_table, table_state
from .track_run import TrackRun

__all__ = ['Diverged', 'SaveState', 'random_state', 'set_random_state']


class Diverged(ValueError):
    "A training whose weights or loss are not finite any more"


def random_state()->dict:
    "State of every generator that training draws from, in types that `torch.load(weights_only=True)` reads"
    kind,keys,*rest = np.random.get_state()
    numpy = kind, torch.from_numpy(keys.astype(np.int64)), *rest
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {'python': random.getstate(), 'numpy': numpy, 'torch': torch.get_rng_state(), 'cuda': cuda}


def set_random_state(
    state:dict, # Of `random_state`
):
    "Put every generator back to where it was"
    random.setstate(_tuples(state['python']))
    kind,keys,*rest = state['numpy']
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state['torch'])
    cuda = state['cuda']
    if cuda and len(cuda) == torch.cuda.device_count(): torch.cuda.set_rng_state_all(cuda)


def _with_state(learn): return [cb for cb in learn.cbs if hasattr(type(cb), 'load_state_dict')]


def _method(learn):
    "What changes how it is trained, by name: QSD, peers, labels that are renewed"
    found = (cb for cb in learn.cbs if hasattr(type(cb), 'load_state_dict') or getattr(cb, 'replaces_loss', False))
    return sorted(type(cb).__name__ for cb in found if not isinstance(cb, TrackRun))


def _tuples(o): return tuple(map(_tuples, o)) if isinstance(o, (list, tuple)) else o


class SaveState(Callback):
    """Keeps all that a run needs to go on, written whole at the end of each epoch

    That is the model, the optimizer, the scaler, the generators and the table so far. With `resume=True` and the file
    there, `fit` and its kin, called with the same arguments, skip the epochs that are done (their rows are printed
    again as they were) and go on exactly as the uninterrupted run would have. A second fit with the same object, as in
    `fine_tune`, is the second part of the same run. What other callbacks count for themselves starts anew, unless they
    count rows of the table: `SaveModelCallback` and its kin do. Give it to every process of a launch: the first one
    writes, with the generators of all and with all centers of a `PartialFC`. Another number of processes may go on.

    A table with other pictures or labels is refused. A training that diverges ends in `Diverged` before its epoch is
    judged and kept: what is kept is finite, and a resume may have another learning rate."""
    order = TrackRun.order + 5 # After everything else that happens at the end of an epoch

    def __init__(self,
        file,              # Where the state is kept, `runs/baseline.state`, say
        resume:bool=False, # Go on from the file if it is there? Else it is removed
    ):
        self.file,self.resume = Path(file),resume
        self.fits = 0      # Begun
        self.earlier = []  # `(epochs, rows)` of those before this one
        self.kept = None   # What the file held
        self.exact = False # Does a fit that goes on do what was stopped as it was done?

    __repr__ = shown

    def before_fit(self):
        self.active = is_fit(self.learn)
        if not self.active: return
        if self.fits == 0:
            if self.resume and self.file.is_file(): self.kept = read_state(self.file)
            # else a run that is stopped early would leave another one's state
            elif not rank_distrib(): self.file.unlink(missing_ok=True)
        self.fits += 1
        self.state,self.rows,self.table,self.exact = None,[],table_state(self.dls),False
        self.given = [h['lr'] for h in self.opt.hypers]
        if self.kept is None or self.kept['fit'] < self.fits: return
        over = self.kept['fit'] > self.fits
        if over: n_epoch,self.rows = self.kept['earlier'][self.fits - 1]
        else: n_epoch,self.rows = self.kept['n_epoch'],self.kept['values']
        if n_epoch != self.n_epoch:
            raise ValueError(f'{self.file} is of a run of {n_epoch} epochs, this one has {self.n_epoch}. '
                             'Resume with the same number, or start anew without resume.')
        if not over: self._load()
        done = len(self.rows)
        if done < self.n_epoch: print(f'Resuming after epoch {done} of {self.n_epoch}, from {self.file}')
        else: print(f'All {self.n_epoch} epochs were done, according to {self.file}')
        # while rows are repeated, a SaveModelCallback learns again which epoch was best, but the weights are not that
        # epoch's: until `_save_again` nothing is saved
        self.learn.save = lambda file, **kwargs: join_path_file(file, self.path/self.model_dir, ext='.pth')

    def _save_again(self): vars(self.learn).pop('save', None)

    def _load(self):
        state,batches = self.kept,len(self.dls.train)
        many,world = state['processes'] or 1,processes()[1]
        if many != world: print(f'{self.file} is of {many} processes, and {world} go on. Batches are dealt otherwise.')
        before,now = state['dealt_to'] or 1,self._dealt_to
        # dealt to another number of processes, a step has more pictures, or less, unless their batches are others, too
        same = state['n_iter'] == batches
        if before != now: same = same or abs(state['n_iter']*before - batches*now) <= max(before, now)
        if not same:
            was,there = (f' on {n} processes' if max(before, now) > 1 else '' for n in (before, now))
            raise ValueError(f'{self.file} is of a run of {state["n_iter"]} batches an epoch{was}, this one has '
                             f'{batches}{there}. Resume with the same table and batch size, or start anew without '
                             'resume.')
        was,there = (' and '.join(o) or 'none' for o in (state['method'].get('callbacks', ()), _method(self.learn)))
        if state['method'] and was != there and len(self.rows) < self.n_epoch:
            raise ValueError(f'{self.file} is of a run with other callbacks: {was}, and this one has {there}. Resume '
                             'with the same ones, or start anew without resume.')
        now = random_state()
        with self._refusing():
            same_table(state['table'], self.table, self.file)
            set_random_state(self._generators(state))
            if state['loader']: deepcopy(own_loader(self.dls).rng).setstate(_tuples(state['loader']))
            get_model(self.learn.model).load_state_dict(state['model'])
            if isinstance(self.loss_func, torch.nn.Module): self.loss_func.load_state_dict(state['loss'])
            self._load_opt(state['opt'])
            scaler = getattr(self.learn, 'scaler', None)
            if state['scaler'] and scaler: scaler.load_state_dict(state['scaler'])
        set_random_state(now)
        self.state = state

    @contextmanager
    def _refusing(self):
        "What comes from the file may be of another model, or damaged: that is said of the file"
        try: yield
        except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as e:
            if str(e).startswith(str(self.file)): raise
            raise ValueError(f'{self.file} is of another model. Resume with the same arguments, or start anew without '
                             'resume.') from e

    def _load_opt(self, opt):
        device = next(self.learn.model.parameters()).device
        opt = tree_map_only(torch.Tensor, lambda t: t.to(device), opt)
        if 'hypers' in opt: opt['hypers'] = L(opt['hypers'])
        self.learn.opt.load_state_dict(opt)

    def before_epoch(self):
        if not self.active: return
        if self.epoch < len(self.rows):
            terms = getattr(self.learn, 'loss_terms', None)
            if terms and self.state: terms.epochs = list(self.state['terms'][:self.epoch + 1])
            self.recorder.log += self.rows[self.epoch]
            raise CancelEpochException()
        self._save_again()
        # that fit ended before its last epoch, by early stopping say
        if self.kept is not None and self.kept['fit'] > self.fits: raise CancelFitException()
        with self._refusing(): self._restore()

    def _restore(self):
        "Put back what repeated rows have not: rates, and what the recorder, the terms and the generators held"
        if self.state is None: return
        state,self.state = self.state,None
        # the weights are where they belong
        self.kept = {k: self.kept[k] for k in ('fit', 'earlier', 'n_epoch', 'values')}
        self._load_opt(state['opt'])  # callbacks may have changed the rates again
        other = state['given'] and state['given'] != self.given
        if other: self.opt.set_hyper('lr', self.given)
        self.exact = not other and (state['processes'] or 1) == processes()[1]
        recorder = self.recorder
        for name in ('lrs', 'losses', 'iters'): setattr(recorder, name, list(state[name]))
        recorder.smooth_loss.count,recorder.smooth_loss.val = state['smooth_loss']
        self.learn.train_iter = state['train_iter']
        terms,scheduler,graph = (getattr(self.learn, o, None) for o in ('loss_terms', 'param_scheduler', 'show_graph'))
        if terms: terms.epochs = list(state['terms'])
        if graph: graph.nb_batches = list(state['iters'])
        if scheduler: scheduler.hps = recorder.hps = {k: list(v) for k,v in state['hps'].items()}
        for cb in _with_state(self.learn):
            if cb.name in state['callbacks']: cb.load_state_dict(state['callbacks'][cb.name])
        set_random_state(self._generators(state))
        if state['loader']: own_loader(self.dls).rng.setstate(_tuples(state['loader']))

    def _generators(self, state):
        "Those that this process had; of one that is new, its own"
        rank = processes()[0]
        known = [state['random'], *state['others']]
        return known[rank] if rank < len(known) else random_state()

    def after_train(self):
        if not self.active or not self.recorder.smooth_loss.count: return
        model,loss = get_model(self.learn.model),float(self.recorder.smooth_loss.value)
        weights = all(bool(o.isfinite().all()) for o in model.parameters())
        weights = weights and not any(bool(o.isnan().any()) for o in model.buffers())
        # a scaler leaves out what overflows
        if weights and (isfinite(loss) or getattr(self.learn, 'scaler', None)): return
        done = f'The state of epoch {self.epoch} is kept in {self.file}' if self.epoch else 'No epoch was finished'
        raise Diverged(f'The {"loss is" if weights else "weights are"} not finite in epoch {self.epoch + 1} of '
                       f'{self.n_epoch}, at learning rates up to {max(highest_rates(self.learn)):g}: the training has '
                       f'diverged. {done}. Go on with a lower rate, a tenth of it say.')

    def after_epoch(self):
        if not self.active or self.epoch < len(self.rows): return
        # by every process: each has some of the centers of a `PartialFC`
        weights,(_, *others) = whole_state_dict(get_model(self.learn.model)),gather_objects(random_state())
        if rank_distrib(): return
        loss = self.loss_func.state_dict() if isinstance(self.loss_func, torch.nn.Module) else {}
        save_whole({**_plain(self._now()), 'model': weights, 'loss': loss, 'others': others}, self.file)

    @property
    def _dealt_to(self):
        "Processes that share the batches of an epoch out; 1 where each has all of them"
        return processes()[1] if own_loader(self.dls) is not self.dls.train else 1

    def _now(self):
        "The state but for weights"
        learn,recorder,smooth = self.learn,self.recorder,self.recorder.smooth_loss
        scaler,terms,scheduler = (getattr(learn, o, None) for o in ('scaler', 'loss_terms', 'param_scheduler'))
        rng = getattr(own_loader(self.dls), 'rng', None)
        return {
            'fit': self.fits, 'earlier': self.earlier,
            'n_epoch': self.n_epoch, 'n_iter': len(self.dls.train), 'train_iter': learn.train_iter,
            'processes': processes()[1], 'dealt_to': self._dealt_to,
            'method': {'callbacks': _method(learn)},
            'callbacks': {cb.name: cb.state_dict() for cb in _with_state(learn)},
            'opt': learn.opt.state_dict(), 'given': self.given, 'table': self.table,
            'scaler': scaler.state_dict() if scaler else {},
            'hps': scheduler.hps if scheduler else {},
            'values': recorder.values,
            'lrs': recorder.lrs,
            'losses': torch.tensor([float(v) for v in recorder.losses]),
            'iters': recorder.iters,
            'terms': terms.epochs if terms else [],
            'smooth_loss': (smooth.count, torch.tensor(float(smooth.val))),
            'random': random_state(),
            'loader': rng.getstate() if rng else ()}

    def after_cancel_fit(self): self._save_again()

    def after_fit(self):
        if not self.active: return
        self._save_again()
        with self._refusing(): self._restore()  # nothing was left to do: the next fit goes on from there
        self.earlier = [*self.earlier, _plain((self.n_epoch, self.recorder.values))]


def _plain(o):
    "In types that `torch.load(weights_only=True)` reads"
    if isinstance(o, dict): return {k: _plain(v) for k,v in o.items()}
    if isinstance(o, (list, tuple, L)): return (tuple if isinstance(o, tuple) else list)(map(_plain, o))
    if isinstance(o, torch.Tensor): return plain_tensor(o)
    return o.item() if isinstance(o, np.generic) else o
