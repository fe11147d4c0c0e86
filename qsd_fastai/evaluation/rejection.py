"""What rejecting the worst pictures is worth: error against the share rejected, beside chance and the ideal.

The rules, since published curves differ in all of them:
- What is rejected is a *unit*: a `picture` (with it go all pairs that it is in), a `pair` (by the worse quality of its
  two), or a `query`. The axis counts units; at a share s the floor(s x units) worst are gone.
- Equal qualities are rejected in an order drawn from `seed`, so that no order of the table helps or hurts.
- A unit of unknown quality (NaN), in whichever of the qualities compared, is in no curve, so that all curves start from
  the same units; `n_left_out` counts them.
- `area` is the mean of the curve up to a share: its integral over that share, divided by it."""
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

import numpy as np
import pandas as pd

from ..choices import one_of
from ..tensors import plain_vector
from ..unknown import check_quality
from .given import given_scores, one_each
from .roc import false_accepts_allowed, highest

__all__ = ['RejectionResult', 'error_vs_reject', 'rejection_of', 'retrieval_vs_reject']


@dataclass
class RejectionResult:
    "Curves over the share of units rejected"
    curves: pd.DataFrame # Index `rejected`, 0..1; a column each quality, then `random` and `ideal`; NaN: not judged
    areas: pd.DataFrame  # A row a curve: its mean height, `partial` (0 to `area`) and `whole` (0 to `whole_to`)
    what: str            # What the curves show: 'false non-match rate at FMR 0.001', 'mAP'
    better: str          # 'lower' or 'higher'
    unit: str            # 'picture', 'pair' or 'query'
    rule: str            # More rules in words, 'threshold fixed at the start' say
    area: float          # Share rejected that `partial` goes up to
    whole_to: float      # Share rejected up to which every curve is defined
    n_units: int         # At the start
    n_left_out: int      # Units of unknown quality (or unanswerable queries), in no curve

    @property
    def how(self):
        "What the areas are of, for a protocol"
        return f'mean over the first {self.area:.0%}; {self.rule}'

    def __repr__(self):
        units = 'queries' if self.unit == 'query' else f'{self.unit}s'
        left_out = f', {self.n_left_out} left out' if self.n_left_out else ''
        what = f'{self.what} against rejected share of {self.n_units} {units}{left_out}; {self.rule}'
        return f'{what}\n{self.areas.to_string()}'


def _qualities(quality, n, what):
    named = quality if isinstance(quality, dict) else {'quality': quality}
    if not named: raise ValueError('quality is empty. Give one quality or more to reject by.')
    quality = {k: check_quality(v, f'quality {k!r}') for k,v in named.items()}
    for name,o in quality.items():
        if name in ('random', 'ideal'):
            raise ValueError(f'A quality is called {name!r}, as a curve that is drawn anyway. Rename it.')
        one_each(o, n, f'quality {name!r}', what)
    return quality


def _shares(shares, area):
    shares = np.arange(96)/100 if shares is None else plain_vector(shares).astype(float)
    if not ((shares >= 0) & (shares < 1)).all():
        raise ValueError(f'shares runs from {shares.min():g} to {shares.max():g}. Keep it at 0 or above and below 1.')
    if not 0 < area < 1: raise ValueError(f'area is {area}. It must be above 0 and below 1.')
    return np.unique(np.r_[0, shares, area])


def _places(order):
    "Where (n,) each unit stands in `order`"
    places = np.empty(len(order), dtype=np.int64)
    places[order] = np.arange(len(order))
    return places


def _position(quality, rng):
    "The place (n,) of each unit in the order of rejection, 0 goes first; equal qualities by chance"
    return _places(np.lexsort((rng.permutation(len(quality)), quality)))


def rejection_of(
    curves:pd.DataFrame, # Index: shares rejected, ascending from 0; a column a curve, NaN where it is not judged
    area:float,          # Share rejected that the partial mean goes up to, one of the index
    **kwargs,            # The other fields of `RejectionResult`, but `areas` and `whole_to`
)->RejectionResult:
    "Curves with the areas under them"
    shares = curves.index.to_numpy()
    holes = curves.isna().any(axis=1).to_numpy()
    whole_to = float(shares[(holes.argmax() if holes.any() else len(shares)) - 1])
    def mean_height(end):
        "NaN where the curve has a hole"
        part = curves[shares <= end]
        return np.trapezoid(part, part.index, axis=0)/end if end > 0 else np.full(curves.shape[1], np.nan)
    areas = pd.DataFrame({'partial': mean_height(area), 'whole': mean_height(whole_to)},
                         index=pd.Index(curves.columns, name='curve'))
    return RejectionResult(curves, areas, area=area, whole_to=whole_to, **kwargs)


def _over(shares, curves): return pd.DataFrame(curves, index=pd.Index(shares, name='rejected'))


