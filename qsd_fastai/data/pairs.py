"The pairs of a verification set, `pairs.csv` beside the table: two pictures, whether they show one person, the fold"
from pathlib import Path

import pandas as pd

from ..files import in_one_move
from .rows import refuse_rows

__all__ = ['check_pairs', 'read_pairs', 'write_pairs']

_COLUMNS = ('path1', 'path2', 'same', 'fold')


def check_pairs(
    pairs,      # `path1, path2, same, fold`: two paths of the table, 0 or 1, an integer from 0
    table=None, # The table that every path must be in; None: not looked at
):
    "`pairs` itself, or a ValueError naming the column, the first bad row and the remedy"
    if lack := [c for c in _COLUMNS if c not in pairs]:
        raise ValueError(f'The pairs have no column {lack[0]!r}, only {", ".join(map(str, pairs.columns))}. '
                         '`data_prep/pairs.py` makes them.')
    if not len(pairs): raise ValueError('The pairs have no rows. There is nothing to judge.')
    refuse_rows(pairs, 'same', ~pairs['same'].isin([0, 1]), 'is neither 0 nor 1',
                'Write 1 for two pictures of one person, 0 for two people.')
    fold = pd.to_numeric(pairs['fold'], errors='coerce')
    refuse_rows(pairs, 'fold', fold.isna() | (fold < 0) | (fold % 1 != 0), 'is not an integer from 0',
                'Number the folds; without folds write 0.')
    if table is not None:
        for c in ('path1', 'path2'):
            refuse_rows(pairs, c, ~pairs[c].isin(table['path']), 'is not in the table',
                        'Make table and pairs together, or add the picture.')
    refuse_rows(pairs, 'path2', pairs['path1'] == pairs['path2'], 'is the same picture as path1',
                'Remove the row: it says nothing.')
    return pairs


def read_pairs(
    path,       # `pairs.csv`
    table=None, # For `check_pairs`
)->pd.DataFrame: # `path1, path2` (text), `same` (bool), `fold` (int)
    "The pairs at `path`, checked. Raises as `check_pairs` does"
    if not Path(path).is_file():
        raise FileNotFoundError(f'No pairs at {path}. `python data_prep/pairs.py FOLDER PAIRS.TXT` makes them.')
    try: pairs = pd.read_csv(path, dtype={'path1': str, 'path2': str}, keep_default_na=False)
    except ValueError as e:
        raise ValueError(f'{path} cannot be read as CSV ({e}). '
                         'Make the pairs again, data_prep/pairs.py --force.') from e
    return check_pairs(pairs, table).astype({'same': bool, 'fold': int})


def write_pairs(
    pairs,      # As `check_pairs` wants them
    path,       # Where to write, `pairs.csv`
    table=None, # For `check_pairs`
):
    "Check the pairs, then write them in one move"
    with in_one_move(path) as part:
        out = check_pairs(pairs, table).astype({'same': int})
        out[list(_COLUMNS)].to_csv(part, index=False)
