"Cross-entropy over classes that are spread over processes, with exact gradients."
import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

__all__ = ['gather_rows', 'processes', 'sharded_cross_entropy', 'summed']


def processes(): # (rank, number of processes)
    "Which process this is, of how many"
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def summed(
    x, # any tensor, changed in place
    op=None, # of `torch.distributed.ReduceOp`; the sum when not given
): # the same tensor
    "Reduce over processes"
    if processes()[1] > 1: dist.all_reduce(x, dist.ReduceOp.SUM if op is None else op)
    return x


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        parts = [torch.empty_like(x) for _ in range(processes()[1])]
        dist.all_gather(parts, x.contiguous())
        ctx.n = len(x)
        return torch.cat(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rank, world = processes()
        # each process has the gradient by way of its own classes; distributed training takes the mean over processes of what comes out here
        return summed(grad.contiguous())[rank*ctx.n:(rank + 1)*ctx.n]*world


def gather_rows(
    x, # (n, ...), as many rows on every process
): # (n of all, ...) in the order of processes
    "Rows of all processes, with a gradient that fits the mean that distributed training takes; raises `ValueError` where numbers of rows differ"
    if processes()[1] == 1: return x
    most, least = summed(torch.tensor([len(x), -len(x)], device=x.device), dist.ReduceOp.MAX).tolist()
    if most != -least: raise ValueError(f'Processes have batches of {-least} to {most} pictures. Give every process batches of one size.')
    return _GatherRows.apply(x)


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
        p, rows, columns, share = ctx.saved_tensors
        p = p*(share*grad)[:, None]
        p[rows, columns[rows]] -= (share*grad)[rows]
        return p, None, None


def sharded_cross_entropy(
    logits, # (n, classes of this process), the same rows on every process
    columns, # (n,) int64, the row's class among those of this process; -1: it is elsewhere
    known, # (n,) bool: has the row a class at all? Others are skipped
): # scalar, the same on every process
    "Mean cross-entropy over the classes of all processes; the gradient of each process's logits is exact"
    return _ShardedCrossEntropy.apply(logits, columns, known)
