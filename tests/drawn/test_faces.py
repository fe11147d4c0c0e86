"Drawn faces: the set, its pairs, and what lasts from picture to picture"
import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.drawn import sets as generation
from qsd_fastai.drawn.face import draw_face
from qsd_fastai.drawn.face_traits import BEARD, GLASSES, STYLE, face_look_alike, random_face_traits
from qsd_fastai.drawn.face_view import FaceView, random_view
from qsd_fastai.drawn.faces import _identity, drawn_pairs, generate_faces
from qsd_fastai.drawn.solids import Pose, Surface, soft_max

SMALL = {'n_train': 3, 'n_test': 5, 'n_imgs': 3, 'n_test_imgs': 4, 'size': (48, 48), 'progress': False}
STRAIGHT = FaceView(0, 0, 0, 1., (0., 0.), (0., 0., 1.), .5, (1., 1., 1.), 0., 0., 1., 0., (0., 0.), True, (.5, .5, .5))


def drawn(traits, view=STRAIGHT, size=(112, 112), seed=0):
    grain = np.random.default_rng(seed).random(size, np.float32)
    return draw_face(traits, view, size, np.full((3, *size), .5, np.float32), grain)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp('faces')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return folder, generate_faces(folder, **SMALL)


def test_table_pairs_and_pictures(faces):
    folder,table = faces
    assert list(table.columns) == ['path', 'identity', 'camera', 'split', 'quality', 'true_quality', 'degradation']
    assert table.groupby('split').size().to_dict() == {'train': 9, 'query': 10, 'gallery': 10}
    assert (table.camera == '').all()
    assert set(table[table.split == 'train'].identity).isdisjoint(table[table.split != 'train'].identity)
    assert table.quality.isna().all()
    assert table.true_quality.between(0, 100).all()
    assert ((table.degradation == 'none') == (table.true_quality == 100)).all()
    for path in table.path:
        with Image.open(folder/path) as img:
            assert img.size == (48, 48)
            assert img.mode == 'RGB'
    assert sorted(p.name for p in folder.iterdir()) == ['images', 'images.csv', 'images.json', 'pairs.csv']
    pd.testing.assert_frame_equal(read_pairs(folder/'pairs.csv', table), drawn_pairs(table))


@pytest.mark.parametrize(('people', 'pictures', 'each', 'n_folds', 'folds', 'genuine'), [
    (5, 4, 12, 10, 2, 5*6), (24, 5, 4, 10, 10, 24*4), (2, 2, 12, 10, 1, 2), (30, 3, 2, 3, 3, 60)])
def test_pairs_are_balanced_and_their_folds_share_nobody(people, pictures, each, n_folds, folds, genuine):
    rows = [(f'{i}/{k}', f'p{i}', 'gallery') for i in range(people) for k in range(pictures)]
    rows += [('x', 'p999', 'query'), ('y', 'q', 'train')]
    table = pd.DataFrame(rows, columns=['path', 'identity', 'split'])
    pairs,who = drawn_pairs(table, each, n_folds, 3), table.set_index('path').identity
    first,second = pairs.path1.map(who), pairs.path2.map(who)
    assert pairs.same.sum() == (~pairs.same).sum() == genuine
    assert pairs.fold.nunique() == folds
    assert ((first == second) == pairs.same).all()
    assert (pairs.groupby('fold').same.mean() == .5).all()
    assert len({frozenset(o) for o in zip(pairs.path1, pairs.path2)}) == len(pairs)
    assert pd.DataFrame({'who': [*first, *second], 'fold': [*pairs.fold]*2}).groupby('who').fold.nunique().max() == 1
    pd.testing.assert_frame_equal(pairs, drawn_pairs(table.sample(frac=1, random_state=0), each, n_folds, 3))
    assert not pairs.equals(drawn_pairs(table, each, n_folds, 4))


def test_pairs_want_two_people():
    table = pd.DataFrame({'path': ['a', 'b', 'c'], 'identity': ['p', 'p', 'q'], 'split': 'query'})
    with pytest.raises(ValueError, match='two held-out identities'): drawn_pairs(table)


def test_same_seed_same_bytes_whatever_workers_and_number(faces, tmp_path):
    folder,table = faces
    again = generate_faces(tmp_path/'again', workers=2, **SMALL)
    for name in ('images.csv', 'pairs.csv', *again.path):
        assert (folder/name).read_bytes() == (tmp_path/'again'/name).read_bytes()
    fewer = generate_faces(tmp_path/'fewer', **{**SMALL, 'n_train': 2, 'n_test': 0, 'n_imgs': 2})
    for path in fewer.path: assert (folder/path).read_bytes() == (tmp_path/'fewer'/path).read_bytes()
    assert not (tmp_path/'fewer'/'pairs.csv').exists()
    other = generate_faces(tmp_path/'other', **{**SMALL, 'seed': 1, 'n_test': 0})
    assert (other.true_quality.to_numpy() != table.true_quality.to_numpy()[:len(other)]).any()


def test_second_call_does_nothing_and_other_options_are_refused(faces, monkeypatch):
    folder,table = faces
    monkeypatch.setattr(generation, 'parallel', None)
    pd.testing.assert_frame_equal(generate_faces(folder, **SMALL), table)
    with pytest.raises(ValueError, match=r'pose=1\.0, not 0\.5.*another folder'):
        generate_faces(folder, **{**SMALL, 'pose': .5})


