"""A table of TinyFace (Cheng et al., ACCV 2018): faces of some 20 pixels, looked for among 157,871.

    python data_prep/tinyface.py ROOT
    python data_prep/tinyface.py ROOT --aligned aligned_pad_0.1_pad_high  # AdaFace's, beside or below ROOT

    ROOT/Testing_Set/probe_img_ID_pairs.mat, gallery_match_img_ID_pairs.mat
    ROOT/Testing_Set/Probe, Gallery_Match, Gallery_Distractor     # the aligned copy: the same folders, or all in one
    ROOT/Training_Set/<identity>/*.jpg                            # may be missing

Probes are `query`, the rest of the testing set `gallery`. Nobody is looked for among the distractors: each has an
identity of its own. Identities of the training set begin with `train_`, for its numbers are not said to be other
people's than those of the testing set. Published are ranks 1, 5 and 20: `recipes/evaluate.py --ranks 1,5,20`. Pictures
are RGB; AdaFace's networks want BGR.
"""
import posixpath
from pathlib import Path

import pandas as pd
from common.command import relative
from common.layout import base_name, find, new_table
from common.matlab import read_pairs_file
from common.pictures import pictures_in, some
from common.sets import a_set

PROBE,MATCH,DISTRACTOR = 'Probe', 'Gallery_Match', 'Gallery_Distractor'
LISTS = {'probe': 'probe_img_ID_pairs.mat', 'gallery': 'gallery_match_img_ID_pairs.mat'}
PUBLISHED = {'train': (7_804, 2_570), 'query': (3_728, 2_569), 'gallery': (157_871, 155_997)}


def _placed(names, there, file):
    "Path of each name, its ending apart: aligned copies may have another one"
    stems = {}
    for p in there:
        first = stems.setdefault(base_name(p).rpartition('.')[0], p)
        if first != p: raise ValueError(f'{first!r} and {p!r} have one name. Remove one, whichever is not meant.')
    out = [stems.get(n.rpartition('.')[0]) for n in names]
    if None not in out: return out
    raise FileNotFoundError(f'{out.count(None)} of {len(names)} pictures of {file.name} are missing, '
                            f'first {names[out.index(None)]!r}. Unpack all of TinyFace.')


def _folder(root, at, aligned):
    "The folder of the testing pictures, and whether they lie in it without folders of their own"
    base,folders = at, [PROBE, MATCH, DISTRACTOR]
    if aligned:
        places = (root/aligned, at.parent/aligned, root.parent/aligned, Path(aligned))
        base = next((p for p in places if p.is_dir()), None)
        if base is None:
            raise FileNotFoundError(f'{aligned} is not a folder in {root}, beside it or of itself. '
                                    'Say where the aligned copy is.')
    there = [f for f in folders if (base/f).is_dir()]
    if aligned and not there: return base, True
    if lack := [f for f in folders if f not in there]:
        raise FileNotFoundError(f"{base} lacks {', '.join(lack)}; found {some(base, 8)}. Unpack all of it.")
    return base, False


@a_set('TinyFace')
def tinyface_table(
    root:str,          # Folder with `Testing_Set`, or the one above it
    aligned:Path=None, # Folder of an aligned copy; default: the pictures as published
):
    "Table of TinyFace"
    root = Path(root)
    at = find(root, [f'Testing_Set/{f}' for f in LISTS.values()], 'TinyFace')/'Testing_Set'
    base,flat = _folder(root, at, aligned)
    def below(folder, paths):
        prefix = relative(folder.resolve(), root.resolve())
        return [posixpath.normpath(f'{prefix}/{p}') for p in paths]
    there = {f: pictures_in(base) if flat else [f'{f}/{p}' for p in pictures_in(base/f)]
             for f in (PROBE, MATCH, DISTRACTOR)}
    rows,contradicted = [], 0
    for kind,folder,split in (('probe', PROBE, 'query'), ('gallery', MATCH, 'gallery')):
        names,ids = read_pairs_file(at/LISTS[kind], kind)
        said = [n.split('_')[0] for n in names]
        contradicted += sum(n.isdigit() and int(n) != i for n,i in zip(said, ids))
        rows += [(p, str(i), split) for p,i in zip(_placed(names, there[folder], at/LISTS[kind]), ids)]
    taken = {p for p,_,_ in rows}
    rows += [(p, 'distractor_' + p.removeprefix(f'{DISTRACTOR}/').rpartition('.')[0], 'gallery')
             for p in there[DISTRACTOR] if p not in taken]
    path,identity,split = zip(*rows)
    table,train = new_table(root, below(base, path), identity, split=split), at.with_name('Training_Set')
    published = dict(PUBLISHED)
    if train.is_dir() and not aligned:
        found = pictures_in(train)
        who = ['train_' + (p.split('/') if '/' in p else p.split('_'))[0] for p in found]
        table = pd.concat([new_table(root, below(train, found), who), table], ignore_index=True)
    else: published.pop('train')
    record = {'aligned': Path(aligned or '').name, 'ids_that_names_contradict': contradicted, 'published': published}
    table.attrs = {'root': str(root), 'record': record}
    return table
