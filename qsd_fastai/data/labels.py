"Quality labels that come in a file of their own, joined to the table of images without losing any in silence"
import os
import warnings
from pathlib import Path

import numpy as np
import pandas as pd

from ..choices import one_of
from ..columns import complete_table
from ..rows import refuse_separator
from ..spelling import path_key, written

__all__ = ['SCALES', 'join_quality', 'on_unit_scale', 'out_of_range', 'read_labels', 'text_lines']

SCALES = ('', 'unit', 'minmax', 'keep')


def text_lines(
    file, # A list in text: pairs, labels, pictures
): # `(number from 1, line)`
    "The lines of a list that are not blank; ValueError naming the file, and line or byte, where it is no UTF-8 text"
    file = Path(file)
    if not file.is_file(): raise FileNotFoundError(f'{file}: no such list.')
    try: text = file.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as e:
        raise ValueError(f'{file}, byte {e.start}: not UTF-8 text. Save the list as UTF-8.') from None
    lines = [(n, line.rstrip('\r')) for n,line in enumerate(text.split('\n'), 1) if line.strip()]
    if not lines: raise ValueError(f'{file} is empty.')
    for n,line in lines:
        if '\0' in line: raise ValueError(f'{file}, line {n}: holds a zero byte, so it is no list of text.')
    return lines


def read_labels(
    labels,       # File of `path score` lines, or .csv with `path,quality`; or a dict or Series of path to quality
    scale:str='', # Of `SCALES`: what becomes of the numbers; '': they are of 0 to 100 already
)->dict: # Path, with forward slashes, to quality, 0 to 100
    """Quality by path, without the unknown ones (NaN, an empty cell); ValueError naming the line of a bad label.

    Lines are split at the last space or tab, the form that SDD-FIQA and QSD publish. Labels of another scale are
    refused with their range: `'unit'` takes 0 to 1 times 100, `'minmax'` the least to 0 and the greatest to 100, and
    `'keep'` says that numbers of 0 to 1 are of 0 to 100."""
    one_of('scale', scale, *SCALES)
    if isinstance(labels, (str, os.PathLike)): name,rows = Path(labels), _rows(Path(labels))
    else: name,rows = 'labels', ((i, *o) for i,o in enumerate(labels.items(), 1))
    lines,values,odd = {},{},{}
    for i,path,score in rows:
        path = path if isinstance(path, str) else written([path], 'path')[0]
        key = path_key(path)
        if not key: raise ValueError(f'{name}, line {i}: names no picture. A line is path, tab, number.')
        if key != path.strip(): odd[path] = key
        try: value = float(score)
        except (TypeError, ValueError): value = np.inf
        if np.isinf(value):
            raise ValueError(f'{name}, line {i}: {score!r} is not a quality in 0..100 (path {key!r}). '
                             'A line is path, tab, number.')
        if np.isnan(value): continue
        if values.get(key, value) != value:
            raise ValueError(f'{name}, line {i}: {key!r} has {value}, and {values[key]} further up. '
                             'Keep one label a picture.')
        lines.setdefault(key, i)
        values[key] = value
    if odd:
        path,key = next(iter(odd.items()))
        warnings.warn(f'{name}: {len(odd)} paths are not written as a table has them, first {path!r} = {key!r}.',
                      stacklevel=2)
    return _rescaled(pd.Series(values, dtype=float), lines, name, scale)


def _rescaled(values, lines, name, scale):
    "Labels of 0 to 100 by path; ValueError where the scale is another one than is said"
    most = 1 if scale == 'unit' else 100
    bad = (values < 0) | (values > most)
    if scale != 'minmax' and bad.any():
        first = bad.idxmax()
        raise ValueError(f'{name}, line {lines[first]}: {values[first]:g} is not a quality in 0..{most} '
                         f'(path {first!r}). {out_of_range(values)}.')
    if not scale and on_unit_scale(values):
        raise ValueError(f'{name} has labels from {values.min():g} to {values.max():g}, which seem to be of 0..1, and '
                         '0..100 is meant. Pass --scale unit (times 100), minmax, or keep where they are right.')
    if scale == 'unit': values = 100*values
    if scale == 'minmax':
        if not values.max() > values.min():
            raise ValueError(f'{name} has one value only, {values.max():g}: minmax cannot scale it. Leave --scale out.')
        values = 100*(values - values.min())/(values.max() - values.min())
    return values.to_dict()


def on_unit_scale(
    quality, # Of pictures, NaN = unknown
)->bool:
    "Do numbers of 0 to 100 look as if they were of 0 to 1: none above 1, and several between?"
    known = quality.dropna()
    return len(known) > 1 and known.max() <= 1 and known.nunique() > 1 and bool((known % 1 != 0).any())


def out_of_range(
    quality, # Of pictures, NaN = unknown
)->str:
    "The range of labels of another scale, and what helps, for a message"
    return (f'Labels run from {quality.min():g} to {quality.max():g}. Scale them to 0..100, higher is better, '
            'by --scale minmax, or unit where they are of 0..1; leave unknown ones empty')


