"Pictures written anew: a name for each copy, and copies that are degraded in a known way"
import posixpath
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from fastprogress import progress_bar

from qsd_fastai.data.degradations import DEGRADATIONS, degrade
from qsd_fastai.data.pictures import open_picture
from qsd_fastai.data.sources import split_address
from qsd_fastai.files import in_one_move

from .pictures import why_unreadable


def new_names(
    paths,  # Of the pictures, addresses inside record files among them
    suffix, # .jpg or .png
)->list: # Of paths
    "Where a copy of each picture goes: the path it has, below `images`, never outside it, with another ending"
    out,stems = [], []
    outside = [p for p in paths if p.startswith(('..', '/')) or ':' in p[:3]]
    folders = [posixpath.dirname(split_address(p)[0]) or '.' for p in paths]
    base = posixpath.commonpath(folders) if outside and len(paths) > 1 else ''
    for p in paths:
        file,at = split_address(p)
        if base: file = posixpath.relpath(file, base)
        elif outside: file = posixpath.basename(file)
        stems.append(f'{file}/{at}' if at is not None else posixpath.splitext(file)[0])
    twice = pd.Series(stems).duplicated(keep=False)  # a.jpg beside a.png
    for p,s,clash in zip(paths, stems, twice):
        kind = f'_{posixpath.splitext(p)[1][1:]}' if clash else ''
        out.append(f'images/{s}{kind}{suffix}')
    again = pd.Series(out).duplicated()
    if again.any(): raise ValueError(f'{out[again.argmax()]!r} would be written twice. Rename a picture.')
    return out


def check_apart(
    table, # Table of pictures, `attrs['root']` their folder
    out,   # Folder that copies go to
):
    "ValueError where copies would lie among the originals"
    root,out = Path(table.attrs['root']), Path(out)
    folders = {(root/split_address(p)[0]).parent.resolve() for p in table['path']}
    for folder in folders | {root.resolve() for f in folders if root.resolve() in f.parents}:
        if folder in (out.resolve(), *out.resolve().parents):
            raise ValueError(f'--out {out} lies in the folder of the pictures, {folder}: '
                             'the copies would be taken for originals. Name another one.')


def with_copies(
    table,     # Table of pictures in train, query and gallery, `attrs['root']` their folder
    out,       # Folder to write to: `out/images/...`
    n=5,       # Degraded copies a picture of train and query; the gallery stays clean: it is the queries that are hard
    seed=0,    # Seed of kinds and severities
    workers=8, # Threads
):
    """Write every picture and `n` copies degraded in a known way; the table of them.

    Its columns `original`, `degradation` and `true_quality` (0 to 100) say what was done."""
    root,out,rows = Path(table.attrs['root']), Path(out), []
    check_apart(table, out)
    names = new_names(table['path'].tolist(), '')

    def copy(i, row):
        # not one stream: other pictures change nothing here
        rng = np.random.default_rng([seed, zlib.crc32(row['path'].encode())])
        stem,done = out/names[i], []
        stem.parent.mkdir(parents=True, exist_ok=True)
        try:
            img = open_picture(root/row['path'])
        except (OSError, ValueError) as e:
            raise ValueError(f"{row['path']} cannot be read ({why_unreadable(e)}). "
                             '`python data_prep/doctor.py` lists all of them.') from e
        for k in range((n if row['split'] != 'gallery' else 0) + 1):
            kind,severity = (DEGRADATIONS[rng.integers(len(DEGRADATIONS))], 1 - rng.random()) if k else ('none', 0.)
            file = stem.with_name(f'{stem.name}_{k}_{kind}.jpg')
            with in_one_move(file) as part: (degrade(img, kind, severity, rng) if k else img).save(part, quality=95)
            done.append({**row, 'path': file.relative_to(out).as_posix(), 'original': row['path'], 'degradation': kind,
                         'true_quality': round(100*(1 - severity), 2)})
        return done

    with ThreadPoolExecutor(max(1, workers)) as pool:
        copies = pool.map(copy, range(len(table)), table.to_dict('records'))
        for done in progress_bar(copies, total=len(table), leave=False): rows += done
    made = pd.DataFrame(rows)
    made.attrs = {**table.attrs, 'root': str(out)}
    if had := table.attrs.get('copies'):
        clean = clean_paths(made)
        made.attrs['copies'] = [(clean[a], clean[b]) for a,b in had]
    return made


def clean_paths(
    made, # Of `with_copies`
)->pd.Series: # By path of the original
    "The path of the copy of each picture that is not degraded"
    return made[made['degradation'] == 'none'].set_index('original')['path']
