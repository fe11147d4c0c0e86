"""What judging by search works on: embeddings as they are stored, distances a block of queries at a time, and who matches whom.

A query x gallery matrix is never kept, and embeddings are not copied: half precision is widened and lengths are taken out
a block at a time."""
from copy import copy
from itertools import pairwise

import numpy as np
import pandas as pd
import torch

from ..tensors import finite_rows, plain_labels, plain_tensor
from ..unknown import unknown_camera
from .ranking import compiled, in_threads

__all__ = ['DistanceBlocks', 'Embeddings', 'GivenDistances', 'Matches', 'no_answer']

TILE = 2**13  # gallery rows of half precision that are widened at a time, on a GPU eight times that


@compiled(fastmath={'reassoc', 'contract'})
def _row_squares(rows, squares, lo, hi):
    "Squared lengths in one pass and without copies, which torch would make for double precision; NaN and infinity come through"
    for r in range(lo, hi):
        row,total = rows[r], 0.
        for i in range(len(row)): total += np.float64(row[i])*np.float64(row[i])
        squares[r] = total


class Embeddings:
    "One or several tensors (n, nf) end to end, none of them copied; each row is checked to be finite and, where lengths are taken out, not zero"
    def __init__(self, parts, names, normalize):
        self.parts,self.normalize = [plain_tensor(o) for o in parts], normalize
        for part,name in zip(self.parts, names):
            if part.ndim != 2 or not len(part):
                raise ValueError(f'{name} must be (pictures, features) with at least one picture, got {tuple(part.shape)}')
        widths = [o.shape[1] for o in self.parts]
        if len(set(widths)) > 1: self.differ(names[0], widths[0], names[1], widths[1])
        self.start = np.cumsum([0, *map(len, self.parts)])
        # half precision is for storing: ties would be everywhere
        self.dtype,self.device = torch.float64 if self.parts[0].dtype == torch.float64 else torch.float32, self.parts[0].device
        self.parts = [o.to(self.device) for o in self.parts]
        self.square = torch.cat([self._squares(part, name) for part,name in zip(self.parts, names)])

    @staticmethod
    def differ(a, a_width, b, b_width): raise ValueError(f'{a} has {a_width} features and {b} {b_width}: embed both with one model')

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
        if self.normalize and (square == 0).any():
            row = int((square == 0).nonzero()[0, 0])
            raise ValueError(f'{name} row {row} is all zero and has no direction: use normalize=False or mend the model')
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

    def only(self, i):
        "One of the tensors"
        one = copy(self)
        one.parts,one.start,one.square = [self.parts[i]], np.array([0, len(self.parts[i])]), self.square[self.start[i]:self.start[i + 1]]
        return one


class DistanceBlocks:
    """Distances of queries to a gallery: 1 - cosine where lengths are taken out, else squared Euclidean.

    `absolute=False` leaves out what is the same for a whole row (the 1, or the query's own squared length): enough for ranking."""
    def __init__(self, q, g):
        if (widths := [o.parts[0].shape[1] for o in (q, g)])[0] != widths[1]: Embeddings.differ('q_emb', widths[0], 'g_emb', widths[1])
        self.q,self.g,self.device,self.shape = q, g, q.device, (len(q), len(g))
        self.scale = (-1/g.norm if q.normalize else g.square).to(q.dtype)

    @classmethod
    def of(cls, q_emb, g_emb, normalize):
        q,g = Embeddings([q_emb], ['q_emb'], normalize), Embeddings([g_emb], ['g_emb'], normalize)
        g.parts,g.square,g.device,g.dtype = [o.to(q.device) for o in g.parts], g.square.to(q.device), q.device, q.dtype
        return cls(q, g)

    @property
    def at_once(self): return 2**25 if self.device.type == 'cpu' else 2**26  # distances: 130 MB, on a GPU about 2 GB with what counting takes

    def empty(self, n_rows): return torch.empty(n_rows, self.shape[1], dtype=self.q.dtype, device=self.device)

    def distances(self, lo, hi, out=None, absolute=False, first=0):
        """Queries `lo` to `hi` against the gallery from picture `first` on, (hi-lo, n_gallery-first).

        `out`: a matrix of `empty`, at least as large, whose memory is used, from its beginning and without gaps."""
        q,n = self.q.rows(lo, hi), self.shape[1]
        shape = hi - lo, n - first
        out = torch.empty(shape, dtype=q.dtype, device=q.device) if out is None else out.view(-1)[:shape[0]*shape[1]].view(shape)
        step = TILE*(1 if q.device.type == 'cpu' else 8) if any(o.dtype != q.dtype for o in self.g.parts) else n
        with torch.autocast(q.device.type, enabled=False):  # bf16 would tie thousands of pictures
            for a,b,g in self.g.cuts(first, n, step):
                part,g = out[:, a - first:b - first], g.to(q.dtype).T
                if self.q.normalize: torch.mm(q, g, out=part).mul_(self.scale[a:b])
                else: torch.addmm(self.scale[a:b], q, g, alpha=-2, out=part)
                if absolute: part.add_(self.constant(lo, hi))
        return out

    def constant(self, lo, hi):
        "What `absolute=False` leaves out: a number or (hi-lo, 1)"
        return 1 if self.q.normalize else self.q.square[lo:hi, None].to(self.q.dtype)


