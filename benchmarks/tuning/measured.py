"What was measured as one table: Markdown in the terminal, and in a folder the same beside JSON"
import json
import platform
from pathlib import Path

import torch

__all__ = ['Measured', 'number_text']


def number_text(
    value, # A number, a text, or None
)->str:
    "As a cell of a table"
    if value is None: return ''
    if isinstance(value, str): return value
    if isinstance(value, int): return f'{value:,}'
    return f'{value:,.0f}' if abs(value) >= 100 else f'{value:.3g}' if abs(value) < .1 else f'{value:.2f}'


def _known(value): return number_text(value) if isinstance(value, float) else value


class Measured:
    "Rows of a benchmark, with the machine and the options that they are of"
    def __init__(self,
        name:str, # Of its files
        **about,  # Options, for the line above the table
    ):
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        self.name,self.rows = name,{}
        self.about = {'device': gpu or f'{torch.get_num_threads()} CPU threads', 'torch': torch.__version__,
                      'python': platform.python_version(), **about}

    def add(self,
        title:str, # Of the row
        **columns, # Numbers or texts, ratios first
    ):
        "A row; more columns of one that is there"
        plain = {k: v.item() if hasattr(v, 'item') else v for k,v in columns.items()}
        self.rows.setdefault(title, {}).update({k: None if v != v else v for k,v in plain.items()})

    def text(self)->str:
        "Markdown"
        columns = list(dict.fromkeys(k for row in self.rows.values() for k in row))
        rows = [['', *columns], ['---']*(1 + len(columns))]
        rows += [[title, *(number_text(row.get(k)) for k in columns)] for title,row in self.rows.items()]
        lines = ['|' + '|'.join(f' {o} '.replace('|', r'\|') for o in row) + '|' for row in rows]
        lines = [', '.join(f'{k} {_known(v)}' for k,v in self.about.items()), '', *lines]
        return '\n'.join(lines) + '\n'

    def show(self,
        out='', # Folder for NAME.md and NAME.json; none when empty
    ):
        "Print the table, and keep it"
        print(self.text(), flush=True)
        if not out: return
        Path(out).mkdir(parents=True, exist_ok=True)
        (Path(out)/f'{self.name}.md').write_text(self.text(), encoding='utf-8')
        found = {'about': self.about, 'rows': self.rows}
        (Path(out)/f'{self.name}.json').write_text(json.dumps(found, indent=1), encoding='utf-8')
