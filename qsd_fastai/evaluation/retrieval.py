"""Judging by search: CMC, mAP and mINP, exact, without ever keeping a query x gallery matrix.

The rules are the usual ones of person re-identification (Market-1501, AGW): gallery pictures of the query's own identity *and*
camera are junk and are taken out of its ranking; a query left with no true match is unanswerable: counted, and left out of every
mean. Equal distances keep gallery order, as a stable sort would.

Nothing is sorted but the few distances of the true matches. For every query these are thresholds, and one pass over its row counts
how many wrong pictures come before each; rank, AP and INP follow from the counts."""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

__all__ = ['RankedGallery', 'RetrievalResult', 'by_quality', 'evaluate_distances', 'evaluate_retrieval', 'ranked_gallery']


@dataclass
class RetrievalResult:
    "What `evaluate_retrieval` found. All rates are 0..1, means over the answerable queries"
    rank1: float  # share of queries whose first gallery picture is right
    cmc: np.ndarray  # (min(max_rank, gallery),) share of queries with a right picture among the first 1, 2, ...
    mAP: float  # mean average precision
    mINP: float  # mean inverse negative penalty (AGW): matches / rank of the last match, how soon *all* are found
    n_queries: int  # all queries, the unanswerable ones too
    n_unanswerable: int  # queries without a true match after taking out junk
    per_query: pd.DataFrame  # query, answerable, n_matches, first_rank (1 = best), ap, inp; NaN where unanswerable

    def __repr__(self):
        note = f', {self.n_unanswerable} unanswerable left out' if self.n_unanswerable else ''
        return f'rank1 {self.rank1:.2%}  mAP {self.mAP:.2%}  mINP {self.mINP:.2%}  ({self.n_queries} queries{note})'


class RankedGallery(NamedTuple):
    "The head of each query's ranked list, best first, each `(n_queries, top)`; `index` is -1 behind the end of a short list"
    index: np.ndarray  # row of the gallery picture
    distance: np.ndarray  # the lower the more alike: 1 - cosine, or squared Euclidean where `normalize=False`
    right: np.ndarray  # True where it shows the query's identity (junk not counted)
    junk: np.ndarray  # True where it shows the query's identity from the query's own camera


def _embeddings(emb, name, normalize):
    "`emb` as a plain floating point tensor (n, nf), of unit length where asked, with every row checked"
    emb = emb.detach().as_subclass(torch.Tensor) if isinstance(emb, torch.Tensor) else torch.from_numpy(np.require(emb, requirements='CW'))
    if emb.ndim != 2 or not len(emb):
        raise ValueError(f'{name} must be (pictures, features) with at least one picture, got {tuple(emb.shape)}')
    if emb.dtype != torch.float64: emb = emb.float()  # half precision is for storing: ties would be everywhere
    bad = ~torch.isfinite(emb).all(1)
    if bad.any():
        raise ValueError(f'{name} row {int(bad.nonzero()[0])} holds NaN or infinity ({int(bad.sum())} such rows): '
                         'the model diverged or overflowed half precision; lower the learning rate or embed in float32')
    if not normalize: return emb
    norm = emb.norm(dim=1, keepdim=True)
    if (norm == 0).any():
        row = int((norm == 0).nonzero()[0, 0])
        raise ValueError(f'{name} row {row} is all zero and has no direction: use normalize=False or mend the model')
    return emb / norm


def _labels(x): return np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x).reshape(-1)


def _codes(query, gallery, n_query, n_gallery, word):
    "Query and gallery labels of any type as int64 codes of one numbering; -1 where missing"
    query, gallery = _labels(query), _labels(gallery)
    for side, values, n in (('q', query, n_query), ('g', gallery, n_gallery)):
        if len(values) != n: raise ValueError(f'{side}_{word} has {len(values)} entries for {n} pictures: give one for each')
    text = [{isinstance(o, str) for o in side.tolist() if o is not None and o == o} for side in (query, gallery)]
    if text[0] and text[1] and not text[0] & text[1]:
        raise ValueError(f'q_{word} and g_{word} differ in kind, one text and one numbers: \'7\' is not 7, nothing would match')
    codes, _ = pd.factorize(np.concatenate([query.astype(object), gallery.astype(object)]))
    return codes[:n_query].astype(np.int64), codes[n_query:].astype(np.int64)


