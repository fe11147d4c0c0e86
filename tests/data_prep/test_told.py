"What folders, columns and lists tell is kept, by every script; and nothing that lies there is passed over in silence"
import re
import shlex
from importlib import import_module

import numpy as np
import pandas as pd
import pytest
from common.sets import Set
from common.told import part_of
from folder import folder_table
from listed import listed_table
from made_up import ROOT, draw, rows
from market1501 import market1501_table
from pairs import pairs_table
from scipy.io import savemat

from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import read_table

A,B = (1, '0002'), ('0003', '0004')  # trained on, judged


def each(*layout):
    "Two pictures of everybody, in folders as the layout says"
    return [o.format(a=a, b=b, k=k) for o in layout for a,b in zip(A, B) for k in (1, 2)]


@pytest.mark.parametrize('name, part', [
    ('train', 'train'), ('Train', 'train'), ('bounding_box_train', 'train'), ('image_train', 'train'),
    ('train_images', 'train'), ('mask_train_v2', 'train'), ('train_all', 'all'), ('trainval', 'all'), ('val', 'val'),
    ('validation', 'val'), ('test', 'test'), ('mask_test_v2', 'test'), ('bounding_box_test', 'gallery'),
    ('image_test', 'gallery'), ('query', 'query'), ('Probe', 'query'), ('image_query', 'query'), ('gallery', 'gallery'),
    ('gt_bbox', 'aside'), ('gt_query', 'aside'), ('multi-query', 'aside'), ('train_list', 'train'),
    ('0001', ''), ('anna', ''), ('training day', ''), ('cam1', ''), ('images', ''), ('', '')])
def test_names_of_parts(name, part):
    assert part_of(name) == part


LAYOUTS = {
    'plain': ['train/{a}/{k}.png', 'query/{b}/{k}.png', 'gallery/{b}/{k}.png'],
    'all of it': ['train/{a}/{k}.png', 'train_all/{a}/{k}.png', 'query/{b}/{k}.png', 'gallery/{b}/{k}.png'],
    'with val': ['train/{a}/{k}.png', 'val/{a}/v{k}.png', 'train_all/{a}/{k}.png', 'train_all/{a}/v{k}.png',
                 'query/{b}/{k}.png', 'gallery/{b}/{k}.png', 'multi-query/{b}/{k}.png'],
    'drawn boxes': ['train/{a}/{k}.png', 'gt_bbox/{a}_{k}.png', 'query/{b}/{k}.png', 'gallery/{b}/{k}.png'],
    'cameras': ['train/cam{k}/{a}/x.png', 'query/cam{k}/{b}/x.png', 'gallery/cam{k}/{b}/y.png'],
    'deeper': ['data/v1/train/{a}/{k}.png', 'data/v1/query/{b}/{k}.png', 'data/v1/gallery/{b}/{k}.png'],
    'two levels': ['train/{a}/{k}.png', 'test/query/{b}/{k}.png', 'test/gallery/{b}/{k}.png'],
    'flat': ['bounding_box_train/{a}_c{k}.png', 'query/{b}_c{k}.png', 'bounding_box_test/{b}_c{k}.png'],
    'flat, other names': ['Train/x{a}_{k}.png', 'Probe/x{b}_{k}.png', 'Gallery/x{b}_{k}.png'],
    'vehicles': ['image_train/{a}_c{k}.png', 'image_query/{b}_c{k}.png', 'image_test/{b}_c{k}.png'],
    'test and query': ['train/{a}/{k}.png', 'query/{b}/{k}.png', 'test/{b}/{k}.png'],
    'unlike': ['train/cam1/{a}/{k}.png', 'query/{b}/{k}.png', 'gallery/{b}/{k}.png'],
    'train and test': ['train/{a}/{k}.png', 'test/{b}/{k}.png'],
    'train and val': ['train/{a}/{k}.png', 'val/{b}/{k}.png'],
    'cameras first': ['cam{k}/train/{a}/x.png', 'cam{k}/test/{b}/x.png'], 'only train': ['train/{a}/{k}.png'],
    'within people': ['{a}/train/{k}.png', '{a}/test/{k}.png', '{b}/train/{k}.png', '{b}/test/{k}.png']}
WORDS = {'train': 'train', 'train_all': 'train', 'bounding_box_train': 'train', 'image_train': 'train',
         'Train': 'train', 'query': 'query', 'Probe': 'query', 'image_query': 'query', 'gallery': 'gallery',
         'Gallery': 'gallery', 'bounding_box_test': 'gallery', 'image_test': 'gallery', 'test': 'judged',
         'val': 'judged'}


