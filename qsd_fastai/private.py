"What tells who sat at a machine, out of what is shared: cards, configurations of runs"
import os
import re

__all__ = ['without_folders']

# a path from the root of a disk, from home or up; alone, where it may hold blanks, or between other words
WHOLE = re.compile(r'\s*(file:|[A-Za-z]:[\\/]|~|[\\/]|\.\.[\\/])')
WITHIN = re.compile(r'(?<![\w.\\/:~-])(file:|[A-Za-z]:(?=[\\/])|~\w*|\.\.)?[\\/][^\s,;:\'")\]]+')


def without_folders(
    o, # Text, or a list or dict of it
): # The same
    "Of paths of a machine, which tell who sat at it, the last part; also within a sentence"
    if isinstance(o, dict): return {k: without_folders(v) for k,v in o.items()}
    if isinstance(o, (list, tuple)): return [without_folders(v) for v in o]
    if isinstance(o, os.PathLike): o = os.fspath(o)
    if not isinstance(o, str): return o
    parts = o.split(',')  # options with several files
    if all(WHOLE.match(p) for p in parts): return ','.join(_last(p) for p in parts)
    return WITHIN.sub(lambda m: _last(m[0]), o)


def _last(path): return re.split(r'[\\/]', path.rstrip('\\/ '))[-1] or '.'
