"""Face verification: do two pictures show one person? Accuracy over ten folds as published for LFW, and flip fusion.

Squared Euclidean distances of unit embeddings, 0 to 4; the threshold that does best on nine folds judges the tenth; a
pair is accepted where its distance is below the threshold (insightface's `verification.py`, after LFW's protocol). All
thresholds are counted at once from one histogram a fold, so a pass over the pairs is all it takes."""
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..tensors import finite_rows, plain_vector
from ..unknown import check_quality
from .given import given_labels, one_each, plain_rows, quality_groups, same_width, unit_rows
from .intervals import share_interval, with_ends
from .roc import area_under_roc, equal_error_rate, tar_at_far

__all__ = ['VerificationResult', 'contiguous_folds', 'evaluate_pair_distances', 'evaluate_verification', 'fuse_flip',
           'pair_folds', 'verification_by_quality']


@dataclass
class VerificationResult:
    "What `evaluate_verification` found. All rates are 0..1"
    accuracy: float            # Mean over the folds
    accuracy_std: float        # Over the folds, population
    accuracy_folds: np.ndarray # `(folds,)`
    thresholds: np.ndarray     # `(folds,)` squared distance, 0..4: the best on the other folds
    auc: float                 # Area under the ROC curve of all pairs
    eer: float                 # Equal error rate of all pairs
    per_pair: pd.DataFrame     # Distance, score (its cosine), same, fold, threshold, correct, margin (low: hard)

    def tar_at_far(self, far=(1e-1, 1e-2, 1e-3), rule='below'):
        "`tar_at_far` of these pairs"
        return tar_at_far(self.per_pair.score, self.per_pair.same, far, rule)

    def hardest(self, n=16):
        "The `n` pairs furthest on the wrong side of their threshold, or nearest to it; the index is the pair's row"
        return self.per_pair.sort_values('margin', kind='stable').head(n)

    def __repr__(self):
        accuracy = f'accuracy {self.accuracy:.2%} ± {self.accuracy_std:.2%}'
        return f'{accuracy}  AUC {self.auc:.4f}  EER {self.eer:.2%}  ({len(self.per_pair)} pairs)'


