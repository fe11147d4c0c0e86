"""A table of images from Partial-REID, Partial-iLIDS or Occluded-REID.

    python data_prep/partial.py ROOT --variant partial-reid    # -> ROOT/images.csv
    python data_prep/partial.py ROOT --variant occluded-reid

These sets (Zheng et al., ICCV 2015; He et al., CVPR 2018; Zhuo et al., ICME 2018) are judged on only: people of whom a
part is seen are looked for among whole ones, and the table has `query` and `gallery`. Train on another set. Expected,
in ROOT or one folder below: `partial_body_images` or `occluded_body_images` beside `whole_body_images`; or `query`
beside `gallery`. Pictures lie in them or in a folder a person; names are `001_002.jpg` or `001.jpg`: identity, number
of the picture. Without `--variant` the names of the folders decide, where they can.

The second number says nothing of a camera, so that the column `camera` stays empty and no answer is excluded. AGW and
FastReID take it for one, and never compare the pictures of a person that bear the same number: `--camera-rule number`
does as they do, to check their figures.
"""
import re
from pathlib import Path

import pandas as pd
from common.layout import find, match_names, new_table
from common.pictures import pictures_in
from common.sets import a_set

from qsd_fastai.choices import one_of

SOURCES = {'partial-reid': 'Partial-REID', 'partial-ilids': 'Partial-iLIDS', 'occluded-reid': 'Occluded-REID'}
PUBLISHED = {'partial-reid': {'query': (300, 60), 'gallery': (300, 60)},
             'partial-ilids': {'query': (119, 119), 'gallery': (119, 119)},
             'occluded-reid': {'query': (1000, 200), 'gallery': (1000, 200)}}
LAYOUTS = {('partial_body_images', 'whole_body_images'): 'partial-reid',
           ('occluded_body_images', 'whole_body_images'): 'occluded-reid',
           ('query', 'gallery'): ''}


def _layout(root, variant):
    "Folder, names of its query and gallery folder, variant; errors say what was looked for, or that it must be told"
    places = [root, *sorted(p for p in root.iterdir() if p.is_dir())] if root.is_dir() else []
    here = [x for x in LAYOUTS if any(all((p/f).is_dir() for f in x) for p in places)]
    if not here: find(root, [' and '.join(x) for x in LAYOUTS], SOURCES.get(variant, 'None of the partial sets'))
    if len(here) > 1:
        found = ', '.join(' '.join(x) for x in here)
        raise ValueError(f'{root} holds more than one set ({found}). Point at one.')
    folders = here[0]
    at = find(root, folders, SOURCES.get(variant, 'a partial set'))
    called = re.sub('[^a-z]', '', f'{root.resolve().name} {at.resolve().name}'.lower())
    told = [v for v in SOURCES if v.replace('-', '') in called]
    guess = LAYOUTS[folders] or (told[0] if len(told) == 1 else '')
    if variant or guess: return at, folders, variant or guess
    raise ValueError(f"{at} does not tell which set it is. Say --variant {', '.join(SOURCES)}.")


def _names(root, folder, camera_rule):
    "Table of the pictures in a folder"
    prefix,numbered = folder.relative_to(root).as_posix(), camera_rule == 'number'
    paths = [f'{prefix}/{p}' for p in pictures_in(folder)]
    pattern,like = (r'(\d+)_(\d+)\.', '001_002.jpg') if numbered else (r'(\d+)(?:_\d+)?\.', '001_002.jpg or 001.jpg')
    found = match_names(paths, pattern, f'{like}: identity, number of the picture')
    return new_table(root, paths, [m[1] for m in found], [str(int(m[2])) for m in found] if numbered else '')


@a_set('Partial-REID')
def partial_table(
    root:str,               # Folder of the set
    variant:str='',         # `partial-reid`, `partial-ilids` or `occluded-reid`; default: by the names of the folders
    camera_rule:str='none', # none: cameras are unknown; number: that of the picture, as AGW and FastReID read it
):
    "Table of images from Partial-REID, Partial-iLIDS or Occluded-REID"
    if variant: one_of('--variant', variant, *SOURCES)
    one_of('--camera-rule', camera_rule, 'none', 'number')
    root = Path(root)
    at,folders,variant = _layout(root, variant)
    parts = [_names(root, at/f, camera_rule).assign(split=s) for s,f in zip(('query', 'gallery'), folders)]
    table = pd.concat(parts, ignore_index=True)
    record = {'source': SOURCES[variant], 'protocol': 'judged only: train on another set', 'variant': variant,
              'camera_rule': camera_rule, 'published': PUBLISHED[variant]}
    table.attrs = {'root': str(root), 'record': record}
    return table
