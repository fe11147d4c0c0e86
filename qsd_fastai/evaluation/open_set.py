"Search where the person may not be there, and verification of all query x gallery pairs; streamed, and exact by rule"
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch

from ..choices import one_of
from .distances import DistanceBlocks
from .ranking import compiled, in_threads, match_ranks
from .same_camera import Matches, no_answer

__all__ = ['OpenSetResult', 'open_set_rates', 'pair_rates']

BINS = 2**20  # thresholds of `pair_rates`: steps of 2e-6 for cosines


@dataclass
class OpenSetResult:
    "What `open_set_rates` found"
    rates: pd.DataFrame # A row for each FPIR asked for: asked, threshold, fpir (reached), tpir
    det: pd.DataFrame   # The whole curve, by rising threshold: threshold, fpir, fnir
    n_mated: int        # Queries with a true match
    n_unmated: int      # Queries without


def _allowed(n, rate): return int(np.floor(n*rate + 1e-9))  # .29 * 100 is 28.999999999999996


def _checked_rates(rates, name):
    rates = np.atleast_1d(np.asarray(rates, dtype=float))
    if not ((rates >= 0) & (rates <= 1)).all(): raise ValueError(f'{name} is {rates.tolist()}. Give rates, 0 to 1.')
    return rates


@torch.no_grad()
def open_set_rates(
    q_emb,                # `(n_queries, nf)` embeddings of queries with and without a true match in the gallery
    g_emb,                # `(n_gallery, nf)` embeddings of the gallery
    q_ids,                # `(n_queries,)` identities
    g_ids,                # `(n_gallery,)` identities
    q_cameras=None,       # `(n_queries,)` cameras, as in `evaluate_retrieval`
    g_cameras=None,       # `(n_gallery,)` cameras
    fpir=(.001, .01, .1), # False positive identification rates, 0..1
    rank=1,               # The match counts as found among the first so many
    normalize=True,       # True: cosine; False: squared Euclidean
    chunk=None,           # Queries at a time
)->OpenSetResult:
    """Open-set identification at a threshold below which a distance is an answer (ISO/IEC 19795-1, NIST FRVT 1:N).

    FPIR: share of the queries without a match that get any answer. FNIR: share of the queries with one whose match is
    not among the first `rank` or not below the threshold; TPIR = 1 - FNIR. A query whose only matches are junk is one
    without; junk itself is out of every ranking. For each FPIR asked for, the largest threshold that does not exceed
    it: with 500 queries without a match, .001 allows none. ValueError when queries of one of the kinds are missing, and
    as in `evaluate_retrieval`."""
    asked = _checked_rates(fpir, 'fpir')
    blocks = DistanceBlocks.of(q_emb, g_emb, normalize)
    matches = Matches(q_ids, g_ids, q_cameras, g_cameras, blocks.shape)
    n_query,n_gallery = blocks.shape
    best,found,mated = np.empty(n_query), np.empty(n_query), np.zeros(n_query, dtype=bool)
    if chunk is None: chunk = max(1, blocks.at_once//n_gallery)
    out = blocks.empty(min(chunk, n_query))
    for lo in range(0, n_query, chunk):
        hi = min(lo + chunk, n_query)
        dist = blocks.distances(lo, hi, out, absolute=True)
        ranks,n = match_ranks(dist, matches, lo)
        index,same,junk = (torch.from_numpy(o).to(dist.device) for o in matches.block(lo, hi))
        near = dist.gather(1, index).masked_fill(~same | junk, float('inf')).amin(1)
        dist.scatter_(1, index, dist.gather(1, index).masked_fill(junk, float('inf')))
        parts = dist.amin(1), torch.where(ranks[:, 0] <= rank, near, float('inf')), n > 0
        best[lo:hi],found[lo:hi],mated[lo:hi] = (o.cpu().numpy() for o in parts)
    if not mated.any(): raise no_answer()
    if mated.all():
        raise ValueError('Every query has a match in the gallery. Add queries of identities that are not there.')
    wrong,right = np.sort(best[~mated]), np.sort(found[mated])
    limits = np.append(wrong, np.inf)  # a threshold *is* the first distance that is no answer
    threshold = limits[[_allowed(len(wrong), o) for o in asked]]
    def false(t): return np.searchsorted(wrong, t)/len(wrong)
    def true(t): return np.searchsorted(right, t)/len(right)
    rates = pd.DataFrame({'asked': asked, 'threshold': threshold, 'fpir': false(threshold), 'tpir': true(threshold)})
    steps = np.unique(limits)
    det = pd.DataFrame({'threshold': steps, 'fpir': false(steps), 'fnir': 1 - true(steps)})
    return OpenSetResult(rates, det, len(right), len(wrong))


@compiled()
def _count_bins(dist, order, start, stop, q_camera, g_camera, scale, counts, lo, hi):
    "Distances into histograms `counts` (2, bins) of pairs of different and of one identity, without junk"
    wrong,right,last = counts[0], counts[1], counts.shape[1] - 1
    for r in range(lo, hi):
        row = dist[r]
        for j in range(len(row)): wrong[min(max(int(row[j]*scale), 0), last)] += 1
        for p in range(start[r], stop[r]):
            k = min(max(int(row[order[p]]*scale), 0), last)
            wrong[k] -= 1
            right[k] += g_camera[order[p]] != q_camera[r]


def _add_block(dist, matches, first, scale, counts):
    "Counts of a block into `counts`, a dictionary of histograms: one for each thread"
    hi = first + len(dist)
    if dist.device.type != 'cpu':
        index,same,junk = (torch.from_numpy(o).to(dist.device) for o in matches.block(first, hi))
        bins = (dist.double()*scale).long().clamp_(0, BINS - 1)
        of_same = bins.gather(1, index)
        wrong = bins.view(-1).bincount(minlength=BINS) - of_same[same].bincount(minlength=BINS)
        counts[0] = counts.get(0, 0) + torch.stack([wrong, of_same[same & ~junk].bincount(minlength=BINS)])
        return
    start,stop,q_camera = (o[first:hi] for o in (matches.start, matches.stop, matches.q_camera))
    def count(lo, hi):
        if lo not in counts: counts[lo] = np.zeros((2, BINS), dtype=np.int64)
        _count_bins(dist.numpy(), matches.order, start, stop, q_camera, matches.g_camera, scale, counts[lo], lo, hi)
    in_threads(count, len(dist))


@torch.no_grad()
def pair_rates(
    q_emb,                        # `(n_queries, nf)` embeddings of the queries
    g_emb,                        # `(n_gallery, nf)` embeddings of the gallery
    q_ids,                        # `(n_queries,)` identities
    g_ids,                        # `(n_gallery,)` identities
    q_cameras=None,               # `(n_queries,)` cameras, as in `evaluate_retrieval`
    g_cameras=None,               # `(n_gallery,)` cameras
    fpr=(1e-4, 1e-3, 1e-2, 1e-1), # False positive rates, 0..1
    rule='below',                 # 'below': the largest within the rate; 'nearest': that of the nearest rate (FastReID)
    normalize=True,               # True: cosine; False: squared Euclidean
    chunk=None,                   # Queries at a time; changes no figure
)->pd.DataFrame: # A row for each rate asked for: asked, threshold, fpr (reached), tpr, n_different, n_same (pairs)
    """Verification from retrieval: true positive rate at false positive rates over all query x gallery pairs but junk.

    Pairs below the threshold are accepted. Thresholds are a million even steps over the possible distances, so that
    nothing is kept but counts; both rates are exact for the threshold given. Pairs of queries without a match count too
    (FastReID leaves them out). ValueError when there are no pairs of one identity or of different ones, and as in
    `evaluate_retrieval`."""
    one_of('rule', rule, 'below', 'nearest')
    asked = _checked_rates(fpr, 'fpr')
    blocks = DistanceBlocks.of(q_emb, g_emb, normalize)
    matches = Matches(q_ids, g_ids, q_cameras, g_cameras, blocks.shape)
    n_query,n_gallery = blocks.shape
    most = 2 if normalize else float(blocks.q.norm.max() + blocks.g.norm.max())**2 or 1.
    scale = 2.**np.floor(np.log2(BINS/most))  # a power of two: no rounding between distance and step
    if chunk is None: chunk = max(1, blocks.at_once//n_gallery)
    out,counts = blocks.empty(min(chunk, n_query)), {}
    for lo in range(0, n_query, chunk):
        dist = blocks.distances(lo, min(lo + chunk, n_query), out, absolute=True)
        _add_block(dist, matches, lo, scale, counts)
    wrong,right = sum(o if isinstance(o, np.ndarray) else o.cpu().numpy() for o in counts.values())
    n_wrong,n_right = int(wrong.sum()), int(right.sum())
    if not n_right: raise no_answer()
    if not n_wrong: raise ValueError('All pairs show one identity. A false positive rate needs different ones.')
    below,accepted = np.append(0, wrong.cumsum()), np.append(0, right.cumsum())  # [k]: pairs below threshold k / scale
    if rule == 'below':
        step = np.searchsorted(below, [_allowed(n_wrong, o) for o in asked], side='right') - 1
    else:
        step = np.abs(below[None]/n_wrong - asked[:, None]).argmin(1)
    return pd.DataFrame({'asked': asked, 'threshold': step/scale, 'fpr': below[step]/n_wrong,
                         'tpr': accepted[step]/n_right, 'n_different': n_wrong, 'n_same': n_right})
