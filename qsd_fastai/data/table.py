"The one table of images: who is in each picture, where it was taken, which split it belongs to and how good it is"
import json
import os
import posixpath
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import in_one_move
from ..unknown import EMPTY
from .labels import join_quality
from .rows import refuse_rows
from .sources import address_end, split_address

__all__ = ['TableReport', 'check_table', 'describe_table', 'join_quality', 'read_table', 'split_identities', 'unanswerable', 'write_table']

TEXT,SPLITS = ('path', 'identity', 'camera', 'split'), ('train', 'query', 'gallery')


def read_table(
    path,       # `images.csv` or `images.parquet`; its folder is the root that the paths of the pictures are relative to
    check=True, # Run `check_table`, the existence of every picture included?
):
    """The table at `path`: text columns as text ('001' stays '001'), an empty camera as '', an unknown quality as NaN.

    Its folder is in `attrs['root']`, the record beside it (`images.json`) in `attrs['record']`. Raises as `check_table` does."""
    path = Path(path)
    if not path.is_file():
        hint = f"Did you mean {path/'images.csv'}?" if (path/'images.csv').is_file() else ''
        raise FileNotFoundError(f"No table at {path}. {hint or '`python data_prep/folder.py FOLDER` makes one.'}")
    try:
        if path.suffix == '.parquet': table = pd.read_parquet(path)
        elif path.suffix == '.csv':
            cols = pd.read_csv(path, nrows=0).columns
            # an identity called 'NA' is a name, a quality 'NA' is unknown: what is missing depends on the column
            unknown = {c: EMPTY for c in cols if c not in TEXT}
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=unknown, low_memory=False)
        else: raise ValueError(f"the name ends in {path.suffix!r}, a table ends in .csv or .parquet")
    except ImportError as e: raise ImportError(f"Reading {path} needs pyarrow: pip install pyarrow") from e
    except (ValueError, OSError) as e: raise ValueError(f"{path} is not a table that can be read: {e}") from e
    for c in TEXT:
        if c in table: table[c] = table[c].astype(object).where(table[c].notna(), '').astype(str)
    if 'camera' not in table: table['camera'] = ''
    table['quality'] = _quality(table) if 'quality' in table else np.nan
    table.attrs = {'root': str(path.parent)}
    record = path.with_suffix('.json')
    if record.is_file():
        try: table.attrs['record'] = json.loads(record.read_text(encoding='utf-8'))
        except ValueError as e: raise ValueError(f"{record}, the record of {path.name}, is not JSON ({e}): make the table again.") from e
    return check_table(table) if check else table


def write_table(
    table,       # The table; where `attrs['root']` is another folder than that of `path`, the paths of the pictures are rewritten
    path,        # Where to write, `.csv` or `.parquet`
    record=None, # Dict saying how the table was made, written as JSON beside it; None: `table.attrs['record']` where there is one
    files=True,  # Check that every picture exists?
):
    "Check `table`, then write it in one move (a stopped run never leaves half of one); returns it as `read_table` would give it"
    path = Path(path)
    if path.suffix not in ('.csv', '.parquet'): raise ValueError(f"A table ends in .csv or .parquet, not {path.suffix!r}: {path}")
    record = table.attrs.get('record') if record is None else record
    path.parent.mkdir(parents=True, exist_ok=True)
    out = table.copy()
    if 'path' in out: out['path'] = _rebase(out['path'].tolist(), out.attrs.get('root', path.parent), path.parent)
    if 'camera' not in out: out['camera'] = ''
    out['quality'] = _quality(out) if 'quality' in out else np.nan
    check_table(out, path.parent, files=files)
    out.attrs = {}                                            # pandas would write them into Parquet, and with them this machine's folders
    note = path.with_suffix('.json')
    with ExitStack() as moves:  # the table moves first, its record after it
        if record is not None:
            text = json.dumps(record, indent=1, ensure_ascii=False) + '\n'
            moves.enter_context(in_one_move(note)).write_text(text, encoding='utf-8')
        part = moves.enter_context(in_one_move(path))
        if path.suffix == '.parquet': out.to_parquet(part, index=False)
        else: out.to_csv(part, index=False)
        note.unlink(missing_ok=True)  # stopped from here on, a table has no record rather than that of another one
    out.attrs = {**table.attrs, 'root': str(path.parent), **({} if record is None else {'record': record})}
    return out


