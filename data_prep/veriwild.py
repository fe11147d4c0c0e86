"""A table of images from VERI-Wild (Lou et al., CVPR 2019): vehicles, seen by 174 cameras.

    python data_prep/veriwild.py ROOT               # -> ROOT/images.csv, judged on the small list of 3,000
    python data_prep/veriwild.py ROOT --test 10000

Expected: `images` and `train_test_split` in ROOT or one folder below (`VERI-Wild`); in the latter `train_list.txt`,
`vehicle_info.txt`, and `test_3000.txt` with `test_3000_query.txt` (also `test_3000_id.txt`, `test_3000_id_query.txt`),
`_5000`, `_10000`. Lines are `00001/000001`: vehicle, picture `images/00001/000001.jpg`; in `vehicle_info.txt` the
camera follows: `00001/000001;104;2018-03-11 12:00:13;...`. What is a query is not searched in.
"""
from pathlib import Path

import pandas as pd
from common.layout import find, new_table
from common.pictures import pictures_in
from common.sets import a_set

from qsd_fastai.choices import one_of
from qsd_fastai.data.labels import text_lines

TESTS = {'3000': (38861, 3000), '5000': (64389, 5000), '10000': (128517, 10000)}  # of the gallery
TRAIN = (277797, 30671)
INFO = 'vehicle_info.txt'


def _cameras(file):
    "`{vehicle/picture: camera}`; ValueError naming the line that cannot be read"
    out = {}
    for n,line in text_lines(file)[1:]:  # behind the names of the columns
        part = line.split(';')
        if len(part) < 2 or part[0].count('/') != 1 or not part[1].strip().isdecimal():
            raise ValueError(f'{file}, line {n}: {line!r} is not like `00001/000001;104;...`. Copy the list again.')
        out[part[0].strip()] = part[1].strip()
    return out


def _read_list(file, cameras, there):
    "`vehicle/picture` of each line; errors naming the line that cannot be read or whose picture is not there"
    out = []
    for n,line in text_lines(file):
        name = line.strip().removesuffix('.jpg')
        if name.count('/') != 1 or '' in name.split('/'):
            raise ValueError(f'{file}, line {n}: {line!r} is not like `00001/000001`. Copy the list again.')
        if name not in cameras: raise ValueError(f'{file}, line {n}: {name} is not in {INFO}. Copy the lists again.')
        if f'{name}.jpg' not in there:
            raise FileNotFoundError(f'{file}, line {n}: images/{name}.jpg is missing. Unpack all of VERI-Wild.')
        out.append(name)
    return out


@a_set('VERI-Wild')
def veriwild_table(
    root:str,        # Folder of the set
    test:str='3000', # Which list is judged on: 3000, 5000, 10000
):
    "Table of images from VERI-Wild"
    root,test = Path(root), str(test)
    one_of('--test', test, *TESTS)
    at = find(root, ['images', 'train_test_split/train_list.txt', f'train_test_split/{INFO}'], 'VERI-Wild')
    lists,names = at/'train_test_split', {'train': 'train_list.txt'}
    form = 'test_{}_id' if (lists/f'test_{test}_id.txt').is_file() else 'test_{}'
    names |= {'query': f'{form.format(test)}_query.txt', 'gallery': f'{form.format(test)}.txt'}
    cameras,there = _cameras(lists/INFO), set(pictures_in(at/'images'))
    parts,prefix = [], (at/'images').relative_to(root).as_posix()
    listed = {split: _read_list(lists/name, cameras, there) for split,name in names.items()}
    queries = set(listed['query'])
    listed['gallery'] = [o for o in listed['gallery'] if o not in queries]
    for split,found in listed.items():
        parts.append(new_table(root, [f'{prefix}/{o}.jpg' for o in found], [o.split('/')[0] for o in found],
                               [cameras[o] for o in found], split))
    table = pd.concat(parts, ignore_index=True)
    table.attrs = {'root': str(root), 'record': {'test': test, 'protocol': 'published', 'published': {
        'train': TRAIN, 'query': (int(test), int(test)), 'gallery': TESTS[test]}}}
    return table
