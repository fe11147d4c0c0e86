"Many processes: which one this is, and what all of them have together"
import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable

__all__ = ['gather', 'gather_rows', 'processes', 'summed']


def processes(): # `(rank, number of processes)`
    "Which process this is, of how many"
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def summed(
    x,       # Any tensor, changed in place
    op=None, # Of `torch.distributed.ReduceOp`; the sum when not given
): # The same tensor
    "Reduce over processes"
    if processes()[1] > 1: dist.all_reduce(x, dist.ReduceOp.SUM if op is None else op)
    return x


def gather(
    x, # `(n, ...)`, as many rows on every process
): # `(n of all, ...)` in the order of processes
    "Rows of all processes, without a gradient"
    if processes()[1] == 1: return x
    parts = [torch.empty_like(x) for _ in range(processes()[1])]
    dist.all_gather(parts, x.contiguous())
    return torch.cat(parts)


class _GatherRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.n = len(x)
        return gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rank,world = processes()
        # each process has the gradient by way of its own classes, and what comes out here is averaged over processes
        return summed(grad.contiguous())[rank*ctx.n:(rank + 1)*ctx.n]*world


def gather_rows(
    x, # `(n, ...)`, as many rows on every process
): # `(n of all, ...)` in the order of processes
    """Rows of all processes, with a gradient that fits the mean that distributed training takes.

    `ValueError` where numbers of rows differ."""
    if processes()[1] == 1: return x
    most,least = summed(torch.tensor([len(x), -len(x)], device=x.device), dist.ReduceOp.MAX).tolist()
    if most != -least:
        raise ValueError(f'Processes have batches of {-least} to {most} pictures. Give each of them as many.')
    return _GatherRows.apply(x)
