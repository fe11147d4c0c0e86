"Verification sets to tables, and tables back to verification sets and record files"
import io
import json
import os
import pickle

import numpy as np
import pack as pack_script
import pytest
from bins import bin_table
from PIL import Image
from records import records_table

from qsd_fastai.data.bins import read_bin
from qsd_fastai.data.packing import write_bin
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.pictures import picture_bytes
from qsd_fastai.data.sources import list_records
from qsd_fastai.data.table import check_table, read_table

pytestmark = pytest.mark.filterwarnings('ignore:.*one picture')


def jpeg(k, size=(16, 16)):
    buf = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 255, (*size, 3), np.uint8)).save(buf, 'JPEG')
    return buf.getvalue()


@pytest.fixture
def lfw(tmp_path):
    "Twelve pairs, every second one of one person; picture 4 is a copy of picture 0"
    pictures = [jpeg(0 if k == 4 else k) for k in range(24)]
    write_bin(pictures, [k % 2 == 0 for k in range(12)], tmp_path/'lfw.bin')
    return tmp_path/'lfw.bin', pictures


def test_bin_table(lfw):
    table,pairs = bin_table(lfw[0], folds=5)
    assert table['path'].tolist() == [f'lfw.bin#{k}' for k in range(24)]
    assert pairs['path1'].tolist() == [f'lfw.bin#{k}' for k in range(0, 24, 2)]
    assert pairs['same'].tolist() == [1, 0]*6
    assert pairs['fold'].tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    who = table['identity'].str.removeprefix('lfw_').astype(int).tolist()
    assert who == [0, 0, 1, 2, 0, 0, 3, 4, 5, 5, 6, 7, 8, 8, 9, 10, 11, 11, 12, 13, 14, 14, 15, 16]
    assert table.attrs['record'] == {'source': 'verification set', 'pairs': 12, 'folds': 5,
                                     'pairs_that_copies_contradict': 0}
    assert bin_table(lfw[0], folds=99)[1]['fold'].tolist() == list(range(12))


def test_main_twice(lfw, capsys):
    file,pictures = lfw
    arrays = [np.frombuffer(p, np.uint8) for p in pictures[:4]]
    (file.parent/'cfp_fp.bin').write_bytes(pickle.dumps((arrays, [True, False]), 2))
    bin_table.main(str(file.parent))
    assert 'lfw is published with 6,000 pairs' in capsys.readouterr().out
    assert sorted(os.listdir(file.parent)) == ['cfp_fp', 'cfp_fp.bin', 'lfw', 'lfw.bin']
    assert sorted(os.listdir(file.parent/'lfw')) == ['images.csv', 'images.json', 'pairs.csv']
    table = read_table(file.parent/'lfw'/'images.csv')
    pairs = read_pairs(file.parent/'lfw'/'pairs.csv', table)
    assert [picture_bytes(file.parent/'lfw'/p) for p in pairs['path2']] == pictures[1::2]
    assert pairs['fold'].nunique() == 10
    bin_table.main(str(file.parent))
    assert capsys.readouterr().out.count('nothing to do') == 2
    with pytest.raises(SystemExit, match='--force'): bin_table.main(str(file), folds=3)
    late = table.assign(path=['../lfw.bin#24', *table['path'][1:]])
    with pytest.raises(ValueError, match=r'Row 0 .*beyond the end of .*lfw\.bin, at 24'): check_table(late)


def test_bins_that_cannot_be_used(lfw, tmp_path):
    write_bin([*lfw[1][:3], b'no picture'], [True, False], tmp_path/'bad.bin')
    with pytest.raises(ValueError, match=r'1 of 4 pictures cannot be read, first .bad\.bin#3'):
        bin_table(tmp_path/'bad.bin')
    (tmp_path/'empty').mkdir()
    (tmp_path/'empty'/'pairs.txt').touch()
    with pytest.raises(SystemExit, match=r'no verification set \(\*\.bin\), but: pairs\.txt'):
        bin_table.main(str(tmp_path/'empty'))


def test_there_and_back(lfw, tmp_path, capsys):
    file,pictures = lfw
    bin_table.main(str(file))
    table = str(tmp_path/'lfw'/'images.csv')
    pack_script.main(table, str(tmp_path/'back'), bin='lfw')
    back,same = read_bin(tmp_path/'back'/'lfw.bin')
    assert list(back) == pictures
    assert same.tolist() == [True, False]*6
    assert 'folds differ in length' in capsys.readouterr().out  # twelve pairs in ten folds
    pack_script.main(table, str(tmp_path/'back'), bin='lfw')
    assert 'nothing to do' in capsys.readouterr().out
    pack_script.main(table, str(tmp_path/'rec'))
    listed = list_records(tmp_path/'rec'/'train.rec')
    names = read_table(table)['identity']
    labels = (tmp_path/'rec'/'identities.csv').read_text().splitlines()
    assert labels[:3] == ['label,identity', '0,lfw_00000', '1,lfw_00001']
    assert (tmp_path/'rec'/'property').read_text() == '17,16,16\n'
    assert len(listed) == 24
    assert listed['label'].astype(int).map(sorted(set(names)).__getitem__).tolist() == sorted(names)
    # sorted by identity, then by path as text
    order = sorted(range(24), key=lambda k: (names[k], f'../lfw.bin#{k}'))
    assert [picture_bytes(f'{tmp_path}/rec/train.rec#{o}') for o in listed['offset']] == [pictures[k] for k in order]
    records_table.main(str(tmp_path/'rec'))
    assert 'The counts are the published ones' in capsys.readouterr().out


def test_packing_twice_and_wrongly(lfw, tmp_path, capsys):
    bin_table.main(str(lfw[0]))
    table,out = str(tmp_path/'lfw'/'images.csv'), str(tmp_path/'rec')
    pack_script.main(table, out, style='plain')
    assert list_records(tmp_path/'rec'/'train.rec').attrs['header'] == 'plain'
    assert json.loads((tmp_path/'rec'/'train.rec.json').read_text())['options']['style'] == 'plain'
    before = (tmp_path/'rec'/'train.rec').stat().st_mtime_ns
    pack_script.main(table, out, style='plain')
    assert 'nothing to do' in capsys.readouterr().out
    assert (tmp_path/'rec'/'train.rec').stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match='--force'): pack_script.main(table, out)
    with pytest.raises(SystemExit, match='no picture in query, only in train'):
        pack_script.main(table, str(tmp_path/'q'), split='query')
    (tmp_path/'lfw'/'pairs.csv').unlink()
    with pytest.raises(SystemExit, match='No pairs at'): pack_script.main(table, str(tmp_path/'q'), bin='lfw')


def test_pictures_of_two_sizes(tmp_path):
    write_bin([jpeg(0), jpeg(1, (16, 20))], [True], tmp_path/'a.bin')
    bin_table.main(str(tmp_path/'a.bin'))
    with pytest.raises(SystemExit, match=r'a\.bin#1 is 16x20, the first 16x16\. .*align\.py'):
        pack_script.main(str(tmp_path/'a'/'images.csv'), str(tmp_path/'r'))
    assert os.listdir(tmp_path/'r') == []
    pack_script.main(str(tmp_path/'a'/'images.csv'), str(tmp_path/'r'), any_size=True)
    assert len(list_records(tmp_path/'r'/'train.rec')) == 2
