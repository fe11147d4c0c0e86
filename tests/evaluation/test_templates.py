"Templates pooled in loops by the published rule, 1:1 and 1:N against loops, and ranks with TinyFace's distractors"
import numpy as np
import pandas as pd
import pytest
import torch

from qsd_fastai.evaluation.retrieval import evaluate_retrieval
from qsd_fastai.evaluation.templates import evaluate_identification, pool_templates, template_scores


def unit(x): return x/np.linalg.norm(x, axis=-1, keepdims=True)


def naive(emb, template, media, how, media_norm, weights):
    "Template by template, medium by medium"
    out = []
    for t in np.unique(template):
        total = 0
        for m in np.unique(media[template == t]):
            rows = np.flatnonzero((template == t) & (media == m))
            part = np.mean([(unit(emb[i]) if how == 'mean' else emb[i])*weights[i] for i in rows], axis=0)
            total = total + (unit(part) if media_norm else part)
        out.append(unit(total))
    return np.array(out)


def case(seed, n=90, nf=6):
    rng = np.random.default_rng(seed)
    emb = rng.normal(size=(n, nf))*rng.uniform(1, 30, (n, 1))
    return emb, rng.integers(0, 17, n)*3, rng.integers(0, 4, n), rng.uniform(1, 100, n)


@pytest.mark.parametrize('how', ['mean', 'norm'])
@pytest.mark.parametrize('media_norm', [False, True])
@pytest.mark.parametrize('weighted', [False, True])
@pytest.mark.parametrize('seed', range(3))
def test_pooling_by_loops(seed, how, media_norm, weighted):
    emb,template,media,quality = case(seed)
    got = pool_templates(emb, template, media, how, media_norm, quality if weighted else None, chunk=16)
    want = naive(emb, template, media, how, media_norm, quality if weighted else np.ones(len(emb)))
    np.testing.assert_allclose(got.emb, want, atol=1e-12)
    np.testing.assert_array_equal(got.template, np.unique(template))
    np.testing.assert_array_equal(got.n_imgs, [(template == t).sum() for t in got.template])
    np.testing.assert_array_equal(got.n_media, [len(set(media[template == t])) for t in got.template])
    # every picture a medium of its own
    alone = pool_templates(torch.tensor(emb), template, how=how)
    want = naive(emb, template, np.arange(len(emb)), how, False, np.ones(len(emb)))
    np.testing.assert_allclose(alone.emb, want, atol=1e-12)


def test_the_two_media_rules_differ_as_they_should():
    # a video whose frames disagree, and a photograph: taken to unit length the video says as much as the photograph
    emb,template,media = np.array([[1., 0], [0, 1], [1, 0]]), [7, 7, 7], ['v', 'v', 'photo']
    for media_norm,want in ((False, [1.5, .5]), (True, [1 + .5**.5, .5**.5])):
        got = pool_templates(emb, template, media, media_norm=media_norm)
        np.testing.assert_allclose(got.emb, unit(np.array([want])))


def test_unknown_and_empty_quality():
    emb,template = np.eye(6), ['a', 'a', 'a', 'b', 'b', 'c']
    got = pool_templates(emb, template, quality=[20, 60, np.nan, 0, 0, np.nan])
    want = np.zeros((3, 6))
    want[0, :3],want[1, 3:5],want[2, 5] = [20, 60, 40], 1, 1
    np.testing.assert_allclose(got.emb, unit(want), atol=1e-12)
    # a picture of quality 0 beside better ones says nothing, in its own medium too
    got = pool_templates(emb[:3], ['a']*3, media_norm=True, quality=[0, 1, 1])
    np.testing.assert_allclose(got.emb, unit(np.array([[0, 1., 1, 0, 0, 0]])), atol=1e-12)


def test_pooling_errors():
    emb,template,*_ = case(0)
    bad,zero = emb.copy(), emb.copy()
    bad[4, 1],zero[50] = np.inf,0
    for args,kwargs,message in [
        ((bad, template), {}, 'emb row 4 holds NaN or infinity'),
        ((zero, template), {'chunk': 16}, 'emb row 50 is all zero'),
        ((emb, template[1:]), {}, 'template has 89 entries for 90'),
        ((emb, template, [1]), {}, 'media has 1 entries'),
        ((emb, template), {'quality': -np.ones(90)}, 'quality row 0 is -1'),
        ((emb, template), {'quality': [1]}, 'quality has 1 '),
        ((emb, template), {'how': 'max'}, "how is 'max'"),
        ((np.array([[1., 0], [-1, 0]]), ['x', 'x']), {}, 'template x cancel out'),
        ((emb, np.where(template == 3, np.nan, template)), {}, 'template row .* is empty'),
    ]:
        with pytest.raises(ValueError, match=message): pool_templates(*args, **kwargs)


def test_one_to_one():
    emb,template,media,_ = case(1)
    pooled = pool_templates(emb, template, media)
    rng = np.random.default_rng(0)
    one,two = rng.choice(pooled.template, 500), rng.choice(pooled.template, 500)
    at = {t: k for k,t in enumerate(pooled.template)}
    want = [float(pooled.emb[at[a]]@pooled.emb[at[b]]) for a,b in zip(one, two)]
    np.testing.assert_allclose(template_scores(pooled, one, two, chunk=64), want, atol=1e-12)
    for wrong in (1, 1000, -5):
        said = rf'Template {wrong} \(entry 1\) has no picture'
        with pytest.raises(ValueError, match=said): template_scores(pooled, [3, wrong], [3, 3])


