"Quality labels against the published definition (golden files), SciPy, and each other"
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.stats import wasserstein_distance

from qsd_fastai import quality
from qsd_fastai.quality import similarity_quality, wasserstein

GOLDEN = Path(__file__).parent/'golden'


@pytest.fixture(scope='module')
def people():
    "Embeddings of 300 pictures with a known noise, identities of 1 to 60 pictures, in no order"
    rng = np.random.default_rng(0)
    ids = rng.permutation(np.repeat(np.arange(14), [1, 2, 3, 5, 8, 12, 16, 20, 24, 25, 26, 38, 60, 60]))
    noise = rng.uniform(.3, 3, len(ids))
    emb = rng.normal(size=(14, 32))[ids] + noise[:, None]*rng.normal(size=(len(ids), 32))
    return emb.astype(np.float32), ids, noise


def naive_exact(emb, ids, signed=False):
    "Distance of every picture over all pairs, in float64, one after another"
    emb = emb.astype(np.float64)
    sims = (emb/np.linalg.norm(emb, axis=1, keepdims=True))@(emb/np.linalg.norm(emb, axis=1, keepdims=True)).T
    out = np.full(len(ids), np.nan)
    for i in range(len(ids)):
        same = ids == ids[i]
        pos,neg = sims[i][same & (np.arange(len(ids)) != i)], sims[i][~same]
        if len(pos): out[i] = pos.mean() - neg.mean() if signed else wasserstein_distance(pos, neg)
    return out


def to_hundred(w): return 100*(w - np.nanmin(w))/(np.nanmax(w) - np.nanmin(w))


def test_wasserstein_golden():
    g = np.load(GOLDEN/'sdd_scores.npz')
    np.testing.assert_allclose(wasserstein(g['pos'], g['neg']), g['wasserstein'], atol=1e-12, rtol=0)
    labels = quality.to_hundred(g['wasserstein'][:, None], 'minmax', None)
    np.testing.assert_allclose(labels, g['normalised'], atol=1e-9, rtol=0)


def test_wasserstein_scipy():
    "Unequal sizes, ties, crossing and separated rows"
    rng = np.random.default_rng(1)
    pos,neg = rng.normal(size=(60, 9)).round(1), rng.normal(size=(60, 24)).round(1)
    pos[:20] += 6
    pos[20:30] -= 6
    for row in range(60): pos[row, 1 + row % 9:],neg[row, 1 + row % 24:] = np.nan, np.nan
    want = [wasserstein_distance(p[~np.isnan(p)], n[~np.isnan(n)]) for p,n in zip(pos, neg)]
    np.testing.assert_allclose(wasserstein(pos, neg), want, atol=1e-12)
    single = (torch.tensor(o, dtype=torch.float32) for o in (pos, neg))
    np.testing.assert_allclose(wasserstein(*single), want, atol=2e-6)
    assert np.isnan(wasserstein(np.full((1, 3), np.nan), neg[:1])).all()


def test_pipeline_golden():
    "The picks of the published code give its labels"
    g = np.load(GOLDEN/'sdd_pipeline.npz')
    emb = torch.nn.functional.normalize(torch.from_numpy(g['embeddings']), dim=1)
    pos,neg = (torch.from_numpy(g[o].astype(np.int64)).movedim(0, 1) for o in ('pick_pos', 'pick_neg'))
    w = quality._picked_distances(emb, torch.arange(len(emb)), pos, neg).numpy()
    np.testing.assert_allclose(w.T, g['wasserstein'], atol=1e-6, rtol=0)
    labels = quality.to_hundred(w.astype(np.float64), 'minmax', None)
    np.testing.assert_allclose(labels, g['pseudo_labels'], atol=1e-3, rtol=0)
    ours = similarity_quality(g['embeddings'], g['identity'])  # other draws, so near and not equal
    assert np.corrcoef(ours, g['pseudo_labels'])[0, 1] > .99