def advised(root):
    "The table that the script's own advice gives"
    with pytest.raises(ValueError, match='splits, not identities') as said: folder_table(root)
    options = shlex.split(re.search(r"(--identity '.*?'( --camera '.*?')?)[.,]", str(said.value))[1])
    return folder_table(root, **{k[2:]: v for k,v in zip(options[::2], options[1::2])})


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('layout', LAYOUTS)
def test_the_split_that_folders_tell_is_kept(tmp_path, layout):
    draw(tmp_path, *each(*LAYOUTS[layout]))
    table = advised(tmp_path)
    for path,split in zip(table['path'], table['split']):
        told = [WORDS[o] for o in path.split('/') if o in WORDS][-1]
        if told == 'judged' and 'query' in layout: told = 'gallery'
        assert split in ('query', 'gallery') if told == 'judged' else split == told, path
    assert {i.removeprefix('x') for i in table['identity']} == {*map(str, A), *({} if layout == 'only train' else B)}
    if 'cameras' in layout: assert set(table['camera']) == {'cam1', 'cam2'}
    notes = ' '.join(table.attrs['notes'])
    assert ('left out' in notes) == (layout in ('all of it', 'with val', 'drawn boxes'))
    drawn = 'train and test', 'train and val', 'cameras first', 'within people'
    assert ('drawn there' in notes) == (layout in drawn)
    assert ('nobody is judged' in notes) == (layout == 'only train')
    if layout == 'all of it': assert 'train_all' in set(table['path'].str.split('/').str[0])


@pytest.mark.parametrize('layout, said', [
    (['train/{a}/{k}.png', 'query/{b}/{k}.png', 'gallery/{b}/{k}.png', 'demo/{k}.png'], "first 'demo/1.png'"),
    (['train/{a}/{k}.png', 'query/{b}/{k}.png'], 'queries and no gallery'),
    (['train/{a}/{k}.png', 'train_all/{a}/x{k}.png', 'query/{b}/{k}.png', 'gallery/{b}/{k}.png'], 'train_all lacks 4'),
    (['query/{b}/{k}.png', 'gallery/{b}/{k}.png', 'test/{b}/{k}.png'], 'query, gallery and test')])
def test_folders_that_cannot_be_a_split_are_refused(tmp_path, layout, said):
    draw(tmp_path, *each(*layout))
    with pytest.raises(ValueError, match='splits, not identities'): folder_table(tmp_path)
    with pytest.raises(ValueError, match=said): folder_table(tmp_path, identity='^[^/]+/([^/]+)')


@pytest.mark.filterwarnings('ignore')
def test_cameras_are_no_identities(tmp_path):
    draw(tmp_path, *each('cam{k}/{a}/x.png', 'cam{k}/{b}/x.png'))
    with pytest.raises(ValueError, match='cameras, not identities') as said: folder_table(tmp_path)
    assert "--identity '^[^/]+/([^/]+)/' --camera '^([^/]+)/'" in str(said.value)


def test_a_person_may_be_called_val(tmp_path):
    draw(tmp_path, *[f'{who}/{k}.png' for who in ('Val', 'Anna', 'Ben', 'Query') for k in (1, 2)][:6])
    assert set(folder_table(tmp_path)['identity']) == {'Val', 'Anna', 'Ben'}


def test_queries_are_told_once(tmp_path):
    draw(tmp_path, *each(*LAYOUTS['plain']))
    with pytest.raises(ValueError, match=r'--query .* tell the queries'):
        folder_table(tmp_path, identity='^[^/]+/([^/]+)/', query='1')
    draw(tmp_path/'half', *each(*LAYOUTS['train and test']))
    table = folder_table(tmp_path/'half', identity='^[^/]+/([^/]+)/', query='^2')
    assert table['path'][table['split'] == 'query'].tolist() == ['test/0003/2.png', 'test/0004/2.png']


def test_other_scripts_send_a_told_split_where_it_is_kept(tmp_path):
    draw(tmp_path, *each('train/{a}/{b}_c{k}s1.png', 'query/{b}/{b}_c{k}s1.png', 'gallery/{b}/{b}_c{k}s2.png'))
    with pytest.raises(ValueError, match=r'tells its own split .*folder\.py .*--identity'): market1501_table(tmp_path)

# a list that says nothing of splits, columns that do

