"The tables that a model is judged on: which pictures must be embedded, what there is to judge, what is written"
import glob
import json
import warnings
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from ..columns import complete_table
from ..data.pairs import check_pairs, read_pairs
from ..data.table import check_table, read_table
from ..data.templates import read_templates
from ..distributed import processes
from ..files import file_hash, save_figure, save_frame, save_text
from ..plots.style import signed
from ..quality import norm_quality
from .templates import has_templates

__all__ = ['JudgedTable', 'hardest_shown', 'pictures_of', 'tables_to_judge']


@dataclass
class JudgedTable:
    "One table, and what is to be judged on it: a search, `pairs`, templates beside it"
    file:Path                     # Of the table
    table:pd.DataFrame            # All of it
    pairs:pd.DataFrame|None       # Of its pictures
    rows:list = field(init=False) # Numbers of the rows that must be embedded

    def __post_init__(self):
        self.table = complete_table(self.table)
        if self.pairs is not None: self.pairs = check_pairs(self.pairs, self.table)
        wanted = (self.table['split'] != 'train').to_numpy()
        paths = [] if self.pairs is None else [*self.pairs['path1'], *self.pairs['path2']]
        if self.templates: paths += read_templates(self.templates/'templates.csv', self.table)['path'].tolist()
        wanted = wanted | self.table['path'].isin(paths).to_numpy()
        if not wanted.any():
            raise ValueError(f'{self.file} has only training pictures and no pairs.csv beside it. Split it.')
        if not self.searched and self.pairs is None and not self.templates:
            raise ValueError(f'{self.file} has neither queries and gallery nor pairs nor templates. Add some.')
        self.rows = wanted.nonzero()[0]

    @property
    def searched(self):
        "Are there queries and a gallery?"
        return {'query', 'gallery'} <= set(self.table['split'])

    @property
    def templates(self):
        "The folder of the templates beside it, or `None`"
        return self.file.parent if has_templates(self.file.parent) else None

    def qualities(self,
        columns:str, # Names with commas between; feature_norm is the length of the embedding
        emb,         # `(n, nf)` embeddings of its `rows`
    )->list:
        "Those of the columns that are there and known; the length of the embedding becomes one, where lengths differ"
        of_rows = self.table.index[self.rows]
        with suppress(ValueError): self.table['feature_norm'] = pd.Series(norm_quality(emb), index=of_rows)
        return [c for c in columns.split(',') if c in self.table and self.table[c].iloc[self.rows].notna().any()]

    def write(self,
        to,       # A folder
        judged,   # `Judgement`
        model:dict, # Record of the model
        **how,    # More of the protocol
    )->dict: # As `results.json` has it
        "Figures with their protocol, frames and pictures into files, by the first of several processes"
        data = {'file': str(self.file), 'sha256': file_hash(self.file), 'pictures_embedded': len(self.rows),
                'record': self.table.attrs.get('record')}
        found = {'figures': judged.figures, 'protocol': {**how, **judged.protocol}, 'data': data, 'model': model}
        if processes()[0]: return found
        Path(to).mkdir(exist_ok=True)
        save_text(json.dumps(found, indent=1, default=str), to/'results.json')
        for k,frame in judged.frames.items(): save_frame(frame, to/f'{k}.csv', index=False)
        name = f'{model["file"]} on {self.file.parent.name}/{self.file.name}'
        for k,figure in judged.plots.items(): save_figure(signed(figure, name), to/f'{k}.png')
        return found


def tables_to_judge(
    pattern:str,        # A table, or a pattern of several in one folder
    sets:str='',        # Pairs of their pictures; pairs.csv beside a table when not given
    pictures:bool=True, # Must the pictures be there?
)->list: # Of `JudgedTable`
    "The tables, read and checked; `ValueError` where there is nothing to judge"
    if not pattern: raise ValueError('Name the table to judge on: --data images.csv, as data_prep leaves it.')
    files = sorted(glob.glob(pattern)) if glob.has_magic(pattern) else [pattern]
    if not files: raise FileNotFoundError(f'No table matches {pattern}. Make one with a script of data_prep.')
    with warnings.catch_warnings(): # The doctor has said it
        known = '(queries have no gallery|have one picture|identities are in train)'
        warnings.filterwarnings('ignore', message=f'.*{known}')
        tables = [read_table(file, check=pictures) for file in files]
        if not pictures: check_table(tables[0], files=False)
    if len({table.attrs['root'] for table in tables}) > 1:
        raise ValueError(f'{pattern}: the tables are not in one folder. Judge them one by one.')
    judged = []
    for file,table in zip(map(Path, files), tables):
        at = Path(sets) if sets else file.with_name('pairs.csv')
        judged.append(JudgedTable(file, table, read_pairs(at, table) if sets or at.is_file() else None))
    return judged


def pictures_of(
    judged:list, # Of `JudgedTable`
)->pd.DataFrame:
    "All pictures that must be embedded, each once"
    pictures = pd.concat([o.table.iloc[o.rows] for o in judged]).drop_duplicates('path', ignore_index=True)
    pictures.attrs = judged[0].table.attrs
    return pictures


def hardest_shown(
    table,       # Of pictures, whose embeddings may have been made elsewhere
    hardest:int, # Queries and pairs to look at
)->int: # The same, or 0
    "How many of the hardest can be shown: none where pictures are not there, which is said"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            check_table(table)
    except FileNotFoundError as e:
        print(f'Note: {e} Embeddings are judged without; the hardest queries and pairs are not shown.')
        return 0
    return hardest
