"From folders to tables: what is found, what is refused, what a second run does, and the real faces where they are"
import json
import os
import subprocess
import sys

import degrade as degrade_script
import doctor as doctor_script
import folder as folder_script
import numpy as np
import pandas as pd
import pytest
from folder import folder_table, pictures_in
from made_up import ROOT, draw, snapshot
from market1501 import market1501_table
from PIL import Image

from qsd_fastai.data.folders import SUFFIXES
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import describe_table, read_table, unanswerable, write_table

FACES = ROOT.parent/'shared'/'data'/'london_faces'/'images'


@pytest.fixture
def people(tmp_path):
    draw(tmp_path/'people', *[f'{i:03d}/{k}_c{k % 2}.jpg' for i in range(6) for k in range(4)])
    return tmp_path/'people'

# folder.py

def test_folder_of_identities(people):
    draw(people, '000/deep/9.PNG')
    (people/'000'/'.hidden.jpg').write_text('x'); (people/'notes.txt').write_text('x')
    before = snapshot(people)
    table = folder_table(people)
    assert len(table) == 25
    assert '000/deep/9.PNG' in table['path'].tolist()
    assert set(table['camera']) == {''}
    assert table['identity'].nunique() == 6
    assert table['identity'][0] == '000'
    assert not unanswerable(table).any()
    assert (table['split'] == 'query').sum() == 3
    assert snapshot(people) == before
    assert folder_table(people, test=0)['split'].eq('train').all()


def test_what_comes_next_can_be_typed(people, tmp_path, capsys):
    "Names with blanks in quotes; no recipe for a table that nobody is held out of; lost labels are told"
    folder = people.rename(tmp_path/'my people')
    def said(**kwargs):
        folder_script.main(str(folder), **kwargs)
        return capsys.readouterr().out
    assert f"Next: python recipes/reid.py --data '{folder}/images.csv' --n-ids 3\n" in said()
    table = read_table(folder/'images.csv').assign(quality=50.)
    write_table(table, folder/'images.csv')
    assert '24 quality labels of the table that was there are gone' in said(force=True)
    alone = said(test=0, force=True)
    assert 'quality labels' not in alone
    assert 'recipes/' not in alone
    assert f"Next: in Python, recognition_dataloaders(read_table('{folder}/images.csv')). Nobody is held out" in alone


def test_folder_regexes(people, tmp_path):
    table = folder_table(people, camera=r'_c(\d)\.', query='^0_')
    assert sorted(set(table['camera'])) == ['0', '1']
    assert set(table['path'][table['split'] == 'query'].str[4:]) == {'0_c0.jpg'}
    draw(tmp_path/'flat', *[f'{i}_{k}.bmp' for i in (7, 8, 9) for k in (1, 2)])
    assert set(folder_table(tmp_path/'flat', identity=r'^(\d+)_')['identity']) == {'7', '8', '9'}
    draw(tmp_path/'pre', *[f'{s}/{i}/{k}.jpg' for s,i in [('train', 'a'), ('test', 'b')] for k in (1, 2)])
    with pytest.raises(ValueError, match='splits, not identities'): folder_table(tmp_path/'pre')
    assert set(folder_table(tmp_path/'pre', identity='^[^/]+/([^/]+)/')['identity']) == {'a', 'b'}


@pytest.mark.parametrize('kw, words', [
    ({'identity': 'p'}, ['groups', 'one']), ({'identity': '('}, ['--identity', 'regular expression']),
    ({'camera': r'_c(0)'}, ['12 of 24', '000/1_c1.jpg', 'base name']), ({'query': 'smile'}, ['smile', '000/0_c0.jpg']),
    ({'test': 7}, ['7 held-out', '6 of 6'])])
def test_folder_refuses(people, kw, words):
    with pytest.raises(ValueError) as e: folder_table(people, **kw)
    for w in words: assert w in str(e.value), (w, str(e.value))


