"Which pictures there are, which of them can be read, and which are copies"
import hashlib
import os
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from fastprogress import progress_bar

from qsd_fastai.data.folders import SUFFIXES, pictures_below, said_of
from qsd_fastai.data.pictures import decoded, picture_bytes


def some(
    folder, # Any
    n=6,    # Names at most
)->str:
    "The first names in a folder, for a message"
    names = sorted(p.name + '/'*p.is_dir() for p in Path(folder).iterdir())
    more = f' and {len(names) - n} more' if len(names) > n else ''
    return ', '.join(names[:n]) + more if names else 'nothing'


def pictures_in(
    folder, # Folder to look through; links to folders are followed, hidden files are not looked at
)->list: # Of paths with forward slashes, sorted
    "The pictures below `folder`, relative to it; FileNotFoundError saying what was found instead where there are none"
    folder = Path(folder)
    if not folder.is_dir():
        near = some(folder.parent) if folder.parent.is_dir() else 'nor is there a ' + str(folder.parent)
        raise FileNotFoundError(f'{folder} is not a folder. Beside it: {near}.')
    out,passed_over = pictures_below(folder)
    if out: return out
    kinds = ', '.join(s[1:] for s in SUFFIXES)
    said = f' {said_of(passed_over)}' if passed_over else ''
    raise FileNotFoundError(f'No picture ({kinds}) below {folder}. It holds: {some(folder)}.{said}')


def listing(
    folder,      # Folder of the pictures
    among=('',), # Folders below it that hold those which the table is made from
)->dict:
    "What a table is made from, for its record: the pictures by number and by a digest of their names"
    found = [f'{a}/{p}' if a else p for a in among for p in pictures_in(Path(folder)/a)]
    return {'folder': Path(folder), 'pictures': len(found), 'listing': zlib.crc32('\n'.join(found).encode())}


def not_in_table(
    folder, # That a table was made from
    table,  # The table, `attrs['root']` its folder
)->list: # Of sentences
    "What lies in a folder of pictures and is not in the table made from it, by folder; and what nothing here reads"
    copied,passed = 'original' in table, pictures_below(folder)
    used = [*table['original' if copied else 'path'], *(o.split('\t')[0] for o in table.attrs.get('unreadable', []))]
    def at(root, p): return os.path.normpath(os.path.join(root, p))
    there = {at(folder if copied else table.attrs['root'], p) for p in used}
    lacking = [p for p in passed[0] if at(folder, p) not in there]
    by = Counter(p.rpartition('/')[0] or '.' for p in lacking).most_common()
    more = f' and {len(by) - 4} more folders' if len(by) > 4 else ''
    listed = ', '.join(f'{n} in {o}' for o,n in by[:4])
    said = [f'{len(lacking)} pictures in {folder} are not in the table: {listed}{more}.'] if lacking else []
    return [*said, *filter(None, [said_of(passed[1])])]


def why_unreadable(
    e, # What `open_picture` or `picture_bytes` raised
)->str:
    "The reason in one line, without the path"
    if isinstance(e, FileNotFoundError): return 'FileNotFoundError: it does not exist'
    return " ".join((getattr(e, 'why', '') or f'{type(e).__name__}: {e}').split())


def _look(file):
    "`(what is wrong with a picture, None if nothing; a digest of its bytes)`"
    try:
        data = picture_bytes(file)
        # as the loader does; decoding at an eighth of the size finds a cut-off JPEG, which `verify` does not
        with decoded(data, 1): pass
    except (OSError, ValueError) as e: return why_unreadable(e), None
    return None, hashlib.blake2b(data, digest_size=16).digest()


def readable(
    table,        # Table of pictures, `attrs['root']` their folder
    strict=False, # Raise ValueError on the first unreadable one, do not leave it out?
    workers=8,    # Threads that read and decode
):
    """`table` without the pictures that cannot be decoded; those are in `attrs['unreadable']`, each with its reason.

    `attrs['copies']` holds `(path, path)` for each picture whose bytes are those of an earlier row; both stay in."""
    files = [os.path.join(table.attrs['root'], p) for p in table['path']]
    with ThreadPoolExecutor(max(1, workers)) as pool:
        wrong,digests = zip(*progress_bar(pool.map(_look, files), total=len(files), leave=False))
    bad = np.array([w is not None for w in wrong], bool)
    listed = [f'{p}\t{w}' for p,w in zip(table['path'], wrong) if w]
    n = len(listed)
    if strict and n: raise ValueError(f'{n} of {len(table)} pictures cannot be read, first {listed[0]!r}.')
    if bad.all(): raise ValueError(f'None of the {n} pictures can be read, first {listed[0]!r}.')
    first,copies = {}, []
    for p,d in zip(table['path'], digests):
        if d is not None and first.setdefault(d, p) != p: copies.append((first[d], p))
    out = table[~bad].reset_index(drop=True)
    out.attrs = {**table.attrs, 'unreadable': listed, 'copies': copies}
    return out


def all_readable(
    table,      # Table of pictures
    readable,   # The function of that name, with its options
    remedy,     # What to do about one that is not
    among=None, # Paths of those that may not be lost; all when not given
):
    "`table` with what `readable` found out; ValueError where one cannot be read that may not be lost"
    looked = readable(table)
    among = set(table['path'] if among is None else among)
    if bad := [o for o in looked.attrs.get('unreadable', []) if o.split('\t')[0] in among]:
        raise ValueError(f'{len(bad)} of {len(among)} pictures cannot be read, first {bad[0]!r}. {remedy}')
    return looked