@pytest.mark.parametrize('population', [1, 3, 24, 25, 40, 5000])
def test_draws_are_distinct(population):
    random = torch.randint(2**62, (200, 3, 24), generator=torch.Generator().manual_seed(0))
    picks = quality._draw(random, torch.full((200,), population))
    assert ((picks >= 0).sum(-1) == min(24, population)).all()
    assert picks.max() < population
    for row in picks.flatten(0, 1).tolist():
        kept = [o for o in row if o >= 0]
        assert len(set(kept)) == len(kept)


def test_draws_are_uniform():
    "Each of the 10 pairs out of 5 equally often, and each number of a larger range"
    random = torch.randint(2**62, (20000, 1, 2), generator=torch.Generator().manual_seed(0))
    pairs = quality._draw(random, torch.full((20000,), 5))[:, 0].sort(dim=1)[0]
    assert np.bincount((pairs[:, 0]*5 + pairs[:, 1]).numpy()).max() < 2200
    assert np.unique(pairs.numpy(), axis=0, return_counts=True)[1].min() > 1800
    random = torch.randint(2**62, (2000, 5, 24), generator=torch.Generator().manual_seed(1))
    counts = torch.bincount(quality._draw(random, torch.full((2000,), 60)).flatten(), minlength=60)
    assert (counts - 4000).abs().max() < 250


def test_sampled_picks_keep_the_rules(people, monkeypatch):
    "Positives: others of the identity; negatives: other identities; none twice; 24 or all there are"
    emb,ids,_ = people
    seen,order = [], np.argsort(pd.factorize(ids)[0], kind='stable')
    real = quality._picked_distances
    monkeypatch.setattr(quality, '_picked_distances', lambda emb, *args: seen.append(args[:3]) or real(emb, *args))
    similarity_quality(emb, ids)
    by_row,rows_seen = ids[order], []
    for rows,pos,neg in seen:
        for row,p,n in zip(rows.tolist(), pos.tolist(), neg.tolist()):
            rows_seen.append(row)
            assert len(n) == 12
            assert len(p) in (1, 12)
            for picks in p:
                picks = [o for o in picks if o >= 0]
                assert row not in picks
                assert len(set(picks)) == len(picks) == min(24, (ids == by_row[row]).sum() - 1)
                assert (by_row[picks] == by_row[row]).all()
            for picks in n:
                assert len(set(picks)) == 24
                assert min(picks) >= 0
                assert (by_row[picks] != by_row[row]).all()
            assert len({tuple(sorted(o)) for o in n}) == 12
    assert sorted(rows_seen) == np.flatnonzero(np.bincount(ids)[by_row] > 1).tolist()


def test_sampled_against_exact_and_truth(people):
    emb,ids,noise = people
    sampled,exact = similarity_quality(emb, ids), similarity_quality(emb, ids, mode='exact')
    assert sampled.dtype == np.float32
    assert sampled.shape == ids.shape
    alone = np.bincount(ids)[ids] == 1
    assert (np.isnan(sampled) == alone).all()
    assert (np.isnan(exact) == alone).all()
    assert alone.sum() == 1
    assert np.nanmin(exact) == 0
    assert np.nanmax(exact) == 100
    assert np.nanmin(sampled) >= 0
    assert np.nanmax(sampled) <= 100
    assert np.corrcoef(sampled[~alone], exact[~alone])[0, 1] > .99
    assert np.corrcoef(sampled[~alone], noise[~alone])[0, 1] < -.6
    of_means = [similarity_quality(emb, ids, mode=mode, signed=True)[~alone] for mode in ('sampled', 'exact')]
    assert np.corrcoef(*of_means)[0, 1] > .99
    assert np.isnan(similarity_quality(emb, ids, min_imgs=9)).sum() == 1 + 2 + 3 + 5 + 8


