"""A table and the pairs of a verification set: LFW (Huang et al., 2007) and others that list their pairs in text.

    python data_prep/pairs.py lfw-deepfunneled pairs.txt     # -> lfw-deepfunneled/images.csv and pairs.csv
    python data_prep/pairs.py lfw pairsDevTest.txt --people peopleDevTrain.txt   # View 1
    python data_prep/pairs.py xqlfw_aligned_112 xqlfw_pairs.txt                  # XQLFW
    python data_prep/pairs.py FOLDER pairs_label.txt         # lines of `path1 path2 0|1`

LFW's `pairs.txt` begins with `10<tab>300`: ten folds of 300 pairs of one person and then 300 of two; lines are
`Name<tab>1<tab>4` or `Name<tab>1<tab>Other<tab>2`, pictures `Name/Name_0001.jpg`. Its published counts: 6,000 pairs;
13,233 pictures of 5,749 people in the folder. The folder of a picture is the identity. Every identity is in `train` of
the table, which says nothing of whom you may train on: leave out those of the pairs. `--hold-out 2` does that: the
pairs of the last two folds stay, the pictures of their people are `gallery` in the table and everybody else is `train`,
so that nobody who is judged is trained on. View 1, which models are chosen by, has `pairsDevTrain.txt` and
`pairsDevTest.txt` (1,100 and 500 pairs of each kind, no folds) and tells in `peopleDevTrain.txt` (4,038 people, 9,525
pictures) whom to train on. XQLFW (Knoche et al., FG 2021) has LFW's form of list and its folders (`xqlfw_aligned_112`,
or the pictures of 250 x 250), other pairs, and pictures brought down in quality; it is known by the name of its list.
Folders that tell the split (`train/Name/...`, `test/Name/...`) are believed.
"""
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from common.layout import new_table
from common.pictures import all_readable, listing, pictures_in
from common.sets import a_set
from common.told import told_by_folders

from qsd_fastai.data.labels import text_lines
from qsd_fastai.data.pairs import check_pairs
from qsd_fastai.spelling import match_paths


def _lfw(lines, file, suffix, folds):
    "Pairs of LFW's list: folds and pairs a fold and half in the first line, or pairs a half in that of View 1"
    head = lines[0][1].split()
    try: n_folds,n_half = map(int, head if len(head) == 2 else (1, *head))
    except ValueError:
        raise ValueError(f'{file}, line {lines[0][0]}: {lines[0][1]!r} is not `folds<tab>pairs`, 10 and 300 for LFW, '
                         'or `pairs`, 500 or 1100 for its View 1. Copy the list again.') from None
    if all(_is_person(line) for _,line in lines[1:]) and len(lines) > 1:
        raise ValueError(f'{file} lists people, not pairs. Name a list of pairs, and this one as --people.')
    if len(lines) - 1 != 2*n_folds*n_half:
        raise ValueError(f'{file}: {len(lines) - 1} pairs, and the first line asks for {n_folds} x 2 x {n_half}. '
                         'Copy the list again.')
    rows = []
    for k,(n, line) in enumerate(lines[1:]):
        part = line.split('\t') if '\t' in line else line.split()
        same = k//n_half % 2 == 0
        # View 1 has no folds: both halves are cut alike
        fold = k % n_half*folds//n_half if len(head) == 1 else k//(2*n_half)
        try:
            if len(part) != (3 if same else 4): raise ValueError
            a,i,b,j = part if not same else (part[0], part[1], part[0], part[2])
            rows.append((f'{a}/{a}_{int(i):04d}{suffix}', f'{b}/{b}_{int(j):04d}{suffix}', int(same), fold))
        except ValueError:
            people = 'one person' if same else 'two people'
            raise ValueError(f'{file}, line {n}: {line!r} is not a pair of {people}, as it should be there. '
                             'Copy the list again.') from None
    return rows


def _is_person(line): return re.fullmatch(r'\S+\s+[0-9]+', line.strip()) is not None


