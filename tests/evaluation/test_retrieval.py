"Retrieval figures against the published ones (golden), and a naive float64 loop on random and odd cases"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from qsd_fastai.evaluation import retrieval
from qsd_fastai.evaluation.retrieval import by_quality, evaluate_distances, evaluate_retrieval, ranked_gallery

GOLDEN = np.load(Path(__file__).parent.parent/'golden'/'eval_func.npz')


def naive(dist, q_ids, g_ids, q_cameras=None, g_cameras=None, max_rank=50):
    "One query after another, sorted: rank of the first match, AP and INP, NaN where there is none; and the CMC"
    first,ap,inp = [], [], []
    for i,row in enumerate(np.asarray(dist, dtype=np.float64)):
        order = np.argsort(row, kind='stable')
        if q_cameras is not None:
            order = [j for j in order if not (g_ids[j] == q_ids[i] and g_cameras[j] == q_cameras[i])]
        ranks = [r for r,j in enumerate(order, 1) if g_ids[j] == q_ids[i]]
        first.append(ranks[0] if ranks else np.nan)
        ap.append(np.mean([k/r for k,r in enumerate(ranks, 1)]) if ranks else np.nan)
        inp.append(len(ranks)/ranks[-1] if ranks else np.nan)
    first,ap,inp = map(np.array, (first, ap, inp))
    cmc = [(first[~np.isnan(first)] <= r).mean() for r in range(1, min(max_rank, len(g_ids)) + 1)]
    return first, ap, inp, cmc


def check(result, want):
    first,ap,inp,cmc = want
    np.testing.assert_array_equal(result.per_query.first_rank, first)
    np.testing.assert_allclose(result.per_query.ap, ap, atol=1e-12)
    np.testing.assert_allclose(result.per_query.inp, inp, atol=1e-12)
    np.testing.assert_allclose(result.cmc, cmc, atol=1e-12)
    means = cmc[0], np.nanmean(ap), np.nanmean(inp)
    np.testing.assert_allclose([result.rank1, result.mAP, result.mINP], means, atol=1e-12)
    assert (result.n_queries, result.n_unanswerable) == (len(ap), np.isnan(ap).sum())
    np.testing.assert_array_equal(result.per_query.answerable, ~np.isnan(ap))


def cosines(q, g):
    q,g = (o.astype(np.float64)/np.linalg.norm(o.astype(np.float64), axis=1, keepdims=True) for o in (q, g))
    return -q@g.T


def case(seed, n_query=40, n_gallery=130, n_ids=12, n_cameras=3, nf=8):
    rng = np.random.default_rng(seed)
    q_ids,g_ids = rng.integers(0, n_ids, n_query), rng.integers(0, n_ids, n_gallery)
    centers = rng.normal(size=(n_ids, nf))
    q,g = centers[q_ids] + rng.normal(size=(n_query, nf)), centers[g_ids] + rng.normal(size=(n_gallery, nf))
    return q, g, q_ids, g_ids, rng.integers(0, n_cameras, n_query), rng.integers(0, n_cameras, n_gallery)


@pytest.mark.parametrize('chunk', [None, 1, 7])
@pytest.mark.parametrize('i', range(4))
def test_golden(i, chunk):
    given = (GOLDEN[f'{name}{i}'] for name in ('distmat', 'q_pids', 'g_pids', 'q_camids', 'g_camids'))
    r = evaluate_distances(*given, chunk=chunk)
    found = {'cmc': r.cmc, 'mAP': r.mAP, 'mINP': r.mINP, 'AP': r.per_query.ap, 'INP': r.per_query.inp}
    for name,ours in found.items(): np.testing.assert_allclose(ours, GOLDEN[f'{name}{i}'], atol=1e-6, rtol=0)
    assert r.n_unanswerable == np.isnan(GOLDEN[f'AP{i}']).sum()


@pytest.mark.parametrize('chunk', [None, 1, 7])
@pytest.mark.parametrize('seed', range(6))
def test_naive(seed, chunk):
    "Random cases: many and few identities, absent ones, junk"
    q,g,*labels = case(seed, n_ids=(3, 12, 60)[seed % 3], n_cameras=1 + seed)
    if seed == 0: labels[3] += np.arange(130) % 2  # with one camera everything would be junk
    check(evaluate_retrieval(q, g, *labels, chunk=chunk), naive(cosines(q, g), *labels))
    check(evaluate_retrieval(q, g, *labels, chunk=chunk, exclude_same_camera=False), naive(cosines(q, g), *labels[:2]))
    check(evaluate_retrieval(q, g, *labels[:2], chunk=chunk, max_rank=5), naive(cosines(q, g), *labels[:2], max_rank=5))


def test_euclidean():
    q,g,*labels = case(0)
    dist = ((q[:, None] - g[None])**2).sum(-1)
    check(evaluate_retrieval(q, g, *labels, normalize=False), naive(dist, *labels))
    assert evaluate_retrieval(q, g, *labels, normalize=False).mAP != evaluate_retrieval(q, g, *labels).mAP


