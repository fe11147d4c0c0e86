"""Verification sets in `.bin` files (`lfw.bin`, `cfp_fp.bin`, ...): a pickle of `(pictures, same)`, read and never run.

The pickle is walked here, opcode by opcode: the few that such files need are known, the rest is refused, and nothing
that it names is called. Pictures are not read but noted as places in the file, so a length that is a lie costs nothing.
An address in the column `path` of a table is `lfw.bin#12`, the number of the picture."""
import codecs
import mmap
import os
import re
import struct
import warnings
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

import numpy as np

__all__ = ['BinError', 'BinPictures', 'read_bin']

MOST_STEPS = 4_000_000  # opcodes; a picture takes two to thirty, and the largest set in use has 40,000
_ARRAYS = re.compile(r'numpy\.(_?core)\.(multiarray|numeric|_multiarray_umath)')
_PLAIN = re.compile(r'[<>|=]?(?:[biu][1248]|O8?|bool|u?int(?:8|16|32|64))')


class BinError(ValueError):
    "A verification set that is damaged or asks for what no such set needs; the message names the file and the remedy"


class _Span:
    "Bytes or text of the pickle, as the place where they stand"
    __slots__ = ('at', 'form', 'length', 'text')
    def __init__(self, at, length, form='raw', text=False):
        self.at,self.length,self.form,self.text = at,length,form,text

    def read(self, data):
        "The bytes; of text those of latin-1, which is how Python 3 writes bytes for readers of Python 2"
        raw = bytes(data[self.at:self.at + self.length])
        if self.form == 'raw': return raw
        if self.form != 'quoted': return codecs.decode(raw, self.form).encode('latin-1')
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # a backslash before a letter that means nothing
            return codecs.escape_decode(raw)[0]


class _Name(str): "A class or function that the pickle names and that stands for itself"


class _Array:
    "A numpy array or its dtype under construction"
    __slots__ = ('data', 'dtype', 'shape')
    def __init__(self, dtype=None, shape=None, data=None): self.dtype,self.shape,self.data = dtype,shape,data


class _Mark: "Where a list or tuple begins on the stack"


