"Verification sets from lists of pairs"
import numpy as np
import pytest
from pairs import pairs_table
from PIL import Image

from qsd_fastai.data.pairs import check_pairs, read_pairs
from qsd_fastai.data.table import read_table

LFW = ['2\t2', 'Ann\t1\t2', 'Bo_Li\t1\t3', 'Ann\t1\tBo_Li\t2', 'Cy\t1\tAnn\t2', 'Bo_Li\t2\t3', 'Ann\t2\t1',
       'Cy\t1\tBo_Li\t1', 'Ann\t1\tCy\t1']


@pytest.fixture
def lfw(tmp_path):
    for i,(name, n) in enumerate([('Ann', 2), ('Bo_Li', 3), ('Cy', 1)]):
        (tmp_path/'lfw'/name).mkdir(parents=True)
        for k in range(n):
            pixels = np.random.default_rng([i, k]).integers(0, 255, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path/'lfw'/name/f'{name}_{k + 1:04d}.jpg')
    (tmp_path/'pairs.txt').write_text('\n'.join(LFW) + '\n')
    return tmp_path


def test_lfw(lfw):
    table,pairs = pairs_table(lfw/'lfw', lfw/'pairs.txt')
    assert [tuple(r) for r in pairs.itertuples(index=False)] == [
        ('Ann/Ann_0001.jpg', 'Ann/Ann_0002.jpg', 1, 0), ('Bo_Li/Bo_Li_0001.jpg', 'Bo_Li/Bo_Li_0003.jpg', 1, 0),
        ('Ann/Ann_0001.jpg', 'Bo_Li/Bo_Li_0002.jpg', 0, 0), ('Cy/Cy_0001.jpg', 'Ann/Ann_0002.jpg', 0, 0),
        ('Bo_Li/Bo_Li_0002.jpg', 'Bo_Li/Bo_Li_0003.jpg', 1, 1), ('Ann/Ann_0002.jpg', 'Ann/Ann_0001.jpg', 1, 1),
        ('Cy/Cy_0001.jpg', 'Bo_Li/Bo_Li_0001.jpg', 0, 1), ('Ann/Ann_0001.jpg', 'Cy/Cy_0001.jpg', 0, 1)]
    assert table['identity'].tolist() == ['Ann']*2 + ['Bo_Li']*3 + ['Cy']
    assert table.attrs['record'] == {'source': 'LFW list', 'pairs': 8, 'folds': 2, 'pairs_that_folders_contradict': 0}


@pytest.mark.parametrize('folder', ['xqlfw_aligned_112', 'lfw_original_imgs_min_qual0.85variant11'])
def test_xqlfw(tmp_path, folder):
    "LFW's form, ten folds of other pairs; the counts of LFW are not claimed"
    people = [f'Person_{i:03d}' for i in range(300)]
    for name in people: (tmp_path/folder/name).mkdir(parents=True)
    for name in people:
        for k in (1, 2): (tmp_path/folder/name/f'{name}_{k:04d}.jpg').touch()
    same = [f'{a}\t1\t2' for a in people]
    other = [f'{a}\t1\t{b}\t2' for a,b in zip(people, people[1:] + people[:1])]
    (tmp_path/'xqlfw_pairs.txt').write_text('\n'.join(['10\t300', *(same + other)*10]) + '\n')
    table,pairs = pairs_table(tmp_path/folder, tmp_path/'xqlfw_pairs.txt', verify=False)
    assert len(pairs) == 6000
    assert pairs.groupby('fold')['same'].agg(['size', 'sum']).to_numpy().tolist() == [[600, 300]]*10
    assert tuple(pairs.iloc[0]) == ('Person_000/Person_000_0001.jpg', 'Person_000/Person_000_0002.jpg', 1, 0)
    assert tuple(pairs.iloc[300]) == ('Person_000/Person_000_0001.jpg', 'Person_001/Person_001_0002.jpg', 0, 0)
    assert table['identity'].nunique() == 300
    assert table.attrs['record']['source'] == 'XQLFW list'
    assert 'published' not in table.attrs['record']


def test_main_twice(lfw, capsys):
    pairs_table.main(str(lfw/'lfw'), str(lfw/'pairs.txt'))
    assert '8 pairs, 4 of one person, in 2 folds' in capsys.readouterr().out
    with pytest.warns(UserWarning, match='one picture'): table = read_table(lfw/'lfw'/'images.csv')
    pairs = read_pairs(lfw/'lfw'/'pairs.csv', table)
    assert pairs['same'].dtype == bool
    assert pairs['fold'].tolist() == [0]*4 + [1]*4
    pairs_table.main(str(lfw/'lfw'), str(lfw/'pairs.txt'))
    assert 'nothing to do' in capsys.readouterr().out


def test_plain_list(lfw):
    (lfw/'list.txt').write_text('Ann/Ann_0001.jpg Ann/Ann_0002.jpg 1\nAnn/Ann_0001.jpg Cy/Cy_0001.jpg 1\n')
    table,pairs = pairs_table(lfw/'lfw', lfw/'list.txt', folds=2)
    assert pairs['fold'].tolist() == [0, 1]
    assert pairs['same'].tolist() == [1, 1]
    assert table.attrs['record']['pairs_that_folders_contradict'] == 1


