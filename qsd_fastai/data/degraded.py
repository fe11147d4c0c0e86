"Copies of a set at stated severities: how far figures fall with faces of 14 pixels, out of focus or badly encoded"
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.parallel import parallel

from ..columns import complete_table
from ..files import in_one_move
from ..terminal import rows_only
from .degradations import DEGRADATIONS, degrade, shrink
from .loaders import picture_files
from .made import existing
from .pairs import write_pairs
from .pictures import open_picture
from .table import read_table, write_table

__all__ = ['FACE_DEGRADATIONS', 'degraded_copies']

FACE_DEGRADATIONS = (('shrink', 28), ('shrink', 20), ('shrink', 14), ('blur', .7), ('jpeg', .9))


def _copy(row, folder, kind, amount, seed):
    source,name,key = row
    img = open_picture(source)
    # a seed of its own for each picture: the same whatever else is in the table
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    img = shrink(img, amount) if kind == 'shrink' else degrade(img, kind, amount, rng)
    with in_one_move(Path(folder)/name) as part: img.save(part)


def degraded_copies(
    table:pd.DataFrame,      # Of a set; what is held out (`query`, `gallery`) is copied, or all where nothing is
    folder,                  # Where `images.csv`, `images/` (PNG) and `pairs.csv` go; made if missing
    kind:str,                # 'shrink', or one of `DEGRADATIONS`
    amount:float,            # Pixels of the shorter side for 'shrink', a severity from 0 to 1 for the others
    pairs:pd.DataFrame=None, # Pairs of the table, written with the paths of the copies
    seed:int=0,              # Of noise, darkness and occlusion
    workers:int=0,           # Processes; 0: this one
    progress:bool=True,      # Show a bar
)->pd.DataFrame: # Of the copies, in order: `quality` is unknown, `original` is the path copied, `degradation` how
    """Write degraded copies of the held-out pictures of a set, the same on every machine.

    `FACE_DEGRADATIONS` has useful kinds and amounts. An existing set is returned as it is. For a good picture against a
    bad one, embed both sets and compare rows of one with rows of the other. ValueError names a wrong argument."""
    if kind not in ('shrink', *DEGRADATIONS):
        raise ValueError(f'kind={kind!r} is no degradation. Use one of shrink, {", ".join(DEGRADATIONS)}.')
    table = complete_table(table)
    held = table[table['split'] != 'train'] if (table['split'] != 'train').any() else table
    paths = held['path'].tolist()
    record = {'source': 'degraded_copies', 'kind': kind, 'amount': amount, 'seed': seed, 'pictures': len(paths),
              'paths': zlib.crc32('\n'.join(paths).encode())}
    if (found := existing(folder, record)) is not None: return found
    folder = Path(folder)
    (folder/'images').mkdir(parents=True, exist_ok=True)
    names = [f'images/{k:06d}.png' for k in range(len(paths))]
    rows = list(zip(picture_files(held), names, paths))
    with rows_only():
        parallel(_copy, rows, folder=str(folder), kind=kind, amount=amount, seed=seed, n_workers=workers,
                 progress=progress, chunksize=16)
    out = held.drop(columns=['true_quality'], errors='ignore').reset_index(drop=True)
    out = out.assign(path=names, quality=np.nan, original=paths, degradation=f'{kind} {amount:g}')
    out.attrs = {'root': str(folder)}
    if pairs is not None:
        to = dict(zip(paths, names))
        if lost := sorted({*pairs['path1'], *pairs['path2']} - to.keys()):
            raise ValueError(f'{len(lost)} pictures of the pairs are not among the held-out ones of the table, '
                             f'first {lost[0]!r}. Leave their pairs out.')
        copied = pairs.assign(path1=pairs['path1'].map(to), path2=pairs['path2'].map(to))
        write_pairs(copied, folder/'pairs.csv', out)
    write_table(out, folder/'images.csv', record=record)
    return read_table(folder/'images.csv', check=False)
