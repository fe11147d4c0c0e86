"""A table of images from CUHK03 (Li et al., CVPR 2014), from the release as it is, or from the converted `cuhk03-np`.

    python data_prep/cuhk03.py ROOT                                      # detected, new protocol -> ROOT/images.csv
    python data_prep/cuhk03.py ROOT --detector labeled
    python data_prep/cuhk03.py ROOT --protocol classic --split all       # -> ROOT/split_00.csv to split_19.csv

Expected in ROOT or one folder below, the release: `cuhk03_release/cuhk-03.mat` (or `cuhk-03.mat`), for the new protocol
(Zhong et al., CVPR 2017) also `cuhk03_new_protocol_config_detected.mat` or `..._labeled.mat`. Its pictures are written
as PNG to `images_detected` or `images_labeled` beside it, named `1_001_2_06.png`: pair of cameras, person, view (1 or
2), number; `--images DIR` puts them elsewhere. A stopped run goes on where it was. Needs h5py. Or the converted form:
`detected/bounding_box_train`, `query`, `bounding_box_test` (and `labeled/...`) with names like `0001_c1_1.png`, new
protocol.

`detected` are the boxes of a detector, `labeled` those drawn by hand; published figures of the two are not comparable,
nor are those of the two protocols:

- `new`: 767 people to train on, 700 to judge; every answer counts.
- `classic`: 20 splits of 1,367 and 100 people, report the mean. Torchreid and AGW use all test pictures as queries and
  as gallery and leave out those of the same camera; for each query they draw one picture of each identity as the
  gallery, ten times. A table has one row a picture, so the queries are the pictures of view 1 and the gallery those of
  view 2, as in the first publication: a query is then never compared with its own camera, and no picture with itself.
  The record says so, and `single_gallery_shot: true` that one picture of each identity is to be drawn as gallery.

The camera is the view, 1 or 2: of which pair it is, the judging does not ask (a person was seen by one pair).
"""
import json
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from common.layout import MARKET, base_name, find, match_names, new_table, three_folders
from common.pictures import listing, pictures_in, some
from common.sets import a_set
from fastprogress import progress_bar
from PIL import Image

from qsd_fastai.choices import one_of
from qsd_fastai.files import in_one_move

N_SPLITS = 20
PUBLISHED = {'detected': {'train': (7365, 767), 'query': (1400, 700), 'gallery': (5332, 700)},
             'labeled': {'train': (7368, 767), 'query': (1400, 700), 'gallery': (5328, 700)}}
CLASSIC = ('classic: queries are the test pictures of view 1, the gallery those of view 2; '
           'one gallery picture an identity is to be drawn')
MAT,CONFIG,NOTE = 'cuhk-03.mat', 'cuhk03_new_protocol_config_{}.mat', 'extracted.json'
NAMES = {'pattern': r'(\d+)_c(\d+)', 'like': '0001_c1_1.png', 'ids': (1, 1467), 'cameras': (1, 2)}


@contextmanager
def _reading(file):
    try: yield
    # a reader of broken bytes may raise anything, and each means the same here
    except Exception as e:
        said = str(e).rstrip('.')
        raise ValueError(f'{file} is not as CUHK03 has it ({type(e).__name__}: {said}). Unpack it again.') from e


def _open(mat):
    try:
        import h5py
    except ImportError as e: raise ImportError(f'Reading {mat} needs h5py. Install it by `pip install h5py`.') from e
    with _reading(mat): return h5py.File(mat, 'r')


def release_in(
    root,     # Folder that the user has named
    detector, # `detected` or `labeled`
): # `(folder, cuhk-03.mat)`, or None where it is the converted form
    "The release in `root` or one folder below; FileNotFoundError where neither form is there"
    root = Path(root)
    if not root.is_dir(): raise FileNotFoundError(f'{root} is not a folder. Name the one that CUHK03 was unpacked in.')
    places = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
    mats = [(p, p/d/MAT) for p in places for d in ('cuhk03_release', '.') if (p/d/MAT).is_file()]
    converted = [p for p in places if (p/detector/MARKET['train']).is_dir()]
    if mats and converted:
        raise ValueError(f'{root} holds the release ({mats[0][1]}) and the converted form ({converted[0]}). '
                         'Point at one of them.')
    if mats: return mats[0]
    if converted: return None
    raise FileNotFoundError(f'CUHK03 is not in {root}: looked there and one folder below for cuhk03_release/{MAT}, '
                            f'{MAT}, and for {detector}/{MARKET["train"]} of the converted form; '
                            f'found {some(root, 8)}. Unpack it there.')


