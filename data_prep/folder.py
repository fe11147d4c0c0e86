"""A table of images from a folder of identities: `folder/<identity>/picture.jpg`, or a flat folder whose names tell.

    python data_prep/folder.py FOLDER                                      # -> FOLDER/images.csv
    python data_prep/folder.py FOLDER --identity '^(\\d+)_' --camera '_c(\\d+)'
    python data_prep/folder.py FOLDER --query neutral --degrade 5 --out DIR # copies, degraded -> DIR/images.csv

The first sub-folder names the identity, whatever lies deeper belongs to it. Identities are split into those trained on
and those judged on. Folders that tell the split (`train`, `query`, `gallery`, `test`, `val`, `bounding_box_train`, on
any level) are no identities: say where the identity is (--identity), and the split is kept as they tell it,
whatever --test says; where they tell who is judged and no queries, one an identity and camera is drawn.

A regular expression with a `/` in it is searched in the path below FOLDER, any other one in the base name of the
picture.
"""
import re

import numpy as np
from common.copies import with_copies
from common.layout import base_name, hold_out, new_table
from common.pictures import pictures_in
from common.sets import a_set, folder_of_pictures
from common.told import CAMERA, remedy, told_by_folders, with_told_split


def _search(paths, regex, what, groups=1):
    "What `regex` finds in each path, as a list of matches; ValueError where it finds nothing or has not one group"
    try: pattern = re.compile(regex)
    except re.error as e: raise ValueError(f'--{what} {regex!r} is not a regular expression ({e}). Mend it.') from e
    if groups and pattern.groups != groups:
        raise ValueError(f'--{what} {regex!r} has {pattern.groups} groups. It needs one: (...).')
    found = [pattern.search(p if '/' in regex else base_name(p)) for p in paths]
    missed = [p for p,m in zip(paths, found) if not m]
    if groups and missed:
        where = 'path below the folder' if '/' in regex else 'base name'
        raise ValueError(f'--{what} {regex!r} finds nothing in {len(missed)} of {len(paths)} pictures, first '
                         f'{missed[0]!r}. It is searched in the {where}: change it, or move these pictures away.')
    return found


def _first_folders(paths, folder, told):
    "The identity of each picture, its first folder; ValueError where there is none, or where it is split or camera"
    if told:
        raise ValueError(f'The folders in {folder} are {told.name}: splits, not identities. Say where the identity is, '
                         f'and the split is kept as they tell it: {remedy(paths, told.start)}. '
                         'Market-1501 as published: market1501.py.')
    flat = [p for p in paths if '/' not in p]
    if flat:
        raise ValueError(f'{len(flat)} of {len(paths)} pictures lie in {folder} itself, not in one per identity, '
                         f'first {flat[0]!r}. Say where the file name holds the identity, such as '
                         "--identity '^(\\d+)_', or move them.")
    out = [p.split('/', 1)[0] for p in paths]
    if not all(map(CAMERA.fullmatch, out)): return out
    raise ValueError(f"The folders in {folder} are {', '.join(sorted(set(out)))}: cameras, not identities. "
                     f'Say where the identity is: {remedy(paths, [0]*len(paths))}.')


def _check_degrade(degrade, out):
    if degrade and not out: raise ValueError('--degrade writes pictures. Say where to: --out DIR.')


def facts(
    folder,  # Folder of identities
    out,     # Folder for the table, '' if none
    degrade, # Degraded copies of each picture
): # `(folder of the table, facts for the record)`
    "What the table is made from: the pictures below the folder"
    _check_degrade(degrade, out)
    return folder_of_pictures(folder, out)


@a_set('folder', made_from=facts)
def folder_table(
    folder:str,      # Folder of identities
    identity:str='', # Regular expression, one group: the identity; default: the first sub-folder
    camera:str='',   # Regular expression, one group: the camera; default: unknown
    query:str='',    # Regular expression of held-out pictures that are queries; default: one an identity and camera
    test:float=.5,   # Held-out identities: a fraction up to 1, or how many; 0: none, a table to train on
    seed:int=0,      # Seed of the split and of the degradations
    degrade:int=0,   # Write this many degraded copies of each picture, of known severity, to --out
    out:str='',      # Folder for the table (and the degraded copies); default: FOLDER
    workers:int=8,   # Threads that decode and degrade pictures
    *,
    readable,        # Leaves out what cannot be decoded, before identities are held out
):
    "Table of images from a folder of identities"
    _check_degrade(degrade, out)
    paths = pictures_in(folder)
    notes,told = [],told_by_folders(paths, folder)
    if told: paths,told,notes = told.but_aside(paths)
    who = [m[1] for m in _search(paths, identity, 'identity')] if identity else _first_folders(paths, folder, told)
    cameras = [m[1] for m in _search(paths, camera, 'camera')] if camera else ''
    table,asked = new_table(folder, paths, who, cameras), None
    if told: table['part'] = told.part
    table.attrs['notes'] = notes
    table = readable(table)
    if query and told and {'query', 'gallery'} & set(told.part):
        raise ValueError(f'--query is {query!r}, and the folders {told.name} tell the queries. Leave it out.')
    if query and (test or told):
        asked = np.array([m is not None for m in _search(table['path'], query, 'query', groups=0)])
        if not asked.any():
            raise ValueError(f"--query {query!r} finds no picture. A path is {table['path'][0]!r}: change it.")
    table = with_told_split(table, 'folders', seed, asked) if told else hold_out(table, test, seed, asked)
    return with_copies(table, out, degrade, seed, workers) if degrade else table


main = folder_table.main