def check_table(
    table,      # The table to check
    root=None,  # Folder that the paths are relative to; None: `table.attrs['root']`
    files=True, # Check that every picture exists? One directory listing a folder, so a million rows take seconds
):
    """`table` itself, or a ValueError (FileNotFoundError for missing pictures) naming the column, the first bad row and the remedy.
    What is odd but usable (`TableReport.warnings`) is warned of."""
    for c in ('path', 'identity', 'split'):
        if c not in table:
            remedy = '`split_identities(table)` makes it.' if c == 'split' else 'Rename the column that holds it.'
            raise ValueError(f"The table has no column {c!r}, only {', '.join(map(str, table.columns))}. {remedy}")
    if len(table) == 0: raise ValueError("The table has no rows: there is nothing to train on or to judge.")
    for c in ('path', 'identity'):
        refuse_rows(table, c, table[c].isna() | (table[c] == ''), 'is empty', f'Fill in the {c} or remove the row.')
    refuse_rows(table, 'path', table['path'].duplicated(), 'names a picture that an earlier row has too', 'Keep one row a picture.')
    refuse_rows(table, 'split', ~table['split'].isin(SPLITS), 'is not train, query or gallery', 'Rename it, or use `split_identities`.')
    if 'quality' in table:
        q = _quality(table)
        remedy = 'Scale the labels to 0..100, higher is better; leave unknown ones empty.'
        refuse_rows(table, 'quality', (q < 0) | (q > 100), 'is outside 0..100', remedy)
    if files: _check_files(table, root or table.attrs.get('root'))
    for text in describe_table(table).warnings: warnings.warn(text, stacklevel=2)
    return table


def _quality(table):
    "The column `quality` as floats, NaN where unknown; ValueError where it holds something else"
    q = pd.to_numeric(table['quality'], errors='coerce')
    known = table['quality'].notna() & ~table['quality'].astype(object).isin(EMPTY)
    bad = known & (q.isna() | np.isinf(q.astype(float)))
    refuse_rows(table, 'quality', bad, 'is not a finite number', 'Write a number 0..100, or leave it empty.')
    return q.astype(float)


def _folders(paths):
    "Folder and base name of each path"
    cut = [p.rpartition('/') for p in paths]
    return [c[0] or c[1] for c in cut], [c[2] for c in cut]


def _rebase(paths, old, new):
    "Paths relative to `old` written relative to `new`, with forward slashes"
    if os.sep != '/': paths = [str(p).replace(os.sep, '/') for p in paths]
    folders,names = _folders(paths)
    old,new,moved = os.path.realpath(old), os.path.realpath(new), {}  # real: `..` does not lead back over a link
    for f in set(folders):
        if old == new and not os.path.isabs(f): moved[f] = posixpath.normpath(f) if f else '.'
        else: moved[f] = os.path.relpath(os.path.join(old, f), new).replace(os.sep, '/')
    return [n if moved[f] == '.' else f'{moved[f]}/{n}' for f,n in zip(folders, names)]


