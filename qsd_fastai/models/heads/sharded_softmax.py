"Cross-entropy over classes that are spread over processes, with exact gradients"
import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

from ...distributed import summed

__all__ = ['sharded_cross_entropy']


class _ShardedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, logits, columns, known):
        top = logits.amax(1) if logits.shape[1] else logits.new_full((len(logits),), float('-inf'))
        summed(top, dist.ReduceOp.MAX)
        e = (logits - top[:, None]).exp_()
        total = summed(e.sum(1))
        rows = (columns >= 0).nonzero().flatten()
        own = summed(logits.new_zeros(len(logits)).index_put((rows,), logits[rows, columns[rows]]))
        share = known.to(logits.dtype)/known.sum().clamp(min=1)
        ctx.save_for_backward(e.div_(total[:, None]), rows, columns, share.to(e.dtype))
        return ((total.log() + top - own).masked_fill(~known, 0.)*share).sum()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        p,rows,columns,share = ctx.saved_tensors
        p = p*(share*grad)[:, None]
        p[rows, columns[rows]] -= (share*grad)[rows]
        return p, None, None


def sharded_cross_entropy(
    logits,  # `(n, classes of this process)`, the same rows on every process
    columns, # `(n,)` int64, the row's class among those of this process; -1: it is elsewhere
    known,   # `(n,)` bool: has the row a class at all? Others are skipped
): # Scalar, the same on every process
    "Mean cross-entropy over the classes of all processes; the gradient of each process's logits is exact"
    return _ShardedCrossEntropy.apply(logits, columns, known)
