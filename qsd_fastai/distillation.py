"""Quality self-distillation (QSD; Ou et al., IEEE TMM 2024): the better picture of an identity teaches the worse one.

The whole method, in the order it happens: pictures are paired (`identity_pairs`, `partner_pairs`), the pairs that teach
are kept (`select_pairs`), what student and teacher differ by is summed over levels (`QSDLoss`), and the sum joins the
loss of a fastai learner (`QualityDistillation`)."""
import warnings

import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.torch_core import apply
from torch import nn
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from .choices import one_of
from .tensors import full_precision

__all__ = ['QSDLoss', 'QualityDistillation', 'energy_map', 'identity_pairs', 'partner_pairs', 'select_pairs']


def identity_pairs(
    ids:torch.Tensor, # `(bs,)` identity of each picture of a batch
): # Two index tensors `(n_pairs,)`, `first < second`
    "All pairs of different pictures of one identity"
    ids = ids.as_subclass(torch.Tensor)
    return (ids[:, None] == ids[None]).triu(1).nonzero(as_tuple=True)


def partner_pairs(
    n:int,       # Pictures in the first half of the batch
    device=None, # Where the indices are made
): # Two index tensors `(n,)`
    "The pairs `(k, n + k)`: the second half of the batch holds the partners of the first"
    first = torch.arange(n, device=device)
    return first, first + n


def select_pairs(
    quality:torch.Tensor,           # `(bs,)`, 0 to 100, NaN = unknown
    pairs:tuple,                    # Two index tensors `(n_pairs,)`
    tau:float=.3,                   # Share of the mean difference that is too small and, mirrored, too large; 0: none
    unlabelled_as_equal:bool=False, # Do pairs of unknown quality count as equal in the mean, as in the published code?
): # Indices `(teacher, student)`, `(n_kept,)` each
    """The pairs that teach: their better picture is the teacher, their worse one the student.

    Kept is a pair whose difference in quality `d` is neither small nor extreme beside the mean difference `m`:
    `tau*m <= d <= 100 - tau*(100 - m)`, and `d > 0`. A pair of unknown quality is never kept.
    The mean is over the pairs given: with several processes, each has its own."""
    first,second = pairs
    quality = full_precision(quality.as_subclass(torch.Tensor))
    gap = quality[first] - quality[second]
    known = ~gap.isnan()
    d = torch.where(known, gap.abs(), 0.)
    n = torch.tensor(len(d), device=d.device) if unlabelled_as_equal else known.sum()
    m = d.sum()/n.clamp(min=1)
    keep = known & (d > 0) & (d >= tau*m) & (d <= 100 - tau*(100 - m))
    first,second,gap = first[keep], second[keep], gap[keep]
    return torch.where(gap > 0, first, second), torch.where(gap > 0, second, first)


def energy_map(
    level:torch.Tensor, # Maps `(bs, channels, height, width)` or tokens `(bs, n_tokens, channels)`
): # `(bs, height, width)` or `(bs, n_tokens)`, at least float32: squares overflow float16
    "Mean square over channels (attention transfer, Zagoruyko & Komodakis, ICLR 2017)"
    return full_precision(level).square().mean(1 if level.dim() == 4 else 2)


