"""Quality of a picture, 0 to 100, from how its embedding lies among all others.

A good picture is like the other pictures of its identity and unlike everybody else's. Its quality is the distance
between these two distributions of cosine similarity: SDD-FIQA (Ou et al., CVPR 2021, arXiv 2103.05977), which draws 24
positives and 24 negatives in each of 12 rounds, takes the 1-dimensional Wasserstein distance, stretches every round to
0 to 100 over the whole set, and averages.

Pictures are worked through identity by identity in blocks; no picture x picture matrix is kept in either mode."""
import warnings
from collections.abc import Iterator

import numpy as np
import torch

from .choices import one_of
from .columns import complete_table
from .distributed import shared_out, together
from .spelling import same_codes
from .tensors import finite_rows, full_precision, plain_tensor
from .unit_rows import parts_of, unit_rows

__all__ = ['comparable', 'label_table', 'norm_quality', 'similarity_quality', 'to_hundred', 'wasserstein']


def _w1(values, weights):
    """Integral over x of |F(x) - G(x)|, last dimension.

    `weights` hold 1/n for samples of F, -1/m for G, 0 for what does not count."""
    values,order = values.sort(dim=-1)
    gap = weights.gather(-1, order).cumsum(-1)[..., :-1].abs_()
    return gap.mul_(values.diff(dim=-1)).sum(-1)


def wasserstein(
    pos, # `(..., n)` similarities to pictures of the same identity, numpy or torch, NaN = padding
    neg, # `(..., m)` similarities to pictures of other identities, NaN = padding; n and m may differ
): # `(...)`, of the same kind as given; NaN where a side is empty
    "1-dimensional Wasserstein distance of every row of `pos` and `neg`"
    if not isinstance(pos, torch.Tensor):
        pos,neg = (torch.as_tensor(np.asarray(o)) for o in (pos, neg))
        return wasserstein(pos, neg).numpy()
    n,m = ((~o.isnan()).sum(-1, keepdim=True).to(o.dtype) for o in (pos, neg))
    out = pos.nansum(-1)/n[..., 0] - neg.nansum(-1)/m[..., 0]
    # where the worst positive is above the best negative, as mostly for a trained model, this is it already
    crosses = pos.nan_to_num(float('inf')).amin(-1) < neg.nan_to_num(-float('inf')).amax(-1)
    pos,neg,n,m = (o.expand(*crosses.shape, -1)[crosses] for o in (pos, neg, n, m))
    values = torch.cat([pos, neg], -1)
    weights = torch.cat([(1/n).expand_as(pos), (-1/m).expand_as(neg)], -1).masked_fill_(values.isnan(), 0)
    out[crosses] = _w1(values.nan_to_num_(0.), weights) # padding weighs nothing, so any finite value will do
    return out


def _similarities(emb, rows, picks):
    "Cosines (c, m) of the unit embeddings `rows` (c,) to `picks` (c, m) of `emb`; NaN where a pick is -1"
    none,index,(c, m) = picks < 0, picks.int().clamp(min=0), picks.shape
    if emb.device.type == 'cpu' and m <= len(emb):
        # dot products where they lie: gathering the picks first costs four times as much
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='Sparse CSR')
            ends,zeros = torch.arange(c + 1, dtype=torch.int32)*m, emb.new_zeros(c*m)
            wanted = torch.sparse_csr_tensor(ends, index.reshape(-1), zeros, (c, len(emb)), check_invariants=False)
            sims = torch.sparse.sampled_addmm(wanted, emb[rows], emb.T, beta=0.).values().view(c, m)
    else: sims = torch.einsum('cd,cmd->cm', emb[rows], emb[index])
    return sims.masked_fill(none, float('nan'))


def _picked_distances(emb, rows, pick_pos, pick_neg, signed=False):
    """Distances (c, rounds) of the unit embeddings `rows` for given picks; -1 = none.

    Picks are (c, 1 or rounds, n_pos) and (c, rounds, n_neg)."""
    pos,neg = (_similarities(emb, rows, o.flatten(1)).view(o.shape) for o in (pick_pos, pick_neg))
    return pos.nanmean(-1) - neg.nanmean(-1) if signed else wasserstein(pos, neg)


