"""A table of images from MSMT17 (Wei et al., CVPR 2018): V1, V2 (faces masked), renamed, or flattened like Market-1501.

    python data_prep/msmt17.py ROOT                      # -> ROOT/images.csv
    python data_prep/msmt17.py ROOT --train trainval     # list_val.txt is trained on as well

Expected, in ROOT or one folder below: `list_train.txt`, `list_val.txt`, `list_query.txt`, `list_gallery.txt` beside `train` and `test` (V1, renamed)
or `mask_train_v2` and `mask_test_v2` (V2); or `bounding_box_train`, `query`, `bounding_box_test` with names like `0000_c12_0001.jpg`.
List lines are `0000/0000_000_01_0303morning_0015_0.jpg 0`; the third field of the name is the camera, 1 to 15. Identities count from 0 in both
halves and are other people: those of the test half are called `test_0000`.

Published figures differ by what was trained on: 30,248 pictures (`train`) or 32,621 (`trainval`); the record says which. In the flattened form AGW
and QSD read one digit of the camera, so that cameras 1 and 10 to 15 are one: `--camera-rule one-digit` does the same, to check their figures only.
"""
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from folder import pictures_in
from layout import MARKET, find, make, three_folders, verified

from qsd_fastai.data.labels import text_lines

LISTS = {'train': 'list_train.txt', 'val': 'list_val.txt', 'query': 'list_query.txt', 'gallery': 'list_gallery.txt'}
TRAINED_ON = {'train': ('train',), 'trainval': ('train', 'val')}
COUNTS = {'train': (30248, 1041), 'trainval': (32621, 1041)}
CAMERA_RULES = {'as-named': r'(\d+)_c(\d+)', 'one-digit': r'(\d+)_c(\d)'}


def _read_list(file, folder, there):
    "Pictures of a list with identity and camera; ValueError naming the line where it cannot be read or the picture is missing"
    rows = []
    for n,line in text_lines(file):
        try:
            path,identity = line.rsplit(None, 1)
            camera = int(path.strip().rsplit('/', 1)[-1].split('_')[2])
            rows.append((path.strip(), f'{int(identity):04d}', str(camera)))
            if not 1 <= camera <= 15: raise ValueError
        except (ValueError, IndexError):
            raise ValueError(f'{file}, line {n}: {line!r} is not like `0000/0000_000_01_0303morning_0015_0.jpg 0` with a camera 1 to 15.') from None
        if rows[-1][0] not in there:
            raise FileNotFoundError(f'{file}, line {n}: {rows[-1][0]!r} is not in {folder}. Unpack all of MSMT17, of one version.')
    return pd.DataFrame(rows, columns=['path', 'identity', 'camera'])


def _listed(at, root, train):
    masked = (at/'mask_train_v2').is_dir()
    folders = ('mask_train_v2', 'mask_test_v2') if masked else ('train', 'test')
    if lack := [f for f in folders if not (at/f).is_dir()]:
        raise FileNotFoundError(f"{at} has the lists and lacks {', '.join(lack)}: unpack all of MSMT17 there.")
    there,parts,left_out = [set(pictures_in(at/f)) for f in folders], [], 0
    for split,name in LISTS.items():
        half = int(split in ('query', 'gallery'))
        part = _read_list(at/name, at/folders[half], there[half])
        if not half and split not in TRAINED_ON[train]:
            left_out = len(part)
            continue
        if half: part['identity'] = 'test_' + part['identity']
        part['path'] = f'{(at/folders[half]).relative_to(root).as_posix()}/' + part['path']
        parts.append(part.assign(split='train' if split == 'val' else split, quality=np.nan))
    return pd.concat(parts, ignore_index=True), {'version': 'V2' if masked else 'V1', 'train': train, 'validation_left_out': left_out,
                                                 'camera_rule': 'as-named'}


def msmt17_table(
    root,                   # Folder of MSMT17
    train='train',          # Train, or trainval: is list_val.txt trained on as well?
    camera_rule='as-named', # Flattened form: as-named, or one-digit as AGW and QSD read it
    verify=True,            # Decode every picture and leave the unreadable ones out?
    strict=False,           # An unreadable picture is an error?
    workers=8,              # Threads that decode
):
    "Table of MSMT17 with how it was made in `attrs['record']`; nothing is written"
    root = Path(root)
    if train not in TRAINED_ON: raise ValueError(f"--train {train!r} is unknown: use {' or '.join(TRAINED_ON)}.")
    if camera_rule not in CAMERA_RULES: raise ValueError(f"--camera-rule {camera_rule!r} is unknown: use {' or '.join(CAMERA_RULES)}.")
    flat = any(all((p/f).is_dir() for f in MARKET.values()) for p in [root, *root.glob('*')])
    if flat:
        if train != 'train': raise ValueError(f'{root} is flattened: it has no list_val.txt, and --train trainval has no meaning.')
        table = three_folders(root, MARKET, 'MSMT17', pattern=CAMERA_RULES[camera_rule], example='0000_c12_0001.jpg', ids=(0, 9999), cameras=(1, 15))
        test = table['split'] != 'train'
        table.loc[test, 'identity'] = 'test_' + table.loc[test, 'identity']
        made = {'version': 'flattened', 'train': 'as found', 'camera_rule': camera_rule}
    else:
        if camera_rule != 'as-named': raise ValueError('--camera-rule one-digit is for the flattened form: the lists name cameras in two digits.')
        table,made = _listed(find(root, LISTS.values(), 'MSMT17'), root, train)
    published = {} if flat else {'published': {'train': COUNTS[train], 'query': (11659, 3060), 'gallery': (82161, 3060)}}
    table.attrs = {'root': str(root), 'record': {'source': 'MSMT17', 'protocol': 'published', **made, **published}}
    return verified(table, verify, strict, workers)


@call_parse
def main(
    root:str, # Folder of MSMT17
    out:str='', # Folder for the table; default: ROOT
    train:str='train', # Train, or trainval: list_val.txt is trained on as well
    camera_rule:str='as-named', # Flattened form: as-named, or one-digit as AGW and QSD read it
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from MSMT17"
    make(lambda: msmt17_table(root, train, camera_rule, not no_verify, strict, workers), root, out,
         {'train': train, 'camera_rule': camera_rule, 'verify': not no_verify}, force)
