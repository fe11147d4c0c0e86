"""Templates: several pictures of one person that are judged as one (IJB-B, IJB-C).

`templates.csv` beside the table tells which pictures, with the medium that each is from; `template_pairs.csv` which two
templates are compared; `gallery.csv` and `probe.csv` who is looked for among whom."""
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import in_one_move
from ..rows import naming, refuse_rows, refuse_separator
from ..spelling import spelled
from .pairs import in_table

__all__ = ['TemplateError', 'check_template_pairs', 'check_templates', 'read_list', 'read_searches',
           'read_template_pairs', 'read_templates', 'write_list']


class TemplateError(ValueError):
    "A list that cannot be read or does not fit the others; the message names file, line and remedy"


def read_list(
    file,         # Text file: words parted by blanks, or by commas where it ends in .csv
    columns,      # Name -> type (str, int, float) of the first columns
    header=False, # Is the first line one of names? They may be others than those of `columns`
    more=False,   # May a line have further columns? They are not read
)->pd.DataFrame:
    "The columns of a list, tens of millions of lines in seconds; TemplateError naming the first line that does not fit"
    file,form = Path(file), ' '.join(columns)
    if not file.is_file(): raise FileNotFoundError(f'{file}: no such list of `{form}`.')
    commas,kinds = file.suffix == '.csv', list(columns.values())
    # columns are counted, not named: a line that is longer than the first is then an error
    some = range(len(kinds)) if more else None
    try:
        with np.errstate(invalid='raise'):  # a number beyond integers
            out = pd.read_csv(file, sep=',' if commas else r'\s+', header=None, skiprows=int(header), usecols=some,
                              dtype=dict(enumerate(kinds)), keep_default_na=False, quoting=3, encoding='utf-8',
                              low_memory=False)
        out.columns = list(columns)  # a ValueError where there are others
        for c,kind in columns.items():
            bad = out[c].isna() | (out[c] == '') if kind is str else ~np.isfinite(out[c])
            if bad.any(): raise ValueError(c)
    except (ValueError, ArithmeticError, TypeError) as e:
        raise _first_bad(file, columns, header, commas, more, e) from None
    if not len(out): raise TemplateError(f'{file} holds no line of `{form}`. Copy it again.')
    return out


def _first_bad(file, columns, header, commas, more, error):
    "The error of a list that pandas refused, with the line looked for slowly"
    form = ' '.join(columns)
    with open(file, encoding='utf-8', errors='replace') as f:
        for n,line in enumerate(f, 1):
            part = [p.strip() for p in line.split(',')] if commas else line.split()
            if n <= header or not line.strip(): continue
            try:
                if len(part) < len(columns) or (not more and len(part) > len(columns)): raise ValueError
                for text,kind in zip(part, columns.values()):
                    value = kind(text)
                    if text == '' or (kind is not str and not abs(value) < 2**63): raise ValueError
            except (ValueError, OverflowError):
                return TemplateError(f'{file}, line {n}: {line.rstrip()[:100]!r} is not `{form}`. Copy the list again.')
    why = f'{type(error).__name__}: {str(error)[:100]}'
    return TemplateError(f'{file} is not lines of `{form}` ({why}). Copy the list again.')


def check_templates(
    templates,  # `path, template, media`: text, integer, integer
    table=None, # The table that every path must be in; None: not looked at
):
    """The templates, their paths as the table writes them; TemplateError naming column, first bad row and remedy.

    They are `templates` itself where nothing is written otherwise."""
    _need(templates, ('path', 'template', 'media'), 'templates')
    for c in ('template', 'media'):
        number = pd.to_numeric(templates[c], errors='coerce')
        refuse_rows(templates, c, number.mod(1) != 0, 'is no whole number', 'Number templates and media.',
                    TemplateError)
    return templates if table is None else in_table(templates, ['path'], table, 'templates', TemplateError)


def check_template_pairs(
    pairs,     # `template1, template2, same`: two numbers of templates, 0 or 1
    templates, # The templates that they are of
):
    "`pairs` itself, or a TemplateError naming the column, the first bad row and the remedy"
    _need(pairs, ('template1', 'template2', 'same'), 'pairs of templates')
    refuse_rows(pairs, 'same', ~pairs['same'].isin([0, 1]), 'is neither 0 nor 1', 'Write 1 for one person, 0 for two.',
                TemplateError)
    for c in ('template1', 'template2'):
        refuse_rows(pairs, c, ~pairs[c].isin(templates['template'].unique()), 'is a template without pictures',
                    'Copy the lists again, all of one set.', TemplateError)
    return pairs


def _need(frame, columns, what):
    if lack := [c for c in columns if c not in frame]:
        raise TemplateError(f'The {what} have no column {lack[0]!r}, only {", ".join(map(str, frame.columns))}. '
                            '`data_prep/ijb.py` makes them.')
    if not len(frame): raise TemplateError(f'The {what} have no rows. There is nothing to judge.')


def read_templates(
    path,       # `templates.csv`
    table=None, # For `check_templates`
)->pd.DataFrame: # `path` (text), `template`, `media` (int)
    "Which pictures a template is made of, checked"
    with naming(path): return check_templates(_read(path, {'path': str, 'template': int, 'media': int}), table)


def read_template_pairs(
    path,      # `template_pairs.csv`
    templates, # For `check_template_pairs`
)->pd.DataFrame: # `template1, template2` (int), `same` (bool)
    "Which templates are compared, checked"
    pairs = _read(path, {'template1': int, 'template2': int, 'same': int})
    with naming(path): return check_template_pairs(pairs, templates).astype({'same': bool})


def read_searches(
    path, # `gallery.csv` or `probe.csv`
)->pd.DataFrame: # `template` (int), `identity` (text), and more
    "Who is looked for, or among whom, checked"
    found = _read(path, {'template': int, 'identity': str})
    with naming(path):
        _need(found, ('template', 'identity'), Path(path).stem)
        found['identity'] = spelled(found['identity'], 'identity', tell=True)
        refuse_rows(found, 'identity', found['identity'] == '', 'is empty', 'Copy the list again.', TemplateError)
    return found


def _read(path, columns):
    if not Path(path).is_file():
        raise FileNotFoundError(f'No list at {path}. `python data_prep/ijb.py ROOT --set ijbc` makes it.')
    try:
        refuse_separator(path, pd.read_csv(path, nrows=0).columns, *columns, error=TemplateError)
        return pd.read_csv(path, dtype=columns, keep_default_na=False)
    except TemplateError: raise
    except (ValueError, OverflowError, OSError) as e:
        raise TemplateError(f'{path} cannot be read ({e}). Make it again with data_prep/ijb.py --force.') from e


def write_list(
    frame, # Any of these lists
    path,  # Where to, .csv
):
    "Write a list in one move: a stopped run never leaves half of one"
    with in_one_move(path) as part: frame.to_csv(part, index=False)
