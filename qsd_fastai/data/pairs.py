"The pairs of a verification set, `pairs.csv` beside the table: two pictures, whether they show one person, the fold"
from pathlib import Path

import pandas as pd

from ..columns import complete_table
from ..files import in_one_move
from ..rows import naming, refuse_rows, refuse_separator
from ..spelling import match_paths

__all__ = ['check_pairs', 'read_pairs', 'write_pairs']

_COLUMNS = ('path1', 'path2', 'same', 'fold')


def check_pairs(
    pairs,      # `path1, path2, same, fold`: two paths of the table, 0 or 1, an integer from 0
    table=None, # The table that every path must be in; None: not looked at
):
    """The pairs, their paths as the table writes them; ValueError naming the column, the first bad row and the remedy.

    They are `pairs` itself where nothing is written otherwise."""
    if lack := [c for c in _COLUMNS if c not in pairs]:
        raise ValueError(f'The pairs have no column {lack[0]!r}, only {", ".join(map(str, pairs.columns))}. '
                         '`data_prep/pairs.py` makes them.')
    if not len(pairs): raise ValueError('The pairs have no rows. There is nothing to judge.')
    refuse_rows(pairs, 'same', ~pairs['same'].isin([0, 1]), 'is neither 0 nor 1',
                'Write 1 for two pictures of one person, 0 for two people.')
    fold = pd.to_numeric(pairs['fold'], errors='coerce')
    refuse_rows(pairs, 'fold', fold.isna() | (fold < 0) | (fold % 1 != 0), 'is not an integer from 0',
                'Number the folds; without folds write 0.')
    if table is not None: pairs = in_table(pairs, ('path1', 'path2'), table, 'pairs')
    refuse_rows(pairs, 'path2', pairs['path1'] == pairs['path2'], 'is the same picture as path1',
                'Remove the row: it says nothing.')
    return pairs


def in_table(
    listed,           # Pairs, or templates
    columns,          # Its columns that hold paths
    table,            # That every path must be in
    what:str,         # It is, for the note
    error=ValueError, # The kind of error
):
    "`listed` with the paths as the table writes them; itself where it does. The error on the first row that it lacks"
    there,new = complete_table(table)['path'].to_numpy(dtype=object),{}
    remedy = 'Make table and list together, or add the picture.'
    for c in columns:
        rows = match_paths(listed[c], there, f'{what}, {c}')
        refuse_rows(listed, c, rows < 0, 'is not in the table', remedy, error)
        if (listed[c].to_numpy(dtype=object) != there[rows]).any(): new[c] = there[rows]
    return listed.assign(**new) if new else listed


def read_pairs(
    path,       # `pairs.csv`
    table=None, # For `check_pairs`
)->pd.DataFrame: # `path1, path2` (text), `same` (bool), `fold` (int)
    "The pairs at `path`, checked. Raises as `check_pairs` does"
    if not Path(path).is_file():
        raise FileNotFoundError(f'No pairs at {path}. `python data_prep/pairs.py FOLDER PAIRS.TXT` makes them.')
    try: pairs = pd.read_csv(path, dtype={'path1': str, 'path2': str}, keep_default_na=False)
    except (ValueError, OSError) as e:
        raise ValueError(f'{path} cannot be read as CSV ({e}). '
                         'Make the pairs again, data_prep/pairs.py --force.') from e
    refuse_separator(path, pairs.columns, 'path1', 'path2')
    with naming(path): return check_pairs(pairs, table).astype({'same': bool, 'fold': int})


def write_pairs(
    pairs,      # As `check_pairs` wants them
    path,       # Where to write, `pairs.csv`
    table=None, # For `check_pairs`
):
    "Check the pairs, then write them in one move"
    with in_one_move(path) as part:
        out = check_pairs(pairs, table).astype({'same': int})
        out[list(_COLUMNS)].to_csv(part, index=False)
