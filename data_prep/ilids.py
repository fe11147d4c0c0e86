"""A table of images from i-LIDS (Zheng et al., BMVC 2009): 119 people in an airport hall.

    python data_prep/ilids.py ROOT               # -> ROOT/images.csv, split 0
    python data_prep/ilids.py ROOT --split all   # -> ROOT/split_00.csv to split_09.csv

Expected: the folder `Persons` in ROOT or one folder below (`i-LIDS_Pedestrian`), names like `0001001.jpg`: the first
four digits are the identity, the others the number of the picture. Cameras are not told. Half of the people (59) are
trained on; of every other one picture is asked with and one is in the gallery, all drawn at random. The usual mean is
of ten such splits; those drawn here are the same on every machine, not those of any paper.
"""
from pathlib import Path

import numpy as np
from common.layout import base_name, drawn, find, match_names, new_table
from common.pictures import pictures_in
from common.sets import a_set

PUBLISHED = {'query': (60, 60), 'gallery': (60, 60)}  # how many pictures the others have depends on who is drawn
PROTOCOL = 'ten random halves, one query and one gallery picture each'


@a_set('i-LIDS', published=PUBLISHED, splits=10)
def ilids_tables(
    root:str, # Folder of the set
    numbers,  # Splits, each 0 to 9
    *,
    readable, # Leaves out what cannot be decoded, once for all splits, before anything is drawn
):
    "Table of images from i-LIDS"
    root = Path(root)
    at = find(root, ['Persons'], 'i-LIDS')/'Persons'
    paths = [f'{at.relative_to(root).as_posix()}/{p}' for p in pictures_in(at)]
    found = match_names(paths, r'(\d{4})\d+\.', '0001001.jpg: four digits of the identity, number of the picture')
    table = new_table(root, paths, [m[1] for m in found])
    people = table['identity'].unique()
    table,out = readable(table), []
    names = table['path'].map(base_name)
    for n in numbers:
        train = table['identity'].isin(drawn(people, f'i-LIDS/{n}')[:len(people)//2])
        order = {name: k for k,name in enumerate(drawn(names, f'i-LIDS/{n}/pictures'))}
        place = names.map(order).groupby(table['identity']).rank()
        split = np.where(train, 'train', np.where(place == 1, 'query', 'gallery'))
        out.append(table.assign(split=split)[train | (place <= 2)].reset_index(drop=True))
        record = {'split': n, 'protocol': PROTOCOL, 'left_out': len(table) - len(out[-1])}
        out[-1].attrs = {**table.attrs, 'record': record}
    return out
