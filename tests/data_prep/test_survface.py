"QMUL-SurvFace: a watch list and its queries, pairs, and what a wrong list or folder gets"
import numpy as np
import pytest
from made_up import draw, rows, twice
from scipy.io import savemat
from survface import survface_table

from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import read_table

SEARCH,PAIRS = 'Face_Identification_Test_Set', 'Face_Verification_Test_Set'
GALLERY,MATED = ['5_cam1_1.jpg', '5_cam2_2.jpg', '12_cam1_1.jpg'], ['12_cam3_9.jpg', '5_cam1_3.jpg']
UNMATED = ['77_cam2_1.jpg', 'distractors_1.jpg', 'distractors_2.jpg']


def cells(names):
    "As MATLAB's cells of text: one row a list, one column a name in it"
    out = np.empty((len(names), len(names[0])), object)
    out[:] = names
    return out


def names_list(root, role, names, ids, folder=SEARCH):
    found = {f'{role}_set': cells([[n] for n in names]), f'{role}_ids': np.array(ids, np.uint16)[:, None]}
    (root/folder).mkdir(parents=True, exist_ok=True)
    savemat(root/folder/f'{role}_img_ID_pairs.mat', found)


def pair_list(root, kind, pairs): savemat(root/PAIRS/f'{kind}_pairs_names.mat', {f'{kind}_pairs_names': cells(pairs)})


@pytest.fixture
def root(tmp_path):
    root = tmp_path/'QMUL-SurvFace'
    draw(root, *[f'training_set/{w}/{w}_cam{k}_1.jpg' for w in (1, 30) for k in (1, 2)],
         *[f'{SEARCH}/{f}/{n}' for f,of in (('gallery', GALLERY), ('mated_probe', MATED), ('unmated_probe', UNMATED))
           for n in of], *[f'{PAIRS}/verification_images/{n}' for n in [*GALLERY, MATED[0], UNMATED[0]]])
    names_list(root, 'gallery', GALLERY, [2, 2, 1])
    names_list(root, 'mated_probe', MATED, [1, 2])
    pair_list(root, 'positive', [GALLERY[:2], [GALLERY[2], MATED[0]]])
    pair_list(root, 'negative', [[GALLERY[0], MATED[0]], [GALLERY[1], UNMATED[0]]])
    return root


def test_a_watch_list(root, capsys):
    table = survface_table(root)[0]
    at = f'{SEARCH}/'
    assert rows(table) == [
        ('training_set/1/1_cam1_1.jpg', '1', '', 'train'), ('training_set/1/1_cam2_1.jpg', '1', '', 'train'),
        ('training_set/30/30_cam1_1.jpg', '30', '', 'train'), ('training_set/30/30_cam2_1.jpg', '30', '', 'train'),
        (f'{at}gallery/12_cam1_1.jpg', '12', '', 'gallery'), (f'{at}gallery/5_cam1_1.jpg', '5', '', 'gallery'),
        (f'{at}gallery/5_cam2_2.jpg', '5', '', 'gallery'), (f'{at}mated_probe/12_cam3_9.jpg', '12', '', 'query'),
        (f'{at}mated_probe/5_cam1_3.jpg', '5', '', 'query'), (f'{at}unmated_probe/77_cam2_1.jpg', '77', '', 'query'),
        (f'{at}unmated_probe/distractors_1.jpg', 'distractors_1', '', 'query'),
        (f'{at}unmated_probe/distractors_2.jpg', 'distractors_2', '', 'query')]
    assert table['seen_by'].tolist() == ['1', '2', '1', '2', '1', '1', '2', '3', '1', '2', '', '']
    assert table.attrs['record']['open_set'] == {'rank': 20, 'fpir': [.3, .2, .1, .01], 'gallery': 'mean of a person'}
    said = twice(survface_table, capsys, root)
    assert 'query: 5 pictures of 5 identities, published are 182323 of 10254' in said
    assert '5 in Face_Verification_Test_Set/verification_images' in said


def test_pairs(root, capsys):
    said = twice(survface_table, capsys, root.parent, test='verification')
    assert 'Note: 2 and 2 pairs; published are 5320 each.' in said
    table = read_table(root.parent/'images.csv')
    assert table['split'].value_counts().to_dict() == {'gallery': 5, 'train': 4}
    pairs = read_pairs(root.parent/'pairs.csv', table)
    at = f'QMUL-SurvFace/{PAIRS}/verification_images/'
    assert [tuple(r) for r in pairs.itertuples(index=False)] == [
        (f'{at}5_cam1_1.jpg', f'{at}5_cam2_2.jpg', True, 0), (f'{at}12_cam1_1.jpg', f'{at}12_cam3_9.jpg', True, 5),
        (f'{at}5_cam1_1.jpg', f'{at}12_cam3_9.jpg', False, 0), (f'{at}5_cam2_2.jpg', f'{at}77_cam2_1.jpg', False, 5)]


def test_a_watch_list_after_pairs_leaves_no_pairs(root):
    survface_table.main(str(root), test='verification')
    survface_table.main(str(root), force=True)
    assert not (root/'pairs.csv').exists()