@pytest.mark.parametrize('signed', [False, True])
@pytest.mark.parametrize('noise', [.1, 1., 4.])
def test_exact_scipy(noise, signed):
    "Separated, touching and crossing distributions; identities of very different size; a picture under a wrong name"
    rng = np.random.default_rng(2)
    ids = rng.permutation(np.repeat(['a', 'b', 'c', 'd', 'e'], [1, 2, 10, 40, 7]))
    emb = rng.normal(size=(5, 12))[np.unique(ids, return_inverse=True)[1]] + noise*rng.normal(size=(len(ids), 12))
    i,j = np.flatnonzero(ids == 'c')[0], np.flatnonzero(ids == 'd')[0]
    emb[i] = emb[j]
    want = to_hundred(naive_exact(emb, ids, signed))
    for dtype,atol in ((np.float64, 1e-4), (np.float32, 1e-3)):
        labels = similarity_quality(emb.astype(dtype), ids, mode='exact', signed=signed)
        np.testing.assert_allclose(labels, want, atol=atol)
    if noise == .1 and signed: assert want[i] == 0  # a picture under a wrong name is the worst of all


def test_exact_blocks(people, monkeypatch):
    "Blocks of one picture and the sorted form everywhere give the same"
    emb,ids,_ = people
    want = to_hundred(naive_exact(emb, ids))
    np.testing.assert_allclose(similarity_quality(emb, ids, mode='exact'), want, atol=1e-3)
    real = torch.Tensor.split
    monkeypatch.setattr(torch.Tensor, 'split', lambda self, n, dim=0: real(self, 1, dim))
    np.testing.assert_allclose(similarity_quality(emb, ids, mode='exact'), want, atol=1e-3)
    blocks = similarity_quality(emb, ids)
    monkeypatch.undo()
    np.testing.assert_allclose(similarity_quality(emb, ids), blocks, atol=1e-3)  # the draws do not depend on the blocks


def test_seeded(people):
    emb,ids,_ = people
    a,b,c = (similarity_quality(emb, ids, seed=s, rounds=2) for s in (0, 0, 1))
    np.testing.assert_array_equal(a, b)
    assert np.nanmax(abs(a - c)) > .1
    t = similarity_quality(torch.from_numpy(emb).requires_grad_(), torch.from_numpy(ids), rounds=2)
    np.testing.assert_array_equal(a, t)
    # length and names do not matter
    np.testing.assert_allclose(similarity_quality(emb*7, [str(o) for o in ids], rounds=2), a, atol=1e-3)
    np.testing.assert_allclose(similarity_quality(emb.astype(np.float64), ids, rounds=2), a, atol=1e-3)


def test_gathered_similarities_are_the_same(people):
    "The form for a GPU against the sparse one"
    emb = torch.nn.functional.normalize(torch.from_numpy(people[0]), dim=1)
    picks = torch.randint(-1, len(emb), (5, 40), generator=torch.Generator().manual_seed(0))
    want = (emb[:5]@emb.T).gather(1, picks.clamp(min=0)).masked_fill(picks < 0, float('nan'))
    np.testing.assert_allclose(quality._similarities(emb, torch.arange(5), picks), want, atol=1e-6)
    more = torch.cat([picks]*10, 1)  # more picks than pictures: gathered
    np.testing.assert_allclose(quality._similarities(emb, torch.arange(5), more), torch.cat([want]*10, 1), atol=1e-6)


@pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a GPU')
@pytest.mark.parametrize('mode', ['sampled', 'exact'])
def test_gpu_gives_the_same(people, mode):
    emb,ids,_ = people
    there = similarity_quality(torch.from_numpy(emb).cuda(), ids, mode=mode)
    np.testing.assert_allclose(there, similarity_quality(emb, ids, mode=mode), atol=1e-2)