def _draw(random, population):
    """Distinct numbers below `population` (c,) for every row of the large random integers `random` (c, rounds, k).

    -1 where they run out. Floyd's algorithm: each subset is equally likely, k steps whatever the population, nothing is
    ever drawn again, so it cannot hang."""
    k,population = random.shape[-1], population[:, None, None]
    last = (population - k).clamp(min=0) + torch.arange(k, device=random.device)
    picks,last,population = (o.expand_as(random).flatten(0, 1).int() for o in (random % (last + 1), last, population))
    # without a repetition among the draws the steps change nothing
    again = (picks.sort(dim=1)[0].diff(dim=1) == 0).any(1).nonzero()[:, 0]
    some,ends = picks[again].T.contiguous(), last[again].T
    for i in range(1, k): some[i] = torch.where((some[:i] == some[i]).any(0), ends[i], some[i])
    picks[again] = some.T
    return picks.masked_fill_(last >= population, -1).view(random.shape)


def _sampled(emb, start, stop, known, n_pos, n_neg, rounds, seed, signed):
    "Distances (n, rounds) by drawing; `emb` lies identity by identity, that of picture i in rows start[i]:stop[i]"
    generator = torch.Generator().manual_seed(seed) # on the CPU, so that a GPU gets the same draws
    out = emb.new_full((len(emb), rounds), float('nan'), dtype=torch.float64)
    n_own,n_other = stop - start - 1, len(emb) - (stop - start)
    def blocks():
        # identities with no more pictures than are drawn have the same positives in every round
        for takes_all in (True, False):
            todo = (known & ((n_own <= n_pos) == takes_all)).nonzero()[:, 0]
            for rows in todo.split(512 if emb.device.type == 'cpu' else 2048):
                # picture by picture, so that the draws do not depend on the size of a block
                width = rounds*(n_neg if takes_all else n_neg + n_pos)
                yield rows, takes_all, torch.randint(2**62, (len(rows), width), generator=generator)

    def distances(block):
        rows,takes_all,random = block
        random = random.to(emb.device)
        first,last = start[rows, None, None].int(), stop[rows, None, None].int()
        neg = _draw(random[:, :rounds*n_neg].view(-1, rounds, n_neg), n_other[rows])
        neg = neg + (last - first)*(neg >= first) # counted among the others: step over the own identity
        if takes_all:
            pos = torch.arange(n_pos, device=emb.device).expand(len(rows), 1, n_pos)
            pos = pos.masked_fill(pos >= n_own[rows, None, None], -1)
        else: pos = _draw(random[:, rounds*n_neg:].view(-1, rounds, n_pos), n_own[rows])
        itself = first + pos >= rows[:, None, None] # step over the picture itself
        pos = torch.where(pos < 0, -1, first + pos + itself)
        return rows, _picked_distances(emb, rows, pos, neg, signed).double()

    return _collected(out, blocks(), distances)


def _collected(out, blocks, distances):
    "`out` with the rows and distances that each block gives, of whichever process"
    for rows,found in shared_out(blocks, distances): out[rows.to(out.device)] = found.to(out.device)
    return out