@pytest.mark.parametrize('chunk', [2**24, 100])
@pytest.mark.parametrize('seed', range(3))
def test_one_to_many_by_loops(seed, chunk):
    rng = np.random.default_rng(seed)
    centers = rng.normal(size=(60, 5))
    q_ids = np.repeat(np.arange(60), 3)
    q = centers[q_ids] + .6*rng.normal(size=(180, 5))
    galleries = {name: (centers[ids] + .3*rng.normal(size=(len(ids), 5)), ids)
                 for name,ids in (('G1', np.arange(25)), ('G2', np.arange(20, 50)))}
    r = evaluate_identification(q, q_ids, galleries, ranks=(1, 5), fpir=(.1, .02, 1e-3), chunk=chunk)
    for name,(g, ids) in galleries.items():
        scores = unit(q)@unit(g).T
        ranks,mate = [], []
        for i in np.flatnonzero(np.isin(q_ids, ids)):
            order = np.argsort(-scores[i], kind='stable')
            ranks.append(1 + int(np.flatnonzero(ids[order] == q_ids[i])[0]))
            mate.append(scores[i, ids == q_ids[i]].max())
        ranks,mate,others = np.array(ranks), np.array(mate), np.sort(scores[~np.isin(q_ids, ids)].max(1))[::-1]
        row = r.figures.loc[name]
        assert (row.rank1, row.rank5) == ((ranks <= 1).mean(), (ranks <= 5).mean())
        assert (row.n_mated, row.n_unmated) == (len(ranks), len(others))
        for rate in (.1, .02):
            limit = others[int(rate*len(others) + 1e-9)]  # one too many
            assert row[f'tpir@{rate:g}'] == pytest.approx(((ranks == 1) & (mate > limit)).mean(), abs=1e-12)
        assert np.isnan(row['tpir@0.001'])
    np.testing.assert_allclose(r.figures.loc['mean'], r.figures.iloc[:2].mean(skipna=False))
    assert list(r.per_query.groupby('gallery').size()) == [180, 180]
    assert r.per_query.mated.sum() == r.figures.iloc[:2].n_mated.sum()


def test_everybody_has_a_mate():
    r = evaluate_identification(np.eye(4), list('abcd'), {'all': (np.eye(4), list('abcd'))})
    assert r.figures.loc['mean', 'rank1'] == 1
    assert r.figures.loc['mean', ['tpir@0.1', 'tpir@0.01', 'tpir@0.001']].isna().all()
    with pytest.raises(ValueError, match='No query can be answered'):
        evaluate_identification(np.eye(4), list('abcd'), {'none': (np.eye(4), list('efgh'))})


def test_ranks_with_distractors():
    "TinyFace: identification among distractors is the CMC at 1, 5 and 20 over a table whose gallery holds them as -100"
    rng = np.random.default_rng(0)
    centers = rng.normal(size=(40, 8))
    ids = np.arange(40)
    q,mates = centers[ids] + rng.normal(size=(40, 8)), centers[ids] + rng.normal(size=(40, 8))
    distractors = rng.normal(size=(400, 8))
    table = pd.DataFrame({'identity': [*map(str, ids), *map(str, ids), *['-100']*400],
                          'split': ['query']*40 + ['gallery']*440})
    emb,query = np.concatenate([q, mates, distractors]), (table['split'] == 'query').to_numpy()
    identity = table['identity'].to_numpy()
    r = evaluate_retrieval(emb[query], emb[~query], identity[query], identity[~query])
    scores = unit(q)@unit(np.concatenate([mates, distractors])).T
    rank = 1 + (scores > scores[np.arange(40), np.arange(40)][:, None]).sum(1)
    np.testing.assert_allclose(r.cmc[[0, 4, 19]], [(rank <= k).mean() for k in (1, 5, 20)])
    without = evaluate_retrieval(q, mates, ids, ids)
    assert 0 < r.cmc[0] < without.cmc[0]
    assert r.n_unanswerable == 0


@pytest.mark.parametrize('bad', [-1e-9, -1., -np.inf, np.inf])
def test_weights_that_are_none_are_refused_by_row(bad):
    emb,quality = np.eye(4),np.array([1., 0., 2., np.nan])
    pool_templates(emb, ['a', 'a', 'b', 'b'], quality=quality)
    for row in range(4):
        wrong = quality.copy()
        wrong[row] = bad
        with pytest.raises(ValueError, match=f'quality row {row} is {bad:g}'):
            pool_templates(emb, ['a', 'a', 'b', 'b'], quality=wrong)


def test_weights_count_as_they_are():
    "Half a weight is half of a picture, of whatever size; without any, all are even"
    emb = np.eye(2)
    for scale in (1e-3, 1., 100.):
        got = pool_templates(emb, ['a', 'a'], quality=[scale, 2*scale]).emb.numpy()
        np.testing.assert_allclose(got, np.array([[1, 2]])/5**.5)
    for none in ([0, 0], [np.nan, np.nan], [0, np.nan]):
        np.testing.assert_allclose(pool_templates(emb, ['a', 'a'], quality=none).emb.numpy(), np.ones((1, 2))/2**.5)
    # an unknown one counts as the mean of those known, 0 among them
    got = pool_templates(np.eye(3), ['a']*3, quality=[0, 2, np.nan]).emb.numpy()
    np.testing.assert_allclose(got, np.array([[0, 2, 1]])/5**.5)