def test_wrong_folder(people, tmp_path):
    with pytest.raises(FileNotFoundError, match='people/'): pictures_in(tmp_path/'peple')
    (tmp_path/'docs').mkdir(); (tmp_path/'docs'/'a.txt').write_text('x')
    with pytest.raises(FileNotFoundError) as e: pictures_in(tmp_path/'docs')
    assert 'jpg' in str(e.value)
    assert 'a.txt' in str(e.value)
    draw(people, 'loose.jpg')
    with pytest.raises(ValueError, match=r"1 of 25.*'loose.jpg'.*--identity"): folder_table(people)


def test_links(people, tmp_path):
    (people/'round').symlink_to(people)  # would go round for ever
    draw(tmp_path/'elsewhere', '1.jpg', '2.jpg')
    (people/'linked').symlink_to(tmp_path/'elsewhere')
    found = pictures_in(people)
    assert 'linked/1.jpg' in found
    assert len([p for p in found if p.endswith('0_c0.jpg')]) <= 12


def test_the_next_command_fits_few_people(people, tmp_path, capsys):
    folder_table.main(str(people))
    assert f'--data {people/"images.csv"} --n-ids 3\n' in capsys.readouterr().out
    draw(tmp_path/'many', *[f'{i:03d}/{k}.jpg' for i in range(32) for k in range(2)])
    folder_table.main(str(tmp_path/'many'))
    assert '--n-ids' not in capsys.readouterr().out