@pytest.mark.parametrize(('name', 'value'), [('n_train', 0), ('n_test', 1), ('n_imgs', 1), ('n_test_imgs', 3),
                                             ('size', (16, 16)), ('size', (112, 64)), ('look_alikes', -.1), ('pose', 3),
                                             ('jitter', -1), ('n_folds', 0), ('seed', -1), ('workers', -1)])
def test_refusals_name_the_argument(tmp_path, name, value):
    with pytest.raises(ValueError, match=name): generate_faces(tmp_path, **{**SMALL, name: value})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('style', sorted(set(STYLE)))
def test_every_style_is_drawn_from_every_side(style):
    rng = np.random.default_rng(1)
    for k,(beard, glasses) in enumerate(zip(sorted(set(BEARD)), [*sorted(set(GLASSES)), 'none', 'round'])):
        traits = replace(random_face_traits(rng), style=style, beard=beard, glasses=glasses)
        view = replace(random_view(rng, 2.), yaw=(-43., -20., 0., 20., 43.)[k % 5])
        out = drawn(traits, view, (56, 64))
        assert out.shape == (3, 56, 64)
        assert out.dtype == np.float32
        assert np.isfinite(out).all()
        assert out.min() >= 0
        assert (out != .5).any(0).mean() > .4


def test_features_are_where_the_traits_say():
    rng = np.random.default_rng(0)
    traits = replace(random_face_traits(rng), style='bald', beard='none', glasses='none', marks=(), freckles=0,
                     skin=(232, 188, 158), iris=(30, 30, 30), eye_open=.12, eye_gap=.42, eye_tilt=0.)
    out,unit = drawn(traits), .33*112
    # the pupils are dark, at the ends of the eye gap, and the same distance from the middle
    row = round(112*.575 - .42*unit)
    dark = np.flatnonzero(out[:, row - 2:row + 2].max((0, 1)) < .3)
    assert dark.min() == pytest.approx(56 - .42*unit, abs=3.5)
    assert dark.max() == pytest.approx(56 + .42*unit, abs=3.5)
    # seen straight on under a light from the front a face is nearly its own mirror image, not under one from the side
    def lopsided(o): return np.abs(o - o[:, :, ::-1]).mean()
    aside = drawn(traits, replace(STRAIGHT, light=(.8, 0., .6)))
    assert lopsided(out) < .012
    assert lopsided(aside) > 4*lopsided(out)
    assert aside[:, 60:80, 70:85].mean() > aside[:, 60:80, 27:42].mean() + .1


def test_identity_lasts_and_look_alikes_share():
    rng = np.random.default_rng(0)
    traits = random_face_traits(rng)
    def views(who):
        seen = [replace(STRAIGHT, smile=s, ambient=.4 + .4*s, glasses=False) for s in (0., .5)]
        return [drawn(who, o, (56, 56)) for o in seen]
    a,b = views(traits)
    others = [random_face_traits(rng) for _ in range(12)]
    assert np.abs(a - b).mean() < .7*min(np.abs(a - views(o)[1]).mean() for o in others)
    for _ in range(10):
        other = face_look_alike(traits, rng)
        assert 6 <= sum(getattr(other, n) != v for n,v in vars(traits).items()) <= 14
    assert len({_identity(0, i, 0, .35) for i in range(60)}) == 60
    pd.testing.assert_series_equal(pd.Series(vars(_identity(0, 9, 0, .9))), pd.Series(vars(_identity(0, 9, 0, .9))))


@pytest.mark.parametrize('angles', [(0, 0, 0), (35, 10, 5), (-20, -15, 30)])
def test_ellipsoid_against_its_equation(angles):
    "Points of the depth map, turned back into head coordinates, lie on the ellipsoid; projection is the inverse"
    pose = Pose((80, 90), 30, (45, 40), *angles)
    rows = np.array(pose.rows)
    np.testing.assert_allclose(rows@rows.T, np.eye(3), atol=1e-12)
    centre,radii = (.2, -.1, .3), (.9, .5, .7)
    where,depth,inside = pose.ellipsoid(centre, radii)
    points = pose.head_coordinates(depth, where)
    value = sum(((p - c)/r)**2 for p,c,r in zip(points, centre, radii))
    np.testing.assert_allclose(value[inside > .02], 1, atol=2e-4)
    np.testing.assert_allclose(sum(a*b for a,b in zip(pose.rows[0], centre)), pose.project(*centre)[0])
    # nothing of it outside the outline: the window has all of its pixels
    surface = Surface(pose).add(centre, radii)
    assert surface.cover().sum() == pytest.approx((inside > 0).sum(), rel=.05)
    assert (surface.cover()[[0, -1]] == 0).all()
    window = (slice(10, 30), slice(20, 50))
    X,Y = pose.on_plane(.9, window)
    x = [pose.project(float(X[3, 7]), float(Y[3, 7]), .9)[k]*30 + (pose.left, pose.top)[k] for k in (0, 1)]
    assert x == pytest.approx([20 + 7.5, 10 + 3.5], abs=1e-3)


def test_soft_max():
    a,b = np.array([0., 1., .1]), np.array([1., 0., .1])
    np.testing.assert_allclose(soft_max(a, b, .2), [1, 1, .15])
