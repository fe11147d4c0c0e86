"Counted ranks against sorted ones, float64 and scikit-learn; both forms, ties, many matches, and threads"
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from qsd_fastai.evaluation import ranking
from qsd_fastai.evaluation.distances import DistanceBlocks, Embeddings
from qsd_fastai.evaluation.ranking import count_ranks, in_threads, match_ranks, nearest
from qsd_fastai.evaluation.retrieval import evaluate_distances, evaluate_retrieval
from qsd_fastai.evaluation.same_camera import Matches


def sorted_ranks(row, is_match, is_junk):
    order = [j for j in np.argsort(row, kind='stable') if not is_junk[j]]
    return [r for r,j in enumerate(order, 1) if is_match[j]]


@st.composite
def searches(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n_query,n_gallery,n_ids = draw(st.integers(1, 6)), draw(st.integers(1, 60)), draw(st.integers(1, 6))
    n_levels,dtype = draw(st.sampled_from([1, 2, 5, 10**6])), draw(st.sampled_from([np.float32, np.float64]))
    dist = (rng.integers(-n_levels, n_levels, (n_query, n_gallery))/7).astype(dtype)
    cameras = draw(st.booleans())
    ids = rng.integers(0, n_ids, n_query), rng.integers(0, n_ids, n_gallery)
    return dist, *ids, *((rng.integers(0, 3, n_query), rng.integers(0, 3, n_gallery)) if cameras else (None, None))


@settings(max_examples=60, deadline=None)
@given(searches(), st.sampled_from([0, 3, 128]))
def test_any_search(search, few):
    "The passes, the search among thresholds (from `FEW` on) and the tensor form, all against a sort"
    dist,q_ids,g_ids,q_cameras,g_cameras = search
    matches = Matches(q_ids, g_ids, q_cameras, g_cameras, dist.shape)
    before = dist.copy()
    rank_rows = {128: ranking._rank_rows, 0: MANY, 3: SOME}[few]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(ranking, '_rank_rows', rank_rows)
        ours = match_ranks(torch.from_numpy(dist), matches, 0)
    tensors = count_ranks(torch.from_numpy(dist), *map(torch.from_numpy, matches.block(0, len(dist))))
    np.testing.assert_array_equal(dist, before)
    for i,row in enumerate(dist):
        same = q_ids[i] == g_ids
        junk = same & (q_cameras[i] == g_cameras) if q_cameras is not None else np.zeros_like(same)
        want = sorted_ranks(row, same & ~junk, junk)
        for ranks,n in (ours, tensors): assert ranks[i, :n[i]].tolist() == want


def limited(few):
    "The kernel in plain Python with another limit: numba fixes what was global when it compiled"
    scope = {**ranking._rank_rows.py_func.__globals__, 'FEW': few}
    return type(limited)(ranking._rank_rows.py_func.__code__, scope)


MANY,SOME = limited(0), limited(3)


def test_many_matches():
    "More matches than passes are made for, compiled"
    rng = np.random.default_rng(0)
    dist,q_ids,g_ids = rng.integers(0, 300, (8, 900)).astype(np.float32), np.arange(8) % 2, np.arange(900) % 3
    q_cameras,g_cameras = np.arange(8) % 3, rng.integers(0, 3, 900)
    r = evaluate_distances(dist, q_ids, g_ids, q_cameras, g_cameras)
    assert (r.per_query.n_matches > ranking.FEW).all()
    for i,row in enumerate(dist):
        same = g_ids == q_ids[i]
        ranks = sorted_ranks(row, same & (g_cameras != q_cameras[i]), same & (g_cameras == q_cameras[i]))
        np.testing.assert_allclose(r.per_query.ap[i], np.mean(np.arange(1, len(ranks) + 1)/ranks), rtol=1e-12)


def test_scikit_learn_agrees():
    "Average precision without ties is scikit-learn's"
    rng = np.random.default_rng(1)
    q,g = rng.normal(size=(20, 8)), rng.normal(size=(300, 8))
    q_ids,g_ids = rng.integers(0, 9, 20), rng.integers(0, 9, 300)
    dist = ((q[:, None] - g)**2).sum(-1)
    want = [average_precision_score(g_ids == i, -row) for i,row in zip(q_ids, dist)]
    np.testing.assert_allclose(evaluate_retrieval(q, g, q_ids, g_ids, normalize=False).per_query.ap, want, rtol=1e-12)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('normalize', [True, False])
def test_blocks(dtype, normalize, monkeypatch):
    "Distances of stored embeddings in tiles, of one tensor or two end to end, from any column on"
    monkeypatch.setattr('qsd_fastai.evaluation.distances.TILE', 7)
    g = torch.Generator().manual_seed(0)
    a,b = (torch.randn(n, 5, generator=g).to(dtype) for n in (9, 20))
    both = Embeddings([a, b], ['a', 'b'], normalize)
    x = torch.cat([a, b]).double()
    unit = torch.nn.functional.normalize(x)
    want = 1 - unit@unit.T if normalize else torch.cdist(x, x)**2
    blocks,tolerance = DistanceBlocks(both, both), dict(atol=1e-12 if dtype == torch.float64 else 5e-6, rtol=0)
    out = blocks.empty(12)
    for lo,hi,first in ((0, 12, 0), (5, 17, 8), (9, 10, 28)):
        got = blocks.distances(lo, hi, out, absolute=True, first=first)
        torch.testing.assert_close(got.double(), want[lo:hi, first:], **tolerance)
    torch.testing.assert_close(both.take(torch.tensor([28, 0, 9])).double(), x[[28, 0, 9]])
    between = DistanceBlocks(both.only(0), both.only(1)).distances(3, 8, absolute=True)
    torch.testing.assert_close(between.double(), want[3:8, 9:], **tolerance)


def test_nearest():
    "Selected in two parts, as a stable sort has them; infinity where there are too few"
    dist = np.random.default_rng(2).integers(0, 9, (5, 40)).astype(np.float32)
    distance,index,largest = np.full((5, 6), np.inf, np.float32), np.full((5, 6), -1), np.full(5, -np.inf, np.float32)
    for first,last in ((0, 3), (3, 40)):
        part = np.ascontiguousarray(dist[:, first:last])
        in_threads(nearest, 5, part, first, distance, index, largest)
    np.testing.assert_array_equal(index, np.argsort(dist, 1, kind='stable')[:, :6])
    np.testing.assert_array_equal(distance, np.sort(dist, 1)[:, :6])
    np.testing.assert_array_equal(largest, dist.max(1))


def test_threads_share_rows_and_pass_errors_on(monkeypatch):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    parts = []
    in_threads(lambda lo, hi: parts.append((lo, hi)), 10)
    assert sorted(parts) == [(0, 3), (3, 6), (6, 10)]
    with pytest.raises(ZeroDivisionError): in_threads(lambda lo, hi: 1/0, 2)


def test_no_folder_for_the_cache(monkeypatch):
    "Read-only site-packages and home: compiled anew, not refused"
    def refuse(nogil, cache=False):
        if cache: raise RuntimeError('cannot cache function: no locator available')
        return lambda f: ('plain', f)
    monkeypatch.setattr(ranking, 'njit', refuse)
    assert ranking.compiled()(len) == ('plain', len)
