"""A table of images from a folder of identities: `folder/<identity>/picture.jpg`, or a flat folder whose file names tell the identity.

    python data_prep/folder.py FOLDER                                      # -> FOLDER/images.csv
    python data_prep/folder.py FOLDER --identity '^(\\d+)_' --camera '_c(\\d+)'
    python data_prep/folder.py FOLDER --query neutral --degrade 5 --out DIR # degraded copies of known severity -> DIR/images.csv

The first sub-folder names the identity, whatever lies deeper belongs to it. Identities are split into those trained on and those judged on.
A regular expression with a `/` in it is searched in the path below FOLDER, any other one in the base name of the picture.
"""
import os
import re
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from degrade import with_copies
from doctor import finish, is_made, readable
from fastcore.script import call_parse

from qsd_fastai.data.table import check_table, read_table, split_identities

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff')
OURS = {'quality.png', 'quality_sheet.png'}  # which quality.py draws beside the table
SPLIT_NAMES = {'train', 'val', 'valid', 'test', 'query', 'gallery', 'bounding_box_train', 'bounding_box_test'}


def pictures_in(
    folder, # Folder to look through; links to folders are followed, hidden files are not looked at
):
    "Sorted paths of the pictures below `folder`, relative to it; FileNotFoundError saying what was found instead where there are none"
    folder = Path(folder)
    if not folder.is_dir():
        near = _some(folder.parent) if folder.parent.is_dir() else 'nor is there a ' + str(folder.parent)
        raise FileNotFoundError(f"{folder} is not a folder. Beside it: {near}.")
    def stop(e): raise PermissionError(f'{e.filename} cannot be listed ({e.strerror}): make it readable, or move it away.')
    out,seen = [], {os.path.realpath(folder)}
    for at,dirs,files in os.walk(folder, followlinks=True, onerror=stop):
        dirs.sort()  # which name of a linked folder counts must not depend on the file system
        real = {d: os.path.realpath(os.path.join(at, d)) for d in dirs}
        dirs[:] = [d for d in dirs if not d.startswith('.') and real[d] not in seen]  # a link to a folder above would go round for ever
        seen |= {real[d] for d in dirs}
        rel = os.path.relpath(at, folder).replace(os.sep, '/')
        if rel == '.': files = set(files) - OURS
        out += [f if rel == '.' else f'{rel}/{f}' for f in files if f.lower().endswith(SUFFIXES) and not f.startswith('.')]
    if not out: raise FileNotFoundError(f"No picture ({', '.join(s[1:] for s in SUFFIXES)}) below {folder}. It holds: {_some(folder)}.")
    return sorted(out)


def _some(folder, n=6):
    "The first names in a folder, for a message"
    names = sorted(p.name + '/'*p.is_dir() for p in Path(folder).iterdir())
    return ', '.join(names[:n]) + (f' and {len(names)-n} more' if len(names) > n else '') if names else 'nothing'


def _search(paths, regex, what, groups=1):
    "What `regex` finds in each path, as a list of matches; ValueError where it finds nothing or has other groups than one"
    try: pat = re.compile(regex)
    except re.error as e: raise ValueError(f"--{what} {regex!r} is not a regular expression: {e}") from e
    if groups and pat.groups != groups: raise ValueError(f"--{what} {regex!r} has {pat.groups} groups, it needs one.")
    found = [pat.search(p if '/' in regex else p.rsplit('/', 1)[-1]) for p in paths]
    miss = [p for p,m in zip(paths, found) if not m]
    if groups and miss:
        raise ValueError(f"--{what} {regex!r} finds nothing in {len(miss)} of {len(paths)} pictures, first {miss[0]!r}. It is searched in "
                         f"the {'path below the folder' if '/' in regex else 'base name'}: change it, or move these pictures away.")
    return found


def folder_table(
    folder,        # Folder of identities
    identity=None, # Regular expression with one group that finds the identity; None: the first sub-folder
    camera=None,   # Regular expression with one group that finds the camera; None: unknown
    query=None,    # Regular expression of the pictures of held-out identities that are queries; None: one an identity (and camera)
    test=.5,       # Held-out identities: a fraction up to 1 or a number above; 0: a table to train on only
    seed=0,        # Seed of the split
    verify=True,   # Decode every picture and leave the unreadable ones out?
    strict=False,  # An unreadable picture is an error?
    workers=8,     # Threads that decode
):
    "Table of the pictures below `folder`, `attrs['root']` is the folder, `attrs['unreadable']` what was left out; nothing is written"
    paths = pictures_in(folder)
    table = pd.DataFrame({'path': paths, 'identity': '', 'camera': '', 'split': 'train', 'quality': np.nan})
    if identity: table['identity'] = [m[1] for m in _search(paths, identity, 'identity')]
    else:
        flat = [p for p in paths if '/' not in p]
        if flat:
            raise ValueError(f"{len(flat)} of {len(paths)} pictures lie in {folder} itself, not in one per identity, first {flat[0]!r}: "
                             "say where the file name holds the identity, such as --identity '^(\\d+)_', or move them.")
        table['identity'] = [p.split('/', 1)[0] for p in paths]
        names = set(table['identity'])
        if {n.lower() for n in names} <= SPLIT_NAMES:
            raise ValueError(f"The folders in {folder} are {', '.join(sorted(names))}: splits, not identities. Point at one of them, or "
                             "say where the path holds the identity: --identity '^[^/]+/([^/]+)/'. Market-1501: market1501.py.")
    if camera: table['camera'] = [m[1] for m in _search(paths, camera, 'camera')]
    table.attrs['root'] = str(folder)
    if verify: table = readable(table, strict, workers)
    if not test: return table
    if query: asked = np.array([m is not None for m in _search(table['path'].tolist(), query, 'query', groups=0)])
    if query and not asked.any(): raise ValueError(f"--query {query!r} finds no picture; a path is {table['path'][0]!r}.")
    return split_identities(table, test if test <= 1 else int(test), seed=seed, query=asked if query else None)


@call_parse
def main(
    folder:str, # Folder of identities
    out:str='', # Folder for the table (and the degraded copies); default: FOLDER
    identity:str='', # Regular expression, one group: the identity; default: the first sub-folder
    camera:str='', # Regular expression, one group: the camera; default: unknown
    query:str='', # Regular expression of the pictures of held-out identities that are queries; default: one an identity and camera
    test:float=.5, # Held-out identities: a fraction up to 1, or how many; 0: none, a table to train on
    degrade:int=0, # Write this many degraded copies of each picture, of known severity, to --out
    seed:int=0, # Seed of the split and of the degradations
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from a folder of identities"
    try:
        if degrade and not out: raise ValueError("--degrade writes pictures: say where to with --out DIR.")
        path,found = Path(out or folder)/'images.csv', pictures_in(folder)
        record = {'source': 'folder', 'folder': os.path.relpath(folder, path.parent).replace(os.sep, '/'), 'pictures': len(found),
                  'listing': zlib.crc32('\n'.join(found).encode()), 'identity': identity, 'camera': camera, 'query': query, 'test': test,
                  'degrade': degrade, 'seed': seed, 'verify': not no_verify}
        if is_made(path, record, force):
            check_table(read_table(path, check=False))
            return print(f'{path} is there already, made from the same pictures in the same way: nothing to do.')
        table = folder_table(folder, identity or None, camera or None, query or None, test, seed, not no_verify, strict, workers)
        if degrade: table = with_copies(table, out, degrade, seed)
        finish(table, path, record)
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
