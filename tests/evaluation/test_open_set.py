"Open-set and pair rates against plain float64 counting over every pair"
import numpy as np
import pytest
import torch
from sklearn.metrics import roc_curve

from qsd_fastai.evaluation.open_set import open_set_rates, pair_rates


def case(seed, n_query=60, n_gallery=150, known=8, n_ids=12):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(n_ids, 6))
    q_ids,g_ids = rng.integers(0, n_ids, n_query), rng.integers(0, known, n_gallery)
    q,g = centers[q_ids] + rng.normal(size=(n_query, 6)), centers[g_ids] + rng.normal(size=(n_gallery, 6))
    return q, g, q_ids, g_ids, rng.integers(0, 3, n_query), rng.integers(0, 3, n_gallery)


def distances(q, g, normalize):
    if not normalize: return ((q[:, None] - g)**2).sum(-1)
    return 1 - q/np.linalg.norm(q, axis=1, keepdims=True)@(g/np.linalg.norm(g, axis=1, keepdims=True)).T


@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('rank', [1, 3])
@pytest.mark.parametrize('chunk', [None, 7])
def test_open_set(normalize, rank, chunk):
    q,g,q_ids,g_ids,q_cameras,g_cameras = case(0)
    dist,same = distances(q, g, normalize), q_ids[:, None] == g_ids
    junk = same & (q_cameras[:, None] == g_cameras)
    dist = np.where(junk, np.inf, dist)
    r = open_set_rates(q, g, q_ids, g_ids, q_cameras, g_cameras, (0, .01, .1, .5, 1), rank, normalize, chunk)
    mated = (same & ~junk).any(1)
    assert (r.n_mated, r.n_unmated) == (mated.sum(), (~mated).sum())
    assert r.n_unmated > 5
    def rates(t):
        answers = [[j for j in np.argsort(row)[:rank] if row[j] < t] for row in dist]
        found = [same[i, answers[i]].any() for i in np.flatnonzero(mated)]
        return np.mean([(row < t).any() for row in dist[~mated]]), np.mean(found)
    for row in r.rates.itertuples():
        below = row.threshold - 1e-9 if row.threshold < np.inf else np.inf
        np.testing.assert_allclose((row.fpir, row.tpir), rates(below), atol=1e-12)
        assert row.fpir <= row.asked + 1e-12
        assert row.threshold == np.inf or rates(row.threshold + 1e-9)[0] > row.asked
    assert r.rates.fpir.iloc[-1] == 1
    assert r.rates.fpir.iloc[0] == 0
    for row in r.det[:-1].itertuples():
        np.testing.assert_allclose((row.fpir, 1 - row.fnir), rates(row.threshold - 1e-9), atol=1e-12)


def test_open_set_needs_both_kinds():
    q,g,q_ids,g_ids,*_ = case(1)
    with pytest.raises(ValueError, match='that are not there'): open_set_rates(q, g, q_ids % 8, g_ids)
    with pytest.raises(ValueError, match='do not appear'): open_set_rates(q, g, q_ids + 100, g_ids)
    with pytest.raises(ValueError, match=r'fpir is \[2.0\]'): open_set_rates(q, g, q_ids, g_ids, fpir=2)


@pytest.mark.parametrize('normalize', [True, False])
@pytest.mark.parametrize('chunk', [None, 7])
def test_pairs(normalize, chunk):
    "Both rates exact for the threshold given, and no more than a step from the best one"
    q,g,q_ids,g_ids,q_cameras,g_cameras = case(2)
    dist,same = distances(q, g, normalize), q_ids[:, None] == g_ids
    keep = ~(same & (q_cameras[:, None] == g_cameras))
    asked = 0, 1e-3, .01, .29, 1
    r = pair_rates(q, g, q_ids, g_ids, q_cameras, g_cameras, asked, normalize=normalize, chunk=chunk)
    assert (r.n_different == (~same).sum()).all()
    assert (r.n_same == (same & keep).sum()).all()
    wrong = np.sort(dist[~same])
    step = 2e-6 if normalize else wrong.max()*1e-5
    for row in r.itertuples():
        assert row.fpr == (wrong < row.threshold).mean()
        assert row.tpr == (dist[same & keep] < row.threshold).mean()
        k = int(np.floor(row.asked*len(wrong) + 1e-9))
        assert row.fpr <= row.asked
        if k < len(wrong): assert wrong[k] - step <= row.threshold <= wrong[k]


def test_pairs_nearest_is_the_roc_curve():
    q,g,q_ids,g_ids,*_ = case(3)
    fpr,tpr,_ = roc_curve((q_ids[:, None] == g_ids).ravel(), -distances(q, g, True).ravel(), drop_intermediate=False)
    r = pair_rates(q, g, q_ids, g_ids, fpr=(.01, .0333), rule='nearest')
    for row in r.itertuples():
        assert abs(row.fpr - row.asked) <= np.abs(fpr - row.asked).min() + 1e-12
        assert row.tpr in tpr[np.isclose(fpr, row.fpr, atol=1e-12)]


def test_pairs_odd_input():
    q,g,q_ids,g_ids,*_ = case(4)
    half = pair_rates(torch.tensor(q).half(), torch.tensor(g).half(), q_ids, g_ids, fpr=.1)
    np.testing.assert_allclose(half.tpr, pair_rates(q, g, q_ids, g_ids, fpr=.1).tpr, atol=.02)
    alike = pair_rates(np.ones((2, 3)), np.ones((4, 3)), [0, 1], [0, 0, 1, 1], fpr=(.5, 1))
    assert alike.tpr.tolist() == [0, 1]  # equal distances cannot be told apart
    assert alike.fpr.tolist() == [0, 1]
    with pytest.raises(ValueError, match='All pairs show one identity'): pair_rates(q, g, [0]*60, [0]*150)
    with pytest.raises(ValueError, match="rule is 'above'"): pair_rates(q, g, q_ids, g_ids, rule='above')


def test_pairs_at_an_edge_of_a_bin():
    "A pair is accepted below a threshold, not at it: distances that are whole steps lie above their own edge"
    line = np.array([[0.], [1.], [2.], [3.]])  # Squared distances from 0: 0, 1, 4, 9, whole steps all of them
    r = pair_rates(line[:1], line, [0], [0, 1, 1, 0], fpr=(0, .5, 1), normalize=False)
    step = 2.**-np.floor(np.log2(2**20/9))
    assert r.threshold.tolist()[:2] == [1., 4.]
    assert r.fpr.tolist() == [0, .5, 1]
    assert r.tpr.tolist() == [.5, .5, 1]
    assert r.threshold.iloc[2] == 2**20*step
    r = pair_rates(line[:1], line, [0], [1, 0, 0, 1], fpr=(0, .5, 1), normalize=False)
    assert r.threshold.tolist()[:2] == [0., 9.]
    assert r.tpr.tolist() == [0, 1, 1]
    # the largest distance that cosines have falls into the last of the bins, the smallest into the first
    r = pair_rates(np.array([[1., 0.]]), np.array([[1., 0.], [0., 1.], [-1., 0.], [0., 1.]]), [0], [0, 1, 1, 0],
                   fpr=(0, .5, 1))
    assert r.threshold.tolist() == [1., 2 - 2**-19, 2.]
    assert r.fpr.tolist() == [0, .5, 1]
    assert r.tpr.tolist() == [.5, 1, 1]