@pytest.mark.parametrize('levels', [1, 2, 5])
@pytest.mark.parametrize('chunk', [None, 3])
def test_ties_keep_gallery_order(levels, chunk, monkeypatch):
    "Equal distances everywhere, even all alike"
    _,_,*labels = case(3)
    dist = np.random.default_rng(0).integers(0, levels, (40, 130)).astype(np.float32)
    check(evaluate_distances(dist, *labels, chunk=chunk), naive(dist, *labels))
    # the same picture many times
    g = np.random.default_rng(0).normal(size=(4, 8))[np.random.default_rng(1).integers(0, 4, 130)]
    assert len(np.unique(dist)) == levels
    assert len(np.unique(g, axis=0)) == 4
    check(evaluate_distances(-g[:40]@g.T.round(3), *labels, chunk=chunk), naive(-g[:40]@g.T.round(3), *labels))


def test_small_gallery_and_junk():
    "Fewer gallery pictures than the CMC is deep, and rows of different length without junk: the published code raises"
    q,g,*labels = case(4, n_query=30, n_gallery=9, n_ids=3, n_cameras=2)
    r = evaluate_retrieval(q, g, *labels)
    assert r.cmc.shape == (9,)
    assert r.n_unanswerable < 30
    check(r, naive(cosines(q, g), *labels))


def test_one_gallery_picture():
    r = evaluate_retrieval(np.eye(3)[:2], np.eye(3)[2:], ['a', 'b'], ['b'])
    assert (r.rank1, r.mAP, r.mINP, r.n_queries, r.n_unanswerable) == (1, 1, 1, 2, 1)
    np.testing.assert_array_equal(r.per_query.first_rank, [np.nan, 1])


@pytest.mark.parametrize('unknown', ['', None, float('nan'), -1])
def test_unknown_cameras_are_never_excluded(unknown):
    q,g,q_ids,g_ids,q_cameras,g_cameras = case(5)
    name = (lambda c: c) if unknown == -1 else (lambda c: f'c{c}')
    q_named = pd.Series([unknown if c == 0 else name(c) for c in q_cameras], dtype=object)
    g_named = [unknown if c == 0 else name(c) for c in g_cameras]
    apart = np.where(q_cameras == 0, 100, q_cameras), np.where(g_cameras == 0, 200, g_cameras)
    want = naive(cosines(q, g), q_ids, g_ids, *apart)
    check(evaluate_retrieval(q, g, q_ids, g_ids, q_named, g_named), want)


def test_all_same_camera():
    q,g,q_ids,g_ids,*_ = case(6)
    same = np.zeros(40), np.zeros(130)
    with pytest.raises(ValueError, match='exclude_same_camera=False'): evaluate_retrieval(q, g, q_ids, g_ids, *same)
    assert evaluate_retrieval(q, g, q_ids, g_ids, *same, exclude_same_camera=False).n_unanswerable == 0


def test_any_type():
    "Lists of text, tensors that ask for gradients, half precision, arrays that are not contiguous or not writeable"
    q,g,q_ids,g_ids,q_cameras,g_cameras = case(7)
    want = evaluate_retrieval(q, g, q_ids, g_ids, q_cameras, g_cameras)
    text = [[f'id{o}' for o in ids] for ids in (q_ids, g_ids)]
    assert evaluate_retrieval(q, g, *text, q_cameras, g_cameras).mAP == want.mAP
    tensors = [torch.tensor(o) for o in (q_ids, g_ids, q_cameras, g_cameras)]
    assert evaluate_retrieval(torch.tensor(q, requires_grad=True), g, *tensors).mAP == want.mAP
    fixed = g.copy()
    fixed.flags.writeable = False
    labels = q_ids, g_ids[::-1], q_cameras, g_cameras[::-1]
    assert evaluate_retrieval(np.asfortranarray(q), fixed[::-1], *labels).mAP == want.mAP
    half = torch.tensor(q).half(), torch.tensor(g).half()
    with torch.autocast('cpu', dtype=torch.bfloat16): r = evaluate_retrieval(*half, q_ids, g_ids, q_cameras, g_cameras)
    check(r, naive(cosines(*(o.numpy() for o in half)), q_ids, g_ids, q_cameras, g_cameras))


def test_no_matrix_is_kept(monkeypatch):
    "Never more than a block of rows at a time"
    q,g,*labels = case(8)
    seen,real = [], retrieval.match_ranks
    monkeypatch.setattr(retrieval, 'match_ranks', lambda dist, *args: seen.append(dist.shape) or real(dist, *args))
    evaluate_retrieval(q, g, *labels, chunk=16)
    assert seen == [(16, 130), (16, 130), (8, 130)]


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('chunk', [None, 7])
def test_gpu(chunk):
    q,g,*labels = case(9)
    check(evaluate_retrieval(torch.tensor(q).cuda(), g, *labels, chunk=chunk), naive(cosines(q, g), *labels))
    dist,*ids = GOLDEN['distmat1'].round(1), GOLDEN['q_pids1'], GOLDEN['g_pids1']
    check(evaluate_distances(torch.tensor(dist).cuda(), *ids), naive(dist, *ids))


