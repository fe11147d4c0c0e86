"""Margins of face recognition: what makes training stricter than judging.

A head gives cosines, which is what QSD distils: the margin belongs to whoever knows the identities, and `MarginLoss`
asks the head for it."""
import math

import torch
from torch import nn

from ...choices import one_of
from ...distributed import summed
from .cosine import MarginHead

__all__ = ['AdaFace', 'ArcFace', 'CosFace', 'CurricularFace', 'MagFace', 'MarginHead', 'SubCenterArcFace']


def _mean_and_std(x, counts, gathered):
    """Number, mean and deviation of what counts in the batch of all processes, which is `x` where it was gathered.

    How many there are is not asked of the device. Every process must come here: the others wait for it."""
    def whole(t): return t if gathered else summed(t)

    n,total = whole(torch.stack([counts.sum().to(x.dtype), torch.where(counts, x, 0.).sum()]))
    mean = total/n.clamp(min=1)
    squared = whole(torch.where(counts, (x - mean).square(), 0.).sum())
    return n, mean, (squared/(n - 1).clamp(min=1)).sqrt()


def _follow(running, value, share, enough):
    "Move a running figure towards that of a batch, where the batch has one"
    value = running.lerp(value.to(running.dtype), share)
    running.copy_(torch.where(enough, value, running))


def _at_target(cosine, ids):
    "Which rows have a class, the column of each row's (any, where it has none), and the cosines there"
    cols = ids.clamp(min=0)[:, None]
    own = cosine.gather(1, cols)[:, 0] if cosine.shape[1] else cosine.new_zeros(len(ids))
    return ids >= 0, cols, own


def _replaced(cosine, known, cols, target):
    if not cosine.shape[1]: return cosine
    own = torch.where(known[:, None], target.to(cosine.dtype)[:, None], cosine.gather(1, cols))
    return cosine.scatter(1, cols, own)


class _StraightThrough(torch.autograd.Function):
    "A value whose gradient is that of what it was made from"
    @staticmethod
    def forward(ctx, cosine, value): return value.clone()

    @staticmethod
    def backward(ctx, grad): return grad, None


class ArcFace(MarginHead):
    """Additive angular margin (Deng et al., CVPR 2019).

    As published, the gradient passes by the angle as if the margin were not there, which is finite everywhere.
    `gradient='exact'` goes through the angle, kept `eps` away from 0 and 180 degrees, as AdaFace's code does."""
    def __init__(self,
        nf:int,                   # Size of the embedding
        n_ids:int,                # Training identities
        s:float=64.,              # Scale of the cosines, > 0
        m:float=.5,               # Margin, radians
        gradient:str='published', # Or 'exact'
        filter_above:float=0.,    # Cosines to others above this are taken for wrong labels and count 0; 0: none
        eps:float=1e-4,           # Of 'exact'
    ):
        super().__init__(nf, n_ids, s)
        one_of('gradient', gradient, 'published', 'exact')
        self.m,self.gradient,self.filter_above,self.eps = m, gradient, filter_above, eps

    def margin(self, cosine, ids, norms, target=None):
        cosine = _filtered(cosine, ids, self.filter_above)
        if self.gradient == 'exact':
            cosine = cosine.clamp(-1 + self.eps, 1 - self.eps)
            known,cols,target = _at_target(cosine, ids)
            angle = (target.acos() + self.m).clamp(self.eps, math.pi - self.eps)
            return self.s*_replaced(cosine, known, cols, angle.cos())
        known,cols,target = _at_target(cosine.detach(), ids)
        value = _replaced(cosine.detach(), known, cols, (target.clamp(-1, 1).acos() + self.m).cos())
        return self.s*_StraightThrough.apply(cosine, value)


class CosFace(MarginHead):
    "Additive cosine margin (Wang et al., CVPR 2018)"
    def __init__(self,
        nf:int,                # Size of the embedding
        n_ids:int,             # Training identities
        s:float=64.,           # Scale of the cosines, > 0
        m:float=.4,            # Margin, of a cosine
        filter_above:float=0., # As in `ArcFace`
        eps:float=0.,          # Cosines are kept so far from -1 and 1; AdaFace's code has 1e-4
    ):
        super().__init__(nf, n_ids, s)
        self.m,self.filter_above,self.eps = m, filter_above, eps

    def margin(self, cosine, ids, norms, target=None):
        cosine = _filtered(cosine, ids, self.filter_above)
        if self.eps: cosine = cosine.clamp(-1 + self.eps, 1 - self.eps)
        known,cols,target = _at_target(cosine, ids)
        return self.s*_replaced(cosine, known, cols, target - self.m)


def _filtered(cosine, ids, above):
    if not above: return cosine
    own = ids[:, None] == torch.arange(cosine.shape[1], device=ids.device)
    return cosine.masked_fill((cosine.detach() > above) & ~own, 0.)


