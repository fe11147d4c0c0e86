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

from ..columns import SPLITS, TEXT, complete_table, notes_on_spelling, table_hash
from ..files import in_one_move
from ..rows import naming, not_utf8, refuse_rows, refuse_separator
from ..spelling import path_key
from ..unknown import EMPTY
from .labels import join_quality, on_unit_scale, out_of_range
from .sources import address_end, split_address

__all__ = ['TableReport', 'check_table', 'complete_table', 'describe_table', 'join_quality', 'read_table',
           'table_hash', 'trainable', 'unanswerable', 'write_table']


def read_table(
    path,       # `images.csv` or `images.parquet`; the paths of the pictures are relative to its folder
    check=True, # Run `check_table`, the existence of every picture included?
)->pd.DataFrame:
    """The table at `path`: text columns as text ('001' stays '001'), an empty camera as '', an unknown quality as NaN.

    Its folder is in `attrs['root']`, the record beside it (`images.json`) in `attrs['record']`. Raises as `check_table`
    does."""
    path = Path(path)
    if not path.is_file():
        inside = path/'images.csv'
        remedy = f'Did you mean {inside}?' if inside.is_file() else '`python data_prep/folder.py FOLDER` makes one.'
        raise FileNotFoundError(f'No table at {path}. {remedy}')
    _refuse_name(path)
    try:
        if path.suffix == '.parquet': table = pd.read_parquet(path)
        else:
            cols = pd.read_csv(path, nrows=0).columns
            refuse_separator(path, cols, 'path', 'identity')
            # an identity called 'NA' is a name, a quality 'NA' is unknown: what is missing depends on the column
            unknown = {c: EMPTY for c in cols if c not in TEXT}
            table = pd.read_csv(path, dtype=dict.fromkeys(TEXT, str), keep_default_na=False, na_values=unknown,
                                low_memory=False)
    except ImportError as e: raise ImportError(f'Reading {path} needs pyarrow: pip install pyarrow.') from e
    except UnicodeDecodeError as e: raise not_utf8(path, e) from e
    except (ValueError, OSError) as e: raise ValueError(f'{path} is not a table that can be read ({e}).') from e
    if path.suffix == '.csv' and not isinstance(table.index, pd.RangeIndex):
        raise ValueError(f'{path} has rows of more cells than it has columns ({len(cols)}). Name all columns.')
    with naming(path):
        met = notes_on_spelling(table)
        table.attrs = {'root': str(path.parent), **({'spellings': met} if met else {})}
        table = complete_table(table)
    record = path.with_suffix('.json')
    if record.is_file():
        table.attrs['record'] = _read_record(record, path)
    if not check: return table
    with naming(path): return check_table(table)


def _counts(o): return isinstance(o, list) and len(o) == 2 and all(type(n) is int for n in o)


def _read_record(file, table):
    try: record = json.loads(file.read_text(encoding='utf-8'))
    except (ValueError, RecursionError) as e:
        raise ValueError(f'{file}, the record of {table.name}, is not JSON ({e}). Make the table again.') from e
    published = record.get('published') if isinstance(record, dict) else None
    pairs = published.values() if isinstance(published, dict) else [published]*(published is not None)
    if not isinstance(record, dict) or not all(map(_counts, pairs)) or isinstance(published, list):
        raise ValueError(f'{file} is not the record of a table ({repr(record)[:80]}). Make {table.name} again, or '
                         f'remove {file.name}: the table then has no record.')
    return record


def _refuse_name(path):
    if path.suffix not in ('.csv', '.parquet'):
        raise ValueError(f'{path} ends in {path.suffix!r}. A table ends in .csv or .parquet.')


