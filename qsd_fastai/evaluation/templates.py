"""Templates, several pictures of one person judged as one (IJB-B, IJB-C): pooling, comparison 1:1 and search 1:N.

A template's pictures come from media: still pictures, and videos with many frames each. First every medium is averaged,
then the media of the template are summed, so that a long video does not outvote a photograph. Two rules for a medium
are in circulation: its mean as it is (insightface's published script) and its mean taken to unit length; figures
differ, so say which (insightface issue 2211)."""
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..choices import one_of
from ..spelling import same_codes
from ..tensors import plain_vector
from .given import one_each, plain_rows, refuse_zero, unit_rows
from .retrieval import evaluate_retrieval
from .roc import tar_at_far
from .scores import pair_scores

__all__ = ['IdentificationResult', 'Templates', 'evaluate_identification', 'pool_templates', 'template_scores']


class Templates(NamedTuple):
    "What `pool_templates` gives"
    template: np.ndarray # `(t,)` the templates' names, ascending
    emb: torch.Tensor    # `(t, nf)` of unit length
    n_media: np.ndarray  # `(t,)`
    n_imgs: np.ndarray   # `(t,)`

    def rows(self, names):
        "The row of each named template. ValueError naming one that is not there"
        names = plain_vector(names)
        row = np.searchsorted(self.template, names).clip(max=len(self.template) - 1)
        bad = self.template[row] != names
        if bad.any():
            raise ValueError(f'Template {names[bad.argmax()]} (entry {bad.argmax()}) has no picture. '
                             'Embed all pictures of the list.')
        return row


def _numbered(x, n, name):
    x = plain_vector(x)
    one_each(x, n, name)
    if pd.isna(x).any(): raise ValueError(f'{name} row {pd.isna(x).argmax()} is empty. Every picture belongs to one.')
    return np.unique(x, return_inverse=True)


def _weights(quality, codes, n_templates):
    """Weights (n,) >= 0 from qualities, an unknown one as the mean of those known of its template.

    All are even where a template has nothing but 0 or unknown."""
    w = plain_vector(quality).astype(np.float64)
    one_each(w, len(codes), 'quality')
    bad = (w < 0) | np.isinf(w)
    if bad.any():
        raise ValueError(f'quality row {bad.argmax()} is {w[bad.argmax()]:g}. Weights are 0 or more, NaN if unknown.')
    known = ~np.isnan(w)
    total,n = (np.bincount(codes[known], o, n_templates) for o in (w[known], None))
    mean = np.divide(total, n, out=np.zeros(n_templates), where=n > 0)
    w = np.where(known, w, mean[codes])
    return np.where(mean[codes] > 0, w, 1.)


@torch.no_grad()
def pool_templates(
    emb,              # `(n, nf)` embeddings of the pictures, numpy or torch, flip already fused
    template,         # `(n,)` the template of each picture, of any type that sorts
    media=None,       # `(n,)` the medium of each picture, by its name in the template; None: each is its own
    how='mean',       # 'mean': pictures count with their direction only; 'norm': with their length too
    media_norm=False, # Take the mean of a medium to unit length (issue 2211)? Published: as it is
    quality=None,     # `(n,)` weights on top, >= 0: quality 0..100, or a detector's score (insightface's D1)
    chunk=2**15,      # Pictures at a time
)->Templates:
    """One unit embedding a template: the sum over its media of the mean over the medium of weight x embedding.

    `how='norm'` is the way of AdaFace (insightface's N1). The work is done where `emb` lies.
    The mean of a medium divides by its number of pictures, not by their weights, as published: a medium of weak
    pictures says less (`media_norm=True` lets all media say the same). Only the ratio of qualities within a template
    matters. An unknown quality (NaN) counts as the mean of the known ones of its template; a template with nothing
    known, or nothing above 0, is pooled evenly. ValueError for NaN or zero embeddings (naming the row), lengths that
    differ, and a template whose pictures cancel out."""
    emb = plain_rows(emb)
    n,device = len(emb), emb.device
    names,codes = _numbered(template, n, 'template')
    media_codes = np.arange(n) if media is None else _numbered(media, n, 'media')[1]
    n_media = media_codes.max() + 1
    both,medium = np.unique(codes.astype(np.int64)*n_media + media_codes, return_inverse=True)
    of_medium,counts = both//n_media, np.bincount(medium)
    one_of('how', how, 'mean', 'norm')
    weight = (1 if quality is None else _weights(quality, codes, len(names)))/counts[medium]
    weight,medium = torch.from_numpy(weight).to(emb), torch.from_numpy(medium).to(device)
    pooled = emb.new_zeros(len(both), emb.shape[1])
    for lo in range(0, n, chunk):
        part = emb[lo:lo + chunk]
        if how == 'mean':
            norm = part.norm(dim=1, keepdim=True)
            refuse_zero(norm, 'emb', lo)
            part = part/norm
        pooled.index_add_(0, medium[lo:lo + chunk], part*weight[lo:lo + chunk, None])
    if media_norm:
        tiny = torch.finfo(pooled.dtype).tiny  # nothing stays nothing
        pooled = torch.nn.functional.normalize(pooled, eps=tiny)
    out = pooled.new_zeros(len(names), emb.shape[1]).index_add_(0, torch.from_numpy(of_medium).to(device), pooled)
    norm = out.norm(dim=1, keepdim=True)
    if (norm == 0).any():
        name = names[int((norm == 0).nonzero()[0, 0])]
        raise ValueError(f'The pictures of template {name} cancel out. Look at their embeddings.')
    return Templates(names, out/norm, np.bincount(of_medium), np.bincount(codes))