class _Pairs:
    "Scores of pairs, and the error of those whose life is longer than a step"
    def __init__(self, scores, same, far, refixed):
        self.same,self.far,self.refixed = same,far,refixed
        self.pos,self.neg = scores[same], scores[~same]
        k = false_accepts_allowed(far, len(self.neg))
        if k < 1:
            raise ValueError(f'{len(self.neg)} pairs of two people are too few for a false-match rate of {far:g}. '
                             f'Take {np.ceil(1/far):.0f} or more, or a higher rate.')
        self.limit = highest(self.neg, k + 1)[0]  # what scores above it is accepted
        self._take(4*(k + 1))

    def _take(self, n):
        "The `n` highest scores of false pairs, falling, and where they are: thresholds need no others"
        least = highest(self.neg, n)[0]
        where = np.flatnonzero(self.neg >= least)
        self.where = where[np.argsort(-self.neg[where], kind='stable')]

    def errors(self, life, n_steps):
        "False non-match rate (n_steps,); `life` of every pair: at how many of the steps it is still there"
        pos_life,out = life[self.same], np.full(n_steps, np.nan)
        limits = np.full(n_steps, self.limit) if not self.refixed else self._limits(life[~self.same], n_steps)
        for step,limit in enumerate(limits):
            kept = self.pos[pos_life > step]
            if len(kept) and not np.isnan(limit): out[step] = (kept <= limit).mean()
        return out

    def _limits(self, life, n_steps):
        "Score (n_steps,) of the first false pair too many among those that each step keeps"
        n_kept = len(life) - np.bincount(life, minlength=n_steps).cumsum()
        limits = np.full(n_steps, np.nan)
        for step in range(n_steps):
            k = false_accepts_allowed(self.far, n_kept[step])
            if k < 1: continue
            while len(kept := self.where[life[self.where] > step]) <= k: self._take(2*len(self.where))
            limits[step] = self.neg[kept[k]]
        return limits


def _ideal_pairs(scores, same, limit):
    """Quality of pairs that rejects the true pairs that err first, the lowest score first.

    Then go false pairs, the highest score first, then the others."""
    group = np.where(same & (scores <= limit), 0, np.where(same, 2, 1))
    return _places(np.lexsort((np.where(group == 1, -scores, scores), group)))


def _ideal_pictures(first, second, n):
    """Quality of pictures that rejects whichever is in most of the erring pairs that remain, the lower row first.

    Greedy, which is near the least error that there can be."""
    ends,others = np.concatenate([first, second]), np.concatenate([second, first])
    pair = np.tile(np.arange(len(first)), 2)
    order = np.argsort(ends, kind='stable')
    start = np.searchsorted(ends[order], np.arange(n + 1))
    others,pair = others[order].tolist(), pair[order].tolist()
    degree,done = np.diff(start).tolist(), [False]*len(first)
    quality = np.full(n, n, dtype=float)
    heap = [(-d, i) for i,d in enumerate(degree) if d]
    heapify(heap)
    k = 0
    while heap:
        d,i = heappop(heap)
        if -d != degree[i] or not degree[i]: continue  # counted anew since
        quality[i],degree[i],k = k, 0, k + 1
        for at in range(start[i], start[i + 1]):
            if done[pair[at]]: continue
            done[pair[at]],other = True, others[at]
            degree[other] -= 1
            if degree[other]: heappush(heap, (-degree[other], other))
    return quality


