"Re-ranking against the published figures (golden) and a dense float64 form on random cases; query expansion by hand"
from pathlib import Path

import numpy as np
import pytest
import torch

from qsd_fastai.evaluation import reranking
from qsd_fastai.evaluation.reranking import expand_queries, k_reciprocal
from qsd_fastai.evaluation.retrieval import evaluate_distances, evaluate_retrieval

GOLDEN = np.load(Path(__file__).parent.parent/'golden'/'re_ranking.npz')


def golden(i):
    k1,k2 = (int(GOLDEN[f'{o}_{i}']) for o in ('k1', 'k2'))
    return GOLDEN[f'q{i}'], GOLDEN[f'g{i}'], k1, k2, float(GOLDEN[f'lambda{i}'])


def dense(q, g, k1, k2, lambda_):
    "The rules of the paper, with full matrices: squared distances, sets, weights, averages, overlap"
    x = np.concatenate([q, g]).astype(np.float64)
    dist = ((x[:, None] - x)**2).sum(-1)
    dist /= dist.max(1, keepdims=True)
    near = np.argsort(dist, 1, kind='stable')
    def mutual(i, k): return {j for j in near[i, :k + 1] if i in near[j, :k + 1]}
    weights = np.zeros_like(dist)
    for i in range(len(x)):
        base = mutual(i, k1)
        others = [o for o in (mutual(j, round(k1/2)) for j in base) if len(o & base) > 2/3*len(o)]
        members = sorted(base.union(*others))
        weights[i, members] = np.exp(-dist[i, members])/np.exp(-dist[i, members]).sum()
    if k2 > 1: weights = np.stack([weights[near[i, :k2]].mean(0) for i in range(len(x))])
    shared = np.minimum(weights[:len(q), None], weights[None, len(q):]).sum(-1)
    return (1 - lambda_)*(1 - shared/(2 - shared)) + lambda_*dist[:len(q), len(q):]


@pytest.mark.parametrize('i', range(4))
@pytest.mark.parametrize('normalize', [True, False])
def test_golden(i, normalize):
    "The golden embeddings have unit length, so that both distances are one"
    ours = k_reciprocal(*golden(i), normalize=normalize)
    np.testing.assert_allclose(ours.dense(), GOLDEN[f'final_f64_{i}'], atol=2e-6, rtol=0)
    np.testing.assert_allclose(ours.dense(), GOLDEN[f'final{i}'], atol=4e-3, rtol=0)
    double = k_reciprocal(*(o.astype(np.float64) for o in golden(i)[:2]), *golden(i)[2:], normalize=normalize)
    np.testing.assert_allclose(double.dense(), GOLDEN[f'final_f64_{i}'], atol=5e-8, rtol=0)


@pytest.mark.parametrize('seed', range(6))
@pytest.mark.parametrize('step', [None, 256])
def test_dense_form(seed, step, monkeypatch):
    "Clusters of several sizes, odd k1, more neighbours averaged than reciprocal, fewer pictures than neighbours"
    rng = np.random.default_rng(seed)
    if step:  # a few rows at a time, nothing kept
        monkeypatch.setattr(reranking, 'AT_ONCE', step)
        monkeypatch.setattr(reranking, 'KEPT', 0 if seed % 2 else 2**26)
    n_query,n_gallery = (7, 60) if seed != 4 else (2, 9)
    centers = rng.normal(size=(6, 5))
    q,g = (centers[rng.integers(0, 6, n)] + .6*rng.normal(size=(n, 5)) for n in (n_query, n_gallery))
    options = [(20, 6, .3), (5, 3, .3), (3, 12, 0), (1, 1, 1), (20, 6, .3), (5, 2, .3)][seed]
    ours = k_reciprocal(q, g, *options, normalize=False)
    np.testing.assert_allclose(ours.dense(), dense(q, g, *options), atol=1e-12)
    np.testing.assert_allclose(ours.distances(1, 2), dense(q, g, *options)[1:2], atol=1e-12)
    unit = [o/np.linalg.norm(o, axis=1, keepdims=True) for o in (q, g)]
    np.testing.assert_allclose(k_reciprocal(q, g, *options).dense(), dense(*unit, *options), atol=1e-12)


