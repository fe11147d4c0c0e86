"The pictures below a folder, listed in one way for the library and for data_prep, with a count of what is passed over"
import os
import re
import warnings
from collections import Counter
from operator import attrgetter
from pathlib import Path

from PIL import Image

from .pixels import is_array

__all__ = ['SUFFIXES', 'list_pictures', 'pictures_below', 'said_of']

# of pictures that Pillow reads without a program of others
SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.dib', '.webp', '.tif', '.tiff', '.pgm', '.ppm', '.pbm',
            '.pnm', '.gif', '.jp2', '.j2k', '.jpx', '.jpf', '.avif', '.apng', '.mpo')
# pictures too, but nothing here reads them: counted, so that nobody takes them for read
UNREAD = ('.heic', '.heif', '.jxl', '.tga', '.psd', '.svg', '.dng', '.raw', '.cr2', '.cr3', '.nef', '.arw', '.orf',
          '.rw2', '.raf')
# what storage devices and unpackers put beside pictures, in small letters
DEVICES = {'$recycle.bin', 'recycler', 'recycled', 'system volume information', 'lost+found', '__macosx', 'thumbs',
           '_thumbs', 'thumbnails', '~snapshot', 'network trash folder', 'temporary items', 'msocache', '_vti_cnf'}
# of others a whole family: Synology's and QNAP's, wastebaskets, and what mending a disk leaves
DEVICE = re.compile(r'@(eadir|tmp|recycle|recently-snapshot|sharebin|appstore|database|docker|__thumb|syno)[\w@]*'
                    r'|#(recycle|snapshot)|\.trash.*|found\.[0-9]{3}')
# which data_prep/quality.py draws beside the table
OURS = {'quality.png', 'quality_sheet.png'}


def _why_not(name):
    "Why what bears this name is passed over, '' if it is not"
    if name.lower() in DEVICES or DEVICE.fullmatch(name.lower()): return f'in {name}'
    return '._*' if name.startswith('._') else 'hidden' if name.startswith('.') else ''


def _is(kind):
    "`DirEntry.is_dir` or `is_file`; neither for a link that leads round in circles"
    try: return kind()
    except OSError: return False


def _entries(at, why):
    try:
        with os.scandir(at) as entries: return sorted(entries, key=attrgetter('name'))
    except OSError as e:
        if why: return []
        said = f'{e.filename} cannot be listed ({e.strerror}). Make it readable, or move it away.'
        raise PermissionError(said) from e


def pictures_below(
    folder, # To look through; links to folders are followed, each folder is looked at once
)->tuple: # `(paths, passed_over)`: relative, with forward slashes, sorted; and why -> how many pictures
    """The pictures below a folder; PermissionError where one cannot be listed.

    Passed over are hidden files, folders of storage devices and kinds that nothing reads; `said_of` puts it into
    words. A folder that is called `x.png` is no picture."""
    found,passed,seen = [], Counter(), {os.path.realpath(folder)}
    waiting = [('', '')]
    while waiting:
        rel,above = waiting.pop()
        below = []
        for e in _entries(os.path.join(folder, rel), above):
            path,why,end = f'{rel}/{e.name}' if rel else e.name, above or _why_not(e.name), Path(e.name).suffix.lower()
            if _is(e.is_dir):
                real = os.path.realpath(e.path)
                if real not in seen: below.append((path, why))  # a link to a folder above would go round for ever
                seen.add(real)
            elif end in SUFFIXES and path not in OURS:
                if why or not _is(e.is_file): passed[why or 'that are no files'] += 1
                else: found.append(path)
            elif end in UNREAD: passed[why or f'*{end}'] += 1
        waiting += reversed(below)  # by name: which of two links counts must not depend on the file system
    return sorted(found), dict(passed)


def said_of(
    passed_over:dict, # Of `pictures_below`
)->str:
    "What was passed over, as a sentence; '' where nothing was"
    listed = ', '.join(f'{n} {why}' for why,n in sorted(passed_over.items()))
    return f'Pictures that were passed over: {listed}.' if listed else ''


def list_pictures(
    data, # A folder, a file, its bytes, an open file, a PIL picture or an array; a table or its row; or a list of these
)->list:
    """Pictures for `Embedder.embed` and `learn.embed`, each something that `open_picture` takes.

    What is passed over in a folder is warned of. FileNotFoundError or ValueError where there is nothing."""
    if isinstance(data, (str, os.PathLike)):
        folder = Path(data)
        if folder.suffix.lower() in ('.csv', '.parquet') and folder.is_file():
            raise ValueError(f'{data} is a table, and no picture. Give read_table({str(data)!r}).')
        if not folder.is_dir(): return [str(data)]
        found,passed_over = pictures_below(folder)
        if passed_over: warnings.warn(f'{data}: {said_of(passed_over)}', stacklevel=2)
        if found: return [str(folder/p) for p in found]
        raise FileNotFoundError(f'{data} holds no picture. Name a folder with {", ".join(SUFFIXES)} below it.')
    if hasattr(data, 'attrs') and 'path' in data:  # a table, or a row of one
        paths = data['path'] if hasattr(data, 'columns') else [data['path']]
        return [os.path.join(data.attrs.get('root', '.'), p) for p in paths]
    single = isinstance(data, (bytes, bytearray, memoryview, Image.Image)) or hasattr(data, 'read')
    if single or (is_array(data) and len(data.shape) in (2, 3)): return [data]
    if isinstance(data, dict) or hasattr(data, 'columns') or not hasattr(data, '__iter__'):
        raise ValueError(f'data is of type {type(data).__name__}. Give a folder, a file, a picture or a list of them, '
                         'or a table with a column path.')
    data = list(data)
    if not data: raise ValueError('data is empty, there is no picture to embed. Give at least one.')
    return data
