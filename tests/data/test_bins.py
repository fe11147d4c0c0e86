"Verification sets in every form they come in, what is refused, and thousands of damaged ones"
import io
import os
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pytest
from PIL import Image

from qsd_fastai.data.bins import BinError, BinPictures, read_bin
from qsd_fastai.data.packing import write_bin
from qsd_fastai.data.pictures import open_picture, picture_bytes
from qsd_fastai.data.sources import split_address


def jpeg(k, size=(112, 112)):
    buf = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 255, (*size, 3), np.uint8)).save(buf, 'JPEG')
    return buf.getvalue()


PICTURES = [jpeg(k) for k in range(6)]
SAME = [True, False, True]
ARRAYS = [np.frombuffer(p, np.uint8) for p in PICTURES]


def python2(pictures, same, protocol):
    "What Python 2 writes, whose `str` are bytes: opcodes that Python 3 has no more"
    if protocol == 0:
        # as `repr` of Python 2 writes a str
        quoted = [repr(p)[1:].encode() for p in pictures]
        items = b''.join(b'S' + q + b'\np%d\na' % (k + 3) for k,q in enumerate(quoted))
        return b'((lp1\n' + items + b'(lp99\n' + b''.join(b'I0%d\na' % s for s in same) + b'tp100\n.'
    def opened(p): return b'U' + bytes([len(p)]) if len(p) < 256 else b'T' + struct.pack('<i', len(p))
    items = b''.join(opened(p) + p + b'q\x05' for p in pictures)
    return b'\x80\x02]q\x01(' + items + b'e]q\x02(' + b''.join(b'\x88' if s else b'\x89' for s in same) + b'e\x86q\x03.'


FORMS = {
    **{f'bytes{p}': pickle.dumps((PICTURES, SAME), p) for p in range(6)},
    **{f'arrays{p}': pickle.dumps((ARRAYS, SAME), p) for p in range(6)},
    **{f'python2_{p}': python2(PICTURES, SAME, p) for p in (0, 2)},
    'scalars': pickle.dumps((PICTURES, list(np.array(SAME))), 2),
    'scalars4': pickle.dumps((PICTURES, list(np.array(SAME, '>i4'))), 4),
    'flags': pickle.dumps((tuple(PICTURES), np.array(SAME)), 4), 'numbers': pickle.dumps([PICTURES, [1, 0, 1]], 2),
    'big_endian': pickle.dumps((PICTURES, np.array(SAME, '>i8')), 3),
    'objects': pickle.dumps((np.array(PICTURES, object), SAME), 4),
    'column': pickle.dumps(([a[:, None] for a in ARRAYS], SAME), 4),
    'bytearrays': pickle.dumps(([bytearray(p) for p in PICTURES], SAME), 2),
    'old_numpy': pickle.dumps((ARRAYS, SAME), 2).replace(b'numpy._core.multiarray', b'numpy.core.multiarray')}


@pytest.mark.parametrize('form', FORMS)
def test_forms(tmp_path, form):
    (tmp_path/'lfw.bin').write_bytes(FORMS[form])
    pictures,same = read_bin(tmp_path/'lfw.bin')
    assert list(pictures) == PICTURES
    assert same.dtype == bool
    assert same.tolist() == SAME
    assert pictures[-1] == PICTURES[5]
    assert len(pictures) == 6
    address = f'{tmp_path}/lfw.bin#3'
    assert split_address(address) == (f'{tmp_path}/lfw.bin', 3)
    assert picture_bytes(address) == PICTURES[3]
    assert open_picture(address).size == (112, 112)


def test_repeated_pictures(tmp_path):
    "Python writes an object once and refers to it afterwards"
    pictures = [PICTURES[k] for k in (0, 1, 0, 0)]
    (tmp_path/'a.bin').write_bytes(pickle.dumps((pictures, [False, True]), 4))
    assert list(read_bin(tmp_path/'a.bin')[0]) == pictures


def test_written_and_read(unpickled, tmp_path):
    write_bin(iter(PICTURES), SAME, tmp_path/'x.bin')
    assert unpickled((tmp_path/'x.bin').read_bytes()) == (PICTURES, SAME)
    assert list(read_bin(tmp_path/'x.bin')[0]) == PICTURES
    assert os.listdir(tmp_path) == ['x.bin']
    with pytest.raises(ValueError, match='5 pictures for 3 pairs'): write_bin(PICTURES[:5], SAME, tmp_path/'y.bin')
    with pytest.raises(ValueError, match='true or false'): write_bin(PICTURES, [0, 1, 2], tmp_path/'y.bin')
    assert os.listdir(tmp_path) == ['x.bin']


