"What is shown beside what, how it is named and framed, and that no text overlaps or is cut off"
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from qsd_fastai.plots.pictures import hardest_figure, hardest_pairs_figure, ranked_lists_figure, sheet_figure

rng = np.random.default_rng(0)


def picture(height=64, width=32): return rng.integers(0, 255, (height, width, 3), dtype=np.uint8)


def titles(fig): return [o.get_text() for o in fig.axes[0].texts]


def arrays(fig): return [o.get_array() for o in fig.axes[0].images]


def frames(fig): return [to_hex(o.get_edgecolor()) for o in fig.axes[0].patches]


def extents(fig): return [o.get_extent() for o in fig.axes[0].images]


@pytest.mark.parametrize('shape', [(64, 32), (48, 48)])
def test_picture_sheet(shape, assert_tidy):
    pictures = [[picture(*shape) for _ in range(n)] for n in (3, 2)]
    names = ['p1', 'an_identity_with_a_name_that_goes_on_and_on_and_on']
    fig = sheet_figure(pictures, [[12.4, np.nan, 100], [0, None]], names)
    short = 'an_identity_…' if shape == (64, 32) else 'an_identity_with_a_name_t…'
    assert titles(fig) == ['p1\nquality 12', 'quality ?', 'quality 100', f'{short}\nquality 0', 'quality ?']
    assert all(np.array_equal(a, b) for a,b in zip(arrays(fig), [o for row in pictures for o in row], strict=True))
    lefts,rights,lows,tops = zip(*extents(fig))
    assert np.allclose(np.subtract(rights, lefts)/np.subtract(lows, tops), shape[1]/shape[0])
    assert lefts[:2] == lefts[3:]                            # one under the other
    assert all(a < b for a,b in zip(rights[:2], lefts[1:3])) # side by side
    assert max(lows[:3]) < min(tops[3:])
    assert not fig.axes[0].axison
    assert not frames(fig)
    assert_tidy(fig)
    assert titles(sheet_figure([[picture()]])) == ['']


def test_files_and_images_of_every_kind(tmp_path):
    grey = Image.fromarray(picture()[..., 0])
    grey.save(tmp_path/'grey.png')
    Image.fromarray(picture(1200, 900)).save(tmp_path/'large.jpg')
    fig = sheet_figure([[tmp_path/'grey.png', str(tmp_path/'large.jpg'), grey, picture()[..., 0]]])
    shapes = [o.shape for o in arrays(fig)]
    assert shapes[0] == shapes[2] == shapes[3] == (64, 32, 3)
    assert max(shapes[1]) <= 400  # a large file is not drawn in full
    assert shapes[1][0]/shapes[1][1] == pytest.approx(4/3, abs=.01)
    left,right,low,top = extents(fig)[1]  # as wide as the others, so less high
    assert (low - top)/(right - left) == pytest.approx(4/3, abs=.01)


def test_ranked_lists(assert_tidy):
    queries,galleries = [picture(), picture()], [[picture() for _ in range(4)], [picture()]]
    correct = [[False, True, True, False], [True]]
    fig = ranked_lists_figure(queries, galleries, correct, ['query, AP 0.11\nquality 3', 'query, AP 1.00\nquality ?'])
    assert titles(fig) == ['query, AP 0.11\nquality 3', '1 wrong', '2 right', '3 right', '4 wrong',
                           'query, AP 1.00\nquality ?', '1 right']
    assert np.array_equal(arrays(fig)[2], galleries[0][1])
    red,green = frames(fig)[:2]
    assert frames(fig) == [red, green, green, red, green]
    assert [to_hex(o.get_color()) for o in fig.axes[0].texts[:3]] == ['#000000', red, green]
    boxes = extents(fig)
    for patch,box in zip(fig.axes[0].patches, boxes[1:5] + boxes[6:]): assert patch.get_xy() == (box[0], box[3])
    assert int(green[3:5], 16) > int(green[1:3], 16)
    assert int(red[1:3], 16) > int(red[3:5], 16)
    assert_tidy(fig)
    assert titles(ranked_lists_figure(queries[:1], galleries[:1], correct[:1]))[0] == 'query'


