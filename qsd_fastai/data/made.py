"A set that was made in the same way already: found, told from another one, and not made again"
import os
from pathlib import Path

import pandas as pd

from .table import read_table

__all__ = ['existing', 'is_made']


def existing(
    folder,      # Where a set may be
    record:dict, # How it is to be made
)->pd.DataFrame | None: # Its table, or None if there is no table or pictures are missing
    "The set that is already in a folder; ValueError if it was made differently"
    folder = Path(folder)
    if not (folder/'images.csv').exists(): return None
    table = read_table(folder/'images.csv', check=False)
    found = table.attrs.get('record', {})
    if found != record:
        differs = ', '.join(f'{k}={found.get(k)!r}, not {v!r}' for k,v in record.items() if found.get(k) != v)
        raise ValueError(f'{folder/"images.csv"} exists and was made differently ({differs}). '
                         'Use another folder, or remove it.')
    return table if all((folder/p).exists() for p in table.path) else None


def is_made(
    path,        # Where a table goes
    record:dict, # The part of its record that says how it is to be made
    force=False, # Make it anew whatever is there?
)->bool:
    "Is the table there, and as `record` asks? FileExistsError if it is another, PermissionError if none can be written"
    path = Path(path)
    if path.is_file() and not force:
        had = read_table(path, check=False).attrs.get('record') or {}
        if {k: had.get(k) for k in record} == record: return True
        raise FileExistsError(f'{path} is there already and was made in another way or from other pictures. '
                              '--force makes it anew.')
    at = next(p for p in path.absolute().parents if p.exists())
    # root may write anywhere: a folder that nobody is meant to write in is left alone all the same
    if not (at.is_dir() and os.access(at, os.W_OK) and at.stat().st_mode & 0o222):
        raise PermissionError(f'Nothing can be written in {at}. Name another folder: --out DIR.')
    return False
