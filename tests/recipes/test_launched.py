"The recipes as `torchrun` starts them: two processes, one folder, one run"
import json
import re
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.learner import load_learner
from started import launch

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.table import read_table
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.learner import recognition_learner

ROOT = Path(__file__).parents[2]
tiny = ['--data', 'people/images.csv', '--arch', 'test_resnet', '--height', 32, '--width', 16, '--n-ids', 3,
        '--n-imgs', 3, '--epochs', 2, '--tune-epochs', 1, '--lr', 1e-2]


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('launched')
    generate_people(folder/'people', n_train=8, n_test=6, n_imgs=6, n_test_imgs=4, size=(48, 24), progress=False)
    return folder


def launched(folder, *args, n=2, code=0, script='recipes/reid.py', **options):
    codes,said = launch(n, ROOT/script, *args, folder=folder, WANDB_MODE='offline', COLUMNS='200', **options)
    assert code is None or codes == [code]*n, '\n\n'.join(o[-3000:] for o in said)
    return said


def test_two_processes_make_one_run(people):
    args = [*tiny, '--out', 'two', '--arms', 'with,octuplet', '--sync-bn', '--fast']
    said,other = launched(people, *args)
    assert other == ''
    assert '2 processes' in said
    assert len(re.findall(r'^[01] +\d+\.\d+ +', said, re.M)) == 4
    results = pd.read_csv(people/'two'/'results.csv', index_col=0)
    assert list(results.index) == ['baseline', 'fine-tuned with QSD', 'Octuplet loss']
    assert results.notna().all(axis=None)
    assert sorted(o.name for o in people.iterdir()) == ['people', 'two']
    assert len(list((people/'two'/'wandb').glob('offline-run-*'))) == 4  # the last one compares
    assert not list((people/'two').glob('*.state'))
    assert pd.read_csv(people/'two'/'baseline_batches.csv')['batch'].tolist() == [0, 1, 2, 3]
    learn = load_learner(people/'two'/'baseline.pkl')
    assert learn.embed(people/'people'/'images').shape == (72, 96)

    # of finished stages nothing is left to do, for one process as for two
    said, = launched(people, *args, '--resume', n=1)
    assert said.count('epochs were done') == 3
    pd.testing.assert_frame_equal(pd.read_csv(people/'two'/'results.csv', index_col=0), results)


def test_what_one_of_them_refuses_ends_all(people):
    said,other = launched(people, *tiny, '--out', 'people', '--resume', code=1)
    assert 'holds no run' in said
    assert 'Traceback' not in said + other


def test_labels_and_figures_are_those_of_one_process(people):
    dls = recognition_dataloaders(read_table(people/'people'/'images.csv'), size=(32, 16), n_ids=2, n_imgs=2,
                                  num_workers=0)
    torch.manual_seed(0)
    recognition_learner(dls, 'test_resnet', path=people).export('model.pkl')
    found = {}
    for n in (1, 2):
        out = [f'{o}{n}' for o in ('labelled', 'judged')]
        said,*others = launched(people, 'people/images.csv', '--learner', 'model.pkl', '--out', out[0], n=n,
                                script='data_prep/quality.py')
        assert '72 of 72 pictures labelled' in said
        assert others == ['']*(n - 1)
        launched(people, '--learner', 'model.pkl', '--data', 'people/images.csv', '--out', out[1], '--bs', 5,
                 '--save-embeddings', f'{n}.npz', n=n, script='recipes/evaluate.py')
        figures = json.loads((people/out[1]/'results.json').read_text())['figures']
        found[n] = (people/out[0]/'quality.txt').read_text(),figures,np.load(people/f'{n}.npz')['emb'].tolist()
    assert found[1] == found[2]


def test_blocks_of_embeddings_are_shared_out_and_gone_on_with(people, monkeypatch):
    "What one of three processes left behind is read, and the same blocks are made whoever makes them"
    sys.path.insert(0, str(ROOT/'data_prep'))
    import quality
    table,seen = pd.DataFrame({'path': list('abcdefg')}),[]
    class Learner:
        def no_bar(self): return nullcontext()
        def embed(self, some, alone):
            assert alone
            seen.extend(some['path'])
            return torch.tensor([[float(ord(o))] for o in some['path']])
    monkeypatch.setattr(quality, 'gather_objects', lambda o: None)
    for rank,own in ((1, 'cd'), (2, 'ef'), (0, 'abg')):
        monkeypatch.setattr(quality, 'processes', lambda rank=rank: (rank, 3))
        seen.clear()
        files = quality.embed_in_blocks(Learner(), table, people/'blocks', 2)
        assert seen == list(own)
    read = torch.cat(list(quality.read_blocks(files, range(7))))
    assert read.flatten().tolist() == [float(ord(o)) for o in 'abcdefg']
