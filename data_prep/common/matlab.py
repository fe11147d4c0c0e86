"""Lists of names and numbers in MATLAB files (.mat of version 5 to 7.2), as several sets tell their protocol.

Cells of text and arrays of numbers are read, which is what such lists are. SciPy's reader knows all of MATLAB, but a
damaged file ends the program there without a word (1.17); here it is an error that names the file."""
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

LARGEST = 2**26  # bytes of a list, packed or unpacked
NUMBERS = {1: 'i1', 2: 'u1', 3: 'i2', 4: 'u2', 5: 'i4', 6: 'u4', 7: 'f4', 9: 'f8', 12: 'i8', 13: 'u8'}
TEXTS = {1: 'utf-8', 2: 'latin-1', 4: 'utf-16', 16: 'utf-8', 17: 'utf-16', 18: 'utf-32'}
PACKED,MATRIX,CELL,CHAR = 15, 14, 1, 4


class MatlabError(ValueError):
    "A MATLAB file that is damaged or holds something else; the message names the file"


def _elements(data, order):
    "`(type, bytes)` of what stands one after another"
    at = 0
    while at < len(data):
        if at + 8 > len(data): raise ValueError('it ends within an element.')
        kind,n = np.frombuffer(data, f'{order}u4', 2, at).tolist()
        if kind >> 16:  # a short one, within eight bytes
            kind,n = kind & 0xffff, kind >> 16
            start,at = at + 4, at + 8
        else:
            start = at + 8
            at = start + n + (0 if kind == PACKED else -n % 8)
        if (n > 4 and start + 4 == at) or start + n > len(data):
            raise ValueError('an element is longer than the file.')
        yield kind, data[start:start + n]


def _value(data, order, depth=0):
    "`(name, value)` of a matrix: a list for cells, text, or an array of numbers; None for what is none of these"
    parts = _elements(data, order)
    flags,dims,name = (next(parts, (0, b''))[1] for _ in range(3))
    if len(flags) < 8 or len(dims) < 8 or len(dims) % 4: raise ValueError('a matrix without its size.')
    kind,name = int(np.frombuffer(flags, f'{order}u4')[0]) & 0xff, name.decode('latin-1')
    if kind == CELL and depth > 1: return name, None
    if kind == CELL: return name, [_value(d, order, depth + 1)[1] for k,d in parts if k == MATRIX]
    stored,body = next(parts, (0, b''))
    if kind == CHAR:
        if stored not in TEXTS: raise ValueError(f'text of kind {stored}.')
        coding = TEXTS[stored]
        return name, body.decode(coding + {'<': '-le', '>': '-be'}[order] if coding[-1] in '62' else coding)
    if not 6 <= kind <= 15: return name, None
    if stored not in NUMBERS or len(body) % np.dtype(NUMBERS[stored]).itemsize:
        raise ValueError(f'numbers of kind {stored}.')
    return name, np.frombuffer(body, order + NUMBERS[stored])


def read_variables(
    file,  # .mat
    names, # Of the variables wanted
)->dict: # Name -> list of text, text, or array of numbers; those that are not there are left out
    "Variables of a MATLAB file; MatlabError naming the file, what is wrong and the remedy"
    file = Path(file)
    if not file.is_file(): raise FileNotFoundError(f'{file}: no such MATLAB file.')
    if (n := file.stat().st_size) > LARGEST:
        raise MatlabError(f'{file} is too large for a list of names, {n} bytes. Copy it again.')
    data,out = file.read_bytes(), {}
    if data[:8] == b'\x89HDF\r\n\x1a\n' or data[512:520] == b'\x89HDF\r\n\x1a\n':
        raise MatlabError(f"{file} is of MATLAB 7.3. Write it anew there with save(..., '-v7').")
    order = {b'IM': '<', b'MI': '>'}.get(data[126:128])
    if order is None: raise MatlabError(f'{file} is not a MATLAB file of version 5 to 7.2. Copy it again.')
    try:
        for kind,body in _elements(data[128:], order):
            if kind == PACKED:
                unpack = zlib.decompressobj()
                body = unpack.decompress(body, LARGEST)
                if unpack.unconsumed_tail: raise ValueError('a variable is too large for a list.')
                kind,body = next(_elements(body, order), (0, b''))
            if kind != MATRIX: continue
            name,value = _value(body, order)
            if name in names: out[name] = value
    except (ValueError, zlib.error) as e:
        said = str(e).rstrip('.')
        raise MatlabError(f'{file} is damaged ({said}). Copy it again.') from None
    return out


def read_pairs_file(
    file, # probe_img_ID_pairs.mat and the like
    kind, # Variables are `<kind>_set` (names) and `<kind>_ids`; the latter may be missing: the names tell
): # `(names, ids)`, lists of text and of whole numbers
    "Who is in which picture; ValueError naming file and what is wrong with it"
    found = read_variables(file, (f'{kind}_set', f'{kind}_ids'))
    def refuse(what): raise ValueError(f'{file} {what}. Copy it again.') from None
    if f'{kind}_set' not in found: refuse(f"has no variable '{kind}_set'")
    names,ids = found[f'{kind}_set'], found.get(f'{kind}_ids')
    listed = isinstance(names, list) and all(isinstance(n, str) for n in names)
    if not listed: refuse(f'has no list of names in {kind}_set')
    ids = [n.split('_')[0] for n in names] if ids is None else ids
    try:
        if isinstance(ids, np.ndarray) and not (np.mod(ids, 1) == 0).all(): raise ValueError
        ids = [int(n) for n in ids]
    except (ValueError, TypeError): refuse('tells no whole number for each identity')
    if len(names) != len(ids) or not names: refuse(f'has {len(names)} names and {len(ids)} identities')
    bad = [n for n in names if not n or '/' in n or '\\' in n]
    if bad: refuse(f'says {bad[0][:60]!r}, which is not the name of a picture')
    if len(set(names)) < len(names): refuse(f'has {Counter(names).most_common(1)[0][0]!r} twice')
    return names, ids
