"Drawn people: the set, what it refuses, and what lasts from picture to picture and from camera to camera"
import warnings
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qsd_fastai.drawn import people as synthetic
from qsd_fastai.drawn import sets as generation
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.drawn.person import draw_person
from qsd_fastai.drawn.person_traits import look_alike, random_traits
from qsd_fastai.drawn.scenes import SCENES, scene_camera

SMALL = {'n_train': 4, 'n_test': 3, 'n_imgs': 4, 'n_test_imgs': 5, 'size': (64, 32), 'progress': False}


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('people')
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        return folder, generate_people(folder, **SMALL)


def test_table_and_pictures(people):
    folder,table = people
    assert list(table.columns) == ['path', 'identity', 'camera', 'split', 'quality', 'true_quality', 'degradation']
    assert len(table) == 4*4 + 3*5
    assert table.path.is_unique
    assert not table.path.str.contains(r'\\').any()
    assert table.quality.isna().all()
    assert table.quality.dtype == float
    assert table.true_quality.between(0, 100).all()
    assert ((table.degradation == 'none') == (table.true_quality == 100)).all()
    for path in table.path:
        with Image.open(folder/path) as img:
            assert img.size == (32, 64)
            assert img.mode == 'RGB'
            assert np.asarray(img).shape == (64, 32, 3)
    on_disk = pd.read_csv(folder/'images.csv')
    assert list(on_disk.columns) == list(table.columns)
    assert (on_disk.identity == table.identity).all()
    assert sorted(p.name for p in folder.iterdir()) == ['images', 'images.csv', 'images.json']
    assert len(list((folder/'images').iterdir())) == len(table)


@pytest.mark.parametrize(('n_imgs', 'n_cameras'), [(4, 2), (5, 3), (8, 6)])
def test_every_query_can_be_answered(n_imgs, n_cameras):
    rows,splits = synthetic._plan(5, 7, 6, n_imgs, n_cameras, 0)
    table = pd.DataFrame(rows, columns=['identity', 'camera', 'k']).assign(split=splits)
    train = table[table.split == 'train']
    assert set(train.identity).isdisjoint(table[table.split != 'train'].identity)
    assert (train.groupby('identity').camera.nunique() > 1).all()
    assert table.camera.between(0, n_cameras - 1).all()
    queries,gallery = table[table.split == 'query'], table[table.split == 'gallery']
    assert (queries.groupby('identity').camera.agg(['size', 'nunique']) == 2).all(axis=None)
    for q in queries.itertuples(): assert ((gallery.identity == q.identity) & (gallery.camera != q.camera)).any()


def test_second_call_returns_what_is_there(people):
    folder,table = people
    files = sorted((folder/'images').iterdir()) + [folder/'images.csv']
    times = [f.stat().st_mtime_ns for f in files]
    pd.testing.assert_frame_equal(generate_people(folder, **SMALL), table)
    assert [f.stat().st_mtime_ns for f in files] == times


def test_other_arguments_are_refused(people):
    folder,_ = people
    with pytest.raises(ValueError, match=r'n_train=4, not 5.*another folder'):
        generate_people(folder, **{**SMALL, 'n_train': 5})


def test_a_table_of_another_source_is_refused(tmp_path):
    (tmp_path/'images.csv').write_text('path,identity,camera,split,quality\na.jpg,1,c1,train,\n')
    with pytest.raises(ValueError, match='made differently'): generate_people(tmp_path, **SMALL)
    assert 'a.jpg' in (tmp_path/'images.csv').read_text()


def test_same_seed_same_bytes_whatever_the_workers(people, tmp_path):
    folder,table = people
    again = generate_people(tmp_path/'again', workers=2, **SMALL)
    assert (folder/'images.csv').read_bytes() == (tmp_path/'again'/'images.csv').read_bytes()
    for path in again.path: assert (folder/path).read_bytes() == (tmp_path/'again'/path).read_bytes()
    other = generate_people(tmp_path/'other', seed=1, **SMALL)
    assert (other.true_quality != table.true_quality).any()


def test_a_stopped_run_leaves_no_table_and_is_taken_up(people, tmp_path, monkeypatch):
    folder,table = people
    one,count = generation._one,[]
    def stop(row, **kwargs):
        count.append(row)
        if len(count) == 5: raise KeyboardInterrupt
        return one(row, **kwargs)
    monkeypatch.setattr(generation, '_one', stop)
    with pytest.raises(KeyboardInterrupt): generate_people(tmp_path, **SMALL)
    assert not (tmp_path/'images.csv').exists()
    monkeypatch.undo()
    pd.testing.assert_frame_equal(generate_people(tmp_path, **SMALL), table, check_flags=False)
    (tmp_path/table.path[3]).unlink()
    generate_people(tmp_path, **SMALL)
    assert (tmp_path/table.path[3]).read_bytes() == (folder/table.path[3]).read_bytes()


@pytest.mark.parametrize(('name', 'value'), [('n_train', 0), ('n_imgs', 1), ('n_test_imgs', 3), ('n_cameras', 1),
                                             ('size', (8, 8)), ('size', (32, 96)), ('look_alikes', 1.5), ('seed', -1),
                                             ('workers', -1)])
def test_refusals_name_the_argument(tmp_path, name, value):
    with pytest.raises(ValueError, match=name): generate_people(tmp_path, **{**SMALL, name: value})
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize('yaw', range(0, 360, 45))
def test_figure_fills_its_height_and_stands_on_its_feet(yaw):
    rng = np.random.default_rng(yaw)
    for _ in range(6):
        traits = random_traits(rng)
        colour,cover = draw_person(traits, (128, 64), (32, 120), 105, yaw, .2, rng.uniform(0, 6), rng)
        assert colour.shape == (128, 64, 3)
        assert cover.shape == (128, 64, 1)
        assert cover.max() == 1
        assert np.isfinite(colour).all()
        assert (colour[cover[..., 0] == 0] == 0).all()
        rows = np.flatnonzero(cover.max((1, 2)) > .5)
        assert abs(rows[-1] - 120) < 4
        assert 128 - rows[0] > .75*105*traits.height


def test_identity_is_visible_and_lasts():
    "The same traits give the same clothes; a look-alike differs in few of them"
    rng = np.random.default_rng(0)
    traits = random_traits(rng)
    a,b = (draw_person(traits, (128, 64), (32, 120), 105, 0, .1, 1., np.random.default_rng(k))[0] for k in (1, 2))
    chest = (slice(40, 55), slice(27, 37))
    assert np.abs(a[chest].mean((0, 1)) - b[chest].mean((0, 1))).max() < 12
    for _ in range(30):
        other = look_alike(traits, rng)
        changed = [n for n,v in vars(traits).items() if getattr(other, n) != v]
        assert 1 <= len(changed) <= 3


def test_cameras_differ_and_last():
    means = [np.asarray(scene_camera(0, i)['scene']).mean((0, 1)) for i in range(len(SCENES))]
    assert min(np.abs(a - b).max() for k,a in enumerate(means) for b in means[:k]) > 2
    assert scene_camera(0, 2) is scene_camera(0, 2)
    assert (np.asarray(scene_camera(1, 2)['scene']) != np.asarray(scene_camera(0, 2)['scene'])).any()


def test_most_identities_are_distinct_and_some_alike():
    traits = [synthetic._identity(0, i, 0, .35) for i in range(80)]
    assert len(set(traits)) == 80
    shared = [sum(getattr(a, n) == v for n,v in vars(b).items()) for a,b in pairwise(traits)]
    assert .2 < np.mean([s >= 12 for s in shared]) < .5
