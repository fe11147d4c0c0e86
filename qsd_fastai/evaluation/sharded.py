"Search in a gallery that no process has whole: each counts in its part what comes before a match, and counts are added"
import torch

from ..distributed import gather, gather_objects, processes, summed
from .distances import DistanceBlocks
from .ranking import compiled, in_threads
from .retrieval import RetrievalResult, figures_of
from .same_camera import Matches

__all__ = ['evaluate_sharded']


@compiled()
def _count(dist, limits, upto, counts, lo, hi):
    "How many pictures of a row are nearer than each limit, or as near and before picture `upto`"
    for r in range(lo, hi):
        row = dist[r]
        for k in range(limits.shape[1]):
            n,t = 0,limits[r, k]
            before,behind = row[:upto[r, k]],row[upto[r, k]:]
            for i in range(len(before)): n += before[i] <= t
            for i in range(len(behind)): n += behind[i] < t
            counts[r, k] = n


@torch.no_grad()
def evaluate_sharded(
    q_emb,                    # `(n_queries, nf)` embeddings of all queries, the same on every process
    g_emb,                    # `(n, nf)` embeddings of this process's part of the gallery, one picture or more
    q_ids,                    # `(n_queries,)` identities
    g_ids,                    # `(n,)` identities
    q_cameras=None,           # `(n_queries,)` cameras, as in `evaluate_retrieval`
    g_cameras=None,           # `(n,)` cameras
    max_rank=50,              # Depth of the CMC curve
    normalize=True,           # True: cosine similarity; False: Euclidean distance of the embeddings as they are
    chunk=None,               # Queries at a time, the same on every process; None: about 100 MB, or a quarter of a part
    exclude_same_camera=True, # Take same identity, same camera out of a query's ranking
)->RetrievalResult: # The same on every process
    """`evaluate_retrieval` over a gallery whose parts are on several processes, in their order: every one must call it

    Exact: a rank is one more than the sum, over parts, of pictures that come before. What is told between processes are
    the distances of true matches and the counts. Copies of one picture in two parts may round apart, where one process
    would have them equally far."""
    blocks = DistanceBlocks.of(q_emb, g_emb, normalize)
    if not exclude_same_camera: q_cameras = g_cameras = None
    matches,(n_query, n_own) = Matches(q_ids, g_ids, q_cameras, g_cameras, blocks.shape),blocks.shape
    sizes = gather_objects(n_own)
    # a large part is read whole for each chunk, so that few queries at a time would cost as much as many
    if chunk is None: chunk = max(1, blocks.at_once//max(sizes), q_emb.shape[1]//8)
    out = blocks.empty(min(chunk, n_query))

    def ranked():
        for lo in range(0, n_query, chunk):
            hi = min(lo + chunk, n_query)
            yield lo, *_ranks(blocks.distances(lo, hi, out).cpu(), *map(torch.from_numpy, matches.block(lo, hi)))

    return figures_of(ranked(), n_query, sum(sizes), max_rank)


def _ranks(dist, index, same, junk):
    "Ranks of the matches in all parts, ascending, and how many there are"
    (rank, world),valid = processes(),same & ~junk
    most = int(summed(torch.tensor(index.shape[1]), torch.distributed.ReduceOp.MAX))
    limits = torch.full((len(dist), most), float('inf'), dtype=dist.dtype)
    upto = torch.zeros(len(dist), most, dtype=torch.int64)
    limits[:, :index.shape[1]] = dist.gather(1, index).masked_fill(~valid, float('inf'))
    upto[:, :index.shape[1]] = index
    rows,columns = junk.nonzero(as_tuple=True)
    dist[rows, index[rows, columns]] = float('inf')
    # equally far pictures of the parts before come before the match, those of the parts behind do not
    all_limits,counts = gather(limits[None]),torch.zeros(world, len(dist), most, dtype=torch.int64)
    for k in range(world):
        here = upto if k == rank else torch.full_like(upto, dist.shape[1] if rank < k else 0)
        in_threads(_count, len(dist), dist.numpy(), all_limits[k].numpy(), here.numpy(), counts[k].numpy())
    ranks = (summed(counts) + 1).masked_fill(all_limits.isinf(), torch.iinfo(torch.int64).max)
    ranks = ranks.transpose(0, 1).flatten(1).sort(1).values
    n = all_limits.isfinite().sum((0, 2))
    return ranks[:, :max(int(n.max()), 1)].numpy(), n.numpy()
