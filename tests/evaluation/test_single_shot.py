"Single-gallery-shot CMC against all possible drawings, and drawings against their expectation"
from itertools import product

import numpy as np
import pytest
import torch

from qsd_fastai.evaluation.single_shot import single_shot_cmc


def all_drawings(dist, q_ids, g_ids, q_cameras, g_cameras, depth):
    "Every possible gallery of one picture an identity, one after another"
    curves = []
    for i,row in enumerate(dist):
        keep = ~((g_ids == q_ids[i]) & (g_cameras == q_cameras[i]))
        if not (keep & (g_ids == q_ids[i])).any(): continue
        found = []
        for gallery in product(*[np.flatnonzero(keep & (g_ids == o)) for o in np.unique(g_ids[keep])]):
            gallery = sorted(gallery)
            order = np.argsort(row[gallery], kind='stable')
            found.append(next(j for j,k in enumerate(order) if g_ids[gallery[k]] == q_ids[i]))
        curves.append([np.mean([f < k for f in found]) for k in range(1, depth + 1)])
    return np.mean(curves, 0)


@pytest.mark.parametrize('seed', range(4))
@pytest.mark.parametrize('normalize', [True, False])
def test_expectation_is_exact(seed, normalize):
    rng = np.random.default_rng(seed)
    q_ids,g_ids = rng.integers(0, 6, 12), rng.integers(0, 5, 17)
    q_cameras,g_cameras = rng.integers(0, 2, 12), rng.integers(0, 2, 17)
    q,g = rng.normal(size=(12, 2)), rng.normal(size=(17, 2))
    if not normalize: q,g = q.round(), g.round()  # ties: whole numbers have no rounding
    if normalize: dist = -(q@(g/np.linalg.norm(g, axis=1, keepdims=True)).T)
    else: dist = ((q[:, None] - g)**2).sum(-1)
    n_ids = len(np.unique(g_ids))
    want = all_drawings(dist, q_ids, g_ids, q_cameras, g_cameras, n_ids)
    args = q, g, q_ids, g_ids, q_cameras, g_cameras
    np.testing.assert_allclose(single_shot_cmc(*args, normalize=normalize), want, atol=1e-12)
    np.testing.assert_allclose(single_shot_cmc(*args, normalize=normalize, chunk=5, max_rank=2), want[:2], atol=1e-12)
    drawn = single_shot_cmc(*args, normalize=normalize, n_draws=4000, seed=seed)
    np.testing.assert_allclose(drawn, want, atol=.015)
    np.testing.assert_array_equal(single_shot_cmc(*args, normalize=normalize, n_draws=4000, seed=seed, chunk=5), drawn)
    assert not np.array_equal(single_shot_cmc(*args, normalize=normalize, n_draws=4000, seed=seed + 1), drawn)


def test_one_picture_an_identity_needs_no_chance():
    "Then it is the plain CMC; half precision; an identity that the gallery lacks is left out"
    q,g = torch.eye(4).half(), torch.eye(4)[:3].half()
    for n_draws in (None, 1):
        cmc = single_shot_cmc(q, g, list('abcd'), list('abc'), n_draws=n_draws)
        np.testing.assert_array_equal(cmc, [1, 1, 1])
    np.testing.assert_allclose(single_shot_cmc(q, g, list('abcd'), list('bca')), [0, 1/3, 1])


def test_bad_input():
    args = np.eye(3), np.eye(3), [1, 2, 3], [1, 2, 3]
    with pytest.raises(ValueError, match='n_draws is 0'): single_shot_cmc(*args, n_draws=0)
    with pytest.raises(ValueError, match='do not appear in gallery'): single_shot_cmc(*args, [0]*3, [0]*3)
