"""Pairs of pictures and how alike they are: the cosines that verification, templates and rejection judge.

A score says "the same" the louder the higher it is; a pair is accepted where its score reaches the threshold."""
import numpy as np
import pandas as pd
import torch

from ..spelling import same_codes
from ..tensors import plain_vector
from .given import unit_rows

__all__ = ['all_pairs', 'pair_scores']


def _rows(x, n, name):
    x = plain_vector(x)
    if x.dtype.kind not in 'iu': raise ValueError(f'{name} holds {x.dtype}, not row numbers. Give integers from 0.')
    bad = (x < 0) | (x >= n)
    if bad.any():
        raise ValueError(f'{name} entry {bad.argmax()} is row {x[bad.argmax()]} of {n}. Rows are counted from 0.')
    return x.astype(np.int64, copy=False)


def _occurring(rows, n):
    "Which of `n` rows occur, ascending, and the place (n,) of each among them"
    used = np.zeros(n, dtype=bool)
    used[rows] = True
    return np.flatnonzero(used), np.cumsum(used) - 1


@torch.no_grad()
def pair_scores(
    emb,         # `(n, nf)` embeddings of pictures or templates, numpy or torch; on its device the work is done
    first,       # `(m,)` row of the first of each pair
    second,      # `(m,)` row of the second
    chunk=2**22, # Scores at a time: 16 MB in float32
)->np.ndarray:
    """Cosine (m,) of every pair of rows, float32 unless `emb` is float64; tens of millions are welcome.

    Where the pairs fill a good part of the table (first x second), as in IJB-C, it is worked through as blocks of a
    matrix product; scattered pairs are gathered. ValueError for NaN or zero embeddings and for rows outside `emb`,
    naming them."""
    emb = unit_rows(emb)
    first,second = _rows(first, len(emb), 'first'), _rows(second, len(emb), 'second')
    if len(first) != len(second):
        raise ValueError(f'first has {len(first)} entries and second {len(second)}. Give two rows for each pair.')
    if not len(first): raise ValueError('first is empty. There is no pair to compare.')
    out = np.empty(len(first), dtype=np.float64 if emb.dtype == torch.float64 else np.float32)
    (rows, row),(columns, column) = (_occurring(o, len(emb)) for o in (first, second))
    def of(index): return emb[torch.from_numpy(index).to(emb.device)]
    with torch.autocast(emb.device.type, enabled=False):
        if len(rows)*len(columns) > 32*len(first):
            step = max(1, chunk//emb.shape[1])
            for lo in range(0, len(first), step):
                a,b = (of(o[lo:lo + step]) for o in (first, second))
                out[lo:lo + step] = (a*b).sum(1).cpu().numpy()
            return out
        others,step = of(columns).T, max(1, chunk//len(columns))
        block = row[first]//step
        stops = np.bincount(block).cumsum()
        if len(stops) < 2**16: block = block.astype(np.uint16)  # short integers are sorted in one pass
        order = np.argsort(block, kind='stable')
        for k,(start, stop) in enumerate(zip([0, *stops[:-1]], stops)):
            mine = order[start:stop]
            cosines = of(rows[k*step:(k + 1)*step])@others
            index = (row[first[mine]] - k*step)*len(columns) + column[second[mine]]
            out[mine] = cosines.reshape(-1)[torch.from_numpy(index).to(emb.device)].cpu().numpy()
    return out


def all_pairs(
    ids, # `(n,)` identities of the pictures, of any type
)->pd.DataFrame:
    """Every pair of n pictures once: `first` < `second` (rows, int32) and `same`.

    n (n - 1) / 2 rows of 9 bytes: 0.8 GB for 13,000 pictures. ValueError for an empty identity, naming its row."""
    codes, = same_codes(ids, name='ids')
    if (codes < 0).any():
        raise ValueError(f'ids row {(codes < 0).argmax()} is empty. Every picture needs an identity.')
    n,start = len(codes), 0
    first,second = (np.empty(n*(n - 1)//2, dtype=np.int32) for _ in range(2))
    for i in range(n - 1):
        stop = start + n - 1 - i
        first[start:stop] = i
        second[start:stop] = np.arange(i + 1, n, dtype=np.int32)
        start = stop
    return pd.DataFrame({'first': first, 'second': second, 'same': codes[first] == codes[second]})
