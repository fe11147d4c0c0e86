"Retrieval and verification as fastai metrics: embeddings are stored once and judged once, whatever the number of names"
import re

import numpy as np
import pandas as pd
import torch
from fastai.learner import Metric
from fastcore.foundation import L

from ..columns import complete_table
from ..spelling import match_paths
from .retrieval import by_quality, evaluate_retrieval, ranked_gallery
from .store import EmbeddingStore, Judge
from .verification import evaluate_verification, pair_folds, verification_by_quality

__all__ = ['Retrieval', 'RetrievalJudge', 'RetrievalMetric', 'StoredMetric', 'Verification', 'VerificationJudge',
           'VerificationMetric', 'hardest_pairs', 'hardest_queries', 'judge_of']

GROUPS = '_(worst|middle|best)'


class RetrievalJudge(Judge):
    "`(result, thirds)` of `evaluate_retrieval` and `by_quality`"
    what = 'Retrieval'

    def __init__(self,
        store,    # `EmbeddingStore`
        **kwargs, # For `evaluate_retrieval`
    ):
        super().__init__(store)
        self.kwargs = kwargs

    def judge(self, emb, ids, quality, scene):
        query,camera = scene[:,2] == 1, scene[:,1].numpy()
        if not query.any() or query.all():
            lack = 'no query' if not query.any() else 'queries but no gallery'
            raise ValueError(f"The validation pictures hold {lack}. Set the table's split to 'query' and 'gallery'.")
        sides = (o[of] for o in (emb, ids, camera) for of in (query, ~query))
        result = evaluate_retrieval(*sides, **self.kwargs)
        return result, by_quality(result.per_query, quality[query])


class VerificationJudge(Judge):
    """`(result, thirds)` of `evaluate_verification` and `verification_by_quality`.

    `result.per_pair` also has `row1, row2` (rows of the table) and `quality1, quality2`."""
    what = 'Verification'

    def __init__(self,
        store,    # `EmbeddingStore`
        pairs,    # `path1, path2, same, fold`
        pair_quality=None, # Quality of both pictures of each pair, two of `(n,)`; that of the pictures when not given
        **kwargs, # For `evaluate_verification`
    ):
        super().__init__(store)
        lack = [c for c in ('path1', 'path2', 'same') if c not in pairs]
        if lack: raise ValueError(f'pairs has no column {lack[0]!r}. Use `read_pairs`, which gives it.')
        self.pairs,self.pair_quality,self.kwargs = pairs.reset_index(drop=True),pair_quality,kwargs

    def rows(self, paths):
        "Rows of the table of both pictures of each pair. ValueError naming a path that the table lacks"
        if paths is None:
            raise ValueError('Pairs name pictures by path, and there is no `dls.table` to find them in. '
                             'Use `recognition_dataloaders`.')
        rows = []
        for c in ('path1', 'path2'):
            places = match_paths(self.pairs[c], paths, f'pairs, {c}')
            rows.append(np.where(places < 0, -1, paths.index.to_numpy()[places]))
            self._refuse(c, rows[-1] < 0, 'is not in the table. Make table and pairs together, or add the picture.')
        return rows

    def _refuse(self, c, bad, why):
        if not bad.any(): return
        k = bad.argmax()
        of = f'{c} of {bad.sum()} of {len(bad)} pairs, first in row {k}'
        raise ValueError(f'Picture {self.pairs[c][k]!r} ({of}) {why}')

    def prepare(self, table):
        table = None if table is None else complete_table(table)
        rows = self.rows(None if table is None else table['path'])
        train = table['split'] == 'train'
        for c,o in zip(('path1', 'path2'), rows):
            why = "is not in validation: its split is 'train'. Pairs are judged on pictures of the other splits."
            self._refuse(c, train.loc[o].to_numpy(), why)

    def judge(self, emb, ids, quality, scene):
        seen,places = scene[:,0].numpy(), []
        for c,rows in zip(('path1', 'path2'), self.rows(self.store.paths)):
            places.append(np.searchsorted(seen, rows).clip(max=len(seen) - 1))
            self._refuse(c, seen[places[-1]] != rows, 'was not embedded in this validation.')
        a,b = map(torch.from_numpy, places)
        options = self.kwargs if 'folds' in self.kwargs else {**self.kwargs, 'folds': pair_folds(self.pairs)}
        result = evaluate_verification(emb[a], emb[b], self.pairs['same'], **options)
        quality1,quality2 = (quality[a].numpy(), quality[b].numpy()) if self.pair_quality is None else self.pair_quality
        result.per_pair = result.per_pair.assign(row1=seen[a], row2=seen[b], quality1=quality1, quality2=quality2)
        return result, verification_by_quality(result.per_pair, quality1, quality2)


