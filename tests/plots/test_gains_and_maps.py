"Where a method helped, and what a network makes of pictures: what the figures say, and that nothing overlaps"
import numpy as np
import pandas as pd
import pytest

from qsd_fastai.plots.gains import gained_and_lost_figure, query_gains_figure
from qsd_fastai.plots.maps import embedding_map_figure, energy_figure

rng = np.random.default_rng(0)


def picture(shape): return rng.integers(0, 255, (*shape, 3), dtype=np.uint8)


def test_gain_of_each_query(assert_tidy):
    gains = {'with QSD': [.2, 0, -.1, .5], 'a very long name of an arm, with this and with that': [-.3, -.2, -.1, 0]}
    fig = query_gains_figure(gains, 'fine-tuned without QSD')
    ax, = fig.axes
    np.testing.assert_allclose(ax.lines[0].get_ydata(), [50, 20, 0, -10])
    said = [t.get_text() for t in fig.legends[0].get_texts()]
    assert said[0] == 'with QSD: +15.0, 2 better, 1 worse'
    assert said[1].endswith('-15.0, 0 better, 3 worse')
    assert ax.get_title() == 'Gain of each query over "fine-tuned without QSD"\n4 queries; the mean in the legend'
    assert ax.get_ylabel() == 'gain in AP, points'
    assert_tidy(fig)
    assert_tidy(query_gains_figure({'one': [.1]}, 'a'))


def test_pictures_that_gained_and_lost_most(assert_tidy):
    files = [picture((64, 32)) for _ in range(5)]
    gains = pd.DataFrame({'row': [4, 3, 2, 1], 'ap': [.5, .9, .1, .4], 'reference_ap': [.4, .2, .8, .4],
                          'quality': [10, np.nan, 30, 40]})
    fig = gained_and_lost_figure(gains, files, n=2)
    assert [o.get_text() for o in fig.axes[0].texts] == [
        'AP 0.20 → 0.90\nquality ?', 'AP 0.40 → 0.50\nquality 10', 'AP 0.80 → 0.10\nquality 30']
    for shown,row in zip(fig.axes[0].images, (3, 4, 2)): assert np.array_equal(shown.get_array(), files[row])
    assert [o.get_text() for o in fig.texts] == ['4 queries: 2 of 2 that gained, 1 of 1 that lost']
    assert gained_and_lost_figure(gains, files, n=1).texts[0].get_text().startswith('4 queries: 1 of 2 that gained')
    assert_tidy(fig)
    assert 'nothing' in gained_and_lost_figure(gains[3:], files).texts[0].get_text()


@pytest.mark.parametrize('quality', [np.r_[np.nan, np.linspace(0, 100, 29)], np.full(30, 50.), np.full(30, np.nan)])
def test_embedding_map(quality, assert_tidy):
    places,ids = rng.normal(size=(30, 2)),np.repeat(['a', 'b', 'c'], 10)
    fig = embedding_map_figure(places, quality, ids, 'Held-out pictures, t-SNE')
    ax = fig.axes[0]
    shown = np.concatenate([o.get_offsets() for o in ax.collections])
    assert len(shown) == 30
    unknown = int(np.isnan(quality).sum())
    more = f', {unknown} of unknown quality (rings)' if unknown else ''
    assert ax.get_title() == f'Held-out pictures, t-SNE\n30 pictures of 3 identities{more}'
    for line,place,who in zip(ax.lines, places, ids):
        np.testing.assert_allclose(line.get_xydata(), [place, places[ids == who].mean(0)])
    assert_tidy(fig)


@pytest.mark.parametrize('shape', [(64, 32), (48, 48)])
def test_energy_of_teacher_and_student(shape, assert_tidy):
    maps = [rng.random((8, 4)), rng.random((4, 2)), rng.random((2, 1))]
    rows = [(picture(shape), maps, 90., picture(shape), maps[::-1], 10.) for _ in range(3)]
    fig = energy_figure(rows, ['level1', 'level2', 'level3'])
    assert len(fig.axes) == 24
    first = fig.axes[:8]
    assert [o.get_title() for o in first] == ['teacher', 'level1', 'level2', 'level3', 'student', 'level1', 'level2',
                                              'level3']
    assert [first[0].get_xlabel(), first[4].get_xlabel()] == ['quality 90', 'quality 10']
    assert np.array_equal(first[4].images[0].get_array(), rows[0][3])
    np.testing.assert_allclose(first[5].images[0].get_array(), maps[2])
    assert_tidy(fig)