def test_the_split_that_paths_of_a_list_tell_is_kept(tmp_path):
    names = each(*LAYOUTS['plain'])
    draw(tmp_path, *names)
    (tmp_path/'all.lst').write_text('\n'.join(f'{k}\t{k//4}\t{n}' for k,n in enumerate(names)))
    table = listed_table(tmp_path/'all.lst')
    assert table['split'].tolist() == table['path'].str.split('/').str[0].tolist()
    with pytest.raises(ValueError, match='--test'): listed_table(tmp_path/'all.lst', test=.5)
    for split in ('train', 'query', 'gallery'): (tmp_path/f'{split}.txt').write_text(f'{names[0]}\t1\n')
    assert 'gallery.txt, query.txt beside train.txt are not read' in ' '.join(
        listed_table(tmp_path/'train.txt').attrs['notes'])


OML = pd.DataFrame({'label': ['a', 'a', 'b', 'b'], 'path': ['1.png', '2.png', '3.png', '4.png'],
                    'split': ['train', 'train', 'validation', 'validation'], 'is_query': [None, None, True, False],
                    'is_gallery': [None, None, False, True]})


@pytest.mark.parametrize('write', [str, lambda o: {True: '1', False: '0', None: ''}[o],
                                   lambda o: {True: '1.0', False: '0.0', None: 'nan'}[o]])
@pytest.mark.parametrize('columns', [{}, {'path': 'path', 'identity': 'label', 'split': 'split'}])
def test_oml_tables(tmp_path, write, columns):
    draw(tmp_path, *OML['path'])
    OML.assign(**{c: OML[c].map(write) for c in ('is_query', 'is_gallery')}).to_csv(tmp_path/'df.csv', index=False)
    found = rows(listed_table(tmp_path/'df.csv', **columns))
    assert found == [('1.png', 'a', '', 'train'), ('2.png', 'a', '', 'train'), ('3.png', 'b', '', 'query'),
                     ('4.png', 'b', '', 'gallery')]


@pytest.mark.parametrize('query, gallery, said', [(True, True, 'both query and gallery'), (False, False, 'neither'),
                                                  ('maybe', False, "is_query is 'maybe'")])
def test_oml_tables_that_cannot_be_kept(tmp_path, query, gallery, said):
    draw(tmp_path, *OML['path'])
    table = OML.astype({'is_query': object, 'is_gallery': object})
    table.loc[3, ['is_query', 'is_gallery']] = query,gallery
    table.to_csv(tmp_path/'df.csv', index=False)
    with pytest.raises(ValueError, match=f'df.csv, line 5: .*{said}'): listed_table(tmp_path/'df.csv')


def test_cameras_of_lists_that_pandas_made_floats(tmp_path):
    names = each(*LAYOUTS['plain'])
    draw(tmp_path, *names)
    for split in ('train', 'query', 'gallery'):
        of = pd.DataFrame({'path': [n for n in names if n.startswith(split)], 'identity': '007'})
        cameras = np.arange(len(of)) % 2 + 1
        of.assign(camera=cameras.astype(float) if split == 'query' else cameras).to_csv(tmp_path/f'{split}.csv')
    with pytest.warns(UserWarning, match="camera: spellings .*'1' and '1.0'"):
        table = listed_table(*[tmp_path/f'{split}.csv' for split in ('train', 'query', 'gallery')])
    assert sorted(set(table['camera'])) == ['1', '2']
    assert set(table['identity']) == {'007'}

# View 1 of LFW

@pytest.fixture
def lfw(tmp_path):
    draw(tmp_path/'lfw', *[f'{who}/{who}_{k:04d}.jpg' for who in ('Ann', 'Bo', 'Cy', 'Dee') for k in (1, 2)])
    (tmp_path/'pairsDevTest.txt').write_text('2\n\nCy\t1\t2\nDee\t1\t2\nCy\t1\tDee\t1\nCy\t2\tDee\t2\n')
    (tmp_path/'peopleDevTrain.txt').write_text('2\nAnn\t2\nBo\t2\n')
    return tmp_path


def test_view_1(lfw):
    pairs_table.main(str(lfw/'lfw'), str(lfw/'pairsDevTest.txt'), people=str(lfw/'peopleDevTrain.txt'), folds=2)
    table = read_table(lfw/'lfw'/'images.csv')
    splits = table.groupby('identity')['split'].first().to_dict()
    assert splits == {'Ann': 'train', 'Bo': 'train', 'Cy': 'gallery', 'Dee': 'gallery'}
    pairs = read_pairs(lfw/'lfw'/'pairs.csv', table)
    assert pairs['same'].tolist() == [True, True, False, False]
    assert pairs['fold'].tolist() == [0, 1, 0, 1], 'each fold has pairs of both kinds'
    assert table.attrs['record']['view'] == 1
    assert table.attrs['record']['trained_on'] == 2


