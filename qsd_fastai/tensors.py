"Tensors and labels made plain: of no subclass, of at least full precision, flat, finite"
import numpy as np
import torch

__all__ = ['finite_rows', 'full_precision', 'numbers', 'of_no_subclass', 'plain_labels', 'plain_tensor',
           'plain_vector']


def plain_tensor(
    x, # Numpy or torch
)->torch.Tensor:
    "A tensor without gradient and of no subclass, sharing memory"
    if isinstance(x, torch.Tensor): return x.detach().as_subclass(torch.Tensor)
    return torch.from_numpy(np.require(x, requirements='CW'))


def of_no_subclass(
    x:torch.Tensor, # Of any kind, fastai's say
)->torch.Tensor:
    "The same tensor, its gradient with it; one that is plain already stays, since a compiler cannot follow the cast"
    return x if type(x) is torch.Tensor else x.as_subclass(torch.Tensor)


def full_precision(
    x:torch.Tensor, # Of any type
)->torch.Tensor:
    "At least float32: float64 stays, everything else becomes float32"
    return x if x.dtype == torch.float64 else x.float()


def finite_rows(
    x,              # `(n, ...)`, numpy or torch
    name:str='emb', # Of the argument, for the message
    start:int=0,    # Number of the first row, where `x` is a part of something
    count=None,     # Function that counts the bad rows of the whole; those of `x` when not given
    remedy:str='The model diverged or overflowed half precision: embed again in float32', # For the message
):
    "`x` itself; `ValueError` naming the first row that holds NaN or infinity"
    bad = plain_tensor(x)
    if bad.ndim > 1: # `isfinite` makes copies of what it looks at
        parts = bad.split(max(1, 2**20//max(1, bad[:1].numel())))
        bad = torch.cat([~torch.isfinite(o).flatten(1).all(1) for o in parts])
    else: bad = ~torch.isfinite(bad)
    if bad.any():
        n = int(bad.sum()) if count is None else count()
        raise ValueError(f'{name} row {start + int(bad.nonzero()[0])} holds NaN or infinity ({n} such rows). {remedy}.')
    return x


def plain_labels(
    x, # Of any type: numpy, torch, a column, a list
)->np.ndarray: # `(n,)`
    "Labels as a flat array"
    return np.asarray(x.detach().cpu() if isinstance(x, torch.Tensor) else x).reshape(-1)


def plain_vector(
    x, # Numbers: numpy or torch, of any device and shape
)->np.ndarray: # `(n,)`
    "Numbers as a flat array; bfloat16, which numpy lacks, as float32"
    return plain_labels(x.float() if isinstance(x, torch.Tensor) and x.dtype == torch.bfloat16 else x)


def numbers(
    scalars:dict, # Name -> a tensor of one number, on any device, or a number
)->dict: # Name -> number
    "What they hold: those of a device wait for it once and come in one transfer"
    found,by_device = {k: v for k,v in scalars.items() if not isinstance(v, torch.Tensor)},{}
    for k,v in scalars.items():
        if k not in found: by_device.setdefault(v.device, []).append(k)
    for names in by_device.values():
        stacked = torch.stack([of_no_subclass(scalars[k].detach()).float().reshape(()) for k in names])
        found |= dict(zip(names, stacked.cpu().tolist()))
    return {k: found[k] for k in scalars}
