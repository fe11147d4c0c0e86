"CUHK03 in its real form, small: an HDF5 file of object references and two protocol files, to PNG files and tables"
import json
import shutil
import warnings
from pathlib import Path

import cuhk03 as script
import h5py
import numpy as np
import pytest
from cuhk03 import cuhk03_tables, extract, release_in
from made_up import rows
from PIL import Image
from scipy.io import savemat

from qsd_fastai.data.table import describe_table, read_table, unanswerable

# of the five pairs of cameras; 843, 440, 77, 58 and 49 in the release
PEOPLE = (4, 2, 1, 1, 1)
# test people of the first two classic splits, the others as the second
HELD = [[(1, 1), (2, 2)], [(1, 3), (5, 1)]]


def pixels(pair, person, k):
    return np.random.default_rng([pair, person, k]).integers(0, 255, (16 + k, 8, 3), dtype=np.uint8)


def cells():
    "(pair, person, cell) of every picture; cells 4 and 9 are empty, and all but 0 and 5 of the second person of pair 1"
    return [(pair, person, k) for pair,n in enumerate(PEOPLE, 1) for person in range(1, n + 1) for k in range(10)
            if k not in (4, 9) and not ((pair, person) == (1, 2) and k not in (0, 5))]


def name(pair, person, k): return f'{pair}_{person:03d}_{1 if k < 5 else 2}_{k + 1:02d}.png'


def write_mat(file, detectors=('detected', 'labeled'), n_sets=20):
    file.parent.mkdir(parents=True, exist_ok=True)
    full = set(cells())
    with h5py.File(file, 'w') as f:
        hidden = f.create_group('#refs#')
        def add(value, empty=False):
            d = hidden.create_dataset(f'r{len(hidden)}', data=value)
            if empty: d.attrs['MATLAB_empty'] = np.uint8(1)
            return d.ref
        def cell(refs): return np.array(refs, dtype=h5py.ref_dtype)
        for detector in detectors:
            pairs = []
            for pair,n in enumerate(PEOPLE, 1):
                def picture(pair, p, k):
                    if (pair, p, k) in full: return add(pixels(pair, p, k).T)
                    return add(np.zeros(2, np.uint64), True)
                # MATLAB's people x 10, the other way round in HDF5
                refs = [[picture(pair, p, k) for p in range(1, n + 1)] for k in range(10)]
                pairs.append(add(cell(refs)))
            f.create_dataset(detector, data=cell([pairs]))
        sets = [add(np.array(HELD[min(i, 1)], float).T) for i in range(n_sets)]
        f.create_dataset('testsets', data=cell([sets]))


def write_config(file, change=None):
    "Pairs 1 and 2 are trained on, the others judged: the first picture of each view is the query"
    names = [name(*c) for c in cells()]
    label = {c: i for i,c in enumerate(sorted({c[:2] for c in cells()}), 1)}
    splits = {'train': [], 'query': [], 'gallery': []}
    for i,(pair, _, k) in enumerate(cells(), 1):  # counted from 1
        splits['train' if pair < 3 else 'query' if k in (0, 5) else 'gallery'].append(i)
    made = {'filelist': np.array(names, dtype=object).reshape(-1, 1),
            'labels': np.array([[label[c[:2]]] for c in cells()], np.uint16),
            **{f'{s}_idx': np.array(i, np.uint16).reshape(-1, 1) for s,i in splits.items()}}
    savemat(file, {**made, **(change or {})})


@pytest.fixture(scope='module')
def once(tmp_path_factory):
    root = tmp_path_factory.mktemp('cuhk')
    write_mat(root/'cuhk03'/'cuhk03_release'/'cuhk-03.mat')
    for d in ('detected', 'labeled'): write_config(root/'cuhk03'/f'cuhk03_new_protocol_config_{d}.mat')
    return root


@pytest.fixture
def release(once, tmp_path):
    return Path(shutil.copytree(once, tmp_path/'1_002_2_x.png'))  # a parent that looks like a picture's name


def times(folder): return {p.name: (p.stat().st_mtime_ns, p.read_bytes()) for p in folder.iterdir()}


