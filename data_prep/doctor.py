"""The doctor: what is in a table of images and what will cause trouble. Every script of this folder ends with it; here it looks at any table.

    python data_prep/doctor.py images.csv             # counts, notes, every picture decoded, copies found
    python data_prep/doctor.py images.csv --no-verify # the table only

It changes nothing. Pictures of the table that cannot be read are listed in `doctor.txt` beside it; the exit status is 1 where there are any.
"""
import hashlib
import io
import os
import posixpath
import sys
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.script import call_parse
from fastprogress import progress_bar
from PIL import Image

from qsd_fastai.data.sources import picture_bytes, split_address
from qsd_fastai.data.table import check_table, describe_table, read_table, write_table


def _look(file):
    "`(what is wrong with a picture, None if nothing; a digest of its bytes)`"
    try:
        data = picture_bytes(file)
        # decoding at an eighth of the size finds a cut-off JPEG, which `verify` does not
        with Image.open(io.BytesIO(data)) as im: im.draft('RGB', (1, 1)); im.load()
    except Exception as e: return f'{type(e).__name__}: {e}', None  # a decoder may raise anything on broken bytes, and each means the same here
    return None, hashlib.blake2b(data, digest_size=16).digest()


def readable(
    table,        # Table of pictures, `attrs['root']` their folder
    strict=False, # Raise ValueError on the first unreadable one, do not leave it out?
    workers=8,    # Threads that read and decode
):
    """`table` without the pictures that cannot be decoded; those are in `attrs['unreadable']`, each with its reason.

    `attrs['copies']` holds `(path, path)` for each picture whose bytes are those of an earlier row; both stay in the table."""
    files = [os.path.join(table.attrs['root'], p) for p in table['path']]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        wrong,digests = zip(*progress_bar(pool.map(_look, files), total=len(files), leave=False))
    bad = np.array([w is not None for w in wrong], bool)
    # one line a picture: the message of a decoder may have several, or name the whole path
    listed = [f'{p}\t{" ".join(w.split())}' for p,w in zip(table['path'], wrong) if w]
    if strict and listed: raise ValueError(f"{len(listed)} of {len(table)} pictures cannot be read, first {listed[0]!r}.")
    if bad.all(): raise ValueError(f"None of the {len(table)} pictures can be read, first {listed[0]!r}.")
    first,copies = {}, []
    for p,d in zip(table['path'], digests):
        if d is not None and first.setdefault(d, p) != p: copies.append((first[d], p))
    out = table[~bad].reset_index(drop=True)
    out.attrs = {**table.attrs, 'unreadable': listed, 'copies': copies}
    return out


def odd(
    table, # Table of pictures; `attrs['copies']` of `readable` where they were decoded
):
    "What `describe_table` does not tell: cameras that are missing, and copies of one picture, the worse ones first. A list of lines"
    out,copies = [], table.attrs.get('copies', [])
    unknown = int((table['camera'] == '').sum()) if 'camera' in table else 0
    if 0 < unknown < len(table): out.append(f'{unknown} of {len(table)} pictures have no camera: nothing is excluded for them.')
    if not copies: return out
    who,half = table.set_index('path')['identity'], table.set_index('path')['split'] == 'train'
    def note(pairs, what):
        if pairs: out.append(f'{len(pairs)} pictures are byte for byte {what}, first {pairs[0][1]!r} = {pairs[0][0]!r}.')
    note([c for c in copies if who[c[0]] != who[c[1]]], 'those of another identity: one of the two names is wrong')
    note([c for c in copies if half[c[0]] != half[c[1]]], 'both trained on and judged on')
    note([c for c in copies if who[c[0]] == who[c[1]] and half[c[0]] == half[c[1]]], 'copies within one identity: they weigh double')
    return out


def _list_unreadable(listed, file):
    "Write or remove the list; the beginning of a sentence about it, '' where there is nothing to tell"
    if not listed: return file.unlink(missing_ok=True) or ''
    tmp = file.with_name(f'.{os.getpid()}.{file.name}')
    tmp.write_text('\n'.join(listed) + '\n', encoding='utf-8')
    os.replace(tmp, file)
    return f'{len(listed)} pictures could not be read, see {file}'


