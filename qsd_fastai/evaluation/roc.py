"""How many true pairs are accepted for how many false ones: ROC, DET, its area, the equal error rate, and TAR at FAR.

A pair is accepted where `score >= threshold`. FAR: share of pairs of two people that are accepted (false match rate).
TAR: share of pairs of one person that are accepted; 1 - TAR is the false non-match rate. Everything is counted exactly,
in whole pairs. The corners of the curve come from the smaller of the two sides and one sort of the other, so 15 million
pairs (IJB-C) take a second or two."""
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..choices import one_of
from .given import given_scores

__all__ = ['RocPoints', 'area_under_roc', 'equal_error_rate', 'far_of', 'roc_points', 'tar_at_far']


class RocPoints(NamedTuple):
    "Points of a ROC curve from (0, 0) to (1, 1), each `(n,)`; `threshold` falls from infinity, which accepts nothing"
    far: np.ndarray
    tar: np.ndarray
    threshold: np.ndarray

    @property
    def frr(self): return 1 - self.tar  # of a DET curve, over `far`


def _at_least(values, thresholds):
    "How many of the ascending `values` reach each threshold"
    return len(values) - np.searchsorted(values, thresholds, side='left')


def _counts(pos, neg, corners):
    "Falling thresholds and how many of the ascending `neg` and `pos` reach each, from none to all"
    if corners:
        few,many = (pos, neg) if len(pos) <= len(neg) else (neg, pos)
        few = np.unique(few)
        # and just before each of the few: the lowest of the many above it
        above = np.searchsorted(many, few, side='right')
        thresholds = np.unique(np.concatenate([few, many[above[above < len(many)]], many[:1]]))[::-1]
    else:
        thresholds = np.unique(np.concatenate([pos, neg]))[::-1]
    far,tar = (np.concatenate([[0], _at_least(o, thresholds)]) for o in (neg, pos))
    thresholds = np.concatenate([[np.inf], thresholds])
    if corners and len(far) > 2:
        # exact in whole numbers: a point between two others on one line says nothing
        flat = np.diff(far[:-1])*np.diff(tar[1:]) == np.diff(tar[:-1])*np.diff(far[1:])
        keep = np.r_[True, ~flat, True]
        far,tar,thresholds = far[keep], tar[keep], thresholds[keep]
    return far, tar, thresholds


def _sides(scores, same):
    "Scores of true and of false pairs, ascending"
    scores,same = given_scores(scores, same)
    return np.sort(scores[same]), np.sort(scores[~same])


def roc_points(
    scores,       # `(n,)` similarities, higher is more alike
    same,         # `(n,)` 1 where both show one person, 0 where not
    corners=True, # Only where the curve turns? Else a point for every distinct score, as scikit-learn without dropping
)->RocPoints:
    "The ROC curve, exact; equal scores are one point. ValueError as `given_scores`"
    pos,neg = _sides(scores, same)
    far,tar,threshold = _counts(pos, neg, corners)
    return RocPoints(far/len(neg), tar/len(pos), threshold)


def area_under_roc(
    scores, # `(n,)` similarities, higher is more alike
    same,   # `(n,)` 1 where both show one person, 0 where not
)->float:
    """Area under the ROC curve: how often a pair of one person scores above a pair of two, equal scores counting half.

    ValueError as `given_scores`."""
    pos,neg = _sides(scores, same)
    below = sum(np.searchsorted(neg, pos, side=o).sum(dtype=np.int64) for o in ('left', 'right'))
    return float(below/(2*len(pos)*len(neg)))


def equal_error_rate(
    scores, # `(n,)` similarities, higher is more alike
    same,   # `(n,)` 1 where both show one person, 0 where not
)->float:
    """The rate where FAR and 1 - TAR are equal, on straight lines between neighbouring points of the ROC curve.

    ValueError as `given_scores`."""
    far,tar,_ = roc_points(scores, same)
    gap = far + tar - 1  # rises from -1 to 1
    k = int((gap >= 0).argmax())
    part = -gap[k - 1]/(gap[k] - gap[k - 1])
    return float(far[k - 1] + part*(far[k] - far[k - 1]))


def false_accepts_allowed(far, n):
    "The most pairs of `n` that may be accepted wrongly at a rate `far`"
    return int(min(n, np.floor(far*n*(1 + 1e-12))))  # a hair more, since .001*3000 is not 3 in floating point


