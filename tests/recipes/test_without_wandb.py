"All that is not W&B's own works where W&B is not installed, or not wanted; and a first run has nothing to warn of"
import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import wandb

from qsd_fastai.drawn.people import generate_people

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT/'recipes'))
import reid  # noqa: E402

tiny = dict(arch='test_resnet', height=32, width=16, n_ids=4, n_imgs=3, epochs=2, tune_epochs=1, arms='with')
HIDDEN = '''
import sys
sys.modules['wandb'] = None
sys.path.insert(0, sys.argv.pop(1))
import reid
from qsd_fastai.all import *
reid.main(**eval(sys.argv[1]))
assert sys.modules['wandb'] is None
'''


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('people')
    generate_people(folder, n_train=8, n_test=4, n_imgs=4, n_test_imgs=4, size=(48, 24), progress=False)
    return folder


def check_folder(out):
    "Figures and numbers are there, and nothing of W&B"
    assert not (out/'wandb').exists()
    assert pd.read_csv(out/'results.csv', index_col=0).index.tolist() == ['baseline', 'fine-tuned with QSD']
    for k in ('cmc.png', 'hardest_queries.png', 'batches.csv', 'epochs.csv'):
        assert (out/f'fine-tuned_with_QSD_{k}').stat().st_size
    batches,epochs = (pd.read_csv(out/f'baseline_{k}.csv') for k in ('batches', 'epochs'))
    assert batches['batch'].tolist() == list(range(len(batches)))
    assert {'train/loss', 'train/identity', 'lr/group0'} <= set(batches)
    assert epochs['epoch'].tolist() == [1, 2]
    assert {'valid/mAP', 'mean/identity', 'cost/pictures_a_second'} <= set(epochs)
    assert epochs['cost/pictures_a_second'].gt(0).all()


def test_where_it_is_not_installed(people):
    args = {'data': str(people/'images.csv'), 'out': str(people/'without'), **tiny}
    done = subprocess.run([sys.executable, '-c', HIDDEN, str(ROOT/'recipes'), repr(args)], cwd=people,
                          capture_output=True, text=True, env={**os.environ, 'PYTHONPATH': str(ROOT)})
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr == '' # Nothing is warned of that a user can do nothing about
    assert done.stdout.count('W&B is not installed') == 1
    check_folder(people/'without')


def test_where_it_is_not_wanted(people, monkeypatch):
    def refused(*args, **kwargs): raise AssertionError('W&B was asked')
    monkeypatch.setattr(wandb, 'init', refused)
    reid.main(data=str(people/'images.csv'), out=people/'unwanted', no_wandb=True, **tiny)
    check_folder(people/'unwanted')
    kept = json.loads((people/'unwanted'/'run.json').read_text())
    assert kept['versions']['wandb'] == wandb.__version__
    assert 'package' in kept
