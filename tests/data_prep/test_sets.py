"Smaller Re-ID sets in their real layouts, tiny: to the exact table, and what a wrong folder, name or line gets"
import json

import pytest
from common.layout import drawn
from ilids import ilids_tables
from made_up import draw, rows, twice
from market1501 import market1501_table
from partial import partial_table
from vehicleid import vehicleid_table
from viper import viper_tables

from qsd_fastai.data.table import check_table, describe_table, read_table, unanswerable


def test_drawn_is_the_same_everywhere():
    assert drawn(['a', 'b', 'c', 'd', 'e', 'f'], 0) == drawn({'f', 'e', 'd', 'c', 'b', 'a'}, 0) == list('ecfabd')
    assert drawn('abcdef', 1) != list('ecfabd')

# Market-1501's distractors

def market(root):
    draw(root, 'bounding_box_train/0002_c1s1_000451_03.jpg', 'bounding_box_train/0002_c2s1_000451_03.jpg',
         'query/0001_c1s1_001051_00.jpg', 'bounding_box_test/0001_c2s1_001051_00.jpg',
         'bounding_box_test/0000_c1s1_1.jpg', 'bounding_box_test/-1_c1s1_1.jpg')
    return root


def test_market_distractors(tmp_path, capsys):
    root = market(tmp_path/'Market-1501-v15.09.15')
    with pytest.raises(FileNotFoundError, match=r'--distractors: .*images is not there'):
        market1501_table(tmp_path, distractors=True)
    # whatever the names say, nobody asks for them: one of a query's identity, the background, junk, a plain number
    draw(root/'images', '0001_c2s1_000001_01.jpg', '0000_c6s3_000001_01.jpg', '-1_c1s1_000001_01.jpg', '00000017.jpg')
    without = market1501_table(tmp_path)
    assert len(without) == 5
    assert without.attrs['record']['distractors'] == 0
    assert without.attrs['record']['protocol'] == 'published'
    assert without.attrs['record']['published']['gallery'] == (15913, 751)
    table,at = market1501_table(tmp_path, distractors=True), 'Market-1501-v15.09.15/images/'
    assert rows(table)[:5] == rows(without)
    assert rows(table)[5:] == [(f'{at}00000017.jpg', 'distractor', '', 'gallery'),
                               (f'{at}0000_c6s3_000001_01.jpg', 'distractor', '6', 'gallery'),
                               (f'{at}0001_c2s1_000001_01.jpg', 'distractor', '2', 'gallery')]
    made = table.attrs['record']
    assert (made['distractors'], made['distractor_junk_left_out'], made['junk_left_out']) == (3, 1, 1)
    assert made['protocol'] == 'published, with distractors'
    assert made['published']['gallery'] == (15916, 752)
    assert not unanswerable(table).any()
    twice(market1501_table, capsys, tmp_path, distractors=True)
    assert read_table(tmp_path/'images.csv').attrs['record']['options']['distractors'] is True
    with pytest.raises(SystemExit, match='--force'): market1501_table.main(str(tmp_path))
    draw(root/'images', '0001_c7s1_000001_01.jpg')
    with pytest.raises(ValueError, match=r'0001_c7s1_000001_01\.jpg.*camera 1 to 6'):
        market1501_table(tmp_path, distractors=True)
    draw(tmp_path/'half', 'bounding_box_train/0002_c1s1_1.jpg', 'bounding_box_train/0003_c1s1_1.jpg', 'images/1.jpg')
    with pytest.raises(ValueError, match='train-only copy'): market1501_table(tmp_path/'half', distractors=True)

# Partial-REID, Partial-iLIDS, Occluded-REID

@pytest.mark.parametrize('variant, folders, names, source', [
    ('partial-reid', ('partial_body_images', 'whole_body_images'), ('001_001.jpg', '060_005.jpg'), 'Partial-REID'),
    ('occluded-reid', ('occluded_body_images', 'whole_body_images'), ('001/001_01.tif', '200/200_05.tif'),
     'Occluded-REID'),
    ('occluded-reid', ('query', 'gallery'), ('001_01.jpg', '200_05.jpg'), 'Occluded-REID'),
    ('partial-ilids', ('query', 'gallery'), ('001.jpg', '119.jpg'), 'Partial-iLIDS')])