def run(*args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        cuhk03_tables.main(*map(str, args), **kwargs)


@pytest.mark.parametrize('up', [False, True])
def test_new_protocol(release, up, capsys):
    root = release if up else release/'cuhk03'
    run(root, workers=2)
    said = capsys.readouterr().out
    assert f'{len(cells())} of {len(cells())} pictures written' in said
    assert 'detector: detected' in said
    folder = release/'cuhk03'/'images_detected'
    for c in cells(): assert np.array_equal(np.asarray(Image.open(folder/name(*c))), pixels(*c))
    assert sorted(p.name for p in folder.glob('*.png')) == sorted(name(*c) for c in cells())
    label = {c: f'{i:04d}' for i,c in enumerate(sorted({c[:2] for c in cells()}), 1)}
    split = {c: 'train' if c[0] < 3 else 'query' if c[2] in (0, 5) else 'gallery' for c in cells()}
    below = 'cuhk03/' if up else ''
    table = read_table(root/'images.csv', check=False)
    assert rows(table) == [(f'{below}images_detected/{name(*c)}', label[c[:2]], '1' if c[2] < 5 else '2', s)
                           for s in ('train', 'query', 'gallery') for c in cells() if split[c] == s]
    made = table.attrs['record']
    told = 'source', 'detector', 'protocol', 'single_gallery_shot'
    assert [made[k] for k in told] == ['CUHK03', 'detected', 'new', False]
    assert made['published'] == {'train': [7365, 767], 'query': [1400, 700], 'gallery': [5332, 700]}
    assert not unanswerable(table).any()
    before,table_before = times(folder), (root/'images.csv').stat().st_mtime_ns
    run(root, workers=1)
    assert 'nothing to do' in capsys.readouterr().out
    assert times(folder) == before
    assert (root/'images.csv').stat().st_mtime_ns == table_before
    with pytest.raises(SystemExit, match='--force'): run(root, detector='labeled')
    run(root, detector='labeled', force=True)
    assert read_table(root/'images.csv', check=False).attrs['record']['published']['train'] == [7368, 767]


def test_a_stopped_extraction_goes_on(release, monkeypatch, capsys):
    mat,to = release/'cuhk03'/'cuhk03_release'/'cuhk-03.mat', release/'images_detected'
    save,n = script._save, 0
    def stop(file, pixels):
        nonlocal n
        n += 1
        if n > 5: raise KeyboardInterrupt
        save(file, pixels)
    monkeypatch.setattr(script, '_save', stop)
    with pytest.raises(KeyboardInterrupt): extract(mat, to, 'detected', 1)
    assert len(list(to.glob('*.png'))) == 5
    assert not (to/'extracted.json').exists()
    monkeypatch.setattr(script, '_save', save)
    half,kept = sorted(to.glob('*.png'))[:2]
    half.write_bytes(half.read_bytes()[:100])  # as other tools leave it when they are stopped
    before = kept.stat().st_mtime_ns
    assert extract(mat, to, 'detected') == (len(cells()), len(cells()) - 4)
    assert kept.stat().st_mtime_ns == before
    assert not [p for p in to.iterdir() if p.name.startswith('.')]
    monkeypatch.setattr(script, '_open', lambda mat: pytest.fail('opened again'))
    assert extract(mat, to, 'detected') == (len(cells()), 0)


def test_classic_protocol(release, capsys):
    root = release/'cuhk03'
    run(root, protocol='classic', split='all', no_verify=True)
    files = sorted(p.name for p in root.glob('split_*'))
    assert files == [f'split_{k:02d}.{s}' for k in range(20) for s in ('csv', 'json')]
    assert not (root/'images.csv').exists()
    assert 'Report the mean over all 20 splits' in capsys.readouterr().out
    for k in (0, 1, 19):
        table = read_table(root/f'split_{k:02d}.csv', check=False)
        held = HELD[min(k, 1)]
        splits = ['train' if c[:2] not in held else 'query' if c[2] < 5 else 'gallery' for c in cells()]
        assert sorted(rows(table)) == sorted(
            (f'images_detected/{name(*c)}', f'{c[0]}_{c[1]:03d}', '1' if c[2] < 5 else '2', s)
            for c,s in zip(cells(), splits))
        made = table.attrs['record']
        assert made['single_gallery_shot'] is True
        assert 'view 1' in made['protocol']
        assert made['split'] == made['options']['split'] == k
        assert made['test_people'] == 2
        assert 'published' not in made
        assert not unanswerable(table).any()
        assert describe_table(table).overlap == 0
    before = {p: p.stat().st_mtime_ns for p in root.glob('split_*')}
    (root/'split_07.csv').unlink()  # a run that was stopped
    run(root, protocol='classic', split='all', no_verify=True)
    assert (root/'split_07.csv').is_file()
    assert {p: p.stat().st_mtime_ns for p in before if 'split_07' not in p.name} == {
        p: t for p,t in before.items() if 'split_07' not in p.name}
    capsys.readouterr()
    run(root, protocol='classic', split='all', no_verify=True)
    assert '20 tables' in capsys.readouterr().out
    run(root, protocol='classic', split='3', no_verify=True)
    assert json.loads((root/'images.json').read_text())['split'] == 3


@pytest.mark.parametrize('suffix', ['png', 'jpg'])
def test_converted_form(tmp_path, suffix, capsys):
    names = ['bounding_box_train/0001_c1_1', 'bounding_box_train/0001_c2_6', 'query/0768_c1_1',
             'bounding_box_test/0768_c2_7']
    for n in names:
        file = tmp_path/'cuhk03-np'/'labeled'/f'{n}.{suffix}'
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels(1, 1, 1)).save(file)
    run(tmp_path, detector='labeled')
    table = read_table(tmp_path/'images.csv')
    assert rows(table) == [(f'cuhk03-np/labeled/{n}.{suffix}', n.split('/')[1][:4], n.split('_c')[1][0], s)
                           for n,s in zip(names, ('train', 'train', 'query', 'gallery'))]
    assert table.attrs['record']['form'] == 'converted'
    assert table.attrs['record']['published']['gallery'] == [5328, 700]
    with pytest.raises(SystemExit, match='detected/bounding_box_train of the converted form; found cuhk03-np'):
        run(tmp_path)
    with pytest.raises(SystemExit, match='Point at the release'): run(tmp_path, detector='labeled', protocol='classic')
    write_mat(tmp_path/'cuhk-03.mat')
    with pytest.raises(SystemExit, match='Point at one'): run(tmp_path, detector='labeled')


