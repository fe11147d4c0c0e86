"Accuracy over folds against the published script (golden) and loops; flip fusion; groups by quality; cosines of pairs"
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from qsd_fastai.evaluation.scores import all_pairs, pair_scores
from qsd_fastai.evaluation.verification import (
    contiguous_folds,
    evaluate_pair_distances,
    evaluate_verification,
    fuse_flip,
    verification_by_quality,
)


@pytest.mark.parametrize('i', [0, 1])
@pytest.mark.parametrize('chunk', [2**16, 7])
def test_golden(golden, i, chunk):
    g = golden('verification')
    emb,same = g[f'emb{i}'].astype(np.float64), g[f'same{i}']
    r = evaluate_verification(emb[::2], emb[1::2], same, chunk=chunk)
    np.testing.assert_allclose(r.accuracy_folds, g[f'accuracy_folds{i}'], atol=1e-12, rtol=0)
    assert r.accuracy == pytest.approx(g[f'accuracy{i}'], abs=1e-12)
    assert r.accuracy_std == pytest.approx(g[f'accuracy_std{i}'], abs=1e-12)
    # the published rates at every threshold, mean over folds, follow from our pairs
    grid = np.arange(0, 4, .01)
    accepted = r.per_pair.distance.to_numpy()[:, None] < grid
    for kind,want in ((same, g[f'tpr{i}']), (~same, g[f'fpr{i}'])):
        rate = np.mean([accepted[kind & (r.per_pair.fold == k).to_numpy()].mean(0) for k in range(10)], axis=0)
        np.testing.assert_allclose(rate, want, atol=1e-12, rtol=0)


def naive(distance, same, fold, grid=None):
    "Fold by fold, threshold by threshold"
    thresholds,correct = np.empty(len(same)), np.empty(len(same), dtype=bool)
    for k in np.unique(fold):
        train = fold != k
        tried = grid if grid is not None else [*np.unique(distance[train]), np.nextafter(distance[train].max(), 9)]
        right = [((distance[train] < t) == same[train]).sum() for t in tried]
        t = tried[int(np.argmax(right))]
        thresholds[~train],correct[~train] = t, (distance[~train] < t) == same[~train]
    return thresholds, correct


@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 8), st.booleans(), st.integers(0, 3)), min_size=4, max_size=40),
       st.sampled_from(['grid', 'exact', 'own']))
def test_folds_by_loops(case, thresholds):
    distance,same,fold = (np.array(o) for o in zip(*case))
    distance = distance/2.
    if same.all() or not same.any() or len(np.unique(fold)) < 2: return
    own = np.array([.5, 1.2, 3.])
    r = evaluate_pair_distances(distance, same, fold, own if thresholds == 'own' else thresholds)
    want,correct = naive(distance, same, fold, {'grid': np.arange(0, 4, .01), 'exact': None, 'own': own}[thresholds])
    np.testing.assert_array_equal(r.per_pair.correct, correct)
    np.testing.assert_array_equal(r.per_pair.threshold, want)
    folds = [correct[fold == k].mean() for k in np.unique(fold)]
    np.testing.assert_allclose([r.accuracy, r.accuracy_std], [np.mean(folds), np.std(folds)], atol=1e-12)
    assert len(r.thresholds) == len(r.accuracy_folds) == len(np.unique(fold))
    sign = r.per_pair.margin
    assert (sign[r.per_pair.correct] >= 0).all()
    assert (sign[~r.per_pair.correct] <= 0).all()


def test_per_pair_and_hardest():
    distance,same = np.array([.2, 3.1, .4, 2.9, 2.5, 3., .3, .9]), np.array([1, 0]*4, dtype=bool)
    r = evaluate_pair_distances(distance, same, [0]*4 + [1]*4)
    assert list(r.per_pair.columns) == ['distance', 'score', 'same', 'fold', 'threshold', 'correct', 'margin']
    np.testing.assert_allclose(r.per_pair.score, 1 - distance/2)
    # fold 0 is judged by the first best threshold of fold 1, .31 (one of two), fold 1 by that of fold 0, .41
    np.testing.assert_allclose(r.thresholds, [.31, .41])
    assert list(r.per_pair.correct) == [True, True, False, True, False, True, True, True]
    assert list(r.hardest(2).index) == [4, 2]
    assert r.accuracy_folds.tolist() == [.75, .75]
    assert r.accuracy_std == 0
    assert r.accuracy == .75
    assert r.tar_at_far(.25)['tar'].item() == 1
    assert 'accuracy 75.00%' in repr(r)