def test_partial(tmp_path, variant, folders, names, source, capsys):
    called = {'partial-ilids': 'PartialiLIDS', 'partial-reid': 'x', 'occluded-reid': 'OccludedREID'}
    root = tmp_path/'exp_1'/called[variant]
    draw(root, *[f'{f}/{n}' for f in folders for n in names])
    ids = [n.rsplit('/')[-1][:3] for n in names]
    expected = [(f'{f}/{n}', i, '', s) for s,f in zip(('query', 'gallery'), folders) for n,i in zip(names, ids)]
    table = partial_table(root)
    assert rows(table) == expected
    assert rows(partial_table(root, variant)) == expected
    assert [r[0] for r in rows(partial_table(root.parent, variant))] == [f'{root.name}/{r[0]}' for r in expected]
    made = table.attrs['record']
    assert (made['source'], made['variant'], made['camera_rule']) == (source, variant, 'none')
    assert 'judged only' in made['protocol']
    assert check_table(table) is table
    assert set(made['published']) == {'query', 'gallery'}  # no train, and nothing to warn of
    report = describe_table(table)
    assert list(report.splits.index) == ['query', 'gallery']
    assert report.overlap == 0
    assert report.unanswerable == 0
    assert not report.warnings
    assert 'Note:' not in twice(partial_table, capsys, root)


def test_partial_camera_rule(tmp_path):
    names = [f'{f}/001_{k:03d}.jpg' for f in ('partial_body_images', 'whole_body_images') for k in (1, 2)]
    draw(tmp_path, *names, 'partial_body_images/002_001.jpg', 'whole_body_images/002_001.jpg')
    table = partial_table(tmp_path, camera_rule='number')
    assert table['camera'].tolist() == ['1', '2', '1', '1', '2', '1']
    assert table.attrs['record']['camera_rule'] == 'number'
    # as AGW reads it, the only answer is left out
    assert unanswerable(table).tolist() == [False, False, True, False, False, False]
    with pytest.raises(ValueError, match='none or number'): partial_table(tmp_path, camera_rule='x')


def test_partial_refuses(tmp_path):
    draw(tmp_path/'a', 'query/001_1.jpg', 'gallery/001_1.jpg')
    said = r'does not tell which set it is\. Say --variant partial-reid, partial-ilids, occluded-reid'
    with pytest.raises(ValueError, match=said):
        partial_table(tmp_path/'a')
    with pytest.raises(ValueError, match='Use partial-reid, partial-ilids or occluded-reid'):
        partial_table(tmp_path/'a', 'partial')
    draw(tmp_path/'a', 'query/c1_x.jpg')
    with pytest.raises(ValueError, match=r'query/c1_x\.jpg is not named like 001_002\.jpg or 001\.jpg'):
        partial_table(tmp_path/'a', 'partial-ilids')
    draw(tmp_path/'a', 'partial_body_images/1.jpg', 'whole_body_images/1.jpg')
    with pytest.raises(ValueError, match='more than one set'): partial_table(tmp_path/'a')
    draw(tmp_path/'b', 'pictures/1.jpg', 'partial_body_images/1.jpg')
    said = r'partial_body_images and whole_body_images.*query and gallery; found .*pictures'
    with pytest.raises(FileNotFoundError, match=said):
        partial_table(tmp_path/'b')
    with pytest.raises(SystemExit, match='is not a folder'): partial_table.main(str(tmp_path/'none'))

# VehicleID

