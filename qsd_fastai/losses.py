"Losses of recognition: identity, triplets, and the sum of them that a fastai learner calls"
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from .choices import one_of, within
from .distributed import gather, gather_rows
from .shown import settings_text
from .tensors import full_precision, of_no_subclass

__all__ = ['CenterLoss', 'IdentityLoss', 'MarginLoss', 'OctupletLoss', 'RecognitionLoss', 'TripletLoss',
           'WeightedRegularizedTriplet', 'pairwise_distance']


def pairwise_distance(
    x, # `(n, nf)`
    y, # `(m, nf)`
): # `(n, m)`, at least 1e-6; the gradient is zero there
    "Euclidean distance of every row of `x` to every row of `y`"
    squared = x.square().sum(1)[:, None] + y.square().sum(1)[None] - 2*x@y.T
    return squared.clamp(min=1e-12).sqrt()


class IdentityLoss(nn.Module):
    "Cross-entropy over training identities with label smoothing (Szegedy et al., CVPR 2016), skipping held-out ones"
    def __init__(self,
        smoothing:float=.1, # Share of probability spread over all identities, 0 to 1
    ):
        super().__init__()
        self.smoothing = smoothing

    extra_repr = settings_text

    def forward(self,
        logits, # `(bs, n_ids)`
        ids,    # `(bs,)` int64; at or above n_ids: an identity without a class
    ): # Scalar
        with torch.autocast(logits.device.type, enabled=False):
            known = (ids >= 0) & (ids < logits.shape[1])
            target = torch.where(known, ids, -100)
            loss = F.cross_entropy(full_precision(logits), target, label_smoothing=self.smoothing, reduction='sum')
            return loss/known.sum().clamp(min=1)


class TripletLoss(nn.Module):
    "Triplet loss with the hardest positive and negative of a batch (Hermans, Beyer, Leibe, 2017)"
    def __init__(self,
        margin:float|None=.3, # Distance wanted between negatives and positives; None: the soft margin, log(1 + exp(.))
        normalize:bool=False, # Distances of unit vectors?
    ):
        super().__init__()
        self.margin,self.normalize = margin, normalize

    extra_repr = settings_text

    def forward(self,
        emb, # `(bs, nf)`
        ids, # `(bs,)` int64
    ): # Scalar; a picture without a positive or negative is no anchor, and no anchor at all gives zero
        with torch.autocast(emb.device.type, enabled=False):
            emb = full_precision(emb)
            if self.normalize: emb = F.normalize(emb)
            distance = pairwise_distance(emb, emb)
            same = ids[:, None] == ids[None]
            return hardest_mean(distance, same, self._penalty)

    def _penalty(self, gap): return F.softplus(gap) if self.margin is None else F.relu(gap + self.margin)


class OctupletLoss(nn.Module):
    """Hardest triplets among pictures, among copies, and from each to the other (Knoche et al., FG 2023)

    Four triplet losses: anchors are pictures or degraded copies, positives and negatives are pictures or copies. The
    first half of a batch are the pictures, the second their copies in the same order; a picture and its own copy are no
    pair. Distances are between unit vectors."""
    def __init__(self,
        margin:float=.3,    # Distance wanted between negatives and positives, 0 to 2
        gathered:bool=True, # Over the batches of all processes?
    ):
        super().__init__()
        self.margin,self.gathered = within('margin', margin, 0, 2),gathered

    extra_repr = settings_text

    def forward(self,
        emb, # `(2n, nf)`
        ids, # `(2n,)` int64
    ): # Scalar, the sum of four means over anchors that have a positive and a negative
        n = len(ids)//2
        if len(ids) % 2: raise ValueError(f'The batch has {len(ids)} pictures. Give pictures, then a copy of each.')
        with torch.autocast(emb.device.type, enabled=False):
            both,who = torch.stack(F.normalize(full_precision(emb)).split(n), 1),ids[:n]
            if self.gathered: both,who = gather_rows(both, whole=True), gather(who)
            halves = both.unbind(1)
            same = who[:, None] == who[None]
            return sum(hardest_mean(pairwise_distance(a, o), same, self._penalty) for a in halves for o in halves)

    def _penalty(self, gap): return F.relu(gap + self.margin)


def hardest_mean(
    distance, # `(n, n)` of anchors to others, what is on the diagonal is no pair
    same,     # `(n, n)` bool: of one identity?
    penalty,  # Function of the distance to the farthest positive less that to the nearest negative
): # Scalar
    "Mean penalty of anchors that have a positive and a negative"
    positive = same & ~torch.eye(len(same), dtype=torch.bool, device=same.device)
    farthest = distance.masked_fill(~positive, float('-inf')).max(1).values
    nearest = distance.masked_fill(same, float('inf')).min(1).values
    return anchor_mean(farthest, nearest, positive.any(1) & (~same).any(1), penalty)