class _Walk:
    "One pass over the opcodes"
    def __init__(self, data):
        self.data,self.size,self.at = data, len(data), 0
        self.stack,self.memo = [],{}

    def ends(self, n): return BinError(f'says at byte {self.at} that {n} more follow, and ends at {self.size}.')

    def take(self, n):
        if n < 0 or self.at + n > self.size: raise self.ends(n)
        self.at += n
        return self.data[self.at - n:self.at]

    def number(self, form): return struct.unpack('<' + form, self.take(struct.calcsize('<' + form)))[0]

    def skip(self, form, kind='raw', text=False):
        n = self.number(form)
        if n < 0 or self.at + n > self.size: raise self.ends(n)
        self.at += n
        return _Span(self.at - n, n, kind, text)

    def line(self, most=200):
        end = self.data.find(b'\n', self.at, self.at + most if most else self.size)
        if end < 0: raise BinError(f'has no end of line behind byte {self.at}.')
        start,self.at = self.at, end + 1
        return start, end

    def words(self): return bytes(self.data[slice(*self.line())]).decode('ascii', 'replace').strip()

    def pop(self):
        if not self.stack or self.stack[-1] is _Mark: raise BinError(f'takes away at byte {self.at} what is not there.')
        return self.stack.pop()

    def since_mark(self):
        for k in range(len(self.stack) - 1, -1, -1):
            if self.stack[k] is _Mark:
                out = self.stack[k + 1:]
                del self.stack[k:]
                return out
        raise BinError(f'ends a list at byte {self.at} that has not begun.')

    def extend(self, items):
        if not self.stack or not isinstance(self.stack[-1], list):
            raise BinError(f'appends at byte {self.at} to what is no list.')
        self.stack[-1].extend(items)

    def text(self, span):
        if not isinstance(span, _Span) or span.length > 200: raise BinError(f'has no short text before byte {self.at}.')
        return span.read(self.data).decode('latin-1')

    def name(self, module, name):
        full = f'{module}.{name}'
        if _ARRAYS.fullmatch(module) and name in ('_reconstruct', 'scalar', '_frombuffer'): return _Name(name)
        if full in ('numpy.ndarray', 'numpy.dtype'): return _Name(name)
        plain = module in ('builtins', '__builtin__') and name in ('bytes', 'bytearray')
        if plain or full == '_codecs.encode': return _Name('bytes')
        raise BinError(f'asks for {full[:120]!r}, which no verification set needs. '
                       'Do not open it with pickle: it may run foreign code.')

    def dtype(self, o):
        if isinstance(o, _Array) and o.dtype is not None: return o.dtype
        raise BinError(f'has numbers of no known type before byte {self.at}.')

    def call(self, name, args):
        if not isinstance(name, _Name) or not isinstance(args, tuple):
            raise BinError(f'calls at byte {self.at} what cannot be called.')
        if name == 'bytes':
            if not args: return _Span(0, 0)
            if not isinstance(args[0], _Span): raise BinError(f'makes bytes of something else at byte {self.at}.')
            return _Span(args[0].at, args[0].length, args[0].form)
        if name == 'dtype':
            text = self.text(args[0]) if args else ''
            if not _PLAIN.fullmatch(text): raise BinError(f'has numbers of type {text!r}.')
            return _Array(np.dtype(text))
        if name == '_reconstruct': return _Array()
        if name == '_frombuffer' and len(args) == 4:
            raw,kind,shape,_ = args
            return self.build(_Array(), (1, shape, kind, False, raw))
        if name == 'scalar' and len(args) == 2:
            kind = self.dtype(args[0])
            raw = args[1].read(self.data) if isinstance(args[1], _Span) and args[1].length < 100 else b''
            if kind.hasobject or len(raw) != kind.itemsize:
                raise BinError(f'has a number of {len(raw)} bytes before byte {self.at}.')
            return np.frombuffer(raw, kind)[0].item()
        raise BinError(f'calls {name!r} at byte {self.at} in an unknown way.')

    def build(self, o, state):
        if not isinstance(o, _Array) or not isinstance(state, tuple):
            raise BinError(f'sets at byte {self.at} what cannot be set.')
        if o.dtype is not None and o.shape is None:  # a dtype: version, order of bytes, ...
            order = self.text(state[1]) if len(state) > 1 and isinstance(state[1], _Span) else '='
            if order in ('<', '>'): o.dtype = o.dtype.newbyteorder(order)
            return o
        shape = state[1] if len(state) == 5 else None
        if not isinstance(shape, tuple) or not all(type(n) is int and 0 <= n < 2**40 for n in shape):
            raise BinError(f'has an array of unknown shape before byte {self.at}.')
        o.shape,o.dtype,o.data = shape, self.dtype(state[2]), state[4]
        return o

    def step(self, op):
        "Does one opcode; True where it was the last one"
        push,take = self.stack.append,self.number
        match op:
            case b'.': return True
            case b'\x80':
                if take('B') > 5: raise BinError('is of a later pickle protocol than 5.')
            case b'\x95': take('Q')                                                      # a frame, of no meaning here
            case b'(': push(_Mark)
            case b']': push([])
            case b')': push(())
            case b'l': push(self.since_mark())
            case b't': push(tuple(self.since_mark()))
            case b'\x85': push((self.pop(),))
            case b'\x86': b,a = self.pop(), self.pop(); push((a, b))
            case b'\x87': c,b,a = self.pop(), self.pop(), self.pop(); push((a, b, c))
            case b'a': item = self.pop(); self.extend([item])
            case b'e': self.extend(self.since_mark())
            case b'0': self.pop()
            case b'N': push(None)
            case b'\x88': push(True)
            case b'\x89': push(False)
            case b'K': push(take('B'))
            case b'M': push(take('H'))
            case b'J': push(take('i'))
            case b'\x8a': push(int.from_bytes(self.take(take('B')), 'little', signed=True))
            case b'I' | b'L': push(int(self.words().rstrip('L')))
            case b'C' | b'U': push(self.skip('B'))
            case b'B': push(self.skip('I'))
            case b'T': push(self.skip('i'))
            case b'\x8e' | b'\x96': push(self.skip('Q'))
            case b'\x8c': push(self.skip('B', 'utf-8', True))
            case b'X': push(self.skip('I', 'utf-8', True))
            case b'\x8d': push(self.skip('Q', 'utf-8', True))
            case b'S':
                start,end = self.line(0)
                if end - start < 2 or self.data[start] not in b'\'"' or self.data[end - 1] != self.data[start]:
                    raise BinError(f'has text without quotes at byte {start}.')
                push(_Span(start + 1, end - start - 2, 'quoted'))
            case b'V': start,end = self.line(0); push(_Span(start, end - start, 'raw-unicode-escape', True))
            case b'p': self.memo[int(self.words())] = self.top()
            case b'q': self.memo[take('B')] = self.top()
            case b'r': self.memo[take('I')] = self.top()
            case b'\x94': self.memo[len(self.memo)] = self.top()
            case b'g': push(self.memo[int(self.words())])
            case b'h': push(self.memo[take('B')])
            case b'j': push(self.memo[take('I')])
            case b'c': module = self.words(); push(self.name(module, self.words()))
            case b'\x93': name,module = self.text(self.pop()), self.text(self.pop()); push(self.name(module, name))
            case b'R': args = self.pop(); push(self.call(self.pop(), args))
            case b'b': state = self.pop(); push(self.build(self.pop(), state))
            case _: raise BinError(f'has the unknown opcode {bytes(op)!r} at byte {self.at - 1}.')
        return False

    def top(self):
        item = self.pop()
        self.stack.append(item)
        return item

    def load(self):
        for _ in range(MOST_STEPS):
            if self.step(self.take(1)): return self.pop()
        raise BinError(f'has more than {MOST_STEPS:,} parts.')


