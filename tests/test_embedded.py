"Embeddings in Parquet files: all of them, once, by any number of processes, and of one model"
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from PIL import Image

from qsd_fastai.embedded import embed_to, read_embedded


class Mean:
    "Stands for an `Embedder`: the mean colour"
    def __init__(self, tmp_path, name='model.onnx'):
        self.file,self.spec,self.calls = tmp_path/name,SimpleNamespace(nf=3),[]
        self.file.write_bytes(name.encode())

    def embed(self, data, bs=64, workers=4, flip=False):
        self.calls.append(len(data))
        emb = [np.asarray(Image.open(o)).mean((0, 1)) for o in data]
        return data, np.float32(emb)*(1 + flip)


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path/'pictures'
    folder.mkdir()
    for k in range(10): Image.new('RGB', (4, 4), (k, 2*k, 3*k)).save(folder/f'{k:02d}.png')
    return folder


def wanted(n=10): return np.float32([[k, 2*k, 3*k] for k in range(n)])


def test_all_are_there_in_order(pictures, tmp_path):
    embedder,out = Mean(tmp_path),tmp_path/'out'
    assert [o.name for o in embed_to(embedder, pictures, out, rows=4)] == [f'part-0000{k}.parquet' for k in range(3)]
    assert embedder.calls == [4, 4, 2] # Never more at a time
    names,emb = read_embedded(out)
    assert names == [str(pictures/f'{k:02d}.png') for k in range(10)]
    np.testing.assert_array_equal(emb, wanted())
    assert emb.dtype == np.float32
    frame = pd.read_parquet(out) # As others read it
    assert list(frame) == ['path', 'embedding']
    np.testing.assert_array_equal(np.stack(frame['embedding']), wanted())


def test_a_table_keeps_its_paths(pictures, tmp_path):
    table = pd.DataFrame({'path': ['03.png', '01.png']})
    table.attrs['root'] = str(pictures)
    embed_to(Mean(tmp_path), table, tmp_path/'out', half=True)
    names,emb = read_embedded(tmp_path/'out')
    assert names == ['03.png', '01.png']
    np.testing.assert_array_equal(emb, wanted()[[3, 1]])
    assert emb.dtype == np.float16


def test_processes_share_and_a_stopped_one_is_gone_on_with(pictures, tmp_path):
    embedder,out = Mean(tmp_path),tmp_path/'out'
    assert [o.stem for o in embed_to(embedder, pictures, out, 2, (1, 2))] == ['part-00001', 'part-00003']
    with pytest.raises(FileNotFoundError, match=r'lacks part-00000\.parquet'): read_embedded(out)
    assert len(embed_to(embedder, pictures, out, 2, (0, 2))) == 3
    np.testing.assert_array_equal(read_embedded(out)[1], wanted())
    (out/'part-00002.parquet').unlink()
    assert [o.name for o in embed_to(embedder, pictures, out, 2)] == ['part-00002.parquet']
    assert len(embedder.calls) == 6
    np.testing.assert_array_equal(read_embedded(out)[1], wanted())


def test_a_picture_that_cannot_be_read_leaves_no_half_file(pictures, tmp_path):
    (pictures/'05.png').write_bytes(b'no picture')
    with pytest.raises(OSError, match=r'05\.png'): embed_to(Mean(tmp_path), pictures, tmp_path/'out', rows=4)
    assert [o.name for o in (tmp_path/'out').iterdir()] == ['part-00000.parquet']
    Image.new('RGB', (4, 4), (5, 10, 15)).save(pictures/'05.png')
    embed_to(Mean(tmp_path), pictures, tmp_path/'out', rows=4)
    np.testing.assert_array_equal(read_embedded(tmp_path/'out')[1], wanted())


def test_what_is_of_another_model_or_other_pictures_is_refused(pictures, tmp_path):
    out = tmp_path/'out'
    embed_to(Mean(tmp_path), pictures, out)
    for embedder,how in ((Mean(tmp_path, 'other.onnx'), {}), (Mean(tmp_path), {'flip': True}),
                         (Mean(tmp_path), {'half': True}), (Mean(tmp_path), {'rows': 5})):
        with pytest.raises(ValueError, match=r'part-00000\.parquet holds .* another model'):
            embed_to(embedder, pictures, out, **how)
    embed_to(Mean(tmp_path), pictures, tmp_path/'more', 5) # What is left of more pictures would be read as well
    with pytest.raises(ValueError, match=r'part-00001\.parquet holds .* other pictures'):
        embed_to(Mean(tmp_path), sorted(pictures.iterdir())[:5], tmp_path/'more', 5)
    table = pq.read_table(out/'part-00000.parquet').replace_schema_metadata()
    pq.write_table(table, out/'part-00000.parquet') # Of somebody else
    with pytest.raises(ValueError, match='another model'): embed_to(Mean(tmp_path), pictures, out)


def test_what_has_no_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match='type Image'):
        embed_to(Mean(tmp_path), [Image.new('RGB', (4, 4))], tmp_path/'out')
    with pytest.raises(ValueError, match='rows is 0'): embed_to(Mean(tmp_path), [], tmp_path/'out', rows=0)
