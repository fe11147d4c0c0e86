"""A table of images from i-LIDS (Zheng et al., BMVC 2009): 119 people in an airport hall.

    python data_prep/ilids.py ROOT               # -> ROOT/images.csv, split 0
    python data_prep/ilids.py ROOT --split all   # -> ROOT/split_00.csv to split_09.csv

Expected: the folder `Persons` in ROOT or one folder below (`i-LIDS_Pedestrian`), names like `0001001.jpg`: the first four digits are the identity,
the others the number of the picture. Cameras are not told. Half of the people (59) are trained on; of every other one picture is asked with and
one is in the gallery, all drawn at random. The usual mean is of ten such splits; those drawn here
are the same on every machine, not those of any paper.
"""
import re
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from folder import pictures_in
from layout import drawn, find, make_splits, verified

PUBLISHED = {'query': (60, 60), 'gallery': (60, 60)}  # how many pictures the others have depends on who is drawn
N_SPLITS = 10


def ilids_tables(
    root,         # Folder of the set
    numbers,      # Splits, each 0 to 9
    verify=True,  # Decode every picture, once, and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "List of the tables of these splits with how they were made in `attrs['record']`; nothing is written"
    root = Path(root)
    at = find(root, ['Persons'], 'i-LIDS')
    prefix = (at/'Persons').relative_to(root).as_posix()
    paths = [f'{prefix}/{p}' for p in pictures_in(at/'Persons')]
    found = [re.match(r'(\d{4})\d+\.', p.rsplit('/', 1)[-1]) for p in paths]
    for p,m in zip(paths, found):
        if not m: raise ValueError(f'{p} is not named like 0001001.jpg: four digits of the identity, then the number of the picture.')
    table = pd.DataFrame({'path': paths, 'identity': [m[1] for m in found], 'camera': '', 'split': 'train', 'quality': np.nan})
    people = table['identity'].unique()
    table.attrs['root'] = str(root)
    table,out = verified(table, verify, strict, workers), []
    names = table['path'].str.rsplit('/', n=1).str[-1]
    for n in numbers:
        order = {name: k for k,name in enumerate(drawn(names, f'i-LIDS/{n}/pictures'))}
        train = table['identity'].isin(drawn(people, f'i-LIDS/{n}')[:len(people)//2])
        place = names.map(order).groupby(table['identity']).rank()
        kept = table.assign(split=np.where(train, 'train', np.where(place == 1, 'query', 'gallery')))[train | (place <= 2)].reset_index(drop=True)
        kept.attrs = {**table.attrs, 'record': {'source': 'i-LIDS', 'split': n,
                                                'protocol': 'ten random halves, one query and one gallery picture each',
                                                'left_out': len(table) - len(kept), 'published': PUBLISHED}}
        out.append(kept)
    return out


@call_parse
def main(
    root:str, # Folder of the set
    out:str='', # Folder for the table; default: ROOT
    split:str='0', # 0 to 9, or all: one table each
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from i-LIDS"
    make_splits(lambda numbers: ilids_tables(root, numbers, not no_verify, strict, workers), split, N_SPLITS, root, out,
                {'verify': not no_verify}, force)