@pytest.mark.parametrize('n, line, said', [
    (0, '2\t3', '8 pairs, and the first line asks for 2 x 2 x 3'), (1, 'Ann\t1', "line 2: 'Ann.*one person"),
    (3, 'Ann\t1\t2', "line 4: .*two people"), (2, 'Bo_Li\tx\t3', 'line 3'),
    (5, 'Ann\t2\t7', r"line 6: 'Ann/Ann_0007\.jpg' is not in"), (0, 'a\tb', 'line 1')])
def test_lists_that_cannot_be_read(lfw, n, line, said):
    (lfw/'pairs.txt').write_text('\n'.join([*LFW[:n], line, *LFW[n + 1:]]))
    with pytest.raises((ValueError, FileNotFoundError), match=r'pairs\.txt.*' + said):
        pairs_table(lfw/'lfw', lfw/'pairs.txt')


def test_a_pair_whose_picture_cannot_be_read(lfw):
    (lfw/'lfw'/'Cy'/'Cy_0001.jpg').write_text('no picture')
    with pytest.raises(ValueError, match=r"1 of 6 pictures cannot be read, first 'Cy/Cy_0001\.jpg"):
        pairs_table(lfw/'lfw', lfw/'pairs.txt')


def test_check_pairs(lfw):
    table,pairs = pairs_table(lfw/'lfw', lfw/'pairs.txt')
    for change,said in [
        ({'same': 2}, r"'same' is neither 0 nor 1 in 8 of 8.*row 0"), ({'fold': -1}, 'integer from 0'),
        ({'path2': pairs['path1']}, 'same picture')]:
        with pytest.raises(ValueError, match=said): check_pairs(pairs.assign(**change), table)
    with pytest.raises(ValueError, match=r"no column 'fold'"): check_pairs(pairs.drop(columns='fold'))
    with pytest.raises(FileNotFoundError, match=r'data_prep/pairs\.py'): read_pairs(lfw/'none.csv')


def test_people_of_the_held_out_folds_are_not_trained_on(lfw, capsys):
    (lfw/'lfw'/'Dee').mkdir()
    for k in (1, 2): Image.new('RGB', (16, 16), (40*k, 9, 9)).save(lfw/'lfw'/'Dee'/f'Dee_{k:04d}.jpg')
    last = ['Bo_Li\t2\t3', 'Bo_Li\t1\t2', 'Cy\t1\tBo_Li\t1', 'Bo_Li\t1\tCy\t1']
    (lfw/'pairs.txt').write_text('\n'.join(LFW[:5] + last) + '\n')
    pairs_table.main(str(lfw/'lfw'), str(lfw/'pairs.txt'), hold_out=1)
    table = read_table(lfw/'lfw'/'images.csv')
    split = table.groupby('identity')['split'].agg(lambda o: ''.join(sorted(set(o)))).to_dict()
    assert split == {'Ann': 'train', 'Bo_Li': 'gallery', 'Cy': 'gallery', 'Dee': 'train'}
    pairs = read_pairs(lfw/'lfw'/'pairs.csv', table)
    assert len(pairs) == 4
    assert set(pairs['fold']) == {1}
    assert table.attrs['record']['held_out_identities'] == 2
    with pytest.raises(SystemExit, match='there are 2 folds'):
        pairs_table.main(str(lfw/'lfw'), str(lfw/'pairs.txt'), hold_out=3, force=True)


def test_a_table_elsewhere_leads_back_to_the_pictures(lfw, capsys):
    pairs_table.main(str(lfw/'lfw'), str(lfw/'pairs.txt'), out=str(lfw/'deep'/'out'))
    with pytest.warns(UserWarning, match='one picture'): table = read_table(lfw/'deep'/'out'/'images.csv')
    pairs = read_pairs(lfw/'deep'/'out'/'pairs.csv', table)
    assert pairs['path1'][0] == '../../lfw/Ann/Ann_0001.jpg'
    assert not (lfw/'lfw'/'images.csv').exists()
    pairs_table.main(str(lfw/'lfw'), str(lfw/'pairs.txt'), out=str(lfw/'deep'/'out'))
    assert 'nothing to do' in capsys.readouterr().out


@pytest.mark.parametrize('content,said', [(b'\xff\xfe\x00', 'byte 0: not UTF-8'), (b'', 'is empty'),
                                          (b'a\0b c 1\n', 'line 1: holds a zero byte'),
                                          (b'10\t300\nAnn\t1\t2\n', '1 pairs, and the first line asks'),
                                          (b'\nAnn/Ann_0001.jpg x.jpg 1\n', 'line 2: .x.jpg.')])
def test_lists_that_cannot_be_read_name_file_and_place(lfw, content, said):
    (lfw/'list.txt').write_bytes(content)
    with pytest.raises((ValueError, FileNotFoundError), match=r'list\.txt.*' + said):
        pairs_table(lfw/'lfw', lfw/'list.txt')


def test_fuzzed_lists_give_our_errors_only(lfw):
    rng,good = np.random.default_rng(0), (lfw/'pairs.txt').read_bytes()
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(rng.integers(1, 6)): data[rng.integers(len(data))] = rng.integers(256)
        (lfw/'list.txt').write_bytes(data[:rng.integers(1, len(data) + 1)])
        try: pairs_table(lfw/'lfw', lfw/'list.txt', verify=False)
        except (ValueError, FileNotFoundError) as e: assert 'list.txt' in str(e) or 'Column' in str(e)
