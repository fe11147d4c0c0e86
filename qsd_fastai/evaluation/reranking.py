"""Better ranking from the neighbours of neighbours: k-reciprocal re-ranking, sparse, and average query expansion.

Dense re-ranking keeps several (query + gallery) x (query + gallery) matrices. Here the nearest k1 + 1 pictures of each
picture are kept, the few pairs that its rules make of them, and distances are given a block of queries at a time."""
import numpy as np
import torch
from scipy import sparse

from .distances import DistanceBlocks, Embeddings
from .ranking import compiled, in_threads, nearest

__all__ = ['ReRanked', 'expand_queries', 'k_reciprocal']

AT_ONCE = 2**24  # distances at a time on a CPU: 67 MB
KEPT = 2**26  # so many query x gallery distances (Market-1501 has 54 million) are kept rather than made a second time


def _neighbours(blocks, k, symmetric, kept=None):
    """`distance, index` (n, k) of the nearest gallery pictures of each query, and its `largest` distance (n,).

    `kept` (c, d), where given, receives the distances of the first `c` queries to the last `d` gallery pictures.
    `symmetric`: queries and gallery are the same pictures. Each is its own nearest; on a CPU a product serves both."""
    n,m = blocks.shape
    on_cpu = blocks.device.type == 'cpu'
    step = max(1, (AT_ONCE if on_cpu else 2**28)//m)
    def keep(dist, lo):
        if kept is not None and lo < len(kept): kept[lo:lo + len(dist)] = dist[:len(kept) - lo, -kept.shape[1]:]
    if not on_cpu:
        parts = []
        for lo in range(0, n, step):
            dist = blocks.distances(lo, min(lo + step, n), absolute=True)
            keep(dist, lo)
            if symmetric: dist.diagonal(lo).fill_(-np.inf)
            parts.append((*dist.topk(k, dim=1, largest=False), dist.amax(1)))
        return [torch.cat(o).cpu().numpy() for o in zip(*parts)]
    buffer = blocks.empty(min(step, n))
    dtype = buffer.numpy().dtype
    distance,index,largest = np.full((n, k), np.inf, dtype), np.full((n, k), -1), np.full(n, -np.inf, dtype)
    for lo in range(0, n, step):
        hi,first = min(lo + step, n), lo if symmetric else 0  # with columns before `lo` they were met as rows
        dist = blocks.distances(lo, hi, buffer, absolute=True, first=first)
        keep(dist, lo)
        if symmetric: dist.diagonal().fill_(-np.inf)
        dist = dist.numpy()
        in_threads(nearest, hi - lo, dist, first, distance[lo:hi], index[lo:hi], largest[lo:hi])
        if not symmetric: continue
        later = distance[hi:], index[hi:], largest[hi:]
        in_threads(_nearest_of_columns, n - hi, dist[:, hi - lo:], lo, *later)
    return distance, index, largest


@compiled()
def _nearest_of_columns(dist, row, distance, index, largest, lo, hi):
    "`nearest` for the columns of `dist`, whose rows are the pictures `row` and following"
    k = distance.shape[1]
    for r in range(len(dist)):
        part,worst,most = dist[r, lo:hi], distance[lo:hi, k - 1], largest[lo:hi]
        for c in range(len(part)):
            x = part[c]
            most[c] = max(most[c], x)
            if x < worst[c]:
                i,of,at = k - 1, distance[lo + c], index[lo + c]
                while i > 0 and of[i - 1] > x:
                    of[i],at[i] = of[i - 1], at[i - 1]
                    i -= 1
                of[i],at[i] = x, row + r


@compiled()
def _reciprocal(near, i, k, out):
    "Those of the first `k` neighbours of `i` that have `i` among their own first `k`; how many"
    n = 0
    for j in near[i, :k]:
        for back in near[j, :k]:
            if back == i:
                out[n] = j
                n += 1
                break
    return n


@compiled()
def _expanded_sets(near, half, first, sets, sizes, lo, hi):
    """k-reciprocal neighbours of each picture, ascending.

    With them those of each such neighbour that shares more than two thirds of its own with the picture."""
    k = near.shape[1]
    base,other = np.empty(k, np.int64), np.empty(half, np.int64)
    for r in range(lo, hi):
        n_base,out = _reciprocal(near, first + r, k, base), sets[r]
        out[:n_base] = base[:n_base]
        n = n_base
        for candidate in base[:n_base]:
            n_other = _reciprocal(near, candidate, half, other)
            shared = 0
            for j in other[:n_other]:
                for b in base[:n_base]:
                    if b == j:
                        shared += 1
                        break
            if 3*shared > 2*n_other:
                for j in other[:n_other]:
                    new = True
                    for b in out[:n]:
                        if b == j:
                            new = False
                            break
                    if new:
                        out[n] = j
                        n += 1
        out[:n].sort()
        sizes[r] = n


@compiled(fastmath={'reassoc', 'contract'})
def _dot(a, b):
    total = a[0]*b[0]
    for f in range(1, len(a)): total += a[f]*b[f]
    return total


@compiled()
def _pair_dots(q, g, indptr, indices, out, lo, hi):
    "Products of the stored pairs: picture `i` with each of its `indices`; the gallery comes behind the queries"
    n = len(q)
    for i in range(lo, hi):
        a = q[i] if i < n else g[i - n]
        for p in range(indptr[i], indptr[i + 1]):
            j = indices[p]
            out[p] = _dot(a, q[j] if j < n else g[j - n])


def _pair_distances(blocks, indptr, indices):
    "Distances (pairs,) of the sparse pairs, float64"
    emb,square = blocks.q, blocks.q.square.cpu().numpy()
    rows = np.repeat(np.arange(len(indptr) - 1), np.diff(indptr))
    if blocks.device.type == 'cpu':
        dots = np.empty(len(indices), np.float64)
        q,g = (o.to(emb.dtype).contiguous().numpy() for o in emb.parts)
        in_threads(_pair_dots, len(indptr) - 1, q, g, indptr, indices, dots)
    else:
        parts = []
        for lo in range(0, len(indices), 2**16):
            a,b = (torch.from_numpy(o[lo:lo + 2**16]).to(blocks.device) for o in (rows, indices))
            parts.append((emb.take(a)*emb.take(b)).sum(1).double())
        dots = torch.cat(parts).cpu().numpy()
    if emb.normalize: return 1 - dots/np.sqrt(square[rows]*square[indices])
    return square[rows] + square[indices] - 2*dots


@compiled()
def _shared_weight(q_indptr, q_indices, q_data, g_indptr, g_indices, g_data, out, first, lo, hi):
    """Into `out[r, j]` the smaller weight of query `first + r` and gallery picture `j`, summed over all pictures.

    `g_` is stored by columns."""
    for r in range(lo, hi):
        for p in range(q_indptr[first + r], q_indptr[first + r + 1]):
            c,weight = q_indices[p], q_data[p]
            for s in range(g_indptr[c], g_indptr[c + 1]): out[r, g_indices[s]] += min(weight, g_data[s])


class ReRanked:
    "Re-ranked distances, made a block of queries at a time; for `evaluate_distances`"
    def __init__(self,
        blocks,    # `DistanceBlocks`, the original distances
        q_weights, # `(n_queries, n)` sparse, over all pictures
        g_weights, # `(n_gallery, n)` sparse, by columns
        largest,   # `(n_queries,)` the largest distance of each query to any picture
        lambda_,   # Share of the original distance, 0..1
        kept=None, # `(n_queries, n_gallery)` the original distances, where there are not too many
    ):
        self.blocks,self.q_weights,self.g_weights = blocks,q_weights,g_weights
        self.largest,self.lambda_,self.kept = largest,lambda_,kept
        self.shape,self.device = blocks.shape,blocks.device

    def distances(self, lo, hi):
        "Queries `lo` to `hi` against the whole gallery: a tensor (hi-lo, n_gallery) where the embeddings are, 0..1"
        q,g,dtype = self.q_weights,self.g_weights,self.blocks.q.dtype
        shared = np.zeros((hi - lo, self.shape[1]), dtype=q.dtype)
        weights = q.indptr, q.indices, q.data, g.indptr, g.indices, g.data
        in_threads(_shared_weight, hi - lo, *weights, shared, lo)
        shared = torch.from_numpy(shared).to(self.device, dtype)
        jaccard = shared.div_(2 - shared).neg_().add_(1)
        if self.lambda_ == 0: return jaccard
        scale = torch.from_numpy(self.lambda_/self.largest[lo:hi, None]).to(self.device, dtype)
        original = self.blocks.distances(lo, hi, absolute=True) if self.kept is None else self.kept[lo:hi]
        return jaccard.mul_(1 - self.lambda_).addcmul_(original, scale)

    def dense(self):
        "All of them, (n_queries, n_gallery): for small sets"
        n = self.shape[0]
        return torch.cat([self.distances(lo, min(lo + 512, n)) for lo in range(0, n, 512)])


@torch.no_grad()
def k_reciprocal(
    q_emb,          # `(n_queries, nf)` embeddings of the queries, numpy or torch, on any device
    g_emb,          # `(n_gallery, nf)` embeddings of the gallery
    k1=20,          # Neighbours that may be reciprocal
    k2=6,           # Neighbours whose weights are averaged; 1 averages none
    lambda_=.3,     # Share of the original distance, 0..1
    normalize=True, # True: cosine similarity; False: Euclidean distance of the embeddings as they are
)->ReRanked: # `distances(lo, hi)`, `dense()`; give it to `evaluate_distances`
    """k-reciprocal re-ranking (Zhong et al., CVPR 2017): pictures are near that have mutual neighbours in common.

    Queries help each other, so figures are not comparable with those of single queries. The distance that is mixed in
    is the squared Euclidean one, divided by the query's largest, as in the published code. Equal distances keep the
    order of the pictures, queries first, but a picture is always its own nearest; where the same picture is there more
    than once, its copies may change places among the neighbours of another, as a product of matrices rounds them.
    ValueError for embeddings as in `evaluate_retrieval`, and for options out of range."""
    for name,k in (('k1', k1), ('k2', k2)):
        if k < 1: raise ValueError(f'{name} is {k}. It counts pictures, from 1.')
    if not 0 <= lambda_ <= 1: raise ValueError(f'lambda_ is {lambda_}. It runs from 0 to 1.')
    pictures = Embeddings([q_emb, g_emb], ['q_emb', 'g_emb'], normalize)
    blocks,n_query = DistanceBlocks(pictures, pictures), len(pictures.parts[0])
    n = len(pictures)
    k,half = min(k1 + 1, n), min(round(k1/2) + 1, n)
    between = DistanceBlocks(pictures.only(0), pictures.only(1))
    kept = between.empty(n_query) if lambda_ and n_query*(n - n_query) <= KEPT else None
    _,near,largest = _neighbours(blocks, max(k, min(k2, n)), symmetric=True, kept=kept)
    largest = np.where(largest > 0, largest, 1).astype(np.float64)  # zero where all pictures are equal
    sizes,step,found = np.empty(n, dtype=np.int64), 2**14, []
    for lo in range(0, n, step):
        sets = np.empty((min(step, n - lo), k + k*half), dtype=np.int32)
        in_threads(_expanded_sets, len(sets), np.ascontiguousarray(near[:, :k]), half, lo, sets, sizes[lo:lo + step])
        found.append(sets[np.arange(sets.shape[1]) < sizes[lo:lo + step, None]])
    indices,indptr = np.concatenate(found), np.concatenate([[0], sizes.cumsum()])
    weights = np.exp(-_pair_distances(blocks, indptr, indices)/np.repeat(largest, sizes))
    weights /= np.repeat(np.add.reduceat(weights, indptr[:-1]), sizes)
    if pictures.dtype != torch.float64: weights = weights.astype(np.float32)
    rows = sparse.csr_matrix((weights, indices, indptr), shape=(n, n))
    if k2 > 1:
        mean = min(k2, n)
        average = np.full(n*mean, 1/mean, dtype=rows.dtype)
        rows = sparse.csr_matrix((average, near[:, :mean].ravel(), np.arange(n + 1)*mean), shape=(n, n))@rows
    return ReRanked(between, rows[:n_query], rows[n_query:].tocsc(), largest[:n_query], lambda_, kept)


@torch.no_grad()
def expand_queries(
    q_emb,    # `(n_queries, nf)` embeddings of the queries, numpy or torch, on any device
    g_emb,    # `(n_gallery, nf)` embeddings of the gallery
    k=5,      # Nearest gallery pictures that are added to each query
    alpha=0., # 0: all alike; above 0: weighted by cosine**alpha
)->torch.Tensor: # `(n_queries, nf)` of unit length, for `evaluate_retrieval` in place of `q_emb`
    """Average query expansion: each query becomes the mean of itself and its `k` nearest gallery pictures, by cosine.

    All alike as in Chum et al., ICCV 2007; weighted as in Radenovic et al., TPAMI 2018, who use an `alpha` of 3.
    ValueError as in `evaluate_retrieval`, and for options out of range."""
    if k < 1: raise ValueError(f'k is {k}. It counts gallery pictures, from 1.')
    if alpha < 0: raise ValueError(f'alpha is {alpha}. It is 0 or above.')
    blocks = DistanceBlocks.of(q_emb, g_emb, True)
    q,g = blocks.q,blocks.g
    found = _neighbours(blocks, min(k, len(g)), symmetric=False)
    distance,index,_ = (torch.from_numpy(o).to(q.device) for o in found)
    weight = (1 - distance).clamp_(min=0).pow(alpha) if alpha else torch.ones_like(distance)
    expanded = q.rows(0, len(q))
    for of,w in zip(index.T, weight.T): expanded += w[:, None]*g.take(of)/g.norm[of, None].to(q.dtype)
    return torch.nn.functional.normalize(expanded, dim=1)