class StoredMetric(Metric):
    "One figure of a judge of a shared `EmbeddingStore`, 0 to 1"
    def __init__(self,
        figure, # Its name, `rank1` say
        judge,  # `Judge` that finds it
    ): self.figure,self.judge = figure,judge

    def __repr__(self): return f'{self.judge.what}({self.figure!r})'

    @property
    def store(self): return self.judge.store

    def reset(self): self.store.reset()

    def accumulate(self, learn): self.store.accumulate(learn)

    @property
    def name(self): return self.figure

    @property
    def value(self):
        if not self.store.current: return None
        found = self.judge.found()
        if found is None: return float('nan')
        what,_,group = self.figure.partition('_')
        return float(found[1].loc[group, what]) if group else self.of_all(found[0], what)


def judge_of(
    metrics, # Of a `Learner`
    kind,    # `RetrievalMetric` or `VerificationMetric`
): # `Judge`, or `None` where there is no such metric
    "What all metrics of a kind ask"
    return next((o.judge for o in metrics if isinstance(o, kind)), None)


class RetrievalMetric(StoredMetric):
    "One figure of a `RetrievalJudge`, 0 to 1"
    def of_all(self, result, what):
        if not what.startswith('rank'): return getattr(result, what)
        return float(result.cmc[min(int(what[4:]), len(result.cmc)) - 1])


class VerificationMetric(StoredMetric):
    "One figure of a `VerificationJudge`, 0 to 1"
    def of_all(self, result, what):
        if not what.startswith('tar@'): return getattr(result, what)
        return float(result.tar_at_far(float(what[4:]))['tar'].iloc[0])


def _store(store, quality):
    if store is not None and quality is not None:
        raise ValueError('Both quality and store are given. Put the quality into the store: EmbeddingStore(quality).')
    return EmbeddingStore(quality) if store is None else store


def _refuse_others(figures, example):
    for o in figures:
        if not isinstance(o, str):
            raise ValueError(f'A figure is of type {type(o).__name__}, and figures are names. Use {example}.')


def Retrieval(
    *figures:str, # Of `rank1` (any rank to `max_rank`, 50), `mAP`, `mINP`; of a third with `_worst`, `_middle`, `_best`
    quality=None, # Quality of each row of the table, 0 to 100, that cuts the thirds; that of the batches when not given
    store=None,   # `EmbeddingStore` to share with other metrics, or with options of its own; a new one when not given
    **kwargs,     # For `evaluate_retrieval`: `normalize`, `exclude_same_camera`, `max_rank`
)->L:
    """Metrics for a fastai `Learner` over query and gallery pictures in the validation set; all share one store.

    Thirds are of the queries, by their quality."""
    figures = figures or ('rank1', 'mAP', 'mINP')
    _refuse_others(figures, "Retrieval('rank1', 'mAP')")
    for figure in figures:
        if not re.fullmatch(rf'(rank1|mAP|mINP)({GROUPS})?|rank[1-9]\d*', figure):
            raise ValueError(f'Figure {figure!r} is unknown. Use rank1, rank5, ..., mAP, mINP, '
                             'or rank1, mAP, mINP with _worst, _middle, _best.')
        if figure[4:].isdigit() and int(figure[4:]) > (most := kwargs.get('max_rank', 50)):
            raise ValueError(f'{figure} is beyond max_rank={most}. Give a larger max_rank.')
    judge = RetrievalJudge(_store(store, quality), **kwargs)
    return L(RetrievalMetric(figure, judge) for figure in figures)


