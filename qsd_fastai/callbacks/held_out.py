"What `valid_loss` says of people whom the head does not know, and the loss of a picture of theirs"
import warnings
from dataclasses import dataclass
from inspect import signature

import numpy as np
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import TrackerCallback
from fastai.learner import AvgMetric
from fastai.torch_core import num_distrib
from fastcore.foundation import L

from ..evaluation.metrics import RetrievalMetric, StoredMetric, VerificationMetric, judge_of
from ..evaluation.retrieval import evaluate_retrieval
from ..evaluation.store import lacks_targets
from ..fits import is_fit
from ..tensors import plain_tensor
from .running_loss import KeptLosses, RunningLoss

__all__ = ['HeldOut', 'HeldOutLoss', 'Sides', 'ranking_losses', 'trackers_of']


def trackers_of(
    cbs, # Callbacks, or classes of them
)->L:
    "`SaveModelCallback` and its kin, which compare epochs and act on it"
    return L(o for o in L(cbs) if issubclass(o if isinstance(o, type) else type(o), TrackerCallback))


class HeldOutLoss(RunningLoss):
    """`valid_loss`, 0 to 1: 1 - mAP with a `Retrieval` metric, 1 - AUC with a `Verification` metric.

    Held-out people have no class, and a triplet term over whatever stands together in a batch rises as embeddings
    spread, while the search gets better. Without such a metric that term is all there is."""
    metrics = ()

    def accumulate(self,
        learn, # `Learner`
    ):
        super().accumulate(learn)
        self.metrics = learn.metrics

    @property
    def value(self):
        for kind,figure in ((RetrievalMetric, 'mAP'), (VerificationMetric, 'auc')):
            judge = judge_of(self.metrics, kind)
            found = judge.found() if judge is not None and judge.store.current else None
            if found: return 1 - float(getattr(found[0], figure))
        return super().value


class HeldOut(Callback):
    """Makes `valid_loss` a `HeldOutLoss`, and the losses of `get_preds(with_loss=True)` those of `ranking_losses`.

    Warns where a callback watches a `valid_loss` that nothing judges; ValueError where it watches what is not there."""
    order = KeptLosses.order + 5 # After predictions are gathered, and the recorder has its names; before the trackers

    def after_create(self): self.learn.recorder.loss = HeldOutLoss()

    def before_fit(self):
        names = list(self.recorder.metric_names[1:])
        for o in trackers_of(self.learn.cbs) if not hasattr(self.learn, 'gather_preds') else (): # Then they sleep
            if o.monitor not in names:
                there = ', '.join(k for k in names if k != 'time')
                raise ValueError(f'monitor of {type(o).__name__} is {o.monitor!r}, and there is none. '
                                 f'Use one of {there}, or add it to the metrics.')
        if is_fit(self.learn):
            self._check_targets()
            self._check_nobody()
        judged = any(judge_of(self.metrics, o) for o in (RetrievalMetric, VerificationMetric))
        if judged or not is_fit(self.learn): return
        watching = [o.name for o in trackers_of(self.learn.cbs) if o.monitor == 'valid_loss']
        if not watching: return
        warnings.warn(f'{", ".join(watching)}: watches valid_loss, which does not say how well people are found: '
                      "without a metric it is a term over single batches. Give metrics=Retrieval('mAP') and "
                      "monitor='mAP'.", stacklevel=2)

    def _check_targets(self):
        "ValueError for a metric that cannot take what validation gives it, before an epoch is trained"
        dataset = getattr(self.dls.valid, 'dataset', None) if len(self.dls.loaders) > 1 else None
        if not (tls := getattr(dataset, 'tls', ())): return
        n = len(tls) - dataset.n_inp
        if n < 3 and any(isinstance(o, StoredMetric) for o in self.metrics): raise lacks_targets()
        for o in self.metrics:
            if type(o) is AvgMetric: _refuse_function(o.func, n)

    def _check_nobody(self):
        "Nobody is held out: a warning where somebody was to be judged, ValueError where a callback acts on it"
        if len(self.dls.loaders) > 1 and getattr(self.dls.valid, 'n', None) != 0: return
        said = 'Nobody is held out, of a table as query, gallery or val'
        for o in trackers_of(self.learn.cbs):
            if o.monitor.startswith('train_') or getattr(o, 'every_epoch', False): continue
            raise ValueError(f'{said}, and {type(o).__name__} watches {o.monitor}. Hold some out, or leave it out.')
        named = [k for k in self.recorder.metric_names[1:] if not k.startswith(('train_', 'valid_loss', 'time'))]
        if named: warnings.warn(f'{said}, so that {", ".join(named)} cannot be told.', stacklevel=2)

    @property
    def wanted(self):
        "Losses of pictures, where there are all of them: each of several processes has a part"
        return getattr(getattr(self.learn, 'gather_preds', None), 'with_loss', False) and num_distrib() < 2

    def before_validate(self): self.seen = []

    def before_batch(self):
        if getattr(getattr(self.learn, 'gather_preds', None), 'with_loss', False) and not len(self.yb):
            raise ValueError('dl has pictures without labels, and nothing to take a loss of. '
                             'Use `learn.dls.test_dl(table, with_labels=True)`.')

    def after_batch(self):
        if not self.training and self.wanted: self.seen.append(self.learn.to_detach((self.pred, *self.yb)))

    def after_validate(self):
        if not self.wanted or not self.seen: return
        emb,ids,*others = (torch.cat(list(map(plain_tensor, o))) for o in zip(*self.seen))
        self.seen = []
        try: self.learn.gather_preds.losses = ranking_losses(emb, ids, others[-1] if others else None)
        except ValueError as e: warnings.warn(f'Losses are those of batches: {e}', stacklevel=2)


