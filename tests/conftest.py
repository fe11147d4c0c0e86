"Golden vectors, the weights that those of the AGW network were made with, and a tiny set of people"
import io
import math
import os
import pickle
import random
import re
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.torch_core import defaults
from PIL import Image

from qsd_fastai.data.table import write_table
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.runs.folder import opened

GOLDEN = Path(__file__).parent/'golden'
sys.path.insert(0, str(Path(__file__).parent)) # For `started`

if 'PYTEST_XDIST_WORKER' in os.environ: # Every core has a test already, and so have the programs that tests start
    os.environ['OMP_NUM_THREADS'] = '1'
    torch.set_num_threads(1)


os.environ.setdefault('NVIDIA_TF32_OVERRIDE', '0') # What runs on a GPU is compared with the CPU, in programs too


@pytest.fixture
def on_cpu(monkeypatch):
    "Learners stay on the CPU, where what they are compared with is, and where a process may be forked"
    monkeypatch.setattr(defaults, 'use_cuda', False)


@pytest.fixture(autouse=True)
def leave_runs():
    "A test that opens runs leaves their folders"
    yield
    for o in list(opened): o.close()


@pytest.fixture(scope='session')
def golden():
    "Open a golden file by name"
    return lambda name: np.load(GOLDEN/f'{name}.npz', allow_pickle=False)


class _Calls(pickle.Unpickler):
    "Names what a pickle would call, with its arguments, and calls nothing"
    def find_class(self, module, name): return lambda *args: (f'{module}.{name}', *args)


@pytest.fixture(scope='session')
def unpickled():
    "A function of the bytes of a pickle: what it holds, in place of each object that it makes `(function, *arguments)`"
    return lambda data: _Calls(io.BytesIO(data), encoding='bytes').load()


@pytest.fixture(scope='session')
def script():
    "A function of a path, such as 'recipes/evaluate.py': the script there as a module"
    def load(path):
        file = GOLDEN.parents[1]/path
        spec = spec_from_file_location(f'{file.parent.name}_{file.stem}', file)
        module = module_from_spec(spec)
        sys.path.insert(0, str(file.parent)) # As for a script that is started
        try: spec.loader.exec_module(module)
        finally: sys.path.remove(str(file.parent))
        return module
    return load


@pytest.fixture(scope='session')
def damaged():
    "A function of the bytes of a file: `n` copies, each with 1 to `most` of its bytes drawn anew"
    def make(whole, n, most):
        rng,found = random.Random(0),[]
        for _ in range(n):
            data = bytearray(whole)
            for _ in range(rng.randint(1, most)): data[rng.randrange(len(data))] = rng.randrange(256)
            found.append(bytes(data))
        return found
    return make


def _fill(i, key, shape):
    # one frozen random stream for each key, scaled so that activations stay moderate through 50 layers
    noise = np.random.RandomState(1000 + i).standard_normal(shape)
    if key == 'global_pool.p': return np.full(1, 3.)
    if key.endswith('running_mean'): return .1*noise
    if key.endswith('running_var'): return 1 + .1*np.abs(noise)
    if len(shape) == 4: return noise/math.sqrt(np.prod(shape[1:]))
    if len(shape) == 2: return .02*noise
    value = 1 + .1*noise if key.endswith('weight') else .1*noise
    last = 'base.layer4' in key and ('.bn3.' in key or '.downsample.1.' in key)
    return .1*value if last else value


@pytest.fixture(scope='session')
def golden_weights(golden):
    "A function of a golden file's name: the weights it was made with, in the key names of their project, float64"
    def make(name):
        d,found = golden(name),{}
        for i,(k, s) in enumerate(zip(d['state_keys'], d['state_shapes'])):
            key,shape = str(k),tuple(map(int, re.findall(r'\d+', str(s))))
            whole = key.endswith(('num_batches_tracked', 'relative_position_index'))
            found[key] = torch.zeros(shape, dtype=torch.long) if whole else torch.from_numpy(_fill(i, key, shape))
        return found
    return make


@pytest.fixture(scope='session')
def agw_weights(golden_weights):
    "State dict of the published AGW network, in its own key names, float64"
    return golden_weights('agw_resnet50_nl_forward')


@pytest.fixture(scope='session')
def labelled_people(tmp_path_factory):
    """A tiny set of generated people, 8 to train on and 6 to be found, whose labels are their true quality.

    Also in `labelled.csv` beside it."""
    table = generate_people(tmp_path_factory.mktemp('people'), n_train=8, n_test=6, n_imgs=6, n_test_imgs=4,
                            size=(64, 32), progress=False)
    labelled = table.assign(quality=table['true_quality'])
    labelled.attrs = table.attrs
    return write_table(labelled, Path(table.attrs['root'])/'labelled.csv')


@pytest.fixture(scope='module')
def one_thread():
    "Tiny networks are faster without threads, the more so where tests share the machine"
    n = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(n)


@pytest.fixture(scope='session')
def make_table(tmp_path_factory):
    """A function of the number of training pictures of each identity: a table of noise.

    It has two held-out identities unless told otherwise."""
    def make(counts, n_held=2, size=(16, 8)):
        root,rng,rows = tmp_path_factory.mktemp('pictures'), np.random.default_rng(0), []
        people = [(f'p{i:02}', ['train']*n) for i,n in enumerate(counts)]
        people += [(f'h{i}', ['query', 'gallery', 'gallery']) for i in range(n_held)]
        for identity,splits in people:
            for k,split in enumerate(splits):
                quality = 10.*len(rows) % 100 if len(rows) % 7 else np.nan
                rows.append((f'{identity}_{k}.png', identity, f'c{k % 3}', split, quality))
                Image.fromarray(rng.integers(0, 255, (*size, 3), np.uint8)).save(root/rows[-1][0])
        table = pd.DataFrame(rows, columns=['path', 'identity', 'camera', 'split', 'quality'])
        table.attrs['root'] = str(root)
        return table
    return make
