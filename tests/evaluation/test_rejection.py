"Error against rejection, recomputed step by step; the rules of ties, unknown quality, chance and the ideal"
from itertools import combinations

import numpy as np
import pandas as pd
import pytest

from qsd_fastai.evaluation.rejection import _ideal_pictures, error_vs_reject, retrieval_vs_reject
from qsd_fastai.evaluation.roc import tar_at_far
from qsd_fastai.evaluation.scores import all_pairs, pair_scores

shares = np.array([0, .1, .2, .5, .8])


def case(seed, n_ids=12, n_imgs=5):
    rng = np.random.default_rng(seed)
    ids = np.repeat(np.arange(n_ids), n_imgs)
    quality = rng.permutation(len(ids))*100./len(ids)
    emb = rng.normal(size=(n_ids, 8))[ids] + rng.normal(size=(len(ids), 8))*(1.6 - quality[:, None]/80)
    pairs = all_pairs(ids)
    same,first,second = (pairs[c].to_numpy() for c in ('same', 'first', 'second'))
    return pair_scores(emb, first, second), same, first, second, quality


def naive(scores, same, first, second, quality, unit, far, refixed):
    "At each share, what is kept, the threshold and the error"
    start,out = tar_at_far(scores, same, far)['threshold'].item(), []
    by_unit = quality if unit == 'picture' else np.minimum(quality[first], quality[second])
    order = np.argsort(by_unit, kind='stable')
    for share in shares:
        kept = np.ones(len(by_unit), dtype=bool)
        kept[order[:int(share*len(by_unit) + 1e-9)]] = False
        pair = kept[first] & kept[second] if unit == 'picture' else kept
        if not (pair & same).any() or (refixed and (pair & ~same).sum()*far < 1): out.append(np.nan)
        else:
            t = tar_at_far(scores[pair], same[pair], far)['threshold'].item() if refixed else start
            out.append((scores[pair & same] < t).mean())
    return np.array(out)


@pytest.mark.parametrize('unit', ['picture', 'pair'])
@pytest.mark.parametrize('threshold', ['fixed', 'refixed'])
@pytest.mark.parametrize('far', [.3, .02])
@pytest.mark.parametrize('seed', range(3))
def test_by_steps(seed, unit, threshold, far):
    scores,same,first,second,quality = case(seed)
    if unit == 'pair':  # no two pairs of one quality, so that only one order is right
        own = np.random.default_rng(seed).permutation(len(scores))[:30]
        scores,same,first,second = scores[own], same[own] | (np.arange(30) < 5), np.arange(30)*2, np.arange(30)*2 + 1
        if far == .02: far = .1
    r = error_vs_reject(scores, same, first, second, quality, unit, far, threshold, shares=shares, n_random=3)
    want = naive(scores, same, first, second, quality, unit, far, threshold == 'refixed')
    np.testing.assert_allclose(r.curves['quality'], want, atol=1e-12)
    assert list(r.curves.index) == list(shares)
    assert r.n_left_out == 0
    assert r.n_units == (60 if unit == 'picture' else 30)
    start = want[0]
    assert r.curves['ideal'].iloc[0] == pytest.approx(start)
    assert r.curves['random'].iloc[0] == pytest.approx(start)
    if threshold == 'fixed': assert (r.curves['random'] == start).all()
    np.testing.assert_allclose(r.areas.loc['quality', 'partial'], np.trapezoid(want[:3], shares[:3])/.2)
    known = r.curves.notna().all(axis=1)
    assert r.whole_to == (.8 if known.all() else shares[np.argmin(known) - 1])
    part = r.curves['quality'].loc[:r.whole_to]
    np.testing.assert_allclose(r.areas.loc['quality', 'whole'], np.trapezoid(part, part.index)/r.whole_to)


def test_better_quality_rejects_better_and_several_are_compared():
    scores,same,first,second,quality = case(0, 30, 6)
    noise = np.random.default_rng(0).uniform(0, 100, len(quality))
    for unit in ('picture', 'pair'):
        areas = error_vs_reject(scores, same, first, second, {'true': quality, 'noise': noise}, unit, .01).areas
        assert list(areas.index) == ['true', 'noise', 'random', 'ideal']
        for c in areas:
            assert areas[c]['ideal'] < areas[c]['true'] < areas[c]['random']
            assert areas[c]['true'] < areas[c]['noise']


def test_chance_and_ideal_over_pairs_by_trying_all():
    "With a fixed threshold no order of pairs does better than the ideal, and the mean over all orders is the start"
    scores,same = np.array([.9, .3, .1, .8, .5, .4, .2]), np.array([1, 1, 1, 1, 0, 0, 0], dtype=bool)
    first,second = np.arange(7)*2, np.arange(7)*2 + 1
    r = error_vs_reject(scores, same, first, second, np.full(14, 7.), 'pair', 1/3, shares=np.arange(4)/7, area=3/7)
    for k in range(4):
        kept = [[i for i in range(7) if i not in gone] for gone in combinations(range(7), k)]
        errors = [np.mean([scores[i] < .5 for i in o if same[i]]) for o in kept if any(same[i] for i in o)]
        assert r.curves['ideal'].iloc[k] == pytest.approx(min(errors))
        assert r.curves['random'].iloc[k] == pytest.approx(np.mean(errors))


@pytest.mark.parametrize('seed', range(12))
def test_ideal_over_pictures_is_the_greedy_order(seed):
    rng,n = np.random.default_rng(seed), 9
    pairs = [sorted(rng.choice(n, 2, replace=False)) for _ in range(int(rng.integers(1, 25)))]
    left,order = list(pairs), []
    while left:
        degree = np.bincount(np.ravel(left), minlength=n)
        order.append(int(degree.argmax()))
        left = [o for o in left if order[-1] not in o]
    quality = _ideal_pictures(*np.array(pairs).T, n)
    assert np.argsort(quality, kind='stable')[:len(order)].tolist() == order
    assert (quality == n).sum() == n - len(order)


