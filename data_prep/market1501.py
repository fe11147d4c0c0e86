"""A table of images from Market-1501 (Zheng et al., ICCV 2015), or from a copy that holds its training half only.

    python data_prep/market1501.py ROOT            # -> ROOT/images.csv
    python data_prep/market1501.py ROOT --out DIR  # -> DIR/images.csv

Expected: `bounding_box_train`, `query` and `bounding_box_test` in ROOT or one folder below (`Market-1501-v15.09.15`). Published: 12,936
pictures of 751 identities to train on, 3,368 queries of 750, 15,913 gallery pictures of 750 and the background, six cameras.
Names are `0002_c1s1_000451_03.jpg`: identity, camera. Identity -1 (junk) is left out and counted, 0000 (background) stays in the gallery.

A train-only copy (`bounding_box_train` alone, or pictures with such names flat or in a folder per identity, `train/0002/...` included) is
split by identity. The record says so: its figures are not comparable with published ones.
"""
import os
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, readable
from fastcore.script import call_parse
from folder import pictures_in

from qsd_fastai.data.table import check_table, read_table, split_identities

LAYOUT = {'train': 'bounding_box_train', 'query': 'query', 'gallery': 'bounding_box_test'}
PUBLISHED = {'train': (12936, 751), 'query': (3368, 750), 'gallery': (15913, 751)}  # the background counts as an identity of the gallery
BACKGROUND, JUNK = 0, -1
_NAME = re.compile(r'([-\d]+)_c(\d+)')

def _parse(paths):
    "Table of path, identity, camera; ValueError naming the first picture that is not named as Market-1501 names them."
    # the base name only: a parent folder such as `run_12_c3` would match as well
    found = [_NAME.match(p.rsplit('/', 1)[-1]) for p in paths]
    for p, m in zip(paths, found):
        if not m: raise ValueError(f"{p} is not named like 0002_c1s1_000451_03.jpg. Other names: data_prep/folder.py --identity REGEX.")
        try: person, camera = int(m[1]), int(m[2])
        except ValueError: person = camera = None
        if person is None or not JUNK <= person <= 1501 or not 1 <= camera <= 6:
            raise ValueError(f"{p}: identity {m[1]!r} or camera {m[2]!r} is not of Market-1501 (identity -1 to 1501, camera 1 to 6).")
    ids, cameras = [m[1] for m in found], [str(int(m[2])) for m in found]
    return pd.DataFrame({'path': paths, 'identity': ids, 'camera': cameras, 'split': 'train', 'quality': np.nan})

def _layout(root):
    "Prefix (below `root`) of the folder with the published layout and the splits that are there; ('', []) where none is."
    for d in ['', *sorted(p.name + '/' for p in root.iterdir() if p.is_dir())]:
        there = [s for s, name in LAYOUT.items() if (root/d/name).is_dir()]
        if there == list(LAYOUT) or there == ['train']: return d, there
        # `query` alone says little: other layouts have a folder of this name too
        if 'train' in there or 'gallery' in there:
            lack = ', '.join(name for s, name in LAYOUT.items() if s not in there)
            raise FileNotFoundError(f"{root/d} has {', '.join(LAYOUT[s] for s in there)} and lacks {lack}: unpack all of Market-1501.")
    return '', []

def market1501_table(
    root,         # folder of Market-1501, or of a copy of its training half
    test=.5,      # train-only copy: held-out identities, a fraction up to 1 or how many
    seed=0,       # train-only copy: seed of the split
    verify=True,  # decode every picture and leave the unreadable ones out?
    strict=False, # an unreadable picture is an error?
    workers=8,    # threads that decode
):
    "Table of Market-1501 below `root` with how it was made in `attrs['record']`; nothing is written."
    root = Path(root)
    paths = pictures_in(root)
    prefix, there = _layout(root)
    if there:
        split_of = {f'{prefix}{LAYOUT[s]}': s for s in there}
        paths = [p for p in paths if p.rpartition('/')[0] in split_of]
        if not paths: raise FileNotFoundError(f"{', '.join(split_of)} in {root} hold no pictures.")
    table = _parse(paths)
    number = table['identity'].astype(int)
    record = {'source': 'Market-1501', 'junk_left_out': int((number == JUNK).sum()), 'background': int((number == BACKGROUND).sum())}
    table = table[number != JUNK].reset_index(drop=True)
    names = table['path'].str.rsplit('/', n=1).str[-1]
    if not there and names.duplicated().any():
        places = table['path'][names == names[names.duplicated()].iloc[0]].tolist()
        raise ValueError(f"The same picture is below {root} more than once: {', '.join(places)}. Some copies have train and train_all: "
                         "point at the folder that holds each picture once.")
    table.attrs['root'] = str(root)
    if verify: table = readable(table, strict, workers)
    attrs = table.attrs
    if there == list(LAYOUT):
        table['split'] = table['path'].str.rpartition('/')[0].map(split_of)
        record |= {'protocol': 'published', 'published': PUBLISHED}
    else:
        persons = table['identity'].astype(int) != BACKGROUND
        n_pics, n_ids = int(persons.sum()), table['identity'][persons].nunique()
        known = split_identities(table[persons], test if test <= 1 else int(test), seed=seed)
        table = pd.concat([known, table[~persons].assign(split='gallery')]).sort_index()
        record |= {'protocol': 'train-only copy, split by identity, figures are not comparable with published ones',
                   'test': test, 'seed': seed, 'found': [n_pics, n_ids], 'complete': (n_pics, n_ids) == PUBLISHED['train']}
    table.attrs = {**attrs, 'record': record}
    return table

@call_parse
def main(
    root:str, # folder of Market-1501, or of a copy of its training half
    out:str='', # folder for the table; default: ROOT
    test:float=.5, # train-only copy: held-out identities, a fraction up to 1 or how many
    seed:int=0, # train-only copy: seed of the split
    no_verify:bool=False, # do not decode every picture to find unreadable ones
    strict:bool=False, # stop at unreadable pictures instead of leaving them out
    workers:int=8, # threads that decode pictures
    force:bool=False, # make the table anew where there is one
):
    "Table of images from Market-1501."
    try:
        path, found = Path(out or root)/'images.csv', pictures_in(root)
        record = {'folder': os.path.relpath(root, path.parent).replace(os.sep, '/'), 'pictures': len(found), 'verify': not no_verify,
                  'listing': zlib.crc32('\n'.join(found).encode()), 'options': {'test': test, 'seed': seed}}
        if is_made(path, record, force):
            check_table(read_table(path, check=False))
            return print(f'{path} is there already, made from the same pictures in the same way: nothing to do.')
        table = market1501_table(root, test, seed, not no_verify, strict, workers)
        made = table.attrs['record']
        print(f"Market-1501: {made['protocol']}\n{made['junk_left_out']} junk pictures left out, {made['background']} background ones kept")
        if 'complete' in made:
            print(f"{made['found'][0]} pictures of {made['found'][1]} identities: {'all' if made['complete'] else 'not all'} of the "
                  f"published training half ({PUBLISHED['train'][0]} of {PUBLISHED['train'][1]})")
        finish(table, path, {**made, **record})
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
