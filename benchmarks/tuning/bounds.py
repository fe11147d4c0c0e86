"How long a step must take at least: what it moves and multiplies, at the pace of a device that does nothing else"
import time

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

__all__ = ['Work', 'least_seconds', 'pace_of', 'work_of']


class Work(TorchDispatchMode):
    "Counts operations, views left out, and the bytes that they read and write, each tensor once an operation"
    operations = moved = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        returned = func._schema.returns
        if returned and returned[0].alias_info and not returned[0].alias_info.is_write: return out
        self.operations += 1
        seen = {id(o): o for o in tree_leaves((args, kwargs, out)) if isinstance(o, torch.Tensor)}
        self.moved += sum(o.numel()*o.element_size() for o in seen.values())
        return out


def work_of(
    run, # Does a step
)->dict: # `operations`, `GFLOP`, `GB` moved
    "What a step asks of its device, in the form that it has: what a compiler fuses is counted as if it were not"
    with FlopCounterMode(display=False) as flops, Work() as work: run()
    return {'operations': work.operations, 'GFLOP': flops.get_total_flops()/1e9, 'GB': work.moved/1e9}


def _best(run, device, rounds=5):
    took = []
    for _ in range(rounds):
        if device == 'cuda': torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        if device == 'cuda': torch.cuda.synchronize()
        took.append(time.perf_counter() - start)
    return min(took)


def pace_of(
    device:str,          # 'cpu' or 'cuda'
    dtype=torch.float32, # Of what is multiplied; on a GPU float32 may be rounded to TF32, as in convolutions
)->dict: # `GFLOP` and `GB` a second
    "Of a product of large matrices, and of a copy that no cache holds"
    n,size = (8192, 2**30) if device == 'cuda' else (2048, 2**27)
    a,b = (torch.randn(n, n, device=device).to(dtype) for _ in range(2))
    source,target = (torch.zeros(size//4, device=device) for _ in range(2))
    before,torch.backends.cuda.matmul.allow_tf32 = torch.backends.cuda.matmul.allow_tf32,True
    try: product = _best(lambda: torch.mm(a, b), device)
    finally: torch.backends.cuda.matmul.allow_tf32 = before
    return {'GFLOP': 2*n**3/product/1e9, 'GB': 2*size/_best(lambda: target.copy_(source), device)/1e9}


def least_seconds(
    work:dict, # Of `work_of`
    pace:dict, # Of `pace_of`
)->float:
    "By arithmetic or by traffic, whichever takes longer"
    return max(work[k]/pace[k] for k in ('GFLOP', 'GB'))
