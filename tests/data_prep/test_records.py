"Faces in record files to tables"
import sys

import pytest
from made_up import ROOT
from records import records_table

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.table import read_table

sys.path.insert(0, str(ROOT/'tests'/'data'))
from test_sources import jpeg, offsets, payload, write


@pytest.fixture
def face_file(tmp_path):
    pictures = [payload(float(k//4), jpeg(k)) for k in range(24)]
    ranges = [payload([float(k), k + 4.], b'') for k in range(1, 25, 4)]
    file = write(tmp_path/'ms1m', [payload([25., 31.], b''), *pictures, *ranges])
    (tmp_path/'ms1m'/'property').write_text('6,112,112\n24\n')
    return file


def test_records(face_file):
    table = records_table(face_file.parent)
    assert table['path'].tolist() == [f'train.rec#{o}' for o in offsets(face_file)[1:25]]
    assert table['identity'].tolist() == [str(k//4) for k in range(24)]
    assert set(table['split']) == {'train'}
    assert table.attrs['record'] == {'source': 'RecordIO', 'header': 'ranges', 'index': True, 'size': [112, 112],
                                     'published': {'train': (24, 6)}}
    held = records_table(face_file, test=.5)
    assert held['split'].value_counts().to_dict() == {'train': 12, 'gallery': 9, 'query': 3}
    assert 'published' not in held.attrs['record']


def test_records_are_trained_on_without_unpacking(face_file, capsys):
    records_table.main(str(face_file.parent), test=.5)
    before = sorted(p.name for p in face_file.parent.iterdir())
    assert before == ['images.csv', 'images.json', 'property', 'train.idx', 'train.rec']
    records_table.main(str(face_file.parent), test=.5)
    assert 'nothing to do' in capsys.readouterr().out
    dls = recognition_dataloaders(read_table(face_file.parent/'images.csv'), size=(32, 32), n_ids=3, n_imgs=4)
    x,y,*_ = dls.train.one_batch()
    assert x.shape == (12, 3, 32, 32)
    assert len(y.unique()) == 3
    assert dls.valid.one_batch()[0].shape == (12, 3, 32, 32)
    with pytest.raises(SystemExit, match='--force'): records_table.main(str(face_file), test=.3)


def test_unreadable_pictures_and_other_numbers(face_file, tmp_path, capsys):
    whole,at = face_file.read_bytes(), offsets(face_file)[5]
    face_file.write_bytes(whole[:at + 40] + b'\0'*300 + whole[at + 340:])  # the picture, not the record
    table = records_table(face_file)
    assert len(table) == 23
    assert table.attrs['unreadable'][0].startswith(f'train.rec#{at}\t')
    with pytest.raises(ValueError, match=rf'1 of 24 .*#{at}'): records_table(face_file, strict=True)
    (face_file.parent/'property').write_text('many')
    with pytest.raises(ValueError, match='property does not begin with'): records_table(face_file)
    (tmp_path/'empty').mkdir()
    with pytest.raises(FileNotFoundError, match=r'no record file .*, but: nothing'): records_table(tmp_path/'empty')
    other = write(tmp_path/'other', [payload(.5, jpeg(1)), payload(1., jpeg(2))])
    with pytest.raises(ValueError, match=r'byte 0: label 0\.5 is not the number'): records_table(other)