def _exact(emb, start, stop, known, signed):
    """Distances (n, 1) over all pairs, the limit of larger and larger draws.

    The difference of the two means wherever the positives lie above the negatives quantile by quantile, the sorted
    Wasserstein distance otherwise."""
    out = emb.new_full((len(emb), 1), float('nan'), dtype=torch.float64)
    todo,n,inf = known.nonzero()[:, 0], len(emb), float('inf')

    def distances(rows):
        sims,first,last = emb[rows]@emb.T, start[rows, None], stop[rows, None]
        place = first + torch.arange(int((last - first).max()), device=emb.device)
        is_pos = (place < last) & (place != rows[:, None])
        index = torch.where(place < last, place, first)
        own,m_pos,m_neg = sims.gather(1, index), is_pos.sum(1), n - (last - first)[:, 0]
        sum_own = own.masked_fill(place >= last, 0).double().sum(1)
        sum_pos = own.masked_fill(~is_pos, 0).double().sum(1)
        found = sum_pos/m_pos - (sims.sum(1, dtype=torch.float64) - sum_own)/m_neg
        if signed: return rows, found[:, None]
        neg,pos = sims.scatter(1, index, -inf), own.masked_fill(~is_pos, inf).sort(dim=1)[0]
        # elsewhere even the worst positive is above the best negative
        check = (neg.amax(1) > pos[:, 0]).nonzero()[:, 0]
        if not len(check): return rows, found[:, None]
        # how many negatives are below each positive: all rows in one search, each counted in bins of its own
        pos,m,m_pos,m_neg = pos[check], pos.shape[1], m_pos[check, None], m_neg[check, None]
        bins = torch.arange(len(check), device=emb.device)[:, None]*(m + 1)
        place = torch.searchsorted(pos, neg[check]) + bins
        below = torch.bincount(place.view(-1), minlength=len(check)*(m + 1)).view(-1, m + 1)[:, :m].cumsum(1)
        below -= (last - first)[check] # the own identity was put at -inf
        k = torch.arange(1, m + 1, device=emb.device)
        # where the share of negatives up to the k-th positive is under k/m_pos, the negative quantile is the higher one
        crosses = check[((below*m_pos < k*m_neg) & (k <= m_pos)).any(1)]
        for i in crosses.split(max(1, 2**20//n)):
            m_pos,m_neg = is_pos[i].sum(1, keepdim=True), n - (last - first)[i]
            weights = (-1/m_neg.double()).expand(-1, n).clone()
            weights.scatter_(1, index[i], 0.).scatter_add_(1, index[i], is_pos[i]/m_pos.double())
            found[i] = _w1(sims[i].double(), weights)
        return rows, found[:, None]

    return _collected(out, todo.split(max(1, 2**(22 if emb.device.type == 'cpu' else 26)//n)), distances)


def to_hundred(
    distances,           # `(n, rounds)`, numpy; higher is better
    scaling='robust',    # 'minmax': the extremes become 0 and 100; 'robust': the percentiles do
    percentiles=(1, 99), # Of 'robust', 0 to 100
)->np.ndarray: # `(n,)` 0 to 100
    "Brought to 0 to 100 over the whole set, round by round, then the mean of the rounds"
    lo,hi = np.percentile(distances, (0, 100) if scaling == 'minmax' else percentiles, axis=0)
    if (hi <= lo).any():
        raise ValueError('All pictures lie alike, none is better than another. '
                         'Are the embeddings constant, or the pictures but a handful?')
    return (100*((distances - lo)/(hi - lo)).clip(0, 1)).mean(1)


@torch.no_grad()
def similarity_quality(
    emb,                 # `(n, nf)`, numpy or torch, of any device and length; or an iterator of its parts, in order
    ids,                 # `(n,)` identities, of any type
    mode='sampled',      # 'sampled': the published draws, linear in n; 'exact': all pairs, no chance, quadratic in n
    n_pos=24,            # Other pictures of the identity in a round, none twice; all of them where there are fewer
    n_neg=24,            # Pictures of other identities in a round, none twice; all of them where there are fewer
    rounds=12,           # Independent rounds averaged
    seed=0,              # Of the draws; the same on CPU and GPU
    signed=False,        # Mean positive - mean negative similarity? A picture under a wrong name is then low, not high
    scaling='minmax',    # 'minmax' (published): the extremes of the set become 0 and 100; 'robust': its `percentiles`
    percentiles=(1, 99), # Of 'robust', 0 to 100; what lies outside is clipped
    min_imgs=2,          # Identities with fewer pictures get no label; 2 or more
    file=None,           # Where embeddings of the CPU lie while they are compared; in memory when not given
)->np.ndarray: # `(n,)` float32, 0 to 100 and higher is better
    """Quality labels from similarity distributions as in SDD-FIQA (CVPR 2021, arXiv 2103.05977).

    NaN, never a made-up middle, for pictures of identities with fewer than `min_imgs`; they still count as negatives of
    others. They are compared at unit length, in float32 or better. A `file`, of as many bytes as they have, is
    memory-mapped: processes that are `together` share it, and the system takes its memory back where others need it.

    `ValueError` for a wrong length, NaN or zero embeddings (naming the row), fewer than two identities, no identity
    with `min_imgs` pictures, and embeddings that are all alike."""
    one_of('mode', mode, 'sampled', 'exact')
    one_of('scaling', scaling, 'minmax', 'robust')
    if min(n_pos, n_neg, rounds) < 1:
        raise ValueError(f'n_pos, n_neg and rounds are {n_pos}, {n_neg} and {rounds}. Give 1 or more of each.')
    if min_imgs < 2: raise ValueError(f'min_imgs is {min_imgs}. Give 2 or more: a picture alone has nobody to be like.')
    ids = ids if hasattr(ids, '__len__') else list(ids)
    if not isinstance(emb, Iterator): emb = parts_of(emb, len(ids))
    codes, = same_codes(ids, name='ids')
    if (codes < 0).any():
        raise ValueError(f'ids row {int((codes < 0).argmax())} is empty. Every picture needs an identity.')
    if codes.max() < 1:
        raise ValueError('ids are of one identity only. Quality compares with pictures of others: give two or more.')

    # identity by identity: picture `order[i]` comes i-th, and its identity takes the rows start[i]:stop[i]
    counts,order = np.bincount(codes), np.argsort(codes, kind='stable')
    if counts.max() < min_imgs:
        raise ValueError(f'No identity has {min_imgs} pictures, the largest has {counts.max()}. '
                         'Lower min_imgs or check the ids.')
    emb = unit_rows(emb, order, file)
    stop = np.cumsum(counts)[codes[order]]
    start,stop = (torch.from_numpy(o).to(emb.device) for o in (stop - counts[codes[order]], stop))
    known = stop - start >= min_imgs
    with torch.autocast(emb.device.type, enabled=False):
        if mode == 'sampled': distances = _sampled(emb, start, stop, known, n_pos, n_neg, rounds, seed, signed)
        else: distances = _exact(emb, start, stop, known, signed)
    known,quality = known.cpu().numpy(), np.full(len(ids), np.nan, dtype=np.float32)
    quality[order[known]] = to_hundred(distances.cpu().numpy()[known], scaling, percentiles)
    return quality


def norm_quality(
    emb,                 # `(n, nf)` embeddings before they are taken to unit length, numpy or torch
    percentiles=(1, 99), # Norms that become 0 and 100; what lies outside is clipped
): # `(n,)` float32, 0 to 100 and higher is better
    """Quality from the length of the embedding, to compare other qualities with.

    Networks answer a clear picture with a longer embedding, most of all where training asks for it: MagFace (Meng et
    al., CVPR 2021), AdaFace (Kim et al., CVPR 2022). The scale is that of this set. `ValueError` for NaN (naming the
    row) and norms that are all alike."""
    emb = plain_tensor(emb)
    if emb.ndim != 2 or not len(emb):
        raise ValueError(f'emb is {tuple(emb.shape)}. It must be (pictures, features) with at least one picture.')
    norm = full_precision(emb).norm(dim=1).double().cpu().numpy()
    finite_rows(norm)
    if np.ptp(norm) <= 1e-5*norm.max():
        raise ValueError('Quality cannot be told, since all embeddings are of one length. '
                         'Take them before they are normalised.')
    return to_hundred(norm[:, None], 'robust', percentiles).astype(np.float32)


def comparable(
    counts,     # Pictures of each identity
    min_imgs=2, # Of `similarity_quality`
)->bool:
    "Can `similarity_quality` tell anything of them?"
    return len(counts) > 1 and max(counts) >= min_imgs


def label_table(
    table,      # Of pictures
    learn,      # `Learner` that embeds them
    seed:int=0, # Of `similarity_quality`
    **kwargs,   # For `similarity_quality`
):
    """A copy of the table with `quality` as the learner sees it.

    Training pictures are compared among themselves, held-out ones too; who has nobody to be compared with stays
    unknown."""
    labelled = complete_table(table).assign(quality=np.nan)
    quality,train = np.full(len(labelled), np.nan),(labelled['split'] == 'train').to_numpy()
    for rows in (train, ~train):
        some = labelled[rows]
        counts = some['identity'].value_counts()
        if rows is not train and not comparable(counts, kwargs.get('min_imgs', 2)): continue
        emb = learn.embed(some)
        with together(): quality[rows] = similarity_quality(emb, some['identity'], seed=seed, **kwargs)
    return labelled.assign(quality=quality)
