"What the scripts of published Re-ID sets share: finding the layout, reading names, drawing at random, making the table once"
import hashlib
import os
import re
import sys
import warnings
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, readable
from folder import pictures_in

from qsd_fastai.data.table import check_table, read_table, write_table

MARKET = {'train': 'bounding_box_train', 'query': 'query', 'gallery': 'bounding_box_test'}


def find(
    root,   # Folder that the user has named
    wanted, # Names of files or folders that the layout must have
    source, # Name of the source, for the message
):
    "The one folder, `root` or below it, that holds all that is wanted; FileNotFoundError saying what was looked for and what is there"
    root = Path(root)
    if not root.is_dir(): raise FileNotFoundError(f'{root} is not a folder: name the one that {source} was unpacked in.')
    below = sorted(p for p in root.iterdir() if p.is_dir())
    found = [p for p in [root, *below] if all((p/w).exists() for w in wanted)]
    if len(found) == 1 or found[:1] == [root]: return found[0]
    if found: raise ValueError(f"{root} holds {source} more than once: {', '.join(p.name for p in found)}. Point at one of them.")
    there = ', '.join(p.name for p in sorted(root.iterdir())[:8]) or 'nothing'
    part = next((p for p in [root, *below] if any((p/w).exists() for w in wanted)), None)
    lack = f" {part} lacks {', '.join(w for w in wanted if not (part/w).exists())}: unpack all of it." if part else ''
    raise FileNotFoundError(f"{source} is not in {root}: looked there and one folder below for {', '.join(wanted)}; found {there}.{lack}")


def parse_names(
    paths,   # Paths of the pictures; only the base name is read, a parent folder may look like one
    pattern, # Regular expression with two groups, identity and camera, matched from the start of the base name
    example, # A name as the source writes it, for the message
    ids,     # `(lowest, highest)` identity
    cameras, # `(lowest, highest)` camera
):
    "Table of path, identity as written, camera; ValueError naming the first picture that is not named as the source names them"
    found = [re.match(pattern, p.rsplit('/', 1)[-1]) for p in paths]
    for p,m in zip(paths, found):
        if not m: raise ValueError(f'{p} is not named like {example}. Other names: data_prep/folder.py --identity REGEX.')
        try: ok = ids[0] <= int(m[1]) <= ids[1] and cameras[0] <= int(m[2]) <= cameras[1]
        except ValueError: ok = False
        if not ok:
            raise ValueError(f'{p}: identity {m[1]!r} or camera {m[2]!r} is not of this source (identity {ids[0]} to {ids[1]}, '
                             f'camera {cameras[0]} to {cameras[1]}).')
    return pd.DataFrame({'path': paths, 'identity': [m[1] for m in found], 'camera': [str(int(m[2])) for m in found],
                         'split': 'train', 'quality': np.nan})


def three_folders(
    root,    # Folder with the layout, or the one above it
    folders, # Split -> name of its folder
    source,  # Name of the source, for messages
    **names, # For `parse_names`
):
    "Table of the pictures that lie directly in the folder of each split; `attrs['root']` is `root`"
    root = Path(root)
    at,parts = find(root, folders.values(), source), []
    for split,folder in folders.items():
        prefix = (at/folder).relative_to(root).as_posix()
        found = pictures_in(at/folder)
        if deeper := [p for p in found if '/' in p]:
            raise ValueError(f'{len(deeper)} pictures lie below {at/folder}, first {deeper[0]!r}; {source} has none there: move them up or away.')
        parts.append(parse_names([f'{prefix}/{p}' for p in found], **names).assign(split=split))
    table = pd.concat(parts, ignore_index=True)
    table.attrs['root'] = str(root)
    return table


def drawn(
    names, # What is drawn from, any order
    seed,  # Text or number; another one gives another order
):
    "The names in a random order that is the same on every machine and for every version of everything: by a digest of seed and name"
    return sorted(names, key=lambda n: (hashlib.blake2b(f'{seed}/{n}'.encode(), digest_size=16).digest(), n))


def verified(
    table,   # Table with `attrs['root']` and `attrs['record']`
    verify,  # Decode every picture and leave the unreadable ones out?
    strict,  # An unreadable picture is an error?
    workers, # Threads that decode
):
    "`table` of readable pictures"
    return readable(table, strict, workers) if verify else table


def make(
    build,       # Function of nothing that gives the table with `attrs['record']`; where `splits` is given, a list of tables
    root,        # Folder of the source
    out,         # Folder for the table; '': `root`
    options,     # Dict of what the user has chosen, part of the record
    force,       # Make the table anew where there is one
    among=('',), # Folders below `root` that hold the pictures which the table is made from
    splits=None, # Numbers of the splits: `split_00.csv`, `split_01.csv`, ... beside each other; None: one table, `images.csv`
):
    "What every script does: nothing where the table is there already, else build it, write it and report. Errors end the program in a line"
    try:
        to,found = Path(out or root), [f'{a}/{p}' if a else p for a in among for p in pictures_in(Path(root)/a)]
        record = {'folder': os.path.relpath(root, to).replace(os.sep, '/'), 'pictures': len(found),
                  'listing': zlib.crc32('\n'.join(found).encode()), 'options': options}
        asked = {to/'images.csv': record} if splits is None else {
            to/f'split_{k:02d}.csv': {**record, 'options': {**options, 'split': k}} for k in splits}
        lacking = [path for path,wanted in asked.items() if not is_made(path, wanted, force)]
        if not lacking:
            with warnings.catch_warnings():
                if splits is not None: warnings.simplefilter('ignore')
                for path in asked: check_table(read_table(path, check=False))
            names = to/'images.csv' if splits is None else f'{len(asked)} tables, {next(iter(asked))} and so on,'
            return print(f"{names} {'is' if splits is None else 'are'} there already, made from the same pictures in the same way: nothing to do.")
        tables = [build()] if splits is None else build()
        for table,(path, wanted) in zip(tables, asked.items()):
            if path not in lacking: continue
            if path != lacking[0]:  # the report on the first one says what is to be said of all
                with warnings.catch_warnings():
                    warnings.simplefilter('ignore')
                    write_table(table, path, {**table.attrs['record'], **wanted, 'unreadable': len(table.attrs.get('unreadable', []))})
                continue
            for k,v in table.attrs['record'].items():
                if k != 'published': print(f'{k}: {v}')
            finish(table, path, {**table.attrs['record'], **wanted})
        if len(lacking) > 1: print(f'Written as well: {lacking[1].name} to {lacking[-1].name}. Report the mean over all {len(asked)} splits.')
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')


def make_splits(
    build,   # Function of a list of numbers that gives the tables of these splits
    split,   # What the user asks for: a number from 0, or `all`
    n,       # How many splits there are
    root,    # As those of `make`
    out,
    options,
    force,
    among=('',),
):
    "`make` for a set with several splits: one of them to `images.csv`, or all of them beside each other"
    if split == 'all': return make(lambda: build(range(n)), root, out, options, force, among, range(n))
    if not str(split).isdecimal() or int(split) >= n: sys.exit(f'ValueError: --split {split!r} is unknown: use 0 to {n - 1}, or all.')
    make(lambda: build([int(split)])[0], root, out, {**options, 'split': int(split)}, force, among)