def _unknown_camera(x):
    x = pd.Series(_labels(x).astype(object))
    return (x.isna() | (x == '') | (x == -1)).to_numpy()


class _Matches:
    "For any block of queries: which gallery pictures show the same identity, and which of those are junk"
    def __init__(self, q_ids, g_ids, q_cameras, g_cameras, n_query, n_gallery):
        self.q, g = _codes(q_ids, g_ids, n_query, n_gallery, 'ids')
        for side, codes in (('q_ids', self.q), ('g_ids', g)):
            if (codes < 0).any(): raise ValueError(f'{side} row {int((codes < 0).argmax())} is empty: every picture needs an identity')
        self.order = np.argsort(g, kind='stable')  # gallery rows identity by identity, in gallery order within each
        g = g[self.order]
        self.start, self.stop = np.searchsorted(g, self.q, 'left'), np.searchsorted(g, self.q, 'right')
        self.q_camera = self.g_camera = None
        if (q_cameras is None) != (g_cameras is None): raise ValueError('give both q_cameras and g_cameras, or neither')
        if q_cameras is not None:
            self.q_camera, self.g_camera = _codes(q_cameras, g_cameras, n_query, n_gallery, 'cameras')
            self.q_camera[_unknown_camera(q_cameras)] = -1
            self.g_camera[_unknown_camera(g_cameras)] = -2  # differs from the query's -1: unknown never equals unknown

    def block(self, lo, hi):
        "`index` (hi-lo, m) of gallery rows, ascending; `same` False for padding; `junk` where identity and camera are the query's own"
        start, stop = self.start[lo:hi, None], self.stop[lo:hi, None]
        place = start + np.arange(max(1, (stop - start).max()))
        same = place < stop
        # padding repeats the first match, so that writing to all of `index` touches true matches only
        index = self.order[np.where(same, place, np.minimum(start, len(self.order) - 1))]
        junk = np.zeros_like(same) if self.q_camera is None else same & (self.g_camera[index] == self.q_camera[lo:hi, None])
        return index, same, junk


