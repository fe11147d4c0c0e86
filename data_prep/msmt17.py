"""A table of images from MSMT17 (Wei et al., CVPR 2018): V1, V2 (faces masked), renamed, or flattened like Market-1501.

    python data_prep/msmt17.py ROOT                      # -> ROOT/images.csv
    python data_prep/msmt17.py ROOT --train trainval     # list_val.txt is trained on as well

Expected, in ROOT or one folder below: `list_train.txt`, `list_val.txt`, `list_query.txt`, `list_gallery.txt` beside
`train` and `test` (V1, renamed) or `mask_train_v2` and `mask_test_v2` (V2); or `bounding_box_train`, `query`,
`bounding_box_test` with names like `0000_c12_0001.jpg`. List lines are `0000/0000_000_01_0303morning_0015_0.jpg 0`; the
third field of the name is the camera, 1 to 15. Identities count from 0 in both halves and are other people: those of
the test half are called `test_0000`.

Published figures differ by what was trained on: 30,248 pictures (`train`) or 32,621 (`trainval`); the record says
which. In the flattened form AGW and QSD read one digit of the camera, so that cameras 1 and 10 to 15 are one:
`--camera-rule one-digit` does the same, to check their figures only.
"""
from pathlib import Path

import pandas as pd
from common.layout import MARKET, base_name, find, new_table, three_folders
from common.pictures import pictures_in
from common.sets import a_set

from qsd_fastai.choices import one_of
from qsd_fastai.data.labels import text_lines

LISTS = {'train': 'list_train.txt', 'val': 'list_val.txt', 'query': 'list_query.txt', 'gallery': 'list_gallery.txt'}
TRAINED_ON = {'train': ('train',), 'trainval': ('train', 'val')}
PUBLISHED = {'train': {'train': (30248, 1041), 'query': (11659, 3060), 'gallery': (82161, 3060)},
             'trainval': {'train': (32621, 1041), 'query': (11659, 3060), 'gallery': (82161, 3060)}}
CAMERA_RULES = {'as-named': r'(\d+)_c(\d+)', 'one-digit': r'(\d+)_c(\d)'}
NAMES = {'like': '0000_c12_0001.jpg', 'ids': (0, 9999), 'cameras': (1, 15)}


def _read_list(file, folder, there):
    "`(path, identity, camera)` of each line; errors naming the line that cannot be read or whose picture is missing"
    rows = []
    for n,line in text_lines(file):
        try:
            path,identity = line.rsplit(None, 1)
            path = path.strip()
            camera,identity = int(base_name(path).split('_')[2]), int(identity)
            if not 1 <= camera <= 15: raise ValueError
        except (ValueError, IndexError):
            raise ValueError(f'{file}, line {n}: {line!r} is not like `0000/0000_000_01_0303morning_0015_0.jpg 0` '
                             'with a camera 1 to 15. Copy the list again.') from None
        if path not in there:
            raise FileNotFoundError(f'{file}, line {n}: {path!r} is not in {folder}. '
                                    'Unpack all of MSMT17, of one version.')
        rows.append((path, f'{identity:04d}', str(camera)))
    return rows


def _listed(at, root, train):
    masked = (at/'mask_train_v2').is_dir()
    folders = ('mask_train_v2', 'mask_test_v2') if masked else ('train', 'test')
    if lack := [f for f in folders if not (at/f).is_dir()]:
        raise FileNotFoundError(f"{at} has the lists and lacks {', '.join(lack)}. Unpack all of MSMT17 there.")
    there = [set(pictures_in(at/f)) for f in folders]
    parts,left_out = [], 0
    for split,name in LISTS.items():
        half = int(split in ('query', 'gallery'))
        rows = _read_list(at/name, at/folders[half], there[half])
        if not half and split not in TRAINED_ON[train]:
            left_out = len(rows)
            continue
        prefix = (at/folders[half]).relative_to(root).as_posix()
        path,identity,camera = zip(*rows)
        parts.append(new_table(root, [f'{prefix}/{p}' for p in path], [f'test_{i}' if half else i for i in identity],
                               camera, 'train' if split == 'val' else split))
    made = {'version': 'V2' if masked else 'V1', 'train': train, 'validation_left_out': left_out,
            'camera_rule': 'as-named', 'published': PUBLISHED[train]}
    return pd.concat(parts, ignore_index=True), made


@a_set('MSMT17')
def msmt17_table(
    root:str,                   # Folder of MSMT17
    train:str='train',          # `train`, or `trainval`: list_val.txt is trained on as well
    camera_rule:str='as-named', # Flattened form: `as-named`, or `one-digit` as AGW and QSD read it
):
    "Table of images from MSMT17"
    root = Path(root)
    one_of('--train', train, *TRAINED_ON)
    one_of('--camera-rule', camera_rule, *CAMERA_RULES)
    flat = any(all((p/f).is_dir() for f in MARKET.values()) for p in [root, *root.glob('*')])
    if flat:
        if train != 'train':
            raise ValueError(f'--train is trainval, and {root} is flattened: it has no list_val.txt. Leave it out.')
        table = three_folders(root, MARKET, 'MSMT17', pattern=CAMERA_RULES[camera_rule], **NAMES)
        test = table['split'] != 'train'
        table.loc[test, 'identity'] = 'test_' + table.loc[test, 'identity']
        made = {'version': 'flattened', 'train': 'as found', 'camera_rule': camera_rule}
    else:
        if camera_rule != 'as-named':
            raise ValueError('--camera-rule one-digit is for the flattened form: the lists name cameras in two digits. '
                             'Leave it out.')
        table,made = _listed(find(root, LISTS.values(), 'MSMT17'), root, train)
    table.attrs = {'root': str(root), 'record': {'protocol': 'published', **made}}
    return table
