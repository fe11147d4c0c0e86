"""Tables and pairs of verification sets in `.bin` files, as InsightFace gives them: LFW, CFP-FP, CFP-FF, AgeDB-30, CALFW, CPLFW, VGG2-FP.

    python data_prep/bins.py lfw.bin     # -> lfw/images.csv and lfw/pairs.csv
    python data_prep/bins.py FOLDER      # every .bin in it, a folder each

A `.bin` is a Python pickle, which may run anything where it is opened with `pickle`; here nothing is run, and what is no picture or flag is refused.
The pictures stay in it: a path is `../lfw.bin#12`, the number of the picture. Pairs are cut into ten folds in their order, as everybody does.

A `.bin` does not tell who is in it. Pictures of a pair of one person, and pictures that are byte for byte the same, get one identity; the same person
may have several. So these tables are for judging pairs, and not to be trained on.
"""
import hashlib
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, readable
from fastcore.script import call_parse
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qsd_fastai.data.bins import read_bin
from qsd_fastai.data.pairs import check_pairs, read_pairs, write_pairs
from qsd_fastai.data.table import check_table, read_table

PUBLISHED = {'lfw': 6000, 'cfp_fp': 7000, 'cfp_ff': 7000, 'agedb_30': 6000, 'calfw': 6000, 'cplfw': 6000, 'vgg2_fp': 5000}  # pairs


def bin_files(
    path, # A .bin, or a folder of them
):
    "The `.bin` files, sorted; FileNotFoundError saying what is there instead"
    path = Path(path)
    if path.is_file() and path.suffix != '.bin': raise ValueError(f'{path}: a verification set ends in .bin; rename it.')
    if path.is_file(): return [path]
    found = sorted(path.glob('*.bin')) if path.is_dir() else []
    if found: return found
    there = ', '.join(sorted(p.name for p in path.iterdir())[:8]) or 'nothing' if path.is_dir() else 'no such file or folder'
    raise FileNotFoundError(f'{path} holds no verification set (*.bin), but: {there}. A list of pairs over pictures: data_prep/pairs.py.')


def bin_table(
    file,        # `lfw.bin`
    folds=10,    # The pairs are cut into so many runs of equal length, in their order
    verify=True, # Decode every picture? One that cannot be read is an error: no pair may be left out
    workers=8,   # Threads that decode
):
    "`(table, pairs)`, paths relative to the folder of the file. Nothing is written or unpacked"
    if folds < 1: raise ValueError(f'--folds {folds}: give 1 or more.')
    file = Path(file)
    pictures,same = read_bin(file)
    paths = [f'{file.name}#{n}' for n in range(len(pictures))]
    pairs = pd.DataFrame({'path1': paths[::2], 'path2': paths[1::2], 'same': same.astype(int),
                          'fold': np.concatenate([np.full(len(part), k) for k,part in enumerate(np.array_split(same, min(folds, len(same))))])})
    digests = [hashlib.blake2b(p, digest_size=16).digest() for p in pictures]
    copy_of = np.unique(np.array(digests, 'V16'), return_index=True, return_inverse=True)
    first = copy_of[1][copy_of[2]]
    a,b = np.concatenate([2*same.nonzero()[0], np.arange(len(paths))]), np.concatenate([2*same.nonzero()[0] + 1, first])
    who = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(paths), len(paths))), directed=False)[1]
    who = pd.factorize(who)[0]                                                     # numbered in the order they come in
    table = pd.DataFrame({'path': paths, 'identity': [f'{file.stem}_{k:05d}' for k in who], 'camera': '', 'split': 'train', 'quality': np.nan})
    contradicted = int(((who[::2] == who[1::2]) & ~same).sum())
    table.attrs = {'root': str(file.parent), 'record': {'source': 'verification set', 'pairs': len(pairs), 'folds': int(pairs['fold'].nunique()),
                                                        'pairs_that_copies_contradict': contradicted}}
    if verify:
        looked = readable(table, False, workers)
        if bad := looked.attrs['unreadable']:
            raise ValueError(f'{len(bad)} of {len(table)} pictures cannot be read, first {bad[0]!r}. Copy {file} again.')
        table.attrs['copies'] = looked.attrs['copies']
    return table, check_pairs(pairs, table)


@call_parse
def main(
    path:str, # A .bin, or a folder of them
    out:str='', # Folder for the folders with the tables; default: where the .bin is
    folds:int=10, # The pairs are cut into so many
    no_verify:bool=False, # Do not decode every picture
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the tables anew where they are
):
    "Tables and pairs of verification sets"
    try:
        for file in bin_files(path):
            to = Path(out or file.parent)/file.stem/'images.csv'
            record = {'file': file.name, 'bytes': file.stat().st_size, 'content': zlib.crc32(file.read_bytes()),
                      'options': {'folds': folds, 'verify': not no_verify}}
            if is_made(to, record, force) and to.with_name('pairs.csv').is_file():
                read_pairs(to.with_name('pairs.csv'), check_table(read_table(to, check=False)))
                print(f'{to} and pairs.csv are there already, made from the same file in the same way: nothing to do.')
                continue
            table,pairs = bin_table(file, folds, not no_verify, workers)
            to.parent.mkdir(parents=True, exist_ok=True)
            to.with_name('pairs.csv').unlink(missing_ok=True)  # stopped before there are new ones, old ones are not believed
            finish(table, to, {**table.attrs['record'], **record}, 'evaluate')  # a set to judge on, whatever its split says
            written = read_table(to, check=False)
            moved = dict(zip(table['path'], written['path']))
            write_pairs(pairs.assign(path1=pairs['path1'].map(moved), path2=pairs['path2'].map(moved)), to.with_name('pairs.csv'), written)
            print(f"{len(pairs):,} pairs, {int(pairs['same'].sum()):,} of one person, in {pairs['fold'].nunique()} folds")
            if (n := PUBLISHED.get(file.stem)) and n != len(pairs): print(f'Note: {file.stem} is published with {n:,} pairs.')
            if odd := table.attrs['record']['pairs_that_copies_contradict']: print(f'Note: {odd} pairs of two people show copies of one picture.')
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