def template_scores(
    templates, # Of `pool_templates`
    template1, # `(m,)` names of the first template of each pair
    template2, # `(m,)` names of the second
    **kwargs,  # `chunk` of `pair_scores`
)->np.ndarray:
    "Cosine (m,) of pairs of templates (1:1), for `tar_at_far`. ValueError for a template that has no picture"
    return pair_scores(templates.emb, templates.rows(template1), templates.rows(template2), **kwargs)


@dataclass
class IdentificationResult:
    "What `evaluate_identification` found. All rates are 0..1"
    figures: pd.DataFrame   # A row a gallery, the last `mean`: rank1, ..., n_mated, n_unmated, and `tpir@` each FPIR
    per_query: pd.DataFrame # A row a gallery and query: gallery, query, mated, first_rank, score (best mate's, or best)

    def __repr__(self): return self.figures.to_string()


@torch.no_grad()
def evaluate_identification(
    q_emb,                   # `(n_queries, nf)` embeddings of the query templates (probes)
    q_ids,                   # `(n_queries,)` identities
    galleries,               # Name -> (emb, ids): 'G1' and 'G2' of IJB-C, say; every query searches each of them
    ranks=(1, 5, 10),        # A mated query is found at rank k where its identity is among the first k
    fpir=(1e-1, 1e-2, 1e-3), # False positive identification rates
    chunk=2**24,             # Cosines at a time
)->IdentificationResult:
    """Search 1:N, closed and open: ranks over the queries that have a mate in the gallery, and TPIR at FPIR.

    FPIR: share of queries *without* a mate whose best score reaches the threshold. TPIR: share of queries with a mate
    whose mate's score reaches it and is the best of the gallery. The threshold follows the rule of `tar_at_far`: the
    lowest with an FPIR of at most the one asked for, NaN where there are too few unmated queries for a single one.
    `mean` is the mean over galleries (NaN where one is). ValueError for NaN or zero embeddings, and for a gallery that
    answers no query."""
    q = unit_rows(q_emb, 'q_emb')
    rows,parts = {}, []
    for name,(g_emb, g_ids) in galleries.items():
        g = unit_rows(g_emb, f'emb of gallery {name}').to(q.device, q.dtype)
        codes = same_codes(q_ids, g_ids, name=f'q_ids and the ids of gallery {name}')
        result = evaluate_retrieval(q, g, *codes, max_rank=max(ranks))
        mine,theirs = (torch.from_numpy(o).to(q.device) for o in codes)
        mate,best,step = np.empty(len(q)), np.empty(len(q)), max(1, chunk//len(g))
        for lo in range(0, len(q), step):
            scores = q[lo:lo + step]@g.T
            best[lo:lo + step] = scores.amax(1).cpu().numpy()
            scores.masked_fill_(mine[lo:lo + step, None] != theirs, -np.inf)
            mate[lo:lo + step] = scores.amax(1).cpu().numpy()
        first_rank = result.per_query.first_rank.to_numpy()
        mated = ~np.isnan(first_rank)
        row = {f'rank{k}': (first_rank[mated] <= k).mean() for k in ranks}
        judged = np.where(mated, np.where(first_rank == 1, mate, -np.inf), best)
        tpir = tar_at_far(judged, mated, fpir)['tar'] if not mated.all() else pd.Series(np.nan, fpir)
        row |= {f'tpir@{rate:g}': o for rate,o in tpir.items()}
        rows[name] = {**row, 'n_mated': mated.sum(), 'n_unmated': (~mated).sum()}
        parts.append(pd.DataFrame({'gallery': name, 'query': np.arange(len(q)), 'mated': mated,
                                   'first_rank': first_rank, 'score': np.where(mated, mate, best)}))
    figures = pd.DataFrame(rows).T
    figures.loc['mean'] = figures.mean(skipna=False)
    return IdentificationResult(figures, pd.concat(parts, ignore_index=True))
