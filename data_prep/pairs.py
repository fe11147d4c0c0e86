"""A table and the pairs of a verification set: LFW (Huang et al., 2007) and others that list their pairs in a text file.

    python data_prep/pairs.py lfw-deepfunneled pairs.txt     # -> lfw-deepfunneled/images.csv and pairs.csv
    python data_prep/pairs.py FOLDER pairs_label.txt         # lines of `path1 path2 0|1`

LFW's `pairs.txt` begins with `10<tab>300`: ten folds of 300 pairs of one person and then 300 of two; lines are `Name<tab>1<tab>4` or
`Name<tab>1<tab>Other<tab>2`, pictures `Name/Name_0001.jpg`. Its published counts: 6,000 pairs; 13,233 pictures of 5,749 people in the folder.
The folder of a picture is the identity. Every identity is in `train` of the table, which says nothing of whom you may train on:
leave out those of the pairs. `--hold-out 2` does that: the pairs of the last two folds stay, the pictures of their people are `gallery` in the table
and everybody else is `train`, so that nobody who is judged is trained on.
"""
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, readable
from fastcore.script import call_parse
from folder import pictures_in

from qsd_fastai.data.labels import text_lines
from qsd_fastai.data.pairs import check_pairs, read_pairs, write_pairs


def _lfw(lines, file, suffix):
    "Pairs of LFW's list: folds and pairs a fold and half in the first line"
    try: n_folds,n_half = map(int, lines[0].split())
    except ValueError: raise ValueError(f'{file}, line 1: {lines[0]!r} is not `folds<tab>pairs`, 10 and 300 for LFW.') from None
    if len(lines) - 1 != 2*n_folds*n_half:
        raise ValueError(f'{file}: {len(lines) - 1} pairs, and the first line asks for {n_folds} x 2 x {n_half}. Copy the list again.')
    rows = []
    for k,line in enumerate(lines[1:]):
        part = line.split('\t') if '\t' in line else line.split()
        same = k//n_half % 2 == 0
        try:
            if len(part) != (3 if same else 4): raise ValueError
            a,i,b,j = part if not same else (part[0], part[1], part[0], part[2])
            rows.append((f'{a}/{a}_{int(i):04d}{suffix}', f'{b}/{b}_{int(j):04d}{suffix}', int(same), k//(2*n_half)))
        except ValueError:
            people = 'one person' if same else 'two people'
            raise ValueError(f'{file}, line {k + 2}: {line!r} is not a pair of {people}, as it should be there.') from None
    return rows


def _plain(lines, file, folds):
    rows = []
    for k,line in enumerate(lines):
        part = line.split('\t') if '\t' in line else line.rsplit(None, 2)  # the first path may hold blanks
        if len(part) != 3 or part[2] not in ('0', '1'): raise ValueError(f'{file}, line {k + 1}: {line!r} is not `path1 path2 0|1`.')
        rows.append((part[0], part[1], int(part[2]), k*folds//len(lines)))
    return rows


def pairs_table(
    folder,       # Folder of the pictures, `folder/<identity>/picture.jpg`
    list_file,    # LFW's pairs.txt, or lines of `path1 path2 0|1`
    folds=10,     # Of a list that does not tell: the pairs are cut into so many runs of equal length, in their order
    hold_out=0,   # Keep the pairs of so many of the last folds, and train on nobody in them; 0: keep all, and say nothing of training
    verify=True,  # Decode every picture and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "`(table, pairs)`; ValueError naming the line that cannot be read, or whose picture is missing. Nothing is written"
    file = Path(list_file)
    if folds < 1: raise ValueError(f'--folds {folds}: give 1 or more.')
    numbers,lines = zip(*((n, o.rstrip()) for n,o in text_lines(file)))
    paths = pictures_in(folder)
    lfw = len(lines[0].split()) == 2
    rows = _lfw(lines, file, Path(paths[0]).suffix) if lfw else _plain(lines, file, folds)
    there = set(paths)
    for k,row in enumerate(rows):
        for p in row[:2]:
            if p not in there: raise FileNotFoundError(f'{file}, line {numbers[k + lfw]}: {p!r} is not in {folder}, which holds {paths[0]!r}.')
    pairs = pd.DataFrame(rows, columns=['path1', 'path2', 'same', 'fold'])
    table = pd.DataFrame({'path': paths, 'identity': [p.rpartition('/')[0] or p for p in paths], 'camera': '', 'split': 'train', 'quality': np.nan})
    who = table.set_index('path')['identity']
    differs = (who[pairs['path1']].to_numpy() == who[pairs['path2']].to_numpy()) != (pairs['same'] == 1)
    record = {'source': 'LFW list' if lfw else 'pair list', 'pairs': len(pairs), 'folds': int(pairs['fold'].nunique()),
              'pairs_that_folders_contradict': int(differs.sum())}
    if hold_out:
        if not 1 <= hold_out <= pairs['fold'].nunique(): raise ValueError(f"--hold-out {hold_out}: there are {pairs['fold'].nunique()} folds.")
        pairs = pairs[pairs['fold'] > pairs['fold'].max() - hold_out].reset_index(drop=True)
        judged = set(who[pairs['path1']]) | set(who[pairs['path2']])
        table['split'] = np.where(table['identity'].isin(judged), 'gallery', 'train')
        record |= {'held_out_folds': hold_out, 'held_out_pairs': len(pairs), 'held_out_identities': len(judged)}
    elif lfw and lines[0].split() == ['10', '300']: record['published'] = {'train': (13233, 5749)}
    table.attrs = {'root': str(folder), 'record': record}
    if verify: table = readable(table, strict, workers)
    broken = [u for u in table.attrs.get('unreadable', []) if pairs[['path1', 'path2']].eq(u.split('\t')[0]).any(axis=None)]
    if broken: raise ValueError(f'{len(broken)} pictures of the pairs cannot be read, first {broken[0]!r}. Copy them again: no pair may be left out.')
    return table, check_pairs(pairs, table)


@call_parse
def main(
    folder:str, # Folder of the pictures, one in it for each identity
    list_file:str, # LFW's pairs.txt, or lines of `path1 path2 0|1`
    out:str='', # Folder for both; default: FOLDER
    folds:int=10, # Of a list that does not tell
    hold_out:int=0, # Keep the pairs of so many of the last folds, and train on nobody in them
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make both anew where they are
):
    "Table and pairs of a verification set"
    try:
        to,found = Path(out or folder)/'images.csv', pictures_in(folder)
        if not Path(list_file).is_file(): raise FileNotFoundError(f'{list_file}: no such list of pairs.')
        record = {'list': os.path.basename(list_file), 'list_content': zlib.crc32(Path(list_file).read_bytes()), 'pictures': len(found),
                  'listing': zlib.crc32('\n'.join(found).encode()), 'options': {'folds': folds, 'hold_out': hold_out, 'verify': not no_verify}}
        if is_made(to, record, force) and to.with_name('pairs.csv').is_file():
            read_pairs(to.with_name('pairs.csv'))
            return print(f'{to} and pairs.csv are there already, made from the same files in the same way: nothing to do.')
        table,pairs = pairs_table(folder, list_file, folds, hold_out, not no_verify, strict, workers)
        to.unlink(missing_ok=True)  # stopped from here on, there is no table rather than one of other pairs
        to.parent.mkdir(parents=True, exist_ok=True)
        # paths are relative to where they are written
        lead = os.path.relpath(os.path.realpath(folder), os.path.realpath(to.parent)).replace(os.sep, '/')
        moved = {} if lead == '.' else {c: lead + '/' + pairs[c] for c in ('path1', 'path2')}
        write_pairs(pairs.assign(**moved), to.with_name('pairs.csv'))
        print(f"{len(pairs):,} pairs, {int(pairs['same'].sum()):,} of one person, in {pairs['fold'].nunique()} folds")
        if odd := table.attrs['record']['pairs_that_folders_contradict']: print(f'Note: {odd} pairs say something else than the folders do.')
        finish(table, to, {**table.attrs['record'], **record}, 'face')
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
