"What the figures of quality show, and that no text in them overlaps or is cut off"
import numpy as np
import pandas as pd
import pytest

from qsd_fastai.plots.quality import map_by_quality_figure, quality_agreement_figure, quality_histogram_figure

rng = np.random.default_rng(0)


@pytest.mark.parametrize('median', [3, 30, 49, 52, 70, 99])
def test_quality_histogram(median, assert_tidy):
    quality = np.r_[np.clip(rng.normal(median, 5, 500), 0, 100), np.full(500, median), [np.nan]*234]
    fig = quality_histogram_figure(quality)
    ax, = fig.axes
    heights = [p.get_height() for p in ax.patches]
    assert len(heights) == 40
    assert sum(heights) == 1000
    np.testing.assert_array_equal(heights, np.histogram(quality[:1000], 40, (0, 100))[0])
    assert ax.lines[0].get_xdata()[0] == median
    assert ax.texts[0].get_text() == f'median {median}'
    assert ax.get_title() == 'Quality of the training pictures\n1,000 known, 234 unknown'
    assert ax.get_xlim() == (0, 100)
    assert_tidy(fig)


def test_quality_histogram_of_few_and_none(assert_tidy):
    fig = quality_histogram_figure([50, 60])
    assert fig.axes[0].get_title().endswith('\n2 known')
    assert all(t == int(t) for t in fig.axes[0].get_yticks())
    fig = quality_histogram_figure(pd.Series([None, float('nan')], dtype=float), title='Quality')
    assert fig.axes[0].get_title() == 'Quality\n0 known, 2 unknown'
    assert not fig.axes[0].patches
    assert_tidy(fig)


def test_quality_agreement(assert_tidy):
    true = np.linspace(0, 100, 50)
    fig = quality_agreement_figure(true**2/100, true, .987)
    ax, = fig.axes
    np.testing.assert_allclose(ax.collections[0].get_offsets(), np.c_[true, true**2/100])
    assert (ax.get_xlabel(), ax.get_ylabel()) == ('true quality', 'computed quality')
    assert ax.get_title() == 'rank correlation 0.99'
    assert_tidy(fig)


@pytest.mark.parametrize('bins', [3, 8])
def test_map_by_quality(bins, assert_tidy):
    edges = np.linspace(0, 100, bins + 1)
    groups = pd.DataFrame({'n_queries': 12345, 'quality_from': edges[:-1], 'quality_to': edges[1:],
                           'mAP': np.linspace(.3, .9, bins)}, index=[f'{i + 1} of {bins}' for i in range(bins)])
    groups.loc['unknown'] = [2, np.nan, np.nan, np.nan]
    groups = groups.astype({'n_queries': int})
    fig = map_by_quality_figure({'baseline': groups, 'distilled': groups.assign(mAP=groups.mAP/2)})
    heights = [p.get_height() for p in fig.axes[0].patches]
    np.testing.assert_allclose(heights, [*groups.mAP, *groups.mAP/2])
    assert fig.axes[0].get_xticklabels()[0].get_text() == f'1 of {bins}\nquality 0 to {edges[1]:.0f}\n12,345 queries'
    assert fig.axes[0].texts[bins].get_text() == '?'
    assert [t.get_text() for t in fig.legends[0].get_texts()] == ['baseline', 'distilled']
    assert_tidy(fig)


def test_a_title_is_no_wider_than_its_figure(assert_tidy):
    groups = pd.DataFrame({'n_pairs': 400, 'quality_from': [0., 40.], 'quality_to': [40., 100.], 'accuracy': [.5, .7],
                           'accuracy low': [.4, .6], 'accuracy high': [.6, .8]}, index=['worst', 'best'])
    title = 'accuracy of pairs by true quality of the worse picture'
    fig = map_by_quality_figure(groups, 'accuracy', title)
    assert fig.axes[0].get_title() == f'{title}; lines: 95 % intervals'.replace('the worse', 'the\nworse')
    assert_tidy(fig)
    fig = map_by_quality_figure(groups, 'accuracy', 'accuracy by quality') # Wide enough
    assert fig.axes[0].get_title() == 'accuracy by quality; lines: 95 % intervals'


@pytest.mark.parametrize('n', [1, 4, 7])
def test_numbers_of_many_arms_do_not_meet(n, assert_tidy):
    "They stand at about one height, and a bar is narrower the more there are"
    groups = {f'arm {i}': pd.DataFrame({'mAP': [.611, .62, .633 + .001*i], 'n_queries': 33, 'quality_from': 0.,
                                        'quality_to': 100.}, index=['worst', 'middle', 'best']) for i in range(n)}
    assert_tidy(map_by_quality_figure(groups))
