"""Judging by search: CMC, mAP and mINP, exact, without ever keeping a query x gallery matrix.

The rules are the usual ones of person re-identification (Market-1501, AGW): gallery pictures of the query's own
identity *and* camera are junk and are taken out of its ranking; a query left with no true match is unanswerable:
counted, and left out of every mean. Equal distances keep gallery order, as a stable sort would; copies of a picture
are equally far by rule (`DistanceBlocks`), so a query is judged alone as among others.

Nothing is sorted: the distances of a query's true matches are thresholds, and counting what comes before each gives its
rank (`ranking`); AP and INP follow from the ranks. Blocks of distances (`distances`) are made, counted, thrown away."""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..distributed import shared_out
from ..unknown import check_quality
from .distances import DistanceBlocks, GivenDistances
from .given import one_each, quality_groups
from .intervals import mean_interval, share_interval, with_ends
from .ranking import match_ranks
from .same_camera import Matches, no_answer

__all__ = ['RankedGallery', 'RetrievalResult', 'by_quality', 'evaluate_distances', 'evaluate_retrieval',
           'figures_of', 'ranked_gallery']


@dataclass
class RetrievalResult:
    "What `evaluate_retrieval` found. All rates are 0..1, means over the answerable queries"
    rank1: float            # Share of queries whose first gallery picture is right
    cmc: np.ndarray         # `(min(max_rank, gallery),)` share of queries with a right picture in the first 1, 2, ...
    mAP: float              # Mean average precision
    mINP: float             # Mean inverse negative penalty (AGW), matches/rank of the last: how soon all are found
    n_queries: int          # All queries, the unanswerable ones too
    n_unanswerable: int     # Queries without a true match after taking out junk
    per_query: pd.DataFrame # Query, answerable, n_matches, first_rank (1 = best), ap, inp; NaN where unanswerable

    def __repr__(self):
        note = f', {self.n_unanswerable} unanswerable left out' if self.n_unanswerable else ''
        return f'rank1 {self.rank1:.2%}  mAP {self.mAP:.2%}  mINP {self.mINP:.2%}  ({self.n_queries} queries{note})'


class RankedGallery(NamedTuple):
    "The head of each query's ranked list, best first, `(n_queries, top)`; `index` is -1 behind the end of a short list"
    index: np.ndarray    # Row of the gallery picture
    distance: np.ndarray # The lower the more alike: 1 - cosine, or squared Euclidean where `normalize=False`
    right: np.ndarray    # True where it shows the query's identity (junk not counted)
    junk: np.ndarray     # True where it shows the query's identity from the query's own camera


