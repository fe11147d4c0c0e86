"""A table and the pairs of a verification set: LFW (Huang et al., 2007) and others that list their pairs in text.

    python data_prep/pairs.py lfw-deepfunneled pairs.txt     # -> lfw-deepfunneled/images.csv and pairs.csv
    python data_prep/pairs.py FOLDER pairs_label.txt         # lines of `path1 path2 0|1`

LFW's `pairs.txt` begins with `10<tab>300`: ten folds of 300 pairs of one person and then 300 of two; lines are
`Name<tab>1<tab>4` or `Name<tab>1<tab>Other<tab>2`, pictures `Name/Name_0001.jpg`. Its published counts: 6,000 pairs;
13,233 pictures of 5,749 people in the folder. The folder of a picture is the identity. Every identity is in `train` of
the table, which says nothing of whom you may train on: leave out those of the pairs. `--hold-out 2` does that: the
pairs of the last two folds stay, the pictures of their people are `gallery` in the table and everybody else is `train`,
so that nobody who is judged is trained on.
"""
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from common.layout import new_table
from common.pictures import listing, pictures_in
from common.sets import a_set

from qsd_fastai.data.labels import text_lines
from qsd_fastai.data.pairs import check_pairs


def _lfw(lines, file, suffix):
    "Pairs of LFW's list: folds and pairs a fold and half in the first line"
    try: n_folds,n_half = map(int, lines[0].split())
    except ValueError:
        raise ValueError(f'{file}, line 1: {lines[0]!r} is not `folds<tab>pairs`, 10 and 300 for LFW. '
                         'Copy the list again.') from None
    if len(lines) - 1 != 2*n_folds*n_half:
        raise ValueError(f'{file}: {len(lines) - 1} pairs, and the first line asks for {n_folds} x 2 x {n_half}. '
                         'Copy the list again.')
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
            raise ValueError(f'{file}, line {k + 2}: {line!r} is not a pair of {people}, as it should be there. '
                             'Copy the list again.') from None
    return rows


def _plain(lines, file, folds):
    rows = []
    for k,line in enumerate(lines):
        part = line.split('\t') if '\t' in line else line.rsplit(None, 2)  # the first path may hold blanks
        if len(part) != 3 or part[2] not in ('0', '1'):
            raise ValueError(f'{file}, line {k + 1}: {line!r} is not `path1 path2 0|1`. Mend the line.')
        rows.append((part[0], part[1], int(part[2]), k*folds//len(lines)))
    return rows


def _read_list(file, folder, paths, folds):
    "`(pairs, is it LFW's form, first line)`; errors naming the line that cannot be read or whose picture is missing"
    numbers,lines = zip(*((n, o.rstrip()) for n,o in text_lines(file)))
    head = lines[0].split()
    lfw = len(head) == 2
    rows = _lfw(lines, file, Path(paths[0]).suffix) if lfw else _plain(lines, file, folds)
    there = set(paths)
    for k,row in enumerate(rows):
        for p in row[:2]:
            if p in there: continue
            raise FileNotFoundError(f'{file}, line {numbers[k + lfw]}: {p!r} is not in {folder}, which holds '
                                    f'{paths[0]!r}. Name another folder, or copy all of it.')
    return pd.DataFrame(rows, columns=['path1', 'path2', 'same', 'fold']), lfw, head


def _hold_out(table, pairs, n):
    "`(pairs, record)`: the pairs of the last `n` folds, their people judged, everybody else trained on"
    n_folds = pairs['fold'].nunique()
    if not 1 <= n <= n_folds: raise ValueError(f'--hold-out is {n}, and there are {n_folds} folds. Hold out fewer.')
    pairs = pairs[pairs['fold'] > pairs['fold'].max() - n].reset_index(drop=True)
    who = table.set_index('path')['identity']
    judged = set(who[pairs['path1']]) | set(who[pairs['path2']])
    table['split'] = np.where(table['identity'].isin(judged), 'gallery', 'train')
    return pairs, {'held_out_folds': n, 'held_out_pairs': len(pairs), 'held_out_identities': len(judged)}


def facts(
    folder,    # Folder of the pictures
    out,       # Folder for the table, '' if none
    list_file, # The list of pairs
): # `(folder of the table, facts for the record)`
    "What table and pairs are made from: the pictures by their names, the list by its content"
    file,found = Path(list_file), listing(folder)
    if not file.is_file(): raise FileNotFoundError(f'{file}: no such list of pairs.')
    found.pop('folder')
    return Path(out or folder), {'list': file.name, 'list_content': zlib.crc32(file.read_bytes()), **found}


@a_set('pair list', made_from=facts, lists=['pairs'], recipe='face')
def pairs_table(
    folder:str,     # Folder of the pictures, one in it for each identity
    list_file:str,  # LFW's pairs.txt, or lines of `path1 path2 0|1`
    folds:int=10,   # Of a list that does not tell: the pairs are cut into so many runs of equal length, in their order
    hold_out:int=0, # Keep the pairs of so many of the last folds, and train on nobody in them; 0: keep all
    *,
    readable,       # Leaves out what cannot be decoded, which no picture of a pair may be
):
    "Table and pairs of a verification set"
    if folds < 1: raise ValueError(f'--folds is {folds}. Give 1 or more.')
    paths = pictures_in(folder)
    pairs,lfw,head = _read_list(Path(list_file), folder, paths, folds)
    table = new_table(folder, paths, [p.rpartition('/')[0] or p for p in paths])
    who = table.set_index('path')['identity']
    differs = (who[pairs['path1']].to_numpy() == who[pairs['path2']].to_numpy()) != (pairs['same'] == 1)
    record = {'source': 'LFW list' if lfw else 'pair list', 'pairs': len(pairs), 'folds': int(pairs['fold'].nunique()),
              'pairs_that_folders_contradict': int(differs.sum())}
    if differs.any(): table.attrs['notes'] = [f'{differs.sum()} pairs say something else than the folders do.']
    if hold_out:
        pairs,more = _hold_out(table, pairs, hold_out)
        record |= more
    elif lfw and head == ['10', '300']: record['published'] = {'train': (13233, 5749)}
    table.attrs['record'] = record
    table = readable(table)
    paired = {*pairs['path1'], *pairs['path2']}
    if broken := [u for u in table.attrs.get('unreadable', []) if u.split('\t')[0] in paired]:
        raise ValueError(f'{len(broken)} pictures of the pairs cannot be read, first {broken[0]!r}. '
                         'Copy them again: no pair may be left out.')
    return table, check_pairs(pairs, table)