def _whole(file):
    "Is a PNG there, to its end?"
    try:
        with open(file, 'rb') as f:
            f.seek(-12, os.SEEK_END)
            return f.read() == b'\0\0\0\0IEND\xaeB`\x82'
    except OSError: return False


def _save(file, pixels):
    with in_one_move(file) as part: Image.fromarray(pixels).save(part, format='PNG')


def _pixels(cell):
    "The picture in a cell of the release, which is stored as (colour, column, row)"
    pixels = np.ascontiguousarray(cell[()].T)
    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size: return pixels
    raise ValueError(f'a cell holds pixels of shape {pixels.shape} and type {pixels.dtype}.')


def extract(
    mat,       # cuhk-03.mat
    to,        # Folder for the pictures
    detector,  # `detected` or `labeled`
    workers=8, # Threads that encode
): # `(pictures, written now)`
    "Write the pictures in the release as PNG, each in one move, those that are there already left as they are"
    mat,to = Path(mat), Path(to)
    note,done = to/NOTE, {'mat': mat.stat().st_size, 'detector': detector}
    if note.is_file():
        with _reading(note): had = json.loads(note.read_text(encoding='utf-8'))
        same = {k: had.get(k) for k in done} == done
        if same and len(pictures_in(to)) == had.get('pictures'): return had['pictures'], 0
    with _open(mat) as f, ThreadPoolExecutor(max(1, workers)) as pool:
        with _reading(mat):
            # cells of 10 pictures x people, the other way round in MATLAB
            pairs = [f[r][()] for r in f[detector][()].ravel()]
        cells = [(f'{pair}_{person + 1:03d}_{1 if k < 5 else 2}_{k + 1:02d}.png', refs[k, person])
                 for pair,refs in enumerate(pairs, 1) for person in range(refs.shape[1]) for k in range(refs.shape[0])]
        to.mkdir(parents=True, exist_ok=True)
        n = written = 0
        for lo in progress_bar(range(0, len(cells), 256), leave=False):
            todo = []
            for name,ref in cells[lo:lo + 256]:
                with _reading(f'{mat}, {detector}, {name}'):
                    cell = f[ref]
                    if cell.ndim < 3: continue  # an empty cell: fewer than five pictures of that view
                    n += 1
                    if not _whole(to/name): todo.append((to/name, _pixels(cell)))
            for _ in pool.map(_save, *zip(*todo)) if todo else (): written += 1
    if not n: raise ValueError(f'{mat} holds no pictures under {detector!r}. Unpack it again.')
    if len(there := pictures_in(to)) != n:
        raise ValueError(f'{to} holds {len(there)} pictures, {n} are of {mat}. Move the others away.')
    with in_one_move(note) as part: part.write_text(json.dumps({**done, 'pictures': n}) + '\n', encoding='utf-8')
    return n, written


def _extracted(folder):
    "Table of the extracted pictures with `pair_person` as identity, the view as camera"
    paths = [f'{folder.name}/{p}' for p in pictures_in(folder)]
    found = match_names(paths, r'(\d+)_(\d+)_([12])_\d+\.png$', '1_001_2_06.png: pair, person, view, number')
    return new_table(folder.parent, paths, [f'{m[1]}_{m[2]}' for m in found], [m[3] for m in found])