def test_bad_input():
    q,g,q_ids,g_ids,q_cameras,g_cameras = case(10)
    def broken(emb, row, value):
        emb = emb.copy()
        emb[row] = value
        return emb
    missing = [None, *q_ids[1:].tolist()]
    cases = [((broken(q, 5, np.nan), g, q_ids, g_ids), 'q_emb row 5'),
             ((q, broken(g, 9, np.inf), q_ids, g_ids), 'g_emb row 9'),
             ((broken(q, 3, 0), g, q_ids, g_ids), 'q_emb row 3 is all zero'),
             ((q, g[:, :4], q_ids, g_ids), '8 features and g_emb 4'),
             ((q, g, q_ids[1:], g_ids), 'q_ids has 39 entries for 40'),
             ((q, g, q_ids, g_ids, q_cameras, g_cameras[1:]), 'g_cameras has 129'),
             ((q, g, q_ids, g_ids, q_cameras), 'One of q_cameras and g_cameras is None'),
             ((q, g, missing, g_ids), 'q_ids row 0'),
             ((q, g, q_ids + 100, g_ids), 'all query identities do not appear in gallery'),
             ((q, g[:0], q_ids, g_ids[:0]), r'g_emb is \(0, 8\)')]
    for args,message in cases:
        with pytest.raises(ValueError, match=message): evaluate_retrieval(*args)


@pytest.mark.parametrize('chunk', [None, 6])
@pytest.mark.parametrize('normalize', [True, False])
def test_ranked_gallery(chunk, normalize):
    q,g,q_ids,g_ids,q_cameras,g_cameras = case(11)
    dist = 1 + cosines(q, g) if normalize else ((q[:, None] - g[None])**2).sum(-1)
    junk = (q_ids[:, None] == g_ids) & (q_cameras[:, None] == g_cameras)
    for keep in (True, False):
        r = ranked_gallery(q, g, q_ids, g_ids, q_cameras, g_cameras, keep_junk=keep, normalize=normalize, chunk=chunk)
        want = np.argsort(np.where(junk & (not keep), np.inf, dist), 1, kind='stable')[:, :10]
        np.testing.assert_array_equal(r.index, want)
        np.testing.assert_allclose(r.distance, np.take_along_axis(dist, want, 1), atol=1e-9)
        np.testing.assert_array_equal(r.junk, np.take_along_axis(junk, want, 1))
        np.testing.assert_array_equal(r.right, (g_ids[want] == q_ids[:, None]) & ~r.junk)
    first = evaluate_retrieval(q, g, q_ids, g_ids, q_cameras, g_cameras, normalize=normalize).per_query.first_rank
    np.testing.assert_array_equal(r.right[:, 0], first == 1)
    short = ranked_gallery(q[:1], g[:3], [7], [7, 7, 8], ['a'], ['a', 'b', 'a'])
    assert sorted(short.index[0]) == [-1, 1, 2]
    assert short.index[0, 2] == -1
    assert not short.junk.any()
    assert short.right.sum() == 1


def test_by_quality():
    per_query = pd.DataFrame({'query': range(8), 'answerable': [True]*7 + [False], 'inp': [.1]*7 + [np.nan],
                              'first_rank': [3, 1, 2, 1, 1, 1, 4, np.nan],
                              'ap': [.1, .2, .3, .4, .5, .6, .7, np.nan]})
    t = by_quality(per_query, torch.tensor([0, 10, 50, 60, 90, 100, float('nan'), 5]))
    assert list(t.index) == ['worst', 'middle', 'best', 'unknown']
    assert list(t.n_queries) == [2, 2, 2, 1]
    np.testing.assert_allclose(t.mAP, [.15, .35, .55, .7])
    np.testing.assert_allclose(t.rank1, [.5, .5, 1, 0])
    assert t.quality_from['middle'] == 50
    assert t.quality_to['middle'] == 60
    same = by_quality(per_query, np.full(8, 40.))
    assert list(same.n_queries) == [0, 7, 0]  # equal qualities cannot be told apart
    assert np.isnan(same.mAP['worst'])
    assert list(by_quality(per_query, range(8), bins=7).n_queries) == [1]*7
    with pytest.raises(ValueError, match='quality has 7 entries for 8 queries'): by_quality(per_query, range(7))
    with pytest.raises(ValueError, match='quality row 2 is 101'): by_quality(per_query, [1, 2, 101, 4, 5, 6, 7, 8])