def new_names(
    paths,  # Of the pictures, addresses inside record files among them
    suffix, # .jpg or .png
):
    "Where a copy of each picture goes, as a list: the path it has, below `images`, never outside it, with another ending"
    out,stems = [], []
    outside = [p for p in paths if p.startswith(('..', '/')) or ':' in p[:3]]
    base = posixpath.commonpath([posixpath.dirname(split_address(p)[0]) or '.' for p in paths]) if outside and len(paths) > 1 else ''
    for p in paths:
        file,at = split_address(p)
        file = posixpath.relpath(file, base) if base else file if not outside else posixpath.basename(file)
        stems.append(f'{file}/{at}' if at is not None else posixpath.splitext(file)[0])
    twice = pd.Series(stems).duplicated(keep=False)                                # a.jpg beside a.png
    for p,s,clash in zip(paths, stems, twice): out.append(f'images/{s}{"_" + posixpath.splitext(p)[1][1:] if clash else ""}{suffix}')
    again = pd.Series(out).duplicated()
    if again.any(): raise ValueError(f'{out[again.argmax()]!r} would be written twice: rename a picture.')
    return out


def is_made(
    path,   # Where the table goes
    record, # The record it would get
    force,  # Make it anew whatever is there?
):
    "Is the table at `path` the one that `record` asks for? FileExistsError where it is another one, OSError where nothing can be written"
    if Path(path).is_file() and not force:
        had = read_table(path, check=False).attrs.get('record') or {}
        if {k: had.get(k) for k in record} == record: return True
        raise FileExistsError(f"{path} is there already and was made in another way or from other pictures: --force makes it anew.")
    at = next(p for p in Path(path).absolute().parents if p.exists())
    # root may write anywhere: a folder that nobody is meant to write in is left alone all the same
    if not (at.is_dir() and os.access(at, os.W_OK) and at.stat().st_mode & 0o222):
        raise PermissionError(f"Nothing can be written in {at}: pass --out DIR.")
    return False


def finish(
    table,  # The table to write
    path,   # Where to
    record, # How it was made
    recipe='reid', # What to do next: reid or face
):
    "Write the table, its record and the list of unreadable pictures, then say what is in it, what is odd, and what to do next"
    listed,said = table.attrs.get('unreadable', []), odd(table)
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    note = _list_unreadable(listed, Path(path).with_name('unreadable.txt'))  # before the table: a second run would not write it
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the report below says the same in a better place
        table = write_table(table, path, {**record, 'unreadable': len(listed)})
    if note: print(f'{note}; they were left out')
    print(describe_table(table))
    for text in said: print(f'Note: {text}')
    if not (table['split'] == 'train').any(): recipe = 'evaluate'  # nobody to train on
    print(f'Written: {path}\nNext: python recipes/{recipe}.py --data {path}')


def _decoded(table, workers):
    "The table as it is, with what `readable` found out in its attrs"
    out = table.copy()
    try: out.attrs = readable(table, False, workers).attrs
    except ValueError as e: raise ValueError(f'{e} Are they in {table.attrs["root"]}?') from e
    return out


@call_parse
def main(
    table:str, # The table, images.csv or images.parquet
    no_verify:bool=False, # Do not decode every picture
    workers:int=8, # Threads that decode pictures
):
    "What is in a table of images and what will cause trouble"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # the report says the same
            # a picture that is missing is listed with those that cannot be read, where they are looked at
            found = check_table(read_table(table, check=False), files=no_verify)
        seen = found if no_verify else _decoded(found, workers)
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
    for k,v in (found.attrs.get('record') or {}).items(): print(f'{k}: {v}')
    print(describe_table(found))
    for text in odd(seen): print(f'Note: {text}')
    if no_verify: return
    # not unreadable.txt: that one tells what a script has left out of the table
    if note := _list_unreadable(seen.attrs['unreadable'], Path(table).with_name('doctor.txt')):
        sys.exit(f'{note}: remove their rows or replace them.')
