"IJB-B, IJB-C and TinyFace in their own layouts"
import os
import random
import zlib

import numpy as np
import pandas as pd
import pytest
from common.matlab import MatlabError, read_variables
from ijb import ijb_tables
from PIL import Image
from scipy.io import savemat
from tinyface import read_pairs_file, tinyface_table

from qsd_fastai.data.table import read_table
from qsd_fastai.data.templates import read_template_pairs, read_templates

pytestmark = pytest.mark.filterwarnings('ignore::UserWarning')


def picture(file, k):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(k).integers(0, 255, (20, 16, 3), np.uint8)).save(file)


# template 10 and 30 in the gallery, 20 a probe of the person of 10; picture 3.jpg is in two templates
LINES = ['1.jpg 10 100', '2.jpg 10 101', '3.jpg 20 102', '3.jpg 21 102', '4.jpg 30 103']


@pytest.fixture
def ijbc(tmp_path):
    root = tmp_path/'ijb'/'IJBC'
    for k in range(1, 5): picture(root/'loose_crop'/f'{k}.jpg', k)
    (root/'meta').mkdir()
    points = ' '.join(str(10.5*j) for j in range(10))
    for name,lines in [
        ('face_tid_mid.txt', LINES), ('template_pair_label.txt', ['10 20 1', '10 30 0', '20 21 1']),
        ('name_5pts_score.txt', [f'{k}.jpg {points} 0.9{k}' for k in range(1, 5)]),
        ('1N_gallery_G1.csv', ['TEMPLATE_ID,SUBJECT_ID,FILENAME', '10,0042,img/1.png', '10,0042,img/2.png']),
        ('1N_gallery_G2.csv', ['TEMPLATE_ID,SUBJECT_ID', '30,7']),
        ('1N_probe_mixed.csv', ['TEMPLATE_ID,SUBJECT_ID,FILENAME,SIGHTING_ID', '20,0042,frames/1.png,',
                                '21,0042,frames/1.png,5'])]:
        (root/'meta'/f'ijbc_{name}').write_text('\n'.join(lines) + '\n')
    return root


def test_ijb(ijbc):
    table,made = ijb_tables(ijbc.parent, 'ijbc')
    assert table['path'].tolist() == [f'IJBC/loose_crop/{k}.jpg' for k in range(1, 5)]
    assert table['identity'].tolist() == ['0042']*3 + ['7']
    assert table['split'].tolist() == ['gallery', 'gallery', 'query', 'gallery']
    assert table['detector_score'].tolist() == [.91, .92, .93, .94]
    assert table['template'].tolist() == [10, 10, 20, 30]
    assert table['media'].tolist() == [100, 101, 102, 103]
    listed = [o.split() for o in LINES]
    assert made['templates'].values.tolist() == [[f'IJBC/loose_crop/{p}', int(t), int(m)] for p,t,m in listed]
    assert made['template_pairs'].values.tolist() == [[10, 20, 1], [10, 30, 0], [20, 21, 1]]
    assert made['gallery'].values.tolist() == [[10, '0042', 'G1'], [30, '7', 'G2']]
    assert made['probe'].values.tolist() == [[20, '0042'], [21, '0042']]


def test_ijb_without_its_optional_lists(ijbc):
    for p in (ijbc/'meta').glob('*1N*'): p.unlink()
    (ijbc/'meta'/'ijbc_name_5pts_score.txt').unlink()
    table,made = ijb_tables(ijbc)
    assert list(made) == ['templates', 'template_pairs']
    assert set(table['split']) == {'gallery'}
    assert table['identity'].tolist() == ['of_template_10']*3 + ['of_template_30']
    assert 'detector_score' not in table