def _refuse_function(
    func,  # Of a metric
    n:int, # Targets that it is given
):
    "ValueError where it does not take the embeddings and so many targets"
    try: signature(func).bind(*[None]*(1 + n))
    except TypeError:
        targets = ', '.join(('identity', 'quality', 'scene')[:n])
        name = getattr(func, '__name__', type(func).__name__)
        raise ValueError(f'metrics holds {name}, which does not take what it is given: (emb, {targets}). Give a '
                         'function of these.') from None
    except ValueError: return # It does not tell what it takes


@dataclass
class Sides:
    "Who searches whom among pictures that are judged: queries the gallery, or each picture all others"
    asking: torch.Tensor   # `(n_queries,)` numbers of the pictures that search
    searched: torch.Tensor # `(n_gallery,)` numbers of the pictures that are searched
    cameras: tuple         # Of both; where each picture searches the others, what takes it out of what it searches

    @classmethod
    def of(cls,
        n:int,      # Pictures
        scene=None, # `(n, 3)` row, camera, role (1: query), as loaders give it; None: unknown
    ):
        "Queries search where there are some, and a gallery"
        roles = None if scene is None else plain_tensor(scene)
        query = torch.zeros(n, dtype=torch.bool) if roles is None else roles[:, 2] == 1
        if not query.any() or query.all(): return cls(every := torch.arange(n), every, (every.numpy(), every.numpy()))
        return cls(query.nonzero()[:, 0], (~query).nonzero()[:, 0], tuple(roles[o, 1].numpy() for o in (query, ~query)))

    @property
    def each_other(self)->bool:
        "Does each picture search the others?"
        return self.asking is self.searched

    def split(self,
        emb, # `(n, nf)` embeddings
        ids, # `(n,)` int64
    )->tuple:
        "What `evaluate_retrieval` and `ranked_gallery` begin with"
        emb,ids = plain_tensor(emb), plain_tensor(ids)
        return *(o[of] for o in (emb, ids) for of in (self.asking, self.searched)), *self.cameras


def ranking_losses(
    emb,        # `(n, nf)` embeddings
    ids,        # `(n,)` int64
    scene=None, # `(n, 3)` row, camera, role (1: query), as loaders give it; None: unknown
)->torch.Tensor: # `(n,)` float32
    """1 - AP of each query, which searches the gallery; without any, of each picture, which searches the others.

    0 for a picture of the gallery, and for a query that nothing answers. ValueError where none can be answered."""
    sides,losses = Sides.of(len(ids), scene), torch.zeros(len(ids))
    ap = evaluate_retrieval(*sides.split(emb, ids)).per_query['ap'].to_numpy(np.float32, copy=True)
    losses[sides.asking] = (1 - torch.from_numpy(ap)).nan_to_num(0.)
    return losses
