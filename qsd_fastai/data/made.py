"A set that was made in the same way already: found, told from another one, and not made again"
from pathlib import Path

import pandas as pd

from .table import read_table

__all__ = ['existing']


def existing(
    folder, # Where a set may be
    record: dict, # How it is to be made
)->pd.DataFrame | None: # Its table, or None if there is no table or pictures are missing
    "The set that is already in a folder; ValueError if it was made differently"
    folder = Path(folder)
    if not (folder/'images.csv').exists(): return None
    table = read_table(folder/'images.csv', check=False)
    found = table.attrs.get('record', {})
    if found != record:
        differs = ', '.join(f'{k}={found.get(k)!r}, not {v!r}' for k,v in record.items() if found.get(k) != v)
        raise ValueError(f'{folder/"images.csv"} exists and was made differently ({differs}); choose another folder or remove it')
    return table if all((folder/p).exists() for p in table.path) else None
