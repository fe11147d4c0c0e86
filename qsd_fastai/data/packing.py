"""Pictures into the files that other programs read: record files (RecordIO, `.rec`) and verification sets (`.bin`).

Encoded pictures go in byte for byte; `data.sources` and `data.bins` read them back."""
import struct
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

from ..choices import one_of
from ..files import in_one_move
from .pictures import open_picture
from .sources import MAGIC

__all__ = ['write_bin', 'write_records']

_WORD = struct.pack('<I', MAGIC)
_EXACT = 2**24  # a label is a float32, which tells whole numbers apart up to here


@contextmanager
def _replacing(*paths):
    "Open files that take the place of `paths` when all is written, or leave no trace"
    with ExitStack() as moves:
        parts = [moves.enter_context(in_one_move(p)) for p in reversed(paths)][::-1]  # the first one moves first
        with ExitStack() as files: yield [files.enter_context(open(o, 'wb')) for o in parts]
        for p in paths[1:]: p.unlink(missing_ok=True)  # stopped here, no old index stands beside a new file


def _parts(payload):
    "One record: cut where the payload holds the magic number at a multiple of four, which is left out there"
    if len(payload) >= 2**29: raise ValueError(f'A record holds less than {2**29} bytes, not {len(payload)}.')
    cuts,at = [], payload.find(_WORD)
    while at >= 0:
        if at % 4 == 0: cuts.append(at)
        at = payload.find(_WORD, at + (4 if at % 4 == 0 else 1))
    out = []
    for k,(a, b) in enumerate(zip([0, *(c + 4 for c in cuts)], [*cuts, len(payload)])):
        kind = 0 if not cuts else 1 if k == 0 else 3 if k == len(cuts) else 2
        out.append(_WORD + struct.pack('<I', kind << 29 | b - a) + payload[a:b] + b'\0'*(-(b - a) % 4))
    return b''.join(out)


def write_records(
    pictures,       # Iterable of `(number of the identity, encoded picture)`
    file,           # `train.rec`; `train.idx` and `property` are written beside it
    size=None,      # Height and width that `property` tells; None: those of the first picture
    style='ranges', # `'ranges'` or `'plain'`
)->tuple: # `(pictures, identities)` written
    """A record file with its index, in one move.

    `ranges`: key 0 tells where pictures end, and ranges of identities come behind (InsightFace), so pictures of one
    identity follow one another. `plain`: pictures only (im2rec). ValueError for labels that are no whole numbers from 0
    to 2**24, or an identity that comes twice."""
    file = Path(file)
    if file.suffix != '.rec': raise ValueError(f'{file} ends in {file.suffix!r}. A record file ends in .rec.')
    one_of('style', style, 'ranges', 'plain')
    ranges,ids,last = [],set(),None
    with _replacing(file, file.with_suffix('.idx'), file.with_name('property')) as (rec, idx, note):
        def put(key, labels, picture, id=0):
            many = isinstance(labels, tuple)
            head = struct.pack('<IfQQ', len(labels) if many else 0, 0. if many else labels, id, 0)
            idx.write(f'{key}\t{rec.tell()}\n'.encode())
            rest = struct.pack(f'<{len(labels)}f', *labels) if many else b''
            rec.write(_parts(head + rest + picture))
        first = key = int(style == 'ranges')
        if first: put(0, (0., 0.), b'')  # filled in below, when the ends are known; labels take the same room
        for label,picture in pictures:
            if not (0 <= label < _EXACT and label == int(label)):
                raise ValueError(f'{label!r} is not the number of an identity, 0 to {_EXACT - 1}.')
            if not picture: raise ValueError(f'Picture {key - first} of those to write is empty.')
            if size is None: size = open_picture(picture).size[::-1]
            if first and label != last:
                if label in ids:
                    raise ValueError(f'Identity {label} comes again after others. Sort the pictures by identity.')
                ranges.append([key, key])
            if first: ranges[-1][1] = key + 1
            put(key, float(label), picture, key)
            ids.add(label)
            last = label
            key += 1
        if key == first: raise ValueError('There are no pictures to write.')
        if first:
            if key + len(ranges) > _EXACT:
                raise ValueError(f"{key - 1} pictures are too many for the header of style 'ranges'. Use 'plain'.")
            for k,(a, b) in enumerate(ranges): put(key + k, (float(a), float(b)), b'', key + k)
            rec.seek(0)
            rec.write(_parts(struct.pack('<IfQQ2f', 2, 0., 0, 0, key, key + len(ranges))))
        note.write(f'{len(ids)},{size[0]},{size[1]}\n'.encode())
    return key - first, len(ids)


def write_bin(
    pictures, # Iterable of 2n encoded pictures, pair i is pictures 2i and 2i + 1
    same,     # `(n,)` bool, whether they show one person
    file,     # `lfw.bin`
):
    "A verification set as InsightFace's readers take it, in one move. ValueError where counts differ"
    same,n = np.asarray(same), 0
    if not len(same) or not np.isin(same, (0, 1)).all():
        raise ValueError('same holds true or false for each pair, one at least.')
    with _replacing(Path(file)) as (f,):
        # a pickle of `(list of bytes, list of bool)`, protocol 3; in pieces, so that a large set takes little memory
        f.write(b'\x80\x03](')
        for n,picture in enumerate(pictures, 1):
            if not picture: raise ValueError(f'Picture {n - 1} is empty.')
            f.write(b'B' + struct.pack('<I', len(picture)) + picture)
        if n != 2*len(same): raise ValueError(f'{n} pictures for {len(same)} pairs. Two a pair are wanted.')
        f.write(b'e](' + b''.join(b'\x88' if s else b'\x89' for s in same) + b'e\x86.')