def far_of(
    same, # `(n,)` 1 where both show one person, 0 where not
)->float:
    "The false-match rate, .001 or the next power of ten above it, that so many pairs of two people can show"
    n = int((~np.asarray(same, dtype=bool)).sum())
    return next((far for far in (1e-3, 1e-2) if far*n >= 1), 1e-1)


def operating_point(pos, top, n_neg, far):
    """Acceptance of all above the first false pair too many: `(threshold, tar, far reached, score of that pair)`.

    `pos` and `top` ascend; `top` holds the highest scores of false pairs, at least down to the one too many, of `n_neg`
    in all."""
    k = false_accepts_allowed(far, n_neg)
    if k >= n_neg: return min(pos[0], top[0]), 1., 1., -np.inf
    limit = top[-1 - k]
    at = [np.searchsorted(o, limit, side='right') for o in (pos, top)]
    above = [o[i] for o,i in zip((pos, top), at) if i < len(o)]
    return min(above, default=np.inf), 1 - at[0]/len(pos), (len(top) - at[1])/n_neg, limit


def highest(values, n):
    "The `n` highest, ascending, without sorting the others"
    return np.sort(values if n >= len(values) else np.partition(values, len(values) - n)[len(values) - n:])


def _nearest(scores, same, rates):
    "Rows of `tar_at_far` by the point of nearest FAR, of equals the one that accepts more"
    pos,neg = _sides(scores, same)
    false,true,threshold = _counts(pos, neg, corners=False)
    # scikit-learn's curve has no point between two others that it is as far from in both counts; its first is added
    steps = np.abs(np.diff(false[1:], 2)) + np.abs(np.diff(true[1:], 2))
    keep = np.r_[True, True, steps > 0, True][:len(false)]
    false,true,threshold = (o[keep][::-1] for o in (false, true, threshold))
    at = [int(np.abs(false/len(neg) - rate).argmin()) for rate in rates]
    return [(true[k]/len(pos), threshold[k], false[k]/len(neg), int(false[k])) for k in at]


def tar_at_far(
    scores,                             # `(n,)` similarities, higher is more alike
    same,                               # `(n,)` 1 where both show one person, 0 where not
    far=(1e-2, 1e-3, 1e-4, 1e-5, 1e-6), # False acceptance rates, each above 0 and at most 1
    rule='below',                       # 'below', 'interpolated' between neighbouring ROC points, or 'nearest' (IJB)
)->pd.DataFrame:  # A row for each `far`: tar, threshold, far_reached, false_accepts
    """Share of true pairs accepted (`tar`) at false acceptance rates.

    The threshold is the lowest with a FAR of at most the one asked for; it is not interpolated, so that the figure
    belongs to a threshold that somebody can set, and is never better than what was measured. `rule='nearest'` is what
    is published of IJB-B and IJB-C: the point of scikit-learn's curve whose FAR is nearest, often above the one asked
    for.
    `tar` is NaN where there are too few pairs of two people for a single false acceptance (n x far < 1), rather than a
    figure that rests on nothing. Where accepted pairs tie with the first one too many, all of them are refused.
    Columns: `threshold` (accept where score >= it; infinite where nothing may be accepted), `far_reached`, and
    `false_accepts`, the pairs that the figure rests on. ValueError as `given_scores`, and for a rate outside 0..1."""
    one_of('rule', rule, 'below', 'interpolated', 'nearest')
    scores,same = given_scores(scores, same)
    rates = np.atleast_1d(np.asarray(far, dtype=float))
    if not ((rates > 0) & (rates <= 1)).all():
        raise ValueError(f'far is {far}. Each far must be above 0 and at most 1.')
    columns = ['tar', 'threshold', 'far_reached', 'false_accepts']
    if rule == 'nearest': return pd.DataFrame(_nearest(scores, same, rates), pd.Index(rates, name='far'), columns)
    pos,neg = np.sort(scores[same]), scores[~same]
    top,rows = highest(neg, false_accepts_allowed(rates.max(), len(neg)) + 1), []
    for rate in rates:
        if false_accepts_allowed(rate, len(neg)) < 1:
            rows.append((np.nan, np.nan, np.nan, 0))
            continue
        threshold,tar,reached,limit = operating_point(pos, top, len(neg), rate)
        n_accepted = round(reached*len(neg))
        if rule == 'interpolated' and rate > reached:
            tar_after,reached_after = ((o >= limit).mean() for o in (pos, neg))
            tar += (tar_after - tar)*(rate - reached)/(reached_after - reached)
        rows.append((tar, threshold, reached, n_accepted))
    return pd.DataFrame(rows, pd.Index(rates, name='far'), columns)