def anchor_mean(
    positive, # `(bs,)` distance to positives
    negative, # `(bs,)` distance to negatives
    anchor,   # `(bs,)` bool: has the picture both?
    penalty,  # Function of `positive - negative`
): # Scalar
    "Mean penalty over anchors without leaving the device: a zero with a graph when there is none"
    gap = positive.masked_fill(~anchor, 0.) - negative.masked_fill(~anchor, 0.)
    return (penalty(gap)*anchor).sum()/anchor.sum().clamp(min=1)


class WeightedRegularizedTriplet(nn.Module):
    """AGW's triplet loss without a margin (Ye et al., TPAMI 2021).

    Each positive and negative counts by a softmax of its distance."""
    def __init__(self,
        form:str='stable',    # 'reference' is as published: its negatives fade away beyond distances of 15
        normalize:bool=False, # Distances of unit vectors?
    ):
        super().__init__()
        one_of('form', form, 'stable', 'reference')
        self.form,self.normalize = form, normalize

    extra_repr = settings_text

    def forward(self,
        emb, # `(bs, nf)`
        ids, # `(bs,)` int64
    ): # Scalar; a picture without another positive or without a negative is no anchor; no anchor at all gives zero
        with torch.autocast(emb.device.type, enabled=False):
            emb = full_precision(emb)
            if self.normalize: emb = F.normalize(emb)
            diagonal = torch.eye(len(ids), dtype=torch.bool, device=ids.device)
            # in float32 the distance of a picture to itself is rounding noise of up to 3e-3, and it counts here
            distance = pairwise_distance(emb, emb).masked_fill(diagonal, 1e-6)
            same = ids[:, None] == ids[None]
            anchor = (same & ~diagonal).any(1) & (~same).any(1)
            weigh = masked_softmax if self.form == 'stable' else published_softmax
            positive = (distance*weigh(distance, same)).sum(1)
            negative = (distance*weigh(-distance, ~same)).sum(1)
            return anchor_mean(positive, negative, anchor, F.softplus)


def masked_softmax(
    x,    # `(n, m)`
    mask, # `(n, m)` bool
): # `(n, m)`, zero outside the mask, also where a row has nothing in it
    "Softmax over the entries of each row that are in the mask"
    empty = ~mask.any(1, keepdim=True)
    return x.masked_fill(~(mask | empty), float('-inf')).softmax(1)*mask


def published_softmax(
    x,    # `(n, m)`
    mask, # `(n, m)` bool
): # `(n, m)`
    "The same as AGW published it: shifted by a maximum that counts masked entries as zero, and 1e-6 in the denominator"
    e = (x - (x*mask).amax(1, keepdim=True)).exp()*mask
    return e/(e.sum(1, keepdim=True) + 1e-6)


class CenterLoss(nn.Module):
    "Mean squared distance to the center of one's identity (Wen et al., ECCV 2016); `CenterUpdate` moves the centers"
    def __init__(self,
        n_ids:int,         # Training identities
        nf:int,            # Size of the embedding
        start:str='means', # 'means': of an identity in the first batch that holds it; 'random': standard normal, as AGW
    ):
        super().__init__()
        one_of('start', start, 'means', 'random')
        self.centers = nn.Parameter(torch.randn(n_ids, nf) if start == 'random' else torch.zeros(n_ids, nf))
        self.register_buffer('started', torch.full((n_ids,), start == 'random'))
        self.starts = start == 'means'

    def extra_repr(self): return 'n_ids={}, nf={}'.format(*self.centers.shape)

    def forward(self,
        emb, # `(bs, nf)`
        ids, # `(bs,)` int64; at or above n_ids: an identity without a center, skipped
    ): # Scalar, divided by the pictures that have a center
        with torch.autocast(emb.device.type, enabled=False):
            emb = full_precision(emb)
            known = (ids >= 0) & (ids < len(self.centers))
            # held-out identities borrow center 0 and are masked out below: no boolean indexing, no wait for the device
            row = torch.where(known, ids, 0)
            self._start(emb.detach(), torch.where(known, ids, -1))
            squared = (emb - self.centers[row]).square().sum(1).clamp(1e-12, 1e12)
            return (squared*known).sum()/known.sum().clamp(min=1)

    def _load_from_state_dict(self, *args):
        self.starts = True
        super()._load_from_state_dict(*args)

    @torch.no_grad()
    def _start(self, emb, ids):
        if not self.training or not self.starts: return
        # every process must start a center at the same place
        emb,ids = gather(emb), gather(ids)
        same,row = (ids[:, None] == ids[None]).to(emb.dtype),ids.clamp(min=0)
        mean = (same@emb/same.sum(1, keepdim=True)).to(self.centers.dtype)
        # the first picture of an identity that has no center yet writes it; which those are the device alone knows
        fresh = (ids >= 0) & ~self.started[row] & (same.tril(-1).sum(1) == 0)
        self.centers.data.index_add_(0, row, torch.where(fresh[:, None], mean - self.centers[row], 0.))
        self.started.index_add_(0, row, fresh)