def _plain(lines, file, folds):
    rows = []
    for k,(n, line) in enumerate(lines):
        part = line.split('\t') if '\t' in line else line.rsplit(None, 2)  # the first path may hold blanks
        if len(part) != 3 or part[2] not in ('0', '1'):
            raise ValueError(f'{file}, line {n}: {line!r} is not `path1 path2 0|1`. Mend the line.')
        rows.append((part[0], part[1], int(part[2]), k*folds//len(lines)))
    return rows


def _read_list(file, folder, paths, folds):
    "`(pairs, words of LFW's first line)`; errors naming the line that cannot be read or whose picture is missing"
    lines = [(n, o.rstrip()) for n,o in text_lines(file)]
    head = lines[0][1].split()
    lfw = len(head) < 3
    rows = _lfw(lines, file, Path(paths[0]).suffix, folds) if lfw else _plain(lines, file, folds)
    pairs = pd.DataFrame(rows, columns=['path1', 'path2', 'same', 'fold'])
    place = {c: match_paths(pairs[c], paths, f'{file}, {c}') for c in ('path1', 'path2')}
    for k in np.flatnonzero((place['path1'] < 0) | (place['path2'] < 0))[:1]:
        p = next(pairs[c][k] for c in place if place[c][k] < 0)
        raise FileNotFoundError(f'{file}, line {lines[k + lfw][0]}: {p!r} is not in {folder}, which holds '
                                f'{paths[0]!r}. Name another folder, or copy all of it.')
    return pairs.assign(**{c: np.array(paths, object)[o] for c,o in place.items()}), head if lfw else None


def _trained_on(file, table):
    "The people of LFW's peopleDevTrain.txt; ValueError naming the line that is not of this folder"
    (n, head),*lines = text_lines(file)
    if head.strip() != str(len(lines)):
        raise ValueError(f'{file}, line {n}: {head!r}, and {len(lines)} people follow. Copy the list again.')
    there,people = table['identity'].value_counts(), []
    for n,line in lines:
        if not _is_person(line):
            raise ValueError(f'{file}, line {n}: {line!r} is not `Name<tab>pictures`. Mend the line.')
        name,count = line.split()
        if there.get(name, 0) < int(count):
            raise ValueError(f'{file}, line {n}: {name} has {count} pictures there, and {there.get(name, 0)} in the '
                             'folder. Copy all of the set.')
        people.append(name)
    return people


def _hold_out(table, pairs, n):
    "`(pairs, record)`: the pairs of the last `n` folds, their people judged, everybody else trained on"
    n_folds = pairs['fold'].nunique()
    if not 1 <= n <= n_folds: raise ValueError(f'--hold-out is {n}, and there are {n_folds} folds. Hold out fewer.')
    pairs = pairs[pairs['fold'] > pairs['fold'].max() - n].reset_index(drop=True)
    who = table.set_index('path')['identity']
    judged = set(who[pairs['path1']]) | set(who[pairs['path2']])
    table['split'] = np.where(table['identity'].isin(judged), 'gallery', 'train')
    return pairs, {'held_out_folds': n, 'held_out_pairs': len(pairs), 'held_out_identities': len(judged)}


def _judge_others(table, pairs, people):
    "Facts for the record; the split of the table becomes train for these people, gallery for all others"
    trained = table['identity'].isin(people)
    table['split'] = np.where(trained, 'train', 'gallery')
    both = trained[table['path'].isin({*pairs['path1'], *pairs['path2']})]
    if both.any():
        raise ValueError(f'{both.sum()} pictures of the pairs are of people to train on, first '
                         f'{table["path"][both.idxmax()]!r}. Pairs and people are of different halves: pass the other.')
    return {'trained_on': len(people)}


def facts(
    folder,    # Folder of the pictures
    out,       # Folder for the table, '' if none
    list_file, # The list of pairs
    people,    # The list of those who may be trained on, None: there is none
): # `(folder of the table, facts for the record)`
    "What table and pairs are made from: the pictures by their names, the lists by their content"
    file,found = Path(list_file), listing(folder)
    for o in filter(None, (file, people)):
        if not Path(o).is_file(): raise FileNotFoundError(f'{o}: no such list.')
    if people: found['people'] = zlib.crc32(Path(people).read_bytes())
    found.pop('folder')
    return Path(out or folder), {'list': file.name, 'list_content': zlib.crc32(file.read_bytes()), **found}


@a_set('pair list', made_from=facts, lists=['pairs'], recipe='face')
def pairs_table(
    folder:str,       # Folder of the pictures, one in it for each identity
    list_file:str,    # LFW's pairs.txt, pairsDevTest.txt of its View 1, xqlfw_pairs.txt, lines of `path1 path2 0|1`
    people:Path=None, # Who may be trained on, LFW's peopleDevTrain.txt; everybody else is judged
    folds:int=10,     # Of a list that does not tell: the pairs are cut into so many runs of equal length, in order
    hold_out:int=0,   # Keep the pairs of so many of the last folds, and train on nobody in them; 0: keep all
    *,
    readable,         # Leaves out what cannot be decoded, which no picture of a pair may be
):
    "Table and pairs of a verification set"
    if folds < 1: raise ValueError(f'--folds is {folds}. Give 1 or more.')
    paths = pictures_in(folder)
    pairs,head = _read_list(Path(list_file), folder, paths, folds)
    table = new_table(folder, paths, [p.rpartition('/')[0] or p for p in paths])
    told = told_by_folders(paths, folder)
    if hold_out and (people or told):
        raise ValueError(f'--hold-out is {hold_out}, and who is judged is told already. Leave it out.')
    who = table.set_index('path')['identity']
    differs = (who[pairs['path1']].to_numpy() == who[pairs['path2']].to_numpy()) != (pairs['same'] == 1)
    cross_quality = 'xqlfw' in Path(list_file).name.lower()
    source = ('XQLFW list' if cross_quality else 'LFW list') if head else 'pair list'
    record = {'source': source, 'pairs': len(pairs), 'folds': int(pairs['fold'].nunique()),
              'pairs_that_folders_contradict': int(differs.sum())}
    if differs.any(): table.attrs['notes'] = [f'{differs.sum()} pairs say something else than the folders do.']
    if hold_out:
        pairs,more = _hold_out(table, pairs, hold_out)
        record |= more
    elif people: record |= _judge_others(table, pairs, _trained_on(people, table))
    elif told and set(told.part) - {'train', 'all'}:
        table['split'] = np.where(np.isin(told.part, ['train', 'all']), 'train', 'gallery')
        record['split'] = 'as the folders tell'
    elif head == ['10', '300'] and not cross_quality: record['published'] = {'train': (13233, 5749)}
    if head and len(head) == 1: record['view'] = 1
    table.attrs['record'] = record
    remedy = 'Copy them again: no pair may be left out.'
    table = all_readable(table, readable, remedy, {*pairs['path1'], *pairs['path2']})
    return table, check_pairs(pairs, table)
