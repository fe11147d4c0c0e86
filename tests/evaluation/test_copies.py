"Copies of a gallery picture stand in gallery order, whoever else is searched for, in every judge of a search"
import numpy as np
import pytest
import torch

from qsd_fastai.evaluation.distances import DistanceBlocks, Embeddings
from qsd_fastai.evaluation.open_set import open_set_rates, pair_rates
from qsd_fastai.evaluation.reranking import expand_queries
from qsd_fastai.evaluation.retrieval import evaluate_retrieval, ranked_gallery
from qsd_fastai.evaluation.single_shot import single_shot_cmc

N_QUERY,N_GALLERY,N_KINDS = 37,411,23


def case(dtype=torch.float32, nf=257):
    "A gallery of few pictures again and again, of people who share them: every figure hangs on the order of copies"
    generator = torch.Generator().manual_seed(0)
    kinds = torch.randn(N_KINDS, nf, generator=generator, dtype=torch.float64)
    g = kinds[torch.randint(N_KINDS, (N_GALLERY,), generator=generator)]
    q = torch.randn(N_QUERY, nf, generator=generator, dtype=torch.float64)
    q_ids,g_ids = (torch.randint(9, (n,), generator=generator).numpy() for n in (N_QUERY, N_GALLERY))
    return q.to(dtype), g.to(dtype), q_ids, g_ids


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize('normalize', [True, False])
def test_copies_are_equally_far_in_every_block(dtype, normalize):
    q,g,*_ = case(dtype)
    blocks,kinds = DistanceBlocks.of(q, g, normalize), np.unique(g.double().numpy(), axis=0, return_inverse=True)[1]
    for lo,hi,first in ((0, N_QUERY, 0), (5, 6, 0), (0, 7, 1), (3, 20, 200), (0, 1, N_GALLERY - 1)):
        dist = blocks.distances(lo, hi, absolute=True, first=first).numpy()
        for kind in range(N_KINDS):
            same = dist[:, kinds[first:] == kind]
            np.testing.assert_array_equal(same, same[:, :1].repeat(same.shape[1], 1))


def test_copies_are_found_in_all_parts():
    q,g,*_ = case()
    both = Embeddings([g[:100], torch.cat([q, g[100:]])], ['a', 'b'], True)
    copies,firsts = both.copies
    rows = torch.cat([g[:100], q, g[100:]])
    assert torch.equal(rows[copies], rows[firsts])
    assert len(copies) == N_GALLERY - N_KINDS
    assert len(np.unique(firsts)) == N_KINDS


def test_equal_lengths_are_no_copies():
    rows = torch.eye(6)
    assert Embeddings([rows], ['emb'], True).copies.shape == (2, 0)


@pytest.mark.parametrize('dtype', [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize('chunk', [None, 1, 5])
def test_a_query_alone_is_judged_as_among_others(dtype, chunk):
    q,g,q_ids,g_ids = case(dtype)
    found = evaluate_retrieval(q, g, q_ids, g_ids, chunk=chunk).per_query
    alone = [evaluate_retrieval(q[i:i + 1], g, q_ids[i:i + 1], g_ids).per_query.iloc[0] for i in range(N_QUERY)]
    figures = ['first_rank', 'ap', 'inp']
    np.testing.assert_allclose(found[figures], np.array([o[figures] for o in alone], float), rtol=1e-12)
    # as a stable sort of the exact distances
    wide = torch.nn.functional.normalize(g.double())@torch.nn.functional.normalize(q.double()).T
    for i in range(N_QUERY):
        order = np.argsort(-wide[:, i].numpy().round(10), kind='stable')
        ranks = np.flatnonzero(g_ids[order] == q_ids[i]) + 1
        np.testing.assert_allclose(found['ap'][i], np.mean(np.arange(1, len(ranks) + 1)/ranks), rtol=1e-12)


@pytest.mark.parametrize('n_draws', [None, 7])
def test_single_shots_hang_on_no_chunk(n_draws):
    args = case()
    curves = [single_shot_cmc(*args, n_draws=n_draws, chunk=chunk) for chunk in (None, 1, 4)]
    for curve in curves[1:]: np.testing.assert_array_equal(curve, curves[0])


def test_shown_lists_are_in_gallery_order():
    q,g,q_ids,g_ids = case()
    whole = ranked_gallery(q, g, q_ids, g_ids, top=N_GALLERY)
    kinds = np.unique(g.numpy(), axis=0, return_inverse=True)[1]
    for row in whole.index:
        for kind in range(N_KINDS):
            of_kind = row[kinds[row] == kind]
            np.testing.assert_array_equal(of_kind, np.sort(of_kind))
    one = [ranked_gallery(q[i:i + 1], g, q_ids[i:i + 1], g_ids, top=N_GALLERY).index[0] for i in range(N_QUERY)]
    np.testing.assert_array_equal(whole.index, one)


def test_open_sets_and_expansion_hang_on_no_chunk():
    q,g,q_ids,g_ids = case()
    q_ids = np.where(np.arange(N_QUERY) % 3 == 0, q_ids + 100, q_ids)
    rates = [open_set_rates(q, g, q_ids, g_ids, chunk=chunk).rates[['fpir', 'tpir']] for chunk in (None, 1)]
    np.testing.assert_array_equal(*rates)
    pairs = [pair_rates(q, g, q_ids, g_ids, chunk=chunk)[['fpr', 'tpr']] for chunk in (None, 1)]
    np.testing.assert_array_equal(*pairs)
    alone = torch.cat([expand_queries(q[i:i + 1], g, 3) for i in range(N_QUERY)])
    torch.testing.assert_close(expand_queries(q, g, 3), alone, atol=1e-6, rtol=0)
