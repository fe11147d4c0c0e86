"""A table of images from Partial-REID (Zheng et al., ICCV 2015), Partial-iLIDS (He et al., CVPR 2018) or Occluded-REID (Zhuo et al., ICME 2018).

    python data_prep/partial.py ROOT --variant partial-reid    # -> ROOT/images.csv
    python data_prep/partial.py ROOT --variant occluded-reid

These sets are judged on only: people of whom a part is seen are looked for among whole ones, and the table has `query` and `gallery`. Train on
another set. Expected, in ROOT or one folder below: `partial_body_images` or `occluded_body_images` beside `whole_body_images`; or `query` beside
`gallery`. Pictures lie in them or in a folder a person; names are `001_002.jpg` or `001.jpg`: identity, number of the picture.
Without `--variant` the names of
the folders decide, where they can.

The second number says nothing of a camera, so that the column `camera` stays empty and no answer is excluded. AGW and FastReID take it for one, and
never compare the pictures of a person that bear the same number: `--camera-rule number` does as they do, to check their figures.
"""
import re
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from folder import pictures_in
from layout import find, make, verified

SOURCES = {'partial-reid': 'Partial-REID', 'partial-ilids': 'Partial-iLIDS', 'occluded-reid': 'Occluded-REID'}
PUBLISHED = {'partial-reid': {'query': (300, 60), 'gallery': (300, 60)}, 'partial-ilids': {'query': (119, 119), 'gallery': (119, 119)},
             'occluded-reid': {'query': (1000, 200), 'gallery': (1000, 200)}}
LAYOUTS = {('partial_body_images', 'whole_body_images'): 'partial-reid', ('occluded_body_images', 'whole_body_images'): 'occluded-reid',
           ('query', 'gallery'): ''}
CAMERA_RULES = ('none', 'number')
_NAME = re.compile(r'(\d+)(?:_(\d+))?\.')


def _layout(root, variant):
    "Folder, names of its query and gallery folder, variant; errors say what was looked for, or that the variant must be told"
    root,names = Path(root), [' '.join(x) for x in LAYOUTS]
    places = [root, *sorted(p for p in root.iterdir() if p.is_dir())] if root.is_dir() else []
    here = [x for x in LAYOUTS if any(all((p/f).is_dir() for f in x) for p in places)]
    if not here: find(root, [' and '.join(x) for x in LAYOUTS], SOURCES.get(variant) or 'None of the partial sets')
    if len(here) > 1: raise ValueError(f"{root} holds more than one set ({', '.join(n for n,x in zip(names, LAYOUTS) if x in here)}): point at one.")
    at,folders = find(root, here[0], SOURCES.get(variant, 'a partial set')), here[0]
    called = re.sub('[^a-z]', '', f'{root.resolve().name} {at.resolve().name}'.lower())
    told = [v for v in SOURCES if v.replace('-', '') in called]
    guess = LAYOUTS[folders] or (told[0] if len(told) == 1 else '')
    if not (variant or guess): raise ValueError(f"{at} does not tell which set it is: say --variant {', '.join(SOURCES)}.")
    return at, folders, variant or guess


def partial_table(
    root,              # Folder of the set
    variant='',        # Partial-reid, partial-ilids, occluded-reid, or '' to go by the names of the folders
    camera_rule='none',# none: cameras are unknown; number: the number of the picture, as AGW and FastReID read it
    verify=True,       # Decode every picture and leave the unreadable ones out?
    strict=False,      # An unreadable picture is an error?
    workers=8,         # Threads that decode
):
    "Table of query and gallery with how it was made in `attrs['record']`; nothing is written"
    if variant not in ('', *SOURCES): raise ValueError(f"--variant {variant!r} is unknown: use {', '.join(SOURCES)}.")
    if camera_rule not in CAMERA_RULES: raise ValueError(f"--camera-rule {camera_rule!r} is unknown: use {' or '.join(CAMERA_RULES)}.")
    root,rows = Path(root), []
    at,folders,variant = _layout(root, variant)
    for split,folder in zip(('query', 'gallery'), folders):
        prefix = (at/folder).relative_to(root).as_posix()
        for p in pictures_in(at/folder):
            m = _NAME.match(p.rsplit('/', 1)[-1])
            if not m or (camera_rule == 'number' and not m[2]):
                like = '001_002.jpg' if camera_rule == 'number' else '001_002.jpg or 001.jpg'
                raise ValueError(f"{prefix}/{p} is not named like {like}: identity, number of the picture. "
                                 "Other names: data_prep/folder.py --identity REGEX.")
            rows.append((f'{prefix}/{p}', m[1], str(int(m[2])) if camera_rule == 'number' else '', split, np.nan))
    table = pd.DataFrame(rows, columns=['path', 'identity', 'camera', 'split', 'quality'])
    table.attrs = {'root': str(root), 'record': {'source': SOURCES[variant], 'protocol': 'judged only: train on another set', 'variant': variant,
                                                 'camera_rule': camera_rule, 'published': PUBLISHED[variant]}}
    return verified(table, verify, strict, workers)


@call_parse
def main(
    root:str, # Folder of the set
    out:str='', # Folder for the table; default: ROOT
    variant:str='', # Partial-reid, partial-ilids or occluded-reid; default: by the names of the folders
    camera_rule:str='none', # None, or number: the number of the picture, as AGW and FastReID read it
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from Partial-REID, Partial-iLIDS or Occluded-REID"
    make(lambda: partial_table(root, variant, camera_rule, not no_verify, strict, workers), root, out,
         {'variant': variant, 'camera_rule': camera_rule, 'verify': not no_verify}, force)
