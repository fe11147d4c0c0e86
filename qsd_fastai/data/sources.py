"""Pictures inside record files (RecordIO of MXNet, as face sets come), read by offset: not unpacked, and without MXNet.

An address in the column `path` of a table is `train.rec#1234`: the record file, and the byte where the record of the
picture begins. In a verification set (`data.bins`) it is `lfw.bin#12`, the number of the picture."""
import re
import struct
from pathlib import Path

import numpy as np
import pandas as pd

from .bins import BinPictures

__all__ = ['RecordError', 'address_end', 'list_records', 'read_record', 'split_address']

MAGIC = 0xced7230a
_JOINT = struct.pack('<I', MAGIC)  # left out where a record was cut into parts: it looks like the start of one
_ADDRESS = re.compile(r'(.+\.(?:rec|bin))#(\d+)', re.DOTALL)
_HEAD = np.dtype([('magic', '<u4'), ('part', '<u4'), ('flag', '<u4'), ('label', '<f4'), ('id', '<u8'), ('id2', '<u8'),
                  ('first', '<f4')])
WHOLE,FIRST,MIDDLE,LAST = range(4)
_SLOWLY = 'the record file is then read from end to end'


class RecordError(ValueError):
    "A record file that is damaged or of another kind; the message names file, byte and remedy"


def split_address(
    path, # Of a picture, or an address inside a record file or verification set
)->tuple: # `(file, offset)`: byte of a record, number of a picture in a `.bin`; None for a picture of its own
    "The file of a picture and where in it the picture begins"
    m = _ADDRESS.fullmatch(str(path))
    return (m[1], int(m[2])) if m else (str(path), None)


def _wrong(file, offset, what):
    return RecordError(f'{file}, record at byte {offset}: {what}. '
                       'Copy the file again, with the index that belongs to it.')


def read_record(
    file,   # Record file
    offset, # Byte where the record begins
)->tuple: # `(labels, picture)`: a tuple of floats, and the encoded picture as bytes
    """One record. RecordError where it is cut off, begins with another magic number, or has parts out of order.

    Opens the file each time, which costs little beside decoding and is safe in threads and forked workers."""
    size,parts,at = Path(file).stat().st_size, [], offset
    with open(file, 'rb') as f:
        while True:
            if at + 8 > size:
                raise _wrong(file, offset, f'the file ends at {size}' + (', inside the record' if parts else ''))
            f.seek(at)
            magic,part = struct.unpack('<II', f.read(8))
            kind,length = part >> 29, part & (2**29 - 1)
            if magic != MAGIC:
                what = 'its next part is not there' if parts else f'begins with {magic:#x}, not {MAGIC:#x}'
                raise _wrong(file, offset, what)
            if at + 8 + length > size: raise _wrong(file, offset, f'is {length} bytes long and the file ends at {size}')
            if (kind in (MIDDLE, LAST)) != bool(parts) or kind > LAST:
                raise _wrong(file, offset, f'a part of kind {kind} stands where it cannot')
            parts.append(f.read(length))
            at += 8 + length + -length % 4
            if kind in (WHOLE, LAST): break
    payload = _JOINT.join(parts)
    if len(payload) < 24: raise _wrong(file, offset, 'is too short for the header of a picture')
    flag,label = struct.unpack_from('<If', payload)
    if 24 + 4*flag > len(payload): raise _wrong(file, offset, f'says that it has {flag} labels, more than it holds')
    labels = struct.unpack_from(f'<{flag}f', payload, 24) if flag else (label,)
    return labels, payload[24 + 4*flag:]


def address_end(
    file, # Record file or verification set
)->int: # The size in bytes, or the number of pictures
    "What every address inside a file must be below"
    return Path(file).stat().st_size if str(file).endswith('.rec') else len(BinPictures(file))


def _read_index(file, size):
    "Keys and offsets of the `.idx` beside a record file"
    keys,offsets = [],[]
    for n,line in enumerate(file.read_text(encoding='utf-8', errors='replace').splitlines(), 1):
        if not line.strip(): continue
        try: key,offset = map(int, line.split())
        except ValueError:
            raise RecordError(f'{file}, line {n}: {line[:60]!r} is not `key<tab>offset`. '
                              'Copy the index again, or remove it.') from None
        if not (0 <= key < 2**63 and 0 <= offset < size):
            raise RecordError(f'{file}, line {n}: byte {offset} is outside the record file of {size} bytes. '
                              'Copy both again.')
        keys.append(key)
        offsets.append(offset)
    if not keys: raise RecordError(f'{file} is empty. Copy the index again, or remove it: {_SLOWLY}.')
    if len(set(keys)) < len(keys): raise RecordError(f'{file} has a key twice. Copy the index again, or remove it.')
    return np.array(keys, np.int64), np.array(offsets, np.int64)