def contiguous_folds(
    n,        # Pairs
    folds=10, # How many
)->np.ndarray: # `(n,)`
    "The fold of each pair: runs of (nearly) equal length, the longer ones first, as scikit-learn's unshuffled KFold"
    if not 2 <= folds <= n:
        raise ValueError(f'{n} pairs do not make {folds} folds. Give 2 or more folds, and a pair or more for each.')
    return np.repeat(np.arange(folds), n//folds + (np.arange(folds) < n % folds))


def pair_folds(
    pairs,    # A column `fold`, or none
    folds=10, # Contiguous ones where `pairs` has none of its own
)->np.ndarray: # `(n,)`
    """The fold of each pair: as the pairs have it, contiguous ones where it is missing, or one and the same.

    `pairs.csv` without folds has 0."""
    own = pairs['fold'] if 'fold' in pairs else pd.Series(0, pairs.index)
    return own.to_numpy() if own.nunique(dropna=False) > 1 else contiguous_folds(len(pairs), folds)


def _folds(folds, n):
    if np.ndim(folds) == 0: return contiguous_folds(n, int(folds))
    fold = plain_vector(folds)
    one_each(fold, n, 'folds', 'pairs')
    bad = pd.isna(fold)
    if bad.any(): raise ValueError(f'folds row {bad.argmax()} is empty. Number the fold of every pair.')
    if len(np.unique(fold)) < 2:
        raise ValueError('All pairs are in one fold, and the threshold of a fold comes from the others. '
                         'Give a number of folds, 10 say.')
    return fold


def _best_threshold(thresholds, distance, same):
    "The first of the ascending thresholds with most pairs right; None tries every distance, and one above all"
    if thresholds is None:
        values = np.unique(distance)
        thresholds = np.append(values, np.nextafter(values[-1], np.inf))
    n,first = len(thresholds), np.searchsorted(thresholds, distance, side='right')  # the first that accepts each pair
    accepted = [np.bincount(first[o], minlength=n + 1)[:n].cumsum() for o in (same, ~same)]
    # right are these and all false pairs, whatever the threshold
    return thresholds[(accepted[0] - accepted[1]).argmax()]


def evaluate_pair_distances(
    distance,          # `(n,)` squared Euclidean distances of unit embeddings, 0..4
    same,              # `(n,)` 1 where both show one person, 0 where not
    folds=10,          # A number of contiguous folds, or the fold (n,) of each pair, of any type
    thresholds='grid', # 'grid': 0, .01, ..., 3.99 (published); 'exact': all that can make a difference; or an array
)->VerificationResult:
    "`evaluate_verification` for distances that are already there. ValueError as there"
    distance,same = plain_vector(distance).astype(np.float64), given_labels(same)
    if len(distance) != len(same):
        raise ValueError(f'distance has {len(distance)} entries and same {len(same)}. Give one of each for a pair.')
    finite_rows(distance, 'distance')
    if not isinstance(thresholds, str): grid = np.unique(plain_vector(thresholds).astype(np.float64))
    elif thresholds in ('grid', 'exact'): grid = np.arange(0, 4, .01) if thresholds == 'grid' else None
    else: raise ValueError(f'thresholds is {thresholds!r}. Use grid, exact or an array.')
    fold,threshold = _folds(folds, len(same)), np.empty(len(same))
    for name in np.unique(fold):
        own = fold == name
        threshold[own] = _best_threshold(grid, distance[~own], same[~own])
    accepted = distance < threshold
    score = 1 - distance/2
    margin = np.where(same, threshold - distance, distance - threshold)  # to the right side
    table = pd.DataFrame({'distance': distance, 'score': score, 'same': same, 'fold': fold, 'threshold': threshold,
                          'correct': accepted == same, 'margin': margin})
    by_fold = table.groupby('fold')
    accuracy,best = by_fold['correct'].mean().to_numpy(), by_fold['threshold'].first().to_numpy()
    return VerificationResult(float(accuracy.mean()), float(accuracy.std()), accuracy, best,
                              area_under_roc(score, same), equal_error_rate(score, same), table)


@torch.no_grad()
def evaluate_verification(
    emb1,              # `(n, nf)` embeddings of the first picture of each pair, numpy or torch; of unit length or not
    emb2,              # `(n, nf)` embeddings of the second
    same,              # `(n,)` 1 where both show one person, 0 where not
    folds=10,          # A number of contiguous folds, or the fold (n,) of each pair, of any type
    thresholds='grid', # 'grid': 0, .01, ..., 3.99 (published); 'exact': all that can make a difference; or an array
    chunk=2**16,       # Pairs at a time
)->VerificationResult:
    """Accuracy over folds, AUC, EER and every pair. The first best threshold is taken; accepted is what is *below* it.

    A grid of .01 costs up to a few pairs in a fold against 'exact', which tries every distance in the other folds, and
    one above all. ValueError for NaN or zero embeddings (naming the row), lengths that differ, one kind of pairs only,
    fewer than two folds."""
    n_same = len(plain_vector(same))
    if len(emb1) != len(emb2) or len(emb1) != n_same:
        raise ValueError(f'emb1 has {len(emb1)} rows, emb2 {len(emb2)} and same {n_same}. Give one of each for a pair.')
    a,b = unit_rows(emb1, 'emb1'), unit_rows(emb2, 'emb2')
    same_width(('emb1', 'emb2'), [a.shape[1], b.shape[1]])
    parts = [(x.double() - y.to(x.device).double()).square().sum(1).cpu()
             for x,y in zip(a.split(chunk), b.split(chunk))]
    return evaluate_pair_distances(torch.cat(parts), same, folds, thresholds)


def fuse_flip(
    emb,        # `(n, nf)` embeddings, numpy or torch, as the network gives them
    emb_flip,   # `(n, nf)` embeddings of the mirrored pictures, of the same kind
    how='sum',  # 'sum' (published), 'mean' (the same direction, the length of one), 'concat' (n, 2 nf), or 'norm'
    norms=None, # For 'norm': two arrays (n,), the feature norms of `emb` and `emb_flip`
):
    """One embedding for a picture and its mirror image, of the kind given, not of unit length (the judge does that).

    'norm' is AdaFace's fusion for networks that hand out unit embeddings and their norms apart: the sum of unit
    embeddings, each times its norm, so that the clearer view counts for more. On embeddings that still have their
    length 'sum' is just that; take them to unit length first for 'sum' to count both alike. ValueError for shapes that
    differ, NaN (naming the row), and 'norm' without norms."""
    a,b = plain_rows(emb), plain_rows(emb_flip, 'emb_flip')
    if a.shape != b.shape:
        raise ValueError(f'emb is {tuple(a.shape)} and emb_flip {tuple(b.shape)}. '
                         'Embed the same pictures with one model.')
    b = b.to(a.device)
    if how == 'norm':
        if norms is None:
            raise ValueError('norms is None. Give norms=(norm, norm_flip), the feature norms; raw embeddings take sum.')
        sides = zip((a, b), ('emb', 'emb_flip'), norms)
        a,b = (unit_rows(o, name)*torch.as_tensor(plain_vector(norm)).to(o)[:, None] for o,name,norm in sides)
    elif how not in ('sum', 'mean', 'concat'): raise ValueError(f'how is {how!r}. Use sum, mean, concat or norm.')
    out = torch.cat([a, b], 1) if how == 'concat' else (a + b)/2 if how == 'mean' else a + b
    return out if isinstance(emb, torch.Tensor) else out.numpy()


def verification_by_quality(
    per_pair, # `VerificationResult.per_pair`
    quality1, # `(n,)` quality 0..100 of the first picture of each pair, NaN unknown
    quality2, # `(n,)` quality of the second
    bins=3,   # Groups of equal size; 3 gives worst, middle, best
)->pd.DataFrame:
    """Accuracy of pairs in groups of rising quality, a pair going by the worse of its two pictures.

    Equal qualities stay in one group. A pair with a picture of unknown quality is in none of them, but in a last row
    `unknown`. Columns: n_pairs, quality_from, quality_to, accuracy, refused (share of true pairs), accepted (share of
    false pairs), and the ends of Wilson's 95 % interval, `accuracy low` and `accuracy high`. ValueError for a wrong
    length or range."""
    quality = []
    for name,o in (('quality1', quality1), ('quality2', quality2)):
        quality.append(o := check_quality(o, name))
        one_each(o, len(per_pair), name, 'pairs')
    rows = quality_groups(per_pair.assign(quality=np.minimum(*quality)), bins)  # NaN where one is unknown
    return pd.DataFrame([{'n_pairs': len(o), 'quality_from': o.quality.min(), 'quality_to': o.quality.max(),
                          'accuracy': o.correct.mean(), 'refused': 1 - o.correct[o.same].mean(),
                          'accepted': 1 - o.correct[~o.same].mean(),
                          **with_ends('accuracy', share_interval(o.correct))} for o in rows.values()],
                        index=pd.Index(rows, name='group'))
