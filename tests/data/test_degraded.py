"Degraded copies of a set: as stated, whatever else is in the table, and with its pairs"
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qsd_fastai.data import degraded
from qsd_fastai.data.degradations import DEGRADATIONS, degrade, shrink
from qsd_fastai.data.degraded import FACE_DEGRADATIONS, degraded_copies
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import read_table


def noise(height, width, mode='RGB'):
    return Image.fromarray(np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)).convert(mode)


@pytest.mark.parametrize(('height', 'width', 'side', 'small'), [
    (112, 112, 14, (14, 14)), (112, 96, 24, (24, 28)), (40, 20, 1, (1, 2))])
def test_shrunk_to_the_stated_side(height, width, side, small):
    img = noise(height, width)
    wanted = img.resize(small, Image.BOX).resize((width, height), Image.BICUBIC)
    assert np.array_equal(shrink(img, side), wanted)
    assert shrink(img, side).size == img.size


def test_shrink_averages_and_leaves_what_is_small():
    img = noise(28, 28, 'L')
    blocks = np.asarray(img, float).reshape(14, 2, 14, 2).mean((1, 3))
    small = np.asarray(img.resize((14, 14), Image.BOX), float)
    assert np.abs(small - blocks).max() <= 1  # rounded after the rows and after the columns
    assert np.array_equal(shrink(img, 28), img)
    assert np.array_equal(shrink(img, 50), img)
    assert shrink(img, 14).mode == 'L'
    for side in (0, -3, float('nan')):
        with pytest.raises(ValueError, match='side='): shrink(img, side)


@pytest.fixture
def small_set(make_table): return make_table([2, 2], n_held=3, size=(24, 20))


def test_copies_of_the_held_out_pictures(small_set, tmp_path):
    held = small_set[small_set.split != 'train']
    pairs = pd.DataFrame({'path1': ['h0_0.png', 'h1_0.png'], 'path2': ['h0_1.png', 'h2_2.png'], 'same': [1, 0],
                          'fold': [0, 1]})
    for kind,amount in (('shrink', 8), ('noise', .5)):
        folder = tmp_path/kind
        out = degraded_copies(small_set, folder, kind, amount, pairs, progress=False)
        assert out.original.tolist() == held.path.tolist()
        assert out.identity.tolist() == held.identity.tolist()
        assert out.split.tolist() == held.split.tolist()
        assert out.quality.isna().all()
        assert set(out.degradation) == {f'{kind} {amount:g}'}
        pd.testing.assert_frame_equal(read_table(folder/'images.csv'), out)
        to = dict(zip(out.original, out.path))
        copied = read_pairs(folder/'pairs.csv', out)
        assert copied.path1.tolist() == [to[p] for p in pairs.path1]
        assert copied.same.tolist() == [True, False]
        assert copied.fold.tolist() == [0, 1]
        source = Image.open(f'{small_set.attrs["root"]}/h1_2.png').convert('RGB')
        got = np.asarray(Image.open(folder/to['h1_2.png']))
        if kind == 'shrink': assert np.array_equal(got, shrink(source, 8))
        else: assert np.abs(got - np.asarray(source, float)).mean() > 15


def test_the_same_whatever_else_is_there_and_not_made_twice(small_set, tmp_path, monkeypatch):
    first = degraded_copies(small_set, tmp_path/'all', 'noise', .5, progress=False)
    few = degraded_copies(small_set[small_set.identity == 'h1'], tmp_path/'few', 'noise', .5, workers=2, progress=False)
    copy = first.set_index('original').path
    for o in few.itertuples():
        assert (tmp_path/'few'/o.path).read_bytes() == (tmp_path/'all'/copy[o.original]).read_bytes()
    assert len({(tmp_path/'few'/p).read_bytes() for p in few.path}) == 3
    monkeypatch.setattr(degraded, 'parallel', None)
    pd.testing.assert_frame_equal(degraded_copies(small_set, tmp_path/'all', 'noise', .5), first)
    with pytest.raises(ValueError, match=r'amount=0\.5, not 0\.6'):
        degraded_copies(small_set, tmp_path/'all', 'noise', .6)


def test_refusals(small_set, tmp_path):
    with pytest.raises(ValueError, match="kind='fog'"): degraded_copies(small_set, tmp_path, 'fog', .5)
    pairs = pd.DataFrame({'path1': ['h0_0.png'], 'path2': ['p00_0.png'], 'same': [0], 'fold': [0]})
    with pytest.raises(ValueError, match=r"1 pictures of the pairs .*'p00_0.png'"):
        degraded_copies(small_set, tmp_path, 'blur', .5, pairs, progress=False)
    assert not (tmp_path/'images.csv').exists()


def test_stated_severities_are_known_ones():
    img = noise(112, 112)
    for kind,amount in FACE_DEGRADATIONS:
        out = shrink(img, amount) if kind == 'shrink' else degrade(img, kind, amount, np.random.default_rng(0))
        assert kind in ('shrink', *DEGRADATIONS)
        assert out.size == img.size
        assert not np.array_equal(out, img)
