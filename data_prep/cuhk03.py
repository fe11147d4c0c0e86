"""A table of images from CUHK03 (Li et al., CVPR 2014), from the release as it is, or from the converted `cuhk03-np`.

    python data_prep/cuhk03.py ROOT                                      # detected, new protocol -> ROOT/images.csv
    python data_prep/cuhk03.py ROOT --detector labeled
    python data_prep/cuhk03.py ROOT --protocol classic --split all       # -> ROOT/split_00.csv to split_19.csv

Expected in ROOT or one folder below, the release: `cuhk03_release/cuhk-03.mat` (or `cuhk-03.mat`), for the new protocol (Zhong et al., CVPR 2017)
also `cuhk03_new_protocol_config_detected.mat` or `..._labeled.mat`. Its pictures are written as PNG to `images_detected` or `images_labeled`
beside it, named `1_001_2_06.png`: pair of cameras, person, view (1 or 2), number; `--images DIR` puts them elsewhere. A stopped run goes on where it
was. Needs h5py. Or the converted form: `detected/bounding_box_train`, `query`, `bounding_box_test` (and `labeled/...`) with names like
`0001_c1_1.png`, new protocol.

`detected` are the boxes of a detector, `labeled` those drawn by hand; published figures of the two are not comparable, nor are those of the two
protocols:

- `new`: 767 people to train on, 700 to judge; every answer counts.
- `classic`: 20 splits of 1,367 and 100 people, report the mean. Torchreid and AGW use all test pictures as queries and as gallery and leave out
  those of the same camera; for each query they draw one picture of each identity as the gallery, ten times. A table has one row a picture, so the
  queries are the pictures of view 1 and the gallery those of view 2, as in the first publication: a query is then never compared with its own
  camera, and no picture with itself. The record says so, and `single_gallery_shot: true` that one picture of each identity is to be drawn as gallery.

The camera is the view, 1 or 2: of which pair it is, the judging does not ask (a person was seen by one pair).
"""
import json
import os
import re
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from fastprogress import progress_bar
from folder import pictures_in
from layout import MARKET, find, make, make_splits, three_folders, verified
from PIL import Image

DETECTORS,PROTOCOLS,N_SPLITS = ('detected', 'labeled'), ('new', 'classic'), 20
PUBLISHED = {'detected': {'train': (7365, 767), 'query': (1400, 700), 'gallery': (5332, 700)},
             'labeled': {'train': (7368, 767), 'query': (1400, 700), 'gallery': (5328, 700)}}
CLASSIC = 'classic: queries are the test pictures of view 1, the gallery those of view 2; one gallery picture an identity is to be drawn'
MAT,CONFIG,NOTE = 'cuhk-03.mat', 'cuhk03_new_protocol_config_{}.mat', 'extracted.json'
_NAME = re.compile(r'(\d+)_(\d+)_([12])_\d+\.png$')


@contextmanager
def _reading(file):
    try: yield
    # a reader of broken bytes may raise anything, and each means the same here
    except Exception as e: raise ValueError(f'{file} is not as CUHK03 has it ({type(e).__name__}: {e}): unpack it again.') from e


def _open(mat):
    try:
        import h5py
    except ImportError as e: raise ImportError(f'Reading {mat} needs h5py: pip install h5py') from e
    with _reading(mat): return h5py.File(mat, 'r')


def release_in(
    root,     # Folder that the user has named
    detector, # Detected or labeled
):
    "`(folder, cuhk-03.mat)` of the release in `root` or one folder below, None where it is the converted form; FileNotFoundError otherwise"
    root = Path(root)
    if not root.is_dir(): raise FileNotFoundError(f'{root} is not a folder: name the one that CUHK03 was unpacked in.')
    places = [root, *sorted(p for p in root.iterdir() if p.is_dir())]
    mats = [(p, p/d/MAT) for p in places for d in ('cuhk03_release', '.') if (p/d/MAT).is_file()]
    converted = [p for p in places if (p/detector/MARKET['train']).is_dir()]
    if mats and converted: raise ValueError(f'{root} holds the release ({mats[0][1]}) and the converted form ({converted[0]}): point at one of them.')
    if mats: return mats[0]
    if converted: return None
    there = ', '.join(p.name for p in sorted(root.iterdir())[:8]) or 'nothing'
    raise FileNotFoundError(f'CUHK03 is not in {root}: looked there and one folder below for cuhk03_release/{MAT}, {MAT}, and for '
                            f'{detector}/{MARKET["train"]} of the converted form; found {there}.')


