"""Margins over very many identities (Partial FC, An et al., CVPR 2022).

Each step is over some of the classes, and each process holds its share of them."""
import warnings
from collections.abc import Callable
from contextlib import contextmanager

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from ...distributed import gather_rows, processes, summed
from ...tensors import full_precision
from .cosine import mean_directions, unit
from .margins import ArcFace, SubCenterArcFace
from .sharded_softmax import sharded_cross_entropy

__all__ = ['PartialFC', 'whole_centers', 'whole_state_dict']

# rows that are drawn from one seed: a share of the classes starts with the same numbers on however many processes
BLOCK = 4096


class PartialFC(nn.Module):
    """A head whose step is over the identities of the batch and a sample of others; `PartialUpdate` moves its centers.

    Centers are buffers, not parameters: no optimizer keeps state for them, and gradients exist for sampled rows only.
    The sample is drawn from the seed and the number of the step over all identities, so it is the same on one process
    and on many. With several processes each holds the rows `n//W*r + min(r, n%W)` and on; `full_state` puts them
    together again.

    Each step waits for the device, where other heads do not: the identities of the batch are counted and brought to
    the CPU, which draws; pictures with a center here are counted; and centers move only where gradients are finite. So
    `learn.to_compiled(fullgraph=True)` does not take it."""
    def __init__(self,
        nf:int,                  # Size of the embedding
        n_ids:int,               # Training identities
        margin:Callable=ArcFace, # A `MarginHead`, or a function of `(nf, n_ids)` that makes one
        rate:float=.1,           # Share of identities in a step, above 0 and up to 1; those of the batch are always in
        seed:int=0,              # Of the first centers and of every sample
    ):
        super().__init__()
        if not 0 < rate <= 1: raise ValueError(f'rate is {rate}. Give above 0 and up to 1, which takes all identities.')
        self.margin = margin(nf, 0)
        if isinstance(self.margin, SubCenterArcFace):
            raise ValueError('margin is SubCenterArcFace. Give another: PartialFC has one center an identity.')
        self.margin.weight,self.margin.gathered = None, True # of the margin head, the margin alone
        self.nf,self.n_ids,self.rate,self.seed = nf, n_ids, rate, seed
        self.rank,self.world = processes()
        first,last = self.share()
        self.register_buffer('weight', self._start(first, last))
        self.register_buffer('momentum', torch.zeros_like(self.weight))
        self.register_buffer('step', torch.zeros((), dtype=torch.int64))
        self.rows = self.active = None
        self.pending = []

    @property
    def s(self): return self.margin.s

    def extra_repr(self):
        return f'nf={self.nf}, n_ids={self.n_ids}, rate={self.rate:g}, process {self.rank} of {self.world}'

    def share(self, rank=None, world=None):
        "First and last + 1 of the identities of a process; this one when not given"
        rank,world = self.rank if rank is None else rank, world or self.world
        small,rest = divmod(self.n_ids, world)
        first = small*rank + min(rank, rest)
        return first, first + small + (rank < rest)

    def _generator(self, n): return torch.Generator().manual_seed(self.seed*1_000_003 + n)

    def _start(self, first, last):
        parts = []
        for block in range(first//BLOCK, -(-last//BLOCK)):
            made = torch.empty(BLOCK, self.nf).normal_(std=.01, generator=self._generator(block))
            parts.append(made[max(first - block*BLOCK, 0):last - block*BLOCK])
        return torch.cat(parts) if parts else torch.empty(0, self.nf)

    def sample(self,
        ids, # `(bs,)` int64, of this process
    ):
        "Choose the identities of the coming step; raises `ValueError` when processes have batches of different sizes"
        ids = gather_rows(ids.detach().as_subclass(torch.Tensor).contiguous())
        ids = ids[(ids >= 0) & (ids < self.n_ids)].unique().cpu()
        first,last = self.share()
        if self.rate == 1: rows = torch.arange(first, last)
        else:
            # always on the CPU: the same draw whatever the device
            rank = torch.rand(self.n_ids, generator=self._generator(int(self.step) + 2**40))
            rank[ids] = 2.
            n = max(round(self.rate*self.n_ids), len(ids))
            rows = rank.topk(n).indices.sort().values
            rows = rows[(rows >= first) & (rows < last)]
        self.step += 1
        self.rows = rows.to(self.weight.device)
        self.active = self.weight[self.rows - first].requires_grad_()
        self.pending.append((self.rows - first, self.active))

    def forward(self,
        emb, # `(bs, nf)`
    ): # `(bs, n)` cosines to the sampled identities of this process, in the order of `rows`, at least float32
        if self.active is None:
            raise RuntimeError('PartialFC has no sample of identities. Give the learner the callback PartialUpdate().')
        with torch.autocast(emb.device.type, enabled=False):
            emb = unit(emb)
            return F.linear(emb, unit(self.active.to(emb.dtype)))

    def cosines(self,
        emb, # `(n, nf)`
    ): # `(n, n_ids)`, of the identities that this process holds
        "To all identities, sampled or not"
        return F.linear(unit(emb), unit(self.weight))

    def terms(self,
        cosine,             # `(bs, n)` of `forward`
        emb,                # `(bs, nf)` that gave them
        ids,                # `(bs,)` int64; outside 0 to n_ids - 1: an identity without a class
        smoothing:float=0., # There is none here: 0
    ): # Dict of scalars
        """Cross-entropy over the sample, exact over the processes.

        Each has the loss of the whole batch, and the gradient of its own pictures."""
        if smoothing: raise ValueError(f'smoothing is {smoothing}. Leave it at 0: PartialFC has no label smoothing.')
        with torch.autocast(cosine.device.type, enabled=False):
            own = emb = full_precision(emb)
            if self.world > 1:
                own,ids = gather_rows(own), gather_rows(ids)
                cosine = self(own)
            place = torch.searchsorted(self.rows, ids).clamp(max=max(len(self.rows) - 1, 0))
            here = self.rows[place] == ids if len(self.rows) else torch.zeros_like(ids, dtype=torch.bool)
            columns = torch.where(here, place, -1)
            known = (ids >= 0) & (ids < self.n_ids)
            target = None if self.world == 1 else self._target(cosine, columns).masked_fill(~known, float('nan'))
            logits = self.margin.margin(cosine, columns, own.norm(dim=1), target)
            found = {'identity': sharded_cross_entropy(logits, columns, known)}
            # of one's own pictures: the mean over processes is taken with the gradients
            extra = self.margin.regularizer(emb.norm(dim=1))
        return found if extra is None else {**found, 'norm': extra}

    @torch.no_grad()
    def _target(self, cosine, columns):
        if not cosine.shape[1]: return summed(cosine.new_zeros(len(cosine)))
        return summed(torch.where(columns >= 0, cosine.gather(1, columns.clamp(min=0)[:, None])[:, 0], 0.))

    @torch.no_grad()
    def update(self,
        lr:float,          # Rate
        momentum:float=.9, # 0 to 1
        wd:float=5e-4,     # Decay of weights, of sampled rows alone
        scale:float=1.,    # What gradients were multiplied by, in mixed precision
    )->bool: # False: a gradient was not finite, and nothing moved
        "SGD of the rows that were sampled since the last one"
        pending = [(rows, torch.zeros_like(o) if o.grad is None else o.grad) for rows,o in self.pending]
        self.pending = []
        if not pending: return True
        rows,grad = pending[0]
        if len(pending) > 1: # accumulated: a row can be in several samples
            rows,place = torch.cat([r for r,_ in pending]).unique(return_inverse=True)
            grads = torch.cat([g for _,g in pending])
            grad = grads.new_zeros(len(rows), self.nf).index_add_(0, place, grads)
        grad = grad/scale
        if summed((~grad.isfinite()).any().float()) != 0: return False
        weight = self.weight[rows]
        moved = self.momentum[rows].mul_(momentum).add_(grad).add_(weight, alpha=wd)
        self.momentum[rows] = moved
        self.weight[rows] = weight.sub_(moved, alpha=lr)
        return True

    @torch.no_grad()
    def imprint(self,
        emb, # `(n, nf)` embeddings of training pictures, the same on every process
        ids, # `(n,)` their identities as the loader numbers them; those outside `n_ids` are passed over
    ):
        "`MarginHead.imprint` of this process's share; what moved the centers before is forgotten"
        directions,seen = mean_directions(emb, ids, *self.share(), self.weight.device)
        self.weight[seen] = directions.to(self.weight.dtype)
        self.momentum[seen] = 0.
        self.forget()

    def forget(self):
        "Drop samples without a step: those of a fit that was interrupted"
        self.pending,self.active,self.rows = [], None, None

    def shard(self):
        "Keep this process's share of centers that were made, or loaded, before there were several processes"
        if processes() == (self.rank, self.world): return
        if self.world != 1:
            raise RuntimeError(f'These centers are the share of process {self.rank} of {self.world}. '
                               'Load a full_state instead.')
        self.rank,self.world = processes()
        first,last = self.share()
        self.weight,self.momentum = self.weight[first:last].clone(), self.momentum[first:last].clone()
        self.forget()

    def full_state(self)->dict|None: # None on every process but the first
        "Centers, momentum and the rest, put together in the order of identities; every process must call it"
        parts = {'weight': [], 'momentum': []}
        for name,found in parts.items():
            for rank in range(self.world):
                first,last = self.share(rank)
                if rank == self.rank: part = getattr(self, name).contiguous()
                else: part = self.weight.new_empty(last - first, self.nf)
                if self.world > 1: dist.broadcast(part, rank)
                if self.rank == 0: found.append(part.cpu())
        if self.rank: return None
        state = {name: torch.cat(found) for name,found in parts.items()} | {'step': self.step.cpu().clone()}
        return state | {f'margin.{k}': v.detach().cpu().clone() for k,v in self.margin.state_dict().items()}

    @torch.no_grad()
    def load_full_state(self,
        state:dict, # Of `full_state`, on however many processes it was made
    ):
        "Take this process's share; raises `ValueError` for other identities or another size of the embedding"
        held = tuple(state['weight'].shape)
        if held != (self.n_ids, self.nf):
            raise ValueError(f'state holds {held} centers, of other identities. Load one of {(self.n_ids, self.nf)}.')
        first,last = self.share()
        for name in ('weight', 'momentum'): getattr(self, name).copy_(state[name][first:last])
        self.step.copy_(state['step'])
        self.margin.load_state_dict({k.removeprefix('margin.'): v for k,v in state.items() if k.startswith('margin.')})
        self.forget()

    def _save_to_state_dict(self, destination, prefix, keep_vars):
        if self.world > 1:
            warnings.warn(f'state_dict holds the centers of process {self.rank} of {self.world} alone. '
                          'Save whole_state_dict(model) instead.', stacklevel=2)
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        first,last = self.share()
        for key in (prefix + 'weight', prefix + 'momentum'):
            found = state_dict.get(key)
            # of all identities: this process takes its share
            if self.world > 1 and found is not None and len(found) == self.n_ids: state_dict[key] = found[first:last]
        super()._load_from_state_dict(state_dict, prefix, *args)
        self.forget()

    def __getstate__(self):
        return {**self.__dict__, 'pending': [], 'active': None, 'rows': None}


def whole_state_dict(
    model:nn.Module, # With a `PartialFC` in it, or without
)->dict|None: # None on every process but the first, where centers are shared out
    """`model.state_dict()` as one process would have it, which `load_state_dict` reads on however many.

    Every process must call it."""
    heads = {name: m for name,m in model.named_modules() if isinstance(m, PartialFC) and m.world > 1}
    heads = {f'{name}.' if name else '': m for name,m in heads.items()}
    full = {prefix: m.full_state() for prefix,m in heads.items()}
    if None in full.values(): return None
    with warnings.catch_warnings():
        warnings.filterwarnings('ignore', 'state_dict holds the centers')
        state = model.state_dict()
    for prefix,found in full.items(): state.update({prefix + k: v for k,v in found.items()})
    return state


@contextmanager
def whole_centers(
    model:nn.Module, # With a `PartialFC` in it, or without
):
    "In this block heads of the first process have all centers, as one process would; every process must enter"
    heads = [m for m in model.modules() if isinstance(m, PartialFC) and m.world > 1]
    before = [(m, m.weight, m.momentum, m.rank, m.world) for m in heads]
    for m in heads:
        full = m.full_state()
        if full is None: continue
        m.weight,m.momentum = (full[k].to(m.weight.device) for k in ('weight', 'momentum'))
        m.rank,m.world = 0,1
    try: yield
    finally:
        for m,*parts in before: m.weight,m.momentum,m.rank,m.world = parts