def test_judged_in_blocks():
    q,g,*options = golden(0)
    ids = [np.arange(n) % 7 for n in (len(q), len(g))]
    ours = k_reciprocal(torch.tensor(q).half(), torch.tensor(g).half(), *options)
    want = evaluate_distances(ours.dense(), *ids)
    for chunk in (None, 3): assert evaluate_distances(ours, *ids, chunk=chunk).per_query.equals(want.per_query)
    half = [o.astype(np.float16).astype(np.float32) for o in (q, g)]
    np.testing.assert_allclose(ours.dense(), k_reciprocal(*half, *options).dense(), atol=1e-6)


def test_it_helps():
    "What it is for: clusters stretched along a line, whose ends find each other through those between"
    rng = np.random.default_rng(0)
    ids = np.repeat(np.arange(30), 12)
    away,along = rng.normal(size=(30, 16))[ids], rng.normal(size=(30, 16))[ids]
    x = away + along*rng.uniform(-2, 2, (360, 1)) + .3*rng.normal(size=(360, 16))
    q,g,q_ids,g_ids = x[::12], x[np.arange(360) % 12 > 0], ids[::12], ids[np.arange(360) % 12 > 0]
    plain = evaluate_retrieval(q, g, q_ids, g_ids).mAP
    assert evaluate_distances(k_reciprocal(q, g, 10, 3), q_ids, g_ids).mAP > plain + .02
    assert evaluate_retrieval(expand_queries(q, g, 3), g, q_ids, g_ids).mAP > plain


@pytest.mark.parametrize('alpha', [0, 3])
@pytest.mark.parametrize('k', [2, 50])
def test_expand_queries(alpha, k):
    rng = np.random.default_rng(1)
    q,g = rng.normal(size=(5, 4)), rng.normal(size=(20, 4))
    q_unit,g_unit = (o/np.linalg.norm(o, axis=1, keepdims=True) for o in (q, g))
    want = []
    for x,cosine in zip(q_unit, q_unit@g_unit.T):
        best = np.argsort(-cosine)[:k]
        want.append(x + (np.clip(cosine[best], 0, None)[:, None]**alpha*g_unit[best]).sum(0))
    want = np.array(want)/np.linalg.norm(want, axis=1, keepdims=True)
    np.testing.assert_allclose(expand_queries(q, g, k, alpha), want, atol=1e-12)
    assert expand_queries(torch.tensor(q).half(), torch.tensor(g).half(), k, alpha).dtype == torch.float32


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('i', range(4))
def test_gpu(i):
    q,g,*options = golden(i)
    ours = k_reciprocal(torch.tensor(q).cuda(), g, *options)
    np.testing.assert_allclose(ours.dense().cpu(), GOLDEN[f'final_f64_{i}'], atol=2e-5, rtol=0)
    torch.testing.assert_close(expand_queries(torch.tensor(q).cuda(), g).cpu(), expand_queries(q, g), atol=1e-6, rtol=0)


def test_odd_input():
    "Equal pictures; one gallery picture; options and rows that cannot be"
    same = k_reciprocal(np.ones((2, 3)), np.ones((4, 3)), k1=2).dense()
    assert torch.isfinite(same).all()
    assert same.shape == (2, 4)
    assert torch.isfinite(k_reciprocal(np.eye(3)[:2], np.eye(3)[2:]).dense()).all()
    broken = np.ones((4, 3))
    broken[2, 1] = np.nan
    with pytest.raises(ValueError, match='g_emb row 2'): k_reciprocal(np.ones((2, 3)), broken)
    unlike = np.ones((2, 3)), np.ones((2, 2))
    with pytest.raises(ValueError, match='q_emb has 3 features and g_emb 2'): k_reciprocal(*unlike)
    for name,value in (('k1', 0), ('k2', 0), ('lambda_', 1.5)):
        with pytest.raises(ValueError, match=f'{name} is {value}'): k_reciprocal(np.eye(3), np.eye(3), **{name: value})
    with pytest.raises(ValueError, match='k is 0'): expand_queries(np.eye(3), np.eye(3), k=0)
    with pytest.raises(ValueError, match='alpha is -1'): expand_queries(np.eye(3), np.eye(3), alpha=-1)
    dist = np.array([[1, 2], [np.nan, 0]])
    with pytest.raises(ValueError, match='dist row 1 holds NaN'): evaluate_distances(dist, [0, 1], [0, 1])
