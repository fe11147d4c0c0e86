"Sets of several resolutions: which pictures are down-sampled, by how much, and that the others are left alone"
import json

import degrade
import folder as folder_table
import numpy as np
import pandas as pd
import pytest
from common.mlr import low_rows
from cuhk03 import cuhk03_tables
from dukemtmc import dukemtmc_table
from made_up import draw
from market1501 import market1501_table
from PIL import Image
from viper import viper_tables

from qsd_fastai.data.pictures import open_picture
from qsd_fastai.data.table import read_table, write_table


@pytest.fixture
def table(tmp_path):
    "Twelve people before two cameras, half of them to be trained on"
    rng,rows = np.random.default_rng(0),[]
    (tmp_path/'data'/'p').mkdir(parents=True)
    for i in range(12):
        for camera in ('a', 'b'):
            for k in range(2):
                path = f'p/{i:02}_{camera}_{k}.png'
                Image.fromarray(rng.integers(0, 255, (48, 24, 3), np.uint8)).save(tmp_path/'data'/path)
                split = 'train' if i < 6 else 'query' if camera == 'a' and k == 0 else 'gallery'
                rows.append((path, f'{i:02}', camera, split))
    made = pd.DataFrame(rows, columns=['path', 'identity', 'camera', 'split'])
    made.attrs['root'] = str(tmp_path/'data')
    return write_table(made, tmp_path/'data'/'images.csv')


def run(table, out, **kwargs):
    degrade.main(f'{table.attrs["root"]}/images.csv', str(out), protocol='mlr', **kwargs)
    return read_table(out/'images.csv')


