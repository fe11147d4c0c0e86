"The judging functions as fastai metrics: embeddings are stored once and ranked once, whatever the number of names."
import warnings

import numpy as np
import torch
from fastai.learner import Metric
from fastcore.foundation import L

from .retrieval import by_quality, evaluate_retrieval

__all__ = ['Retrieval', 'RetrievalMetric', 'RetrievalStore']


class RetrievalStore:
    "What validation has embedded so far, and its judgement once somebody asks"
    def __init__(self, quality=None, **kwargs): self.row_quality,self.kwargs = quality,kwargs; self.reset()

    def reset(self): self.parts,self._judged = [],None

    def __getstate__(self): return {**self.__dict__, 'parts': [], '_judged': None}  # an exported learner carries no gallery

    def accumulate(self, learn):
        if len(learn.yb) < 3:
            raise ValueError('Retrieval needs the targets (identity, quality, scene). Add `IdentityBlock`, `QualityBlock` and `SceneBlock` '
                             'to the DataBlock, or use `recognition_dataloaders`.')
        emb = learn.pred if isinstance(learn.pred, torch.Tensor) else learn.pred.emb
        self.parts.append([learn.to_detach(t).as_subclass(torch.Tensor) for t in (emb, *learn.yb[:3])])
        self._judged = None

    def gathered(self):
        "Embeddings, identities, qualities and scenes of the pictures seen, one row each, in the order of the table"
        emb,ids,quality,scene = (torch.cat(o) for o in zip(*self.parts))
        rows,first = np.unique(scene[:,0].numpy(), return_index=True)  # several processes may have seen a picture each
        emb,ids,quality,scene = (t[torch.from_numpy(first)] for t in (emb, ids, quality, scene))
        if self.row_quality is not None: quality = torch.as_tensor(np.asarray(self.row_quality, dtype=np.float32)[rows])
        return emb,ids,quality,scene

    def judged(self):
        "`(result, thirds)` of `evaluate_retrieval` and `by_quality`; `None` where nothing can be judged"
        if self._judged is None and self.parts:
            emb,ids,quality,scene = self.gathered()
            query = scene[:,2] == 1
            if not query.any() or query.all():
                warnings.warn('The validation pictures hold ' + ('no query' if not query.any() else 'queries but no gallery') +
                              ", so retrieval is not judged. Set the table's split to 'query' and 'gallery'.", stacklevel=2)
                self._judged = (None, None)
            else:
                camera = scene[:,1].numpy()
                try:
                    result = evaluate_retrieval(emb[query], emb[~query], ids[query], ids[~query], camera[query], camera[~query], **self.kwargs)
                    self._judged = result, by_quality(result.per_query, quality[query])
                except ValueError as e:  # a run of hours must not end for a figure
                    warnings.warn(f'Retrieval is not judged: {e}', stacklevel=2)
                    self._judged = (None, None)
        return self._judged


class RetrievalMetric(Metric):
    "One figure of a shared `RetrievalStore`, 0 to 1"
    def __init__(self, figure, store, owner): self.figure,self.store,self.owner = figure,store,owner

    def reset(self):
        if self.owner: self.store.reset()

    def accumulate(self, learn):
        if self.owner: self.store.accumulate(learn)

    @property
    def name(self): return self.figure

    @property
    def value(self):
        judged = self.store.judged()
        if judged is None: return None
        result,thirds = judged
        if result is None: return float('nan')
        what,_,group = self.figure.partition('_')
        if group: return float(thirds.loc[group, what])
        return float(result.cmc[min(int(what[4:]), len(result.cmc)) - 1]) if what.startswith('rank') else getattr(result, what)


def Retrieval(
    *figures:str,  # Of `rank1` (any rank up to 50), `mAP`, `mINP`; with `_worst`, `_middle` or `_best` for a third of the queries by quality
    quality=None,  # Quality of each row of the table, 0 to 100, that cuts the thirds; that of the batches when not given
    **kwargs,      # For `evaluate_retrieval`: `normalize`, `exclude_same_camera`, `max_rank`
)->L:
    "Metrics for a fastai `Learner` over query and gallery pictures in the validation set; all share one store of embeddings"
    figures = figures or ('rank1', 'mAP', 'mINP')
    for figure in figures:
        what,_,group = figure.partition('_')
        known = what in ('mAP', 'mINP') or (what[:4] == 'rank' and what[4:].isdigit() and int(what[4:]) > 0)
        if not known or group not in ('', 'worst', 'middle', 'best') or (group and what not in ('rank1', 'mAP', 'mINP')):
            raise ValueError(f'Figure {figure!r} is unknown. Use rank1, rank5, ..., mAP, mINP, or rank1, mAP, mINP with _worst, _middle, _best.')
    store = RetrievalStore(quality, **kwargs)
    return L(RetrievalMetric(figure, store, owner=i == 0) for i,figure in enumerate(figures))