@pytest.mark.parametrize('file, text, said', [
    ('pairsDevTest.txt', '2\nAnn\t1\t2\nDee\t1\t2\nCy\t1\tDee\t1\nCy\t2\tDee\t2\n', 'people to train on'),
    ('pairsDevTest.txt', '2\n\n\nCy\t1\t2\nDee\tx\t2\nCy\t1\tDee\t1\nCy\t2\tDee\t2\n', r'pairsDevTest\.txt, line 5'),
    ('pairsDevTest.txt', '2\nAnn\t2\nBo\t2\n', r'pairsDevTest\.txt lists people, not pairs.*--people'),
    ('pairsDevTest.txt', '3\nCy\t1\t2\n', '1 pairs, and the first line asks for 1 x 2 x 3'),
    ('peopleDevTrain.txt', '3\nAnn\t2\nBo\t2\n', r"peopleDevTrain\.txt, line 1: '3', and 2 people"),
    ('peopleDevTrain.txt', '2\nAnn\t2\n\nBo\t3\n', r'peopleDevTrain\.txt, line 4: Bo has 3 pictures'),
    ('peopleDevTrain.txt', '1\nAnn\n', r'peopleDevTrain\.txt, line 2')])
def test_view_1_refuses(lfw, file, text, said):
    (lfw/file).write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=said):
        pairs_table(lfw/'lfw', lfw/'pairsDevTest.txt', people=lfw/'peopleDevTrain.txt')

# every script

def vehicles(root):
    names = [f'{v}/{v}_{k}' for v in ('00001', '00002') for k in (1, 2)]
    draw(root, *[f'images/{n}.jpg' for n in names])
    (root/'train_test_split').mkdir()
    info = 'id/image;Camera ID;Time\n' + ''.join(f'{n};{n[-1]};2018\n' for n in names)
    for name,text in (('vehicle_info', info), ('train_list', '\n'.join(names[:2])), ('test_3000_id_query', names[2]),
                      ('test_3000_id', f'{names[3]}.jpg\n')):
        (root/'train_test_split'/f'{name}.txt').write_text(text)


def vehicleid(root):
    draw(root, *[f'image/{k:07d}.jpg' for k in range(1, 7)])
    (root/'train_test_split').mkdir()
    (root/'train_test_split'/'train_list.txt').write_text('0000001 1\n0000002 1\n')
    (root/'train_test_split'/'test_list_800.txt').write_text(''.join(f'{k:07d} {k//5 + 8}\n' for k in range(3, 7)))


def msmt(root):
    names = {'train': '0000/0000_000_01_x.jpg', 'val': '0001/0001_000_03_x.jpg', 'query': '0000/0000_002_10_x.jpg',
             'gallery': '0000/0000_003_01_x.jpg'}
    for split,name in names.items():
        draw(root/('train' if split in ('train', 'val') else 'test'), name)
        (root/f'list_{split}.txt').write_text(f'{name} {int(name[:4])}\n')


def tinyface(root):
    draw(root/'Testing_Set', 'Probe/1_1.jpg', 'Gallery_Match/1_2.jpg', 'Gallery_Distractor/9.jpg')
    for kind,name,of in (('probe', '1_1.jpg', 'probe'), ('gallery', '1_2.jpg', 'gallery_match')):
        found = {f'{kind}_set': np.array([[name]], object), f'{kind}_ids': [[1]]}
        savemat(root/'Testing_Set'/f'{of}_img_ID_pairs.mat', found)


def survface(root):
    at,who = root/'Face_Identification_Test_Set',{'gallery': '1_cam1_1.jpg', 'mated_probe': '1_cam2_2.jpg'}
    draw(root, 'training_set/3/3_cam1_1.jpg')
    draw(at, *[f'{k}/{n}' for k,n in who.items()], 'unmated_probe/distractors_1.jpg')
    for kind,name in who.items():
        found = {f'{kind}_set': np.array([[name]], object), f'{kind}_ids': [[1]]}
        savemat(at/f'{kind}_img_ID_pairs.mat', found)


def pair_list(root):
    draw(root, *[f'{who}/{k}.jpg' for who in ('train/a', 'test/b', 'test/c') for k in (1, 2)])
    (root/'list.txt').write_text('test/b/1.jpg test/b/2.jpg 1\ntest/b/1.jpg test/c/1.jpg 0\n')


def copied(*names): return lambda root: draw(root, *names)