def _check_files(table, root):
    "FileNotFoundError where a picture is missing. One listing a folder: a stat a file takes minutes on a network disk"
    if root is None: raise ValueError("The table does not say where its pictures are: pass root=FOLDER, or files=False to skip them.")
    inside = [split_address(p) if '.rec#' in p or '.bin#' in p else (p, None) for p in table['path']]  # the file must be there, and reach so far
    folders,names = _folders([file for file,_ in inside])
    there = {}
    for f in set(folders):
        try:
            with os.scandir(os.path.join(root, f)) as entries: there[f] = {e.name for e in entries if e.is_file()}
        except OSError: there[f] = set()
    bad = [i for i,(f, n) in enumerate(zip(folders, names)) if n not in there[f]]
    if not bad:
        for file in {f for f,offset in inside if offset is not None}:
            end = address_end(os.path.join(root, file))
            late = [i for i,(f, offset) in enumerate(inside) if f == file and offset >= end]
            if late:
                raise ValueError(f"Row {late[0]} (counted from 0): {table['path'].iloc[late[0]]!r} lies beyond the end of {file}, at {end}. "
                                 "Make the table again with data_prep/records.py or bins.py.")
        return
    first = table['path'].iloc[bad[0]]
    remedy = ('Write paths with forward slashes.' if '\\' in first else
              'Paths are relative to the folder of the table: put the pictures there, or make the table again with data_prep.')
    raise FileNotFoundError(f"{len(bad)} of {len(table)} pictures are missing under {root}, "
                            f"first in row {bad[0]} (counted from 0): {first!r}. {remedy}")


def unanswerable(
    table, # The table; cameras '' are unknown
):
    "Mask over the rows: queries without a gallery picture of the same identity from another camera. An unknown camera excludes nothing"
    ids,cams,split = *_codes(table), table['split'].to_numpy()
    query,gallery = split == 'query', split == 'gallery'
    key = np.unique(ids*(cams.max()+2) + cams, return_inverse=True)[1]
    same_id = np.bincount(ids[gallery], minlength=ids.max()+1)[ids]
    same_cam = np.bincount(key[gallery & (cams >= 0)], minlength=key.max()+1)[key]
    return query & (same_id - np.where(cams >= 0, same_cam, 0) <= 0)


def _codes(table):
    "Identities and cameras as integers from 0, an unknown camera as -1"
    cam = table['camera'] if 'camera' in table else pd.Series('', table.index)
    return pd.factorize(table['identity'])[0], pd.factorize(cam.astype(object).where(cam != '', None))[0]


@dataclass
class TableReport:
    "What `describe_table` found; prints as text"
    splits: pd.DataFrame                       # A row a split: pictures, identities, cameras, identities with one_picture, labelled (%)
    labelled: float = 0.                       # Part of all pictures with a known quality, 0 to 1
    unanswerable: int = 0                      # Queries that no gallery picture can answer
    overlap: int = 0                           # Identities that are both trained on and judged on
    warnings: list = field(default_factory=list)
    differs: list = None                       # Where the counts differ from the published ones; None: nothing to compare with
    def __str__(self):
        out = [self.splits.to_string(formatters={'labelled': '{:.1f} %'.format})]
        if self.differs is not None: out += self.differs or ['The counts are the published ones.']
        return '\n'.join(out + [f'Note: {w}' for w in self.warnings])
    __repr__ = __str__