def vehicles(root, end='\n'):
    draw(root/'VehicleID_V1.0', *[f'image/{i:07d}.jpg' for i in range(1, 12)])
    lists = root/'VehicleID_V1.0'/'train_test_split'
    lists.mkdir()
    (lists/'train_list.txt').write_bytes(f'0000001 7036{end}0000002 7036{end}0000003 0021{end}'.encode())
    held = [f'{i:07d} {v}' for i,v in zip(range(4, 12), [5, 5, 5, 9, 9, 9, 9, 4])]
    (lists/'test_list_800.txt').write_bytes(end.join(held).encode())
    return root


@pytest.mark.parametrize('end', ['\n', ' \r\n'])
def test_vehicleid(tmp_path, end, capsys):
    table = vehicleid_table(vehicles(tmp_path, end))
    at,held = 'VehicleID_V1.0/image/', {f'{i:07d}': v for i,v in zip(range(4, 12), '55599994')}
    first = {}
    for name in drawn([f'{n}.jpg' for n in held], 'VehicleID/0'): first.setdefault(held[name[:7]], name[:7])
    assert rows(table) == [(f'{at}0000001.jpg', '7036', '', 'train'), (f'{at}0000002.jpg', '7036', '', 'train'),
        (f'{at}0000003.jpg', '21', '', 'train'),
        *[(f'{at}{n}.jpg', v, '', 'gallery' if first[v] == n else 'query') for n,v in held.items()]]
    assert (table['split'] == 'gallery').sum() == 3
    assert table['split'].iloc[-1] == 'gallery'  # a vehicle of one picture: nobody asks for it
    made = table.attrs['record']
    assert made['published'] == {'train': (113346, 13164), 'query': (5693, 800), 'gallery': (800, 800)}
    assert (made['test'], made['seed']) == ('800', 0)
    draws = {tuple(vehicleid_table(tmp_path, seed=s, verify=False)['split']) for s in range(10)}
    assert len(draws) > 3
    assert tuple(table['split']) in draws
    assert not unanswerable(table).any()
    twice(vehicleid_table, capsys, tmp_path)
    with pytest.raises(SystemExit, match='--force'): vehicleid_table.main(str(tmp_path), seed=1)


@pytest.mark.parametrize('line, said', [('0000001 1 2', 'line 9.*not like'), ('x 1', 'line 9.*not like'),
    ('0000099 1', r'line 9: image/0000099\.jpg is missing'),
    ('0000004 5', 'line 9: picture 0000004 is in line 1 too'), ('0000001 5', r'share 1 pictures, first 0000001\.jpg')])
def test_vehicleid_lines_that_cannot_be_read(tmp_path, line, said):
    file = vehicles(tmp_path)/'VehicleID_V1.0'/'train_test_split'/'test_list_800.txt'
    file.write_text(file.read_text() + '\n' + line)
    with pytest.raises((ValueError, FileNotFoundError), match=rf'test_list_800\.txt.*{said}'): vehicleid_table(tmp_path)


def test_vehicleid_refuses(tmp_path):
    vehicles(tmp_path)
    with pytest.raises(ValueError, match='Use 800, 1600, 2400 or 13164'): vehicleid_table(tmp_path, '900')
    with pytest.raises(FileNotFoundError, match=r'lacks train_test_split/test_list_2400\.txt'):
        vehicleid_table(tmp_path, 2400)
    (tmp_path/'VehicleID_V1.0'/'train_test_split'/'train_list.txt').write_text('')
    with pytest.raises(ValueError, match=r'train_list\.txt is empty'): vehicleid_table(tmp_path)

# VIPeR

PEOPLE = ('000', '001', '007', '023', '512', '872')


def viper(root):
    draw(root, *[f'VIPeR/cam_a/{p}_45.bmp' for p in PEOPLE],
         *[f'VIPeR/cam_b/{p}_{90 + k}.bmp' for k,p in enumerate(PEOPLE)])
    return root


