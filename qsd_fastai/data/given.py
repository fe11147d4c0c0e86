"Whatever is handed over as pictures (a file, a folder, pixels, a table, a row of one), as rows with their files"
import math
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pandas as pd
from fastai.data.core import DataLoaders, TfmdDL
from fasttransform import DisplayedTransform

from ..columns import complete_table
from .folders import list_pictures

__all__ = ['PictureOf', 'RecognitionDataLoaders', 'TableRow', 'given_rows', 'picture_files', 'table_rows']


@dataclass(slots=True)
class TableRow:
    "One picture of a table, for the getters of `recognition_block`; rows of a `DataFrame` cost more than the pictures"
    file: object              # The picture, as `open_picture` takes it
    identity: str = ''        # Who
    quality: float = math.nan # 0 to 100, NaN = unknown
    scene: list = None        # `[row of the table, camera, split]`; transforms would go into the parts of a tuple
    path: str = None          # The picture, as the table has it

    @property
    def held_out(self): return self.scene[2] != 'train'


class PictureOf(DisplayedTransform):
    "The picture of a `TableRow`; anything else is one itself, so that `learn.predict` takes whatever can be opened"
    input_types = (object,)  # what fastai's `test_dl` begins with here: no transform is left out

    def encodes(self, o:object): return o.file if isinstance(o, TableRow) else o


def picture_files(
    table:pd.DataFrame, # With a column `path`
    root=None,          # The folder the paths start from; `table.attrs['root']` when not given
)->pd.Series:
    "The file of each picture of a table"
    table = complete_table(table)
    return pd.Series(_files(table, root), index=table.index, dtype=object)


def _files(table, root):
    root = root if root is not None else table.attrs.get('root', '.')
    return [os.path.join(root, p) for p in table['path']]


def table_rows(
    table:pd.DataFrame, # With the columns of a table; who is nobody and of no split where these are missing
    root=None,          # The folder the paths start from; `table.attrs['root']` when not given
)->list:
    "A `TableRow` for each row of a table"
    return complete_rows(complete_table(table), root)


def complete_rows(
    table:pd.DataFrame, # Of `complete_table`
    root=None,          # As in `table_rows`
)->list:
    "`table_rows` of a table that is complete"
    def values(c): return table[c].tolist() if c in table else ['']*len(table)
    scenes = zip(range(len(table)), values('camera'), values('split'))
    parts = zip(_files(table, root), values('identity'), values('quality'), scenes, table['path'])
    return [TableRow(file, who, q, list(scene), path) for file,who,q,scene,path in parts]


def given_rows(
    data,           # A table, its row, a folder, a file, bytes, an open file, a PIL picture, an array; a list of these
    root=None,      # The folder the paths of rows start from; that which the table tells when not given
    else_root=None, # The same where the table tells none, and its first picture is not below the current folder
)->list: # Of `TableRow`
    """A row for each picture, in the order given.

    ValueError or FileNotFoundError for what holds no picture, naming what was got. Nothing is opened yet."""
    if isinstance(data, TableRow): return [data]
    if _is_row(data): data = _as_table([data])
    if isinstance(data, pd.DataFrame): return _of_table(data, root, else_root)
    found = list_pictures(data)
    if any(isinstance(o, TableRow) or _is_row(o) for o in found):
        if all(map(_is_row, found)): return _of_table(_as_table(found), root, else_root)
        return [row for o in found for row in given_rows(o, root, else_root)]
    return [TableRow(o, path=os.fspath(o) if isinstance(o, (str, os.PathLike)) else None) for o in found]


def _of_table(table, root, else_root):
    if 'path' not in table:
        raise ValueError(f'data is a table with the columns {", ".join(map(str, table))}. Give it a column path.')
    if not len(table): raise ValueError('data is a table without rows, there is no picture in it. Give at least one.')
    table = complete_table(table)
    told = root is not None or 'root' in table.attrs or os.path.exists(table['path'].iloc[0])
    return complete_rows(table, root if told else else_root)


def _is_row(o):
    "A row of a table: a Series, what `itertuples` gives, or a dict"
    if isinstance(o, (pd.Series, Mapping)): return 'path' in o
    return isinstance(o, tuple) and hasattr(o, 'path')


def _as_table(rows):
    "Rows of a table as one again"
    table = pd.DataFrame([o._asdict() if isinstance(o, tuple) else dict(o) for o in rows])
    table.attrs = dict(getattr(rows[0], 'attrs', {}))
    return table


class RecognitionDataLoaders(DataLoaders):
    "`DataLoaders` over rows of a table, whose `test_dl` takes whatever holds pictures"
    def __repr__(self): return f'{type(self).__name__}{tuple(self.loaders)}'

    def test_dl(self,
        test_items,             # As `given_rows` takes it: a table, its row, a folder, files, PIL pictures, arrays
        rm_type_tfms=None,      # As in fastai
        with_labels:bool=False, # Identity, quality and scene too? For `validate` and `show_results`; of a table only
        root=None,              # The folder the paths of rows start from; that which the table tells when not given
        **kwargs,               # For `TfmdDL`: `bs`, `num_workers`
    )->TfmdDL:
        "A loader with the transforms of validation, in the order of the pictures"
        rows = given_rows(test_items, root, self.path)
        if with_labels: rows = _told_apart(_labelled(rows))
        dl = super().test_dl(rows, rm_type_tfms, with_labels, **kwargs)
        dl.dataset.n_inp = self.valid_ds.n_inp # fastai forgets it
        return dl


def _told_apart(rows):
    "Each row of a number of its own: several tables each begin at 0. ValueError for a picture that is there twice"
    numbers,files = ([f(o) for o in rows] for f in (lambda o: o.scene[0], lambda o: o.file))
    files = [o for o in files if isinstance(o, (str, os.PathLike))]
    if len(set(files)) < len(files):
        twice = next(o for o,n in Counter(files).items() if n > 1)
        raise ValueError(f'{twice} is there twice, and would be judged twice. Give each picture once.')
    if len(set(numbers)) == len(numbers): return rows
    return [replace(o, scene=[i, *o.scene[1:]]) for i,o in enumerate(rows)]


def _labelled(rows):
    nobody = sum(o.identity == '' for o in rows)
    if nobody:
        raise ValueError(f'{nobody} of {len(rows)} pictures have no identity, and with_labels=True asks for it. Give a '
                         'table with the columns identity and split, or leave it out.')
    return rows
