"""A table with degraded copies beside its pictures, of known kind and severity, so that a model meets bad pictures and labels can be checked.

    python data_prep/degrade.py lfw/images.csv --out lfw_degraded --copies 1

Copied are pictures to train on and queries; the gallery stays clean. Every picture is written anew as JPEG, the clean ones too, or a model
could tell them by their encoder. The columns `degradation` and `true_quality` (0 to 100) say what was done; `pairs.csv` comes along.
"""
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, new_names
from fastcore.script import call_parse
from fastprogress import progress_bar

from qsd_fastai.data.degradations import DEGRADATIONS, degrade
from qsd_fastai.data.pairs import read_pairs, write_pairs
from qsd_fastai.data.sources import open_picture, split_address, upright
from qsd_fastai.data.table import check_table, read_table


def with_copies(
    table,  # Table of pictures in train, query and gallery, `attrs['root']` their folder
    out,    # Folder to write to: `out/images/...`
    n=5,    # Degraded copies a picture of train and query; the gallery stays clean, so that it is the queries that are hard
    seed=0, # Seed of kinds and severities
    workers=8, # Threads
):
    "Write every picture and `n` copies degraded in a known way; the table of them, with `original`, `degradation` and `true_quality` (0..100)"
    root,out,rows = Path(table.attrs['root']), Path(out), []
    folders = {(root/split_address(p)[0]).parent.resolve() for p in table['path']}
    for folder in folders | {root.resolve() for f in folders if root.resolve() in f.parents}:
        if folder in (out.resolve(), *out.resolve().parents):
            raise ValueError(f"--out {out} lies in the folder of the pictures, {folder}: the copies would be taken for originals.")
    names = new_names(table['path'].tolist(), '')

    def copy(i, row):
        rng = np.random.default_rng([seed, zlib.crc32(row['path'].encode())])  # not one stream: other pictures change nothing here
        stem,done = out/names[i], []
        stem.parent.mkdir(parents=True, exist_ok=True)
        try:
            with open_picture(root/row['path']) as im: img = upright(im).convert('RGB')
        except Exception as e:  # a decoder may raise anything on broken bytes
            raise ValueError(f"{row['path']} cannot be read ({type(e).__name__}: {e}). `python data_prep/doctor.py` lists all of them.") from e
        for k in range((n if row['split'] != 'gallery' else 0) + 1):
            kind,severity = (DEGRADATIONS[rng.integers(len(DEGRADATIONS))], 1 - rng.random()) if k else ('none', 0.)
            file = stem.with_name(f'{stem.name}_{k}_{kind}.jpg')
            (degrade(img, kind, severity, rng) if k else img).save(file, quality=95)
            done.append({**row, 'path': file.relative_to(out).as_posix(), 'original': row['path'], 'degradation': kind,
                         'true_quality': round(100*(1-severity), 2)})
        return done
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for done in progress_bar(pool.map(copy, range(len(table)), table.to_dict('records')), total=len(table), leave=False): rows += done
    made = pd.DataFrame(rows)
    made.attrs = {**table.attrs, 'root': str(out)}
    return made


@call_parse
def main(
    table:str, # The table, images.csv or images.parquet
    out:str='', # Folder for the copies and their table; it must be given
    copies:int=1, # Degraded copies of each picture to train on and of each query
    seed:int=0, # Seed of kinds and severities
    workers:int=8, # Threads that read, degrade and write
    force:bool=False, # Make the table anew where there is one
):
    "Table with degraded copies"
    try:
        if not out: raise ValueError('Copies are pictures: say where they go with --out DIR.')
        found,to = read_table(table), Path(out)/'images.csv'
        pairs = Path(table).with_name('pairs.csv')
        record = {'degraded': {'copies': copies, 'seed': seed, 'table': zlib.crc32(Path(table).read_bytes()),
                               'pairs': zlib.crc32(pairs.read_bytes()) if pairs.is_file() else None}}
        if is_made(to, record, force):
            check_table(read_table(to, check=False))
            return print(f'{to} is there already, made from the same pictures in the same way: nothing to do.')
        to.unlink(missing_ok=True)  # stopped from here on, there is no table rather than one of other pictures
        made = with_copies(found, out, copies, seed, workers)
        clean = made[made['degradation'] == 'none'].set_index('original')['path']
        if pairs.is_file():
            listed = read_pairs(pairs, found)
            write_pairs(listed.assign(path1=listed['path1'].map(clean), path2=listed['path2'].map(clean)), to.with_name('pairs.csv'), made)
        finish(made, to, {**(found.attrs.get('record') or {}), **record}, 'face' if pairs.is_file() else 'reid')
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
