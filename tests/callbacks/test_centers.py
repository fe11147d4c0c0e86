"Centers move as published, whatever precision, accumulation or clipping the learner works with"
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.schedule import ParamScheduler  # noqa: F401  (gives Learner its lr_find)
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
from torch import nn
from torch.utils.data import DataLoader

from qsd_fastai.callbacks.centers import CenterUpdate
from qsd_fastai.losses import CenterLoss, RecognitionLoss
from qsd_fastai.models.recognizer import Recognition

pytestmark = pytest.mark.usefixtures('on_cpu')


class Scale(nn.Module):
    "A model of one number, whose embedding is its input at first"
    def __init__(self):
        super().__init__()
        self.body = nn.Parameter(torch.ones(1))

    def forward(self, x):
        emb = x*self.body
        return Recognition((emb, emb, (), emb)) if self.training else emb


class MixedPrecisionOnCpu(MixedPrecision):
    "fastai's, on the device that tests run on"
    def before_fit(self):
        self.scales = []
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=2.**10)


def learner(tmp_path, bs=16, cbs=(), start='random', center_weight=5e-4):
    d = np.load(Path(__file__).parents[1]/'golden'/'agw_center.npz')
    dl = DataLoader(list(zip(torch.from_numpy(d['x0']), torch.from_numpy(d['y0']))), batch_size=bs)
    center = CenterLoss(*d['centers0'].shape, start=start)
    if start == 'random': center.centers.data = torch.from_numpy(d['centers0'].copy())
    loss = RecognitionLoss(identity_weight=0, triplet_weight=0, center=center, center_weight=center_weight)
    learn = Learner(DataLoaders(dl, dl), Scale(), loss_func=loss, cbs=[CenterUpdate(), *cbs], opt_func=SGD, wd=0.,
                    moms=None, path=tmp_path, splitter=lambda m: [[m.body]])
    return learn,d


@pytest.mark.parametrize('cbs, bs', [
    ((), 16), ((GradientClip(1e-3),), 16), ((GradientAccumulation(16),), 4), ((MixedPrecisionOnCpu(),), 16),
    ((MixedPrecisionOnCpu(), GradientAccumulation(16), GradientClip(1e-3)), 4)])
def test_one_step_golden(tmp_path, cbs, bs):
    learn,d = learner(tmp_path, bs, cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=1.)
    np.testing.assert_allclose(learn.loss_func.center.centers.detach(), d['centers_after0'], rtol=1e-5, atol=1e-6)
    assert learn.loss_func.center.centers.grad is None
    if any(isinstance(cb, GradientClip) for cb in cbs):
        # the clipped step is as long as the limit: the centers' gradients were not counted in
        assert abs(learn.model.body.item() - 1) == pytest.approx(1e-3, rel=1e-3)


def test_a_step_that_overflows_moves_nothing(tmp_path):
    learn,d = learner(tmp_path, cbs=[MixedPrecisionOnCpu()])
    learn.dls.loaders = [[(torch.full((16, 32), float('inf')), torch.zeros(16, dtype=torch.int64))]]*2
    learn.dls.n_inp = 1
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=1.)
    np.testing.assert_array_equal(learn.loss_func.center.centers.detach(), d['centers0'])


def test_centers_are_of_the_model_but_of_no_parameter_group(tmp_path):
    learn,_ = learner(tmp_path)
    assert learn.model.center is learn.loss_func.center
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, lr=0.)
        assert learn.model.body == 1
        saved = learn.model.center.centers.detach().clone()
        learn.save('one')
        learn.fit(1, lr=0.)
        assert not torch.equal(saved, learn.model.center.centers)
        learn.load('one')
        assert torch.equal(saved, learn.model.center.centers)
        learn.lr_find(num_it=5, show_plot=False)
        assert torch.equal(saved, learn.model.center.centers)


def test_given_to_fit_and_started_from_means(tmp_path):
    learn,d = learner(tmp_path, start='means')
    learn.remove_cbs(learn.cbs.filter(lambda cb: isinstance(cb, CenterUpdate)))
    del learn.model.center
    with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=0., cbs=CenterUpdate())
    x,y = torch.from_numpy(d['x0']), torch.from_numpy(d['y0'])
    for i in y.unique():  # a center at the mean of its pictures feels no pull
        torch.testing.assert_close(learn.model.center.centers[i].detach(), x[y == i].mean(0), rtol=1e-4, atol=1e-5)


def test_in_a_process_group(tmp_path):
    x,ids = torch.randn(4, 3), torch.tensor([0, 0, 1, 1])
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        loss = CenterLoss(2, 3)
        loss(x, ids)
    finally: torch.distributed.destroy_process_group()
    assert torch.allclose(loss.centers[1], x[2:].mean(0))


def test_without_centers():
    dl = DataLoader([(torch.rand(2), torch.tensor(0))])
    with pytest.raises(ValueError, match='CenterLoss'):
        Learner(DataLoaders(dl, dl), Scale(), loss_func=RecognitionLoss(), cbs=CenterUpdate())


@pytest.mark.parametrize('cbs', [(), (MixedPrecisionOnCpu(),), (GradientAccumulation(16),)], ids=len)
def test_defect_17_centers_of_weight_zero_stay_where_they_are(tmp_path, cbs):
    "The published step divides their gradient by the weight: 0/0"
    learn,d = learner(tmp_path, cbs=cbs, center_weight=0.)
    learn.loss_func.weights['triplet'] = 1.
    with learn.no_bar(), learn.no_logging(): learn.fit(2, lr=1.)
    np.testing.assert_array_equal(learn.loss_func.center.centers.detach(), d['centers0'])
    assert learn.model.body.isfinite().all()
