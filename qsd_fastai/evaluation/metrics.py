"The judging functions as fastai metrics: embeddings are stored once and ranked once, whatever the number of names."
import re
import warnings

import numpy as np
import pandas as pd
import torch
from fastai.learner import Metric
from fastcore.foundation import L

from .retrieval import by_quality, evaluate_retrieval, ranked_gallery

__all__ = ['Retrieval', 'RetrievalMetric', 'RetrievalStore', 'hardest_queries']


class RetrievalStore:
    "What validation has embedded, and its judgement once somebody asks; it stays until the next validation, whatever is predicted meanwhile"
    def __init__(self, quality=None, **kwargs):
        if quality is not None:
            quality = np.asarray(quality, dtype=np.float32)
            bad = (quality < 0) | (quality > 100)
            if bad.any(): raise ValueError(f'quality of row {bad.argmax()} is {quality[bad.argmax()]:g}: it runs from 0 to 100, NaN where unknown.')
        self.row_quality,self.kwargs = quality,kwargs
        self.parts,self._judged,self.current = [],None,False

    def reset(self): self.current = False  # fastai does this before predictions too

    def __getstate__(self): return {**self.__dict__, 'parts': [], '_judged': None, 'current': False}  # an exported learner carries no gallery

    def accumulate(self, learn):
        if hasattr(learn, 'gather_preds'): return  # predictions are wanted, nobody looks at metrics
        if len(learn.yb) < 3:
            raise ValueError('Retrieval needs the targets (identity, quality, scene). Add `IdentityBlock`, `QualityBlock` and `SceneBlock` '
                             'to the DataBlock, or use `recognition_dataloaders`.')
        if self.row_quality is not None and (last := int(learn.yb[2][:,0].max())) >= len(self.row_quality):
            raise ValueError(f'quality has {len(self.row_quality)} entries and the table at least {last + 1} rows. Give one for each row.')
        emb = learn.pred if isinstance(learn.pred, torch.Tensor) else learn.pred.emb
        if not self.current: self.parts,self.current = [],True
        self.parts.append([learn.to_detach(t).as_subclass(torch.Tensor) for t in (emb, *learn.yb[:3])])
        self._judged = None

    def gathered(self):
        "Embeddings, identities, qualities and scenes of the pictures seen, one row each, in the order of the table"
        emb,ids,quality,scene = (torch.cat(o) for o in zip(*self.parts))
        rows,first = np.unique(scene[:,0].numpy(), return_index=True)  # several processes may have seen a picture each
        emb,ids,quality,scene = (t[torch.from_numpy(first)] for t in (emb, ids, quality, scene))
        if self.row_quality is not None: quality = torch.from_numpy(self.row_quality[rows])
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
        if not self.store.current: return None
        result,thirds = self.store.judged()
        if result is None: return float('nan')
        what,_,group = self.figure.partition('_')
        if group: return float(thirds.loc[group, what])
        return float(result.cmc[min(int(what[4:]), len(result.cmc)) - 1]) if what.startswith('rank') else getattr(result, what)


def Retrieval(
    *figures:str,  # Of `rank1` (any rank up to `max_rank`, 50), `mAP`, `mINP`; `_worst`, `_middle`, `_best` for a third of the queries by quality
    quality=None,  # Quality of each row of the table, 0 to 100, that cuts the thirds; that of the batches when not given
    **kwargs,      # For `evaluate_retrieval`: `normalize`, `exclude_same_camera`, `max_rank`
)->L:
    "Metrics for a fastai `Learner` over query and gallery pictures in the validation set; all share one store of embeddings"
    figures = figures or ('rank1', 'mAP', 'mINP')
    for figure in figures:
        if not re.fullmatch(r'(rank1|mAP|mINP)(_(worst|middle|best))?|rank[1-9]\d*', figure):
            raise ValueError(f'Figure {figure!r} is unknown. Use rank1, rank5, ..., mAP, mINP, or rank1, mAP, mINP with _worst, _middle, _best.')
        if figure[4:].isdigit() and int(figure[4:]) > (most := kwargs.get('max_rank', 50)):
            raise ValueError(f'{figure} is beyond max_rank={most}. Give a larger max_rank.')
    store = RetrievalStore(quality, **kwargs)
    return L(RetrievalMetric(figure, store, owner=i == 0) for i,figure in enumerate(figures))


def hardest_queries(
    store,      # `RetrievalStore` after a validation
    n:int=16,   # Queries
    top:int=5,  # Gallery pictures of each
)->pd.DataFrame: # `row, quality, ap, first_rank`, `gallery` (rows of the table) and `correct`, the hardest first
    "The answerable queries with the lowest average precision, and what the gallery answered"
    judged = store.judged()
    if judged is None or judged[0] is None: return pd.DataFrame(columns=['row', 'quality', 'ap', 'first_rank', 'gallery', 'correct'])
    emb,ids,quality,scene = store.gathered()
    query = scene[:,2] == 1
    worst = judged[0].per_query.query('answerable').sort_values(['ap', 'query'], kind='stable').head(n)
    pick = torch.from_numpy(worst['query'].to_numpy().copy())
    camera = scene[:,1].numpy()
    q,g = query.nonzero().flatten()[pick], (~query).nonzero().flatten()
    cameras = (camera[q], camera[g]) if store.kwargs.get('exclude_same_camera', True) else (None, None)
    # ranked as it was judged
    lists = ranked_gallery(emb[q], emb[g], ids[q], ids[g], *cameras, top=top, normalize=store.kwargs.get('normalize', True))
    rows = scene[:,0].numpy()
    found = [[rows[g[i]] for i in row if i >= 0] for row in lists.index]
    return pd.DataFrame({'row': rows[q], 'quality': quality[q].numpy(), 'ap': worst['ap'].to_numpy(),
                         'first_rank': worst['first_rank'].astype(int).to_numpy(), 'gallery': found,
                         'correct': [list(o[:len(f)]) for o,f in zip(lists.right, found)]})