def _rows(file):
    "`(line, path, score)` of each label of a file, as text"
    if not file.is_file():
        raise FileNotFoundError(f'No label file at {file}. '
                                '`python data_prep/quality.py` makes labels with a trained baseline.')
    if file.suffix != '.csv': return [(i, *(t.rsplit(None, 1) + [''])[:2]) for i,t in text_lines(file)]
    try: data = pd.read_csv(file, dtype=str, keep_default_na=False)
    except ValueError as e:
        raise ValueError(f'{file} cannot be read as CSV ({e}). Write it again, or as lines of `path score`.') from e
    refuse_separator(file, data.columns, 'path', 'quality')
    if not {'path', 'quality'} <= set(data.columns):
        raise ValueError(f'{file} needs the columns path and quality, it has {", ".join(map(str, data.columns))}.')
    if not len(data): raise ValueError(f'{file} holds no label. Write it again.')
    return zip(range(2, len(data) + 2), data['path'], data['quality'].replace('', 'nan'))


def join_quality(
    table,           # The table; a `quality` it has is replaced
    labels,          # Label file (see `read_labels`), or a dict or Series of path to quality
    min_coverage=.9, # Least part of the training pictures (of all, without a train split) that must get a label, 0 to 1
    root=None,       # What the paths of the labels start with; None: the folder of the table
    scale:str='',    # As in `read_labels`
):
    """A copy of `table` with the labels as `quality`, NaN (never 50) where there is none.

    Matched by path relative to the root, then by its last parts (a moved root keeps them), then by base name if both
    sides have it once. The coverage is printed, and in `attrs`."""
    table = complete_table(table)
    scores,out = read_labels(labels, scale), table.copy()
    paths = [path_key(p) for p in table['path']]
    keys = [_relative(p, root, table.attrs.get('root')) for p in scores]
    got,how = _match(paths, keys)
    values = np.append(np.fromiter(scores.values(), float, len(scores)), np.nan)
    out['quality'] = np.where(got >= 0, values[got], np.nan)
    known = out['quality'].notna().to_numpy()
    train = out['split'].to_numpy() == 'train' if 'split' in out else np.zeros(len(out), bool)
    which,mask = ('training pictures', train) if train.any() else ('pictures', ~train)
    part,used = float(known[mask].mean()), set(got.tolist())
    unused = [p for i,p in enumerate(scores) if i not in used]
    counts = {'labelled': int(known.sum()), 'pictures': len(out), 'unused_labels': len(unused), 'matched_by': how}
    out.attrs['coverage'] = {'part': part, **counts, **({'scale': scale} if scale else {})}
    by = ', '.join(f'{v} by {k}' for k,v in how.items() if v) or 'none matched'
    text = f'Labels for {part:.1%} of the {which}, {known.sum()} of all {len(out)} ({by}); {len(unused)} labels unused'
    if part < min_coverage:
        lacking = out['path'][mask & ~known].head(3).tolist()
        raise ValueError(f'{text}. min_coverage is {min_coverage:.0%}. Pictures without a label: {lacking}; labels '
                         f'without a picture: {unused[:3]}. Pass root= (what the paths of the labels start with), or a '
                         'lower min_coverage.')
    print(f'{text}.')
    return out


def _relative(path, root, default):
    "`path` of a label relative to the root. A given root is cut off as text: SDD-FIQA puts no separator behind it"
    if root is not None: starts = [str(root).replace('\\', '/')]
    elif default: starts = [str(o).replace(os.sep, '/').rstrip('/') + '/' for o in (default, os.path.abspath(default))]
    else: starts = []
    for s in starts:
        if path.startswith(s): return path[len(s):].lstrip('/')
    return path


def _match(paths, keys):
    "For each of `paths` the index of its label in `keys` (-1: none), and how many were found in which way"
    def once(names):
        names = pd.Series(names, dtype=object)
        return {n: i for i,n in names[~names.duplicated(keep=False)].items() if n is not None}
    def tails(names, n): return ['/'.join(p.rsplit('/', n)[-n:]) for p in names]
    depth = np.array([p.count('/') + 1 for p in paths])
    at = {k: i for i,k in enumerate(keys)}
    got = np.array([at.get(p, -1) for p in paths])
    how = {'path': int((got >= 0).sum()), 'last parts': 0, 'base name': 0}
    for n in sorted(set(depth.tolist()) - {1}, reverse=True) + [1]:
        before = (got >= 0).sum()
        if before == len(paths): break
        used = set(got.tolist())
        theirs = {k: i for k,i in once(tails(keys, n)).items() if i not in used}
        mine = once(tails(paths, n)) if n == 1 else {paths[i]: i for i in np.flatnonzero(depth == n)}
        for p,i in mine.items():
            if got[i] < 0: got[i] = theirs.get(p, -1)
        how['base name' if n == 1 else 'last parts'] += int((got >= 0).sum() - before)
    return got, how
