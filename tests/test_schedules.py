"The published schedule against its golden values and inside a fastai learner"
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.schedule import ParamScheduler
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from torch import nn
from torch.utils.data import DataLoader

from qsd_fastai.schedules import multistep_factor, warmup_multistep


@pytest.mark.parametrize('tag', ['qsd', 'agw_market', 'const'])
def test_golden(tag):
    d = np.load(Path(__file__).parent/'golden'/'lr_warmup_multistep.npz')
    kwargs = {'steps': d[f'{tag}_steps'].tolist(), 'gamma': float(d[f'{tag}_gamma']),
              'warmup': int(d[f'{tag}_warmup_iters']), 'factor': float(d[f'{tag}_warmup_factor']),
              'method': str(d[f'{tag}_warmup_method'])}
    base,expected = float(d[f'{tag}_base']), d[f'{tag}_lr']
    ours = [base*multistep_factor(e, **kwargs) for e in range(len(expected))]
    np.testing.assert_allclose(ours, expected, rtol=1e-12)
    # the trainer steps at the start of an epoch: the first of n runs at 0 <= pct < 1/n with the value after one step
    n = len(expected) - 1
    f = warmup_multistep(base, n, **kwargs)
    for where in (0., .5, .999):
        np.testing.assert_allclose([f((e + where)/n) for e in range(n)], expected[1:], rtol=1e-12)
    assert f(1.) == pytest.approx(expected[-1])


def test_in_a_learner():
    dl = DataLoader([(torch.rand(2), torch.rand(1)) for _ in range(3)], batch_size=1)
    learn = Learner(DataLoaders(dl, dl), nn.Linear(2, 1), loss_func=nn.MSELoss())
    schedule = ParamScheduler({'lr': warmup_multistep(np.array([.1]), 7, steps=(3, 5), warmup=2, factor=.5)})
    with learn.no_bar(), learn.no_logging(): learn.fit(7, cbs=schedule)
    expected = [.1*multistep_factor(e, (3, 5), warmup=2, factor=.5) for e in range(1, 8) for _ in range(3)]
    np.testing.assert_allclose(schedule.hps['lr'], expected)


def test_bad_options():
    with pytest.raises(ValueError, match='grow'): warmup_multistep(.1, 10, steps=(7, 4))
    with pytest.raises(ValueError, match='method'): warmup_multistep(.1, 10, method='cosine')
