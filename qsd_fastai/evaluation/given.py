"What is given to be judged, checked: scores and their truth, embeddings, one value for each; and groups by quality"
import numpy as np
import torch

from ..tensors import finite_rows, plain_tensor, plain_vector


def one_each(values, n, name, what='pictures'):
    "ValueError where `values` are not one for each of `n` pictures, queries, pairs"
    if len(values) != n: raise ValueError(f'{name} has {len(values)} entries for {n} {what}. Give one for each.')


def given_scores(
    scores, # `(n,)` similarities, higher is more alike
    same,   # `(n,)` 1 where both show one person, 0 where not; bool or numbers
)->tuple: # Scores as floating point, same as bool, both flat numpy
    """Scores and truth, checked.

    ValueError for other lengths, NaN (naming the row), a truth that is neither 0 nor 1, and one kind of pairs only."""
    scores,same = plain_vector(scores), plain_vector(same)
    if scores.dtype not in (np.float32, np.float64): scores = scores.astype(np.float64)
    if len(scores) != len(same):
        raise ValueError(f'scores has {len(scores)} entries and same {len(same)}. Give one of each for a pair.')
    if not len(scores): raise ValueError('scores is empty. There is nothing to judge.')
    bad = np.isnan(scores)
    if bad.any():
        raise ValueError(f'scores row {bad.argmax()} is NaN ({bad.sum()} such rows). '
                         'Embed again in float32, or leave the pair out.')
    return scores, given_labels(same)


def given_labels(same):
    "`same` as bool. ValueError for what is neither 0 nor 1, and when all pairs are of one kind"
    same = plain_vector(same)
    if same.dtype != bool:
        bad = (same != 0) & (same != 1)
        if bad.any():
            raise ValueError(f'same row {bad.argmax()} is {same[bad.argmax()]!r}. '
                             'Give 1 for two pictures of one person, 0 for two people.')
        same = same.astype(bool)
    if not same.any():
        raise ValueError('No pair shows the same person: acceptance of true pairs cannot be judged. Add such pairs.')
    if same.all():
        raise ValueError('Every pair shows the same person: false acceptance cannot be judged. '
                         'Add pairs of two people.')
    return same


def plain_rows(emb, name='emb'):
    """`emb` (n, nf), numpy or torch, as a plain floating point tensor where it lies.

    ValueError for another shape, and for NaN, naming the row."""
    emb = plain_tensor(emb)
    if emb.ndim != 2 or not len(emb):
        raise ValueError(f'{name} is {tuple(emb.shape)}. Give (rows, features), one row or more.')
    if emb.dtype != torch.float64: emb = emb.float()
    return finite_rows(emb, name)


def same_width(names, widths):
    "ValueError where embeddings of two arguments are not of one number of features"
    if len(set(widths)) > 1:
        raise ValueError(f'{names[0]} has {widths[0]} features and {names[1]} {widths[1]}. Embed both with one model.')


def refuse_zero(norm, name, start=0, remedy='Leave it out or mend the model'):
    "ValueError naming the first row, counted from `start`, whose length is 0"
    if (norm == 0).any():
        row = start + int((norm == 0).nonzero()[0, 0])
        raise ValueError(f'{name} row {row} is all zero and has no direction. {remedy}.')


def unit_rows(emb, name='emb'):
    "`plain_rows` of unit length. ValueError for a row that is all zero, naming it"
    emb = plain_rows(emb, name)
    norm = emb.norm(dim=1, keepdim=True)
    refuse_zero(norm, name)
    return emb/norm


def quality_groups(judged, bins):
    "Rows of the frame `judged` by the name of their group of rising `quality`, those of unknown quality last"
    names = ['worst', 'middle', 'best'] if bins == 3 else [f'{i + 1} of {bins}' for i in range(bins)]
    place = judged.quality.rank(method='average')  # NaN stays NaN
    group = np.floor((place - .5)/place.count()*bins)
    rows = {name: judged[group == i] for i,name in enumerate(names)}
    if group.isna().any(): rows['unknown'] = judged[group.isna()]
    return rows