def write_table(
    table,       # The table; paths are rewritten where `attrs['root']` is another folder than that of `path`
    path,        # Where to write, `.csv` or `.parquet`
    record=None, # Dict saying how the table was made, written as JSON beside it; None: `table.attrs['record']`
    files=True,  # Check that every picture exists?
)->pd.DataFrame: # As `read_table` would give it
    "Check `table`, then write it in one move: a stopped run never leaves half of one"
    path = Path(path)
    _refuse_name(path)
    record = table.attrs.get('record') if record is None else record
    path.parent.mkdir(parents=True, exist_ok=True)
    out = complete_table(table).copy()
    if 'path' in out: out['path'] = _rebase(out['path'].tolist(), out.attrs.get('root', path.parent), path.parent)
    check_table(out, path.parent, files=files)
    out.attrs = {}  # pandas would write them into Parquet, and with them this machine's folders
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
    """`table` itself, or a ValueError naming the column, the first bad row and the remedy.

    FileNotFoundError for missing pictures. What is odd but usable (`TableReport.warnings`) is warned of, once a table.
    """
    given,table = table,complete_table(table)
    for c in ('path', 'identity', 'split'):
        if c not in table:
            remedy = '`split_identities(table)` makes it.' if c == 'split' else 'Rename the column that holds it.'
            if c in given.index.names: remedy = 'It is the index: `table.reset_index()` makes a column of it.'
            raise ValueError(f'The table has no column {c!r}, only {", ".join(map(str, given.columns))}. {remedy}')
    if len(table) == 0: raise ValueError('The table has no rows. There is nothing to train on or to judge.')
    for c in ('path', 'identity'):
        refuse_rows(table, c, table[c].isna() | (table[c] == ''), 'is empty', f'Fill in the {c} or remove the row.')
    refuse_rows(table, 'path', table['path'].duplicated(), 'names a picture that an earlier row has too',
                'Keep one row a picture.')
    refuse_rows(table, 'split', ~table['split'].isin(SPLITS), 'is not train, query or gallery',
                'Rename it, or use `split_identities`.')
    for c in ('quality', 'true_quality'):
        q = pd.to_numeric(table[c], errors='coerce') if c in table else ()
        if len(q): refuse_rows(table, c, (q < 0) | (q > 100), 'is outside 0..100', out_of_range(q))
    if files: _check_files(table, root or table.attrs.get('root'))
    told = given.attrs.get('told', [])
    new = [text for text in _described(table, _met(given)).warnings if text not in told]
    for text in new: warnings.warn(text, stacklevel=2)
    if new: given.attrs['told'] = told + new # Goes with the table: who loads it and who writes it check it again
    return given


def _folders(paths):
    "Folder and base name of each path"
    cut = [p.rpartition('/') for p in paths]
    return [c[0] or c[1] for c in cut], [c[2] for c in cut]


def _rebase(paths, old, new):
    "Paths relative to `old` written relative to `new`, with forward slashes"
    if os.sep != '/': paths = [str(p).replace(os.sep, '/') for p in paths]
    folders,names = _folders(paths)
    old,new = os.path.realpath(old), os.path.realpath(new)  # real: `..` does not lead back over a link
    moved = {}
    for f in set(folders):
        if old == new and not os.path.isabs(f): moved[f] = posixpath.normpath(f) if f else '.'
        else: moved[f] = os.path.relpath(os.path.join(old, f), new).replace(os.sep, '/')
    return [n if moved[f] == '.' else f'{moved[f]}/{n}' for f,n in zip(folders, names)]


def _check_files(table, root):
    "FileNotFoundError where a picture is missing. One listing a folder: a stat a file takes minutes on a network disk"
    if root is None:
        raise ValueError('The table does not say where its pictures are. Pass root=FOLDER, or files=False.')
    # of an address the file must be there, and reach so far
    inside = [split_address(p) if '.rec#' in p or '.bin#' in p else (p, None) for p in table['path']]
    folders,names = _folders([file for file,_ in inside])
    there = {}
    for f in set(folders):
        try:
            with os.scandir(os.path.join(root, f)) as entries: there[f] = {e.name for e in entries if e.is_file()}
        except OSError: there[f] = set()
    bad = [i for i,(f, n) in enumerate(zip(folders, names)) if n not in there[f]]
    if bad:
        first = table['path'].iloc[bad[0]]
        remedy = ('Write paths with forward slashes.' if '\\' in first else
                  'Paths are relative to the folder of the table: put the pictures there, or make the table again with '
                  'data_prep.')
        alike = next((n for n in there[folders[bad[0]]] if path_key(n) == path_key(names[bad[0]])), None)
        if alike: remedy = f'The disk writes it {alike!r}: write it so.'
        raise FileNotFoundError(f'{len(bad)} of {len(table)} pictures are missing under {root}, '
                                f'first in row {bad[0]} (counted from 0): {first!r}. {remedy}')
    for file in {f for f,offset in inside if offset is not None}:
        end = address_end(os.path.join(root, file))
        late = next((i for i,(f, offset) in enumerate(inside) if f == file and offset >= end), None)
        if late is None: continue
        raise ValueError(f'Row {late} (counted from 0): {table["path"].iloc[late]!r} lies beyond the end of {file}, at '
                         f'{end}. Make the table again with data_prep/records.py or bins.py.')


def unanswerable(
    table, # The table; cameras '' are unknown
)->np.ndarray: # `(n,)` bool, over the rows
    "Queries without a gallery picture of their identity from another camera. An unknown camera excludes nothing"
    table = complete_table(table)
    return _unanswerable(table['split'].to_numpy(), *_codes(table))


