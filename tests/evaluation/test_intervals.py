"Intervals against known values, and the map of embeddings"
import numpy as np
import pytest
from scipy import stats

from qsd_fastai.evaluation.intervals import crossed_interval, mean_interval, share_interval, with_ends
from qsd_fastai.evaluation.maps import flat_map


def test_intervals():
    low,high = share_interval([1]*8 + [0]*2)
    assert (low, high) == pytest.approx((.4901625, .9433178), abs=1e-6) # Wilson (1927), 8 of 10
    assert share_interval([1]*5)[1] == 1
    assert share_interval([1]*5)[0] == pytest.approx(5/(5 + stats.norm.ppf(.975)**2))
    values = np.array([.1, .4, .5, .9])
    half = stats.t.ppf(.975, 3)*values.std(ddof=1)/2
    assert mean_interval(values) == pytest.approx((values.mean() - half, values.mean() + half))
    for empty in (mean_interval([.5]), share_interval([])): assert np.isnan(empty).all()
    assert with_ends('mAP', (1, 2)) == {'mAP low': 1, 'mAP high': 2}


@pytest.mark.parametrize('n', [1, 2, 5, 30])
def test_neighbours_stay_neighbours(n):
    rng = np.random.default_rng(0)
    ids = np.arange(n) % 2
    emb = np.eye(6)[ids] + .05*rng.normal(size=(n, 6))
    places = flat_map(emb)
    assert places.shape == (n, 2)
    assert np.isfinite(places).all()
    if n < 5: return
    np.testing.assert_array_equal(places, flat_map(emb))
    far = np.linalg.norm(places[:, None] - places[None], axis=2) + 1e9*np.eye(n)
    assert (ids[far.argmin(1)] == ids).all()


def drawn_gains(rng, seeds=5, cases=300, of_seeds=.02, of_cases=.3, rest=.5):
    return (rng.normal(0, of_seeds, (seeds, 1)) + rng.normal(0, of_cases, (1, cases))
            + rng.normal(0, rest, (seeds, cases)))


def test_intervals_over_seeds_and_cases_hold_the_truth_as_often_as_they_say():
    "Those over seeds alone do not, where the cases are drawn as well"
    rng = np.random.default_rng(0)
    held,alone = [],[]
    for _ in range(1000):
        gains = drawn_gains(rng)
        for kept,(low,high) in ((held, crossed_interval(gains)), (alone, mean_interval(gains.mean(1)))):
            kept.append(low <= 0 <= high)
    assert np.mean(held) > .93
    assert np.mean(alone) < .9


def test_cases_that_are_all_alike_leave_the_interval_of_the_seeds():
    by_seed = np.array([.1, .3, .2, .05])
    np.testing.assert_allclose(crossed_interval(np.tile(by_seed[:, None], 50)), mean_interval(by_seed))


def test_one_seed_has_an_interval_over_its_cases_and_none_without_them():
    gains = np.random.default_rng(1).normal(0, 1, (1, 40))
    np.testing.assert_allclose(crossed_interval(gains), mean_interval(gains[0]))
    assert np.isnan(crossed_interval(gains[:, :1])).all()
    assert crossed_interval(np.full((3, 4), .5)) == (.5, .5)