def _count_ranks(dist, index, same, junk):
    """Ranks (c, m), 1 = best and ascending, of the true matches of `c` queries, and the number of matches (c,).

    Writes into `dist` (c, n_gallery). Ranks behind a query's number of matches mean nothing."""
    valid = same & ~junk
    top = torch.finfo(dist.dtype).max
    limits = dist.gather(1, index).masked_fill(~valid, float('inf'))
    limits, order = limits.sort(dim=1, stable=True)
    rows, m = index.gather(1, order), index.shape[1]
    dist.scatter_(1, index, top)  # from here on only wrong pictures are counted
    behind = torch.searchsorted(limits, dist, right=True)  # how many matches a picture does not come before
    tied = (limits.gather(1, (behind - 1).clamp_(min=0)) == dist).nonzero()
    behind += torch.arange(len(dist), device=dist.device)[:, None] * (m + 1)
    before = torch.bincount(behind.view(-1), minlength=len(dist) * (m + 1)).view(len(dist), m + 1)[:, :m].cumsum(1)
    for r, j in (part.unbind(1) for part in tied.split(max(1, 2**22 // m))):  # a tie goes to the earlier gallery row
        before.index_add_(0, r, ((limits[r] == dist[r, j][:, None]) & (rows[r] > j[:, None])).long())
    return before + torch.arange(1, m + 1, device=dist.device), valid.sum(1)


def _evaluate(distances, device, n_query, n_gallery, matches, max_rank, chunk):
    "The figures of all queries from `distances(lo, hi)`, a block of rows at a time"
    if chunk is None: chunk = max(1, 2**(22 if device.type == 'cpu' else 26) // n_gallery)  # about 100 MB at work, 16 times that on a GPU
    first, ap, inp, n_matches = (np.zeros(n_query) for _ in range(4))
    for lo in range(0, n_query, chunk):
        hi = min(lo + chunk, n_query)
        ranks, n = _count_ranks(distances(lo, hi), *(torch.from_numpy(o).to(device) for o in matches.block(lo, hi)))
        ranks, n = ranks.double(), n[:, None]
        k = torch.arange(1, ranks.shape[1] + 1, device=device)
        part = torch.stack([ranks[:, 0], torch.where(k <= n, k / ranks, 0.).sum(1) / n[:, 0],
                            n[:, 0] / ranks.gather(1, (n - 1).clamp(min=0))[:, 0], n[:, 0].double()])
        first[lo:hi], ap[lo:hi], inp[lo:hi], n_matches[lo:hi] = part.cpu().numpy()
    answerable = n_matches > 0
    if not answerable.any():
        raise ValueError('no query can be answered: all query identities do not appear in gallery, or only from the camera of the query. '
                         'Check that the gallery belongs to these queries, that both sides write identities alike, '
                         'and the cameras; exclude_same_camera=False judges without them')
    for o in (first, ap, inp): o[~answerable] = np.nan
    per_query = pd.DataFrame({'query': np.arange(n_query), 'answerable': answerable, 'n_matches': n_matches.astype(int),
                              'first_rank': first, 'ap': ap, 'inp': inp})
    cmc = (first[answerable][:, None] <= np.arange(1, min(max_rank, n_gallery) + 1)).mean(0)
    return RetrievalResult(float(cmc[0]), cmc, float(np.nanmean(ap)), float(np.nanmean(inp)), n_query, int((~answerable).sum()), per_query)


def _distance_blocks(q_emb, g_emb, normalize):
    "A function of `(lo, hi)` giving their distances (hi-lo, n_gallery), up to a constant for each query; the query embeddings; n_gallery"
    q, g = _embeddings(q_emb, 'q_emb', normalize), _embeddings(g_emb, 'g_emb', normalize)
    if q.shape[1] != g.shape[1]: raise ValueError(f'q_emb has {q.shape[1]} features and g_emb {g.shape[1]}: embed both with one model')
    g = g.to(q.device, q.dtype)
    size = None if normalize else g.square().sum(1)
    def distances(lo, hi):
        with torch.autocast(q.device.type, enabled=False):  # bf16 would tie thousands of pictures
            return -q[lo:hi] @ g.T if size is None else torch.addmm(size, q[lo:hi], g.T, alpha=-2)
    return distances, q, len(g)


@torch.no_grad()
def evaluate_retrieval(
    q_emb,  # (n_queries, nf) embeddings of the queries, numpy or torch, on any device; half precision is computed in float32
    g_emb,  # (n_gallery, nf) embeddings of the gallery; moved to the device of `q_emb`
    q_ids,  # (n_queries,) identities, of any type
    g_ids,  # (n_gallery,) identities, written as in `q_ids`
    q_cameras=None,  # (n_queries,) cameras, of any type; '', -1, None and NaN are unknown and never excluded
    g_cameras=None,  # (n_gallery,) cameras; None on both sides judges without cameras
    max_rank=50,  # depth of the CMC curve; a smaller gallery shortens it
    normalize=True,  # True: cosine similarity; False: Euclidean distance of the embeddings as they are
    chunk=None,  # queries at a time; None takes what fits about 100 MB (CPU)
    exclude_same_camera=True,  # take same identity, same camera out of a query's ranking
) -> RetrievalResult:
    """Rank-1, CMC, mAP and mINP of a search with every query, exact. Equal distances keep gallery order.

    ValueError for NaN or zero embeddings (naming the row), lengths that differ, and when no query has a match.
    mINP is from AGW (Ye et al., Deep Learning for Person Re-identification, TPAMI 2021)."""
    distances, q, n_gallery = _distance_blocks(q_emb, g_emb, normalize)
    if not exclude_same_camera: q_cameras = g_cameras = None
    matches = _Matches(q_ids, g_ids, q_cameras, g_cameras, len(q), n_gallery)
    return _evaluate(distances, q.device, len(q), n_gallery, matches, max_rank, chunk)


@torch.no_grad()
def evaluate_distances(
    dist,  # (n_queries, n_gallery) distances, lower is more alike, numpy or torch; from re-ranking, for example
    q_ids,  # (n_queries,) identities
    g_ids,  # (n_gallery,) identities
    q_cameras=None,  # (n_queries,) cameras, as in `evaluate_retrieval`
    g_cameras=None,  # (n_gallery,) cameras
    max_rank=50,  # depth of the CMC curve
    chunk=None,  # queries at a time
    exclude_same_camera=True,  # take same identity, same camera out of a query's ranking
) -> RetrievalResult:
    "`evaluate_retrieval` for distances that are already there. ValueError as there"
    dist = _embeddings(dist, 'dist', False)
    if not exclude_same_camera: q_cameras = g_cameras = None
    matches = _Matches(q_ids, g_ids, q_cameras, g_cameras, *dist.shape)
    return _evaluate(lambda lo, hi: dist[lo:hi].clone(), dist.device, *dist.shape, matches, max_rank, chunk)


@torch.no_grad()
def ranked_gallery(
    q_emb,  # (n_queries, nf) embeddings of the queries to look at
    g_emb,  # (n_gallery, nf) embeddings of the gallery
    q_ids,  # (n_queries,) identities
    g_ids,  # (n_gallery,) identities
    q_cameras=None,  # (n_queries,) cameras, as in `evaluate_retrieval`
    g_cameras=None,  # (n_gallery,) cameras
    top=10,  # pictures a query
    normalize=True,  # True: cosine; False: Euclidean
    keep_junk=False,  # True leaves same identity, same camera in the list (marked `junk`) instead of taking it out
    chunk=None,  # queries at a time
) -> RankedGallery:
    """The first `top` gallery pictures of every query and which of them are right, in the order that `evaluate_retrieval` judges.

    It sorts, so give it the queries to be looked at rather than all. ValueError as there; an unanswerable query is no error here."""
    distances, q, n_gallery = _distance_blocks(q_emb, g_emb, normalize)
    matches = _Matches(q_ids, g_ids, q_cameras, g_cameras, len(q), n_gallery)
    top, parts = min(top, n_gallery), []
    if chunk is None: chunk = max(1, 2**22 // n_gallery)
    for lo in range(0, len(q), chunk):
        hi = min(lo + chunk, len(q))
        dist = distances(lo, hi) + (1 if normalize else q[lo:hi].square().sum(1, keepdim=True))
        index, same, junk = (torch.from_numpy(o) for o in matches.block(lo, hi))
        kind = torch.zeros(hi - lo, n_gallery, dtype=torch.uint8)
        r = torch.arange(hi - lo)[:, None].expand_as(index)
        kind[r[same], index[same]] = 1
        kind[r[junk], index[junk]] = 2
        kind = kind.to(q.device)
        if not keep_junk: dist = dist.masked_fill(kind == 2, float('inf'))
        dist, best = dist.sort(dim=1, stable=True)
        dist, best = dist[:, :top], best[:, :top]
        kind = kind.gather(1, best).masked_fill(dist.isinf(), 0)
        parts.append([o.cpu().numpy() for o in (best.masked_fill(dist.isinf(), -1), dist, kind == 1, kind == 2)])
    return RankedGallery(*(np.concatenate(o) for o in zip(*parts)))


def by_quality(
    per_query,  # `RetrievalResult.per_query`
    quality,  # (n_queries,) quality 0..100 of the query pictures, NaN unknown
    bins=3,  # groups of equal size; 3 gives worst, middle, best
) -> pd.DataFrame:
    """Rank-1, mAP and mINP of the queries in groups of rising quality, one row each, over the answerable queries.

    Equal qualities stay in one group, so groups may differ in size. Queries of unknown quality are in none of them, but in a
    last row `unknown` where there are any. Columns: n_queries, quality_from, quality_to, rank1, mAP, mINP. ValueError for
    a wrong length or a quality outside 0..100."""
    quality = pd.Series(_labels(quality)).astype(float).to_numpy()
    if len(quality) != len(per_query): raise ValueError(f'{len(quality)} qualities for {len(per_query)} queries: give one for each query')
    bad = (quality < 0) | (quality > 100)
    if bad.any():
        raise ValueError(f'quality of query {int(bad.argmax())} is {quality[bad.argmax()]:g}: it runs from 0 to 100, NaN where unknown')
    judged = per_query.assign(quality=quality, rank1=(per_query.first_rank == 1).astype(float))[per_query.answerable.to_numpy()]
    names = ['worst', 'middle', 'best'] if bins == 3 else [f'{i + 1} of {bins}' for i in range(bins)]
    place = judged.quality.rank(method='average')  # NaN stays NaN
    group = np.floor((place - .5) / place.count() * bins)
    rows = {name: judged[group == i] for i, name in enumerate(names)}
    if group.isna().any(): rows['unknown'] = judged[group.isna()]
    return pd.DataFrame([{'n_queries': len(o), 'quality_from': o.quality.min(), 'quality_to': o.quality.max(),
                          'rank1': o.rank1.mean(), 'mAP': o.ap.mean(), 'mINP': o.inp.mean()} for o in rows.values()],
                        index=pd.Index(rows, name='group'))
