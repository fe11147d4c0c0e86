"""A table of faces in a RecordIO file (`train.rec`, `train.idx`), as InsightFace and im2rec write them.

    python data_prep/records.py FOLDER              # FOLDER/train.rec -> FOLDER/images.csv
    python data_prep/records.py FOLDER --test .1    # a tenth of the identities held out for judging

MS1M, Glint360K, WebFace and their kin come in this form. The pictures stay where they are: a path is `train.rec#1234`,
the byte where the record begins. Without `train.idx` the file is read from end to end. `property` (identities, height,
width) is compared with what is found. MXNet is not needed.
"""
from pathlib import Path

import numpy as np
from common.layout import hold_out, new_table
from common.pictures import some
from common.sets import a_set

from qsd_fastai.data.sources import RecordError, list_records


def record_file(
    path, # A record file, or the folder that holds one
)->Path:
    "The one record file; FileNotFoundError or ValueError saying what is there instead"
    path = Path(path)
    if path.is_file() and path.suffix != '.rec':
        raise ValueError(f'{path} is no record file by its name. Rename it, to end in .rec.')
    if path.is_file(): return path
    found = sorted(path.glob('*.rec'))
    if len(found) == 1: return found[0]
    if found: raise ValueError(f"{path} holds {', '.join(p.name for p in found)}. Name one of them.")
    there = some(path, 8) if path.is_dir() else 'no such folder'
    raise FileNotFoundError(f'{path} holds no record file (*.rec), but: {there}. '
                            'A folder of pictures: data_prep/folder.py.')


def facts(
    path, # A record file, or the folder that holds one
    out,  # Folder for the table, '' if none
): # `(folder of the table, facts for the record)`
    "What a table is made from: the file, by its size"
    file = record_file(path)
    return Path(out or file.parent), {'file': file, 'bytes': file.stat().st_size}


def _property(file):
    "`(identities, height, width)` as the file `property` beside a record file tells them, None where it is missing"
    note = file.with_name('property')
    if not note.is_file(): return None
    try:
        n_ids,height,width = (int(v) for v in note.read_text(encoding='utf-8').splitlines()[0].split(','))
        return n_ids, height, width
    except (ValueError, IndexError):
        raise RecordError(f'{note} does not begin with `identities,height,width`. Mend or remove it.') from None


@a_set('RecordIO', made_from=facts, recipe='face')
def records_table(
    path:str,      # A record file, or the folder that holds one
    test:float=0., # Held-out identities: a fraction up to 1, or how many; 0: a table to train on
    seed:int=0,    # Seed of the split
    *,
    readable,      # Leaves out what cannot be decoded, before identities are held out
):
    "Table of faces in a RecordIO file"
    file = record_file(path)
    listed = list_records(file)
    odd = listed['label'] != np.floor(listed['label'])
    if odd.any():
        row = listed[odd].iloc[0]
        raise RecordError(f"{file}, record at byte {int(row['offset'])}: label {row['label']:g} is not the number of "
                          'an identity. Copy the file again.')
    where,who = listed['offset'].astype(str), listed['label'].astype(int).astype(str)
    table = new_table(file.parent, f'{file.name}#' + where, who)
    record = {'header': listed.attrs['header'], 'index': file.with_suffix('.idx').is_file()}
    if told := _property(file):
        n_ids,*size = told
        record['size'] = size
        if not test: record['published'] = {'train': (len(table), n_ids)}  # of all identities: none were held out
    table.attrs['record'] = record
    return hold_out(readable(table), test, seed)
