"Many processes: which one this is, and what all of them have together"
from contextlib import contextmanager
from itertools import count

import torch
import torch.distributed as dist
from torch.autograd.function import once_differentiable
from torch.utils._pytree import tree_map_only

__all__ = ['after_first', 'are_together', 'as_first', 'from_first', 'gather', 'gather_objects', 'gather_parts',
           'gather_rows', 'highest', 'processes', 'share_of', 'shared_out', 'summed', 'together']


_asked = count()
_together = []


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
    def forward(ctx, x, whole):
        ctx.n,ctx.whole = len(x),whole
        return gather(x)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        rank,world = processes()
        # what comes out here is averaged over processes
        if not ctx.whole: grad = summed(grad.contiguous())
        return grad[rank*ctx.n:(rank + 1)*ctx.n]*world, None


def gather_rows(
    x,                # `(n, ...)`, as many rows on every process
    whole:bool=False, # Does each process compute all of a loss, and its gradient? Else by way of its own classes
): # `(n of all, ...)` in the order of processes
    """Rows of all processes, with a gradient that fits the mean that distributed training takes: that of one process
    with all rows.

    `ValueError` where numbers of rows differ; a GPU is asked at every 256th call."""
    if processes()[1] == 1: return x
    # a GPU is waited for now and then: every process comes here as often
    if not x.is_cuda or not next(_asked) % 256: _check_even(x)
    return _GatherRows.apply(x, whole)


def _check_even(x):
    most,least = summed(torch.tensor([len(x), -len(x)], device=x.device), dist.ReduceOp.MAX).tolist()
    if most != -least:
        raise ValueError(f'Processes have batches of {-least} to {most} pictures. Give each of them as many.')


class _Highest(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        parts = gather(x[None])
        top = parts.amax(0)
        ctx.share = (x == top)/(parts == top).sum(0)
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx, grad): return summed(grad.contiguous())*ctx.share


def highest(
    x, # Tensor, of one shape on every process
): # The same shape
    "The highest of all processes, number by number; the gradients of all reach the process that has it"
    return x if processes()[1] == 1 else _Highest.apply(x)


def as_first(
    tensors, # Changed in place
):
    "What the first process has, on all of them"
    if processes()[1] == 1: return
    for o in tensors: dist.broadcast(o, 0)


def share_of(
    n:int,       # Things to be shared out
    whole:int=1, # So many stay together, a batch say
)->range: # Of the things of this process
    "Which of `n` things are for this process: neighbours, as evenly as whole batches allow"
    rank,world = processes()
    batches = -(-n//whole)
    return range(*(min(n, batches*r//world*whole) for r in (rank, rank + 1)))


@contextmanager
def together():
    "Every process comes into this block and does the same there with the same data: `shared_out` deals out"
    _together.append(True)
    try: yield
    finally: _together.pop()


def are_together()->bool:
    "Is this within `together`, with other processes?"
    return processes()[1] > 1 and bool(_together)


def shared_out(
    jobs, # The same on every process; those of others are made, too
    do,   # What is done to each job; what it gives can be pickled
): # Iterator of what `do` gave, in the order of jobs
    """`map(do, jobs)`, where each of the processes that are `together` does every n-th job and is told of the others

    As one process alone does a job the same way, the answers are the same, to the last digit. What one of them raises
    ends the work of all."""
    if not are_together(): return map(do, jobs)
    rank,world = processes()
    own,failed = {},None
    try:
        for k,o in enumerate(jobs):
            if k % world == rank: own[k] = tree_map_only(torch.Tensor, _alone, do(o))
    except Exception as e: own,failed = f'{type(e).__name__}: {e}',e
    parts = gather_objects(own)
    if failed is not None: raise failed
    if wrong := next((o for o in parts if isinstance(o, str)), None):
        raise RuntimeError(f'Another process could not do its share ({wrong}).')
    found = {k: o for part in parts for k,o in part.items()}
    return (found[k] for k in range(len(found)))


def _alone(x):
    "On the CPU, for one of a GPU would come to the GPU of this process; and a copy, for a view is told with its whole"
    return x.cpu().clone()


def gather_objects(
    o, # What can be pickled
)->list: # Of all processes, in their order
    "What each process has"
    if processes()[1] == 1: return [o]
    found = [None]*processes()[1]
    dist.all_gather_object(found, o)
    return found


def gather_parts(
    x, # Tensor `(n, ...)`, `n` of each process; None: this one has nothing
)->torch.Tensor: # `(n of all, ...)` in the order of processes, on the device of `x`
    "Rows of all processes, which may have different numbers of them; `ValueError` where none has any"
    if processes()[1] == 1: return x
    known = gather_objects(None if x is None else (len(x), x.shape[1:], x.dtype, x.device.type))
    some = next((o for o in known if o), None)
    if some is None: raise ValueError('No process has any row. Give one or more.')
    if x is None: x = torch.empty(0, *some[1], dtype=some[2], device=some[3])
    counts = [o[0] if o else 0 for o in known]
    padded = x.new_zeros(max(counts), *some[1])
    padded[:len(x)] = x
    return torch.cat([o[:n] for o,n in zip(gather(padded).chunk(len(counts)), counts)])


def from_first(
    func, # Without arguments, for the first process alone; what it gives can be pickled
): # On every process
    "What `func` gives on the first process, told to all; an error of it is one of all"
    rank,world = processes()
    if world == 1: return func()
    told = [None, None]
    if rank == 0:
        try: told[0] = func()
        except Exception as e: told[1] = e
    dist.broadcast_object_list(told)
    if told[1] is not None: raise told[1]
    return told[0]


def after_first(
    func, # Without arguments; what it makes, it finds the second time
): # What it gives
    "On the first process, and when it has done there on the others: for what is made on a disk that all of them see"
    if processes()[1] == 1: return func()
    made = []
    from_first(lambda: made.append(func()))
    return made[0] if made else func()