class QSDLoss(nn.Module):
    """The distance of each student to its teacher, summed over levels; gradients reach students only.

    A level of vectors costs `1 - cosine`. A level of maps or tokens costs the squared difference of energy maps,
    amplified by `2/(max - min)` over the students' maps; unless `map_norm='l2'` that grows with the square of the
    activations, as published. A term is exactly 0, with a graph, where no pair is kept or the students' maps are
    constant.

    Sums run in float32 or better, also under autocast. Everything is of the batch at hand: with several processes, each
    has its own pairs, maximum and minimum."""
    def __init__(self,
        level_weights:tuple=(1., 1., 1., 1., .1), # A factor a level; the paper's: three maps, embedding, logits
        tau:float=.3,                             # Of `select_pairs`, 0 to 1
        amplify:str='reference',                  # Gradients pass by max and min; 'detached': not; 'none': factor 1
        map_norm:str='none',                      # 'l2': each energy map has length 1, as in attention transfer
        distance:str='l2',                        # Between energy maps: 'l2', squared, or 'l1'
        unlabelled_as_equal:bool=False,           # Of `select_pairs`
    ):
        super().__init__()
        if not 0 <= tau <= 1: raise ValueError(f'tau is {tau}. Give 0 to 1; the published value is .3.')
        self.level_weights,self.tau,self.unlabelled_as_equal = tuple(level_weights), tau, unlabelled_as_equal
        self.amplify = one_of('amplify', amplify, 'reference', 'detached', 'none')
        self.map_norm = one_of('map_norm', map_norm, 'none', 'l2')
        self.distance = one_of('distance', distance, 'l2', 'l1')
        self.terms,self.n_pairs,self.n_candidates = {}, 0, 0

    def forward(self,
        levels:list,          # One batch each: maps `(bs, c, h, w)`, tokens `(bs, n_tokens, c)` or vectors `(bs, n)`
        quality:torch.Tensor, # `(bs,)`, 0 to 100, NaN = unknown
        pairs:tuple,          # Candidates: two index tensors `(n_pairs,)`
        names:list=None,      # Of the terms; `level1`, `level2`, ... when not given
        level_weights=None,   # In place of those given at creation, when a schedule changes them
    ): # Scalar; `terms` keeps each level's part of it, weighted
        weights = self.level_weights if level_weights is None else level_weights
        names = [f'level{i + 1}' for i in range(len(levels))] if names is None else names
        _check_levels(levels, names, weights, len(quality))
        with torch.autocast(levels[0].device.type, enabled=False):
            teacher,student = select_pairs(quality, pairs, self.tau, self.unlabelled_as_equal)
            parts = [w*self._level(level, teacher, student) for level,w in zip(levels, weights)]
            loss = sum(parts)
        self.n_pairs,self.n_candidates = len(student), len(pairs[0])
        self.terms = {name: part.detach() for name,part in zip(names, parts)}
        return loss

    def _level(self, level, teacher, student):
        if len(student) == 0: return full_precision(level[:0]).sum() # exactly 0, and still part of the graph
        return self._vectors(level, teacher, student) if level.dim() == 2 else self._maps(level, teacher, student)

    def _vectors(self, level, teacher, student):
        level = full_precision(level)
        return (1 - F.cosine_similarity(level.detach()[teacher], level[student], dim=1, eps=1e-6)).mean()

    def _maps(self, level, teacher, student):
        energy = energy_map(level)
        if self.map_norm == 'l2': energy = F.normalize(energy.flatten(1), dim=1).view_as(energy)
        s,t = energy[student], energy.detach()[teacher]
        gap = (s - t).square().mean() if self.distance == 'l2' else (s - t).abs().mean()
        if self.amplify == 'none': return gap
        scores = s.detach() if self.amplify == 'detached' else s
        low,top = scores.amin(),scores.amax()  # `aminmax` has no gradient before torch 2.7
        spread = top - low
        # constant maps have no spread to amplify by: the term is 0 there, where the published formula divides by 0
        flat = spread <= 1e-6*top
        return torch.where(flat, gap*0., 2/torch.where(flat, 1., spread)*gap)


def _check_levels(levels, names, weights, n):
    if not levels or len(levels) != len(weights):
        raise ValueError(f'There are {len(levels)} levels ({", ".join(names)}) but {len(weights)} level_weights '
                         f'{tuple(weights)}. Give one weight a level.')
    for name,level in zip(names, levels):
        if level.dim() not in (2, 3, 4) or len(level) != n:
            raise ValueError(f'{name} is {tuple(level.shape)} for {n} qualities. Give one row a quality: '
                             '(bs, channels, height, width), (bs, n_tokens, channels) or (bs, n).')


