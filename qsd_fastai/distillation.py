"Quality self-distillation (QSD; Ou et al., IEEE TMM 2024): the better picture of an identity teaches the worse one, at several levels."
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from torch import nn
from torch.utils._pytree import tree_map

__all__ = ['QSDLoss', 'QualityDistillation', 'energy_map', 'identity_pairs', 'partner_pairs', 'select_pairs']


def identity_pairs(
    ids:torch.Tensor, # Identity of each picture of a batch, `(bs,)`
):
    "All pairs of different pictures of one identity: two index tensors `(n_pairs,)` with `first < second`"
    same = (ids[:,None] == ids[None]).triu(1)
    return same.nonzero(as_tuple=True)


def partner_pairs(
    n:int,       # Pictures in the first half of the batch
    device=None, # Where the indices are made
):
    "The pairs `(k, n+k)`: the second half of the batch holds the partners of the first. Two index tensors `(n,)`"
    first = torch.arange(n, device=device)
    return first, first + n


def select_pairs(
    quality:torch.Tensor,          # Of each picture, `(bs,)`, 0 to 100, NaN = unknown
    pairs:tuple,                   # Two index tensors `(n_pairs,)`
    tau:float=.3,                  # How much of the mean difference is too small and, mirrored, too large; 0 keeps every unequal pair
    unlabelled_as_equal:bool=False,# Count pairs of unknown quality as difference 0 in the mean, as the published code does
):
    """`(teacher, student)` indices of the pairs kept: those whose difference `d` in quality is neither small nor extreme,
    `tau*m <= d <= 100 - tau*(100 - m)` with `m` the mean difference, and `d > 0`. A pair of unknown quality is never kept."""
    first,second = pairs
    q = quality.float() if quality.dtype in (torch.float16, torch.bfloat16) else quality
    gap = q[first] - q[second]
    known = ~gap.isnan()
    d = torch.where(known, gap.abs(), 0.)
    n = torch.tensor(len(d), device=d.device) if unlabelled_as_equal else known.sum()
    m = d.sum()/n.clamp(min=1)
    keep = known & (d > 0) & (d >= tau*m) & (d <= 100 - tau*(100 - m))
    first,second,gap = first[keep], second[keep], gap[keep]
    return torch.where(gap > 0, first, second), torch.where(gap > 0, second, first)


def energy_map(
    level:torch.Tensor, # `(bs, channels, height, width)`
):
    "Mean square over channels, `(bs, height, width)` (attention transfer, Zagoruyko & Komodakis, ICLR 2017), in float32 or better"
    return _full(level).square().mean(1)


def _full(t): return t if t.dtype == torch.float64 else t.float()


class QSDLoss(nn.Module):
    """The distance of each student to its teacher, summed over levels; gradients reach students only.

    A 4-D level costs the squared difference of energy maps, amplified by `2/(max - min)` over the students' maps; a 2-D level
    costs `1 - cosine`. Where no pair is kept every term is exactly 0, with a graph. Sums run in float32 or better, also under autocast."""
    def __init__(self,
        level_weights:tuple=(1., 1., 1., 1., .1), # A factor for each level; the paper's: three maps, embedding, logits
        tau:float=.3,                             # Of `select_pairs`
        amplify:str='reference',                  # `'reference'`: gradients flow through max and min; `'detached'`: not; `'none'`: factor 1
        map_norm:str='none',                      # `'l2'`: each picture's map is scaled to length 1 first, as in attention transfer
        distance:str='l2',                        # Between maps: `'l2'` (squared) or `'l1'`
        unlabelled_as_equal:bool=False,           # Of `select_pairs`
    ):
        super().__init__()
        for name,value,allowed in (('amplify', amplify, ('reference', 'detached', 'none')), ('map_norm', map_norm, ('none', 'l2')),
                                   ('distance', distance, ('l2', 'l1'))):
            if value not in allowed: raise ValueError(f'{name}={value!r} is unknown. Use one of {", ".join(map(repr, allowed))}.')
        self.level_weights,self.tau,self.amplify,self.map_norm = tuple(level_weights),tau,amplify,map_norm
        self.distance,self.unlabelled_as_equal = distance,unlabelled_as_equal
        self.terms,self.n_pairs,self.n_candidates = {},0,0

    def forward(self,
        levels:list,          # Flat-batch tensors: maps `(bs, channels, height, width)` or vectors `(bs, n)`
        quality:torch.Tensor, # `(bs,)`, 0 to 100, NaN = unknown
        pairs:tuple,          # Candidate pairs, two index tensors
        names:list=None,      # Of the terms; `level1`, `level2`, ... when not given
        level_weights=None,   # In place of those given at creation, when a schedule changes them
    ):
        weights = self.level_weights if level_weights is None else level_weights
        if len(levels) != len(weights):
            raise ValueError(f'{len(levels)} levels but {len(weights)} level_weights {tuple(weights)}. Give one weight a level.')
        names = [f'level{i+1}' for i in range(len(levels))] if names is None else names
        with torch.autocast(levels[0].device.type, enabled=False):
            teacher,student = select_pairs(quality, pairs, self.tau, self.unlabelled_as_equal)
            self.n_pairs,self.n_candidates = len(student),len(pairs[0])
            parts = [w*self._level(level, teacher, student) for level,w in zip(levels, weights)]
            loss = sum(parts)
        self.terms = {name: part.detach() for name,part in zip(names, parts)}
        return loss

    def _level(self, level, teacher, student):
        if level.dim() not in (2, 4): raise ValueError(f'A level must be (bs, channels, height, width) or (bs, n), not {tuple(level.shape)}.')
        if len(student) == 0: return _full(level[:0]).sum()  # exactly 0, and still part of the graph
        return self._maps(level, teacher, student) if level.dim() == 4 else self._vectors(level, teacher, student)

    def _vectors(self, level, teacher, student):
        level = _full(level)
        return (1 - F.cosine_similarity(level.detach()[teacher], level[student], dim=1, eps=1e-6)).mean()

    def _maps(self, level, teacher, student):
        energy = energy_map(level)
        if self.map_norm == 'l2': energy = F.normalize(energy.flatten(1), dim=1).view_as(energy)
        s,t = energy[student],energy.detach()[teacher]
        gap = (s - t).square().mean() if self.distance == 'l2' else (s - t).abs().mean()
        if self.amplify == 'none': return gap
        top,low = (s.detach() if self.amplify == 'detached' else s).aminmax()[::-1]
        spread = top - low
        # constant maps have no spread to amplify by: the term is 0 there, where the published formula divides by 0
        flat = spread <= 1e-6*top
        return torch.where(flat, gap*0., 2/torch.where(flat, 1., spread)*gap)


