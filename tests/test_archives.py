"Archives: what they claim is compared with what there is before anything is read"
import io
import struct
import zipfile

import numpy as np
import pytest

from qsd_fastai.archives import open_archive, read_arrays


def archive(parts, compression=zipfile.ZIP_STORED):
    out = io.BytesIO()
    with zipfile.ZipFile(out, 'w', compression) as z:
        for name,data in parts: z.writestr(name, data)
    return out.getvalue()


def opened(data, **kwargs):
    with open_archive(io.BytesIO(data), len(data), **kwargs) as z: return {n: z.read(n) for n in z.namelist()}


def test_what_is_as_it_says_is_read():
    parts = {'a/data.pkl': b'x'*100, 'a/data/0': b'y'*1000}
    assert opened(archive(parts.items())) == parts
    assert opened(archive(parts.items(), zipfile.ZIP_DEFLATED), packed=True) == parts


def test_what_is_not_is_refused():
    small = archive([('a', bytes(10**6))], zipfile.ZIP_DEFLATED)
    assert len(small) < 2000
    with pytest.raises(ValueError, match="part 'a' is compressed"): opened(small)
    with pytest.raises(ValueError, match='no archive'): opened(b'nothing')
    with pytest.warns(UserWarning, match='Duplicate'): twice = archive([('a', b'1'), ('a', b'2')])
    with pytest.raises(ValueError, match='there twice'): opened(twice)
    one = bytearray(archive([('a', b'1'*20), ('b', b'2'*20)]))
    at = one.rfind(b'PK\x01\x02')
    one[at + 20:at + 28] = struct.pack('<II', 10**9, 10**9)  # what the list at the end says of b
    with pytest.raises(ValueError, match='more bytes than'): opened(bytes(one))
    locked = bytearray(archive([('a', b'1')]))
    locked[locked.rfind(b'PK\x01\x02') + 8] |= 1
    with pytest.raises(ValueError, match='password'): opened(bytes(locked))


def test_arrays_that_unpack_to_more_than_they_may(tmp_path, monkeypatch):
    monkeypatch.setattr('qsd_fastai.archives.MOST', 10**5)
    np.savez_compressed(tmp_path/'a.npz', emb=np.zeros((1000, 100), np.float32))
    with pytest.raises(ValueError, match='unpacks to 400128 bytes, more than 100000 and 200 times'):
        read_arrays(tmp_path/'a.npz', ['emb'])
    wanted = np.random.default_rng(0).normal(size=(1000, 100))
    np.savez_compressed(tmp_path/'b.npz', emb=wanted, other=[1])
    assert (read_arrays(tmp_path/'b.npz', ['emb'])[0] == wanted).all()


def test_an_array_that_claims_another_shape(tmp_path):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {'descr': '<f8', 'fortran_order': False, 'shape': (10**6, 10**6)})
    (tmp_path/'a.npz').write_bytes(archive([('emb.npy', file.getvalue() + bytes(80))]))
    with pytest.raises(ValueError, match='is not what it holds'): read_arrays(tmp_path/'a.npz', ['emb'])
