"What all generated sets share: a seed for each picture, degradation of known severity, a table with its record"
import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.parallel import parallel

from ..data.degradations import degrade_random
from ..data.made import existing
from ..data.table import read_table, write_table
from ..distributed import after_first
from ..files import in_one_move
from ..terminal import rows_only

__all__ = ['refuse_small', 'rng_of', 'write_generated']


def rng_of(
    *key, # Integers: the seed, what is drawn, which one
)->np.random.Generator:
    "A source of randomness of its own for each thing that is drawn, so that order, number and workers do not matter"
    return np.random.default_rng([int(k) for k in key])


def refuse_small(
    *least, # `(name of an argument, its value, the least that is allowed)`
):
    "ValueError naming the first argument that is too small"
    for name,value,lowest in least:
        if value < lowest: raise ValueError(f'{name}={value} is too small. Use {lowest} or more.')


def _one(row, folder, draw):
    "Draw, degrade and write one picture; returns what was done to it"
    path,*what = row
    img,rng = draw(*what)
    img,kind,severity = degrade_random(img, rng)
    data = io.BytesIO()
    img.save(data, 'JPEG', quality=92)
    # in one move, for another process of the same launch may already be reading
    with in_one_move(Path(folder)/path) as part: part.write_bytes(data.getvalue())
    return kind, severity


def write_generated(
    folder,               # Where `images.csv`, `images.json` and `images/` go; made if missing
    table:pd.DataFrame,   # Path (in `images/`), identity, camera, split
    draw:Callable,        # What draws a picture: `(PIL picture, np.random.Generator for what then happens to it)`
    rows:list,            # The arguments of `draw`, one tuple a picture
    record:dict,          # How the set is made: the source, the version of its drawing, all options
    finish:Callable=None, # Called with the table before it is written, for what stands beside it
    workers:int=0,        # Processes that draw; 0: this one
    progress:bool=True,   # Show a bar
)->pd.DataFrame: # The table with quality (unknown), true_quality 0 to 100, degradation
    """Draw, degrade and write the pictures of a table, then the table: a set that has a table is whole.

    An existing set is returned as it is; ValueError if it was made differently."""
    return after_first(lambda: _existing_or_written(folder, table, draw, rows, record, finish, workers, progress))


def _existing_or_written(folder, table, draw, rows, record, finish, workers, progress):
    if (found := existing(folder, record)) is not None: return found
    folder = Path(folder)
    (folder/'images').mkdir(parents=True, exist_ok=True)
    items = [(path, *row) for path,row in zip(table['path'], rows)]
    with rows_only():
        done = parallel(_one, items, folder=str(folder), draw=draw, n_workers=workers, progress=progress, chunksize=16)
    true_quality = [round(100*(1 - severity), 2) for _,severity in done]
    table = table.assign(quality=np.nan, true_quality=true_quality, degradation=[kind for kind,_ in done])
    if finish is not None: finish(table)
    write_table(table, folder/'images.csv', record=record)
    return read_table(folder/'images.csv', check=False)
