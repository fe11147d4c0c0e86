"""A table of images from VIPeR (Gray et al., 2007): two pictures of each of 632 people, from two cameras.

    python data_prep/viper.py ROOT               # -> ROOT/images.csv, split 0
    python data_prep/viper.py ROOT --split all   # -> ROOT/split_00.csv to split_19.csv

Expected: `cam_a` and `cam_b` in ROOT or one folder below (`VIPeR`), names like `001_45.bmp`: identity, angle. Half of the people, drawn at random,
are trained on. The ten halves are judged in both directions: split 2k asks with camera a, split 2k+1 with camera b. The mean of the twenty is what is
reported. No list of halves was ever published: the ones drawn here are the same on every machine, not those of any paper.
"""
import re
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from folder import pictures_in
from layout import drawn, find, make_splits, verified

CAMERAS = {'a': 'cam_a', 'b': 'cam_b'}
PUBLISHED = {'train': (632, 316), 'query': (316, 316), 'gallery': (316, 316)}
N_SPLITS = 20


def _pictures(root):
    "Table of all pictures; ValueError naming the first that is not named as it should be, or that has no partner"
    root,rows = Path(root), []
    at = find(root, CAMERAS.values(), 'VIPeR')
    for camera,folder in CAMERAS.items():
        seen = {}
        for p in pictures_in(at/folder):
            m = re.match(r'(\d+)_\d+\.', p.rsplit('/', 1)[-1])
            path = f'{(at/folder).relative_to(root).as_posix()}/{p}'
            if not m: raise ValueError(f'{path} is not named like 001_45.bmp: identity, angle.')
            if m[1] in seen: raise ValueError(f'{path} and {seen[m[1]]} are of one person and one camera: VIPeR has one picture of each.')
            seen[m[1]] = path
            rows.append((path, m[1], camera, 'train', np.nan))
    table = pd.DataFrame(rows, columns=['path', 'identity', 'camera', 'split', 'quality'])
    alone = ~table['identity'].duplicated(keep=False)
    if alone.any(): raise ValueError(f"{table['path'][alone].iloc[0]} has no partner of the other camera: unpack all of VIPeR.")
    table.attrs['root'] = str(root)
    return table


def _split(table, half, number):
    "Split `number` of `table`; `half` are the people trained on"
    asks = 'ab'[number % 2]
    split = np.where(table['identity'].isin(half), 'train', np.where(table['camera'] == asks, 'query', 'gallery'))
    out = table.assign(split=split)
    out.attrs = {**table.attrs, 'record': {'source': 'VIPeR', 'split': number,
                                           'protocol': 'ten random halves in two directions, report the mean of 20',
                                           'half': number//2, 'queries': f'camera {asks}', 'published': PUBLISHED}}
    return out


def viper_tables(
    root,         # Folder of the set
    numbers,      # Splits, each 0 to 19
    verify=True,  # Decode every picture, once, and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "List of the tables of these splits with how they were made in `attrs['record']`; nothing is written"
    table = _pictures(root)
    people = table['identity'].unique()
    table = verified(table, verify, strict, workers)
    halves = {k: drawn(people, f'VIPeR/{k}')[:len(people)//2] for k in {n//2 for n in numbers}}
    return [_split(table, halves[n//2], n) for n in numbers]


@call_parse
def main(
    root:str, # Folder of the set
    out:str='', # Folder for the table; default: ROOT
    split:str='0', # 0 to 19, or all: one table each
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from VIPeR"
    make_splits(lambda numbers: viper_tables(root, numbers, not no_verify, strict, workers), split, N_SPLITS, root, out,
                {'verify': not no_verify}, force)