def _scan(file, size):
    "Offsets of all records of a file without an index"
    offsets,at = [],0
    with open(file, 'rb') as f:
        while at < size:
            f.seek(at)
            head = f.read(8)
            magic,part = struct.unpack('<II', head) if len(head) == 8 else (0, 0)
            if magic != MAGIC: raise _wrong(file, at, f'does not begin with {MAGIC:#x}')
            if part >> 29 in (WHOLE, FIRST): offsets.append(at)
            length = part & (2**29 - 1)
            at += 8 + length + -length % 4
    return np.arange(len(offsets)), np.array(offsets, np.int64)


def _end_of_pictures(file, offset):
    "What record 0 names as the end of the pictures; None where it is a picture itself"
    with open(file, 'rb') as f:
        f.seek(offset)
        head = f.read(12)
    if len(head) < 12 or not struct.unpack('<I', head[8:])[0]: return None
    labels,picture = read_record(file, offset)
    return None if picture else labels[0]  # a picture may have several labels too


def _read_heads(file, offsets):
    "The headers of records, `(n,)`, some thousands at a time"
    raw,heads = np.memmap(file, np.uint8, 'r'), np.empty(len(offsets), _HEAD)
    for lo in range(0, len(offsets), 2**16):
        hi = min(lo + 2**16, len(offsets))
        heads[lo:hi] = raw[offsets[lo:hi, None] + np.arange(_HEAD.itemsize)].view(_HEAD)[:, 0]
    return heads


def _lacks(index, what): return RecordError(f'{index} lacks records ({what}). Remove it: {_SLOWLY}.')


def list_records(
    file, # Record file, `train.rec`; without `train.idx` beside it, it is read from end to end
)->pd.DataFrame: # `offset` (byte), `label` (float, the first of several), in the order of the keys
    """All pictures of a record file, from their headers only: a million in seconds. `attrs['header']` tells its style.

    `ranges`: record 0 holds the last key instead of a picture, and the keys behind the pictures are ranges of
    identities (InsightFace). `plain`: every key is a picture, 0 included (im2rec). RecordError naming file, byte and
    remedy."""
    file = Path(file)
    if not file.is_file(): raise FileNotFoundError(f'{file}: no such record file.')
    size,index = file.stat().st_size, file.with_suffix('.idx')
    if not size: raise RecordError(f'{file} is empty. Copy it again.')
    keys,offsets = _read_index(index, size) if index.is_file() else _scan(file, size)
    if not len(keys): raise RecordError(f'{file} holds no record that begins in it. Copy it again.')
    order = np.argsort(keys, kind='stable')
    keys,offsets = keys[order], offsets[order]
    end = _end_of_pictures(file, int(offsets[0])) if keys[0] == 0 else None
    if end is not None:
        if not index.is_file() and 1 < keys[-1] + 1 < end < 2**31:
            what = f'{len(keys) - 1} records of {int(end) - 1} and more'
            raise RecordError(f'{file} lacks records ({what}), and no {index.name} is beside it. Copy both again.')
        if not (end == end and 1 < end <= keys[-1] + 1):
            raise _wrong(file, int(offsets[0]),
                         f'names {end:g} as the end of the pictures, and the last key is {keys[-1]}')
        keep = (keys > 0) & (keys < int(end))
        keys,offsets = keys[keep], offsets[keep]
        # a label is a float32: beyond 2**24 it may be one off
        if abs(len(keys) - int(end) + 1) > (end > 2**24):
            raise _lacks(index, f'{len(keys)} pictures of {int(end) - 1}')
    if not len(keys): raise RecordError(f'{file} holds no picture. Copy it again, with the index that belongs to it.')

    def refuse(bad, what):
        if bad.any(): raise _wrong(file, int(offsets[bad.argmax()]), what)

    refuse(offsets + _HEAD.itemsize > size, f'the file ends at {size}, before its picture')
    heads = _read_heads(file, offsets)
    kind,length = heads['part'] >> 29, heads['part'] & (2**29 - 1)
    refuse(heads['magic'] != MAGIC, f'does not begin with {MAGIC:#x}')
    refuse(kind > FIRST, 'is a later part of another record')
    refuse(offsets + 8 + length > size, f'goes beyond the end of the file at {size}')
    if end is None and index.is_file():
        at = np.argsort(offsets)
        after = offsets + 8 + length + -length.astype(np.int64) % 4
        gap = (after[at] != np.append(offsets[at][1:], size)) & (kind[at] == WHOLE)
        if gap.any():
            last = offsets[at][gap.argmax()]
            raise _lacks(index, f'what follows the record at byte {last} is not the next of the index')
    label = np.where(heads['flag'] > 0, heads['first'], heads['label']).astype(float)
    refuse(~np.isfinite(label), 'its label is not a number')
    table = pd.DataFrame({'offset': offsets, 'label': label})
    table.attrs['header'] = 'plain' if end is None else 'ranges'
    return table