def test_pictures_of_one_camera(table, tmp_path, capsys):
    made = run(table, tmp_path/'mlr')
    low = made['degradation'] != 'none'
    assert (low == (made['camera'] == 'a')).all()
    assert 'Down-sampled: pictures of camera a, 24 of 48' in capsys.readouterr().out
    assert made['original'].tolist() == table['path'].tolist()
    assert set(made.loc[low, 'degradation']) == {'down 2', 'down 3', 'down 4'}
    for row in made.itertuples():
        rate = int(row.degradation.split()[1]) if row.degradation != 'none' else 1
        with open_picture(tmp_path/'mlr'/row.path) as img: assert img.size == (24//rate, 48//rate)
        assert row.true_quality == round(100/rate, 2)
    # what is not down-sampled is not written
    assert len(list((tmp_path/'mlr'/'images').rglob('*.png'))) == 24
    assert made.loc[~low, 'path'].str.startswith('../data/p/').all()
    record = json.loads((tmp_path/'mlr'/'images.json').read_text())
    assert record['low_resolution'] == 'pictures of camera a'
    assert record['degraded']['protocol'] == 'mlr'
    run(table, tmp_path/'mlr')
    assert 'nothing to do' in capsys.readouterr().out


def test_a_picture_is_down_sampled_as_pil_does(table, tmp_path):
    made = run(table, tmp_path/'mlr', low='b')
    row = made[made['camera'] == 'b'].iloc[3]
    rate = int(row['degradation'].split()[1])
    with Image.open(tmp_path/'data'/row['original']) as img:
        wanted = np.asarray(img.convert('RGB').resize((round(24/rate), round(48/rate)), Image.BICUBIC))
    np.testing.assert_array_equal(np.asarray(open_picture(tmp_path/'mlr'/row['path'])), wanted)


def test_queries_and_of_each_training_identity_one_camera(table, tmp_path):
    made = run(table, tmp_path/'mlr', low='queries')
    low,split = made['degradation'] != 'none',made['split']
    assert low[split == 'query'].all()
    assert not low[split == 'gallery'].any()
    by_camera = low[split == 'train'].groupby([made['identity'], made['camera']]).agg(['all', 'any']).reset_index()
    assert (by_camera['all'] == by_camera['any']).all()
    assert (by_camera.groupby('identity')['any'].sum() == 1).all()
    assert set(by_camera.loc[by_camera['any'], 'camera']) == {'a', 'b'}
    # more than two cameras: queries unless told
    more = table.assign(camera=[f'{i % 3}' for i in range(48)])
    assert low_rows(more)[1].startswith('queries')


def test_draws_depend_on_path_and_seed(table, tmp_path):
    one,two = run(table, tmp_path/'one'),run(table, tmp_path/'two', seed=1)
    assert one['degradation'].tolist() != two['degradation'].tolist()
    fewer = table.iloc[8:]
    fewer.attrs = table.attrs
    write_table(fewer, tmp_path/'data'/'fewer.csv')
    degrade.main(str(tmp_path/'data'/'fewer.csv'), str(tmp_path/'three'), protocol='mlr')
    assert read_table(tmp_path/'three'/'images.csv')['degradation'].tolist() == one['degradation'].tolist()[8:]


def test_lists_come_along(table, tmp_path):
    held = table[table['split'] == 'gallery']['path'].tolist()
    lines = 'path1,path2,same,fold', f'{held[0]},{held[1]},1,0', f'{held[0]},{held[3]},0,0'
    (tmp_path/'data'/'pairs.csv').write_text('\n'.join(lines))
    made = run(table, tmp_path/'mlr')
    pairs = pd.read_csv(tmp_path/'mlr'/'pairs.csv')
    at = made.set_index('original')['path']
    assert pairs['path1'].tolist() == [at[held[0]]]*2
    assert pairs['path2'].tolist() == [at[held[1]], at[held[3]]]


@pytest.mark.parametrize('low, said', [('c', "--low is 'c'.*queries, or one of the cameras a, b"),
                                       ('a', 'some must stay')])
def test_what_cannot_be_down_sampled(table, tmp_path, low, said):
    if low == 'a':
        table = write_table(table.assign(camera='a'), tmp_path/'data'/'images.csv')
    with pytest.raises(SystemExit, match=said): run(table, tmp_path/'mlr', low=low)
    with pytest.raises(SystemExit, match='--protocol'):
        degrade.main(str(tmp_path/'data'/'images.csv'), str(tmp_path/'x'), protocol='lrm')


@pytest.mark.parametrize('options, said', [({'low': 'queries'}, '--low.*--protocol mlr'),
                                           ({'protocol': 'mlr', 'copies': 3}, '--copies is 3')])
def test_what_has_no_meaning_is_refused(table, tmp_path, options, said):
    with pytest.raises(SystemExit, match=said): degrade.main(str(table), str(tmp_path/'out'), **options)
    assert not (tmp_path/'out').exists()


def test_of_a_folder_of_people(tmp_path):
    rng = np.random.default_rng(0)
    for i in range(4):
        (tmp_path/'p'/f'{i}').mkdir(parents=True)
        for k in range(3):
            Image.fromarray(rng.integers(0, 255, (20, 10, 3), np.uint8)).save(tmp_path/'p'/f'{i}'/f'{k}.png')
    folder_table.main(str(tmp_path/'p'))
    made = run(read_table(tmp_path/'p'/'images.csv'), tmp_path/'mlr', low='queries')
    assert (made.loc[made['split'] == 'train', 'degradation'] != 'none').all()  # one camera, unknown, is all there is

# the sets of the field, in their own layouts

def market(root):
    names = [f'{part}/{who}_c{c}s1_00000{c}_00.jpg' for part,people in (('bounding_box_train', ('0002', '0007')),
             ('bounding_box_test', ('0001',))) for who in people for c in (1, 2, 3)]
    draw(root, *names, 'query/0001_c4s1_000001_00.jpg')
    return market1501_table(root)


def duke(root):
    draw(root, *[f'{part}/{who}_c{c}_f1.jpg' for part,people in (('bounding_box_train', ('0001', '0003')),
                 ('bounding_box_test', ('0005',))) for who in people for c in (1, 2, 8)], 'query/0005_c5_f2.jpg')
    return dukemtmc_table(root)


def cuhk(root):
    draw(root, *[f'detected/{part}/{who}_c{c}_{c}.png' for part,who in (('bounding_box_train', '0001'),
                 ('bounding_box_test', '0002')) for c in (1, 2)], 'detected/query/0002_c1_9.png')
    return cuhk03_tables(root, numbers=[0])[0]


@pytest.mark.parametrize('make', [market, duke])
def test_of_many_cameras_queries_and_one_of_each_training_identity(tmp_path, make):
    table = make(tmp_path)
    low,what = low_rows(table)
    split = table['split']
    assert what.startswith('queries')
    assert low[split == 'query'].all()
    assert not low[split == 'gallery'].any()
    assert table[low & (split == 'train')].groupby('identity').size().to_dict() == dict.fromkeys(
        table.loc[split == 'train', 'identity'], 1)
    # all of camera 1, as others do it
    assert set(table['camera'][low_rows(table, '1')[0]]) == {'1'}


def test_cuhk03_by_the_camera_that_asks(tmp_path):
    table = cuhk(tmp_path)
    low,what = low_rows(table)
    assert what == 'pictures of camera 1'
    assert set(table['path'][low]) == {'detected/bounding_box_train/0001_c1_1.png', 'detected/query/0002_c1_9.png',
                                       'detected/bounding_box_test/0002_c1_1.png'}


def test_where_both_cameras_ask_no_query_stays_good(tmp_path):
    "As in CUHK03's new protocol: good queries would be looked for among bad pictures"
    table = cuhk(tmp_path)
    more = table[table['path'].str.contains('query')].assign(path='detected/query/0002_c2_9.png', camera='2')
    table = pd.concat([table, more], ignore_index=True)
    low,what = low_rows(table)
    assert what.startswith('queries')
    assert low[table['split'] == 'query'].all()
    assert not low[table['split'] == 'gallery'].any()


@pytest.mark.parametrize('number, asks', [(0, 'a'), (1, 'b')])
def test_viper_by_the_camera_that_asks(tmp_path, number, asks):
    draw(tmp_path, *[f'cam_{c}/{i:03d}_{45 if c == "a" else 90}.bmp' for c in 'ab' for i in range(4)])
    table = viper_tables(tmp_path, [number])[0]
    low,what = low_rows(table)
    assert what == f'pictures of camera {asks}'
    assert low[table['split'] == 'query'].all()
    assert not low[table['split'] == 'gallery'].any()
    assert low[table['split'] == 'train'].sum() == 2