def test_robust_scaling(people):
    "One outlier sets the scale of minmax, not that of robust"
    emb,ids,_ = people
    keep = np.isin(ids, np.flatnonzero(np.bincount(ids) > 10))
    emb,ids = emb[keep].copy(), ids[keep]
    for mode in ('sampled', 'exact'):
        robust = similarity_quality(emb, ids, mode=mode, scaling='robust', percentiles=(5, 95))
        assert robust.min() >= 0
        assert robust.max() <= 100
        assert (similarity_quality(emb, ids, mode=mode) == 0).sum() <= 1
    w = naive_exact(emb, ids)
    lo,hi = np.percentile(w, (5, 95))
    np.testing.assert_allclose(robust, 100*((w - lo)/(hi - lo)).clip(0, 1), atol=1e-3)
    assert (robust == 0).sum() > 5


def test_few_others_never_hangs():
    "Three negatives where 24 are asked for"
    emb = np.random.default_rng(0).normal(size=(8, 4))
    ids = np.array([0, 0, 0, 0, 0, 1, 1, 1])
    assert np.isfinite(similarity_quality(emb, ids)).all()
    # all are drawn
    np.testing.assert_allclose(similarity_quality(emb, ids), similarity_quality(emb, ids, mode='exact'), atol=1e-4)


@pytest.mark.parametrize('kind', [np.float32, np.float16, np.float64])
@pytest.mark.parametrize('mode', ['sampled', 'exact'])
def test_parts_and_a_file_give_the_labels_of_the_whole(people, tmp_path, kind, mode):
    emb,ids = people[0].astype(kind),people[1]
    whole = similarity_quality(emb, ids, mode)
    lies = tmp_path/'compared'
    for parts,file in (([emb], None), (np.split(emb, [1, 120, 121]), None), (np.split(emb, [120]), lies)):
        given = [o.copy() for o in parts]
        assert similarity_quality(iter(parts), ids, mode, file=file).tobytes() == whole.tobytes()
        assert all((o == p).all() for o,p in zip(parts, given)) # Left as they were
    assert similarity_quality(emb, ids, mode, file=lies).tobytes() == whole.tobytes()
    assert lies.stat().st_size == emb.size*max(4, emb.itemsize)


def test_bad_parts(people, tmp_path):
    emb,ids,_ = people
    bad,zero = emb.copy(),emb.copy()
    bad[207, 3],zero[211] = np.inf,0
    for rows,message in ((bad, 'row 207 holds'), (zero, 'row 211 is all zero'), (emb[:-1], '300 ids for 299'),
                         (np.concatenate([emb, emb]), '300 ids for more embeddings'), (emb[:0], '300 ids for 0')):
        for file in (None, tmp_path/'compared'):
            for odd in (emb[200:, :1], emb[200:, 0], emb[200:, :8]):
                with pytest.raises(ValueError, match=r'A part of emb is .*pictures, 32'):
                    similarity_quality(iter([emb[:200], odd]), ids, file=file)
            with pytest.raises(ValueError, match=r'A part of emb is \(32,\)'): similarity_quality(iter(emb), ids)
            parts = iter(np.split(rows, [200]) if len(rows) else [])
            with pytest.raises(ValueError, match=message): similarity_quality(parts, ids, file=file)


def test_bad_input(people):
    emb,ids,_ = people
    bad = emb.copy()
    bad[7, 3] = np.nan
    zero = emb.copy()
    zero[11] = 0
    cases = [((emb, ids[:-1]), {}, '299 ids for 300'), ((bad, ids), {}, 'row 7'), ((zero, ids), {}, 'row 11'),
             ((emb, np.zeros(300)), {}, 'two or more'), ((emb, np.arange(300)), {}, 'No identity has 2'),
             ((emb[0], ids), {}, 'pictures, features'), ((emb, ids), {'mode': 'all'}, 'mode is'),
             ((emb, ids), {'scaling': 'none'}, 'scaling is'), ((emb, ids), {'min_imgs': 1}, 'min_imgs'),
             ((emb, ids), {'rounds': 0}, 'rounds'), ((np.ones((300, 4)), ids), {'mode': 'exact'}, 'lie alike'),
             ((emb, [None, *ids[1:]]), {}, 'ids row 0')]
    for args,kwargs,message in cases:
        with pytest.raises(ValueError, match=message): similarity_quality(*args, **kwargs)