class QualityDistillation(Callback):
    """Adds QSD to the training loss. Nothing else changes: with `weight=0` a run is the one without it, bit for bit.

    `pairs='batch'` pairs all pictures of one identity in the batch and costs no forward pass. `pairs='partner'` is the
    published way: the loader gives each picture a partner from its whole identity (`partners=True`), and only
    distillation looks at the partners. With `forward='separate'` they pass through the network after the others, by
    themselves: batch norm normalises each half by its own statistics and moves its running ones twice a step. With
    `'joint'` both pass together, and the partners are in the statistics of batch norm whatever the weight, 0 included.

    The model must give `Recognition(logits, emb, levels, ...)` in training; targets must be `(identity, quality, ...)`.
    Levels are those of the model, the embedding and the logits. A weight can be a function of the progress of training:
    fastai's, `SchedCos(0., 1.)` say, or one with a name, since a learner with a lambda in it cannot be exported."""
    # before gradient accumulation, which comes before the cast to plain tensors, and that before mixed precision
    order = GradientAccumulation.order - 4
    run_valid = False

    def __init__(self,
        weight=1.,                # Of the whole term, 0 or more: a number or a function
        level_weights:tuple=None, # A number or function a level; not given: 1 each, and .1 for the logits
        pairs:str='batch',        # 'batch' or 'partner'
        forward:str='separate',   # 'separate' or 'joint', for `pairs='partner'`
        strict:bool=False,        # Is a fit that begins with an epoch that teaches nothing an error? Else a warning
        **kwargs,                 # For `QSDLoss`: `tau`, `amplify`, `map_norm`, `distance`
    ):
        if not callable(weight) and not weight >= 0:
            raise ValueError(f'weight is {weight}. Give 0 or more, or a function of the progress of training.')
        self.weight,self.level_weights = weight, None if level_weights is None else tuple(level_weights)
        self.pairs = one_of('pairs', pairs, 'batch', 'partner')
        self.forward = one_of('forward', forward, 'separate', 'joint')
        self.strict,self.qsd,self.terms = strict, QSDLoss(**kwargs), {}
        self.whole = self.others = None
        self.n_known = self.n_candidates = self.n_kept = self.n_batches = self.taught = 0

    def _now(self, value): return float(value(self.pct_train) if callable(value) else value)

    def before_fit(self): self.taught = 0 # Epochs with a pair that was kept

    def before_train(self): self.n_known = self.n_candidates = self.n_kept = self.n_batches = 0

    def before_batch(self):
        yb = [y.as_subclass(torch.Tensor) for y in self.yb[:2]]
        if len(yb) < 2 or yb[0].dim() != 1 or yb[1].shape != yb[0].shape:
            shapes = [tuple(y.shape) for y in self.yb]
            raise ValueError(f'The targets are {shapes}. QualityDistillation needs (identity, quality, ...), of (bs,): '
                             'put `IdentityBlock` and `QualityBlock` first among those of the DataBlock.')
        self.ids,self.quality = yb
        self.n_known = self.n_known + (~self.quality.isnan()).sum()
        self.others = None
        if self.pairs == 'partner': self._set_partners_aside()
        elif getattr(self.learn.dl, 'partners', False):
            raise ValueError("pairs is 'batch', but the loader adds partners. "
                             "Use pairs='partner', or a loader without `partners=True`.")

    def _set_partners_aside(self):
        n = len(self.ids)//2
        if len(self.ids) % 2 or not torch.equal(self.ids[:n], self.ids[n:]):
            raise ValueError("pairs is 'partner', but the second half of a batch is not the partners of the first. "
                             'Make the loader with `partners=True`.')
        if self.forward == 'separate':
            self.others = tuple(x[n:].as_subclass(torch.Tensor) for x in self.xb)
            self.learn.xb = tuple(x[:n] for x in self.xb)
        self.learn.yb = tuple(y[:n] for y in self.yb)

    def after_pred(self):
        if not hasattr(self.pred, 'levels'):
            raise ValueError(f'The model returns {type(self.pred).__name__} in training. '
                             'QualityDistillation needs `Recognition`, as `Recognizer` returns it.')
        self.whole = self.pred # all that distillation sees; the other losses, metrics and counts see the first half
        if self.pairs == 'partner' and self.forward == 'joint':
            n = len(self.ids)//2
            self.learn.pred = apply(lambda t: t[:n], self.pred)

    def after_loss(self):
        weight = self._now(self.weight)
        with torch.set_grad_enabled(weight != 0): value = self._distill(trace=weight != 0)
        self.terms = {'qsd': value.detach(), **{f'qsd_{k}': v for k,v in self.qsd.terms.items()}}
        self.terms['qsd_pairs'] = torch.tensor(self.qsd.n_pairs/max(self.qsd.n_candidates, 1))
        self.n_candidates,self.n_kept = self.n_candidates + self.qsd.n_candidates, self.n_kept + self.qsd.n_pairs
        self.n_batches += 1
        if weight == 0: return
        self.learn.loss_grad = self.learn.loss_grad + weight*value
        self.learn.loss = self.learn.loss_grad.clone()

    def _distill(self, trace):
        passes = [self.whole] if self.others is None else [self.whole, self._second_pass(trace)]
        found = zip(*([*o.levels, o.emb, o.logits] for o in passes))
        levels = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in found]
        names = [f'level{i + 1}' for i in range(len(levels) - 2)] + ['emb', 'logits']
        weights = (1.,)*(len(levels) - 1) + (.1,) if self.level_weights is None else self.level_weights
        pairs = identity_pairs(self.ids) if self.pairs == 'batch' else partner_pairs(len(self.ids)//2, self.ids.device)
        return self.qsd(levels, self.quality, pairs, names, tuple(map(self._now, weights)))

    def _second_pass(self, trace):
        "The partners' outputs; without `trace`, batch norm and random generators stay as they are"
        model = self.learn.model
        # the wrapper would broadcast buffers that the first pass needs for its gradients (pytorch issue 175024);
        # it reduces gradients all the same
        if isinstance(model, DistributedDataParallel): model = model.module
        if trace: return model(*self.others)
        buffers = {k: b.clone() for k,b in model.named_buffers()}
        with torch.random.fork_rng({x.device for x in self.others if x.is_cuda}):
            return functional_call(model, buffers, self.others)

    def after_batch(self): self.whole = self.others = None # free the feature maps

    @property
    def teaches_nothing(self):
        "Why no pair was kept since the epoch began, and what helps; empty where one was, or none could matter"
        if self.n_kept or not self.n_batches or not self._now(self.weight): return ''
        if self.n_known == 0:
            return ('QualityDistillation met no picture of known quality in a whole epoch, so it taught nothing. Fill '
                    'the column `quality` of the table, with `similarity_quality` say, or set weight=0.')
        if self.n_candidates == 0:
            return ('QualityDistillation met no two pictures of one identity in a batch in a whole epoch, so it taught '
                    "nothing. Use n_imgs=2 or more, or pairs='partner', or set weight=0.")
        return (f'QualityDistillation kept none of {self.n_candidates} pairs in a whole epoch, so it taught nothing: '
                'the labels of their pictures are equal or unknown, or differ by too much for tau. Look at the column '
                '`quality` of the table, or set weight=0.')

    def after_train(self):
        self.taught += self.n_kept > 0
        if not (said := self.teaches_nothing): return
        if self.strict and not self.taught: raise ValueError(said)
        warnings.warn(said, stacklevel=2)
