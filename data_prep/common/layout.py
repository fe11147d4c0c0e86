"What most sets need: finding the layout, reading names, a table from them, drawing at random, holding out"
import hashlib
import re
from pathlib import Path

import numpy as np
import pandas as pd

from qsd_fastai.data.splits import split_identities
from qsd_fastai.spelling import spelled

from .pictures import pictures_in, some

MARKET = {'train': 'bounding_box_train', 'query': 'query', 'gallery': 'bounding_box_test'}


def find(
    root,   # Folder that the user has named
    wanted, # Names of files or folders that the layout must have
    source, # Name of the source, for the message
)->Path: # `root`, or the folder below it
    "The one folder that holds all that is wanted; FileNotFoundError saying what was looked for and what is there"
    root = Path(root)
    if not root.is_dir():
        raise FileNotFoundError(f'{root} is not a folder. Name the one that {source} was unpacked in.')
    below = sorted(p for p in root.iterdir() if p.is_dir())
    found = [p for p in [root, *below] if all((p/w).exists() for w in wanted)]
    if len(found) == 1 or found[:1] == [root]: return found[0]
    if found:
        places = ', '.join(p.name for p in found)
        raise ValueError(f'{root} holds {source} more than once: {places}. Point at one of them.')
    part = next((p for p in [root, *below] if any((p/w).exists() for w in wanted)), None)
    lack = f" {part} lacks {', '.join(w for w in wanted if not (part/w).exists())}. Unpack all of it." if part else ''
    raise FileNotFoundError(f'{source} is not in {root}: looked there and one folder below for '
                            f"{', '.join(wanted)}; found {some(root, 8)}.{lack}")


def new_table(
    root,         # Folder that the paths are relative to
    path,         # Paths of the pictures, in the order of the table
    identity,     # Who is in each of them, text
    camera='',    # Of each, or of all; '': unknown
    split='train', # Of each, or of all: train, query, gallery
):
    "The table of these pictures, names in their one spelling, without labels of quality; `attrs['root']` is `root`"
    table = pd.DataFrame({'path': path, 'identity': identity, 'camera': camera, 'split': split, 'quality': np.nan})
    for c in ('identity', 'camera'): table[c] = spelled(table[c], c, c == 'camera', tell=True)
    table.attrs['root'] = str(root)
    return table


def base_name(
    path, # With forward slashes
)->str:
    "The last part of a path: only this is read, a parent folder may look like the name of a picture"
    return path.rsplit('/', 1)[-1]


def match_names(
    paths,   # Paths of the pictures
    pattern, # Regular expression, matched from the start of the base name
    like,    # A name as the source writes it, for the message
)->list: # Of matches
    "What names tell; ValueError naming the first picture that is not named as the source names them"
    found = [re.match(pattern, base_name(p)) for p in paths]
    for p,m in zip(paths, found):
        if m: continue
        raise ValueError(f'{p} is not named like {like}. Move it away. '
                         'Other names: data_prep/folder.py --identity REGEX.')
    return found


def parse_names(
    root,    # Folder that the paths are relative to
    paths,   # Paths of the pictures
    pattern, # Regular expression with two groups, identity and camera, for `match_names`
    like,    # A name as the source writes it, for the message
    ids,     # `(lowest, highest)` identity
    cameras, # `(lowest, highest)` camera
):
    "Table with the identity as written and the camera; ValueError naming the first picture that tells another one"
    found = match_names(paths, pattern, like)
    for p,m in zip(paths, found):
        try: ok = ids[0] <= int(m[1]) <= ids[1] and cameras[0] <= int(m[2]) <= cameras[1]
        except ValueError: ok = False
        if ok: continue
        raise ValueError(f'{p}: identity {m[1]!r} or camera {m[2]!r} is not of this source. It has '
                         f'identity {ids[0]} to {ids[1]}, camera {cameras[0]} to {cameras[1]}.')
    return new_table(root, paths, [m[1] for m in found], [str(int(m[2])) for m in found])


def three_folders(
    root,    # Folder with the layout, or the one above it
    folders, # Split -> name of its folder
    source,  # Name of the source, for messages
    **names, # For `parse_names`
):
    "Table of the pictures that lie directly in the folder of each split, which is a published protocol"
    root = Path(root)
    at,parts = find(root, folders.values(), source), []
    for split,folder in folders.items():
        prefix,found = (at/folder).relative_to(root).as_posix(), pictures_in(at/folder)
        if deeper := [p for p in found if '/' in p]:
            raise ValueError(f'{len(deeper)} pictures lie below {at/folder}, first {deeper[0]!r}. '
                             f'{source} has none there: move them up or away.')
        parts.append(parse_names(root, [f'{prefix}/{p}' for p in found], **names).assign(split=split))
    table = pd.concat(parts, ignore_index=True)
    table.attrs = {'root': str(root), 'record': {'protocol': 'published'}}
    return table


def drawn(
    names, # What is drawn from, any order
    seed,  # Text or number; another one gives another order
)->list:
    "The names in a random order that is the same everywhere and in every version: by a digest of seed and name"
    return sorted(names, key=lambda n: (hashlib.blake2b(f'{seed}/{n}'.encode(), digest_size=16).digest(), n))


def hold_out(
    table,      # The table
    test,       # Held-out identities: a fraction up to 1 or a number above; 0: none, a table to train on only
    seed=0,     # Seed of the split
    query=None, # Mask over the rows: pictures of held-out identities that are queries; None: one an identity and camera
):
    "`table` with identities held out for judging"
    if not test: return table
    out = split_identities(table, test if test <= 1 else int(test), seed=seed, query=query)
    out.attrs = table.attrs
    return out
