"Tables of faces, aligned"
import os

import align as align_script
import numpy as np
import pandas as pd
import pytest
from align import aligned_copy, new_names
from PIL import Image

from qsd_fastai.data.alignment import FACE_TEMPLATE, FaceFinder
from qsd_fastai.data.packing import write_records
from qsd_fastai.data.pairs import read_pairs, write_pairs
from qsd_fastai.data.sources import list_records
from qsd_fastai.data.table import read_table, write_table
from qsd_fastai.data.templates import read_template_pairs, read_templates

pytestmark = pytest.mark.filterwarnings('ignore:.*one picture')
HEAD = 'path,' + ','.join(f'{c}{i}' for i in range(1, 6) for c in 'xy')


@pytest.fixture
def faces(tmp_path):
    "Four smooth pictures of two people, of several sizes; the faces are twice the template and a little off"
    rows,notes = [], [HEAD]
    for k,size in enumerate([(300, 260), (260, 300), (400, 400), (250, 250)]):
        file = tmp_path/'raw'/f'p{k//2}'/f'{k}.png'
        file.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(noise).resize(size, Image.Resampling.BICUBIC).save(file)
        rows.append((f'p{k//2}/{k}.png', f'p{k//2}', 'train'))
        notes.append(rows[-1][0] + ',' + ','.join(f'{v:.3f}' for v in (FACE_TEMPLATE*2 + k).reshape(-1)))
    table = pd.DataFrame(rows, columns=['path', 'identity', 'split'])
    write_table(table, tmp_path/'raw'/'images.csv')
    pairs = [('p0/0.png', 'p0/1.png', 1, 0), ('p0/0.png', 'p1/3.png', 0, 1)]
    write_pairs(pd.DataFrame(pairs, columns=['path1', 'path2', 'same', 'fold']), tmp_path/'raw'/'pairs.csv')
    (tmp_path/'marks.csv').write_text('\n'.join(notes) + '\n')
    return tmp_path


def test_by_noted_landmarks(faces, capsys):
    source,out,marks = str(faces/'raw'/'images.csv'), faces/'out', str(faces/'marks.csv')
    align_script.main(source, str(out), landmarks=marks, format='png')
    table = read_table(out/'images.csv')
    assert table['path'].tolist() == [f'images/p{k//2}/{k}.png' for k in range(4)]
    assert table['aligned'].tolist() == [1]*4
    assert not (out/'missing.txt').exists()
    assert table['identity'].tolist() == ['p0', 'p0', 'p1', 'p1']
    for k,path in enumerate(table['path']):
        files = out/path, faces/'raw'/f'p{k//2}'/f'{k}.png'
        got,raw = (np.asarray(Image.open(f).convert('RGB'), float) for f in files)
        assert got.shape == (112, 112, 3)
        inside = raw[k:k + 224:2, k:k + 224:2][5:100, 5:100]  # at half the size, without a turn
        assert np.abs(got[5:100, 5:100] - inside).mean() < 2
    pairs = read_pairs(out/'pairs.csv', table)
    assert pairs['path2'].tolist() == ['images/p0/1.png', 'images/p1/3.png']
    assert pairs['fold'].tolist() == [0, 1]
    align_script.main(source, str(out), landmarks=marks, format='png')
    assert 'nothing to do' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='--force'): align_script.main(source, str(out), landmarks=marks, size=96)


@pytest.mark.parametrize('missing', ['crop', 'drop', 'stop'])
def test_faces_that_are_not_found(faces, missing, capsys):
    marks = faces/'marks.csv'
    marks.write_text('\n'.join(marks.read_text().splitlines()[:4]) + '\n')  # nothing of the last
    args = str(faces/'raw'/'images.csv'), str(faces/'out'), str(marks)
    if missing == 'stop':
        with pytest.raises(SystemExit, match=r'1 of 4 faces cannot be aligned, first .p1/3\.png\\tno landmarks'):
            align_script.main(*args, missing='stop')
        assert not (faces/'out'/'images.csv').exists()
        return
    align_script.main(*args, missing=missing)
    said,table = capsys.readouterr().out, read_table(faces/'out'/'images.csv')
    assert (faces/'out'/'missing.txt').read_text() == 'p1/3.png\tno landmarks\n'
    assert '1 of 4 faces could not be aligned' in said
    assert table['aligned'].tolist() == ([1, 1, 1, 0] if missing == 'crop' else [1, 1, 1])
    assert len(read_pairs(faces/'out'/'pairs.csv')) == (2 if missing == 'crop' else 1)
    assert ('1 rows of pairs.csv are left out' in said) == (missing == 'drop')


def test_unreadable_pictures_are_listed_and_left_out(faces):
    (faces/'raw'/'p0'/'1.png').write_text('no picture')
    made = aligned_copy(read_table(faces/'raw'/'images.csv'), faces/'out', landmarks=faces/'marks.csv')
    assert len(made) == 3
    assert made.attrs['missing'][0].startswith('p0/1.png\tUnidentifiedImageError')
    assert 'p0/1.png' not in made.attrs['new_path']


def test_by_a_detector(faces, monkeypatch):
    "The landmarks of a picture as it is shown, an EXIF turn included"
    monkeypatch.setattr(FaceFinder, '__init__', lambda self, file, score: None)
    def find(self, im): return (FACE_TEMPLATE*im.width/112, .875) if im.width != 400 else (None, 0.)
    monkeypatch.setattr(FaceFinder, '__call__', find)
    table = read_table(faces/'raw'/'images.csv')
    made = aligned_copy(table, faces/'out', detector=faces/'marks.csv', suffix='.png', size=64)
    assert made['detector_score'].tolist() == [.875, .875, 0, .875]
    assert made['aligned'].tolist() == [1, 1, 0, 1]
    assert made.attrs['missing'] == ['p1/2.png\tno face found']
    assert Image.open(faces/'out'/made['path'][0]).size == (64, 64)


