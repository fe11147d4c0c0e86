"Record files written, and read back byte for byte"
import io
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from qsd_fastai.data.packing import write_records
from qsd_fastai.data.sources import list_records, read_record

MAGIC = b'\x0a\x23\xd7\xce'


def png(k, size=(20, 30)):
    buf = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 255, (*size, 3), np.uint8)).save(buf, 'PNG')
    return buf.getvalue()


@pytest.mark.parametrize('style', ['ranges', 'plain'])
@pytest.mark.parametrize('index', [True, False])
def test_round_trip(tmp_path, style, index):
    labels,pictures,file = [0, 0, 1, 3, 3], [png(k) for k in range(5)], tmp_path/'train.rec'
    assert write_records(zip(labels, pictures), file, style=style) == (5, 3)
    assert (tmp_path/'property').read_text() == '3,20,30\n'
    assert sorted(os.listdir(tmp_path)) == ['property', 'train.idx', 'train.rec']
    if not index: (tmp_path/'train.idx').unlink()
    table = list_records(file)
    assert table.attrs['header'] == style
    assert table['label'].tolist() == labels
    assert [read_record(file, o) for o in table['offset']] == [((float(n),), p) for n,p in zip(labels, pictures)]


def test_bytes_of_a_file(tmp_path):
    "As the public format says, with the ranges of identities behind the pictures"
    write_records([(0, b'abc'), (7, b'defg'), (7, b'hi')], tmp_path/'train.rec', size=(1, 2))
    def record(flag, label, id, rest):
        head = struct.pack('<IIfQQ', 24 + len(rest), flag, label, id, 0)
        return MAGIC + head + rest + b'\0'*(-len(rest) % 4)
    def two(a, b): return struct.pack('<2f', a, b)
    parts = [record(2, 0, 0, two(4, 6)), record(0, 0, 1, b'abc'), record(0, 7, 2, b'defg'), record(0, 7, 3, b'hi'),
             record(2, 0, 4, two(1, 2)), record(2, 0, 5, two(2, 4))]
    assert (tmp_path/'train.rec').read_bytes() == b''.join(parts)
    starts = np.cumsum([0, *map(len, parts)])[:-1]
    assert (tmp_path/'train.idx').read_text() == ''.join(f'{k}\t{o}\n' for k,o in enumerate(starts))


PIECES = st.lists(st.sampled_from([MAGIC, b'a', b'bc', MAGIC[:2], MAGIC[2:]]), min_size=1, max_size=12)


@settings(max_examples=60, deadline=None)
@given(st.lists(PIECES.map(b''.join), min_size=1, max_size=4))
def test_pictures_that_hold_the_magic_number(tmp_path_factory, pictures):
    file = tmp_path_factory.mktemp('rec')/'train.rec'
    write_records(((0, p) for p in pictures), file, size=(1, 1), style='plain')
    table = list_records(file)
    assert [read_record(file, o)[1] for o in table['offset']] == pictures
    file.with_suffix('.idx').unlink()
    assert list_records(file)['offset'].tolist() == table['offset'].tolist()


@pytest.mark.parametrize('labels, said', [([0, 1, 0], 'Identity 0 comes again'), ([-1], '-1 is not the number'),
                                          ([2**24], 'is not the number'), ([.5], '0.5 is not'), ([], 'no pictures')])
def test_what_cannot_be_written_leaves_what_was_there(tmp_path, labels, said):
    file = tmp_path/'train.rec'
    write_records([(0, png(0))], file)
    had = file.read_bytes()
    with pytest.raises(ValueError, match='Picture 1 of those to write is empty'):
        write_records([(0, png(0)), (0, b'')], file)
    with pytest.raises(ValueError, match=said): write_records(((n, png(k)) for k,n in enumerate(labels)), file)
    assert file.read_bytes() == had
    assert sorted(os.listdir(tmp_path)) == ['property', 'train.idx', 'train.rec']


def test_names(tmp_path):
    with pytest.raises(ValueError, match=r"ends in '\.bin'\. A record file ends in \.rec\."):
        write_records([(0, b'x')], tmp_path/'a.bin')
    with pytest.raises(ValueError, match="style is 'x'"): write_records([(0, b'x')], tmp_path/'a.rec', style='x')
