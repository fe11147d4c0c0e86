"""What judging by search works on: embeddings as they are stored, blocks of distances.

A query x gallery matrix is never kept, and embeddings are not copied: half precision is widened and lengths are taken
out a block of queries at a time."""
from copy import copy
from functools import cached_property
from hashlib import blake2b
from itertools import pairwise

import numpy as np
import torch

from ..tensors import finite_rows, plain_tensor
from .given import refuse_zero, same_width
from .ranking import compiled, in_threads

__all__ = ['DistanceBlocks', 'Embeddings', 'GivenDistances']

TILE = 2**13  # gallery rows of half precision that are widened at a time, on a GPU eight times that


@compiled(fastmath={'reassoc', 'contract'})
def _row_squares(rows, squares, lo, hi):
    "Squared lengths in one pass, without the copies that torch makes for float64; NaN and infinity come through"
    for r in range(lo, hi):
        row,total = rows[r], 0.
        for i in range(len(row)): total += np.float64(row[i])*np.float64(row[i])
        squares[r] = total


class Embeddings:
    "Tensors (n, nf) end to end, none of them copied; each row is finite and, where lengths are taken out, not zero"
    def __init__(self,
        parts,     # `(n, nf)` each, numpy or torch
        names,     # Of the arguments that they are, for messages
        normalize, # Take lengths out?
    ):
        self.parts,self.normalize = [plain_tensor(o) for o in parts],normalize
        for part,name in zip(self.parts, names):
            if part.ndim != 2 or not len(part):
                raise ValueError(f'{name} is {tuple(part.shape)}. Give (pictures, features), one picture or more.')
        same_width(names, [o.shape[1] for o in self.parts])
        self.start = np.cumsum([0, *map(len, self.parts)])
        # half precision is for storing: ties would be everywhere
        self.dtype = torch.float64 if self.parts[0].dtype == torch.float64 else torch.float32
        self.device = self.parts[0].device
        self.parts = [o.to(self.device) for o in self.parts]
        self.square = torch.cat([self._squares(part, name) for part,name in zip(self.parts, names)])

    def _squares(self, part, name):
        "Squared lengths (n,) in float64, from the stored numbers"
        squares,step = [], max(1, 2**(22 if part.device.type == 'cpu' else 26)//max(1, part.shape[1]))
        for lo in range(0, len(part), step):
            tile = part[lo:lo + step]
            wide = tile.to(self.dtype)
            if wide.device.type != 'cpu': squares.append(wide.square().sum(1, dtype=torch.float64))
            else:
                squares.append(torch.empty(len(wide), dtype=torch.float64))
                in_threads(_row_squares, len(wide), wide.contiguous().numpy(), squares[-1].numpy())
            if torch.isfinite(squares[-1]).all(): continue
            finite_rows(tile, name, lo, lambda: sum(int((~torch.isfinite(o).all(1)).sum()) for o in part.split(step)))
        square = torch.cat(squares)
        if self.normalize: refuse_zero(square, name, remedy='Use normalize=False or mend the model')
        return square

    @property
    def norm(self): return self.square.sqrt()

    def __len__(self): return int(self.start[-1])

    def cuts(self, lo, hi, step):
        "`(lo, hi, rows)` of pieces of about `step` rows, as stored; no piece is left over that is much smaller"
        for first,part in zip(self.start, self.parts):
            a,b = max(lo, first), min(hi, first + len(part))
            if a >= b: continue
            edges = np.linspace(a, b, -(-(b - a)//step) + 1).astype(int)
            for x,y in pairwise(edges): yield int(x), int(y), part[x - first:y - first]

    def rows(self, lo, hi):
        "Rows `lo` to `hi` as they are compared (hi-lo, nf)"
        rows = torch.cat([o.to(self.dtype) for _,_,o in self.cuts(lo, hi, hi - lo)])
        return rows/self.square[lo:hi, None].sqrt().to(self.dtype) if self.normalize else rows

    def take(self, index):
        "Any rows, as stored but widened (n, nf)"
        rows = torch.empty(len(index), self.parts[0].shape[1], dtype=self.dtype, device=self.device)
        for first,part in zip(self.start, self.parts):
            inside = (index >= first) & (index < first + len(part))
            rows[inside] = part[index[inside] - first].to(self.dtype)
        return rows

    @cached_property
    def copies(self):
        "Rows that are there before, bit for bit, ascending, and the first of each (2, copies)"
        square,seen,found = self.square.cpu().numpy(), {}, []
        order = np.argsort(square, kind='stable')
        again = square[order][1:] == square[order][:-1]  # equal rows have equal lengths: few others need a look
        likely = torch.from_numpy(np.sort(order[np.r_[again, False] | np.r_[False, again]]))
        for part in likely.split(2**12):
            for i,row in zip(part.tolist(), self.take(part.to(self.device)).cpu().numpy()):
                first = seen.setdefault(blake2b(row.tobytes(), digest_size=16).digest(), i)
                if first != i: found.append((i, first))
        return np.array(found, dtype=np.int64).reshape(-1, 2).T

    def only(self, i):
        "One of the tensors"
        one = copy(self)
        one.__dict__.pop('copies', None)
        one.parts,one.start = [self.parts[i]], np.array([0, len(self.parts[i])])
        one.square = self.square[self.start[i]:self.start[i + 1]]
        return one


class DistanceBlocks:
    """Distances of queries to a gallery: 1 - cosine where lengths are taken out, else squared Euclidean.

    `absolute=False` leaves out what is the same for a whole row (the 1, or the query's own squared length): enough for
    ranking."""
    def __init__(self,
        q, # `Embeddings` of the queries
        g, # `Embeddings` of the gallery
    ):
        same_width(('q_emb', 'g_emb'), [o.parts[0].shape[1] for o in (q, g)])
        self.q,self.g,self.device,self.shape = q,g,q.device,(len(q), len(g))
        self.scale = (-1/g.norm if q.normalize else g.square).to(q.dtype)

    @classmethod
    def of(cls, q_emb, g_emb, normalize):
        q,g = Embeddings([q_emb], ['q_emb'], normalize), Embeddings([g_emb], ['g_emb'], normalize)
        g.parts,g.square = [o.to(q.device) for o in g.parts], g.square.to(q.device)
        g.device,g.dtype = q.device,q.dtype
        return cls(q, g)

    @property
    def at_once(self):
        "So many distances: 130 MB, on a GPU about 2 GB with what counting takes"
        return 2**25 if self.device.type == 'cpu' else 2**26

    def empty(self, n_rows): return torch.empty(n_rows, self.shape[1], dtype=self.q.dtype, device=self.device)

    def distances(self, lo, hi, out=None, absolute=False, first=0):
        """Queries `lo` to `hi` against the gallery from picture `first` on, (hi-lo, n_gallery-first).

        `out`: a matrix of `empty`, at least as large, whose memory is used, from its beginning and without gaps."""
        q,n = self.q.rows(lo, hi), self.shape[1]
        shape = hi - lo, n - first
        if out is None: out = torch.empty(shape, dtype=q.dtype, device=q.device)
        else: out = out.view(-1)[:shape[0]*shape[1]].view(shape)
        widened = any(o.dtype != q.dtype for o in self.g.parts)
        step = TILE*(1 if q.device.type == 'cpu' else 8) if widened else n
        with torch.autocast(q.device.type, enabled=False):  # bf16 would tie thousands of pictures
            for a,b,g in self.g.cuts(first, n, step):
                part,g = out[:, a - first:b - first], g.to(q.dtype).T
                if self.q.normalize: torch.mm(q, g, out=part).mul_(self.scale[a:b])
                else: torch.addmm(self.scale[a:b], q, g, alpha=-2, out=part)
                if absolute: part.add_(self.constant(lo, hi))
        copies,firsts = (torch.from_numpy(o - first).to(out.device) for o in self._copies(first))
        # a product of matrices may round equal columns differently, by where they stand and how many rows there are
        if len(copies): out.index_copy_(1, copies, out.index_select(1, firsts))
        return out

    def _copies(self, first):
        "Of the pictures from `first` on: those that repeat another one of them, and that other"
        copies,firsts = self.g.copies
        if first == 0: return copies, firsts
        here = copies >= first
        copies,firsts = copies[here], firsts[here].copy()
        gone = firsts < first  # the first that is left stands for those before it
        if gone.any():
            names,place = np.unique(firsts[gone], return_index=True)
            firsts[gone] = copies[gone][place][np.searchsorted(names, firsts[gone])]
        return copies, firsts

    def constant(self, lo, hi):
        "What `absolute=False` leaves out: a number or (hi-lo, 1)"
        return 1 if self.q.normalize else self.q.square[lo:hi, None].to(self.q.dtype)


class GivenDistances:
    "Distances that are there; NaN and infinity are found block by block"
    def __init__(self,
        dist, # `(n_queries, n_gallery)`, numpy or torch, or anything with `shape` and `distances(lo, hi)`
    ):
        self.given = dist if hasattr(dist, 'distances') else plain_tensor(dist)
        self.shape,self.device = tuple(self.given.shape), torch.device(getattr(self.given, 'device', 'cpu'))
        if len(self.shape) != 2 or 0 in self.shape:
            raise ValueError(f'dist is {self.shape}. Give (queries, gallery pictures), one or more of each.')

    at_once = property(lambda self: 2**23 if self.device.type == 'cpu' else 2**26)

    def empty(self, n_rows): return None

    def distances(self, lo, hi, out=None):
        there = isinstance(self.given, torch.Tensor)
        block = self.given[lo:hi] if there else plain_tensor(self.given.distances(lo, hi))
        if block.dtype != torch.float64: block = block.float()
        # min and max are NaN where anything is, and make no copy
        if not torch.isfinite(torch.stack(block.aminmax())).all():
            finite_rows(block, 'dist', lo, remedy='Look at the embeddings that it was made from')
        return block
