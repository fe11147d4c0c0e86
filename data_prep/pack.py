"""A table of faces back into the files that other programs read: RecordIO (`train.rec`, `train.idx`, `property`) and verification sets (`lfw.bin`).

    python data_prep/pack.py faces/images.csv --out packed              # -> packed/train.rec, train.idx, property, identities.csv
    python data_prep/pack.py lfw_aligned/images.csv --out packed --bin lfw  # pairs.csv beside the table -> packed/lfw.bin

Pictures go in byte for byte. Identities are numbered from 0 in sorted order; `identities.csv` tells which number is who. `--style plain` writes
pictures only, as im2rec does, `ranges` (default) as InsightFace does. Readers of record files expect aligned pictures of one size: data_prep/align.py
makes them. Pictures are RGB in JPEG or PNG; whether a network wants BGR (AdaFace) is a matter of its reader.
"""
import json
import os
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from fastprogress import progress_bar
from PIL import Image

from qsd_fastai.data.packing import write_bin, write_records
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.sources import picture_bytes
from qsd_fastai.data.table import check_table, read_table


def _pictures(paths, root, workers):
    "Encoded pictures in order, a few hundred ahead"
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for lo in progress_bar(range(0, len(paths), 256), leave=False):
            yield from pool.map(picture_bytes, [os.path.join(root, p) for p in paths[lo:lo + 256]])


def _one_size(paths, pictures, any_size):
    "The pictures, after a look at each: it can be opened, and is of the size of the first"
    first = None
    for path,data in zip(paths, pictures):
        try: width,height = Image.open(BytesIO(data)).size
        except OSError as e: raise ValueError(f'{path} cannot be read ({e}). `python data_prep/doctor.py images.csv` finds all of them.') from e
        first = first or (height, width)
        if not any_size and (height, width) != first:
            raise ValueError(f'{path} is {height}x{width}, the first {first[0]}x{first[1]}: align them (data_prep/align.py), or pass --any-size.')
        yield data


def pack_records(
    table,          # Table of pictures, `attrs['root']` their folder
    out,            # Folder for `train.rec` and what belongs to it
    style='ranges', # header: ranges (InsightFace) or plain (im2rec)
    any_size=False, # Write pictures of different sizes?
    workers=8,      # Threads that read
):
    "Write all pictures of the table; `(pictures, identities)`. `identities.csv` beside: label, identity"
    names = sorted(table['identity'].unique())
    rows = table.assign(label=pd.Categorical(table['identity'], names).codes).sort_values(['label', 'path'], kind='stable')
    out,paths = Path(out), rows['path'].tolist()
    out.mkdir(parents=True, exist_ok=True)
    pictures = _one_size(paths, _pictures(paths, table.attrs['root'], workers), any_size)
    done = write_records(zip(rows['label'].tolist(), pictures), out/'train.rec', style=style)
    tmp = out/f'.{os.getpid()}.identities.csv'
    pd.DataFrame({'label': range(len(names)), 'identity': names}).to_csv(tmp, index=False)
    os.replace(tmp, out/'identities.csv')
    return done


def pack_pairs(
    table,     # Table of pictures, `attrs['root']` their folder
    pairs,     # Its pairs, as `read_pairs` gives them
    file,      # `lfw.bin`
    workers=8, # Threads that read
):
    "Write the pairs, fold by fold; whether readers, who cut them into runs of equal length, will find the same folds"
    pairs = pairs.sort_values('fold', kind='stable')
    paths = pairs[['path1', 'path2']].to_numpy().reshape(-1).tolist()
    Path(file).parent.mkdir(parents=True, exist_ok=True)
    write_bin(_one_size(paths, _pictures(paths, table.attrs['root'], workers), True), pairs['same'], file)
    return bool((np.bincount(pairs['fold'].to_numpy()) == len(pairs)/pairs['fold'].nunique()).all())


@call_parse
def main(
    table:str, # The table, images.csv or images.parquet
    out:str, # Folder for what is written
    bin:str='', # Name of a verification set to write from pairs.csv beside the table, such as lfw; default: a record file
    split:str='train', # Rows that go into the record file: train, query, gallery or all
    style:str='ranges', # Header of the record file: ranges (InsightFace) or plain (im2rec)
    any_size:bool=False, # Pictures of different sizes may go into a record file
    workers:int=8, # Threads that read pictures
    force:bool=False, # Write anew what is there
):
    "A table of faces as RecordIO, or its pairs as a verification set"
    try:
        source = Path(table)
        found = check_table(read_table(source, check=False))
        to,beside = Path(out)/(f'{bin.removesuffix(".bin")}.bin' if bin else 'train.rec'), source.with_name('pairs.csv')
        note = to.with_name(f'{to.name}.json')
        record = {'table': zlib.crc32(source.read_bytes()), 'pairs': zlib.crc32(beside.read_bytes()) if bin and beside.is_file() else None,
                  'options': {} if bin else {'split': split, 'style': style, 'any_size': any_size}}
        if to.is_file() and not force:
            if note.is_file() and json.loads(note.read_text(encoding='utf-8')) == record:
                return print(f'{to} is there already, made from the same table in the same way: nothing to do.')
            raise FileExistsError(f'{to} is there already and was made in another way: --force makes it anew.')
        if bin:
            pairs = read_pairs(beside, found)
            if not pack_pairs(found, pairs, to, workers): print('Note: folds differ in length; readers cut the pairs into ten equal runs.')
            print(f'{len(pairs):,} pairs')
        else:
            if split not in ('train', 'query', 'gallery', 'all'): raise ValueError(f'--split is {split!r}: train, query, gallery or all.')
            rows = found if split == 'all' else found[found['split'] == split]
            if not len(rows): raise ValueError(f"{source} has no picture in {split}, only in {', '.join(sorted(found['split'].unique()))}.")
            n,n_ids = pack_records(rows, out, style, any_size, workers)
            print(f'{n:,} pictures of {n_ids:,} identities; {to.with_name("identities.csv")} tells their numbers')
        note.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')
        print(f'Written: {to}')
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
