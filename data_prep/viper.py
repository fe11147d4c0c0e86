"""A table of images from VIPeR (Gray et al., 2007): two pictures of each of 632 people, from two cameras.

    python data_prep/viper.py ROOT               # -> ROOT/images.csv, split 0
    python data_prep/viper.py ROOT --split all   # -> ROOT/split_00.csv to split_19.csv

Expected: `cam_a` and `cam_b` in ROOT or one folder below (`VIPeR`), names like `001_45.bmp`: identity, angle. Half of
the people, drawn at random, are trained on. The ten halves are judged in both directions: split 2k asks with camera a,
split 2k+1 with camera b. The mean of the twenty is what is reported. No list of halves was ever published: the ones
drawn here are the same on every machine, not those of any paper.
"""
from pathlib import Path

import numpy as np
import pandas as pd
from common.layout import drawn, find, match_names, new_table
from common.pictures import pictures_in
from common.sets import a_set

CAMERAS = {'a': 'cam_a', 'b': 'cam_b'}
PUBLISHED = {'train': (632, 316), 'query': (316, 316), 'gallery': (316, 316)}
PROTOCOL = 'ten random halves in two directions, report the mean of 20'


def _camera(root, folder, camera):
    "Table of a camera; ValueError naming the second picture of a person"
    prefix,seen = folder.relative_to(root).as_posix(), {}
    paths = [f'{prefix}/{p}' for p in pictures_in(folder)]
    for p,m in zip(paths, match_names(paths, r'(\d+)_\d+\.', '001_45.bmp: identity, angle')):
        if m[1] in seen:
            raise ValueError(f'{p} and {seen[m[1]]} are of one person and one camera. '
                             'VIPeR has one picture of each: move the other away.')
        seen[m[1]] = p
    return new_table(root, paths, list(seen), camera)


@a_set('VIPeR', published=PUBLISHED, splits=20)
def viper_tables(
    root:str, # Folder of the set
    numbers,  # Splits, each 0 to 19
    *,
    readable, # Leaves out what cannot be decoded, once for all splits
):
    "Table of images from VIPeR"
    root = Path(root)
    at = find(root, CAMERAS.values(), 'VIPeR')
    table = pd.concat([_camera(root, at/f, c) for c,f in CAMERAS.items()], ignore_index=True)
    alone = ~table['identity'].duplicated(keep=False)
    if alone.any():
        raise ValueError(f"{table['path'][alone].iloc[0]} has no partner of the other camera. Unpack all of VIPeR.")
    people = table['identity'].unique()
    table.attrs['root'] = str(root)
    table,out = readable(table), []
    for n in numbers:
        half,asks = drawn(people, f'VIPeR/{n//2}')[:len(people)//2], 'ab'[n % 2]
        judged = np.where(table['camera'] == asks, 'query', 'gallery')
        out.append(table.assign(split=np.where(table['identity'].isin(half), 'train', judged)))
        record = {'split': n, 'protocol': PROTOCOL, 'half': n//2, 'queries': f'camera {asks}'}
        out[-1].attrs = {**table.attrs, 'record': record}
    return out