class RecognitionLoss(nn.Module):
    """Weighted sum of named terms over a `Recognition`, as the `loss_func` of a fastai learner.

    `terms` keeps the last values, unweighted. Of several processes the triplet term looks for its positives and
    negatives in the batches of all, as one process with all pictures would; `gathered=False`: in its own."""
    def __init__(self,
        identity:Callable|None=None, # `(logits, ids)` to a scalar; None: `IdentityLoss()`
        triplet:Callable|None=None,  # `(pooled, ids)` to a scalar; None: `TripletLoss()`
        identity_weight:float=1.,    # 0 leaves the term out
        triplet_weight:float=1.,     # 0 leaves the term out
        center:Callable|None=None,   # `(pooled, ids)` to a scalar: a `CenterLoss`, with `CenterUpdate` as a callback
        center_weight:float=5e-4,    # AGW's weight
        gathered:bool=True,          # Is the triplet term over the batches of all processes?
    ):
        super().__init__()
        self.identity = identity or IdentityLoss()
        self.triplet = triplet or TripletLoss()
        self.center = center
        if center is None: center_weight = 0.
        self.weights = {'identity': identity_weight, 'triplet': triplet_weight, 'center': center_weight}
        self.terms,self.reduction,self.gathered = {}, 'mean', gathered

    def extra_repr(self): return ', '.join(f'{k}_weight={w:g}' for k,w in self.weights.items() if w)

    def forward(self,
        pred,     # Training: `Recognition`; evaluation: `(bs, nf)` embeddings
        ids,      # `(bs,)` int64
        *targets, # Quality and whatever else a batch holds: not looked at
    ): # Scalar; in evaluation the triplet term alone: identities that were held out have no class
        ids = of_no_subclass(ids)
        if isinstance(pred, torch.Tensor):
            value = self.triplet(pred, ids)
            return value.expand(len(pred)) if self.reduction == 'none' else value
        terms = self._identity_terms(pred, ids)
        if self.weights['triplet']:
            many = [gather_rows(pred.pooled, whole=True), gather(ids)] if self.gathered else [pred.pooled, ids]
            terms['triplet'] = self.triplet(*many)
        if self.weights['center']: terms['center'] = self.center(pred.pooled, ids)
        self.terms = {name: value.detach() for name,value in terms.items()}
        weights = {name: self.weights.get(name, 1.) for name in terms}
        return sum(weights[name]*value for name,value in terms.items() if weights[name])

    def _identity_terms(self, pred, ids):
        return {'identity': self.identity(pred.logits, ids)} if self.weights['identity'] else {}

    def activation(self, pred):
        "Predictions are used as they come"
        return pred

    def decodes(self,
        pred, # `(bs, nf)`
    ): # Identity -1, quality NaN, scene (-1, -1, -1) for each picture: an embedding names nobody, retrieval does
        "One value for each target, as fastai's `predict` wants"
        n = len(pred)
        identity,scene = (pred.new_full(shape, -1, dtype=torch.int64) for shape in ((n,), (n, 3)))
        return identity, pred.new_full((n,), float('nan')), scene


class MarginLoss(RecognitionLoss):
    """Cross entropy over the logits that a margin head makes of its cosines, as the `loss_func` of a fastai learner.

    Identities that were held out have no class; a batch of them alone costs 0. Other terms of `RecognitionLoss` are off
    unless they get a weight."""
    def __init__(self,
        head,                    # A `MarginHead` or `PartialFC`, the one of the model
        smoothing:float=0.,      # Share of the label spread over all identities, 0 to 1
        triplet_weight:float=0., # 0 leaves the term out
        **kwargs,                # For `RecognitionLoss`: `triplet`, `center`, their weights
    ):
        # in evaluation the triplet term is all there is, and these embeddings are compared by angle
        super().__init__(triplet_weight=triplet_weight, **{'triplet': TripletLoss(normalize=True), **kwargs})
        self.smoothing,self.of_model = smoothing, (head,) # in a tuple: its weights are the model's, not the loss's

    def extra_repr(self):
        return f'head={type(self.head).__name__}, smoothing={self.smoothing:g}, {super().extra_repr()}'

    @property
    def head(self): return self.of_model[0]

    def _identity_terms(self, pred, ids): return self.head.terms(pred.logits, pred.emb, ids, self.smoothing)
