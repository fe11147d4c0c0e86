"""A table of faces back into the files that other programs read: RecordIO (`train.rec`) and verification sets (`.bin`).

    python data_prep/pack.py faces/images.csv --out packed           # -> packed/train.rec and what belongs to it
    python data_prep/pack.py lfw/images.csv --out packed --bin lfw   # pairs.csv beside the table -> packed/lfw.bin

Pictures go in byte for byte. Identities are numbered from 0 in sorted order; `identities.csv` tells which number is
who. `--style plain` writes pictures only, as im2rec does, `ranges` (default) as InsightFace does. Readers of record
files expect aligned pictures of one size: data_prep/align.py makes them. Pictures are RGB in JPEG or PNG; whether a
network wants BGR (AdaFace) is a matter of its reader.
"""
import json
import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from common.command import chosen, in_a_line
from fastcore.script import call_parse
from fastprogress import progress_bar

from qsd_fastai.choices import one_of
from qsd_fastai.data.packing import write_bin, write_records
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.pictures import decoded, picture_bytes
from qsd_fastai.data.table import SPLITS, check_table, read_table
from qsd_fastai.files import in_one_move


def _picture(file):
    "The encoded picture, its height and its width; decoded first, as whoever reads the packed file will"
    data = picture_bytes(file)
    with decoded(data, name=file) as img: return data, img.height, img.width


def _pictures(paths, root, workers):
    "Encoded pictures in order with their sizes, a few hundred ahead"
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for lo in progress_bar(range(0, len(paths), 256), leave=False):
            yield from pool.map(_picture, [os.path.join(root, p) for p in paths[lo:lo + 256]])


def _one_size(paths, pictures, any_size):
    "The pictures, after a look at each: it is of the size of the first"
    first = None
    for path,(data, height, width) in zip(paths, pictures):
        first = first or (height, width)
        if not any_size and (height, width) != first:
            raise ValueError(f'{path} is {height}x{width}, the first {first[0]}x{first[1]}. '
                             'Align them (data_prep/align.py), or pass --any-size.')
        yield data


def pack_records(
    table,          # Table of pictures, `attrs['root']` their folder
    out,            # Folder for `train.rec` and what belongs to it
    style='ranges', # Header: ranges (InsightFace) or plain (im2rec)
    any_size=False, # Write pictures of different sizes?
    workers=8,      # Threads that read
): # `(pictures, identities)`
    "Write all pictures of the table; `identities.csv` beside: label, identity"
    names = sorted(table['identity'].unique())
    rows = table.assign(label=pd.Categorical(table['identity'], names).codes)
    rows = rows.sort_values(['label', 'path'], kind='stable')
    out,paths = Path(out), rows['path'].tolist()
    out.mkdir(parents=True, exist_ok=True)
    pictures = _one_size(paths, _pictures(paths, table.attrs['root'], workers), any_size)
    done = write_records(zip(rows['label'].tolist(), pictures), out/'train.rec', style=style)
    with in_one_move(out/'identities.csv') as part:
        pd.DataFrame({'label': range(len(names)), 'identity': names}).to_csv(part, index=False)
    return done


def pack_pairs(
    table,     # Table of pictures, `attrs['root']` their folder
    pairs,     # Its pairs, as `read_pairs` gives them
    file,      # `lfw.bin`
    workers=8, # Threads that read
)->bool: # Are the folds of equal length, as readers who cut the pairs into runs take them to be?
    "Write the pairs, fold by fold"
    pairs = pairs.sort_values('fold', kind='stable')
    paths = pairs[['path1', 'path2']].to_numpy().reshape(-1).tolist()
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_bin(_one_size(paths, _pictures(paths, table.attrs['root'], workers), True), pairs['same'], file)
    return bool((np.bincount(pairs['fold'].to_numpy()) == len(pairs)/pairs['fold'].nunique()).all())


def _is_packed(to, record):
    "Is the file there, and as `record` asks? FileExistsError where it was packed in another way"
    note = to.with_name(f'{to.name}.json')
    if not to.is_file(): return False
    if note.is_file() and json.loads(note.read_text(encoding='utf-8')) == record: return True
    raise FileExistsError(f'{to} is there already and was made in another way. --force makes it anew.')


@call_parse
@in_a_line
def main(
    table:str,            # The table, images.csv or images.parquet
    out:str='',           # Folder for what is written; it must be given
    bin:str='',           # Verification set to write of pairs.csv beside the table, such as lfw; default: a record file
    split:str='train',    # Rows that go into the record file: train, query, gallery or all
    style:str='ranges',   # Header of the record file: ranges (InsightFace) or plain (im2rec)
    any_size:bool=False,  # Pictures of different sizes may go into a record file
    workers:int=8,        # Threads that read pictures
    force:bool=False,     # Write anew what is there
):
    "A table of faces as RecordIO, or its pairs as a verification set"
    options = {} if bin else chosen(locals(), but=['table', 'bin'])
    if not out: raise ValueError('Nothing is said of where the files go. Pass --out DIR.')
    source,to = Path(table), Path(out)/(f'{bin.removesuffix(".bin")}.bin' if bin else 'train.rec')
    found,beside = check_table(read_table(source, check=False)), source.with_name('pairs.csv')
    crc = zlib.crc32(beside.read_bytes()) if bin and beside.is_file() else None
    record = {'table': zlib.crc32(source.read_bytes()), 'pairs': crc, 'options': options}
    if not force and _is_packed(to, record):
        return print(f'{to} is there already, made from the same table in the same way: nothing to do.')
    if bin:
        pairs = read_pairs(beside, found)
        equal = pack_pairs(found, pairs, to, workers)
        if not equal: print('Note: folds differ in length; readers cut the pairs into ten equal runs.')
        print(f'{len(pairs):,} pairs')
    else:
        one_of('--split', split, *SPLITS, 'all')
        rows = found if split == 'all' else found[found['split'] == split]
        if not len(rows):
            there = ', '.join(sorted(found['split'].unique()))
            raise ValueError(f'{source} has no picture in {split}, only in {there}. Pass --split.')
        n,n_ids = pack_records(rows, out, style, any_size, workers)
        print(f'{n:,} pictures of {n_ids:,} identities; {to.with_name("identities.csv")} tells their numbers')
    with in_one_move(to.with_name(f'{to.name}.json')) as part:
        part.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
    print(f'Written: {to}')