class GivenDistances:
    "Distances that are there: an array, or anything with `shape` and `distances(lo, hi)`; NaN and infinity are found block by block"
    def __init__(self, dist):
        self.given = dist if hasattr(dist, 'distances') else plain_tensor(dist)
        if len(self.given.shape) != 2 or 0 in self.given.shape:
            raise ValueError(f'dist must be (queries, gallery pictures) with at least one of each, got {tuple(self.given.shape)}')
        self.shape,self.device = tuple(self.given.shape), torch.device(getattr(self.given, 'device', 'cpu'))

    at_once = property(lambda self: 2**23 if self.device.type == 'cpu' else 2**26)

    def empty(self, n_rows): return None

    def distances(self, lo, hi, out=None):
        block = self.given[lo:hi] if isinstance(self.given, torch.Tensor) else plain_tensor(self.given.distances(lo, hi))
        if block.dtype != torch.float64: block = block.float()
        # min and max are NaN where anything is, and make no copy
        if not torch.isfinite(torch.stack(block.aminmax())).all():
            finite_rows(block, 'dist', lo, remedy='Look at the embeddings that it was made from')
        return block


def _codes(query, gallery, n_query, n_gallery, word):
    "Query and gallery labels of any type as int64 codes of one numbering; -1 where missing"
    query,gallery = plain_labels(query), plain_labels(gallery)
    for side,values,n in (('q', query, n_query), ('g', gallery, n_gallery)):
        if len(values) != n: raise ValueError(f'{side}_{word} has {len(values)} entries for {n} pictures: give one for each')
    text = [{isinstance(o, str) for o in side.tolist() if o is not None and o == o} for side in (query, gallery)]
    if text[0] and text[1] and not text[0] & text[1]:
        raise ValueError(f'q_{word} and g_{word} differ in kind, one text and one numbers: \'7\' is not 7, nothing would match')
    codes,_ = pd.factorize(np.concatenate([query.astype(object), gallery.astype(object)]))
    return codes[:n_query].astype(np.int64), codes[n_query:].astype(np.int64)


class Matches:
    "Which gallery pictures show the identity of a query, and which of those are junk: taken by the query's own camera"
    def __init__(self, q_ids, g_ids, q_cameras, g_cameras, shape):
        self.q,self.g = _codes(q_ids, g_ids, *shape, 'ids')
        for side,codes in (('q_ids', self.q), ('g_ids', self.g)):
            if (codes < 0).any(): raise ValueError(f'{side} row {int((codes < 0).argmax())} is empty: every picture needs an identity')
        self.order = np.argsort(self.g, kind='stable')  # gallery rows identity by identity, in gallery order within each
        in_order = self.g[self.order]
        self.start,self.stop = np.searchsorted(in_order, self.q, 'left'), np.searchsorted(in_order, self.q, 'right')
        self.q_camera,self.g_camera = np.full(shape[0], -1), np.full(shape[1], -2)  # unknown never equals unknown
        if (q_cameras is None) != (g_cameras is None): raise ValueError('give both q_cameras and g_cameras, or neither')
        if q_cameras is not None:
            self.q_camera,self.g_camera = _codes(q_cameras, g_cameras, *shape, 'cameras')
            self.q_camera[unknown_camera(q_cameras)] = -1
            self.g_camera[unknown_camera(g_cameras)] = -2

    def block(self, lo, hi):
        "`index` (hi-lo, m) of gallery rows, ascending; `same` False for padding; `junk` where identity and camera are the query's own"
        start,stop = self.start[lo:hi, None], self.stop[lo:hi, None]
        place = start + np.arange(max(1, (stop - start).max()))
        same = place < stop
        # padding repeats the first match, so that writing to all of `index` touches true matches only
        index = self.order[np.where(same, place, np.minimum(start, len(self.order) - 1))]
        return index, same, same & (self.g_camera[index] == self.q_camera[lo:hi, None])


def no_answer():
    "The error that everybody meets with own data, and what helps"
    return ValueError('no query can be answered: all query identities do not appear in gallery, or only from the camera of the query. '
                      'Check that the gallery belongs to these queries, that both sides write identities alike, '
                      'and the cameras; exclude_same_camera=False judges without them')