def error_vs_reject(
    scores,            # `(n,)` similarities of pairs, higher is more alike; of `pair_scores`, say
    same,              # `(n,)` 1 where both show one person, 0 where not
    first,             # `(n,)` row of the first picture of each pair
    second,            # `(n,)` row of the second; `all_pairs` gives both for all pairs of pictures
    quality,           # `(n_imgs,)` quality 0..100 of the pictures, NaN unknown; or name -> quality, for several
    unit='picture',    # What is rejected: 'picture', with all its pairs, or 'pair', by the worse quality of its two
    far=1e-3,          # The false-match rate at which true pairs are judged
    threshold='fixed', # 'fixed': set once, on all pairs; 'refixed': set anew on the pairs kept, as is often published
    area=.2,           # Share rejected up to which the partial area goes
    shares=None,       # Shares rejected to judge at; None: 0, .01, ..., .95
    n_random=10,       # Shuffles that `random` is the mean of, where it is not known exactly
    seed=0,            # Of the shuffles and of the order of equal qualities
)->RejectionResult:
    """False non-match rate at a false-match rate as the worst pictures are rejected (error-versus-reject or -discard).

    The threshold is the lowest with a false-match rate of at most `far`, as in `tar_at_far`. A point is NaN where no
    true pair is left, or, refixed, too few false ones for a single false match.
    `random`: rejection by chance. With a fixed threshold that is the error at the start, which is what is to be
    expected; refixed, the mean over shuffles.
    `ideal`: for pairs, the true pairs that err at the start's threshold go first, lowest score first (nothing can do
    better while it is fixed), then false pairs, highest first; for pictures, whichever is in most of the erring true
    pairs that remain. ValueError for lengths, NaN scores, rows without quality, and too few pairs."""
    scores,same = given_scores(scores, same)
    first,second = plain_vector(first), plain_vector(second)
    if not len(first) == len(second) == len(scores):
        raise ValueError(f'scores has {len(scores)} entries, first {len(first)} and second {len(second)}. '
                         'Give one of each for a pair.')
    one_of('unit', unit, 'picture', 'pair')
    one_of('threshold', threshold, 'fixed', 'refixed')
    if not 0 < far < 1: raise ValueError(f'far is {far}. A far must be above 0 and below 1.')
    by_picture,fixed = unit == 'picture',threshold == 'fixed'
    n_imgs = len(plain_vector(next(iter(quality.values())) if isinstance(quality, dict) and quality else quality))
    quality,shares = _qualities(quality, n_imgs, 'pictures'), _shares(shares, area)
    rng = np.random.default_rng(seed)
    for name,o in (('first', first), ('second', second)):
        if o.min() < 0 or o.max() >= n_imgs:
            raise ValueError(f'{name} runs from row {o.min()} to {o.max()}, and quality has {n_imgs} entries. '
                             'Give one for each picture.')

    known = ~np.isnan(np.array(list(quality.values()))).any(0)
    judged = known[first] & known[second]
    used = np.zeros((2, n_imgs), dtype=bool)  # pictures in pairs, and in pairs that are judged
    for row,o in ((0, slice(None)), (1, judged)): used[row, first[o]] = used[row, second[o]] = True
    n_left_out = int((used[0] & ~used[1]).sum() if by_picture else (~judged).sum())
    if n_left_out:
        if not judged.any(): raise ValueError('No pair has two pictures of known quality. Label some first.')
        scores,same,first,second = (o[judged] for o in (scores, same, first, second))
        scores,same = given_scores(scores, same)
    pairs = _Pairs(scores, same, far, not fixed)
    n_units = int(used[1].sum()) if by_picture else len(scores)
    row = np.cumsum(used[1]) - 1  # of a picture among those judged
    gone = np.floor(shares*n_units + 1e-9).astype(np.int64)

    def curve(unit_quality):
        life = np.searchsorted(gone, _position(unit_quality, rng), side='right')
        life = life.astype(np.int16 if len(gone) < 2**15 else np.int64)
        if by_picture: life = np.minimum(life[row[first]], life[row[second]])
        return pairs.errors(life, len(gone))

    of_units = (o[used[1]] if by_picture else np.minimum(o[first], o[second]) for o in quality.values())
    curves = {name: curve(o) for name,o in zip(quality, of_units)}
    if fixed: curves['random'] = np.full(len(gone), (pairs.pos <= pairs.limit).mean())
    else: curves['random'] = np.mean([curve(np.zeros(n_units)) for _ in range(n_random)], axis=0)
    if by_picture:
        wrong = same & (scores <= pairs.limit)
        ideal = _ideal_pictures(row[first[wrong]], row[second[wrong]], n_units)
    else: ideal = _ideal_pairs(scores, same, pairs.limit)
    curves['ideal'] = curve(ideal)
    rule = 'threshold fixed at the start' if fixed else 'threshold set anew on what is kept'
    return rejection_of(_over(shares, curves), area, what=f'false non-match rate at FMR {far:g}', better='lower',
                        unit=unit, rule=rule, n_units=n_units, n_left_out=n_left_out)


def retrieval_vs_reject(
    per_query,    # `RetrievalResult.per_query`
    quality,      # `(n_queries,)` quality 0..100 of the query pictures, NaN unknown; or name -> quality
    figure='mAP', # 'mAP', 'rank1' or 'mINP', over the queries kept
    area=.2,      # Share rejected up to which the partial area goes
    shares=None,  # Shares rejected to judge at; None: 0, .01, ..., .95
    seed=0,       # Of the order of equal qualities
)->RejectionResult:
    """A figure of the queries kept as the queries of lowest quality are rejected; the gallery stays as it is.

    `random` is the figure at the start, which is what rejection by chance is expected to keep; `ideal` rejects the
    query with the lowest value first. Unanswerable queries and those of unknown quality are in no curve. ValueError for
    lengths, range, and an unknown figure."""
    one_of('figure', figure, 'mAP', 'rank1', 'mINP')
    quality,shares = _qualities(quality, len(per_query), 'queries'), _shares(shares, area)
    rng = np.random.default_rng(seed)
    judged = per_query.answerable.to_numpy() & ~np.isnan(np.array(list(quality.values()))).any(0)
    if not judged.any(): raise ValueError('No answerable query has a known quality. Label some first.')
    value = {'mAP': per_query.ap, 'rank1': per_query.first_rank == 1, 'mINP': per_query.inp}[figure]
    value = value.to_numpy(dtype=float)[judged]
    gone = np.floor(shares*len(value) + 1e-9).astype(np.int64)

    def curve(unit_quality):
        ordered = value[np.argsort(_position(unit_quality, rng))]
        return (ordered[::-1].cumsum()[::-1]/np.arange(len(value), 0, -1))[gone]

    curves = {name: curve(o[judged]) for name,o in quality.items()}
    curves |= {'random': np.full(len(gone), value.mean()), 'ideal': curve(value)}
    return rejection_of(_over(shares, curves), area, what=figure, better='higher', unit='query', n_units=len(value),
                        n_left_out=int((~judged).sum()), rule='unanswerable queries left out')
