"Files of embeddings from elsewhere: what fits is read, whatever else is named"
import io
import zipfile

import numpy as np
import pandas as pd
import pytest
import torch

from qsd_fastai.evaluation.store import read_embeddings, write_embeddings

TABLE = pd.DataFrame({'path': ['b', 'a']})
EMB = np.random.default_rng(0).normal(size=(3, 5)).astype(np.float32)


@pytest.mark.parametrize('dtype', ['<f2', '<f4', '>f4', '<f8', '>f8', 'i4', 'u1', np.longdouble])
@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
def test_embeddings_of_every_kind_of_number(tmp_path, dtype, save):
    emb = (100*EMB).astype(dtype)
    save(tmp_path/'e.npz', path=np.array(['a', 'b', 'c']), emb=np.asfortranarray(emb), other=[1])
    found = read_embeddings(tmp_path/'e.npz', TABLE)
    assert found.is_floating_point()
    np.testing.assert_allclose(found, emb[[1, 0]].astype(float), rtol=1e-6)


def test_what_we_write_comes_back(tmp_path):
    write_embeddings(tmp_path/'e.npz', TABLE, torch.from_numpy(EMB[:2]), {'a': 1})
    assert (read_embeddings(tmp_path/'e.npz', TABLE).numpy() == EMB[:2]).all()


def files():
    def saved(**arrays):
        out = io.BytesIO()
        np.savez(out, **arrays)
        return out.getvalue()
    path,one = np.array(['a', 'b']), io.BytesIO()
    np.save(one, EMB)
    return {'nothing': b'', 'text': b'path,emb', 'one array': one.getvalue(), 'no emb': saved(path=path),
            'objects': saved(path=np.array(['a', None], object), emb=EMB[:2]),
            'text as numbers': saved(path=path, emb=path), 'complex': saved(path=path, emb=EMB[:2] + 1j),
            'records': saved(path=path, emb=np.zeros(2, 'f4,f4')),
            'another length': saved(path=path, emb=EMB), 'another shape': saved(path=path, emb=EMB[0, :2]),
            'twice': saved(path=np.array(['a', 'a']), emb=EMB[:2]),
            'others': saved(path=np.array(['x', 'y']), emb=EMB[:2])}


@pytest.mark.parametrize('k', files())
def test_what_is_none_is_named(tmp_path, k):
    (tmp_path/'e.npz').write_bytes(files()[k])
    with pytest.raises(ValueError, match=r'e\.npz .*\. .*\.'): read_embeddings(tmp_path/'e.npz', TABLE)


def test_changed_bytes_are_read_or_refused(tmp_path):
    np.savez_compressed(tmp_path/'e.npz', path=np.array(['a', 'b', 'c']), emb=EMB)
    rng,whole = np.random.default_rng(0), (tmp_path/'e.npz').read_bytes()
    for _ in range(400):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 6)): data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path/'e.npz').write_bytes(data[:rng.integers(len(data))] if rng.random() < .3 else data)
        try: read_embeddings(tmp_path/'e.npz', TABLE)
        except ValueError as e: assert 'e.npz' in str(e)


def test_a_file_that_unpacks_to_gigabytes_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path/'e.npz', 'w', zipfile.ZIP_DEFLATED) as z:
        for name in ('path.npy', 'emb.npy'):
            with z.open(name, 'w') as f:
                for _ in range(300): f.write(bytes(2**20))
    assert (tmp_path/'e.npz').stat().st_size < 10**6
    with pytest.raises(ValueError, match=r'e\.npz.*unpacks to'): read_embeddings(tmp_path/'e.npz', TABLE)
