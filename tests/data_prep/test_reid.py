"Published Re-ID sets in their real layouts, tiny: to the exact table, and what a wrong folder or line gets"
import pytest
from dukemtmc import dukemtmc_table
from made_up import draw, rows
from msmt17 import msmt17_table
from veri import veri_table

from qsd_fastai.data.table import describe_table, read_table, unanswerable

# DukeMTMC-reID, Occluded-Duke

def duke(root, below=''):
    draw(root/below, 'bounding_box_train/0001_c2_f0046182.jpg', 'bounding_box_train/0001_c8_f0046302.jpg',
         'bounding_box_train/7140_c1_f1.jpg', 'query/0005_c2_f0046985.jpg',
         'bounding_box_test/0005_c5_f0051341.jpg', 'bounding_box_test/0000_c1_f0056.jpg')
    (root/below/'query'/'Thumbs.db').write_text('x')
    return root


@pytest.mark.parametrize('below', ['', 'DukeMTMC-reID/'])
def test_duke(tmp_path, below):
    table = dukemtmc_table(duke(tmp_path/'run_12_c3', below))
    assert rows(table) == [
        (f'{below}bounding_box_train/0001_c2_f0046182.jpg', '0001', '2', 'train'),
        (f'{below}bounding_box_train/0001_c8_f0046302.jpg', '0001', '8', 'train'),
        (f'{below}bounding_box_train/7140_c1_f1.jpg', '7140', '1', 'train'),
        (f'{below}query/0005_c2_f0046985.jpg', '0005', '2', 'query'),
        (f'{below}bounding_box_test/0000_c1_f0056.jpg', '0000', '1', 'gallery'),
        (f'{below}bounding_box_test/0005_c5_f0051341.jpg', '0005', '5', 'gallery')]
    assert table.attrs['record']['source'] == 'DukeMTMC-reID'
    assert 'withdrawn' in table.attrs['record']
    assert describe_table(table).differs[0] == 'train: 3 pictures of 2 identities, published are 16522 of 702'


def test_occluded_duke(tmp_path):
    table = dukemtmc_table(duke(tmp_path, 'Occluded_Duke/'))
    assert table.attrs['record']['source'] == 'Occluded-Duke'
    assert table.attrs['record']['published']['query'] == (2210, 519)
    assert dukemtmc_table(tmp_path, 'reid').attrs['record']['source'] == 'DukeMTMC-reID'
    with pytest.raises(ValueError, match=r'--variant.*reid or occluded'): dukemtmc_table(tmp_path, 'partial')


def test_duke_main_and_refusals(tmp_path, capsys):
    root = duke(tmp_path/'duke')
    dukemtmc_table.main(str(root), workers=2)
    assert 'withdrawn' in capsys.readouterr().out
    before = (root/'images.csv').stat().st_mtime_ns
    dukemtmc_table.main(str(root), workers=3)
    assert 'nothing to do' in capsys.readouterr().out
    assert (root/'images.csv').stat().st_mtime_ns == before
    assert read_table(root/'images.csv').attrs['record']['withdrawn']
    with pytest.raises(SystemExit, match='--force'): dukemtmc_table.main(str(root), variant='occluded')
    draw(root, 'query/0005_c9_f1.jpg')
    with pytest.raises(ValueError, match=r'query/0005_c9_f1\.jpg.*camera 1 to 8'): dukemtmc_table(root)
    (root/'query'/'0005_c9_f1.jpg').rename(root/'query'/'cat.jpg')
    with pytest.raises(ValueError, match=r'query/cat\.jpg is not named like 0001_c2_f0046182'): dukemtmc_table(root)
    draw(tmp_path/'half', 'bounding_box_train/0001_c2_f1.jpg')
    with pytest.raises(FileNotFoundError, match=r'lacks query, bounding_box_test'): dukemtmc_table(tmp_path/'half')
    draw(tmp_path/'other', 'a/1.jpg')
    with pytest.raises(FileNotFoundError, match=r'one folder below for bounding_box_train.*found a'):
        dukemtmc_table(tmp_path/'other')
    with pytest.raises(SystemExit, match='is not a folder'): dukemtmc_table.main(str(tmp_path/'none'))


def test_the_same_set_twice_is_refused(tmp_path):
    duke(tmp_path, 'one'); duke(tmp_path, 'two')
    with pytest.raises(ValueError, match=r'more than once: one, two\. Point at one'): dukemtmc_table(tmp_path)

# VeRi-776

def test_veri(tmp_path):
    draw(tmp_path/'VeRi', 'image_train/0001_c001_00016450_0.jpg', 'image_query/0002_c002_00030600_0.jpg',
         'image_test/0002_c020_00030640_1.jpg')
    assert rows(veri_table(tmp_path)) == [('VeRi/image_train/0001_c001_00016450_0.jpg', '0001', '1', 'train'),
        ('VeRi/image_query/0002_c002_00030600_0.jpg', '0002', '2', 'query'),
        ('VeRi/image_test/0002_c020_00030640_1.jpg', '0002', '20', 'gallery')]
    draw(tmp_path/'VeRi', 'image_test/0777_c020_00030640_1.jpg')
    with pytest.raises(ValueError, match='identity 0 to 776'): veri_table(tmp_path)