class AdaFace(MarginHead):
    """Margin that follows the length of the embedding (Kim et al., CVPR 2022).

    Angular for poor pictures, additive for good ones."""
    def __init__(self,
        nf:int,            # Size of the embedding
        n_ids:int,         # Training identities
        s:float=64.,       # Scale of the cosines, > 0
        m:float=.4,        # Margin
        h:float=.333,      # How much of a standard deviation of lengths is the whole range
        t_alpha:float=.01, # Weight of a new batch in the running mean and deviation; 1: those of the batch
        eps:float=1e-3,    # Cosines and angles are kept so far from their ends
    ):
        super().__init__(nf, n_ids, s)
        self.m,self.h,self.t_alpha,self.eps = m, h, t_alpha, eps
        self.register_buffer('batch_mean', torch.full((1,), 20.))
        self.register_buffer('batch_std', torch.full((1,), 100.))

    def margin(self, cosine, ids, norms, target=None):
        norms = norms.detach().clamp(.001, 100).to(cosine.dtype)
        if self.training and torch.is_grad_enabled():
            n,mean,std = _mean_and_std(norms, torch.ones_like(ids, dtype=torch.bool), self.gathered)
            _follow(self.batch_mean, mean, self.t_alpha, n > 0)
            _follow(self.batch_std, std, self.t_alpha, n > 1)
        place = ((norms - self.batch_mean)/(self.batch_std + self.eps)*self.h).clamp(-1, 1)
        cosine = cosine.clamp(-1 + self.eps, 1 - self.eps)
        known,cols,target = _at_target(cosine, ids)
        angle = (target.acos() - self.m*place).clamp(self.eps, math.pi - self.eps)
        return self.s*_replaced(cosine, known, cols, angle.cos() - (self.m + self.m*place))


class MagFace(MarginHead):
    """Margin that grows with the length of the embedding (Meng et al., CVPR 2021).

    A term of the loss makes it longer for good pictures."""
    def __init__(self,
        nf:int,                       # Size of the embedding
        n_ids:int,                    # Training identities
        s:float=64.,                  # Scale of the cosines, > 0
        norm_range:tuple=(10., 110.), # Least and greatest length; others are clipped
        margin_range:tuple=(.45, .8), # Margins there, radians
        norm_weight:float=35.,        # Of the term for the length
        easy_margin:bool=True,        # No margin where the angle is above 90 degrees?
    ):
        super().__init__(nf, n_ids, s)
        self.norm_range,self.margin_range = norm_range, margin_range
        self.norm_weight,self.easy_margin = norm_weight, easy_margin

    def margin(self, cosine, ids, norms, target=None):
        (low, top),(least, most) = self.norm_range, self.margin_range
        m = (most - least)/(top - low)*(norms.to(cosine.dtype).clamp(low, top) - low) + least
        known,cols,target = _at_target(cosine.clamp(-1, 1), ids)
        # a hair from 1: the square root has no gradient at 0
        moved = target*m.cos() - (1 - target.square()).clamp(min=1e-12).sqrt()*m.sin()
        if self.easy_margin: moved = torch.where(target > 0, moved, target)
        else: moved = torch.where(target > (math.pi - m).cos(), moved, target - (math.pi - m).sin()*m)
        return self.s*_replaced(cosine, known, cols, moved)

    def regularizer(self, norms):
        low,top = self.norm_range
        norms = norms.clamp(low, top)
        return self.norm_weight*(norms/top**2 + 1/norms).mean()


class CurricularFace(MarginHead):
    "Hard wrong identities weigh more as training goes on (Huang et al., CVPR 2020)"
    def __init__(self,
        nf:int,             # Size of the embedding
        n_ids:int,          # Training identities
        s:float=64.,        # Scale of the cosines, > 0
        m:float=.5,         # Margin, radians
        momentum:float=.01, # Weight of a new batch in the running mean `t` of cosines to the own class
    ):
        super().__init__(nf, n_ids, s)
        self.m,self.momentum = m, momentum
        self.register_buffer('t', torch.zeros(1))

    def margin(self, cosine, ids, norms, target=None):
        cosine = cosine.clamp(-1, 1)
        known,cols,own = _at_target(cosine, ids)
        seen,counts = (own.detach(), known) if target is None else (target.detach().clamp(-1, 1), ~target.isnan())
        if self.training and torch.is_grad_enabled():
            n,mean,_ = _mean_and_std(seen, counts, self.gathered)
            _follow(self.t, mean, self.momentum, n > 0)
        moved = self._moved(own)
        easy = torch.where(own > math.cos(math.pi - self.m), moved, own - math.sin(math.pi - self.m)*self.m)
        if target is None: limit = torch.where(known, moved.detach(), float('inf'))
        else: limit = self._moved(target.detach().clamp(-1, 1))
        hard = cosine > limit[:, None] # of a picture without a class, nothing is hard
        cosine = torch.where(hard, cosine*(self.t.to(cosine.dtype) + cosine), cosine)
        return self.s*_replaced(cosine, known, cols, easy)

    def _moved(self, own): return own*math.cos(self.m) - (1 - own.square()).clamp(min=1e-12).sqrt()*math.sin(self.m)


class SubCenterArcFace(ArcFace):
    """ArcFace with several directions for each identity, the nearest of which counts (Deng et al., ECCV 2020).

    Noise finds one of its own."""
    def __init__(self,
        nf:int,      # Size of the embedding
        n_ids:int,   # Training identities
        s:float=64., # Scale of the cosines, > 0
        m:float=.5,  # Margin, radians
        k:int=3,     # Directions for each identity
        **kwargs,    # For `ArcFace`
    ):
        super().__init__(nf, n_ids, s, m, **kwargs)
        self.k,self.weight = k, nn.Parameter(torch.empty(n_ids*k, nf).normal_(std=.01))

    def forward(self, emb): return super().forward(emb).unflatten(1, (self.n_ids, self.k)).amax(2)

    def _set_directions(self, directions, seen):
        # the first is the mean; the others stay at random and find their own
        self.weight.view(self.n_ids, self.k, self.nf)[seen, 0] = directions.to(self.weight.dtype)