class QualityDistillation(Callback):
    """Adds QSD to the training loss; without it the run is the baseline, bit for bit.

    `pairs='batch'` pairs all pictures of one identity in the batch and costs no forward pass. `pairs='partner'` is the published way:
    the loader gives each picture a partner from its whole identity (`partners=True`), the partners pass through the network too, by
    themselves (`forward='separate'`, batch norm sees each half) or together with the rest (`'joint'`), and only distillation uses them.
    The model must give `Recognition(logits, emb, levels, ...)` in training; targets must be `(identity, quality, ...)`."""
    order,run_valid = 2,False  # before gradient accumulation (6) and mixed precision (10)

    def __init__(self,
        weight=1.,               # Of the whole term: a number, or a function of the progress of training, 0 to 1 (fastai's `SchedCos` etc.)
        level_weights:tuple=None,# A number or function a level: the model's levels, embedding, logits; 1 each and .1 for logits when not given
        pairs:str='batch',       # `'batch'` or `'partner'`
        forward:str='separate',  # `'separate'` or `'joint'`, for `pairs='partner'`
        **kwargs,                # For `QSDLoss`: `tau`, `amplify`, `map_norm`
    ):
        for name,value,allowed in (('pairs', pairs, ('batch', 'partner')), ('forward', forward, ('separate', 'joint'))):
            if value not in allowed: raise ValueError(f'{name}={value!r} is unknown. Use one of {", ".join(map(repr, allowed))}.')
        self.weight,self.level_weights,self.pairs,self.forward = weight,level_weights,pairs,forward
        self.loss,self.terms = QSDLoss(**kwargs),{}

    def _now(self, value): return value(self.pct_train) if callable(value) else value

    def before_batch(self):
        if len(self.yb) < 2:
            raise ValueError('QualityDistillation needs the targets (identity, quality). Add `IdentityBlock` and `QualityBlock` to the DataBlock.')
        self.ids,self.quality,self.others = self.yb[0],self.yb[1].as_subclass(torch.Tensor),None
        if self.pairs == 'batch': return
        n = self._half()
        if self.forward == 'separate':
            self.others = self.xb[0][n:]
            self.learn.xb = (self.xb[0][:n],)
        self.learn.yb = tuple(y[:n] for y in self.yb)

    def _half(self):
        n = len(self.ids)//2
        if len(self.ids) % 2 or not torch.equal(self.ids[:n], self.ids[n:]):
            raise ValueError("pairs='partner' needs batches whose second half holds the partners of the first. "
                             'Make the loader with `partners=True`.')
        return n

    def after_pred(self):
        self.whole = self.pred  # all that distillation sees; the other losses see the first half
        if not hasattr(self.pred, 'levels'):
            raise ValueError('QualityDistillation needs a model that returns `Recognition` in training, as `Recognizer` does; '
                             f'this one returns {type(self.pred).__name__}.')
        if self.pairs == 'partner' and self.forward == 'joint': self.learn.pred = tree_map(lambda t: t[:len(self.ids)//2], self.pred)

    def after_loss(self):
        weight = self._now(self.weight)
        with torch.set_grad_enabled(weight != 0): value = self._distill()
        self.terms = {'qsd': value.detach(), **{f'qsd_{k}': v for k,v in self.loss.terms.items()},
                      'qsd_pairs': torch.tensor(self.loss.n_pairs/max(self.loss.n_candidates, 1))}
        if weight == 0: return
        self.learn.loss_grad = self.learn.loss_grad + weight*value
        self.learn.loss = self.learn.loss_grad.clone()

    def _distill(self):
        outs = [self.whole] if self.others is None else [self.whole, self.learn.model(self.others)]
        levels = [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in zip(*([*o.levels, o.emb, o.logits] for o in outs))]
        names = [f'level{i+1}' for i in range(len(levels) - 2)] + ['emb', 'logits']
        given = self.level_weights or (1.,)*(len(levels) - 1) + (.1,)
        pairs = identity_pairs(self.ids) if self.pairs == 'batch' else partner_pairs(len(self.ids)//2, self.ids.device)
        return self.loss(levels, self.quality, pairs, names, tuple(self._now(w) for w in given))

    def after_batch(self): self.whole = self.others = None  # free the feature maps