def _items(o, what):
    "A list, from the forms that it comes in"
    if isinstance(o, _Array) and o.dtype is not None and o.dtype.hasobject: o = o.data
    if isinstance(o, (list, tuple)): return list(o)
    raise BinError(f'has no list of {what}.')


def _picture(o, n):
    if isinstance(o, _Array) and isinstance(o.data, _Span) and o.dtype is not None and o.dtype.itemsize == 1:
        if sum(k > 1 for k in o.shape) > 1:
            raise BinError(f'has pixels of shape {o.shape} as picture {n}, not an encoded one (JPEG, PNG).')
        o = o.data
    if not isinstance(o, _Span) or o.text: raise BinError(f'has something else than bytes as picture {n}.')
    if not o.length: raise BinError(f'has nothing as picture {n}.')
    return o


def _same(o, data):
    if isinstance(o, _Array) and isinstance(o.data, _Span) and o.dtype is not None and not o.dtype.hasobject:
        raw,size = o.data.read(data), o.dtype.itemsize
        if o.shape != (len(raw)//size,) or len(raw) % size: raise BinError('has an array of pairs of another shape.')
        o = np.frombuffer(raw, o.dtype).tolist()
    same = _items(o, 'pairs')
    for n,s in enumerate(same):
        if not (isinstance(s, (bool, int)) and s in (0, 1)):
            raise BinError(f'says of pair {n} neither 1, one person, nor 0, two.')
    return np.array(same, bool)


@lru_cache(maxsize=32)
def _index(file, size, *changed):
    "Places of the pictures and the flags of the pairs; kept for as long as the file is the same"
    if not size: raise BinError(f'{file} is empty. Copy it again.')
    with open(file, 'rb') as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            found = _Walk(data).load()
            if not (isinstance(found, (tuple, list)) and len(found) == 2):
                raise BinError('is not a pair of pictures and flags.')
            pictures = [_picture(o, n) for n,o in enumerate(_items(found[0], 'pictures'))]
            same = _same(found[1], data)
            if not pictures: raise BinError('holds no picture.')
            if len(pictures) != 2*len(same):
                raise BinError(f'holds {len(pictures)} pictures for {len(same)} pairs, not two a pair.')
        except BinError as e: raise BinError(f'{file} {e} Copy it again, from a source that you trust.') from None
        except (ValueError, KeyError, TypeError, IndexError, struct.error, OverflowError) as e:
            why = f'{type(e).__name__}: {str(e)[:100]}'
            raise BinError(f'{file} is not a verification set ({why}). Copy it again.') from None
    return pictures, same


def _open(file):
    file = Path(file)
    if not file.is_file(): raise FileNotFoundError(f'{file}: no such verification set.')
    now = file.stat()
    return _index(os.path.realpath(file), now.st_size, now.st_mtime_ns, now.st_ino)


class BinPictures(Sequence):
    "The encoded pictures of a `.bin`, each read when it is asked for; pair i is pictures 2i and 2i + 1"
    def __init__(self,
        file, # The `.bin`
    ): self.file,self.places = Path(file), _open(file)[0]
    def __len__(self): return len(self.places)
    def __getitem__(self, n):
        if not -len(self.places) <= n < len(self.places):
            raise IndexError(f'{self.file} has {len(self.places)} pictures, numbered from 0, and none of number {n}.')
        place = self.places[n]
        with open(self.file, 'rb') as f:
            f.seek(place.at)
            raw = f.read(place.length)
        try: return _Span(0, len(raw), place.form).read(raw)
        except ValueError as e: raise BinError(f'{self.file}, picture {n}: not bytes ({e}). Copy it again.') from None


def read_bin(
    file, # `lfw.bin` and its kin, written by any Python from 2.5 on
)->tuple: # `(pictures, same)`: `BinPictures` of 2n encoded pictures, bool array `(n,)`
    "A verification set; FileNotFoundError, or BinError naming file and what is wrong. Runs nothing that the file names"
    return BinPictures(file), _open(file)[1].copy()
