"Crafted files of weights: they run nothing, take no time and no room, and are refused by name"
import io
import pickle
import struct
import time
import tracemalloc
import zipfile

import pytest
import torch
from torch import nn

from qsd_fastai.models.weights import safe_pickle
from qsd_fastai.models.weights.safe_pickle import Inert, read_checkpoint, state_of

# pieces of pickles: empty tuple, put it under a number, get it, tuple of two, empty dict, set an item, stop
EMPTY,DICT,ITEM,STOP = b')', b'}', b's', b'.'
NEST = b''.join(b'q' + bytes([i]) + b'h' + bytes([i]) + b'\x86' for i in range(60))  # a pair of itself, 60 deep


def global_(module, name): return b'c' + module.encode() + b'\n' + name.encode() + b'\n'


def storage(numel, key=b'0'):
    return (b'(X\x07\0\0\0storage' + global_('torch', 'FloatStorage') + b'X\x01\0\0\0' + key + b'X\x03\0\0\0cpu' +
            b'J' + struct.pack('<i', numel) + b'tQ')


def ints(*values): return b'(' + b''.join(b'\x8a\x08' + struct.pack('<q', v) for v in values) + b't'


def tensor(numel, size, stride, offset=0):
    given = storage(numel) + b'\x8a\x08' + struct.pack('<q', offset) + ints(*size) + ints(*stride)
    hooks = global_('collections', 'OrderedDict') + b')R'
    return global_('torch._utils', '_rebuild_tensor_v2') + b'(' + given + b'\x89' + hooks + b'tR'


BAD = {
    'a key hashes for ever': DICT + EMPTY + NEST + b'N' + ITEM,
    'keys of a dict at once': b'(' + EMPTY + NEST + b'Nd', 'several items at once': DICT + b'(' + EMPTY + NEST + b'Nu',
    'a set': b'\x8f(' + EMPTY + NEST + b'\x90', 'a frozen set': b'(' + EMPTY + NEST + b'\x91',
    'a set by name': global_('builtins', 'set') + b'(' + b']' + EMPTY + NEST + b'a' + b'tR',
    'an ordered one': global_('collections', 'OrderedDict') + b'(](' + EMPTY + NEST + b'N\x86etR',
    'a huge number': DICT + b'\x8b' + struct.pack('<i', 2**16) + b'\x01'*2**16 + b'N' + ITEM,
    'room before a look': b'\x96' + struct.pack('<Q', 2**62), 'text before a look': b'\x8d' + struct.pack('<Q', 2**62),
    'bytes before a look': b'\x8e' + struct.pack('<Q', 2**40), 'no end': b'(((', 'nothing': b'',
    'a tensor larger than its numbers': tensor(4, (10**6, 10**6), (0, 0)), 'below its start': tensor(4, (2,), (1,), -3),
    'beyond its end': tensor(4, (2,), (1,), 3), 'of negative steps': tensor(4, (2,), (-1,)),
    'of negative size': tensor(4, (-2, -2), (1, 1)), 'of no sizes': tensor(4, (), (1,)),
    'of other numbers': tensor(5, (5,), (1,)), 'no storage': global_('torch._utils', '_rebuild_tensor_v2') + b'(NNNNtR'}


def archive(data, numbers=bytes(16), compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compression) as z:
        z.writestr('archive/data.pkl', data)
        z.writestr('archive/data/0', numbers)
    return out.getvalue()


