"""A table of images from VehicleID (Liu et al., CVPR 2016): vehicles.

    python data_prep/vehicleid.py ROOT               # -> ROOT/images.csv, judged on the 800 vehicles of the small test list
    python data_prep/vehicleid.py ROOT --test 2400 --seed 1

Expected: `image` and `train_test_split` in ROOT or one folder below (`VehicleID_V1.0`); in the latter `train_list.txt` and `test_list_800.txt`,
`_1600`, `_2400`, `_13164`, lines `0005024 7036`: picture `image/0005024.jpg`, vehicle. There are no cameras.

The protocol: one picture of each vehicle, drawn at random, is the gallery, the others are the queries. The draw is the same on every machine; ten
draws are usual, `--seed 0` to `9`, each into its own `--out`, and the mean is reported.
"""
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from folder import pictures_in
from layout import drawn, find, make, verified

from qsd_fastai.data.labels import text_lines

TESTS = ('800', '1600', '2400', '13164')
TRAIN,IN_LIST = (113346, 13164), {'800': 6493, '1600': 13377, '2400': 19777}  # of the largest list no count was published


def _read_list(file, there):
    "Names of pictures and vehicles; ValueError or FileNotFoundError naming the line that cannot be read, or whose picture is missing"
    rows,seen = [], {}
    for n,line in text_lines(file):
        part = line.split()
        if len(part) != 2 or not all(p.isdecimal() for p in part): raise ValueError(f'{file}, line {n}: {line!r} is not like `0005024 7036`.')
        name = f'{part[0]}.jpg'
        if name not in there: raise FileNotFoundError(f'{file}, line {n}: image/{name} is missing. Unpack all of VehicleID.')
        if seen.setdefault(name, n) != n: raise ValueError(f'{file}, line {n}: picture {part[0]} is in line {seen[name]} too.')
        rows.append((name, str(int(part[1]))))
    if not rows: raise ValueError(f'{file} is empty: unpack VehicleID again.')
    return pd.DataFrame(rows, columns=['path', 'identity'])


def vehicleid_table(
    root,         # Folder of the set
    test='800',   # Which list is judged on: 800, 1600, 2400, 13164
    seed=0,       # Seed of the draw of the gallery
    verify=True,  # Decode every picture and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "Table of VehicleID with how it was made in `attrs['record']`; nothing is written"
    root,test = Path(root), str(test)
    if test not in TESTS: raise ValueError(f"--test {test!r} is unknown: use {', '.join(TESTS)}.")
    lists = {'train': 'train_test_split/train_list.txt', 'test': f'train_test_split/test_list_{test}.txt'}
    at = find(root, ['image', *lists.values()], 'VehicleID')
    there = set(pictures_in(at/'image'))
    train,held = (_read_list(at/name, there).assign(camera='', split='train', quality=np.nan) for name in lists.values())
    if len(both := set(train['path']) & set(held['path'])):
        raise ValueError(f"{lists['test']} and {lists['train']} share {len(both)} pictures, first {min(both)}: unpack VehicleID again.")
    # drawn before pictures are left out as unreadable: the draw is a matter of the list
    first,who = {}, dict(zip(held['path'], held['identity']))
    for p in drawn(held['path'], f'VehicleID/{seed}'): first.setdefault(who[p], p)
    held['split'] = np.where(held['path'].isin(first.values()), 'gallery', 'query')
    table = pd.concat([train, held], ignore_index=True)
    prefix = (at/'image').relative_to(root).as_posix()
    table['path'] = f'{prefix}/' + table['path']
    n,published = IN_LIST.get(test), {'train': TRAIN}
    if n: published |= {'query': (n - int(test), int(test)), 'gallery': (int(test), int(test))}
    table.attrs = {'root': str(root), 'record': {'source': 'VehicleID', 'test': test, 'seed': seed,
        'protocol': 'one picture a vehicle in the gallery, drawn at random', 'published': published}}
    return verified(table, verify, strict, workers)


@call_parse
def main(
    root:str, # Folder of the set
    out:str='', # Folder for the table; default: ROOT
    test:str='800', # Which list is judged on: 800, 1600, 2400, 13164
    seed:int=0, # Seed of the draw of the gallery
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from VehicleID"
    make(lambda: vehicleid_table(root, test, seed, not no_verify, strict, workers), root, out,
         {'test': test, 'seed': seed, 'verify': not no_verify}, force)