def test_hardest_figure(assert_tidy):
    files = [picture() for _ in range(6)]
    hard = pd.DataFrame({'row': [4, 5, 1], 'quality': [7.6, np.nan, 50], 'ap': [.014, .5, .1],
                         'first_rank': [2, 1, 37], 'answer': [1, 3, 0],
                         'gallery': [[0, 1, 2], [3], [2, 3]], 'correct': [[False, True, False], [True], [False]*2]})
    fig = hardest_figure(hard, files)
    assert titles(fig) == ['query, AP 0.01\nquality 8', '1 wrong', '2 right', '3 wrong',
                           'query, AP 0.50\nquality ?', '1 right',
                           'query, AP 0.10\nquality 50', '1 wrong', '2 wrong', '37 right']
    assert np.array_equal(arrays(fig)[-1], files[0])
    assert np.array_equal(arrays(fig)[0], files[4])
    assert np.array_equal(arrays(fig)[3], files[2])
    assert not fig.texts
    assert_tidy(fig)
    fig = hardest_figure(hard, files, 1234)
    assert [o.get_text() for o in fig.texts] == ['the hardest 3 of 1,234 queries']
    assert_tidy(fig)


def test_nothing_to_show_is_said():
    no_queries = pd.DataFrame(columns=['row', 'gallery', 'correct'])
    for fig in (sheet_figure([]), sheet_figure([[]]), ranked_lists_figure([], [], []), hardest_figure(no_queries, [])):
        assert [t.get_text() for t in fig.texts] == ['nothing to show']


@pytest.mark.parametrize('shape', [(64, 32), (48, 48)])
def test_hardest_pairs(shape, assert_tidy):
    files = [picture(*shape) for _ in range(8)]
    hard = pd.DataFrame({'row1': [0, 1, 2, 3, 4, 5, 6], 'row2': [7, 6, 5, 4, 3, 2, 1], 'same': [True]*5 + [False]*2,
                         'score': [-.412, 0, .1, .2, .3, 1, .9], 'correct': [False]*4 + [True, False, True],
                         'quality1': [100.]*6 + [np.nan], 'quality2': np.arange(7.)})
    fig = hardest_pairs_figure(hard, files)
    rows = hard[['row1', 'row2']].to_numpy().ravel()
    assert all(np.array_equal(a, files[r]) for a,r in zip(arrays(fig), rows, strict=True))
    said = titles(fig)
    assert said[:2] == ['one person, -0.41\nquality 100', 'quality 0']
    assert said[12:] == ['two people, 0.90\nquality ?', 'quality 6']
    assert frames(fig)[::2] == ['#c0392b']*4 + ['#1b7f4b', '#c0392b', '#1b7f4b']
    assert frames(fig)[::2] == frames(fig)[1::2]
    # four pairs a row, a pair nearer than two pairs, one left over, and the other kind in a row of its own
    lefts,rights,_,tops = zip(*extents(fig))
    assert [tops.count(o) for o in dict.fromkeys(tops)] == [8, 2, 4]
    assert lefts[1] - rights[0] < lefts[2] - rights[1]
    assert_tidy(fig)
    said = hardest_pairs_figure(hard, files, of=[True]*1000 + [False]*30).texts[0].get_text()
    assert said == 'the hardest 5 of 1,000 pairs of one person, 2 of 30 of two people'
    assert 'nothing' in hardest_pairs_figure(hard[:0], files).texts[0].get_text()
    unknown = hardest_pairs_figure(hard.assign(quality1=np.nan, quality2=np.nan), files)
    assert not any('quality' in o for o in titles(unknown)) # As of copies, of which nobody has labels