def legacy(data):
    first = pickle.dumps(safe_pickle.LEGACY_MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({}, 2)
    return first + data + pickle.dumps(['0'], 2) + struct.pack('<q', 4) + bytes(16)


@pytest.mark.parametrize('form', [archive, legacy])
@pytest.mark.parametrize('k', BAD)
def test_crafted_files_are_refused_at_once(tmp_path, k, form):
    (tmp_path/'x.pth').write_bytes(form(b'\x80\x02' + BAD[k] + STOP))
    start = time.perf_counter()
    tracemalloc.start()
    with pytest.raises(ValueError, match=r'x\.pth cannot be read as PyTorch weights'): read_checkpoint(tmp_path/'x.pth')
    assert tracemalloc.get_traced_memory()[1] < 2**27
    tracemalloc.stop()
    assert time.perf_counter() - start < 5


@pytest.mark.parametrize('form', [archive, legacy])
def test_a_tensor_by_hand_is_read(tmp_path, form):
    "So that what is refused above is refused for what it says"
    (tmp_path/'x.pth').write_bytes(form(b'\x80\x02' + tensor(4, (2, 2), (2, 1)) + STOP))
    assert read_checkpoint(tmp_path/'x.pth').tolist() == [[0, 0], [0, 0]]


def test_compressed_parts_are_refused(tmp_path):
    torch.save({'a': torch.zeros(10**6)}, tmp_path/'x.pth')
    read_checkpoint(tmp_path/'x.pth')
    data = archive(b'\x80\x02N.', bytes(10**8), zipfile.ZIP_DEFLATED)
    assert len(data) < 10**6
    (tmp_path/'x.pth').write_bytes(data)
    with pytest.raises(ValueError, match=r'x\.pth.*is compressed'): read_checkpoint(tmp_path/'x.pth')


def test_places_in_the_memo_cost_nothing(tmp_path):
    "The pickle of C makes room for all numbers below the highest"
    (tmp_path/'x.pth').write_bytes(archive(b'\x80\x02Nr\xff\xff\xff\x7fj\xff\xff\xff\x7f.'))
    tracemalloc.start()
    assert read_checkpoint(tmp_path/'x.pth') is None
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


def test_a_module_within_itself():
    one = Inert()
    one.state = {'_modules': {'a': one, 'b': one}, '_parameters': [1], '_buffers': 3}
    with pytest.raises(RecursionError, match='holds itself'): state_of(one)


def test_what_people_save_is_read(tmp_path):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    opt = torch.optim.Adam(model.parameters())
    model(torch.zeros(2, 3, 8, 8)).sum().backward()
    opt.step()
    whole = {'model': model.state_dict(), 'opt': opt.state_dict(), 'epoch': 3, ('a', 1): {2, 3}, 'big': 2**100,
             'seen': {'a', 'b'}, None: [(), {}, b'x'], 1.5: {True: torch.float32}}
    for new in (True, False):
        torch.save(whole, tmp_path/'x.pth', _use_new_zipfile_serialization=new)
        found = read_checkpoint(tmp_path/'x.pth')
        assert found.keys() == whole.keys()
        assert found['seen'] == whole['seen']
        assert found['opt']['param_groups'] == whole['opt']['param_groups']
        assert torch.equal(found['model']['1.running_mean'], whole['model']['1.running_mean'])
        assert found['model']._metadata == whole['model']._metadata


def test_changed_bytes_are_read_or_refused(tmp_path):
    rng = torch.Generator().manual_seed(0)
    def draw(n): return int(torch.randint(n, (1,), generator=rng))
    torch.save({'a': torch.arange(6.).view(2, 3), 'b': [1, {'c': 'd'}]}, tmp_path/'new.pth')
    torch.save({'a': torch.arange(6.).view(2, 3), 'b': [1, {'c': 'd'}]}, tmp_path/'old.pth',
               _use_new_zipfile_serialization=False)
    for name in ('new.pth', 'old.pth'):
        whole = (tmp_path/name).read_bytes()
        for _ in range(300):
            data = bytearray(whole)
            for _ in range(1 + draw(4)): data[draw(len(data))] = draw(256)
            (tmp_path/'x.pth').write_bytes(data[:draw(len(data))] if draw(4) == 0 else data)
            try: read_checkpoint(tmp_path/'x.pth')
            except ValueError as e: assert 'x.pth cannot be read' in str(e)
