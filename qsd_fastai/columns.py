"The columns of a table, completed whatever it was made from, and its content as a hash"
import hashlib

import numpy as np
import pandas as pd

from .rows import refuse_rows
from .spelling import AROUND, path_text, spelled, spelling_notes
from .unknown import EMPTY

__all__ = ['complete_table', 'known_quality', 'notes_on_spelling', 'table_hash']

TEXT = ('path', 'identity', 'camera', 'split')
SPLITS = ('train', 'query', 'gallery')


def complete_table(
    table:pd.DataFrame, # With any of the columns of a table and any others, of any type, index and origin
    root=None,          # Folder that the paths are relative to; None: `table.attrs['root']`, where it is there
)->pd.DataFrame: # Itself where nothing is to be done
    """A table as `read_table` gives it: text in its one spelling, an unknown camera '', an unknown quality NaN.

    Columns that are missing and can be are made. Rows are numbered anew where their index has levels, a name or a
    number twice. ValueError for a column that comes twice, and what is no name or number."""
    if not isinstance(table, pd.DataFrame):
        raise ValueError(f'table is a {type(table).__name__}. Give a DataFrame: read_table(FILE) reads one.')
    _refuse_columns(table)
    new = {}
    for c in TEXT:
        if c not in table:
            if c == 'camera': new[c] = ''
            continue
        names = path_text(table[c]) if c == 'path' else spelled(table[c], c, c == 'camera')
        same = _is_text(table[c]) and not table[c].isna().any()
        if not same or (names != table[c].to_numpy(dtype=object)).any(): new[c] = names
    if 'quality' not in table: new['quality'] = np.nan
    elif table['quality'].dtype != np.float64 or np.isinf(table['quality']).any():
        new['quality'] = known_quality(table).to_numpy()
    index = table.index
    plain = index.nlevels == 1 and index.name is None and index.is_unique
    told = table.attrs.get('root') if root is None else root
    if plain and not new and table.attrs.get('root') == told: return table
    out = table.assign(**new) if plain else table.reset_index(drop=True).assign(**new)
    out.attrs = {**table.attrs, **({} if told is None else {'root': str(told)})}
    return out


def _is_text(column):
    return pd.api.types.infer_dtype(column, skipna=False) == 'string' and not isinstance(column.dtype, pd.ArrowDtype)


def _refuse_columns(table):
    for c in (*TEXT, 'quality'):
        if (n := sum(o == c for o in table.columns)) > 1:
            raise ValueError(f'The table has {n} columns {c!r}. Rename or remove all but one.')
        alike = [o for o in table.columns if isinstance(o, str) and o != c and o.strip(AROUND).casefold() == c]
        if alike and not n:
            raise ValueError(f'The table has a column {alike[0]!r} and none {c!r}, and would be taken for one without. '
                             f'Rename it: table.rename(columns={{{alike[0]!r}: {c!r}}}).')


def known_quality(
    table:pd.DataFrame, # With a column `quality`
)->pd.Series:
    "The quality as floats, NaN where it is unknown; ValueError naming the first row that holds something else"
    given = table['quality']
    # 27.99 is what a file has of it
    if given.dtype in (np.float32, np.float16): given = given.astype(str).astype(float)
    given = given.astype(object)
    given = given.where(given.notna() & ~given.isin(EMPTY), np.nan)
    q = pd.to_numeric(given, errors='coerce').astype(float)
    bad = (given.notna() & q.isna()) | np.isinf(q)
    refuse_rows(table, 'quality', bad, 'is not a finite number', 'Write a number 0..100, or leave it empty.')
    return q


def notes_on_spelling(
    table:pd.DataFrame, # As it was made
)->list: # Of sentences
    "What is told of names in the columns `identity` and `camera`: spellings that met, and names that look alike"
    return [o for c in ('identity', 'camera') if c in table for o in spelling_notes(table[c], c, c == 'camera')]


def table_hash(
    table:pd.DataFrame, # Of pictures
)->str: # 64 letters
    """SHA-256 of what a table says: path, identity, camera, split and quality of its rows, in their order.

    The same for every dtype, index and file that it was made from, and whatever else its columns say."""
    table,digest = complete_table(table),hashlib.sha256()
    for c in TEXT:
        if c not in table: continue
        names = table[c].to_numpy(dtype=object)
        digest.update(f'{c} {len(names)}\n'.encode() + '\n'.join(names).encode('utf-8', 'surrogateescape'))
    # A CSV holds no more of a float32 than this; -0 is 0
    quality = table['quality'].to_numpy(np.float32, copy=True) + np.float32(0)
    quality[np.isnan(quality)] = np.nan # There are many kinds of NaN
    digest.update(b'quality\n' + quality.astype('<f4').tobytes())
    return digest.hexdigest()