def test_viper(tmp_path, capsys):
    tables = viper_tables(viper(tmp_path/'001_45'), range(20))
    for k,table in enumerate(tables):
        half,asks = drawn(PEOPLE, f'VIPeR/{k//2}')[:3], 'ab'[k % 2]
        files = [(c, p, a) for c in 'ab' for p,a in zip(PEOPLE, [45]*6 if c == 'a' else range(90, 96))]
        splits = ['train' if p in half else 'query' if c == asks else 'gallery' for c,p,_ in files]
        assert rows(table) == [(f'VIPeR/cam_{c}/{p}_{a}.bmp', p, c, s) for (c, p, a),s in zip(files, splits)]
        made = table.attrs['record']
        assert (made['split'], made['half'], made['queries']) == (k, k//2, f'camera {asks}')
        assert not unanswerable(table).any()
    assert len({tuple(t['split']) for t in tables}) > 10
    root = tmp_path/'001_45'
    twice(viper_tables, capsys, root, split='all')
    assert sorted(p.name for p in root.glob('*.csv')) == [f'split_{k:02d}.csv' for k in range(20)]
    assert rows(read_table(root/'split_13.csv')) == rows(tables[13])
    assert json.loads((root/'split_13.json').read_text())['split'] == 13
    assert 'Written' in twice(viper_tables, capsys, root, split='13')
    assert (root/'images.csv').read_bytes() == (root/'split_13.csv').read_bytes()


def test_viper_refuses(tmp_path):
    viper(tmp_path)
    for split in ('20', '-1', 'x'):
        with pytest.raises(SystemExit, match='0 to 19, or all'): viper_tables.main(str(tmp_path), split=split)
    draw(tmp_path/'VIPeR', 'cam_a/999_0.bmp')
    with pytest.raises(SystemExit, match=r'cam_a/999_0\.bmp has no partner'): viper_tables.main(str(tmp_path))
    draw(tmp_path/'VIPeR', 'cam_a/000_90.bmp')
    with pytest.raises(ValueError, match=r'000_90\.bmp and .*000_45\.bmp are of one person'):
        viper_tables(tmp_path, [0])
    draw(tmp_path/'VIPeR', 'cam_a/0.bmp')
    with pytest.raises(ValueError, match=r'VIPeR/cam_a/0\.bmp is not named like 001_45\.bmp'):
        viper_tables(tmp_path, [0])
    draw(tmp_path/'one', 'cam_a/0.bmp')
    with pytest.raises(FileNotFoundError, match=r'cam_a, cam_b; found cam_a.*lacks cam_b'):
        viper_tables(tmp_path/'one', [0])

# i-LIDS

def test_ilids(tmp_path, capsys):
    names = [f'{i:04d}{k:03d}.jpg' for i,n in zip(range(1, 6), (4, 2, 3, 8, 2)) for k in range(1, n + 1)]
    draw(tmp_path, *[f'i-LIDS_Pedestrian/Persons/{n}' for n in names])
    tables = ilids_tables(tmp_path, range(10))
    for k,table in enumerate(tables):
        train = drawn([f'{i:04d}' for i in range(1, 6)], f'i-LIDS/{k}')[:2]
        order,expected = drawn(names, f'i-LIDS/{k}/pictures'), []
        for n in names:
            place = [o for o in order if o[:4] == n[:4]].index(n)
            split = 'train' if n[:4] in train else ('query', 'gallery')[place] if place < 2 else None
            if split: expected.append((f'i-LIDS_Pedestrian/Persons/{n}', n[:4], '', split))
        assert rows(table) == expected
        assert table.attrs['record']['left_out'] == len(names) - len(expected)
    assert len({tuple(t['path']) for t in tables}) > 5
    twice(ilids_tables, capsys, tmp_path, split='all')
    assert rows(read_table(tmp_path/'split_09.csv')) == rows(tables[9])
    draw(tmp_path, 'i-LIDS_Pedestrian/Persons/1.jpg')
    with pytest.raises(ValueError, match=r'Persons/1\.jpg is not named like 0001001\.jpg'): ilids_tables(tmp_path, [0])
    with pytest.raises(FileNotFoundError, match='i-LIDS is not in'):
        ilids_tables(tmp_path/'i-LIDS_Pedestrian'/'Persons', [0])