def test_without_a_training_set_and_with_lists_elsewhere(root):
    for file in (root/'training_set').rglob('*.jpg'): file.unlink()
    for o in ((root/'training_set'/'1'), (root/'training_set'/'30'), root/'training_set'): o.rmdir()
    for role,names,ids in (('gallery', GALLERY, [2, 2, 1]), ('mated_probe', MATED, [1, 2])):
        (root/SEARCH/f'{role}_img_ID_pairs.mat').unlink()
        names_list(root, role, names, ids, 'Face_Identification_Evaluation')
    table = survface_table(root)[0]
    assert set(table['split']) == {'query', 'gallery'}
    assert 'train' not in table.attrs['record']['published']


def test_a_picture_that_no_list_names_is_told(root, capsys):
    draw(root, f'{SEARCH}/gallery/5_cam2_7.jpg')
    survface_table.main(str(root))
    assert f'1 in {SEARCH}/gallery' in capsys.readouterr().out
    assert not read_table(root/'images.csv')['path'].str.contains('5_cam2_7').any()


def wrong(root, what):
    "One thing that is not as it should be"
    at = root/SEARCH
    if what == 'numbers': names_list(root, 'mated_probe', MATED, [2, 2])
    if what == 'one number': names_list(root, 'gallery', GALLERY, [2, 2, 2])
    if what == 'missing': (at/'gallery'/GALLERY[0]).unlink()
    if what == 'no list': (at/'gallery_img_ID_pairs.mat').unlink()
    if what == 'damaged': (at/'gallery_img_ID_pairs.mat').write_bytes(b'x')
    if what == 'other': savemat(at/'gallery_img_ID_pairs.mat', {'names': [1]})
    if what == 'on it': draw(root, f'{SEARCH}/unmated_probe/12_cam1_4.jpg')
    if what == 'not on it':
        draw(root, f'{SEARCH}/mated_probe/99_cam1_4.jpg')
        names_list(root, 'mated_probe', [*MATED, '99_cam1_4.jpg'], [1, 2, 3])
    if what == 'name': draw(root, f'{SEARCH}/unmated_probe/cat.jpg')
    if what == 'folder': draw(root, 'training_set/1/30_cam1_7.jpg')
    if what == 'both': draw(root, 'training_set/12/12_cam1_7.jpg')
    if what == 'no folder': (root/SEARCH/'mated_probe').rename(root/'away')


@pytest.mark.parametrize('what, said', [
    ('numbers', r"mated_probe_img_ID_pairs\.mat: '12_cam3_9\.jpg' has the number 2, .*person 12"),
    ('one number', r"gallery_img_ID_pairs\.mat: '12_cam1_1\.jpg' has the number 2"),
    ('missing', r"1 of 3 pictures of gallery_img_ID_pairs\.mat are missing in .*first '5_cam1_1\.jpg'.*Unpack"),
    ('no list', r'gallery_img_ID_pairs\.mat: no such MATLAB file'),
    ('damaged', r'gallery_img_ID_pairs\.mat is not a MATLAB file'),
    ('other', r"gallery_img_ID_pairs\.mat has no variable 'gallery_set'"),
    ('on it', r"unmated_probe/12_cam1_4\.jpg' is of somebody in the gallery"),
    ('not on it', r"mated_probe/99_cam1_4\.jpg' is of nobody in the gallery"),
    ('name', r'unmated_probe/cat\.jpg is not named like 12_cam3_1\.jpg or distractors_7\.jpg'),
    ('folder', r"1 pictures lie in the folder of somebody else.*'training_set/1/30_cam1_7\.jpg'"),
    ('both', '1 people are both trained on and judged, first 12'),
    ('no folder', 'lacks Face_Identification_Test_Set/mated_probe')])
def test_refused(root, what, said):
    wrong(root, what)
    with pytest.raises((ValueError, FileNotFoundError), match=said): survface_table(root)


@pytest.mark.parametrize('pairs, said', [
    ([[GALLERY[0], 'x.jpg']], r"1 names of positive_pairs_names\.mat are not in .*first 'x\.jpg'"),
    ([[GALLERY[0], MATED[0]]], r"1 pairs say something else than the names do, first .*5_cam1_1\.jpg' and .* one"),
    ([[GALLERY[0]]], r'positive_pairs_names\.mat has no two columns of names')])
def test_pairs_refused(root, pairs, said):
    pair_list(root, 'positive', pairs)
    with pytest.raises((ValueError, FileNotFoundError), match=said): survface_table(root, 'verification')


def test_an_unreadable_picture(root):
    for n in (GALLERY[0], UNMATED[2]): (root/SEARCH/('gallery' if n in GALLERY else 'unmated_probe')/n).write_text('x')
    table = survface_table(root)[0]
    assert len(table) == 10
    assert len(table.attrs['unreadable']) == 2
    (root/PAIRS/'verification_images'/GALLERY[0]).write_text('x')
    with pytest.raises(ValueError, match=r'1 of 5 pictures cannot be read, first .*5_cam1_1\.jpg'):
        survface_table(root, 'verification')
    with pytest.raises(ValueError, match=r"--test is 'open'"): survface_table(root, 'open')