def test_unreadable_pictures(people, capsys):
    (people/'001'/'0_c0.jpg').write_text('no picture')
    whole = (people/'002'/'1_c1.jpg').read_bytes()
    (people/'002'/'1_c1.jpg').write_bytes(whole[:len(whole)//2])  # a copy that was stopped
    (people/'003'/'0_c0.jpg').write_bytes(b'')
    table = folder_table(people)
    assert len(table) == 21
    assert [u.split('\t')[0] for u in table.attrs['unreadable']] == ['001/0_c0.jpg', '002/1_c1.jpg', '003/0_c0.jpg']
    assert len(folder_table(people, verify=False)) == 24
    with pytest.raises(ValueError, match=r'3 of 24.*001/0_c0'): folder_table(people, strict=True)
    with pytest.raises(SystemExit, match='3 of 24'): folder_table.main(str(people), strict=True)
    folder_table.main(str(people))
    assert '3 pictures could not be read' in capsys.readouterr().out
    assert len((people/'unreadable.txt').read_text().splitlines()) == 3
    assert read_table(people/'images.csv').attrs['record']['unreadable'] == 3


def test_doctor_finds_copies_and_what_cannot_be_read(people, tmp_path, capsys):
    folder_table.main(str(people))
    said = capsys.readouterr().out
    assert 'byte for byte' not in said
    before = snapshot(people)
    doctor_script.main(str(people/'images.csv'))
    said = capsys.readouterr().out
    assert 'source: folder' in said
    assert 'pictures' in said
    assert 'Note:' not in said
    assert snapshot(people) == before

    table = read_table(people/'images.csv')
    train,held = (sorted(set(table['identity'][(table['split'] == 'train') == o])) for o in (True, False))
    def copy(a, b): (people/b).write_bytes((people/a).read_bytes())
    copy(f'{train[0]}/0_c0.jpg', f'{train[0]}/1_c1.jpg')
    copy(f'{train[1]}/0_c0.jpg', f'{held[0]}/2_c0.jpg')
    (people/held[1]/'3_c1.jpg').write_text('no picture')
    with pytest.raises(SystemExit, match='1 picture could not be read'): doctor_script.main(str(people/'images.csv'))
    said = capsys.readouterr().out
    assert '1 picture is byte for byte those of another identity' in said
    assert '1 picture is byte for byte both trained on and judged on' in said
    assert f"copies within one identity: they weigh double, first '{train[0]}/1_c1.jpg' = '{train[0]}/0_c0.jpg'" in said
    assert (people/'doctor.txt').read_text().startswith(f'{held[1]}/3_c1.jpg\t')
    assert not (people/'unreadable.txt').exists()
    assert read_table(people/'images.csv').equals(table)
    command = [sys.executable, ROOT/'data_prep'/'doctor.py', people/'images.csv', '--workers', '2']
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert 'weigh double' in done.stdout
    assert 'remove their rows or replace them' in done.stderr
    doctor_script.main(str(people/'images.csv'), no_verify=True)
    (people/train[0]/'0_c0.jpg').unlink()
    with pytest.raises(SystemExit, match='2 pictures could not be read'): doctor_script.main(str(people/'images.csv'))
    assert f'{train[0]}/0_c0.jpg\tFileNotFoundError' in (people/'doctor.txt').read_text()
    with pytest.raises(SystemExit, match=f'{train[0]}/0_c0'):
        doctor_script.main(str(people/'images.csv'), no_verify=True)


def test_doctor_leaves_the_list_of_what_was_left_out(people):
    (people/'001'/'0_c0.jpg').write_text('no picture')
    folder_table.main(str(people))
    listed = (people/'unreadable.txt').read_text()
    doctor_script.main(str(people/'images.csv'))
    assert (people/'unreadable.txt').read_text() == listed
    assert not (people/'doctor.txt').exists()


def test_doctor_tells_of_missing_cameras():
    table = pd.DataFrame({'path': ['a', 'b'], 'identity': ['x', 'x'], 'camera': ['', '1'], 'split': 'train'})
    assert doctor_script.odd(table) == ['1 of 2 pictures have no camera: nothing is excluded for them.']
    assert not doctor_script.odd(table.assign(camera=''))


def test_folder_main_twice(people, tmp_path, capsys):
    folder_table.main(str(people))
    said = capsys.readouterr().out
    assert 'recipes/reid.py --data' in said
    assert 'gallery' in said
    before = snapshot(people)
    folder_table.main(str(people))
    assert 'nothing to do' in capsys.readouterr().out
    assert snapshot(people) == before
    with pytest.raises(SystemExit, match='--force'): folder_table.main(str(people), seed=1)
    draw(people, '005/new.jpg')
    with pytest.raises(SystemExit, match='--force'): folder_table.main(str(people))
    folder_table.main(str(people), force=True)
    assert len(read_table(people/'images.csv')) == 25
    folder_table.main(str(people), out=str(tmp_path/'t'))  # elsewhere: the paths still lead to the pictures
    assert read_table(tmp_path/'t'/'images.csv')['path'][0].startswith('../people/')


def test_a_table_of_somebody_else_is_kept(people):
    (people/'images.csv').write_text('path,identity\nmine.jpg,me\n')
    with pytest.raises(SystemExit, match='--force'): folder_table.main(str(people))
    assert 'mine.jpg' in (people/'images.csv').read_text()


def test_as_a_command(tmp_path):
    "What a person sees: one line and an exit status, no traceback"
    command = [sys.executable, str(ROOT/'data_prep'/'market1501.py'), str(tmp_path)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    kinds = ', '.join(s[1:] for s in SUFFIXES)
    said = f'FileNotFoundError: No picture ({kinds}) below {tmp_path}. It holds: nothing.'
    assert (run.returncode, run.stderr.strip()) == (1, said)


def test_read_only_folder(people):
    people.chmod(0o555)
    try:
        with pytest.raises(SystemExit, match='--out'): folder_table.main(str(people))
        assert not (people/'images.csv').exists()
    finally: people.chmod(0o755)


def test_degraded_copies(people, tmp_path, capsys):
    out = tmp_path/'out'
    folder_table.main(str(people), query='^0_', degrade=3, out=str(out))
    table = read_table(out/'images.csv')
    held = table[table['split'] != 'train']
    assert len(table) == 12*4 + 3*4 + 9
    assert (held['split'] == 'query').sum() == 12
    assert not unanswerable(table).any()
    assert set(held['degradation'][held['split'] == 'gallery']) == {'none'}
    assert (table['true_quality'][table['degradation'] == 'none'] == 100).all()
    copies = table[table['degradation'] != 'none']
    assert len(copies) == 45
    assert copies['true_quality'].between(0, 100, inclusive='left').all()
    assert copies['degradation'].nunique() > 3
    assert table['quality'].isna().all()  # the truth is to be found, not given
    pixels = lambda p: np.asarray(Image.open(out/p), float)
    stem = copies['path'].str.rsplit('/', n=1).str[-1].str.split('_').str[:2].str.join('_')
    worst = copies['true_quality'].idxmin()
    original = f"images/{copies['identity'][worst]}/{stem[worst]}_0_none.jpg"
    assert original in table['path'].tolist()
    assert np.abs(pixels(copies['path'][worst]) - pixels(original)).mean() > 5
    again = tmp_path/'again'
    folder_table.main(str(people), query='^0_', degrade=3, out=str(again))
    assert {k: v[1] for k,v in snapshot(again/'images').items()} == {k: v[1] for k,v in snapshot(out/'images').items()}
    with pytest.raises(SystemExit, match='--out'): folder_table.main(str(people), degrade=3)
    with pytest.raises(SystemExit, match='lies in the folder'):
        folder_table.main(str(people), degrade=3, out=str(people/'in'))


def test_copies_are_told_where_they_are_degraded_too(people, tmp_path, capsys):
    (people/'001'/'0_c0.jpg').write_bytes((people/'002'/'0_c0.jpg').read_bytes())
    folder_table.main(str(people), degrade=1, out=str(tmp_path/'out'))
    assert "first 'images/002/0_c0_0_none.jpg' = 'images/001/0_c0_0_none.jpg'" in capsys.readouterr().out


def test_copies_of_what_was_left_out_are_not_told():
    table = pd.DataFrame({'path': ['a', 'b'], 'identity': ['x', 'y'], 'camera': '', 'split': 'train'})
    table.attrs['copies'] = [('a', 'c')]
    assert doctor_script.odd(table) == []


def test_same_name_two_suffixes(tmp_path):
    draw(tmp_path/'p', *[f'{i}/a.{s}' for i in 'xyz' for s in ('jpg', 'png')])
    folder_table.main(str(tmp_path/'p'), degrade=1, test=1, out=str(tmp_path/'o'))
    table = read_table(tmp_path/'o'/'images.csv')
    assert table['path'].nunique() == len(table) == 4*2 + 2 + 1 == len(list((tmp_path/'o'/'images').rglob('*.jpg')))


def test_london_faces(tmp_path, capsys):
    if not FACES.is_dir(): pytest.skip(f'{FACES} is not here')
    before = sorted(p.name for p in FACES.iterdir())
    folder_table.main(str(FACES), query='neutral', degrade=2, out=str(tmp_path), no_verify=True)
    table = read_table(tmp_path/'images.csv')
    split = describe_table(table).splits
    assert split['pictures'].to_dict() == {'train': 306, 'query': 153, 'gallery': 51}
    assert split['identities'].tolist() == [51]*3
    assert table['path'][table['split'] == 'query'].str.contains('neutral').all()
    assert table['path'][table['split'] == 'gallery'].str.contains('smiling').all()
    assert not unanswerable(table).any()
    assert sorted(p.name for p in FACES.iterdir()) == before

# market1501.py

def market_names(*ids, cams=(1, 2, 3)):
    return [f'{i:04d}_c{c}s1_00{k}451_01.jpg' for i in ids for c in cams for k in (1, 2)]


@pytest.fixture
def market(tmp_path):
    root = tmp_path/'run_0012_c3'/'Market-1501-v15.09.15'  # a parent that looks like a picture's name
    draw(root, *[f'bounding_box_train/{n}' for n in market_names(2, 7)],
         *[f'query/{n}' for n in market_names(1, 3, cams=(1,))],
         *[f'bounding_box_test/{n}' for n in market_names(1, 3, 0)],
         'bounding_box_test/-1_c1s1_000401_03.jpg', 'gt_bbox/0001_c1s1_1.jpg')
    (root/'query'/'Thumbs.db').write_text('x')
    return root


@pytest.mark.parametrize('up', [False, True])
def test_market(market, up):
    table = market1501_table(market.parent if up else market)
    assert table['split'].value_counts().to_dict() == {'train': 12, 'gallery': 18, 'query': 4}
    assert set(table['identity']) == {'0000', '0001', '0002', '0003', '0007'}
    assert set(table['camera']) == {'1', '2', '3'}
    assert set(table['split'][table['identity'] == '0000']) == {'gallery'}
    assert not unanswerable(table).any()
    made = table.attrs['record']
    assert made['junk_left_out'] == 1
    assert made['background'] == 6
    assert made['protocol'] == 'published'
    assert describe_table(table).differs[0] == 'train: 12 pictures of 2 identities, published are 12936 of 751'


def test_market_main(market, tmp_path, capsys):
    market1501_table.main(str(market.parent))
    assert 'junk_left_out: 1' in capsys.readouterr().out
    table = read_table(market.parent/'images.csv')
    assert table['path'][0].startswith('Market-1501-v15.09.15/')
    assert json.loads((market.parent/'images.json').read_text())['published']['train'] == [12936, 751]
    market1501_table.main(str(market.parent))
    assert 'nothing to do' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='--force'): market1501_table.main(str(market.parent), seed=3)


@pytest.mark.parametrize('layout', ['{n}', '{i}/{n}', 'train/{i}/{n}', 'bounding_box_train/{n}',
                                    'Market-1501/bounding_box_train/{n}'])
def test_market_train_only(tmp_path, layout):
    root = tmp_path/'copy'
    names = market_names(2, 7, 10, 11, 12, 20)
    draw(root, *[layout.format(n=n, i=n[:4]) for n in names])
    if layout.startswith('train/'):  # one picture an identity lies in val, as some copies have it
        (root/'val'/'0002').mkdir(parents=True)
        (root/'train'/'0002'/names[0]).rename(root/'val'/'0002'/names[0])
    table = market1501_table(root, seed=1)
    assert len(table) == 36
    assert table['identity'][table['split'] == 'train'].nunique() == 3
    assert not unanswerable(table).any()
    assert not set(table['identity'][table['split'] == 'train']) & set(table['identity'][table['split'] != 'train'])
    assert (table['split'] == 'query').sum() == 9  # one an identity and camera, as published
    assert 'not comparable' in table.attrs['record']['protocol']
    assert not table.attrs['record']['complete']
    assert describe_table(table).differs is None


def test_market_train_only_background_and_junk(tmp_path):
    draw(tmp_path, *market_names(2, 7, 9, 11, 0), '-1_c1s1_000401_03.jpg')
    table = market1501_table(tmp_path)
    assert len(table) == 30
    assert table.attrs['record']['junk_left_out'] == 1
    assert set(table['split'][table['identity'] == '0000']) == {'gallery'}


def test_market_refuses(market, tmp_path):
    draw(tmp_path/'a', 'x/cat.jpg')
    with pytest.raises(ValueError, match=r'x/cat\.jpg.*folder\.py'): market1501_table(tmp_path/'a')
    for bad in ('1502_c1s1_1.jpg', '0002_c7s1_1.jpg', '-2_c1s1_1.jpg', '1-2_c1s1_1.jpg'):
        draw(tmp_path/bad[:6], bad)
        with pytest.raises(ValueError, match=bad): market1501_table(tmp_path/bad[:6])
    draw(tmp_path/'twice', *[f'{d}/{n}' for d in ('train', 'train_all') for n in market_names(2)])
    with pytest.raises(ValueError, match=r'more than once.*train_all'): market1501_table(tmp_path/'twice')
    for p in (market/'query').iterdir(): p.unlink()
    (market/'query').rmdir()
    with pytest.raises(FileNotFoundError, match='lacks query'): market1501_table(market)


def test_market_as_table(market):
    table = market1501_table(market)
    assert isinstance(table, pd.DataFrame)
    assert table.columns.tolist() == ['path', 'identity', 'camera', 'split', 'quality']


def test_degraded_copies_of_any_table_with_its_pairs(people, tmp_path, capsys):
    folder_table.main(str(people))
    table = read_table(people/'images.csv')
    held,train = table[table['split'] != 'train'], table[table['split'] == 'train']
    a,b = held['path'].iloc[:2]
    (people/'pairs.csv').write_text(f'path1,path2,same,fold\n{a},{b},1,0\n')
    degrade_script.main(str(people/'images.csv'), str(tmp_path/'out'), copies=2)
    made = read_table(tmp_path/'out'/'images.csv')
    assert len(made) == len(table) + 2*(len(train) + (held['split'] == 'query').sum())
    done = made['degradation'] != 'none'
    assert (made.loc[~done, 'true_quality'] == 100).all()
    assert (made.loc[done, 'true_quality'] < 100).all()
    pairs = read_pairs(tmp_path/'out'/'pairs.csv', made)
    found = made.set_index('path').loc[[pairs['path1'][0], pairs['path2'][0]]]
    assert found['original'].tolist() == [a, b]
    assert (found['degradation'] == 'none').all()
    degrade_script.main(str(people/'images.csv'), str(tmp_path/'out'), copies=2)
    assert 'nothing to do' in capsys.readouterr().out
    with pytest.raises(SystemExit, match='taken for originals'):
        degrade_script.main(str(people/'images.csv'), str(people/'inside'))


def test_copies_never_land_beside_their_originals(people, tmp_path):
    before = pictures_in(people)
    folder_table.main(str(people), out=str(tmp_path/'table'))
    assert read_table(tmp_path/'table'/'images.csv')['path'].str.startswith('..').all()
    degrade_script.main(str(tmp_path/'table'/'images.csv'), str(tmp_path/'copies'))
    assert pictures_in(people) == before
    with pytest.raises(SystemExit, match='taken for originals'):
        degrade_script.main(str(tmp_path/'table'/'images.csv'), str(people/'001'/'deg'))
    assert pictures_in(people) == before


def test_a_broken_picture_is_named(people, tmp_path):
    folder_table.main(str(people))
    (people/'001'/'0_c0.jpg').write_bytes((people/'001'/'0_c0.jpg').read_bytes()[:80])
    with pytest.raises(SystemExit, match=r'001/0_c0\.jpg cannot be read'):
        degrade_script.main(str(people/'images.csv'), str(tmp_path/'copies'))
    assert not (tmp_path/'copies'/'images.csv').exists()


def test_another_split_is_not_taken_for_the_same_table(people, tmp_path):
    folder_table.main(str(people))
    degrade_script.main(str(people/'images.csv'), str(tmp_path/'copies'))
    folder_table.main(str(people), seed=5, force=True)
    with pytest.raises(SystemExit, match='--force'):
        degrade_script.main(str(people/'images.csv'), str(tmp_path/'copies'))


def test_a_table_whose_writing_was_stopped_is_not_believed(people, monkeypatch, capsys):
    folder_table.main(str(people))
    old = (people/'images.csv').read_bytes()
    replace = os.replace
    def stop(a, b):
        if str(b).endswith('images.csv'): raise KeyboardInterrupt
        replace(a, b)
    monkeypatch.setattr(os, 'replace', stop)
    with pytest.raises(SystemExit, match='Stopped'): folder_table.main(str(people), seed=9, force=True)
    monkeypatch.setattr(os, 'replace', replace)
    assert (people/'images.csv').read_bytes() == old
    assert not [p for p in people.iterdir() if p.name.startswith('.')]
    with pytest.raises(SystemExit, match='--force'): folder_table.main(str(people), seed=9)
    folder_table.main(str(people), seed=9, force=True)
    assert (people/'images.csv').read_bytes() != old


def test_figures_of_the_labels_are_no_pictures_of_people(people, capsys):
    folder_table.main(str(people))
    for name in ('quality.png', 'quality_sheet.png'): draw(people, name)
    folder_table.main(str(people))
    assert 'nothing to do' in capsys.readouterr().out


def test_a_folder_that_cannot_be_listed_is_an_error(people, monkeypatch):
    def scandir(at, there=os.scandir):
        if str(at).endswith('001'): raise PermissionError(13, 'Permission denied', str(at))
        return there(at)
    monkeypatch.setattr(os, 'scandir', scandir)
    with pytest.raises(PermissionError, match='001 cannot be listed'): pictures_in(people)
