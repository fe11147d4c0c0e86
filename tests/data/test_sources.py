"Record files built byte by byte, as the public format says: what is read, what is refused, thousands of damaged ones"
import io
import pickle
import random
import struct
import tracemalloc

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qsd_fastai.data.blocks import RecognitionImage
from qsd_fastai.data.packing import write_records
from qsd_fastai.data.pictures import open_picture, picture_bytes
from qsd_fastai.data.sources import RecordError, list_records, read_record, split_address
from qsd_fastai.data.table import check_table, read_table, write_table
from qsd_fastai.plots.pictures import sheet_figure
from qsd_fastai.runs.wandb_tables import table_picture

MAGIC = b'\x0a\x23\xd7\xce'


def part(data, kind=0): return MAGIC + struct.pack('<I', kind << 29 | len(data)) + data + b'\0'*(-len(data) % 4)


def payload(labels, picture, id=0):
    if isinstance(labels, (int, float)): return struct.pack('<IfQQ', 0, labels, id, 0) + picture
    return struct.pack(f'<IfQQ{len(labels)}f', len(labels), 0., id, 0, *labels) + picture


def jpeg(k, size=(112, 112)):
    buf = io.BytesIO()
    Image.fromarray(np.random.default_rng(k).integers(0, 255, (*size, 3), np.uint8)).save(buf, 'JPEG')
    return buf.getvalue()


def write(folder, records, keys=None, index=True):
    "Record file and index; a record is the bytes of a payload, or a list of parts"
    at,lines,out = 0,[],b''
    for key,r in zip(keys or range(len(records)), records):
        lines.append(f'{key}\t{at}')
        out += r if isinstance(r, bytearray) else part(r)
        at = len(out)
    folder.mkdir(parents=True, exist_ok=True)
    (folder/'train.rec').write_bytes(out)
    if index: (folder/'train.idx').write_text('\n'.join(lines) + '\n')
    return folder/'train.rec'


def offsets(file): return [int(o.split('\t')[1]) for o in file.with_suffix('.idx').read_text().splitlines()]


