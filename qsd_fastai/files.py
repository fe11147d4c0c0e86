"Files written in one move, and known by their content"
import hashlib
import os
from contextlib import contextmanager
from pathlib import Path

import torch

__all__ = ['file_hash', 'in_one_move', 'save_figure', 'save_frame', 'save_text', 'save_whole']


@contextmanager
def in_one_move(
    file, # Its folder is made
):
    "A path to write to that becomes `file` at the end of the block, and goes where an error ends it: never half a file"
    file = Path(file)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f'.{os.getpid()}.{file.name}') # Ends as the file does, for writers that look at the ending
    try:
        yield part
        os.replace(part, file)
    finally: part.unlink(missing_ok=True)


def save_whole(
    obj,  # For `torch.save`
    file, # Its folder is made
):
    "`torch.save` in one move, on the disk before the old file goes; what a killed process has left of it is removed"
    for left in Path(file).parent.glob(f'.*.{Path(file).name}'): left.unlink()
    with in_one_move(file) as part, open(part, 'wb') as f:
        torch.save(obj, f)
        f.flush()
        os.fsync(f.fileno())


def file_hash(
    file, # Of any size
)->str: # 64 letters
    "SHA-256 of a file's content, so that nobody has to wonder which weights or which table it was"
    digest = hashlib.sha256()
    with open(file, 'rb') as f:
        while part := f.read(2**20): digest.update(part)
    return digest.hexdigest()


def save_text(
    text:str, # Of any length
    file,     # Its folder is made
):
    "Text in UTF-8, in one move"
    with in_one_move(file) as part: part.write_text(text, encoding='utf-8')


def save_frame(
    frame,    # Pandas
    file,     # A CSV; its folder is made
    **kwargs, # For `to_csv`
):
    "A frame as CSV, in one move"
    with in_one_move(file) as part: frame.to_csv(part, **kwargs)


def save_figure(
    figure, # Matplotlib
    file,   # Its folder is made; the ending says the format
):
    "A figure as a picture file, in one move"
    with in_one_move(file) as part: figure.savefig(part, dpi=150)