def _unanswerable(split, ids, cams):
    query,gallery = (split == s for s in ('query', 'gallery'))
    key = np.unique(ids*(cams.max() + 2) + cams, return_inverse=True)[1]
    same_id = np.bincount(ids[gallery], minlength=ids.max() + 1)[ids]
    same_cam = np.bincount(key[gallery & (cams >= 0)], minlength=key.max() + 1)[key]
    return query & (same_id - np.where(cams >= 0, same_cam, 0) <= 0)


def _codes(table):
    "Identities and cameras as integers from 0, an unknown camera as -1"
    cam = table['camera'].astype(object)
    return pd.factorize(table['identity'])[0], pd.factorize(cam.where(cam != '', None))[0]


@dataclass
class TableReport:
    "What `describe_table` found; prints as text"
    splits: pd.DataFrame  # A row a split: pictures, identities, cameras, one_picture (identities), labelled (%)
    labelled: float = 0.  # Part of all pictures with a known quality, 0 to 1
    unanswerable: int = 0 # Queries that no gallery picture can answer
    overlap: int = 0      # Identities that are both trained on and judged on
    warnings: list = field(default_factory=list)
    differs: list = None  # Where the counts differ from the published ones; None: nothing to compare with
    def __str__(self):
        out = [self.splits.to_string(formatters={'labelled': '{:.1f} %'.format})]
        if self.differs is not None: out += self.differs or ['The counts are the published ones.']
        return '\n'.join(out + [f'Note: {w}' for w in self.warnings])
    __repr__ = __str__


def describe_table(
    table,          # The table
    published=None, # `{'train': (pictures, identities), ...}` to compare with; None: those of the table's record
)->TableReport:
    "The doctor: pictures, identities, cameras and labels a split, and what will trouble training or judging"
    return _described(complete_table(table), _met(table), published)


def _met(table): return list(dict.fromkeys([*table.attrs.get('spellings', []), *notes_on_spelling(table)]))


def _described(table, out, published=None):
    "Of a table that is complete, after the notes that there are"
    ids,cams = _codes(table)
    split,known = table['split'].to_numpy(),table['quality'].notna().to_numpy()
    rows,count = {},{}
    for s in SPLITS:
        m = split == s
        n = count[s] = np.bincount(ids[m], minlength=ids.max() + 1 if len(ids) else 0)
        if not m.any(): continue
        n_cams = len(np.unique(cams[m & (cams >= 0)]))
        rows[s] = {'pictures': int(m.sum()), 'identities': int((n > 0).sum()), 'cameras': n_cams,
                   'one_picture': int((n == 1).sum()), 'labelled': 100*known[m].mean()}
    no_answer = _unanswerable(split, ids, cams) if 'query' in rows else np.zeros(len(table), bool)
    overlap = int(((count['train'] > 0) & (count['query'] + count['gallery'] > 0)).sum())
    if no_answer.any():
        first = table['path'].iloc[no_answer.argmax()]
        out.append(f'{no_answer.sum()} of {rows["query"]["pictures"]} queries have no gallery picture of the same '
                   f'identity from another camera and are not judged, first {first!r}. '
                   'Where cameras are unknown, leave the column empty.')
    if on_unit_scale(table['quality']):
        out.append(f'quality runs from {table["quality"].min():g} to {table["quality"].max():g}, and 0..100 is meant. '
                   'If it is of 0..1, multiply it by 100.')
    if overlap:
        out.append(f'{overlap} identities are in train and in query or gallery: the figures are not those of people '
                   'never seen.')
    single = rows['train']['one_picture'] if 'train' in rows else 0
    if single:
        of = rows['train']['identities']
        have = 'has one picture: it forms' if single == 1 else 'have one picture: they form'
        out.append(f'{single} of {of} training identities {have} no pair.')
    labelled = float(known.mean()) if len(known) else 0.
    splits = pd.DataFrame.from_dict(rows, orient='index')
    report = TableReport(splits, labelled, int(no_answer.sum()), overlap, out)
    published = published or (table.attrs.get('record') or {}).get('published')
    if published:
        ours = {s: (rows[s]['pictures'], rows[s]['identities']) if s in rows else (0, 0) for s in published}
        report.differs = [f'{s}: {o[0]} pictures of {o[1]} identities, published are {p[0]} of {p[1]}'
                          for (s, p),o in zip(published.items(), ours.values()) if tuple(p) != o]
    return report


def trainable(
    table, # Checked
):
    "The table itself; ValueError where there is nothing to train on"
    if not (table['split'] == 'train').any():
        raise ValueError("No row of the table has split 'train', so there is nothing to train on.")
    return table