def test_ijb_main_twice(ijbc, tmp_path, capsys):
    ijb_tables.main(str(ijbc), 'ijbc', out=str(tmp_path/'o'))
    assert 'Published are 469,375 pictures, 23,124 templates and 15,658,489 pairs' in capsys.readouterr().out
    assert sorted(os.listdir(tmp_path/'o')) == ['gallery.csv', 'images.csv', 'images.json', 'probe.csv',
                                                'template_pairs.csv', 'templates.csv']
    table = read_table(tmp_path/'o'/'images.csv')
    templates = read_templates(tmp_path/'o'/'templates.csv', table)
    assert templates['path'][0] == '../ijb/IJBC/loose_crop/1.jpg'
    assert read_template_pairs(tmp_path/'o'/'template_pairs.csv', templates)['same'].sum() == 2
    assert pd.read_csv(tmp_path/'o'/'gallery.csv', dtype=str)['identity'].tolist() == ['0042', '7']
    ijb_tables.main(str(ijbc), 'ijbc', out=str(tmp_path/'o'))
    assert 'nothing to do' in capsys.readouterr().out


@pytest.mark.parametrize('name, text, said', [
    ('face_tid_mid.txt', '1.jpg 10\n', r"face_tid_mid\.txt, line 1: '1\.jpg 10'"),
    ('face_tid_mid.txt', '9.jpg 10 1\n20.jpg 20 1\n9.jpg 30 1\n9.jpg 21 1\n',
     r"4 of 4 pictures are not in .*loose_crop, first '9\.jpg'"),
    ('template_pair_label.txt', '10 20 1\n10 99 0\n', "'template2' is a template without pictures"),
    ('template_pair_label.txt', '10 20 2\n', 'neither 0 nor 1'),
    ('1N_gallery_G2.csv', 'T,S\n30,7\n30,8\n', 'G2.csv: template 30 is of two people'),
    ('1N_gallery_G2.csv', 'T,S\n10,7\n', 'give template 10 to two people'),
    ('1N_probe_mixed.csv', 'T,S\n20,1\n21,2\n', "'3.jpg' is in templates of two"),
    ('name_5pts_score.txt', '1.jpg 1 2 3\n', 'line 1')])
def test_ijb_that_cannot_be_used(ijbc, name, text, said):
    (ijbc/'meta'/f'ijbc_{name}').write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=said): ijb_tables(ijbc)


def test_ijb_elsewhere(ijbc, tmp_path):
    with pytest.raises(SystemExit, match=r'IJB-B is not in .*ijbb_face_tid_mid\.txt.*found loose_crop/, meta/'):
        ijb_tables.main(str(ijbc), 'ijbb')
    with pytest.raises(ValueError, match=r"--set is 'lfw'\. Use ijbb or ijbc"): ijb_tables(ijbc, 'lfw')
    (ijbc/'loose_crop'/'2.jpg').write_text('no picture')
    with pytest.raises(ValueError, match=r'1 of 4 pictures cannot be read, first .*2\.jpg'): ijb_tables(ijbc)


def names_file(file, kind, names, ids):
    cells = np.empty((len(names), 1), object)
    cells[:, 0] = names
    savemat(file, {f'{kind}_set': cells, **({f'{kind}_ids': np.array(ids)[:, None]} if ids else {})})


@pytest.fixture
def tinyface(tmp_path):
    test = tmp_path/'tinyface'/'Testing_Set'
    probes,match = ['1_1.jpg', '1_2.jpg', '5_1.jpg'], ['1_3.jpg', '5_2.jpg']
    folders = {'Probe': probes, 'Gallery_Match': match, 'Gallery_Distractor': ['d1.jpg', 'd2.jpg']}
    for k,(folder, names) in enumerate(folders.items()):
        for j,n in enumerate(names): picture(test/folder/n, 10*k + j)
    for k in range(2): picture(tmp_path/'tinyface'/'Training_Set'/'1'/f'{k}.jpg', 50 + k)
    names_file(test/'probe_img_ID_pairs.mat', 'probe', probes, [1, 1, 5])
    names_file(test/'gallery_match_img_ID_pairs.mat', 'gallery', match, [1, 5])
    return tmp_path/'tinyface'


