"""A table of images from VehicleID (Liu et al., CVPR 2016): vehicles.

    python data_prep/vehicleid.py ROOT               # -> ROOT/images.csv, judged on the small list of 800
    python data_prep/vehicleid.py ROOT --test 2400 --seed 1

Expected: `image` and `train_test_split` in ROOT or one folder below (`VehicleID_V1.0`); in the latter `train_list.txt`
and `test_list_800.txt`, `_1600`, `_2400`, `_13164`, lines `0005024 7036`: picture `image/0005024.jpg`, vehicle. There
are no cameras.

The protocol: one picture of each vehicle, drawn at random, is the gallery, the others are the queries. The draw is the
same on every machine; ten draws are usual, `--seed 0` to `9`, each into its own `--out`, and the mean is reported.
"""
from pathlib import Path

from common.layout import drawn, find, new_table
from common.pictures import pictures_in
from common.sets import a_set

from qsd_fastai.choices import one_of
from qsd_fastai.data.labels import text_lines

TESTS = ('800', '1600', '2400', '13164')
TRAIN,IN_LIST = (113346, 13164), {'800': 6493, '1600': 13377, '2400': 19777}  # of the largest no count was published


def _read_list(file, there):
    "`{name of a picture: vehicle}`; errors naming the line that cannot be read or whose picture is missing"
    out,seen = {}, {}
    for n,line in text_lines(file):
        part = line.split()
        if len(part) != 2 or not all(p.isdecimal() for p in part):
            raise ValueError(f'{file}, line {n}: {line!r} is not like `0005024 7036`. Copy the list again.')
        name = f'{part[0]}.jpg'
        if name not in there:
            raise FileNotFoundError(f'{file}, line {n}: image/{name} is missing. Unpack all of VehicleID.')
        if seen.setdefault(name, n) != n:
            raise ValueError(f'{file}, line {n}: picture {part[0]} is in line {seen[name]} too. Copy the list again.')
        out[name] = str(int(part[1]))
    if not out: raise ValueError(f'{file} is empty. Unpack VehicleID again.')
    return out


@a_set('VehicleID')
def vehicleid_table(
    root:str,       # Folder of the set
    test:str='800', # Which list is judged on: 800, 1600, 2400, 13164
    seed:int=0,     # Seed of the draw of the gallery
):
    "Table of images from VehicleID"
    root,test = Path(root), str(test)
    one_of('--test', test, *TESTS)
    lists = ['train_test_split/train_list.txt', f'train_test_split/test_list_{test}.txt']
    at = find(root, ['image', *lists], 'VehicleID')
    there = set(pictures_in(at/'image'))
    train,held = (_read_list(at/name, there) for name in lists)
    if both := train.keys() & held.keys():
        raise ValueError(f'{lists[1]} and {lists[0]} share {len(both)} pictures, first {min(both)}. '
                         'Unpack VehicleID again.')
    # drawn before pictures are left out as unreadable: the draw is a matter of the list
    first = {}
    for p in drawn(held, f'VehicleID/{seed}'): first.setdefault(held[p], p)
    split = ['gallery' if first[who] == p else 'query' for p,who in held.items()]
    prefix,n = (at/'image').relative_to(root).as_posix(), IN_LIST.get(test)
    table = new_table(root, [f'{prefix}/{p}' for p in [*train, *held]], [*train.values(), *held.values()],
                      split=['train']*len(train) + split)
    published = {'train': TRAIN}
    if n: published |= {'query': (n - int(test), int(test)), 'gallery': (int(test), int(test))}
    table.attrs['record'] = {'test': test, 'seed': seed, 'published': published,
                             'protocol': 'one picture a vehicle in the gallery, drawn at random'}
    return table