# MSMT17

NAMES = {'train': ['0000/0000_000_01_0303morning_0015_0.jpg', '0000/0000_001_15_0303noon_0284_2_ex.jpg'],
         'val': ['0001/0001_000_03_0113noon_1_0.jpg'],
         'query': ['0000/0000_002_10_0303morning_0008_0.jpg'], 'gallery': ['0000/0000_003_01_0303morning_0031_1.jpg']}


def msmt(root, folders=('train', 'test')):
    for split,names in NAMES.items():
        draw(root/folders[split in ('query', 'gallery')], *names)
        ends = {'train': ' \n', 'query': '\r\n'}.get(split, '\n')  # as the lists in the wild have them
        (root/f'list_{split}.txt').write_bytes(''.join(f'{n} {int(n[:4])}{ends}' for n in names).encode())
    return root


@pytest.mark.parametrize('folders, version', [(('train', 'test'), 'V1'), (('mask_train_v2', 'mask_test_v2'), 'V2')])
@pytest.mark.parametrize('below', ['', 'MSMT17/'])
def test_msmt17(tmp_path, folders, version, below):
    msmt(tmp_path/below, folders)
    table,(a, b) = msmt17_table(tmp_path), folders
    assert rows(table) == [(f'{below}{a}/{NAMES["train"][0]}', '0000', '1', 'train'),
                           (f'{below}{a}/{NAMES["train"][1]}', '0000', '15', 'train'),
                           (f'{below}{b}/{NAMES["query"][0]}', 'test_0000', '10', 'query'),
                           (f'{below}{b}/{NAMES["gallery"][0]}', 'test_0000', '1', 'gallery')]
    made = table.attrs['record']
    assert made['version'] == version
    assert made['train'] == 'train'
    assert made['validation_left_out'] == 1
    assert made['published']['train'] == (30248, 1041)
    assert describe_table(table).overlap == 0
    assert not unanswerable(table).any()
    both = msmt17_table(tmp_path, 'trainval')
    assert rows(both)[2] == (f'{below}{a}/{NAMES["val"][0]}', '0001', '3', 'train')
    assert both.attrs['record']['published']['train'] == (32621, 1041)


def test_msmt17_flattened_and_its_camera_rule(tmp_path):
    draw(tmp_path, 'bounding_box_train/0000_c12_0001.jpg', 'query/0000_c1_0001.jpg',
         'bounding_box_test/0000_c15_0002.jpg')
    table = msmt17_table(tmp_path)
    assert table['camera'].tolist() == ['12', '1', '15']
    assert not unanswerable(table).any()
    assert table['identity'].tolist() == ['0000', 'test_0000', 'test_0000']
    published = msmt17_table(tmp_path, camera_rule='one-digit')  # as AGW and QSD read it: the query loses its answer
    assert published['camera'].tolist() == ['1', '1', '1']
    assert unanswerable(published).sum() == 1
    assert published.attrs['record']['camera_rule'] == 'one-digit'
    assert table.attrs['record']['camera_rule'] == 'as-named'
    with pytest.raises(ValueError, match='flattened'): msmt17_table(tmp_path, 'trainval')


@pytest.mark.parametrize('line, said', [('0000/0000_000_01.jpg', 'line 3'),
    ('0000/0000_000_16_0303morning_0015_0.jpg 0', 'camera 1 to 15'),
    ('0000/picture.jpg 0', 'is not like'), ('0000/0000_000_01_0303morning_0015_0.jpg x', 'is not like'),
    ('0000/0000_009_01_0303morning_0015_0.jpg 0', r"line 3: '0000/0000_009.*is not in .*train")])
def test_msmt17_lines_that_cannot_be_read(tmp_path, line, said):
    msmt(tmp_path)
    with open(tmp_path/'list_train.txt', 'a') as f: f.write(line + '\n')
    with pytest.raises((ValueError, FileNotFoundError), match=rf'list_train\.txt.*{said}'): msmt17_table(tmp_path)


def test_msmt17_refuses(tmp_path, capsys):
    msmt(tmp_path/'set')
    with pytest.raises(ValueError, match='--camera-rule one-digit is for the flattened'):
        msmt17_table(tmp_path/'set', camera_rule='one-digit')
    with pytest.raises(ValueError, match=r'--train.*train or trainval'): msmt17_table(tmp_path/'set', 'all')
    msmt17_table.main(str(tmp_path/'set'), train='trainval')
    assert 'train: trainval' in capsys.readouterr().out
    assert read_table(tmp_path/'set'/'images.csv').attrs['record']['train'] == 'trainval'
    (tmp_path/'set'/'list_val.txt').unlink()
    with pytest.raises(FileNotFoundError, match=r'lacks list_val\.txt'): msmt17_table(tmp_path/'set')


def test_pictures_that_lie_deeper_are_not_lost_in_silence(tmp_path):
    draw(duke(tmp_path), 'query/extra/0005_c3_f0046985.jpg')
    with pytest.raises(ValueError, match=r'1 pictures lie below .*query, first .extra/0005_c3'):
        dukemtmc_table(tmp_path)