def test_tinyface(tinyface):
    table = tinyface_table(tinyface)
    assert table[['path', 'identity', 'split']].values.tolist() == [
        ['Training_Set/1/0.jpg', 'train_1', 'train'], ['Training_Set/1/1.jpg', 'train_1', 'train'],
        ['Testing_Set/Probe/1_1.jpg', '1', 'query'], ['Testing_Set/Probe/1_2.jpg', '1', 'query'],
        ['Testing_Set/Probe/5_1.jpg', '5', 'query'],
        ['Testing_Set/Gallery_Match/1_3.jpg', '1', 'gallery'], ['Testing_Set/Gallery_Match/5_2.jpg', '5', 'gallery'],
        ['Testing_Set/Gallery_Distractor/d1.jpg', 'distractor_d1', 'gallery'],
        ['Testing_Set/Gallery_Distractor/d2.jpg', 'distractor_d2', 'gallery']]
    assert table.attrs['record']['ids_that_names_contradict'] == 0
    assert table.attrs['record']['published']['query'] == (3728, 2569)


def test_tinyface_main_twice_from_above(tinyface, capsys):
    tinyface_table.main(str(tinyface.parent))
    said = capsys.readouterr().out
    assert 'query: 3 pictures of 2 identities, published are 3728 of 2569' in said
    assert read_table(tinyface.parent/'images.csv')['path'][2] == 'tinyface/Testing_Set/Probe/1_1.jpg'
    tinyface_table.main(str(tinyface.parent))
    assert 'nothing to do' in capsys.readouterr().out


@pytest.mark.parametrize('flat', [True, False])
def test_tinyface_aligned(tinyface, flat):
    "An aligned copy beside the set, with another ending"
    for file in (tinyface/'Testing_Set').rglob('*.jpg'):
        target = tinyface.parent/'aligned'/('' if flat else file.parent.name)/f'{file.stem}.png'
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).save(target)
    table = tinyface_table(tinyface, aligned='aligned')
    place = (lambda f: '') if flat else (lambda f: f'{f}/')
    names = {'Probe': ['1_1', '1_2', '5_1'], 'Gallery_Match': ['1_3', '5_2'], 'Gallery_Distractor': ['d1', 'd2']}
    assert table['path'].tolist() == [f'../aligned/{place(f)}{n}.png' for f in names for n in names[f]]
    assert table['split'].tolist() == ['query']*3 + ['gallery']*4
    assert 'train' not in table.attrs['record']['published']
    with pytest.raises(FileNotFoundError, match='other is not a folder'): tinyface_table(tinyface, aligned='other')


def test_tinyface_numbers(tinyface):
    at = tinyface/'Testing_Set'/'probe_img_ID_pairs.mat'
    names_file(at, 'probe', ['1_1.jpg', '1_2.jpg', '5_1.jpg'], None)  # from the names
    assert read_pairs_file(at, 'probe') == (['1_1.jpg', '1_2.jpg', '5_1.jpg'], [1, 1, 5])
    names_file(at, 'probe', ['1_1.jpg'], [5])  # a list of one
    assert read_pairs_file(at, 'probe') == (['1_1.jpg'], [5])
    assert tinyface_table(tinyface).attrs['record']['ids_that_names_contradict'] == 1


@pytest.mark.parametrize('names, ids, said', [(['1_1.jpg'], [1, 2], '1 names and 2 identities'),
                                              (['9_1.jpg'], [9], '1 of 1 pictures of probe_img_ID'),
                                              (['../1_1.jpg'], [1], 'is not the name of a picture'),
                                              (['1_1.jpg']*2, [1, 1], 'twice'),
                                              (['x.jpg'], None, 'no whole number'),
                                              (['1_1.jpg'], [.5], 'no whole number')])
def test_tinyface_that_cannot_be_used(tinyface, names, ids, said):
    names_file(tinyface/'Testing_Set'/'probe_img_ID_pairs.mat', 'probe', names, ids)
    with pytest.raises((ValueError, FileNotFoundError), match=said): tinyface_table(tinyface)


