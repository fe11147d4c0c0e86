"""Embeddings of very many pictures, as Parquet files of so many rows each: by several processes, and gone on with.

A vector database reads them as they are. Each file is there whole or not at all, and says of which model and of which
pictures it is."""
import hashlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from .data.folders import list_pictures
from .files import file_hash, in_one_move

__all__ = ['embed_to', 'read_embedded']

MARK = b'qsd_fastai.embedded'


def embed_to(
    embedder,         # `Embedder`
    data,             # Pictures, as `Embedder.embed` takes them: a folder, a table, a list
    folder,           # Of the files; those that are there are left as they are
    rows:int=100_000, # Pictures a file
    share:tuple=(0, 1), # `(which, of how many)`: of several processes each takes every so manieth file
    half:bool=False,  # Numbers of 16 bits in place of 32?
    **kwargs,         # For `Embedder.embed`: `bs`, `workers`, `flip`
)->list: # Of paths, those that were made
    """Columns `path`, and `embedding`, a list of `nf` numbers; part-00000.parquet holds the first pictures, and so on.

    What is in memory at a time is one file. FileNotFoundError or OSError naming a picture that cannot be read: mend it
    and call again. ValueError where the folder holds embeddings of another model or of other pictures."""
    if rows < 1: raise ValueError(f'rows is {rows}. Give 1 or more.')
    pictures,folder,made = list_pictures(data),Path(folder),[]
    if other := next((o for o in pictures if not isinstance(o, str | Path)), None):
        raise ValueError(f'data holds a picture of type {type(other).__name__}. Give files: their names are kept.')
    names = [str(o) for o in (data['path'] if hasattr(data, 'columns') else pictures)]
    model = f'{file_hash(embedder.file)} {bool(kwargs.get("flip"))} {half}'
    starts = range(0, len(names), rows)
    if other := {*folder.glob('part-*.parquet')} - {folder/f'part-{k:05d}.parquet' for k in range(len(starts))}:
        raise ValueError(f'{min(other)} holds embeddings of other pictures. Name another folder.')
    for k,start in enumerate(starts):
        file,part = folder/f'part-{k:05d}.parquet',names[start:start + rows]
        mark = hashlib.sha256('\n'.join([model, *part]).encode()).hexdigest().encode()
        if file.is_file():
            if (pq.read_schema(file).metadata or {}).get(MARK) != mark:
                raise ValueError(f'{file} holds embeddings of another model or of other pictures. Name another folder.')
        elif k % share[1] == share[0]:
            emb = embedder.embed(pictures[start:start + rows], **kwargs)[1].astype(np.float16 if half else np.float32)
            column = pa.FixedSizeListArray.from_arrays(pa.array(emb.reshape(-1)), emb.shape[1])
            table = pa.table({'path': part, 'embedding': column}).replace_schema_metadata({MARK: mark})
            with in_one_move(file) as to: pq.write_table(table, to)
            made.append(file)
    return made


def read_embedded(
    folder, # Of `embed_to`
)->tuple: # `(names, emb)`, as `Embedder.embed` gives them: `emb` is `(n, nf)`
    "All embeddings of a folder; FileNotFoundError where a file between others is missing or there is none"
    files = sorted(Path(folder).glob('part-*.parquet'))
    missing = [f'part-{k:05d}.parquet' for k,o in enumerate(files) if o.name != f'part-{k:05d}.parquet']
    if not files or missing:
        raise FileNotFoundError(f'{folder} lacks {missing[0] if missing else "part-00000.parquet"}. '
                                'Run the embedding again: it makes what is missing.')
    tables = [pq.read_table(o) for o in files]
    parts = [o['embedding'].combine_chunks() for o in tables]
    emb = np.concatenate([o.flatten().to_numpy().reshape(len(o), -1) for o in parts])
    return [name for o in tables for name in o['path'].to_pylist()], emb
