"CMC with one gallery picture of every identity: the classic protocol of CUHK03, exact or by drawing"
import numpy as np
import torch

from .distances import DistanceBlocks
from .ranking import compiled, in_threads
from .same_camera import Matches, no_answer

__all__ = ['single_shot_cmc']


@compiled()
def _expected_rows(dist, order, edges, own, q_camera, g_camera, cmc, n_matches, lo, hi):
    """For each query the probability (depth,) that its match is among the first 1, 2, ... of a picture an identity.

    For a drawn match the other identities are independent, each before it with the share of its pictures that are: how
    many come before is a sum of coin tosses with known odds (Poisson binomial), whose distribution is built an identity
    at a time."""
    depth,n_ids = cmc.shape[1], len(edges) - 1
    row,chance = np.empty(len(order), dist.dtype), np.empty(depth)
    for r in range(lo, hi):
        if own[r] < 0: continue
        for p in range(len(order)): row[p] = dist[r, order[p]]
        for m in range(edges[own[r]], edges[own[r] + 1]):
            t,j = row[m], order[m]
            if g_camera[j] == q_camera[r]: continue
            n_matches[r] += 1
            chance[:] = 0
            chance[0] = 1
            for i in range(n_ids):
                if i == own[r]: continue
                before,of = 0, row[edges[i]:edges[i + 1]]
                for p in range(len(of)): before += of[p] < t or (of[p] == t and order[edges[i] + p] < j)
                if before == 0: continue
                odds = before/len(of)
                for k in range(depth - 1, 0, -1): chance[k] = chance[k]*(1 - odds) + chance[k - 1]*odds
                chance[0] *= 1 - odds
            cmc[r] += chance.cumsum()
        if n_matches[r]: cmc[r] /= n_matches[r]


@compiled()
def _drawn_rows(dist, order, edges, own, q_camera, g_camera, cmc, n_matches, draws, lo, hi):
    "The same from drawings: `draws` (c, n_draws, n_ids), 0 to below 1, says which picture of each identity is taken"
    depth,n_ids = cmc.shape[1], len(edges) - 1
    for r in range(lo, hi):
        if own[r] < 0: continue
        of_own = order[edges[own[r]]:edges[own[r] + 1]]
        allowed = of_own[g_camera[of_own] != q_camera[r]]
        n_matches[r] = len(allowed)
        if len(allowed) == 0: continue
        for d in range(draws.shape[1]):
            j,before = allowed[int(draws[r, d, own[r]]*len(allowed))], 0
            for i in range(n_ids):
                if i == own[r]: continue
                other = order[edges[i] + int(draws[r, d, i]*(edges[i + 1] - edges[i]))]
                before += dist[r, other] < dist[r, j] or (dist[r, other] == dist[r, j] and other < j)
            if before < depth: cmc[r, before:] += 1
        cmc[r] /= draws.shape[1]


@torch.no_grad()
def single_shot_cmc(
    q_emb,          # `(n_queries, nf)` embeddings of the queries
    g_emb,          # `(n_gallery, nf)` embeddings of the gallery
    q_ids,          # `(n_queries,)` identities
    g_ids,          # `(n_gallery,)` identities
    q_cameras=None, # `(n_queries,)` cameras, as in `evaluate_retrieval`
    g_cameras=None, # `(n_gallery,)` cameras
    n_draws=None,   # Gallery drawings for each query (published: 10 or 100); None: what is to be expected, exactly
    seed=0,         # Of the drawings
    max_rank=50,    # Depth of the CMC curve; fewer identities shorten it
    normalize=True, # True: cosine; False: Euclidean
    chunk=None,     # Queries at a time; changes no figure
)->np.ndarray: # `(min(max_rank, identities),)` share of the answerable queries whose match is in the first 1, 2, ...
    """Single-gallery-shot CMC: of every gallery identity one picture is drawn for each query, evenly.

    Pictures of the query's own identity *and* camera are taken out before. Equal distances keep gallery order; queries
    without a match are left out. In the classic protocol of CUHK03 queries and gallery are the same pictures.
    ValueError as in `evaluate_retrieval`, and for `n_draws` below 1. Protocol: Li et al., DeepReID, CVPR 2014."""
    if n_draws is not None and n_draws < 1:
        raise ValueError(f'n_draws is {n_draws}. Draw once or more, or give None for the exact expectation.')
    blocks = DistanceBlocks.of(q_emb, g_emb, normalize)
    matches = Matches(q_ids, g_ids, q_cameras, g_cameras, blocks.shape)
    n_query,n_gallery = blocks.shape
    names,edges = np.unique(matches.g[matches.order], return_index=True)
    edges,n_ids = np.append(edges, n_gallery), len(names)
    place = np.searchsorted(names, matches.q).clip(max=n_ids - 1)
    own = np.where(names[place] == matches.q, place, -1)
    cmc,n_matches = np.zeros((n_query, min(max_rank, n_ids))), np.zeros(n_query, dtype=np.int64)
    rng = np.random.default_rng(seed)
    if chunk is None: chunk = max(1, 2**23//max(n_gallery, n_ids*(n_draws or 1)))
    for lo in range(0, n_query, chunk):
        hi = min(lo + chunk, n_query)
        dist = blocks.distances(lo, hi).cpu().numpy()
        labels = matches.order, edges, own[lo:hi], matches.q_camera[lo:hi], matches.g_camera
        args = hi - lo, dist, *labels, cmc[lo:hi], n_matches[lo:hi]
        if n_draws is None: in_threads(_expected_rows, *args)
        else: in_threads(_drawn_rows, *args, rng.random((hi - lo, n_draws, n_ids)))
    if not n_matches.any(): raise no_answer()
    return cmc[n_matches > 0].mean(0)