def describe_table(
    table,          # The table
    published=None, # {'train': (pictures, identities), ...} to compare with; None: those of the table's record where it has some
):
    "The doctor: a `TableReport` of pictures, identities, cameras and labels a split, and of what will trouble training or judging"
    ids,cams,split = *_codes(table), table['split'].to_numpy()
    known = table['quality'].notna().to_numpy() if 'quality' in table else np.zeros(len(table), bool)
    rows,count,out = {}, {}, []
    for s in SPLITS:
        m = split == s
        count[s] = np.bincount(ids[m], minlength=ids.max()+1 if len(ids) else 0)
        if not m.any(): continue
        rows[s] = {'pictures': int(m.sum()), 'identities': int((count[s] > 0).sum()), 'cameras': len(np.unique(cams[m & (cams >= 0)])),
                   'one_picture': int((count[s] == 1).sum()), 'labelled': 100*known[m].mean()}
    no_answer = unanswerable(table) if 'query' in rows else np.zeros(len(table), bool)
    overlap = int(((count['train'] > 0) & (count['query'] + count['gallery'] > 0)).sum())
    if no_answer.any():
        first = table['path'].iloc[no_answer.argmax()]
        out.append(f"{no_answer.sum()} of {rows['query']['pictures']} queries have no gallery picture of the same identity from another "
                   f"camera and are not judged, first {first!r}. Where cameras are unknown, leave the column empty.")
    if overlap: out.append(f"{overlap} identities are in train and in query or gallery: the figures are not those of people never seen.")
    single = rows['train']['one_picture'] if 'train' in rows else 0
    if single: out.append(f"{single} of {rows['train']['identities']} training identities have one picture: they form no pair.")
    labelled = float(known.mean()) if len(known) else 0.
    report = TableReport(pd.DataFrame.from_dict(rows, orient='index'), labelled, int(no_answer.sum()), overlap, out)
    published = published or (table.attrs.get('record') or {}).get('published')
    if published:
        ours = {s: (rows[s]['pictures'], rows[s]['identities']) if s in rows else (0, 0) for s in published}
        report.differs = [f'{s}: {o[0]} pictures of {o[1]} identities, published are {p[0]} of {p[1]}'
                          for (s, p),o in zip(published.items(), ours.values()) if tuple(p) != o]
    return report


def split_identities(
    table,      # A table with `path` and `identity`; a `split` it has is replaced
    test=.5,    # Held-out identities: a fraction of those with two pictures or more (float), or how many (int)
    n_query=1,  # Queries an identity, or an identity and camera where cameras are known
    seed=0,     # The same seed gives the same split whatever the order of the rows
    query=None, # Which pictures of held-out identities are queries: mask over the rows, or a regular expression found in the path
):
    "A copy of `table` split by identity: nobody who is judged was trained on. A query that nothing could answer goes to the gallery"
    out = table.copy()
    if 'camera' not in out: out['camera'] = ''
    n_pics = out['identity'].value_counts()
    able = np.array(sorted(n_pics.index[n_pics >= 2]), dtype=object)
    n = int(test) if isinstance(test, (int, np.integer)) else round(test*len(able))
    if not 0 < n <= len(able):
        raise ValueError(f"test={test} asks for {n} held-out identities, and {len(able)} of {len(n_pics)} identities have two pictures "
                         "or more: pass a fraction above 0 and at most 1, or a number of identities.")
    rng,by_path = np.random.default_rng(seed), np.argsort(out['path'].to_numpy(dtype=object), kind='stable')
    held = out['identity'].isin(able[rng.permutation(len(able))[:n]]).to_numpy()
    if query is None:
        drawn = by_path[rng.permutation(len(out))]
        asked = np.empty(len(out), bool)
        asked[drawn] = out.iloc[drawn].groupby(['identity', 'camera']).cumcount().to_numpy() < n_query
    elif isinstance(query, str): asked = out['path'].str.contains(query, regex=True).to_numpy()
    else: asked = np.asarray(query, bool)
    if len(asked) != len(out): raise ValueError(f"query is a mask of {len(asked)} rows, the table has {len(out)}.")
    if not (asked & held).any():
        some = out['path'].iloc[held.argmax()]
        raise ValueError(f"query={query!r} matches no picture of the held-out identities; one of them is {some!r}.")
    out['split'] = split = np.where(~held, 'train', np.where(asked, 'query', 'gallery')).astype(object)
    while (bad := unanswerable(out)).any():                   # one an identity and round: what has moved may answer the next
        rows = by_path[bad[by_path]]
        split[rows[~out['identity'].iloc[rows].duplicated().to_numpy()]] = 'gallery'
        out['split'] = split
    if not (out['split'] == 'query').any():
        raise ValueError("No picture can be a query, for nothing in the gallery would answer it: each held-out identity was seen by one "
                         "camera only. Leave `camera` empty if it says nothing.")
    return out