def _new(table, config):
    "`(table, how many were left out)` of the new protocol: who is who, and which split a picture belongs to"
    from scipy.io import loadmat
    if not config.is_file():
        raise FileNotFoundError(f'The new protocol needs {config.name} in {config.parent}. '
                                'Without it: --protocol classic.')
    names = table['path'].map(base_name)
    there,split,who = set(names), {}, {}
    splits = ('train', 'query', 'gallery')
    with _reading(config):
        held = loadmat(config, variable_names=['filelist', 'labels', *[f'{s}_idx' for s in splits]])
        listed = [str(np.ravel(n)[0]) for n in held['filelist'].ravel()]
        labels = held['labels'].ravel().astype(int)
        for s in splits:
            for i in held[f'{s}_idx'].ravel().astype(int):  # counted from 1
                if not 1 <= i <= len(listed): raise ValueError(f'{s}_idx {i} is not 1 to {len(listed)}.')
                name = listed[i - 1]
                if name not in there: raise ValueError(f'{name}, {s}_idx {i}, is not among the {len(there)} pictures.')
                if name in split: raise ValueError(f'{name} is in {split[name]} and in {s}.')
                split[name],who[name] = s, f'{labels[i - 1]:04d}'
    table = table.assign(identity=names.map(who), split=names.map(split))
    kept = table[table['split'].notna()]
    order = lambda column: column.map({s: k for k,s in enumerate(splits)})
    return kept.sort_values('split', key=order, kind='stable', ignore_index=True), len(table) - len(kept)


def _test_people(mat):
    "The people judged in each classic split, as `pair_person`"
    with _open(mat) as f, _reading(mat):
        sets = [[f'{int(pair)}_{int(person):03d}' for pair,person in f[r][()].T] for r in f['testsets'][()].ravel()]
        if len(sets) != N_SPLITS: raise ValueError(f'{len(sets)} testsets, not {N_SPLITS}.')
    return sets


def splits_of(
    root,     # Not asked for here
    protocol, # `new` or `classic`
)->int:
    "How many splits a protocol has"
    return N_SPLITS if protocol == 'classic' else 1


def pictures_of(
    root,     # Folder that the user has named
    out,      # Folder for the table, '' if none
    detector, # `detected` or `labeled`
    protocol, # `new` or `classic`
    images,   # Folder to extract to, None: beside the release
    workers,  # Threads that encode
): # `(folder of the table, facts for the record)`
    "The pictures that a table is made from; those of the release are extracted first"
    one_of('--detector', detector, *PUBLISHED)
    one_of('--protocol', protocol, 'new', 'classic')
    release = release_in(root, detector)
    if not release:
        if protocol != 'new':
            raise ValueError(f'{root} holds the converted form, of the new protocol. Point at the release.')
        at = find(root, [f'{detector}/{f}' for f in MARKET.values()], 'CUHK03')
        return Path(out or root), listing(at, [detector])
    at,mat = Path(images or release[0]), release[1]
    n,written = extract(mat, at/f'images_{detector}', detector, workers)
    if written: print(f"{written} of {n} pictures written to {at/f'images_{detector}'}")
    return Path(out or root), listing(at, [f'images_{detector}'])


@a_set('CUHK03', splits=splits_of, made_from=pictures_of)
def cuhk03_tables(
    root:str,                # Folder of the release, or of the converted form
    detector:str='detected', # `detected` or `labeled`
    protocol:str='new',      # `new` or `classic`
    numbers=(0,),            # Splits of the classic protocol, each 0 to 19; the new one has one
    images:Path=None,        # Folder to extract the pictures of the release to; default: beside it
    *,
    readable,                # Leaves out what cannot be decoded, once for all splits
):
    "Table of images from CUHK03"
    made = {'detector': detector, 'single_gallery_shot': protocol == 'classic', 'protocol': protocol}
    release = release_in(root, detector)
    if not release:
        table = three_folders(root, {s: f'{detector}/{f}' for s,f in MARKET.items()}, 'CUHK03', **NAMES)
        table.attrs['record'] = {**made, 'form': 'converted', 'published': PUBLISHED[detector]}
        return [readable(table)]
    made['form'] = 'release'
    at,mat = release
    table = _extracted(Path(images or at)/f'images_{detector}')
    attrs,config = table.attrs, at/CONFIG.format(detector)
    if protocol == 'new':
        table,left_out = _new(table, config)
        table.attrs = {**attrs, 'record': {**made, 'left_out': left_out, 'published': PUBLISHED[detector]}}
        return [readable(table)]
    sets,out = _test_people(mat), []
    table = readable(table)
    judged = np.where(table['camera'] == '1', 'query', 'gallery')
    for n in numbers:
        held = table['identity'].isin(sets[n])
        out.append(table.assign(split=np.where(held, judged, 'train')))
        people = int(table['identity'][held].nunique())
        out[-1].attrs = {**table.attrs, 'record': {**made, 'protocol': CLASSIC, 'split': n, 'test_people': people}}
    return out
