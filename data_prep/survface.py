"""A table of QMUL-SurvFace (Cheng, Zhu and Gong, arXiv 1804.09691): faces of some 24 pixels, from surveillance video.

    python data_prep/survface.py ROOT                      # who is on the watch list: queries and gallery
    python data_prep/survface.py ROOT --test verification  # -> images.csv and pairs.csv

    ROOT/training_set/<person>/12_cam3_1.jpg               # person, camera, number; the folder may be missing
    ROOT/Face_Identification_Test_Set/gallery, mated_probe, unmated_probe
    ROOT/Face_Identification_Test_Set/gallery_img_ID_pairs.mat, mated_probe_img_ID_pairs.mat
    ROOT/Face_Verification_Test_Set/verification_images
    ROOT/Face_Verification_Test_Set/positive_pairs_names.mat, negative_pairs_names.mat

or all of it one folder below (`QMUL-SurvFace`); the two lists of names may lie in `Face_Identification_Evaluation`.

Identification is open: the gallery is a watch list, and most queries are of people who are not on it (`distractors_7`
is somebody of whom there is one picture). Published is TPIR20 at FPIR .3, .2, .1 and .01: share of the queries of
people on the list whose person is among the first 20 and above a threshold that so many of the others pass; a person of
the gallery is the mean of their pictures. The record asks for it, `recipes/evaluate.py` reports it. Verification has
5,320 pairs of each kind; published are TAR at FAR .3, .1, .01 and .001, and the AUC. No folds are told: ten of equal
length are cut, in order. Cameras exclude nothing in either, so `camera` is unknown; the name's is in `seen_by`.
Faces are too small for a detector of landmarks: they are taken as they are.
"""
from pathlib import Path

import pandas as pd
from common.layout import base_name, find, match_names, new_table
from common.matlab import read_pairs_file, read_variables
from common.pictures import all_readable, pictures_in
from common.sets import a_set

from qsd_fastai.choices import one_of
from qsd_fastai.data.pairs import check_pairs

TRAIN,SEARCH,PAIRS = 'training_set', 'Face_Identification_Test_Set', 'Face_Verification_Test_Set'
ROLES = {'gallery': 'gallery', 'mated_probe': 'query', 'unmated_probe': 'query'}
PUBLISHED = {'train': (220_890, 5_319), 'query': (182_323, 10_254), 'gallery': (60_294, 3_000)}
OPEN_SET = {'rank': 20, 'fpir': [.3, .2, .1, .01], 'gallery': 'mean of a person'}
NAME,LIKE = r'(\d+)_cam(\d+)_|(distractors_\d+)\.', '12_cam3_1.jpg or distractors_7.jpg'
N_PAIRS,FOLDS = 5_320,10


def _people(paths):
    "`(identities, cameras)` that the names tell"
    found = match_names(paths, NAME, LIKE)
    return [m[1] or m[3] for m in found], [m[2] or '' for m in found]


def _table(root, folder, split):
    "Table of the pictures of a folder, by their names"
    paths = [f'{folder.relative_to(root).as_posix()}/{p}' for p in pictures_in(folder)]
    who,seen_by = _people(paths)
    return new_table(root, paths, who, split=split).assign(seen_by=seen_by)


def _training(root, at):
    "Table of the training set, empty where there is none"
    if not (at/TRAIN).is_dir(): return pd.DataFrame()
    table = _table(root, at/TRAIN, 'train')
    folder = table['path'].str.split('/').str[-2]
    wrong = folder.str.isdecimal() & (folder.str.lstrip('0') != table['identity'].str.lstrip('0'))
    if wrong.any():
        raise ValueError(f'{wrong.sum()} pictures lie in the folder of somebody else than their name tells, first '
                         f'{table["path"][wrong.idxmax()]!r}. Unpack the training set again.')
    return table


def _listed(at, role, table, labels):
    "Refuse a folder that lacks pictures of its list, and a list that gives a person two numbers, or two people one"
    name = f'{role}_img_ID_pairs.mat'
    file = next((p for f in (SEARCH, 'Face_Identification_Evaluation') if (p := at/f/name).is_file()), at/SEARCH/name)
    names,numbers = read_pairs_file(file, role)
    there = set(map(base_name, table['path']))
    if lack := [n for n in names if n not in there]:
        raise FileNotFoundError(f'{len(lack)} of {len(names)} pictures of {file.name} are missing in {at/SEARCH/role}, '
                                f'first {lack[0]!r}. Unpack all of QMUL-SurvFace.')
    for n,who,number in zip(names, _people(names)[0], numbers):
        if labels.setdefault(who, number) == number and labels.setdefault(number, who) == who: continue
        raise ValueError(f'{file}: {n!r} has the number {number}, which is not that of person {who} elsewhere. '
                         'Copy the lists again.')
    return table[table['path'].map(base_name).isin(set(names))]


