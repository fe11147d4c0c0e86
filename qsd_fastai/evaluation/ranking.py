"""Where the true matches of a query stand, counted instead of sorted; and the nearest pictures, selected, not sorted.

The distances of the true matches are thresholds, and passes over the row count what comes before each. On a CPU a
compiled loop does it; threads share the rows, without numba's own thread pools, which do not survive a fork or a second
caller. On a GPU it is done by tensor operations; both follow one rule: equal distances keep gallery order."""
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import numpy as np
import torch
from numba import njit

__all__ = ['compiled', 'count_ranks', 'in_threads', 'match_ranks', 'nearest']

FEW = 128  # up to here a pass for each match, 16 numbers at a time, beats a search among all matches for each picture


def compiled(
    **kwargs, # For `njit`
):
    "`njit` that frees the interpreter and is kept between runs, where there is a folder that can be written"
    def decorate(f):
        try: return njit(nogil=True, cache=True, **kwargs)(f)
        except RuntimeError: return njit(nogil=True, **kwargs)(f)  # site-packages and home are read-only
    return decorate


def in_threads(
    f,     # Takes `args`, then the first row and the one behind the last
    n,     # Rows
    *args, # For `f`
):
    "`f(*args, lo, hi)` over all of `range(n)`, a part to each of torch's threads"
    n_threads = min(torch.get_num_threads(), n)
    if n_threads <= 1: return f(*args, 0, n)
    edges = [n*i//n_threads for i in range(n_threads + 1)]
    with ThreadPoolExecutor(n_threads) as pool:
        for done in [pool.submit(f, *args, lo, hi) for lo,hi in pairwise(edges)]: done.result()


@compiled()
def _count_before(row, j, t):
    "How many come before picture `j` of distance `t`: the two loops are the rule for ties"
    n,before,behind = 0, row[:j], row[j + 1:]
    # an index from 0 to the length is what the compiler makes vectors of
    for i in range(len(before)): n += before[i] <= t
    for i in range(len(behind)): n += behind[i] < t
    return n


@compiled()
def _place(row, at, by_distance, j):
    "How many of the matches `at[by_distance]`, which are in order, come before picture `j`"
    lo,hi,x = 0, len(by_distance), row[j]
    while lo < hi:
        mid = (lo + hi) >> 1
        k = at[by_distance[mid]]
        if row[k] < x or (row[k] == x and k < j): lo = mid + 1
        else: hi = mid
    return lo


@compiled()
def _rank_rows(dist, order, start, stop, q_camera, g_camera, ranks, n_matches, lo, hi):
    for r in range(lo, hi):
        row,n,n_junk = dist[r], 0, 0
        at,junk = np.empty(stop[r] - start[r], np.int64), np.empty(stop[r] - start[r], np.int64)
        for p in range(start[r], stop[r]):
            j = order[p]
            if g_camera[j] == q_camera[r]:
                junk[n_junk] = j
                n_junk += 1
            else:
                at[n] = j
                n += 1
        n_matches[r] = n
        if n <= FEW:
            for k in range(n):
                j,t = at[k], row[at[k]]
                rank = 1 + _count_before(row, j, t)
                for i in junk[:n_junk]: rank -= row[i] < t or (row[i] == t and i < j)
                ranks[r, k] = rank
            ranks[r, :n].sort()
        else:
            by_distance = np.argsort(row[at[:n]], kind='mergesort')
            for j in range(len(row)):
                k = _place(row, at, by_distance, j)
                if k < n: ranks[r, k] += 1
            for j in junk[:n_junk]:
                k = _place(row, at, by_distance, j)
                if k < n: ranks[r, k] -= 1
            for k in range(1, n): ranks[r, k] += ranks[r, k - 1]


def count_ranks(
    dist,  # `(c, n_gallery)` distances of queries
    index, # `(c, m)` gallery rows of their identities, as `Matches.block` gives them
    same,  # `(c, m)` False for padding
    junk,  # `(c, m)` True where camera and identity are the query's own
): # `(c, m)` ranks, 1 = best and ascending, and `(c,)` numbers of matches: tensors on the device of `dist`
    "`match_ranks` by tensor operations. Ranks behind a query's number of matches mean nothing"
    valid = same & ~junk
    limits = dist.gather(1, index).masked_fill(~valid, float('inf'))
    limits,order = limits.sort(dim=1, stable=True)
    rows,m = index.gather(1, order), index.shape[1]
    dist = dist.scatter(1, index, torch.finfo(dist.dtype).max)  # from here on only wrong pictures are counted
    behind = torch.searchsorted(limits, dist, right=True)  # how many matches a picture does not come before
    tied = (limits.gather(1, (behind - 1).clamp_(min=0)) == dist).nonzero()
    behind += torch.arange(len(dist), device=dist.device)[:, None]*(m + 1)
    before = torch.bincount(behind.view(-1), minlength=len(dist)*(m + 1)).view(len(dist), m + 1)[:, :m].cumsum(1)
    for r,j in (part.unbind(1) for part in tied.split(max(1, 2**22//m))):  # a tie goes to the earlier gallery row
        before.index_add_(0, r, ((limits[r] == dist[r, j][:, None]) & (rows[r] > j[:, None])).long())
    return before + torch.arange(1, m + 1, device=dist.device), valid.sum(1)


def match_ranks(
    dist,    # `(c, n_gallery)` distances of queries `lo` to `lo + c`, float32 or float64; left as they are
    matches, # `Matches`
    lo,      # First query
): # `(c, m)` ranks, 1 = best and ascending, and `(c,)` numbers of matches: tensors on the device of `dist`
    "Ranks of the true matches once junk is out. Ranks behind a query's number of matches mean nothing"
    hi = lo + len(dist)
    if dist.device.type != 'cpu':
        return count_ranks(dist, *(torch.from_numpy(o).to(dist.device) for o in matches.block(lo, hi)))
    start,stop,q_camera = (o[lo:hi] for o in (matches.start, matches.stop, matches.q_camera))
    ranks = np.zeros((len(dist), max(1, (stop - start).max())), dtype=np.int64)
    n = np.zeros(len(dist), dtype=np.int64)
    labels = matches.order, start, stop, q_camera, matches.g_camera
    in_threads(_rank_rows, len(dist), dist.contiguous().numpy(), *labels, ranks, n)
    return torch.from_numpy(ranks), torch.from_numpy(n)


@compiled()
def nearest(
    dist,     # `(c, n)` distances to the pictures `column` and following
    column,   # Number of the first of these pictures
    distance, # `(c, k)` the nearest so far, ascending, infinity where there is none; changed in place
    index,    # `(c, k)` which pictures these are; changed in place
    largest,  # `(c,)` the largest distance so far; changed in place
    lo,       # First row
    hi,       # The one behind the last
):
    "Take columns of distances into sorted lists. Pictures come in ascending order: the first of equals stays first"
    k = distance.shape[1]
    for r in range(lo, hi):
        row,worst,most = dist[r], distance[r, k - 1], largest[r]
        for j in range(len(row)):
            x = row[j]
            if x > most: most = x
            if x < worst:
                i = k - 1
                while i > 0 and distance[r, i - 1] > x:
                    distance[r, i],index[r, i] = distance[r, i - 1], index[r, i - 1]
                    i -= 1
                distance[r, i],index[r, i] = x, column + j
                worst = distance[r, k - 1]
        largest[r] = most
