"""A table of images from Market-1501 (Zheng et al., ICCV 2015), or from a copy that holds its training half only.

    python data_prep/market1501.py ROOT            # -> ROOT/images.csv
    python data_prep/market1501.py ROOT --out DIR  # -> DIR/images.csv
    python data_prep/market1501.py ROOT --distractors

Expected: `bounding_box_train`, `query` and `bounding_box_test` in ROOT or one folder below (`Market-1501-v15.09.15`).
Published: 12,936 pictures of 751 identities to train on, 3,368 queries of 750, 15,913 gallery pictures of 750 and the
background, six cameras. Names are `0002_c1s1_000451_03.jpg`: identity, camera. Identity -1 (junk) is left out and
counted, 0000 (background) stays in the gallery.

`--distractors` adds the 500k distractors, the folder `images` beside the three others, to the gallery. Nobody asks for
them, so that all are the one identity `distractor`; the camera is taken from the name where it tells one, and junk (-1)
is left out as it is elsewhere.

A train-only copy (`bounding_box_train` alone, or pictures with such names flat or in a folder per identity,
`train/0002/...` included) is split by identity. The record says so: its figures are not comparable with published ones.
"""
import re
from pathlib import Path

import pandas as pd
from common.layout import MARKET, base_name, hold_out, new_table, parse_names
from common.pictures import pictures_in
from common.sets import a_set
from common.told import remedy, told_by_folders

PUBLISHED = {'train': (12936, 751), 'query': (3368, 750)}
GALLERY = (15913, 751)  # the background counts as an identity
BACKGROUND,JUNK = 0, -1
NAMES = {'pattern': r'([-\d]+)_c(\d+)', 'like': '0002_c1s1_000451_03.jpg', 'ids': (JUNK, 1501), 'cameras': (1, 6)}


def _layout(root):
    "Prefix (below `root`) of the folder with the published layout, and the splits there; ('', []) where none is"
    for d in ['', *sorted(p.name + '/' for p in root.iterdir() if p.is_dir())]:
        there = [s for s,name in MARKET.items() if (root/d/name).is_dir()]
        if there == list(MARKET) or there == ['train']: return d, there
        # `query` alone says little: other layouts have a folder of this name too
        if 'train' in there or 'gallery' in there:
            has,lack = (', '.join(n for s,n in MARKET.items() if (s in there) == o) for o in (True, False))
            raise FileNotFoundError(f'{root/d} has {has} and lacks {lack}. Unpack all of Market-1501.')
    return '', []


def _published(root, prefix, there, paths):
    "The pictures of the published layout and the split of each folder; errors where pictures lie deeper, or nowhere"
    split_of = {f'{prefix}{MARKET[s]}': s for s in there}
    inside = tuple(f'{f}/' for f in split_of)
    if deeper := [p for p in paths if p.rpartition('/')[0] not in split_of and p.startswith(inside)]:
        raise ValueError(f'{len(deeper)} pictures lie deeper than Market-1501 has any, first {deeper[0]!r}. '
                         'Move them up, or away.')
    paths = [p for p in paths if p.rpartition('/')[0] in split_of]
    if not paths:
        raise FileNotFoundError(f"{', '.join(split_of)} in {root} hold no pictures. Unpack all of Market-1501.")
    return paths, split_of


def _distractors(root, prefix):
    "`(table of the distractors, how many junk pictures among them were left out)`"
    folder = root/prefix/'images'
    if not folder.is_dir():
        raise FileNotFoundError(f'--distractors: {folder} is not there. '
                                'Unpack the 500k distractors beside bounding_box_test.')
    paths = [f'{prefix}images/{p}' for p in pictures_in(folder)]
    named = [re.match(NAMES['pattern'], base_name(p)) is not None for p in paths]
    plain = [p for p,o in zip(paths, named) if not o]
    told = [p for p,o in zip(paths, named) if o]
    parts = [parse_names(root, told, **NAMES)] if told else []
    table = pd.concat([*parts, new_table(root, plain, '')], ignore_index=True)
    junk = table['identity'] == str(JUNK)
    # whatever number the name begins with: it is nobody who is asked for
    table = table[~junk].assign(identity='distractor', split='gallery')
    return table.sort_values('path', ignore_index=True), int(junk.sum())


def _train_only(table, test, seed):
    "`(table, record)` of a copy without query and gallery"
    persons = table['identity'].astype(int) != BACKGROUND
    found = int(persons.sum()), table['identity'][persons].nunique()
    known = hold_out(table[persons], test, seed)
    table = pd.concat([known, table[~persons].assign(split='gallery')]).sort_index()
    protocol = 'train-only copy, split by identity, figures are not comparable with published ones'
    return table, {'protocol': protocol, 'test': test, 'seed': seed, 'found': list(found),
                   'complete': found == PUBLISHED['train']}


@a_set('Market-1501')
def market1501_table(
    root:str,               # Folder of Market-1501, or of a copy of its training half
    test:float=.5,          # Train-only copy: held-out identities, a fraction up to 1 or how many
    seed:int=0,             # Train-only copy: seed of the split
    distractors:bool=False, # Add the 500k distractors, the folder `images`, to the gallery
    *,
    readable,               # Leaves out what cannot be decoded, before identities are held out
):
    "Table of images from Market-1501"
    root = Path(root)
    paths = pictures_in(root)
    prefix,there = _layout(root)
    if there: paths,split_of = _published(root, prefix, there, paths)
    elif (told := told_by_folders(paths, root)) and {'query', 'gallery', 'test'} & set(told.part):
        raise ValueError(f'{root} tells its own split ({told.name}), which is kept by: '
                         f'python data_prep/folder.py {root} {remedy(paths, told.start)}.')
    if distractors and there != list(MARKET):
        raise ValueError(f'--distractors is for the published layout, and {root} holds a train-only copy. '
                         'Leave it out.')
    table = parse_names(root, paths, **NAMES)
    number = table['identity'].astype(int)
    record = {'junk_left_out': int((number == JUNK).sum()), 'background': int((number == BACKGROUND).sum())}
    table = table[number != JUNK].reset_index(drop=True)
    names = table['path'].map(base_name)
    if not there and names.duplicated().any():
        places = table['path'][names == names[names.duplicated()].iloc[0]].tolist()
        raise ValueError(f"The same picture is below {root} more than once: {', '.join(places)}. Some copies have "
                         'train and train_all: point at the folder that holds each picture once.')
    n = junk = 0
    if distractors:
        more,junk = _distractors(root, prefix)
        table,n = pd.concat([table, more], ignore_index=True), len(more)
        table.attrs['root'] = str(root)
    record |= {'distractors': n, 'distractor_junk_left_out': junk}
    table = readable(table)
    attrs = table.attrs
    if there == list(MARKET):
        # distractors may lie deeper
        table['split'] = table['path'].str.rpartition('/')[0].map(split_of).fillna('gallery')
        # what is published of the distractors is a round figure: the number found is taken for right
        gallery = (GALLERY[0] + n, GALLERY[1] + 1) if distractors else GALLERY
        record |= {'protocol': 'published, with distractors' if distractors else 'published',
                   'published': {**PUBLISHED, 'gallery': gallery}}
    else:
        table,more = _train_only(table, test, seed)
        record |= more
    table.attrs = {**attrs, 'record': record}
    return table
