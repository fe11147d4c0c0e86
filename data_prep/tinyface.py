"""A table of TinyFace (Cheng et al., ACCV 2018): faces of some 20 pixels, looked for among 157,871.

    python data_prep/tinyface.py ROOT
    python data_prep/tinyface.py ROOT --aligned aligned_pad_0.1_pad_high   # the aligned copy that AdaFace gives, beside or below ROOT

    ROOT/Testing_Set/probe_img_ID_pairs.mat, gallery_match_img_ID_pairs.mat
    ROOT/Testing_Set/Probe, Gallery_Match, Gallery_Distractor              # the aligned copy: the same three folders, or all pictures in one
    ROOT/Training_Set/<identity>/*.jpg                                     # may be missing

Probes are `query`, the rest of the testing set `gallery`. Nobody is looked for among the distractors: each has an identity of its own. Identities of
the training set begin with `train_`, for its numbers are not said to be other people's than those of the testing set. Ranks 1, 5, 20 are published.
Pictures are RGB; AdaFace's networks want BGR.
"""
import os
import posixpath
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from folder import pictures_in
from layout import find, make, verified
from matlab import read_variables

PROBE,MATCH,DISTRACTOR = 'Probe', 'Gallery_Match', 'Gallery_Distractor'
PUBLISHED = {'train': (7_804, 2_570), 'query': (3_728, 2_569), 'gallery': (157_871, 155_997)}


def read_pairs_file(
    file, # probe_img_ID_pairs.mat or gallery_match_img_ID_pairs.mat
    kind, # Probe or gallery: variables are `<kind>_set` (names) and `<kind>_ids`, the latter may be missing
):
    "`(names, ids)` as lists, of text and whole numbers; ValueError naming file and what is wrong with it"
    found = read_variables(file, (f'{kind}_set', f'{kind}_ids'))
    if f'{kind}_set' not in found: raise ValueError(f"{file} has no variable '{kind}_set'. Copy it again.")
    names,ids = found[f'{kind}_set'], found.get(f'{kind}_ids')
    if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
        raise ValueError(f'{file}: {kind}_set is no list of names. Copy it again.')
    ids = [n.split('_')[0] for n in names] if ids is None else ids
    try:
        if isinstance(ids, np.ndarray) and not (np.mod(ids, 1) == 0).all(): raise ValueError
        ids = [int(n) for n in ids]
    except (ValueError, TypeError): raise ValueError(f'{file} tells no whole number for each identity. Copy it again.') from None
    if len(names) != len(ids) or not names: raise ValueError(f'{file} has {len(names)} names and {len(ids)} identities. Copy it again.')
    for n in names:
        if not n or '/' in n or '\\' in n: raise ValueError(f'{file}: {n[:60]!r} is not the name of a picture. Copy it again.')
    twice = pd.Series(names).duplicated()
    if twice.any(): raise ValueError(f'{file} has {names[twice.argmax()]!r} twice. Copy it again.')
    return names, ids


def _placed(names, there, file):
    "Path of each name, its ending apart: aligned copies may have another one"
    stems = {}
    for p in there:
        first = stems.setdefault(p.rpartition('/')[2].rpartition('.')[0], p)
        if first != p: raise ValueError(f'{first!r} and {p!r} have one name: which of them is meant? Remove one.')
    out = [stems.get(n.rpartition('.')[0]) for n in names]
    if None in out:
        raise FileNotFoundError(f'{out.count(None)} of {len(names)} pictures of {file.name} are missing, first {names[out.index(None)]!r}.')
    return out


def tinyface_table(
    root,         # Folder with `Testing_Set`, or the one above it
    aligned='',   # Folder of an aligned copy; '': the pictures as published
    verify=True,  # Decode every picture and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "Table of TinyFace with how it was made in `attrs['record']`; nothing is written"
    root = Path(root)
    lists = {'probe': 'probe_img_ID_pairs.mat', 'gallery': 'gallery_match_img_ID_pairs.mat'}
    at = find(root, [f'Testing_Set/{f}' for f in lists.values()], 'TinyFace')/'Testing_Set'
    base,folders = at, [PROBE, MATCH, DISTRACTOR]
    if aligned:
        base = next((p for p in (root/aligned, at.parent/aligned, root.parent/aligned, Path(aligned)) if p.is_dir()), None)
        if base is None: raise FileNotFoundError(f'{aligned} is not a folder in {root}, beside it or of itself.')
    flat = bool(aligned) and not any((base/f).is_dir() for f in folders)
    if not flat and (lack := [f for f in folders if not (base/f).is_dir()]):
        raise FileNotFoundError(f"{base} lacks {', '.join(lack)}; found {', '.join(sorted(p.name for p in base.iterdir())[:8])}. Unpack all of it.")
    there = {f: pictures_in(base) if flat else [f'{f}/{p}' for p in pictures_in(base/f)] for f in folders}
    rows,contradicted = [], 0
    for kind,folder,split in (('probe', PROBE, 'query'), ('gallery', MATCH, 'gallery')):
        names,ids = read_pairs_file(at/lists[kind], kind)
        contradicted += sum(n.split('_')[0].isdigit() and int(n.split('_')[0]) != i for n,i in zip(names, ids))
        rows += [(p, str(i), split) for p,i in zip(_placed(names, there[folder], at/lists[kind]), ids)]
    taken = {p for p,_,_ in rows}
    rows += [(p, 'distractor_' + p.removeprefix(f'{DISTRACTOR}/').rpartition('.')[0], 'gallery') for p in there[DISTRACTOR] if p not in taken]
    table = pd.DataFrame(rows, columns=['path', 'identity', 'split'])
    def below(folder): return os.path.relpath(folder.resolve(), root.resolve()).replace(os.sep, '/')
    table['path'] = [posixpath.normpath(f'{below(base)}/{p}') for p in table['path']]
    train = at.with_name('Training_Set')
    if train.is_dir() and not aligned:
        more = pictures_in(train)
        name = ['train_' + (p.split('/')[0] if '/' in p else p.split('_')[0]) for p in more]
        more = [posixpath.normpath(f'{below(train)}/{p}') for p in more]
        table = pd.concat([pd.DataFrame({'path': more, 'identity': name, 'split': 'train'}), table], ignore_index=True)
    table = table.assign(camera='', quality=np.nan)[['path', 'identity', 'camera', 'split', 'quality']]
    published = {k: v for k,v in PUBLISHED.items() if k != 'train' or (table['split'] == 'train').any()}
    table.attrs = {'root': str(root), 'record': {'source': 'TinyFace', 'aligned': Path(aligned).name, 'ids_that_names_contradict': contradicted,
                                                 'published': published}}
    return verified(table, verify, strict, workers)


@call_parse
def main(
    root:str, # Folder with Testing_Set, or the one above it
    aligned:str='', # Folder of an aligned copy; default: the pictures as published
    out:str='', # Folder for the table; default: ROOT
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of TinyFace"
    make(lambda: tinyface_table(root, aligned, not no_verify, strict, workers), root, out,
         {'aligned': Path(aligned).name, 'verify': not no_verify}, force)
