"What the curves show, and that no text in them overlaps or is cut off"
import numpy as np
import pandas as pd
import pytest

from qsd_fastai.evaluation.comparison import arm_gains
from qsd_fastai.evaluation.rejection import error_vs_reject, retrieval_vs_reject
from qsd_fastai.evaluation.roc import roc_points
from qsd_fastai.evaluation.scores import all_pairs, pair_scores
from qsd_fastai.plots.curves import cmc_figure, det_figure, error_vs_reject_figure, gains_figure, roc_figure
from qsd_fastai.plots.style import look
from qsd_fastai.quality import norm_quality

rng = np.random.default_rng(0)


def labels(fig): return [t.get_text() for t in fig.legends[0].get_texts()] if fig.legends else []


@pytest.fixture(scope='module')
def roc():
    same = np.arange(30000) < 500
    gaps = {'baseline': 2, 'with quality self-distillation': 4}
    return {name: roc_points(rng.normal(size=30000) + gap*same, same) for name,gap in gaps.items()}


@pytest.mark.parametrize('least', [None, 1e-8])
def test_roc_and_det(roc, least, assert_tidy):
    for figure,rate in ((roc_figure, 'tar'), (det_figure, 'frr')):
        fig = figure(roc, least)
        ax = fig.axes[0]
        assert labels(fig) == list(roc)
        assert ax.get_xscale() == 'log'
        for line,points in zip(ax.lines, roc.values()):
            x,y = line.get_data()
            beyond = points.far > x[0]
            some = getattr(points, rate)[beyond]
            k = len(some) if rate == 'tar' else (some > 1e-12).sum()
            np.testing.assert_allclose(y[1:][:k], some[:k])
            np.testing.assert_allclose(x[1:], points.far[beyond])
            assert y[0] == getattr(points, rate)[~beyond][-1]
            assert x[0] == ax.get_xlim()[0]
            assert (y > 0).all()
        assert_tidy(fig)
    assert not labels(roc_figure(roc['baseline']))


def test_a_perfect_curve_is_seen(assert_tidy):
    perfect = roc_points([.9, .8, .2, .1], [1, 1, 0, 0])
    for figure in (roc_figure, det_figure):
        fig = figure({'perfect': perfect})
        x,y = fig.axes[0].lines[0].get_data()
        assert (y > fig.axes[0].get_ylim()[0]).all()
        assert len(x) >= 2
        assert_tidy(fig)


