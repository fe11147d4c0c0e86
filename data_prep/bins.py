"""Tables and pairs of verification sets in `.bin` files, as InsightFace gives them: LFW, CFP-FP, AgeDB-30 and others.

    python data_prep/bins.py lfw.bin     # -> lfw/images.csv and lfw/pairs.csv
    python data_prep/bins.py FOLDER      # every .bin in it, a folder each

CFP-FF, CALFW, CPLFW and VGG2-FP come in this form too. A `.bin` is a Python pickle, which may run anything where it is
opened with `pickle`; here nothing is run, and what is no picture or flag is refused. The pictures stay in it: a path is
`../lfw.bin#12`, the number of the picture. Pairs are cut into ten folds in their order, as everybody does.

A `.bin` does not tell who is in it. Pictures of a pair of one person, and pictures that are byte for byte the same, get
one identity; the same person may have several. So these tables are for judging pairs, and not to be trained on.
"""
import hashlib
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from common.layout import new_table
from common.lists import linked
from common.pictures import all_readable, some
from common.sets import a_set

from qsd_fastai.data.bins import read_bin
from qsd_fastai.data.pairs import check_pairs

PUBLISHED = {'lfw': 6000, 'cfp_fp': 7000, 'cfp_ff': 7000, 'agedb_30': 6000, 'calfw': 6000, 'cplfw': 6000,
             'vgg2_fp': 5000}  # pairs


def bin_files(
    path, # A .bin, or a folder of them
)->list: # Of paths, sorted
    "The `.bin` files; FileNotFoundError saying what is there instead"
    path = Path(path)
    if path.is_file() and path.suffix != '.bin':
        raise ValueError(f'{path} is no verification set by its name. Rename it, to end in .bin.')
    if path.is_file(): return [path]
    found = sorted(path.glob('*.bin')) if path.is_dir() else []
    if found: return found
    there = some(path, 8) if path.is_dir() else 'no such file or folder'
    raise FileNotFoundError(f'{path} holds no verification set (*.bin), but: {there}. '
                            'A list of pairs over pictures: data_prep/pairs.py.')


def facts(
    file, # `lfw.bin`
    out,  # Folder for the folders with the tables, '' if none
): # `(folder of the table, facts for the record)`
    "What table and pairs are made from: the file, by its content"
    known = {'file': file.name, 'bytes': file.stat().st_size, 'content': zlib.crc32(file.read_bytes())}
    return Path(out or file.parent)/file.stem, known


def _people(pictures, same):
    "The identity of each picture, numbered in the order they come in: pairs of one person, and copies, belong together"
    digests = np.array([hashlib.blake2b(p, digest_size=16).digest() for p in pictures], 'V16')
    _,first,copy_of = np.unique(digests, return_index=True, return_inverse=True)
    of_one = 2*same.nonzero()[0]
    a = np.concatenate([of_one, np.arange(len(pictures))])
    b = np.concatenate([of_one + 1, first[copy_of]])
    return pd.factorize(linked(a, b, len(pictures)))[0]


@a_set('verification set', made_from=facts, each=bin_files, lists=['pairs'], recipe='evaluate')
def bin_table(
    path:str,     # A .bin, or a folder of them
    folds:int=10, # The pairs are cut into so many runs of equal length, in their order
    *,
    readable,     # Finds what cannot be decoded, which is an error: no pair may be left out
):
    "Tables and pairs of verification sets"
    if folds < 1: raise ValueError(f'--folds is {folds}. Give 1 or more.')
    file = Path(path)
    pictures,same = read_bin(file)
    paths = [f'{file.name}#{n}' for n in range(len(pictures))]
    runs = np.array_split(same, min(folds, len(same)))
    fold = np.concatenate([np.full(len(part), k) for k,part in enumerate(runs)])
    pairs = pd.DataFrame({'path1': paths[::2], 'path2': paths[1::2], 'same': same.astype(int), 'fold': fold})
    who,published = _people(pictures, same), PUBLISHED.get(file.stem, len(pairs))
    contradicted = int(((who[::2] == who[1::2]) & ~same).sum())
    notes = []
    if published != len(pairs): notes.append(f'{file.stem} is published with {published:,} pairs.')
    if contradicted: notes.append(f'{contradicted} pairs of two people show copies of one picture.')
    table = new_table(file.parent, paths, [f'{file.stem}_{k:05d}' for k in who])
    record = {'pairs': len(pairs), 'folds': int(pairs['fold'].nunique()), 'pairs_that_copies_contradict': contradicted}
    table.attrs |= {'record': record, 'notes': notes}
    return all_readable(table, readable, f'Copy {file} again.'), check_pairs(pairs, table)
