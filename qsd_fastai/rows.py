"Refusing rows of a table or list: which file, which column, what is wrong, how often, where first, and what helps"
import re
from contextlib import contextmanager

import numpy as np

__all__ = ['naming', 'not_utf8', 'refuse_rows', 'refuse_separator']


@contextmanager
def naming(
    file, # That a table or list was read from
):
    "Errors of what a file holds begin with its name"
    try: yield
    except UnicodeDecodeError as e: raise not_utf8(file, e) from e
    except (ValueError, OSError) as e:
        if len(e.args) == 1 and str(file) not in str(e): e.args = (f'{file}: {e.args[0]}',)
        raise


def not_utf8(
    file, # Of text
    e,    # `UnicodeDecodeError`
)->ValueError:
    "What is said of a file in another encoding"
    return ValueError(f'{file} is no text in UTF-8 (byte {e.start}: {e.reason}). Save it as UTF-8.')


def refuse_separator(
    file,     # Of columns, .csv
    columns,  # As they were read, with commas between
    *wanted,  # Columns that it must have
    error=ValueError, # The kind of error
):
    "The error on a file whose columns are separated by something else than commas"
    signs = ';\t|: ' if len(columns) == 1 else ';\t|' # Names of several columns may hold blanks
    for c in map(str, columns):
        sep = next((s for s in signs if s in c), None)
        if sep and set(wanted) & {re.sub('^"|"$', '', o.strip()) for o in c.split(sep)}:
            raise error(f'{file} separates its columns by {sep!r}, and commas are wanted. Save it with commas.')


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
    found = row[column].item() if isinstance(row[column], np.generic) else row[column]
    raise error(f'Column {column!r} {what} in {len(bad)} of {len(frame)} rows, '
                f'first in row {bad[0]} (counted from 0{path}): {found!r}. {remedy}')