@pytest.mark.parametrize('unit', ['picture', 'pair'])
def test_error_vs_reject(unit, assert_tidy):
    ids,emb = np.repeat(np.arange(20), 4), rng.normal(size=(20, 8))[np.arange(80)//4] + .6*rng.normal(size=(80, 8))
    pairs = all_pairs(ids)
    scores = pair_scores(emb, pairs['first'], pairs['second'])
    quality = {'distribution quality': rng.uniform(0, 100, 80), 'feature norm': norm_quality(emb)}
    r = error_vs_reject(scores, pairs['same'], pairs['first'], pairs['second'], quality, unit, .01)
    fig = error_vs_reject_figure(r, to=.5)
    ax = fig.axes[0]
    for line,name in zip(ax.lines, r.curves):
        np.testing.assert_allclose(line.get_xydata(), np.c_[r.curves.index, r.curves[name]][:51])
    assert labels(fig) == [f'{name}: {100*a:.2f} %' for name,a in r.areas['partial'].items()]
    assert fig.legends[0].get_title().get_text() == 'mean over the first 20 % rejected (shaded), lower is better'
    assert ax.get_ylabel() == 'false non-match rate at FMR 0.01'
    assert f'{r.n_units:,} {unit}s; threshold fixed at the start' in ax.get_title()
    assert_tidy(fig)
    assert_tidy(error_vs_reject_figure(r))


def test_retrieval_vs_reject(assert_tidy):
    per_query = pd.DataFrame({'answerable': np.arange(40) > 1, 'first_rank': 1., 'ap': np.linspace(.2, 1, 40),
                              'inp': .5})
    fig = error_vs_reject_figure(retrieval_vs_reject(per_query, {'q': np.linspace(0, 100, 40)}), title='People')
    ax = fig.axes[0]
    assert ax.get_title() == 'People\n38 queries, 2 more left out; unanswerable queries left out'
    assert ax.get_ylabel() == 'mAP'
    assert ax.get_xlabel() == 'queries rejected, lowest quality first'
    assert_tidy(fig)


def test_cmc(assert_tidy):
    cmc = {'a': np.linspace(.7, .95, 50), 'b': np.linspace(.8, 1, 12)}
    fig = cmc_figure(cmc)
    for line,shares,n in zip(fig.axes[0].lines, cmc.values(), (20, 12)):
        np.testing.assert_allclose(line.get_xydata(), np.c_[np.arange(1, n + 1), shares[:n]])
    assert labels(fig) == ['a: rank 1 70.00 %', 'b: rank 1 80.00 %']
    assert_tidy(fig)
    assert not labels(cmc_figure(cmc['a']))
    assert len(cmc_figure(np.ones(1)).axes[0].lines) == 1


@pytest.mark.parametrize('n', [1, 2, 5])
@pytest.mark.parametrize('names, reference', [
    (['mAP', 'rank1', 'rank5', 'rank1_worst', 'mAP_worst'], 'without'),
    (['degraded accuracy', 'crossed accuracy', 'pairs tar', 'pairs shrink 14 tar', 'both degraded'],
     'copies, moving average teaches, with a name that is longer than most')], ids=['short', 'long'])
def test_gains(n, names, reference, assert_tidy):
    arms,figures = (reference, 'with', 'shuffled'),names[:n]
    results = pd.DataFrame([{'arm': arm, 'seed': seed, **dict(zip(figures, rng.random(n)))}
                            for seed in range(3) for arm in arms])
    gains = arm_gains(results, reference)
    fig = gains_figure(gains, reference)
    ax = fig.axes[0]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ['with, n = 3', 'shuffled, n = 3']
    assert [t.get_text() for t in ax.get_xticklabels()] == figures
    assert ' '.join(ax.get_title(loc='left').split()) == f'over "{reference}", same seed; bars: 95 % intervals'
    for container,arm in zip(ax.containers, arms[1:]):
        of_arm = gains[gains['arm'] == arm]
        points,_,(bars,) = container
        np.testing.assert_allclose(points.get_ydata().astype(float), 100*of_arm['mean'])
        ends = np.array(bars.get_segments())[:, :, 1].T
        np.testing.assert_allclose(ends, [100*of_arm[k] for k in ('low', 'high')])
    assert_tidy(fig)
    assert_tidy(gains_figure(arm_gains(results[results.seed == 0], reference), reference))  # one seed has no error
    fig = gains_figure(gains, reference, looks={o: i for i,o in enumerate(arms)}) # As the arms look in other figures
    assert [o.lines[0].get_color() for o in fig.axes[0].containers] == [look(i)['color'] for i in (1, 2)]


def test_norm_quality():
    norm = np.r_[rng.uniform(10, 30, 999), 500]
    direction = rng.normal(size=(1000, 4))
    got = norm_quality(direction/np.linalg.norm(direction, axis=1, keepdims=True)*norm[:, None])
    lo,hi = np.percentile(norm, (1, 99))
    np.testing.assert_allclose(got, 100*np.clip((norm - lo)/(hi - lo), 0, 1), atol=1e-3)
    assert got.dtype == np.float32
    assert got[-1] == 100
    with pytest.raises(ValueError, match='all embeddings are of one length'): norm_quality(np.eye(5))
    bad = np.where(np.arange(5)[:, None] == 2, np.nan, np.eye(5))
    with pytest.raises(ValueError, match='emb row 2 holds NaN'): norm_quality(bad)