def test_folds_are_contiguous():
    assert contiguous_folds(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    for n in (1, 8):
        with pytest.raises(ValueError, match=f'7 pairs do not make {n} folds'): contiguous_folds(7, n)


def test_embeddings_of_every_kind_and_errors():
    rng = np.random.default_rng(0)
    a,b,same = rng.normal(size=(40, 8)), rng.normal(size=(40, 8)), rng.random(40) < .5
    b[same] = a[same] + .5*rng.normal(size=(same.sum(), 8))
    want = evaluate_verification(a, b, same).per_pair
    tensors = torch.tensor(5*a).requires_grad_(), torch.tensor(.1*b), torch.tensor(same).int()
    got = evaluate_verification(*tensors).per_pair
    pd.testing.assert_frame_equal(got, want)
    cosine = (a*b).sum(1)/np.linalg.norm(a, axis=1)/np.linalg.norm(b, axis=1)
    np.testing.assert_allclose(want.score, cosine, atol=1e-12)
    bad,zero = a.copy(), a.copy()
    bad[3, 2],zero[5] = np.nan,0
    for args,kwargs,message in [
        ((bad, b, same), {}, 'emb1 row 3 holds NaN'),
        ((a, bad, same), {}, 'emb2 row 3 holds NaN'),
        ((a, zero, same), {}, 'emb2 row 5 is all zero'),
        ((a, b[:-1], same), {}, 'emb1 has 40 rows, emb2 39'),
        ((a, b, same[1:]), {}, 'same 39'),
        ((a, b[:, 1:], same), {}, '8 features and emb2 7'),
        ((a, b, np.ones(40)), {}, 'Every pair shows'),
        ((a, b, np.zeros(40)), {}, 'No pair shows'),
        ((a, b, same), {'folds': np.zeros(40)}, 'All pairs are in one fold'),
        ((a, b, same), {'folds': [0, 1]}, '2 entries for 40'),
        ((a, b, same), {'thresholds': 'best'}, "thresholds is 'best'"),
        ((a[:1], b[:1], [1]), {}, 'Every pair shows'),
    ]:
        with pytest.raises(ValueError, match=message): evaluate_verification(*args, **kwargs)


def test_fuse_flip():
    a,b = np.array([[3., 4], [0, 2]]), np.array([[0., 10], [1, 0]])
    np.testing.assert_array_equal(fuse_flip(a, b), a + b)
    np.testing.assert_array_equal(fuse_flip(a, b, 'mean'), (a + b)/2)
    np.testing.assert_array_equal(fuse_flip(a, b, 'concat'), [[3, 4, 0, 10], [0, 2, 1, 0]])
    # unit embeddings and their norms apart make the sum of the raw ones; other norms make another sum
    unit = [o/np.linalg.norm(o, axis=1, keepdims=True) for o in (a, b)]
    np.testing.assert_allclose(fuse_flip(*unit, 'norm', ([5, 2], [10, 1])), a + b, atol=1e-12)
    np.testing.assert_allclose(fuse_flip(a, b, 'norm', ([5, 4], [20, 1])), [[3, 24], [1, 4]], atol=1e-12)
    assert isinstance(fuse_flip(torch.tensor(a), torch.tensor(b)), torch.Tensor)
    for args,message in [((a, b[:1]), 'emb_flip'), ((a, b, 'norm'), 'norms='), ((a, b, 'max'), "how is 'max'"),
                         ((a, b*np.nan), 'emb_flip row 0 holds NaN')]:
        with pytest.raises(ValueError, match=message): fuse_flip(*args)


def test_by_quality():
    per_pair = pd.DataFrame({'correct': [True, False, True, True, True, False, True],
                             'same': [True, True, False, True, False, False, True]})
    q1 = np.array([90, 10, 50, 80, 20, 60, np.nan])
    q2 = np.array([30, 99, 55, 85, 95, 70, 40])  # worse: 30 10 50 80 20 60 ?
    table = verification_by_quality(per_pair, q1, q2)
    assert list(table.index) == ['worst', 'middle', 'best', 'unknown']
    assert list(table.n_pairs) == [2, 2, 2, 1]
    np.testing.assert_allclose(table.accuracy, [.5, 1, .5, 1])
    np.testing.assert_allclose(table.refused, [1, 0, 0, 0])
    np.testing.assert_allclose(table.accepted, [0, 0, 1, np.nan])
    assert list(table.quality_from[:3]) == [10, 30, 60]
    assert list(table.quality_to[:3]) == [20, 50, 80]
    with pytest.raises(ValueError, match='quality2 has 1 entries for 7'): verification_by_quality(per_pair, q1, [1])
    with pytest.raises(ValueError, match='quality1 row 0 is 900'): verification_by_quality(per_pair, q1*10, q2)


@pytest.mark.parametrize('dense', [True, False])
@pytest.mark.parametrize('chunk', [2**22, 50])
def test_pair_scores(dense, chunk):
    rng = np.random.default_rng(0)
    emb = rng.normal(size=(300, 6))
    n = 4000 if dense else 60
    first,second = rng.integers(0, 40 if dense else 300, n), rng.integers(0, 300, n)
    unit = emb/np.linalg.norm(emb, axis=1, keepdims=True)
    np.testing.assert_allclose(pair_scores(emb, first, second, chunk), (unit[first]*unit[second]).sum(1), atol=1e-12)
    assert pair_scores(emb.astype(np.float32), torch.tensor(first), second).dtype == np.float32


def test_pair_scores_errors():
    emb = np.eye(3)
    for args,message in [(([0, 3], [0, 1]), 'first entry 1 is row 3 of 3'), (([0], [-1]), 'second entry 0 is row -1'),
                         (([0], [0, 1]), '1 entries and second 2'), (([.5], [1]), 'first holds float64'),
                         ((np.zeros(0, int), np.zeros(0, int)), 'first is empty')]:
        with pytest.raises(ValueError, match=message): pair_scores(emb, *args)


def test_all_pairs():
    table = all_pairs(['a', 'b', 'a', 'a'])
    assert table[['first', 'second']].values.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert table['same'].tolist() == [False, True, True, False, False, True]
    with pytest.raises(ValueError, match='ids row 1 is empty'): all_pairs(['a', None])