def Verification(
    *figures:str, # Of `accuracy`, `auc`, `eer`, `tar@1e-2` (any FAR); `accuracy_worst`, `_middle`, `_best` of a third
    pairs,        # `path1, path2, same, fold`, of `read_pairs`: paths of `dls.table`, of pictures in validation
    quality=None, # Quality of each row of the table, 0 to 100, that cuts the thirds; that of the batches when not given
    pair_quality=None, # Quality of both pictures of each pair, two of `(n,)`, in place of these
    store=None,   # `EmbeddingStore` to share with other metrics, or with options of its own; a new one when not given
    **kwargs,     # For `evaluate_verification`: `thresholds`; `folds` in place of those of the pairs
)->L:
    """Metrics for a fastai `Learner` over pairs of validation pictures; all share one store of embeddings.

    Thirds are of the pairs, by the worse of their two qualities. Pairs of one fold are judged over ten of their own.
    ValueError, at the first validation, naming a picture of a pair that is not in the table or is trained on."""
    figures = figures or ('accuracy', 'auc', 'eer')
    _refuse_others(figures, "Verification('accuracy', 'auc', pairs=pairs)")
    for figure in figures:
        if not re.fullmatch(rf'accuracy({GROUPS})?|auc|eer|tar@\d*\.?\d+(e-?\d+)?', figure):
            raise ValueError(f'Figure {figure!r} is unknown. Use accuracy, auc, eer, tar@1e-2, ..., '
                             'or accuracy with _worst, _middle, _best.')
        if figure.startswith('tar@') and not 0 < float(figure[4:]) <= 1:
            raise ValueError(f'Figure {figure!r} has no such rate. A FAR is above 0 and at most 1.')
    judge = VerificationJudge(_store(store, quality), pairs, pair_quality, **kwargs)
    return L(VerificationMetric(figure, judge) for figure in figures)


def hardest_queries(
    store,     # `EmbeddingStore` after a validation
    n:int=16,  # Queries
    top:int=5, # Gallery pictures of each
)->pd.DataFrame: # A row a query, the hardest first
    """The answerable queries with the lowest average precision, and what the gallery answered

    `row, quality, ap, first_rank`, `answer` (the row of the first right one), `gallery` (rows of the table), `correct`.
    """
    judge = store.judge(RetrievalJudge)
    found = judge.found() if judge else None
    columns = ['row', 'quality', 'ap', 'first_rank', 'answer', 'gallery', 'correct']
    if found is None: return pd.DataFrame(columns=columns)
    emb,ids,quality,scene = store.gathered()
    query = scene[:,2] == 1
    worst = found[0].per_query.query('answerable').sort_values(['ap', 'query'], kind='stable').head(n)
    pick = torch.from_numpy(worst['query'].to_numpy().copy())
    q,g = query.nonzero().flatten()[pick], (~query).nonzero().flatten()
    cameras = (scene[q, 1], scene[g, 1]) if judge.kwargs.get('exclude_same_camera', True) else (None, None)
    # ranked as it was judged
    normalize = judge.kwargs.get('normalize', True)
    first = worst['first_rank'].astype(int).to_numpy()
    lists = ranked_gallery(emb[q], emb[g], ids[q], ids[g], *cameras, top=max(top, *first, 0), normalize=normalize)
    asked,there = scene[q, 0].numpy(), scene[g, 0].numpy()  # numpy takes a tensor of one number for that number
    found = [[there[i] for i in row[:top] if i >= 0] for row in lists.index]
    answer = [there[row[k - 1]] for row,k in zip(lists.index, first)]
    return pd.DataFrame({'row': asked, 'quality': quality[q].numpy(), 'ap': worst['ap'].to_numpy(),
                         'first_rank': first, 'answer': answer, 'gallery': found,
                         'correct': [list(o[:len(f)]) for o,f in zip(lists.right, found)]})


def hardest_pairs(
    pairs,    # `EmbeddingStore` after a validation with `Verification`, or `per_pair` of its result
    n:int=16, # Pairs of each kind
)->pd.DataFrame: # Hardest first: `row1, row2, same, score, threshold, correct, quality1, quality2, quality`
    """The pairs of one person that are least alike, then the pairs of two people that are most alike.

    `row1` and `row2` are rows of the table, `quality` is the worse of the two."""
    columns = ['row1', 'row2', 'same', 'score', 'threshold', 'correct', 'quality1', 'quality2']
    if not isinstance(pairs, pd.DataFrame):
        judge = pairs.judge(VerificationJudge)
        found = judge.found() if judge else None
        pairs = pd.DataFrame(columns=columns) if found is None else found[0].per_pair
    pairs = pairs[columns].assign(quality=pairs[['quality1', 'quality2']].min(axis=1, skipna=False))
    if not len(pairs): return pairs
    one,two = pairs[pairs['same']], pairs[~pairs['same']]
    one,two = (o.sort_values('score', ascending=up, kind='stable').head(n) for o,up in ((one, True), (two, False)))
    return pd.concat([one, two])