def test_tinyface_elsewhere(tinyface, tmp_path):
    savemat(tinyface/'Testing_Set'/'probe_img_ID_pairs.mat', {'other': [1]})
    with pytest.raises(ValueError, match=r"probe_img_ID_pairs\.mat has no variable 'probe_set'"):
        tinyface_table(tinyface)
    (tinyface/'Testing_Set'/'Gallery_Distractor').rename(tmp_path/'away')
    with pytest.raises(FileNotFoundError, match='lacks Gallery_Distractor; found Gallery_Match/, Probe/'):
        tinyface_table(tinyface)
    with pytest.raises(SystemExit, match=r'TinyFace is not in .*found d1\.jpg, d2\.jpg'):
        tinyface_table.main(str(tmp_path/'away'))


@pytest.mark.parametrize('packed', [True, False])
def test_matlab_files(tmp_path, packed):
    "All that SciPy writes of lists, and what it can not be"
    cells = np.empty((3, 1), object)
    cells[:, 0] = ['a.jpg', 'b', 'ä_1.jpg']
    for kind in ('i1', 'u1', 'i2', 'u2', 'i4', 'u4', 'i8', 'u8', 'f4', 'f8'):
        made = {'names': cells, 'ids': np.array([[3], [100]], kind), 'word': 'text', 'rest': {'x': 1}}
        savemat(tmp_path/'a.mat', made, do_compression=packed)
        found = read_variables(tmp_path/'a.mat', ('names', 'ids', 'word', 'none'))
        assert found['names'] == ['a.jpg', 'b', 'ä_1.jpg']
        assert found['ids'].tolist() == [3, 100]
        assert found['word'] == 'text'
        assert 'none' not in found
    (tmp_path/'h.mat').write_bytes(b'MATLAB 7.3'.ljust(512, b' ') + b'\x89HDF\r\n\x1a\n')
    with pytest.raises(MatlabError, match=r"h\.mat is of MATLAB 7\.3"): read_variables(tmp_path/'h.mat', ())
    (tmp_path/'e.mat').write_bytes(b'')
    with pytest.raises(MatlabError, match=r'e\.mat is not a MATLAB file'): read_variables(tmp_path/'e.mat', ())
    with pytest.raises(FileNotFoundError, match='no such MATLAB file'): read_variables(tmp_path/'none.mat', ())


def test_big_endian_and_a_lie(tmp_path):
    def cell(kind, body): return np.array([kind, len(body)], '>u4').tobytes() + body + b'\0'*(-len(body) % 8)
    flags,dims = np.array([6, 0], '>u4').tobytes(), np.array([2, 1], '>i4').tobytes()
    matrix = cell(14, cell(6, flags) + cell(5, dims) + cell(1, b'ids')
                  + cell(9, np.array([7, 8], '>f8').tobytes()))
    (tmp_path/'a.mat').write_bytes(b' '*124 + b'\x01\x00MI' + matrix)
    assert read_variables(tmp_path/'a.mat', ('ids',))['ids'].tolist() == [7, 8]
    (tmp_path/'a.mat').write_bytes(b' '*124 + b'\x01\x00MI' + np.array([14, 2**32 - 1], '>u4').tobytes())
    with pytest.raises(MatlabError, match=r'a\.mat is damaged \(an element is longer'):
        read_variables(tmp_path/'a.mat', ())
    (tmp_path/'a.mat').write_bytes(b' '*124 + b'\x01\x00MI' + cell(15, zlib.compress(b'\0'*2**27)))
    with pytest.raises(MatlabError, match='too large for a list'): read_variables(tmp_path/'a.mat', ())


def test_damaged_matlab_files(tinyface):
    "Only an error that names the file, whatever the bytes"
    file,rng,read = tinyface/'Testing_Set'/'probe_img_ID_pairs.mat', random.Random(0), 0
    whole = file.read_bytes()
    for _ in range(1200):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            k = rng.randrange(len(data))
            if rng.random() < .6: data[k] = rng.randrange(256)
            else: del data[k:k + rng.randint(1, 9)]
        file.write_bytes(data)
        try: read_pairs_file(file, 'probe'); read += 1
        except ValueError as e: assert 'probe_img_ID_pairs.mat' in str(e)
    assert read > 100
