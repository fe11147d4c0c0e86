"The recipes as `torchrun` starts them: two processes, one folder, one run"
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
from fastai.learner import load_learner
from started import launch

from qsd_fastai.drawn.people import generate_people

ROOT = Path(__file__).parents[2]
tiny = ['--data', 'people/images.csv', '--arch', 'test_resnet', '--height', 32, '--width', 16, '--n-ids', 3,
        '--n-imgs', 3, '--epochs', 2, '--tune-epochs', 1, '--lr', 1e-2]


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('launched')
    generate_people(folder/'people', n_train=8, n_test=6, n_imgs=6, n_test_imgs=4, size=(48, 24), progress=False)
    return folder


def launched(folder, *args, n=2, code=0, **options):
    codes,said = launch(n, ROOT/'recipes/reid.py', *args, folder=folder, WANDB_MODE='offline', COLUMNS='200', **options)
    assert code is None or codes == [code]*n, '\n\n'.join(o[-3000:] for o in said)
    return said


def test_two_processes_make_one_run(people):
    said,other = launched(people, *tiny, '--out', 'two', '--arms', 'with', '--sync-bn')
    assert other == ''
    assert '2 processes' in said
    assert len(re.findall(r'^[01] +\d+\.\d+ +', said, re.M)) == 3
    results = pd.read_csv(people/'two'/'results.csv', index_col=0)
    assert list(results.index) == ['baseline', 'fine-tuned with QSD']
    assert results.notna().all(axis=None)
    assert sorted(o.name for o in people.iterdir()) == ['people', 'two']
    assert len(list((people/'two'/'wandb').glob('offline-run-*'))) == 2
    kept = torch.load(people/'two'/'baseline.state', weights_only=True)
    assert (kept['processes'], kept['n_iter']) == (2, 2)
    learn = load_learner(people/'two'/'baseline.pkl')
    assert learn.embed(people/'people'/'images').shape == (72, 96)

    # of finished stages nothing is left to do, for one process as for two
    said, = launched(people, *tiny, '--out', 'two', '--arms', 'with', '--sync-bn', '--resume', n=1)
    assert said.count('epochs were done') == 2
    assert 'is of 2 processes, and 1 go on' in said
    pd.testing.assert_frame_equal(pd.read_csv(people/'two'/'results.csv', index_col=0), results)


def test_what_one_of_them_refuses_ends_all(people):
    said,other = launched(people, *tiny, '--out', 'people', '--resume', code=1)
    assert 'holds no run' in said
    assert 'Traceback' not in said + other