@pytest.mark.parametrize('change, said', [
    ({'query_idx': np.array([[9999]])}, r'query_idx 9999 is not 1 to'),
    ({'train_idx': np.array([[0]])}, 'train_idx 0 is not 1 to'),
    ({'query_idx': np.array([[1]])}, r'1_001_1_01\.png is in train and in query'),
    ({'labels': np.array([[1]])}, 'IndexError'),
    ({'filelist': np.array([['9_999_1_01.png']]*57, dtype=object)}, r'9_999_1_01\.png, train_idx 1, is not among')])
def test_protocol_files_that_cannot_be_used(release, change, said):
    root = release/'cuhk03'
    write_config(root/'cuhk03_new_protocol_config_detected.mat', change)
    with pytest.raises(SystemExit, match=rf'config_detected\.mat is not as CUHK03 has it.*{said}'):
        run(root, no_verify=True)
    assert not (root/'images.csv').exists()


def test_refusals(release, tmp_path):
    root = release/'cuhk03'
    for kwargs,said in [({'detector': 'both'}, 'detected or labeled'), ({'protocol': 'old'}, 'new or classic'),
                        ({'split': '1'}, 'one split'), ({'protocol': 'classic', 'split': '20'}, '0 to 19, or all')]:
        with pytest.raises(SystemExit, match=said): run(root, **kwargs)
    (root/'cuhk03_new_protocol_config_detected.mat').unlink()
    with pytest.raises(SystemExit, match=r'config_detected\.mat in .*--protocol classic'): run(root, no_verify=True)
    (root/'images_detected'/'more.png').write_bytes((root/'images_detected'/'1_001_1_01.png').read_bytes())
    with pytest.raises(SystemExit, match='Move the others away'): run(root, protocol='classic')
    (tmp_path/'other').mkdir(); (tmp_path/'other'/'readme.md').write_text('x')
    with pytest.raises(SystemExit, match=r'cuhk03_release/cuhk-03\.mat.*found readme\.md'): run(tmp_path/'other')
    with pytest.raises(SystemExit, match='is not a folder'): run(tmp_path/'none')
    with pytest.raises(FileNotFoundError):
        cuhk03_tables(root/'cuhk03_release', 'labeled')  # not extracted, and nothing is written


def test_mat_files_that_cannot_be_read(tmp_path):
    mat = tmp_path/'cuhk-03.mat'
    write_mat(mat, ('detected',), 3)
    assert release_in(tmp_path, 'detected') == (tmp_path, mat)
    with pytest.raises(SystemExit, match=r"cuhk-03\.mat is not as CUHK03 has it \(KeyError"):
        run(tmp_path, detector='labeled')
    with pytest.raises(SystemExit, match='3 testsets'): run(tmp_path, protocol='classic', no_verify=True)
    whole,rng = mat.read_bytes(), np.random.default_rng(0)
    for n in (0, 7, 1000, len(whole)//2):
        mat.write_bytes(whole[:n])
        with pytest.raises(ValueError, match='is not as CUHK03 has it'): extract(mat, tmp_path/f'cut_{n}', 'detected')
    for i in range(40):  # bytes changed at random: read, or refused by us
        broken = bytearray(whole)
        for at in rng.integers(0, len(whole), 200): broken[at] ^= int(rng.integers(1, 256))
        mat.write_bytes(broken)
        try: extract(mat, tmp_path/f'broken_{i}', 'detected')
        except ValueError as e: assert 'cuhk-03.mat' in str(e)