three = copied('bounding_box_train/0001_c1_1.jpg', 'query/0002_c1_1.jpg', 'bounding_box_test/0002_c2_1.jpg')
# how the pictures of each script lie, its options, and of which folder the pictures are in which split
SOURCES = {
    'folder': (copied(*each(*LAYOUTS['plain'])), {'identity': '^[^/]+/([^/]+)/'},
               {'train': 'train', 'query': 'query', 'gallery': 'gallery'}),
    'market1501': (three, {}, {'bounding_box_train': 'train', 'query': 'query', 'bounding_box_test': 'gallery'}),
    'dukemtmc': (three, {}, {'bounding_box_train': 'train', 'query': 'query', 'bounding_box_test': 'gallery'}),
    'veri': (copied('image_train/0001_c1_1.jpg', 'image_query/0002_c1_1.jpg', 'image_test/0002_c2_1.jpg'), {},
             {'image_train': 'train', 'image_query': 'query', 'image_test': 'gallery'}),
    'veriwild': (vehicles, {}, {'images/00001': 'train', 'images/00002/00002_1': 'query',
                                'images/00002/00002_2': 'gallery'}),
    'vehicleid': (vehicleid, {}, {'image/0000001': 'train', 'image/0000002': 'train'}),
    'msmt17': (msmt, {}, {'train/0000': 'train', 'test/0000/0000_002': 'query', 'test/0000/0000_003': 'gallery'}),
    'cuhk03': (copied(*[f'detected/{o}' for o in ('bounding_box_train/0001_c1_1.png', 'query/0002_c1_1.png',
                                                 'bounding_box_test/0002_c2_1.png')]), {},
               {'detected/bounding_box_train': 'train', 'detected/query': 'query',
                'detected/bounding_box_test': 'gallery'}),
    'partial': (copied('partial_body_images/001_1.jpg', 'whole_body_images/001_2.jpg'), {},
                {'partial_body_images': 'query', 'whole_body_images': 'gallery'}),
    'tinyface': (tinyface, {}, {'Testing_Set/Probe': 'query', 'Testing_Set/Gallery_Match': 'gallery'}),
    'scface': (copied('mugshots/001_frontal.jpg', 'cameras/001_cam1_1.jpg'), {},
               {'mugshots': 'gallery', 'cameras': 'query'}),
    'survface': (survface, {}, {'training_set': 'train', 'Face_Identification_Test_Set/gallery': 'gallery',
                                'Face_Identification_Test_Set/mated_probe': 'query',
                                'Face_Identification_Test_Set/unmated_probe': 'query'}),
    'viper': (copied(*[f'cam_{c}/{i:03d}_45.bmp' for c in 'ab' for i in range(4)]), {}, {}),
    'ilids': (copied(*[f'Persons/{i:04d}{k:03d}.jpg' for i in range(1, 5) for k in (1, 2)]), {}, {}),
    'pairs': (pair_list, {'list_file': 'list.txt'}, {'train': 'train', 'test': 'gallery'})}
# what they are made from is no folder of pictures: a list, a file, lists of templates
OTHERS = {'listed', 'records', 'bins', 'ijb'}


def sets():
    "The set of each script that makes one"
    modules = {p.stem: import_module(p.stem) for p in sorted((ROOT/'data_prep').glob('*.py'))
               if 'a_set(' in p.read_text(encoding='utf-8')}
    return {k: next(o for o in vars(m).values() if isinstance(o, Set)) for k,m in modules.items()}


def test_every_script_is_tried():
    assert set(sets()) == SOURCES.keys() | OTHERS


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('script', SOURCES)
def test_a_told_split_is_never_replaced_and_nothing_is_passed_over_in_silence(tmp_path, script, capsys):
    make,options,told = SOURCES[script]
    root,one = tmp_path/'set', sets()[script]
    make(root)
    options = {k: str(root/v) if k == 'list_file' else v for k,v in options.items()}
    draw(root, '@eaDir/a/SYNOPHOTO_THUMB_M.jpg', '$RECYCLE.BIN/$R1.jpg', '__MACOSX/._1.jpg')
    if script not in ('folder', 'pairs'): draw(root, 'what_is_this/1.pgm')
    (root/'phone.heic').write_bytes(b'x')
    one.main(str(root), **options)
    said,table = capsys.readouterr().out, read_table(root/'images.csv')
    for place,split in told.items():
        of = table['split'][table['path'].str.startswith(place)]
        assert set(of) == {split}, place
    assert not table['path'].str.contains('eaDir|RECYCLE|MACOSX|what_is_this').any()
    for words in ('in @eaDir', 'in $RECYCLE.BIN', 'in __MACOSX', '*.heic'): assert words in said
    assert ('1 in what_is_this' in said) == (script not in ('folder', 'pairs'))