def _whole(file):
    "Is a PNG there, to its end?"
    try:
        with open(file, 'rb') as f:
            f.seek(-12, os.SEEK_END)
            return f.read() == b'\0\0\0\0IEND\xaeB`\x82'
    except OSError: return False


def _save(file, pixels):
    tmp = file.with_name(f'.{file.name}')  # hidden: not taken for a picture, and written over by the next run
    Image.fromarray(pixels).save(tmp, format='PNG')
    os.replace(tmp, file)


def extract(
    mat,       # Cuhk-03.mat
    to,        # Folder for the pictures
    detector,  # Detected or labeled
    workers=8, # Threads that encode
):
    "Write the pictures in the release as PNG, each in one move, those that are there already left as they are. `(pictures, written now)`"
    mat,to = Path(mat), Path(to)
    note,done = to/NOTE, {'mat': mat.stat().st_size, 'detector': detector}
    if note.is_file():
        with _reading(note): had = json.loads(note.read_text(encoding='utf-8'))
        if {k: had.get(k) for k in done} == done and len(pictures_in(to)) == had.get('pictures'): return had['pictures'], 0
    with _open(mat) as f, ThreadPoolExecutor(max(1, workers)) as pool:
        with _reading(mat):
            pairs = [f[r][()] for r in f[detector][()].ravel()]  # cells of 10 pictures x people, the other way round in MATLAB
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
                    if _whole(to/name): continue
                    pixels = np.ascontiguousarray(cell[()].T)  # stored as (colour, column, row)
                    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
                        raise ValueError(f'pixels of shape {pixels.shape} and type {pixels.dtype}')
                todo.append((to/name, pixels))
            for _ in pool.map(_save, *zip(*todo)) if todo else (): written += 1
    if not n: raise ValueError(f'{mat} holds no pictures under {detector!r}: unpack it again.')
    if len(there := pictures_in(to)) != n: raise ValueError(f'{to} holds {len(there)} pictures, {n} are of {mat}: move the others away.')
    _note = note.with_name(f'.{NOTE}')
    _note.write_text(json.dumps({**done, 'pictures': n}) + '\n', encoding='utf-8')
    os.replace(_note, note)
    return n, written


def _pictures(folder, detector):
    "Table of the extracted pictures with `pair_person` as identity, the view as camera"
    paths = pictures_in(folder)
    found = [_NAME.match(p) for p in paths]
    for p,m in zip(paths, found):
        if not m: raise ValueError(f'{folder/p} is not named like 1_001_2_06.png: pair, person, view, number. Move it away.')
    return pd.DataFrame({'path': [f'{folder.name}/{p}' for p in paths], 'identity': [f'{m[1]}_{m[2]}' for m in found],
                         'camera': [m[3] for m in found], 'split': 'train', 'quality': np.nan})


def _new(table, config):
    "The new protocol: who is who and which split a picture belongs to, from its file"
    from scipy.io import loadmat
    if not config.is_file(): raise FileNotFoundError(f'The new protocol needs {config.name} in {config.parent}. Without it: --protocol classic.')
    row,split,who = {p.rsplit('/', 1)[-1]: k for k,p in enumerate(table['path'])}, {}, {}
    with _reading(config):
        held = loadmat(config, variable_names=['filelist', 'labels', 'train_idx', 'query_idx', 'gallery_idx'])
        names,labels = [str(np.ravel(n)[0]) for n in held['filelist'].ravel()], held['labels'].ravel().astype(int)
        for s in ('train', 'query', 'gallery'):
            for i in held[f'{s}_idx'].ravel().astype(int):  # counted from 1
                if not 1 <= i <= len(names): raise ValueError(f'{s}_idx {i} is not 1 to {len(names)}')
                name = names[i - 1]
                if name not in row: raise ValueError(f'{name}, {s}_idx {i}, is not among the {len(row)} pictures')
                if name in split: raise ValueError(f'{name} is in {split[name]} and in {s}')
                split[name],who[name] = s, f'{labels[i - 1]:04d}'
    names = table['path'].str.rsplit('/', n=1).str[-1]
    table = table.assign(identity=names.map(who), split=names.map(split))
    left_out = int(table['split'].isna().sum())
    return table[table['split'].notna()].sort_values('split', key=lambda s: s.map({'train': 0, 'query': 1, 'gallery': 2}), kind='stable',
                                                     ignore_index=True), left_out


