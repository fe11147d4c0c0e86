"The fused Adam takes the steps of fastai's own, under its rules for groups, frozen layers and what does not decay"
from copy import deepcopy
from functools import partial

import pytest
import torch
from fastai.callback.schedule import ParamScheduler  # noqa: F401  (gives Learner its fit_one_cycle)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastai.torch_core import params
from torch import nn

from qsd_fastai.optimizers import FusedAdam, fused_adam


def learner(opt_func, **kwargs):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Sequential(nn.Linear(8, 16), nn.BatchNorm1d(16)),
                          nn.Sequential(nn.ReLU(), nn.Linear(16, 3)))
    x,y = torch.randn(64, 8),torch.randint(3, (64,))
    dls = DataLoaders.from_dsets(list(zip(x, y)), list(zip(x, y)), bs=16, shuffle=False, device='cpu', num_workers=0)
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss(), opt_func=opt_func,
                   splitter=lambda m: [params(m[0]), params(m[1])], **kwargs)


def flat(learn): return torch.cat([p.detach().flatten() for p in learn.model.parameters()])


@pytest.mark.parametrize('decouple_wd', [True, False])
@pytest.mark.parametrize('wd_bn_bias', [True, False])
def test_steps_are_those_of_fastai(decouple_wd, wd_bn_bias):
    ends = []
    for opt_func in (Adam, fused_adam):
        learn = learner(partial(opt_func, decouple_wd=decouple_wd), wd_bn_bias=wd_bn_bias)
        with learn.no_bar(), learn.no_logging():
            learn.freeze()
            learn.fit_one_cycle(1, 1e-2, wd=.3)
            learn.unfreeze()
            learn.fit_one_cycle(2, slice(1e-3, 1e-2), wd=.3)
        ends.append(flat(learn))
    torch.testing.assert_close(*ends, rtol=1e-4, atol=1e-5)
    # what does not decay would be off by far more
    other = learner(partial(fused_adam, decouple_wd=decouple_wd), wd_bn_bias=not wd_bn_bias)
    with other.no_bar(), other.no_logging(): other.fit_one_cycle(3, 1e-2, wd=.3)
    assert (flat(other) - ends[0]).abs().max() > 1e-3


def test_groups_rates_and_frozen_layers():
    learn = learner(fused_adam)
    learn.create_opt()
    opt = learn.opt
    assert isinstance(opt, FusedAdam)
    assert [len(o) for o in opt.param_lists] == [4, 2]
    opt.set_hyper('lr', slice(1e-4, 1e-2))
    opt.set_hyper('mom', .8)
    opt.set_hyper('wd', .2)
    assert [o['lr'] for o in opt.hypers] == pytest.approx([1e-4, 1e-2])
    assert [o['mom'] for o in opt.hypers] == [.8, .8]
    opt.step()
    assert [len(o) for o in opt.param_lists] == [4, 2]
    assert [o['weight_decay'] for o in opt.opt.param_groups] == [.2, 0., .2, 0.]
    assert [len(o['params']) for o in opt.opt.param_groups] == [1, 3, 1, 1] # weights of layers; norms and biases
    learn.freeze()
    assert not learn.model[0][0].weight.requires_grad
    assert learn.model[0][1].weight.requires_grad # batch norm trains on, as everywhere in fastai


def test_state_is_saved_and_cleared():
    with_state,again = learner(fused_adam),learner(fused_adam)
    with with_state.no_bar(), with_state.no_logging(): with_state.fit(1, 1e-2)
    again.create_opt()
    again.model.load_state_dict(with_state.model.state_dict())
    again.opt.load_state_dict(deepcopy(with_state.opt.state_dict())) # else both would share it
    for learn in (with_state, again):
        for p in learn.model.parameters(): p.grad = torch.ones_like(p)
        learn.opt.step()
    assert torch.equal(flat(with_state), flat(again))
    again.opt.clear_state()
    assert not again.opt.opt.state
    assert not again.opt.state[again.model[0][1].weight]['do_wd']
