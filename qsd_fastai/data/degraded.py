"Copies of a set at stated severities: how far a model's figures fall when faces come from 14 pixels, out of focus or through a starved encoder"
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from fastcore.parallel import parallel

from .degradations import DEGRADATIONS, degrade, shrink
from .loaders import picture_files
from .made import existing
from .pairs import write_pairs
from .sources import open_picture, upright
from .table import read_table, write_table

__all__ = ['FACE_DEGRADATIONS', 'degraded_copies']

FACE_DEGRADATIONS = (('shrink', 28), ('shrink', 20), ('shrink', 14), ('blur', .7), ('jpeg', .9))


def _copy(row, folder, kind, amount, seed):
    source,name,key = row
    with open_picture(source) as img: img = upright(img).convert('RGB')
    # A seed of its own for each picture: the same whatever else is in the table.
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    img = shrink(img, amount) if kind == 'shrink' else degrade(img, kind, amount, rng)
    img.save(Path(folder)/name)


def degraded_copies(
    table: pd.DataFrame, # Of a set; its held-out pictures (`query`, `gallery`) are copied, or all where there are none
    folder, # Where `images.csv`, `images/` (PNG) and `pairs.csv` go; made if missing
    kind: str, # 'shrink', or one of `DEGRADATIONS`
    amount: float, # Pixels of the shorter side for 'shrink', a severity 0..1 for the others; `FACE_DEGRADATIONS` has useful ones
    pairs: pd.DataFrame = None, # Pairs of the table, written with the paths of the copies
    seed: int = 0, # Of noise, darkness and occlusion
    workers: int = 0, # Processes; 0: this one
    progress: bool = True, # Show a bar
)->pd.DataFrame: # The table of the copies: rows in the order of the table, `quality` unknown, with `original` (the path copied) and `degradation`
    """Write degraded copies of the held-out pictures of a set, the same on every machine. An existing set is returned as it is.

    For a good picture against a bad one, embed both sets and compare rows of one with rows of the other. ValueError names a wrong argument."""
    if kind not in ('shrink', *DEGRADATIONS): raise ValueError(f'kind={kind!r} is no degradation; choose one of shrink, {", ".join(DEGRADATIONS)}')
    held = table[table['split'] != 'train'] if (table['split'] != 'train').any() else table
    paths = held['path'].tolist()
    record = {'source': 'degraded_copies', 'kind': kind, 'amount': amount, 'seed': seed, 'pictures': len(paths),
              'paths': zlib.crc32('\n'.join(paths).encode())}
    if (found := existing(folder, record)) is not None: return found
    folder = Path(folder)
    (folder/'images').mkdir(parents=True, exist_ok=True)
    names = [f'images/{k:06d}.png' for k in range(len(paths))]
    parallel(_copy, list(zip(picture_files(held), names, paths)), folder=str(folder), kind=kind, amount=amount, seed=seed,
             n_workers=workers, progress=progress, chunksize=16)
    out = held.drop(columns=['true_quality'], errors='ignore').reset_index(drop=True)
    out = out.assign(path=names, quality=np.nan, original=paths, degradation=f'{kind} {amount:g}')
    out.attrs = {'root': str(folder)}
    if pairs is not None:
        to = dict(zip(paths, names))
        if lost := sorted({*pairs['path1'], *pairs['path2']} - to.keys()):
            raise ValueError(f'{len(lost)} pictures of the pairs are not among the held-out ones of the table, first {lost[0]!r}')
        write_pairs(pairs.assign(path1=pairs['path1'].map(to), path2=pairs['path2'].map(to)), folder/'pairs.csv', out)
    write_table(out, folder/'images.csv', record=record)
    return read_table(folder/'images.csv', check=False)