def test_another_file_of_the_same_name(tmp_path):
    write_bin(PICTURES, SAME, tmp_path/'x.bin')
    assert len(BinPictures(tmp_path/'x.bin')) == 6
    write_bin(PICTURES[:2], SAME[:1], tmp_path/'x.bin')
    assert len(BinPictures(tmp_path/'x.bin')) == 2
    with pytest.raises(BinError, match='has 2 pictures, numbered from 0, and none of number 2'):
        picture_bytes(tmp_path/'x.bin#2')


class Evil:
    def __init__(self, call): self.call = call
    def __reduce__(self): return self.call


@pytest.mark.parametrize('protocol', [0, 2, 4])
@pytest.mark.parametrize('call, named', [
    ((os.system, ('touch here',)), 'system'), ((eval, ('1',)), 'eval'), ((getattr, (list, 'append')), 'getattr')])
def test_nothing_foreign_is_run(tmp_path, monkeypatch, protocol, call, named):
    monkeypatch.chdir(tmp_path)
    (tmp_path/'a.bin').write_bytes(pickle.dumps((PICTURES[:1] + [Evil(call)], [True]), protocol))
    with pytest.raises(BinError, match=rf"a\.bin asks for '.*{named}.*which no verification set needs"):
        read_bin(tmp_path/'a.bin')
    assert os.listdir() == ['a.bin']


@pytest.mark.parametrize('content, said', [
    (([], []), 'holds no picture'), ((PICTURES, SAME[:2]), '6 pictures for 2 pairs'),
    ((PICTURES, [1, 0, 3]), 'of pair 2 neither'), (PICTURES, 'not a pair'), ((PICTURES, 3), 'no list of pairs'),
    (((*PICTURES[:5], 'text'), SAME), 'something else than bytes as picture 5'),
    (([*PICTURES[:5], np.zeros((9, 9, 3), np.uint8)], SAME), r'pixels of shape \(9, 9, 3\) as picture 5'),
    (([b'']*2, [True]), 'has nothing as picture 0'),
    (([np.zeros(9, np.float32)]*2, [True]), "numbers of type 'f4'"), ({'a': 1}, 'unknown opcode')])
def test_other_contents(tmp_path, content, said):
    (tmp_path/'a.bin').write_bytes(pickle.dumps(content, 4))
    with pytest.raises(BinError, match=r'a\.bin .*' + said): read_bin(tmp_path/'a.bin')


def test_no_file_and_empty_file(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such verification set'): read_bin(tmp_path/'a.bin')
    (tmp_path/'a.bin').write_bytes(b'')
    with pytest.raises(BinError, match='is empty'): read_bin(tmp_path/'a.bin')


@pytest.mark.parametrize('claim', [b'\x80\x02B\xff\xff\xff\xff', b'\x80\x04\x8e' + b'\xff'*8,
                                   b'\x80\x04\x96' + b'\xff'*7 + b'\x7f', b'\x80\x02T\xff\xff\xff\x7f',
                                   b'\x80\x02]r\xff\xff\xff\xff0.', b'\x80\x02\x8b\xff\xff\xff\x7f',
                                   b'\x80\x04\x95' + b'\xff'*8 + b'N.'])
def test_lengths_that_are_lies(tmp_path, claim):
    (tmp_path/'a.bin').write_bytes(claim)
    tracemalloc.start()
    with pytest.raises(BinError, match=r'a\.bin'): read_bin(tmp_path/'a.bin')
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert most < 2**20


def test_thousands_of_damaged_files(tmp_path):
    "Only our own error, whatever the bytes; no hang, and no memory for lengths that are lies"
    tiny,rng = [b'jpeg %d' % k for k in range(4)], random.Random(0)
    arrays = [np.frombuffer(p, np.uint8) for p in tiny]
    flags = [True, False]
    forms = [pickle.dumps((x, y), p) for p in range(6) for x in (tiny, arrays) for y in (flags, np.array(flags))]
    forms += [python2(tiny, [True, False], p) for p in (0, 2)]
    read = refused = 0
    tracemalloc.start()
    for n in range(3000):
        data = bytearray(rng.choice(forms))
        for _ in range(rng.randint(1, 4)):
            k,how = rng.randrange(len(data)), rng.randrange(5)
            if how == 0: data[k] = rng.randrange(256)
            elif how == 1: data[k:k + 4] = struct.pack('<I', rng.choice([0, 1, 2**31 - 1, 2**31, 2**32 - 1]))
            elif how == 2: del data[k:k + rng.randint(1, 9)]
            elif how == 3: data[k:k] = data[rng.randrange(len(data)):][:rng.randint(1, 40)]
            else: data[k] = rng.choice(b'(]})tale0Rbcgqj.\x93\x94\x8a\x8e\x95')
            data = data or bytearray(b'.')
        file = tmp_path/f'{n}a.bin'  # what was read of a name is remembered
        file.write_bytes(data)
        try:
            list(read_bin(file)[0])
            read += 1
        except BinError as e:
            assert 'a.bin' in str(e)
            refused += 1
        file.unlink()
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read > 100
    assert refused > 1500
    assert most < 2**24
