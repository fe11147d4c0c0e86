"ROC, area, equal error rate and TAR at FAR against scikit-learn and against counting in loops"
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from qsd_fastai.evaluation.roc import area_under_roc, equal_error_rate, roc_points, tar_at_far

# few distinct values, so that ties are everywhere
sides = st.tuples(*[st.lists(st.integers(-4, 4), min_size=1, max_size=30)]*2)


def pairs(case):
    pos,neg = case
    return np.array([*pos, *neg], dtype=float), np.array([True]*len(pos) + [False]*len(neg))


@settings(max_examples=150, deadline=None)
@given(sides)
def test_agrees_with_scikit_learn(case):
    scores,same = pairs(case)
    far,tar,thresholds = roc_curve(same, scores, drop_intermediate=False)
    full = roc_points(scores, same, corners=False)
    for ours,theirs in zip(full, (far, tar, thresholds)): np.testing.assert_allclose(ours, theirs, atol=1e-12)
    assert area_under_roc(scores, same) == pytest.approx(roc_auc_score(same, scores), abs=1e-12)
    few = roc_points(scores, same)
    points = list(zip(*full))
    assert all(p in points for p in zip(*few))
    assert (few.far[0], few.tar[0], few.far[-1], few.tar[-1]) == (0, 0, 1, 1)
    assert np.trapezoid(few.tar, few.far) == pytest.approx(np.trapezoid(tar, far), abs=1e-12)
    # no corner is missing: each point of the full curve lies on the line between two of ours
    for x,y in zip(far, tar):
        k = max(np.flatnonzero((few.far <= x) & (few.tar <= y)))
        (x0, y0),(x1, y1) = ((few.far[j], few.tar[j]) for j in (k, min(k + 1, len(few.far) - 1)))
        assert (x - x0)*(y1 - y0) == pytest.approx((y - y0)*(x1 - x0), abs=1e-12)


@settings(max_examples=150, deadline=None)
@given(sides, st.sampled_from([.05, .1, .2, 1/3, .5, .7, 1.]), st.booleans())
def test_tar_at_far_by_counting(case, rate, interpolate):
    scores,same = pairs(case)
    row = tar_at_far(scores, same, rate, 'interpolated' if interpolate else 'below').iloc[0]
    n_neg = (~same).sum()
    if rate*n_neg*(1 + 1e-12) < 1:
        assert np.isnan(row.tar)
        assert np.isnan(row.threshold)
        assert row.false_accepts == 0
        return
    falling = np.unique(scores)[::-1]
    points = [(np.inf, 0., 0.), *((t, (scores[~same] >= t).mean(), (scores[same] >= t).mean()) for t in falling)]
    k = max(k for k,(_, far, _) in enumerate(points) if far <= rate*(1 + 1e-12))
    t,far,tar = points[k]
    assert (row.threshold, row.false_accepts) == (t, round(far*n_neg))
    assert row.far_reached == pytest.approx(far)
    if interpolate and rate > far and k + 1 < len(points):
        _,far1,tar1 = points[k + 1]
        tar += (tar1 - tar)*(rate - far)/(far1 - far)
    assert row.tar == pytest.approx(tar, abs=1e-12)


@settings(max_examples=300, deadline=None)
@given(sides, st.sampled_from([1e-6, .05, .1, .2, 1/3, .5, .7, 1.]))
def test_tar_at_the_nearest_far_is_that_of_the_published_curve(case, rate):
    scores,same = pairs(case)
    # from the highest rate down, the first of those that are nearest
    far,tar,threshold = (o[::-1] for o in roc_curve(same, scores))
    k = min(range(len(far)), key=lambda k: (abs(far[k] - rate), k))
    row = tar_at_far(scores, same, rate, 'nearest').iloc[0]
    assert row.far_reached == pytest.approx(far[k], abs=1e-12)
    assert row.tar == pytest.approx(tar[k], abs=1e-12)
    assert row.threshold == threshold[k]
    assert row.false_accepts == (scores[~same] >= threshold[k]).sum()


@settings(max_examples=100, deadline=None)
@given(sides)
def test_equal_error_rate_lies_on_the_curve(case):
    scores,same = pairs(case)
    far,tar,_ = roc_curve(same, scores, drop_intermediate=False)
    eer = equal_error_rate(scores, same)
    # walk along the curve in fine steps and see where the two rates are nearest
    at = np.concatenate([np.linspace(i, i + 1, 401) for i in range(len(far) - 1)])
    x,y = np.interp(at, range(len(far)), far), np.interp(at, range(len(far)), tar)
    assert eer == pytest.approx(x[np.abs(x + y - 1).argmin()], abs=2e-3)


def test_exact_figures():
    scores,same = np.array([.9, .8, .4, .7, .5, .3, .2]), np.array([1, 1, 1, 0, 0, 0, 0])
    table = tar_at_far(scores, same, (.25, .5, .1))
    np.testing.assert_allclose(table.tar, [2/3, 1, np.nan])
    assert table.threshold[.25] == .7
    assert list(table.false_accepts) == [1, 2, 0]
    assert list(table.index) == [.25, .5, .1]
    assert equal_error_rate(scores, same) == pytest.approx(1/3)
    assert area_under_roc(scores, same) == pytest.approx(10/12)
    assert area_under_roc(np.zeros(9), np.arange(9) < 4) == .5
    assert equal_error_rate(np.zeros(9), np.arange(9) < 4) == .5
    assert equal_error_rate([1., 0.], [1, 0]) == 0
    assert equal_error_rate([0., 1.], [1, 0]) == 1


def test_rates_that_floating_point_misses_and_kinds_of_input():
    rng = np.random.default_rng(0)
    scores,same = rng.normal(size=3300), np.arange(3300) < 300
    assert tar_at_far(scores, same, .001)['false_accepts'].item() == 3
    assert tar_at_far(scores, same, .3)['false_accepts'].item() == 900
    want = tar_at_far(scores.astype(np.float16), same.astype(int))
    assert tar_at_far(torch.tensor(scores).half(), torch.tensor(same)).equals(want)


@pytest.mark.parametrize('scores, same, message', [
    ([.1, .2], [1], 'scores has 2 entries and same 1'),
    ([], [], 'scores is empty'),
    ([.1, np.nan, np.nan], [1, 0, 1], r'scores row 1 is NaN \(2 such'),
    ([.1, .2], [1, 2], 'same row 1 is'),
    ([.1, .2], [0, 0], 'No pair shows the same person'),
    ([.1], [1], 'Every pair shows the same person'),
])
@pytest.mark.parametrize('f', [roc_points, area_under_roc, equal_error_rate, tar_at_far])
def test_errors(f, scores, same, message):
    with pytest.raises(ValueError, match=message): f(np.array(scores, dtype=float), np.array(same, dtype=int))


@pytest.mark.parametrize('far', [0, -.1, 1.1, (1e-3, np.nan)])
def test_rates_outside(far):
    with pytest.raises(ValueError, match='far must be above 0'): tar_at_far([.1, .2], [0, 1], far)
