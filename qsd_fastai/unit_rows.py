"Embeddings at unit length in an order of one's own: in memory, or in a file that processes share"
import os
from itertools import chain

import numpy as np
import torch

from .distributed import are_together, from_first
from .tensors import finite_rows, full_precision, plain_tensor

__all__ = ['parts_of', 'unit_rows']


def parts_of(
    emb,        # `(n, nf)`, numpy or torch, on any device
    n:int,      # How many there must be
    rows=2**14, # Of a part
): # Iterator
    "Embeddings that are there as a whole, part by part; `ValueError` for another shape or number, NaN and infinity"
    emb = plain_tensor(emb)
    if emb.ndim != 2: raise ValueError(f'emb is {tuple(emb.shape)}. It must be (pictures, features).')
    if n != len(emb): raise ValueError(f'There are {n} ids for {len(emb)} embeddings. Give one for each.')
    return iter(finite_rows(emb).split(rows))


def unit_rows(
    parts,     # Iterator of embeddings `(some, nf)`, numpy or torch, all on one device
    order,     # `(n,)`, numpy: number of the row that comes first, second, ...
    file=None, # Where they are kept, memory-mapped, if they are on the CPU; else in memory
)->torch.Tensor: # `(n, nf)` float32 or better
    """Rows at unit length, in `order`, with no more than a part of them beside these

    Of processes that are `together` the first one writes the file, and all look at it. `ValueError` for another number
    of rows than `order` has, other widths, and a row that is zero, NaN or infinite; `OSError` for a disk that is
    full."""
    first = plain_tensor(next(parts, np.empty((0, 0), dtype='float32')))
    if first.ndim != 2: raise ValueError(f'A part of emb is {tuple(first.shape)}. It must be (pictures, features).')
    kind,shape = full_precision(first[:0]).dtype,(len(order), first.shape[1])
    if file is None or first.device.type != 'cpu':
        return _fill(first.new_empty(shape, dtype=kind), chain([first], parts), order)
    def kept(): return torch.from_file(str(file), shared=True, size=shape[0]*shape[1], dtype=kind).view(shape)
    def write():
        with open(file, 'wb') as f: # What lacks its place on the disk is told now, for a write into memory cannot
            n = shape[0]*shape[1]*kind.itemsize
            if n and hasattr(os, 'posix_fallocate'): os.posix_fallocate(f.fileno(), 0, n)
        _fill(kept(), chain([first], parts), order)
    if are_together(): from_first(write)
    else: write()
    return kept()


def _fill(out, parts, order):
    "`out` with each row of the parts in its place"
    place,lo,wrong = torch.from_numpy(np.argsort(order)).to(out.device),0,f'There are {len(out)} ids for'
    for part in parts:
        part = plain_tensor(part)
        if part.ndim != 2 or part.shape[1] != out.shape[1]:
            raise ValueError(f'A part of emb is {tuple(part.shape)}, and others are (pictures, {out.shape[1]}).')
        part = full_precision(finite_rows(part, start=lo))
        if lo + len(part) > len(out): raise ValueError(f'{wrong} more embeddings. Give one for each.')
        norm = part.norm(dim=1, keepdim=True)
        if (norm == 0).any():
            row = lo + int((norm[:, 0] == 0).nonzero()[0])
            raise ValueError(f'emb row {row} is all zero and has no direction. Leave it out or mend the model.')
        out[place[lo:lo + len(part)]] = part/norm
        lo += len(part)
    if lo != len(out): raise ValueError(f'{wrong} {lo} embeddings. Give one for each.')
    return out