def _test_people(mat):
    "The people judged in each classic split, as `pair_person`"
    with _open(mat) as f, _reading(mat):
        sets = [[f'{int(pair)}_{int(person):03d}' for pair,person in f[r][()].T] for r in f['testsets'][()].ravel()]
        if len(sets) != N_SPLITS: raise ValueError(f'{len(sets)} testsets')
    return sets


def cuhk03_tables(
    root,               # Folder of the release, its pictures extracted, or of the converted form
    detector='detected',# Detected or labeled
    protocol='new',     # New or classic
    numbers=(0,),       # Splits of the classic protocol, each 0 to 19; the new one has one
    images='',          # Folder that `images_detected` or `images_labeled` are in; '': beside the release
    verify=True,        # Decode every picture, once, and leave the unreadable ones out?
    strict=False,       # An unreadable picture is an error?
    workers=8,          # Threads that decode
):
    "List of tables, one a split, with how they were made in `attrs['record']`; nothing is written"
    made = {'source': 'CUHK03', 'detector': detector, 'single_gallery_shot': protocol == 'classic'}
    release = release_in(root, detector)
    if not release:
        table = three_folders(root, {s: f'{detector}/{f}' for s,f in MARKET.items()}, 'CUHK03', pattern=r'(\d+)_c(\d+)', example='0001_c1_1.png',
                              ids=(1, 1467), cameras=(1, 2))
        table.attrs['record'] = {**made, 'protocol': 'new', 'form': 'converted', 'published': PUBLISHED[detector]}
        return [verified(table, verify, strict, workers)]
    at,mat = release
    folder = Path(images or at)/f'images_{detector}'
    table,attrs = _pictures(folder, detector), {'root': str(folder.parent)}
    if protocol == 'new':
        table,left_out = _new(table, at/CONFIG.format(detector))
        table.attrs = {**attrs, 'record': {**made, 'protocol': 'new', 'form': 'release', 'left_out': left_out, 'published': PUBLISHED[detector]}}
        return [verified(table, verify, strict, workers)]
    table.attrs,sets,out = attrs, _test_people(mat), []
    table = verified(table, verify, strict, workers)
    for n in numbers:
        held = table['identity'].isin(sets[n])
        out.append(table.assign(split=np.where(~held, 'train', np.where(table['camera'] == '1', 'query', 'gallery'))))
        out[-1].attrs = {**table.attrs, 'record': {**made, 'protocol': CLASSIC, 'form': 'release', 'split': n,
                                                   'test_people': int(table['identity'][held].nunique())}}
    return out


@call_parse
def main(
    root:str, # Folder of the release, or of the converted form
    out:str='', # Folder for the table; default: ROOT
    detector:str='detected', # Detected or labeled
    protocol:str='new', # New or classic
    split:str='0', # classic: 0 to 19, or all: one table each
    images:str='', # Folder to extract the pictures of the release to; default: beside it
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that extract and decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from CUHK03"
    try:
        if detector not in DETECTORS: raise ValueError(f"--detector {detector!r} is unknown: use {' or '.join(DETECTORS)}.")
        if protocol not in PROTOCOLS: raise ValueError(f"--protocol {protocol!r} is unknown: use {' or '.join(PROTOCOLS)}.")
        if protocol == 'new' and split != '0': raise ValueError('The new protocol has one split: --split is for --protocol classic.')
        release = release_in(root, detector)
        if not release and protocol != 'new': raise ValueError(f'{root} holds the converted form, of the new protocol: point at the release.')
        at = Path(images or release[0]) if release else find(root, [f'{detector}/{f}' for f in MARKET.values()], 'CUHK03')
        if release:
            n,written = extract(release[1], at/f'images_{detector}', detector, workers)
            if written: print(f"{written} of {n} pictures written to {at/f'images_{detector}'}")
    except (ValueError, OSError, ImportError) as e: sys.exit(f'{type(e).__name__}: {e}')
    def build(numbers): return cuhk03_tables(root, detector, protocol, numbers, images, not no_verify, strict, workers)
    options,among = {'detector': detector, 'protocol': protocol, 'verify': not no_verify}, (f'images_{detector}' if release else detector,)
    if protocol == 'new': make(lambda: build([0])[0], at, out or root, options, force, among)
    else: make_splits(build, split, N_SPLITS, at, out or root, options, force, among)
