"Refusing rows of a table or list: which column, what is wrong, how often, where first, and what helps"
import numpy as np

__all__ = ['refuse_rows']


def refuse_rows(
    frame,            # A table, pairs, templates: any DataFrame
    column:str,       # What the rows are refused for
    bad,              # `(n,)` bool
    what:str,         # What is wrong with the column: `'is empty'`
    remedy:str,       # A sentence
    error=ValueError, # The kind of error
):
    "The error on the first row of the mask `bad`; nothing where there is none"
    bad = np.flatnonzero(np.asarray(bad))
    if not len(bad): return
    row = frame.iloc[bad[0]]
    path = f'; path {row["path"]!r}' if 'path' in frame and column != 'path' else ''
    raise error(f'Column {column!r} {what} in {len(bad)} of {len(frame)} rows, '
                f'first in row {bad[0]} (counted from 0{path}): {row[column]!r}. {remedy}')