def _evaluate(blocks, matches, max_rank, chunk):
    n_query,n_gallery = blocks.shape
    step = max(1, blocks.at_once//n_gallery) if chunk is None else chunk
    out = blocks.empty(min(step, n_query))
    def ranked(lo):
        found = match_ranks(blocks.distances(lo, min(lo + step, n_query), out), matches, lo)
        return lo, *(o.cpu().numpy() for o in found)
    return figures_of(shared_out(range(0, n_query, step), ranked), n_query, n_gallery, max_rank)


def figures_of(
    ranked,    # Gives `(first query, ranks of its matches and of the next ones', numbers of matches)`, as `match_ranks`
    n_query,   # Of all
    n_gallery, # Pictures
    max_rank,  # Depth of the CMC curve
)->RetrievalResult:
    "The figures of all queries, a block of rows at a time"
    first,ap,inp,n_matches = (np.zeros(n_query) for _ in range(4))
    for lo,ranks,n in ranked:
        hi = lo + len(n)
        k = np.arange(1, ranks.shape[1] + 1)
        last = np.take_along_axis(ranks, (n[:, None] - 1).clip(0), axis=1)[:, 0]
        with np.errstate(divide='ignore', invalid='ignore'):  # unanswerable queries are taken out below
            ap[lo:hi],inp[lo:hi] = np.where(k <= n[:, None], k/ranks, 0).sum(1)/n, n/last
        first[lo:hi],n_matches[lo:hi] = ranks[:, 0], n
    answerable = n_matches > 0
    if not answerable.any(): raise no_answer()
    for o in (first, ap, inp): o[~answerable] = np.nan
    per_query = pd.DataFrame({'query': np.arange(n_query), 'answerable': answerable, 'n_matches': n_matches.astype(int),
                              'first_rank': first, 'ap': ap, 'inp': inp})
    cmc = (first[answerable][:, None] <= np.arange(1, min(max_rank, n_gallery) + 1)).mean(0)
    mAP,mINP = float(np.nanmean(ap)), float(np.nanmean(inp))
    return RetrievalResult(float(cmc[0]), cmc, mAP, mINP, n_query, int((~answerable).sum()), per_query)


@torch.no_grad()
def evaluate_retrieval(
    q_emb,                    # `(n_queries, nf)` embeddings of the queries, numpy or torch, on any device
    g_emb,                    # `(n_gallery, nf)` embeddings of the gallery; moved to the device of `q_emb`
    q_ids,                    # `(n_queries,)` identities, of any type
    g_ids,                    # `(n_gallery,)` identities, written as in `q_ids`
    q_cameras=None,           # `(n_queries,)` cameras, of any type; '', -1, None and NaN are unknown and never excluded
    g_cameras=None,           # `(n_gallery,)` cameras; None on both sides judges without cameras
    max_rank=50,              # Depth of the CMC curve; a smaller gallery shortens it
    normalize=True,           # True: cosine similarity; False: Euclidean distance of the embeddings as they are
    chunk=None,               # Queries at a time; None takes what fits about 100 MB (CPU)
    exclude_same_camera=True, # Take same identity, same camera out of a query's ranking
)->RetrievalResult:
    """Rank-1, CMC, mAP and mINP of a search with every query, exact. Equal distances keep gallery order.

    Half precision is computed in float32. ValueError for NaN or zero embeddings (naming the row), lengths that differ,
    and when no query has a match. mINP: Ye et al., Deep Learning for Person Re-identification, TPAMI 2021 (AGW)."""
    blocks = DistanceBlocks.of(q_emb, g_emb, normalize)
    if not exclude_same_camera: q_cameras = g_cameras = None
    return _evaluate(blocks, Matches(q_ids, g_ids, q_cameras, g_cameras, blocks.shape), max_rank, chunk)


@torch.no_grad()
def evaluate_distances(
    dist,                     # `(n_queries, n_gallery)` distances, numpy or torch, or what `k_reciprocal` gives
    q_ids,                    # `(n_queries,)` identities
    g_ids,                    # `(n_gallery,)` identities
    q_cameras=None,           # `(n_queries,)` cameras, as in `evaluate_retrieval`
    g_cameras=None,           # `(n_gallery,)` cameras
    max_rank=50,              # Depth of the CMC curve
    chunk=None,               # Queries at a time
    exclude_same_camera=True, # Take same identity, same camera out of a query's ranking
)->RetrievalResult:
    "`evaluate_retrieval` for distances that are already there. ValueError as there"
    blocks = GivenDistances(dist)
    if not exclude_same_camera: q_cameras = g_cameras = None
    return _evaluate(blocks, Matches(q_ids, g_ids, q_cameras, g_cameras, blocks.shape), max_rank, chunk)


@torch.no_grad()
def ranked_gallery(
    q_emb,           # `(n_queries, nf)` embeddings of the queries to look at
    g_emb,           # `(n_gallery, nf)` embeddings of the gallery
    q_ids,           # `(n_queries,)` identities
    g_ids,           # `(n_gallery,)` identities
    q_cameras=None,  # `(n_queries,)` cameras, as in `evaluate_retrieval`
    g_cameras=None,  # `(n_gallery,)` cameras
    top=10,          # Pictures a query
    normalize=True,  # True: cosine; False: Euclidean
    keep_junk=False, # True leaves same identity, same camera in the list (marked `junk`) instead of taking it out
    chunk=None,      # Queries at a time
)->RankedGallery:
    """The first `top` gallery pictures of every query and which of them are right, as `evaluate_retrieval` orders them.

    It sorts, so give it the queries to be looked at rather than all. ValueError as there; an unanswerable query is no
    error here."""
    blocks = DistanceBlocks.of(q_emb, g_emb, normalize)
    n_query,n_gallery = blocks.shape
    matches = Matches(q_ids, g_ids, q_cameras, g_cameras, blocks.shape)
    top,parts = min(top, n_gallery), []
    if chunk is None: chunk = max(1, 2**22//n_gallery)
    for lo in range(0, n_query, chunk):
        hi = min(lo + chunk, n_query)
        dist = blocks.distances(lo, hi)
        index,same,junk = (torch.from_numpy(o) for o in matches.block(lo, hi))
        kind = torch.zeros(hi - lo, n_gallery, dtype=torch.uint8)
        r = torch.arange(hi - lo)[:, None].expand_as(index)
        kind[r[same], index[same]] = 1
        kind[r[junk], index[junk]] = 2
        kind = kind.to(dist.device)
        if not keep_junk: dist = dist.masked_fill(kind == 2, float('inf'))
        dist,best = dist.sort(dim=1, stable=True)
        dist,best = dist[:, :top] + blocks.constant(lo, hi), best[:, :top]
        kind = kind.gather(1, best).masked_fill(dist.isinf(), 0)
        parts.append([o.cpu().numpy() for o in (best.masked_fill(dist.isinf(), -1), dist, kind == 1, kind == 2)])
    return RankedGallery(*(np.concatenate(o) for o in zip(*parts)))


def by_quality(
    per_query, # `RetrievalResult.per_query`
    quality,   # `(n_queries,)` quality 0..100 of the query pictures, NaN unknown
    bins=3,    # Groups of equal size; 3 gives worst, middle, best
)->pd.DataFrame:
    """Rank-1, mAP and mINP of the queries in groups of rising quality, one row each, over the answerable queries.

    Equal qualities stay in one group, so groups may differ in size. Queries of unknown quality are in none of them, but
    in a last row `unknown` where there are any. Columns: n_queries, quality_from, quality_to, rank1, mAP, mINP, and the
    ends of 95 % intervals, `rank1 low`, `rank1 high` (Wilson), `mAP low`, `mAP high` (Student).
    ValueError for a wrong length or a quality outside 0..100."""
    quality = check_quality(quality)
    one_each(quality, len(per_query), 'quality', 'queries')
    judged = per_query.assign(quality=quality, rank1=(per_query.first_rank == 1).astype(float))
    rows = quality_groups(judged[per_query.answerable.to_numpy()], bins)
    return pd.DataFrame([{'n_queries': len(o), 'quality_from': o.quality.min(), 'quality_to': o.quality.max(),
                          'rank1': o.rank1.mean(), 'mAP': o.ap.mean(), 'mINP': o.inp.mean(),
                          **with_ends('rank1', share_interval(o.rank1 == 1)), **with_ends('mAP', mean_interval(o.ap))}
                         for o in rows.values()], index=pd.Index(rows, name='group'))
