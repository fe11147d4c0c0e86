"Pickles that would make a file, planted where each reader of the library reads: none of them runs"
import io
import pickle
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from qsd_fastai.callbacks.kept import read_state
from qsd_fastai.data.bins import read_bin
from qsd_fastai.data.labels import join_quality
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.pictures import open_picture
from qsd_fastai.data.sources import list_records
from qsd_fastai.data.table import read_table
from qsd_fastai.data.templates import read_templates
from qsd_fastai.embedder import Embedder
from qsd_fastai.evaluation.store import read_embeddings
from qsd_fastai.judging.models import open_model
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.weights.read import load_reference
from qsd_fastai.runs.folder import RunFolder

sys.path.insert(0, str(Path(__file__).parents[1]/'data_prep'))
from common.matlab import read_variables

ROWS = pd.DataFrame({'path': ['a.jpg'], 'identity': 'a', 'split': 'query'})


class Attack:
    def __init__(self, file): self.file = str(file)
    def __reduce__(self): return open, (self.file, 'w')


def forms(file):
    "The planted object as each program would write it"
    one,new,old,arrays = Attack(file), io.BytesIO(), io.BytesIO(), io.BytesIO()
    torch.save({'body.conv1.weight': one, 'emb': one}, new)
    torch.save({'body.conv1.weight': one, 'emb': one}, old, _use_new_zipfile_serialization=False)
    np.savez(arrays, path=np.array(['a.jpg']), emb=np.array([[one]], object))
    plain = pickle.dumps(([b'x', b'y'], [one]), 2)
    return {'zip': new.getvalue(), 'legacy': old.getvalue(), 'plain': plain, 'protocol 0': pickle.dumps(one, 0),
            'npz': arrays.getvalue(), 'module': pickle.dumps(torch.nn.Module(), 2)[:-1] + b'0' + pickle.dumps(one, 2)}


READERS = {
    'x.pth': lambda f: load_reference(Recognizer('test_resnet', 2), f, show=False),
    'x.ckpt': lambda f: open_model(weights=str(f), arch='test_resnet', size=(32, 32)),
    'x.safetensors': lambda f: load_reference(Recognizer('test_resnet', 2), f, show=False),
    'w.pth': lambda f: Recognizer('test_resnet', 2, pretrained=str(f)),
    'x.pt2': Embedder, 'x.onnx': Embedder, 'y.pt2': lambda f: open_model(exported=str(f)),
    'y.onnx': lambda f: open_model(exported=str(f)), 'x.npz': lambda f: read_embeddings(f, ROWS),
    'y.npz': lambda f: open_model(embeddings=str(f))[0](ROWS), 'x.bin': read_bin, 'x.rec': list_records,
    'x.state': read_state, 'run.json': lambda f: RunFolder('x', f.parent, {}, resume=True), 'x.csv': read_table,
    'x.parquet': read_table, 'x.jpg': open_picture, 'pairs.csv': lambda f: read_pairs(f, ROWS),
    'templates.csv': read_templates, 'quality.csv': lambda f: join_quality(ROWS, f)}


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('name', READERS)
@pytest.mark.parametrize('form', forms('x'))
def test_nothing_planted_runs(tmp_path, name, form):
    made = tmp_path/'executed'
    (tmp_path/name).write_bytes(forms(made)[form])
    with pytest.raises((ValueError, OSError)) as e: READERS[name](tmp_path/name)
    assert not made.exists()
    if not name.endswith('.csv'): assert name in str(e.value)


def test_the_planted_object_is_a_real_one(unpickled):
    assert unpickled(forms('executed')['protocol 0']) == (f'{open.__module__}.open', 'executed', 'w')


def test_matlab_files(tmp_path):
    for form,data in forms(tmp_path/'executed').items():
        (tmp_path/f'{form}.mat').write_bytes(data)
        with pytest.raises(ValueError, match=f'{form}.mat'): read_variables(tmp_path/f'{form}.mat', ['x'])
    assert not (tmp_path/'executed').exists()