def test_ideal_over_pictures_takes_the_worst_first():
    # pictures 0..4 of one person; 0 fails with all others, 1 with 2 besides
    first,second = np.array([0, 0, 0, 0, 1, 1, 1, 2, 2, 3, 5, 5]), np.array([1, 2, 3, 4, 2, 3, 4, 3, 4, 4, 6, 7])
    scores,same = np.array([.1, .1, .1, .1, .1, .9, .9, .9, .9, .9, .5, .2]), np.arange(12) < 10
    r = error_vs_reject(scores, same, first, second, np.arange(8.), 'picture', .5, shares=[0, 1/8, 2/8], area=2/8)
    np.testing.assert_allclose(r.curves['ideal'], [5/10, 1/6, 0])


def test_ties_do_not_follow_the_table():
    scores,same,first,second,quality = case(0)
    flat = np.full(len(quality), 50.)
    curves = [error_vs_reject(scores, same, first, second, flat, far=.02, seed=s).curves['quality'] for s in (0, 0, 1)]
    assert curves[0].equals(curves[1])
    assert not curves[0].equals(curves[2])
    def curves_of(s): return error_vs_reject(scores, same, first, second, flat, far=.02, seed=s, shares=[.3]).curves
    many = np.mean([curves_of(s)['quality'][.3] for s in range(150)])
    assert many == pytest.approx(curves[0].iloc[0], abs=.02)


@pytest.mark.parametrize('unit', ['picture', 'pair'])
def test_unknown_quality_is_left_out_of_all_curves(unit):
    scores,same,first,second,quality = case(1)
    a,b = quality.copy(), quality.copy()
    a[[3, 17]],b[40] = np.nan,np.nan
    r = error_vs_reject(scores, same, first, second, {'a': a, 'b': b}, unit, .05)
    known = ~np.isin(np.arange(60), [3, 17, 40])
    keep = known[first] & known[second]
    want = error_vs_reject(scores[keep], same[keep], first[keep], second[keep], {'a': quality, 'b': quality}, unit, .05)
    pd.testing.assert_frame_equal(r.curves, want.curves)
    assert (r.n_left_out, r.n_units) == ((3, 57) if unit == 'picture' else ((~keep).sum(), keep.sum()))
    assert 'left out' in repr(r)


def test_errors():
    scores,same,first,second,quality = case(0)
    bad = scores.copy()
    bad[7] = np.nan
    pairs = (scores, same, first, second)
    for args,kwargs,message in [
        ((bad, same, first, second, quality), {}, 'scores row 7 is NaN'),
        ((scores, same[1:], first, second, quality), {}, 'same 1769'),
        ((scores, same, first[1:], second, quality), {}, 'first 1769'),
        ((*pairs, quality[:-1]), {}, 'second runs from row'),
        ((*pairs, quality + 2), {}, "quality 'quality' row .* is 100.333. It runs from 0 to 100"),
        ((*pairs, quality), {'far': 1e-4}, 'are too few'),
        ((*pairs, quality*np.nan), {}, 'No pair has two pictures of known'),
        ((*pairs, {}), {}, 'quality is empty'),
        ((*pairs, {'ideal': quality}), {}, "called 'ideal'"),
        ((*pairs, {'a': quality, 'b': quality[1:]}), {}, "'b' has 59"),
        ((*pairs, quality), {'unit': 'query'}, "unit is 'query'"),
        ((*pairs, quality), {'threshold': .3}, 'threshold is 0.3'),
        ((*pairs, quality), {'shares': [1.]}, 'below 1'),
        ((*pairs, quality), {'area': 0}, 'area is 0'),
        ((*pairs, quality), {'far': 1}, 'far must'),
    ]:
        with pytest.raises(ValueError, match=message): error_vs_reject(*args, **kwargs)


@pytest.mark.parametrize('figure', ['mAP', 'rank1', 'mINP'])
def test_retrieval_by_steps(figure):
    rng = np.random.default_rng(0)
    n = 50
    first_rank = rng.integers(1, 4, n).astype(float)
    per_query = pd.DataFrame({'answerable': rng.random(n) < .9, 'first_rank': first_rank, 'ap': rng.random(n),
                              'inp': rng.random(n)})
    per_query.loc[~per_query.answerable, ['first_rank', 'ap', 'inp']] = np.nan
    quality = rng.permutation(n)*2.
    quality[:3] = np.nan
    r = retrieval_vs_reject(per_query, {'q': quality}, figure, shares=shares)
    kept = per_query.assign(quality=quality, rank1=per_query.first_rank == 1)[per_query.answerable & ~np.isnan(quality)]
    value = kept[{'mAP': 'ap', 'rank1': 'rank1', 'mINP': 'inp'}[figure]].astype(float)
    for name,by in (('q', kept.quality), ('ideal', value)):
        order = np.argsort(by, kind='stable')
        want = [value.iloc[order[int(s*len(kept) + 1e-9):]].mean() for s in shares]
        np.testing.assert_allclose(r.curves[name], want, atol=1e-12)
    assert (r.curves['random'] == value.mean()).all()
    assert (r.n_units, r.n_left_out, r.better) == (len(kept), n - len(kept), 'higher')
    with pytest.raises(ValueError, match="figure is 'rank5'"): retrieval_vs_reject(per_query, quality, 'rank5')
    with pytest.raises(ValueError, match='1 entries for 50 queries'): retrieval_vs_reject(per_query, [1.])
    with pytest.raises(ValueError, match='No answerable query'): retrieval_vs_reject(per_query, quality*np.nan)
