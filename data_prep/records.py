"""A table of faces in a RecordIO file (`train.rec`, `train.idx`), as InsightFace and im2rec write them: MS1M, Glint360K, WebFace and their kin.

    python data_prep/records.py FOLDER              # FOLDER/train.rec -> FOLDER/images.csv
    python data_prep/records.py FOLDER --test .1    # a tenth of the identities held out for judging

The pictures stay where they are: a path is `train.rec#1234`, the byte where the record begins. Without `train.idx` the file is read from end to end.
`property` (identities, height, width) is compared with what is found. MXNet is not needed.
"""
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, readable
from fastcore.script import call_parse

from qsd_fastai.data.sources import RecordError, list_records
from qsd_fastai.data.table import check_table, read_table, split_identities


def record_file(
    path, # A record file, or the folder that holds one
):
    "The one record file; FileNotFoundError or ValueError saying what is there instead"
    path = Path(path)
    if path.is_file() and path.suffix != '.rec': raise ValueError(f'{path}: a record file ends in .rec; rename it.')
    if path.is_file(): return path
    found = sorted(path.glob('*.rec'))
    if len(found) == 1: return found[0]
    if found: raise ValueError(f"{path} holds {', '.join(p.name for p in found)}: name one of them.")
    there = ', '.join(sorted(p.name for p in path.iterdir())[:8]) or 'nothing' if path.is_dir() else 'no such folder'
    raise FileNotFoundError(f'{path} holds no record file (*.rec), but: {there}. A folder of pictures: data_prep/folder.py.')


def records_table(
    path,         # A record file, or the folder that holds one
    test=0,       # Held-out identities: a fraction up to 1 or a number above; 0: a table to train on only
    seed=0,       # Seed of the split
    verify=True,  # Decode every picture and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "Table of the pictures in a record file with how it was made in `attrs['record']`; nothing is written or unpacked"
    file = record_file(path)
    listed = list_records(file)
    odd = listed['label'] != np.floor(listed['label'])
    if odd.any():
        row = listed[odd].iloc[0]
        raise RecordError(f"{file}, record at byte {int(row['offset'])}: label {row['label']:g} is not the number of an identity.")
    table = pd.DataFrame({'path': f'{file.name}#' + listed['offset'].astype(str), 'identity': listed['label'].astype(int).astype(str),
                          'camera': '', 'split': 'train', 'quality': np.nan})
    record = {'source': 'RecordIO', 'header': listed.attrs['header'], 'index': file.with_suffix('.idx').is_file()}
    note = file.with_name('property')
    if note.is_file():
        try: n_ids,height,width = (int(v) for v in note.read_text(encoding='utf-8').splitlines()[0].split(','))
        except (ValueError, IndexError): raise RecordError(f'{note} does not begin with `identities,height,width`: mend or remove it.') from None
        record |= {'size': [height, width], 'published': {'train': (len(table), n_ids)}}
    table.attrs = {'root': str(file.parent), 'record': record}
    if verify: table = readable(table, strict, workers)
    if not test: return table
    record.pop('published', None)  # of all identities, before some were held out
    return split_identities(table, test if test <= 1 else int(test), seed=seed)


@call_parse
def main(
    path:str, # A record file, or the folder that holds one
    out:str='', # Folder for the table; default: that of the record file
    test:float=0., # Held-out identities: a fraction up to 1, or how many; 0: a table to train on
    seed:int=0, # Seed of the split
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of faces in a RecordIO file"
    try:
        file = record_file(path)
        to = Path(out or file.parent)/'images.csv'
        record = {'file': os.path.relpath(file, to.parent).replace(os.sep, '/'), 'bytes': file.stat().st_size,
                  'options': {'test': test, 'seed': seed, 'verify': not no_verify}}
        if is_made(to, record, force):
            check_table(read_table(to, check=False))
            return print(f'{to} is there already, made from the same file in the same way: nothing to do.')
        table = records_table(file, test, seed, not no_verify, strict, workers)
        finish(table, to, {**table.attrs['record'], **record}, 'face')
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
