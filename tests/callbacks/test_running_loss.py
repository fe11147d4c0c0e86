"Losses that stay on the device are those of fastai"
import torch
from fastai.data.core import DataLoaders
from fastai.learner import AvgLoss, AvgSmoothLoss, Learner
from torch import nn

from qsd_fastai.callbacks.running_loss import KeptLosses, RunningLoss, SmoothLoss


def learner(cbs):
    torch.manual_seed(0)
    x,y = torch.randn(40, 8),torch.randn(40, 1)
    dls = DataLoaders.from_dsets(list(zip(x, y)), list(zip(x, y)), bs=16, shuffle=False, device='cpu', num_workers=0)
    return Learner(dls, nn.Linear(8, 1), loss_func=nn.MSELoss(), cbs=cbs)


def test_they_are_those_of_fastai():
    ends = []
    for cbs in ([], [KeptLosses()]):
        learn = learner(cbs)
        with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
        ends.append(learn)
    plain,kept = (o.recorder for o in ends)
    assert (type(plain.loss), type(plain.smooth_loss)) == (AvgLoss, AvgSmoothLoss)
    assert (type(kept.loss), type(kept.smooth_loss)) == (RunningLoss, SmoothLoss)
    assert kept.values == plain.values
    assert kept.losses == plain.losses
    assert ends[1].smooth_loss == ends[0].smooth_loss


def test_of_each_batch_only_what_is_on_a_device_is_brought_over():
    class OnDevice(torch.Tensor):
        is_cuda = True
    learn = learner([KeptLosses()])
    here,there = torch.tensor(1.),[torch.tensor(v).as_subclass(OnDevice) for v in (2., 3.)]
    learn.recorder.losses = [here, *there]
    learn('after_fit')
    assert [float(o) for o in learn.recorder.losses] == [1., 2., 3.]
    assert learn.recorder.losses[0] is here
    assert learn.recorder.losses[1] is not there[0]
