"""A table of images from Market-1501 (Zheng et al., ICCV 2015), or from a copy that holds its training half only.

    python data_prep/market1501.py ROOT            # -> ROOT/images.csv
    python data_prep/market1501.py ROOT --out DIR  # -> DIR/images.csv
    python data_prep/market1501.py ROOT --distractors

Expected: `bounding_box_train`, `query` and `bounding_box_test` in ROOT or one folder below (`Market-1501-v15.09.15`). Published: 12,936
pictures of 751 identities to train on, 3,368 queries of 750, 15,913 gallery pictures of 750 and the background, six cameras.
Names are `0002_c1s1_000451_03.jpg`: identity, camera. Identity -1 (junk) is left out and counted, 0000 (background) stays in the gallery.

`--distractors` adds the 500k distractors, the folder `images` beside the three others, to the gallery. Nobody asks for them, so that all are the
one identity `distractor`; the camera is taken from the name where it tells one, and junk (-1) is left out as it is elsewhere.

A train-only copy (`bounding_box_train` alone, or pictures with such names flat or in a folder per identity, `train/0002/...` included) is
split by identity. The record says so: its figures are not comparable with published ones.
"""
import re
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from folder import pictures_in
from layout import MARKET, make, parse_names, verified

from qsd_fastai.data.table import split_identities

PUBLISHED = {'train': (12936, 751), 'query': (3368, 750), 'gallery': (15913, 751)}  # the background counts as an identity of the gallery
BACKGROUND,JUNK = 0, -1
NAMES = {'pattern': r'([-\d]+)_c(\d+)', 'example': '0002_c1s1_000451_03.jpg', 'ids': (JUNK, 1501), 'cameras': (1, 6)}


def _layout(root):
    "Prefix (below `root`) of the folder with the published layout and the splits that are there; ('', []) where none is"
    for d in ['', *sorted(p.name + '/' for p in root.iterdir() if p.is_dir())]:
        there = [s for s,name in MARKET.items() if (root/d/name).is_dir()]
        if there == list(MARKET) or there == ['train']: return d, there
        # `query` alone says little: other layouts have a folder of this name too
        if 'train' in there or 'gallery' in there:
            lack = ', '.join(name for s,name in MARKET.items() if s not in there)
            raise FileNotFoundError(f"{root/d} has {', '.join(MARKET[s] for s in there)} and lacks {lack}: unpack all of Market-1501.")
    return '', []


def _distractors(folder, prefix):
    "Table of the distractors and how many junk pictures among them were left out; ValueError where a name tells a camera that is not of this source"
    if not folder.is_dir(): raise FileNotFoundError(f'--distractors: {folder} is not there. Unpack the 500k distractors beside bounding_box_test.')
    paths = [f'{prefix}/{p}' for p in pictures_in(folder)]
    found = [re.match(NAMES['pattern'], p.rsplit('/', 1)[-1]) for p in paths]
    named = [p for p,m in zip(paths, found) if m]
    plain = pd.DataFrame({'path': [p for p,m in zip(paths, found) if not m], 'identity': '', 'camera': '', 'split': 'gallery', 'quality': np.nan})
    table = pd.concat([parse_names(named, **NAMES), plain] if named else [plain], ignore_index=True)
    junk = table['identity'] == str(JUNK)
    # whatever number the name begins with: it is nobody who is asked for
    return table[~junk].assign(identity='distractor', split='gallery').sort_values('path', ignore_index=True), int(junk.sum())


def market1501_table(
    root,              # Folder of Market-1501, or of a copy of its training half
    test=.5,           # Train-only copy: held-out identities, a fraction up to 1 or how many
    seed=0,            # Train-only copy: seed of the split
    verify=True,       # Decode every picture and leave the unreadable ones out?
    strict=False,      # An unreadable picture is an error?
    workers=8,         # Threads that decode
    distractors=False, # Add the 500k distractors, the folder `images`, to the gallery?
):
    "Table of Market-1501 below `root` with how it was made in `attrs['record']`; nothing is written"
    root = Path(root)
    paths = pictures_in(root)
    prefix,there = _layout(root)
    if there:
        split_of = {f'{prefix}{MARKET[s]}': s for s in there}
        if deeper := [p for p in paths if p.rpartition('/')[0] not in split_of and p.startswith(tuple(f'{f}/' for f in split_of))]:
            raise ValueError(f'{len(deeper)} pictures lie deeper than Market-1501 has any, first {deeper[0]!r}: move them up, or away.')
        paths = [p for p in paths if p.rpartition('/')[0] in split_of]
        if not paths: raise FileNotFoundError(f"{', '.join(split_of)} in {root} hold no pictures.")
    table = parse_names(paths, **NAMES)
    number = table['identity'].astype(int)
    record = {'source': 'Market-1501', 'junk_left_out': int((number == JUNK).sum()), 'background': int((number == BACKGROUND).sum())}
    table = table[number != JUNK].reset_index(drop=True)
    names = table['path'].str.rsplit('/', n=1).str[-1]
    if not there and names.duplicated().any():
        places = table['path'][names == names[names.duplicated()].iloc[0]].tolist()
        raise ValueError(f"The same picture is below {root} more than once: {', '.join(places)}. Some copies have train and train_all: "
                         "point at the folder that holds each picture once.")
    published = dict(PUBLISHED)
    if distractors:
        if there != list(MARKET): raise ValueError(f'--distractors is for the published layout, and {root} holds a train-only copy.')
        more,junk = _distractors(root/prefix/'images', f'{prefix}images')
        table = pd.concat([table, more], ignore_index=True)
        # what is published of the distractors is a round figure: the number found is taken for right, the others are compared
        published['gallery'] = (PUBLISHED['gallery'][0] + len(more), PUBLISHED['gallery'][1] + 1)
    record |= {'distractors': len(more) if distractors else 0, 'distractor_junk_left_out': junk if distractors else 0}
    table.attrs['root'] = str(root)
    table = verified(table, verify, strict, workers)
    attrs = table.attrs
    if there == list(MARKET):
        table['split'] = table['path'].str.rpartition('/')[0].map(split_of).fillna('gallery')  # distractors may lie deeper
        record |= {'protocol': 'published, with distractors' if distractors else 'published', 'published': published}
    else:
        persons = table['identity'].astype(int) != BACKGROUND
        n_pics,n_ids = int(persons.sum()), table['identity'][persons].nunique()
        known = split_identities(table[persons], test if test <= 1 else int(test), seed=seed)
        table = pd.concat([known, table[~persons].assign(split='gallery')]).sort_index()
        record |= {'protocol': 'train-only copy, split by identity, figures are not comparable with published ones',
                   'test': test, 'seed': seed, 'found': [n_pics, n_ids], 'complete': (n_pics, n_ids) == PUBLISHED['train']}
    table.attrs = {**attrs, 'record': record}
    return table


@call_parse
def main(
    root:str, # Folder of Market-1501, or of a copy of its training half
    out:str='', # Folder for the table; default: ROOT
    test:float=.5, # Train-only copy: held-out identities, a fraction up to 1 or how many
    seed:int=0, # Train-only copy: seed of the split
    distractors:bool=False, # Add the 500k distractors, the folder `images`, to the gallery
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from Market-1501"
    make(lambda: market1501_table(root, test, seed, not no_verify, strict, workers, distractors), root, out,
         {'test': test, 'seed': seed, 'distractors': distractors, 'verify': not no_verify}, force)
