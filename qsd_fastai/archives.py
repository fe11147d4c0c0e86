"Zip archives as torch and numpy write them: what they claim is compared with what there is before anything is read"
import zipfile
from contextlib import contextmanager
from pathlib import Path

import numpy as np

__all__ = ['open_archive', 'read_arrays']

MOST,FOLD = 2**28, 200 # Bytes of an array that may be packed however small; a larger one to a 200th at most


@contextmanager
def open_archive(
    file,         # A path, or an open file
    size:int,     # Its bytes
    packed=False, # May parts be compressed? Then each is bounded by `MOST` and `FOLD`, else all by the size of the file
)->zipfile.ZipFile:
    "The archive to read from; ValueError where a part is larger than it can be, there twice, compressed or locked"
    try: z = zipfile.ZipFile(file)
    except zipfile.BadZipFile as e: raise ValueError(f'it is no archive: {e}.') from e
    with z:
        parts = z.infolist()
        if len({o.filename for o in parts}) < len(parts): raise ValueError('a part of it is there twice.')
        if any(o.flag_bits & 1 for o in parts): raise ValueError('a part of it is locked by a password.')
        for o in parts:
            if o.compress_type and not packed:
                raise ValueError(f'its part {o.filename!r} is compressed, which torch never does.')
            if packed and o.file_size > max(MOST, FOLD*o.compress_size):
                raise ValueError(f'its part {o.filename!r} says that it unpacks to {o.file_size} bytes, more than '
                                 f'{MOST} and {FOLD} times its size.')
        if not packed and sum(o.file_size for o in parts) > size:
            raise ValueError(f'its parts say that they have more bytes than the {size} of the file.')
        yield z


def read_arrays(
    file,  # `.npz`
    names, # Of the arrays wanted
)->list: # Of arrays
    "Arrays of a file of `np.savez`, without running anything; ValueError, KeyError where there is none of a name"
    with open_archive(file, Path(file).stat().st_size, packed=True) as z:
        return [_array(z, f'{name}.npy') for name in names]


def _array(z, name):
    with z.open(name) as f:
        version = np.lib.format.read_magic(f)
        read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
        if read is None: raise ValueError(f'its part {name!r} is of format {version}.')
        shape,_,dtype = read(f)
        # in whole numbers: a product of numpy's wraps around
        bytes_ = dtype.itemsize
        for n in shape: bytes_ *= n
        if dtype.hasobject or bytes_ != z.getinfo(name).file_size - f.tell():
            raise ValueError(f'its part {name!r} is of {dtype} {shape}, which is not what it holds.')
    with z.open(name) as f: return np.lib.format.read_array(f, allow_pickle=False)