def test_records_by_number(tmp_path):
    "CVLface numbers records; their points are parts of the picture"
    files = []
    for k in range(3):
        Image.fromarray(np.random.default_rng(k).integers(0, 255, (112, 112, 3), np.uint8)).save(tmp_path/'t.png')
        files.append((tmp_path/'t.png').read_bytes())
    (tmp_path/'rec').mkdir()
    write_records(enumerate(files), tmp_path/'rec'/'train.rec')
    at = list_records(tmp_path/'rec'/'train.rec')['offset'].tolist()
    table = pd.DataFrame({'path': [f'train.rec#{o}' for o in at], 'identity': list('abc'), 'split': 'train'})
    table.attrs['root'] = str(tmp_path/'rec')
    points = ','.join(f'{v:.6f}' for v in (FACE_TEMPLATE/112).reshape(-1))
    head = 'idx,' + ','.join(f'ldmk_{k}' for k in range(10))
    (tmp_path/'ldmk_5points.csv').write_text(f'{head}\n1,{points}\n3,{points}\n')
    made = aligned_copy(table, tmp_path/'out', landmarks=tmp_path/'ldmk_5points.csv', suffix='.png')
    assert made['path'].tolist() == [f'images/train.rec/{o}.png' for o in at]
    assert made['aligned'].tolist() == [1, 0, 1]
    got = np.asarray(Image.open(tmp_path/'out'/made['path'][2])).astype(int)
    raw = np.random.default_rng(2).integers(0, 255, (112, 112, 3), np.uint8)
    assert np.abs(got - raw).max() <= 1
    (tmp_path/'rec'/'train.idx').unlink()
    with pytest.raises(ValueError, match=r'needs a table of a record file with its index, train\.idx'):
        aligned_copy(table, tmp_path/'out', landmarks=tmp_path/'ldmk_5points.csv')


@pytest.mark.parametrize('missing, kept', [('crop', [3, 2, 1]), ('drop', [2, 1, 0])])
def test_templates_come_along(faces, missing, kept, capsys):
    "Points in the form of IJB, by base name; a template that has lost all its pictures takes its pairs along"
    for name,text in [('templates', 'path,template,media\np0/0.png,1,7\np0/1.png,1,8\np1/2.png,2,9\n'),
                       ('template_pairs', 'template1,template2,same\n1,2,0\n1,1,1\n'),
                       ('probe', 'template,identity\n2,007\n')]: (faces/'raw'/f'{name}.csv').write_text(text)
    points = ' '.join(f'{v:.2f}' for v in (FACE_TEMPLATE*2).reshape(-1))
    (faces/'ijbc_name_5pts_score.txt').write_text(''.join(f'{k}.png {points} 0.9\n' for k in (0, 1, 3)))
    marks = str(faces/'ijbc_name_5pts_score.txt')
    align_script.main(str(faces/'raw'/'images.csv'), str(faces/'out'), landmarks=marks, missing=missing)
    templates = read_templates(faces/'out'/'templates.csv', read_table(faces/'out'/'images.csv'))
    probe = pd.read_csv(faces/'out'/'probe.csv', dtype=str)
    assert [len(templates), len(read_template_pairs(faces/'out'/'template_pairs.csv', templates)), len(probe)] == kept
    assert templates['path'][0] == 'images/p0/0.jpg'
    assert probe['identity'].tolist() == ['007'][:kept[2]]
    assert capsys.readouterr().out.count('left out with them') == (3 if missing == 'drop' else 0)


def test_new_names():
    assert new_names(['a/1.jpg', 'a/2.png'], '.jpg') == ['images/a/1.jpg', 'images/a/2.jpg']
    assert new_names(['a/1.jpg', 'a/1.png'], '.png') == ['images/a/1_jpg.png', 'images/a/1_png.png']
    assert new_names(['../raw/a/1.jpg', '../raw/b/1.jpg'], '.jpg') == ['images/a/1.jpg', 'images/b/1.jpg']
    assert new_names(['../lfw.bin#3', '../lfw.bin#4'], '.jpg') == ['images/lfw.bin/3.jpg', 'images/lfw.bin/4.jpg']
    assert new_names(['/x/a/1.jpg'], '.jpg') == ['images/1.jpg']


def test_what_cannot_be_asked_for(faces):
    table = read_table(faces/'raw'/'images.csv')
    (faces/'other.csv').write_text(HEAD + '\nz.jpg,' + ','.join(map(str, range(10))) + '\n')
    for said,args in [('either landmarks', {}), ('either landmarks', {'landmarks': 'a', 'detector': 'b'}),
                       ("missing is 'x'", {'landmarks': 'a', 'missing': 'x'}),
                       ('not a format', {'landmarks': 'a', 'suffix': '.gif'}),
                       ('less than 16', {'landmarks': 'a', 'size': 8}),
                       ("no picture of the table: 'z.jpg' there", {'landmarks': faces/'other.csv'})]:
        with pytest.raises(ValueError, match=said): aligned_copy(table, faces/'out', **args)
    with pytest.raises(ValueError, match='holds the pictures themselves'):
        aligned_copy(table, faces/'raw', landmarks=faces/'marks.csv')
    with pytest.raises(SystemExit, match=r'no such file\. Pass either'):
        align_script.main(str(faces/'raw'/'images.csv'), str(faces/'out'))
    assert not os.path.exists(faces/'out')