@pytest.fixture
def faces(tmp_path):
    "As InsightFace writes them: key 0 names the end of the pictures, ranges of identities come behind"
    pictures = [jpeg(k) for k in range(5)]
    records = [payload(float(k//2), p, k + 1) for k,p in enumerate(pictures)]
    ranges = [payload([1., 3.], b''), payload([3., 6.], b'')]
    return write(tmp_path, [payload([6., 8.], b''), *records, *ranges]), pictures


@pytest.mark.parametrize('index', [True, False])
def test_ranges(faces, index):
    file,pictures = faces
    where = offsets(file)
    if not index: file.with_suffix('.idx').unlink()
    table = list_records(file)
    assert table.attrs['header'] == 'ranges'
    assert table['offset'].tolist() == where[1:6]
    assert table['label'].tolist() == [0, 0, 1, 1, 2]
    assert [picture_bytes(f'{file}#{o}') for o in table['offset']] == pictures
    assert read_record(file, where[0]) == ((6., 8.), b'')


def test_plain_keys_and_several_labels(tmp_path):
    pictures = [jpeg(k, (20, 30)) for k in range(3)]
    records = [payload([7., 1., 2.], pictures[0]), payload(3., pictures[1]), payload([9.], pictures[2])]
    file = write(tmp_path, records, keys=[0, 2, 1])
    table = list_records(file)
    assert table.attrs['header'] == 'plain'
    assert table['label'].tolist() == [7, 9, 3]  # in the order of the keys
    assert [picture_bytes(f'{file}#{o}') for o in table['offset']] == [pictures[0], pictures[2], pictures[1]]


@pytest.mark.parametrize('index', [True, False])
def test_a_record_in_parts(tmp_path, index):
    "A payload that holds the magic number is cut there, and the number is left out"
    whole = payload(4., b'abcd' + MAGIC + b'efgh' + MAGIC + b'ij')
    a,b,c = whole.split(MAGIC)
    cut = bytearray(part(a, 1) + part(b, 2) + part(c, 3))
    file = write(tmp_path, [payload(3., b'first'), cut, payload(5., b'last')], index=index)
    table = list_records(file)
    assert table['label'].tolist() == [3, 4, 5]
    assert picture_bytes(f'{file}#{table["offset"][1]}') == b'abcd' + MAGIC + b'efgh' + MAGIC + b'ij'
    assert picture_bytes(f'{file}#{table["offset"][2]}') == b'last'


def test_addresses(faces, tmp_path):
    file,pictures = faces
    address = f'{file}#{offsets(file)[3]}'
    assert split_address(address) == (str(file), offsets(file)[3])
    assert split_address('a#1.jpg') == ('a#1.jpg', None)
    (tmp_path/'a#1.jpg').write_bytes(pictures[2])
    image = np.asarray(open_picture(address))
    assert image.shape == (112, 112, 3)
    assert (image == np.asarray(open_picture(tmp_path/'a#1.jpg'))).all()
    assert (np.asarray(RecognitionImage.create(address)) == image).all()
    assert table_picture(address).image.size == (112, 112)
    assert sheet_figure([[address]]).axes


def test_a_table_over_a_record_file(faces, tmp_path):
    file,_ = faces
    where = offsets(file)[1:6]
    table = pd.DataFrame({'path': [f'train.rec#{o}' for o in where], 'identity': list('aabbc'), 'split': 'train'})
    table.attrs['root'] = str(file.parent)
    (tmp_path/'sub').mkdir()
    moved = write_table(table, tmp_path/'sub'/'images.csv')
    assert moved['path'][0] == f'../train.rec#{where[0]}'
    assert read_table(tmp_path/'sub'/'images.csv')['path'].equals(moved['path'])
    late = table.assign(path=[*table['path'][:4], f'train.rec#{file.stat().st_size}'])
    with pytest.raises(ValueError, match=r'Row 4 .*beyond the end of train\.rec'): check_table(late)
    other = table.assign(path=[*table['path'][:4], 'other.rec#0'])
    with pytest.raises(FileNotFoundError, match=r"row 4 .*'other\.rec#0'"): check_table(other)


@pytest.mark.parametrize('change, said', [
    (lambda b, at: b[:at + 4], 'the file ends'), (lambda b, at: b[:at + 60], 'bytes long and the file ends'),
    (lambda b, at: b[:at] + b'jpeg' + b[at + 4:], 'begins with .* not 0xced7230a'),
    (lambda b, at: b[:at + 7] + b'\x60' + b[at + 8:], 'a part of kind 3'),
    (lambda b, at: b[:at + 8] + b'\xff\xff' + b[at + 10:], '65535 labels')])
def test_damaged_records(faces, change, said):
    file,_ = faces
    at = offsets(file)[2]
    file.write_bytes(change(file.read_bytes(), at))
    with pytest.raises(RecordError, match=rf'train\.rec, record at byte {at}: .*{said}'): read_record(file, at)
    with pytest.raises(RecordError, match=r'train\.rec'): RecognitionImage.create(f'{file}#{at}')


@pytest.mark.parametrize('line, said', [('x\t3', "line 9: 'x.t3' is not"), ('3', 'line 9'), ('90\t-4', 'outside'),
                                        ('90\t99999999', 'outside the record file'), ('3\t0', 'a key twice')])
def test_damaged_index(faces, line, said):
    file,_ = faces
    with open(file.with_suffix('.idx'), 'a') as f: f.write(line + '\n')
    with pytest.raises(RecordError, match=r'train\.idx.*' + said.replace('x.t3', r'x.*3')): list_records(file)


def test_what_is_no_record_file(faces, tmp_path):
    file,_ = faces
    with pytest.raises(FileNotFoundError, match='no such record file'): list_records(tmp_path/'none.rec')
    (tmp_path/'p.rec').write_bytes(pickle.dumps([b'x']*9))
    with pytest.raises(RecordError, match=r'p\.rec, record at byte 0: does not begin'): list_records(tmp_path/'p.rec')
    (tmp_path/'e.rec').write_bytes(b'')
    with pytest.raises(RecordError, match='is empty'): list_records(tmp_path/'e.rec')
    file.with_suffix('.idx').write_text('0\t0\n1\t4\n')  # an index of another file
    with pytest.raises(RecordError, match='at byte'): list_records(file)


def test_thousands_of_damaged_files(faces, tmp_path):
    "Only our own error, whatever the bytes; no hang, and no memory for lengths that are lies"
    file,_ = faces
    records = [payload(float(k//2), b'picture%d' % k) for k in range(5)]
    small = write(tmp_path/'small', [payload([6., 8.], b''), *records, payload([1., 3.], b'')])
    whole,index,rng = small.read_bytes(), small.with_suffix('.idx').read_bytes(), random.Random(0)
    def mutate(data):
        data = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            k = rng.randrange(len(data))
            how = rng.randrange(4)
            if how == 0: data[k] = rng.randrange(256)
            elif how == 1:
                data[k:k + 4] = struct.pack('<I', rng.choice([0, 1, 2**29 - 1, 2**31, 2**32 - 1, 0xced7230a]))
            elif how == 2: del data[k:k + rng.randint(1, 9)]
            else: data[k:k] = data[rng.randrange(len(data)):][:rng.randint(1, 40)]
            if not data: data = bytearray(b'\0')
        return bytes(data)
    read = refused = 0
    tracemalloc.start()
    for n in range(3000):
        small.write_bytes(mutate(whole) if n % 3 else whole)
        if n % 3 == 2: small.with_suffix('.idx').unlink(missing_ok=True)
        else: small.with_suffix('.idx').write_bytes(mutate(index) if n % 3 == 0 else index)
        try:
            for o in list_records(small)['offset']: read_record(small, int(o))
            read += 1
        except RecordError as e:
            assert 'small' in str(e)
            refused += 1
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert read > 100
    assert refused > 1000
    assert most < 2**24


@pytest.mark.parametrize('gone', [2, 4])
def test_an_index_with_lines_missing_is_not_a_smaller_set(faces, tmp_path, gone):
    file,_ = faces
    (tmp_path/'plain').mkdir()
    plain = write(tmp_path/'plain', [payload(float(k), jpeg(k)) for k in range(5)])
    for o in (file, plain):
        lines = o.with_suffix('.idx').read_text().splitlines()
        o.with_suffix('.idx').write_text('\n'.join(lines[:gone] + lines[gone + 1:]) + '\n')
        with pytest.raises(RecordError, match=r'idx lacks records .* Remove it'): list_records(o)
        o.with_suffix('.idx').unlink()
        assert len(list_records(o)) == 5


def test_a_lost_index_is_not_blamed(tmp_path):
    file = tmp_path/'train.rec'
    write_records([(0, b'abc'), (1, b'defg'), (1, b'hi')], file, size=(1, 2))
    file.with_suffix('.idx').unlink()
    with open(file, 'r+b') as f: f.truncate(list_records(file)['offset'].iloc[2])
    with pytest.raises(RecordError, match=r'train\.rec.*no train\.idx is beside it'): list_records(file)
