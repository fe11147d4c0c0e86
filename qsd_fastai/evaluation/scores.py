"""Pairs of pictures and how alike they are: the cosines that verification, templates and rejection judge.

A score says "the same" the louder the higher it is; a pair is accepted where its score reaches the threshold."""
import numpy as np
import pandas as pd
import torch

from ..tensors import finite_rows, plain_tensor, plain_vector

__all__ = ['all_pairs', 'pair_scores']


def given_scores(
    scores,  # `(n,)` similarities, higher is more alike
    same,  # `(n,)` 1 where both show one person, 0 where not; bool or numbers
)->tuple:  # Scores as floating point, same as bool, both flat numpy
    "Scores and truth, checked. ValueError for lengths that differ, NaN (naming the row), a truth that is neither 0 nor 1, and a side that is missing"
    scores,same = plain_vector(scores), plain_vector(same)
    if scores.dtype not in (np.float32, np.float64): scores = scores.astype(np.float64)
    if len(scores) != len(same): raise ValueError(f'{len(scores)} scores and {len(same)} entries of same: give one of each for a pair')
    if not len(scores): raise ValueError('scores is empty: there is nothing to judge')
    bad = np.isnan(scores)
    if bad.any(): raise ValueError(f'scores row {bad.argmax()} is NaN ({bad.sum()} such rows): embed again in float32, or leave the pair out')
    return scores, given_labels(same)


def given_labels(same):
    "`same` as bool. ValueError for what is neither 0 nor 1, and when all pairs are of one kind"
    same = plain_vector(same)
    if same.dtype != bool:
        bad = (same != 0) & (same != 1)
        if bad.any(): raise ValueError(f'same row {bad.argmax()} is {same[bad.argmax()]!r}: 1 for two pictures of one person, 0 for two people')
        same = same.astype(bool)
    if not same.any(): raise ValueError('no pair shows the same person: the acceptance of true pairs cannot be judged; add such pairs')
    if same.all(): raise ValueError('every pair shows the same person: false acceptance cannot be judged; add pairs of two people')
    return same


def plain_rows(emb, name='emb'):
    "`emb` (n, nf), numpy or torch, as a plain floating point tensor where it lies. ValueError for another shape, and for NaN, naming the row"
    emb = plain_tensor(emb)
    if emb.ndim != 2 or not len(emb): raise ValueError(f'{name} must be (rows, features) with at least one row, got {tuple(emb.shape)}')
    if emb.dtype != torch.float64: emb = emb.float()
    return finite_rows(emb, name)


def unit_rows(emb, name='emb'):
    "`plain_rows` of unit length. ValueError for a row that is all zero, naming it"
    emb = plain_rows(emb, name)
    norm = emb.norm(dim=1, keepdim=True)
    if (norm == 0).any():
        raise ValueError(f'{name} row {int((norm == 0).nonzero()[0, 0])} is all zero and has no direction: leave it out or mend the model')
    return emb/norm


def _rows(x, n, name):
    x = plain_vector(x)
    if x.dtype.kind not in 'iu': raise ValueError(f'{name} holds {x.dtype}, not row numbers: give integers from 0')
    bad = (x < 0) | (x >= n)
    if bad.any(): raise ValueError(f'{name} entry {bad.argmax()} is row {x[bad.argmax()]} of {n}: rows are counted from 0')
    return x.astype(np.int64, copy=False)


def _occurring(rows, n):
    "Which of `n` rows occur, ascending, and the place (n,) of each among them"
    used = np.zeros(n, dtype=bool)
    used[rows] = True
    return np.flatnonzero(used), np.cumsum(used) - 1


@torch.no_grad()
def pair_scores(
    emb,  # `(n, nf)` embeddings of pictures or templates, numpy or torch; on its device the work is done
    first,  # `(m,)` row of the first of each pair
    second,  # `(m,)` row of the second
    chunk=2**22,  # Scores at a time: 16 MB in float32
)->np.ndarray:
    """Cosine (m,) of every pair of rows, float32 unless `emb` is float64; tens of millions are welcome.

    Where the pairs fill a good part of the table (first x second), as in IJB-C, it is worked through as blocks of a matrix product;
    scattered pairs are gathered. ValueError for NaN or zero embeddings and for rows outside `emb`, naming them."""
    emb = unit_rows(emb)
    first,second = _rows(first, len(emb), 'first'), _rows(second, len(emb), 'second')
    if len(first) != len(second): raise ValueError(f'first has {len(first)} entries and second {len(second)}: give two rows for each pair')
    if not len(first): raise ValueError('first is empty: there is no pair to compare')
    out = np.empty(len(first), dtype=np.float64 if emb.dtype == torch.float64 else np.float32)
    (rows, row),(columns, column) = (_occurring(o, len(emb)) for o in (first, second))
    with torch.autocast(emb.device.type, enabled=False):
        if len(rows)*len(columns) > 32*len(first):
            step = max(1, chunk//emb.shape[1])
            for lo in range(0, len(first), step):
                a,b = (emb[torch.from_numpy(o[lo:lo + step]).to(emb.device)] for o in (first, second))
                out[lo:lo + step] = (a*b).sum(1).cpu().numpy()
            return out
        others,step = emb[torch.from_numpy(columns).to(emb.device)].T, max(1, chunk//len(columns))
        block = row[first]//step
        stops = np.bincount(block).cumsum()
        order = np.argsort(block.astype(np.uint16) if len(stops) < 2**16 else block, kind='stable')  # short integers are sorted in one pass
        for k,(start, stop) in enumerate(zip([0, *stops[:-1]], stops)):
            mine = order[start:stop]
            cosines = emb[torch.from_numpy(rows[k*step:(k + 1)*step]).to(emb.device)]@others
            index = (row[first[mine]] - k*step)*len(columns) + column[second[mine]]
            out[mine] = cosines.reshape(-1)[torch.from_numpy(index).to(emb.device)].cpu().numpy()
    return out


def all_pairs(
    ids,  # `(n,)` identities of the pictures, of any type
)->pd.DataFrame:
    """Every pair of n pictures once: `first` < `second` (rows, int32) and `same`; n (n - 1) / 2 rows of 9 bytes, 0.8 GB for 13,000 pictures.

    ValueError for an empty identity, naming the row."""
    codes,_ = pd.factorize(plain_vector(ids).astype(object))
    if (codes < 0).any(): raise ValueError(f'ids row {(codes < 0).argmax()} is empty: every picture needs an identity')
    n,start = len(codes), 0
    first,second = (np.empty(n*(n - 1)//2, dtype=np.int32) for _ in range(2))
    for i in range(n - 1):
        stop = start + n - 1 - i
        first[start:stop],second[start:stop] = i, np.arange(i + 1, n, dtype=np.int32)
        start = stop
    return pd.DataFrame({'first': first, 'second': second, 'same': codes[first] == codes[second]})