def _search(root, at):
    "Tables of gallery and queries; ValueError where the watch list is not the one of the queries"
    parts,labels = {r: _table(root, at/SEARCH/r, split) for r,split in ROLES.items()},{}
    for r in ('gallery', 'mated_probe'): parts[r] = _listed(at, r, parts[r], labels)
    watched = set(parts['gallery']['identity'])
    for r,wanted in (('mated_probe', True), ('unmated_probe', False)):
        wrong = parts[r]['identity'].isin(watched) != wanted
        if wrong.any():
            first,said = parts[r]['path'][wrong.idxmax()],'nobody' if wanted else 'somebody'
            raise ValueError(f'{first!r} is of {said} in the gallery. Unpack all of QMUL-SurvFace again.')
    return list(parts.values())


def _pairs(root, at):
    "`(table, pairs)` of the verification set"
    table,rows = _table(root, at/PAIRS/'verification_images', 'gallery'),[]
    place = dict(zip(map(base_name, table['path']), table['path']))
    for same,kind in ((1, 'positive'), (0, 'negative')):
        file = at/PAIRS/f'{kind}_pairs_names.mat'
        names = read_variables(file, (f'{kind}_pairs_names',)).get(f'{kind}_pairs_names')
        if not isinstance(names, list) or not names or len(names) % 2 or not all(isinstance(n, str) for n in names):
            raise ValueError(f'{file} has no two columns of names in {kind}_pairs_names. Copy it again.')
        if lack := [n for n in names if n not in place]:
            raise FileNotFoundError(f'{len(lack)} names of {file.name} are not in {at/PAIRS/"verification_images"}, '
                                    f'first {lack[0]!r}. Unpack all of QMUL-SurvFace.')
        n = len(names)//2 # MATLAB writes a column after the other
        rows += [(place[a], place[b], same, k*FOLDS//n) for k,(a, b) in enumerate(zip(names[:n], names[n:]))]
    pairs = pd.DataFrame(rows, columns=['path1', 'path2', 'same', 'fold'])
    who = table.set_index('path')['identity']
    differs = (who[pairs['path1']].to_numpy() == who[pairs['path2']].to_numpy()) != (pairs['same'] == 1)
    if differs.any():
        a,b,same = pairs.loc[differs.idxmax(), ['path1', 'path2', 'same']]
        raise ValueError(f'{differs.sum()} pairs say something else than the names do, first {a!r} and {b!r} as '
                         f'{"one person" if same else "two people"}. Copy the lists again.')
    return table, pairs


def lists_of(
    root, # Folder of the set, which does not matter
    test, # identification or verification
)->list: # Of names
    "What stands beside the table"
    return ['pairs'] if test == 'verification' else []


@a_set('QMUL-SurvFace', lists=lists_of, recipe='face')
def survface_table(
    root:str,                   # Folder of the set, or the one above it
    test:str='identification',  # What is judged: identification (watch list), verification (pairs)
    *,
    readable,                   # Leaves out what cannot be decoded, which no picture of a pair may be
): # `(table, lists)`
    "Table of QMUL-SurvFace, and the pairs of its verification set"
    one_of('--test', test, 'identification', 'verification')
    root,pairs = Path(root),None
    verify = test == 'verification'
    at = find(root, [f'{PAIRS}/verification_images'] if verify else [f'{SEARCH}/{r}' for r in ROLES], 'QMUL-SurvFace')
    train = _training(root, at)
    if verify: *judged,pairs = _pairs(root, at)
    else: judged = _search(root, at)
    table = pd.concat([train, *judged], ignore_index=True)
    both = set(table.loc[table['split'] == 'train', 'identity']) & set(table.loc[table['split'] != 'train', 'identity'])
    if both:
        raise ValueError(f'{len(both)} people are both trained on and judged, first {min(both)}. '
                         'Unpack all of QMUL-SurvFace again: its halves share nobody.')
    published = {k: v for k,v in PUBLISHED.items() if len(table[table['split'] == k]) and not (verify and k != 'train')}
    record = {'test': test, 'published': published}
    if verify:
        counts = [int((pairs['same'] == o).sum()) for o in (1, 0)]
        notes = [] if counts == [N_PAIRS]*2 else [f'{counts[0]} and {counts[1]} pairs; published are {N_PAIRS} each.']
        table.attrs = {'root': str(root), 'record': {**record, 'pairs': len(pairs), 'folds': 'ours'}, 'notes': notes}
        paired = {*pairs['path1'], *pairs['path2']}
        table = all_readable(table, readable, 'Copy them again: no pair may be left out.', paired)
        return table, {'pairs': check_pairs(pairs, table)}
    table.attrs = {'root': str(root), 'record': {**record, 'open_set': OPEN_SET}}
    return readable(table), {}
