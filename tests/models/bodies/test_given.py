"Bodies that are no names: functions, layers one after the other, and what is neither"
from functools import partial

import pytest
import timm
import torch
import torchvision
from fastai.vision.learner import create_body
from torch import nn

from qsd_fastai.models.bodies.agw import agw_resnet50
from qsd_fastai.models.bodies.given import LayerStack, given_body
from qsd_fastai.models.bodies.osnet import osnet_x0_25
from qsd_fastai.models.layers import BNNeck, GeM
from qsd_fastai.models.recognizer import Recognizer


def layers(): return nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1), nn.ReLU())


def test_layers_one_after_the_other():
    torch.manual_seed(0)
    stack = layers()
    model,x = Recognizer(stack, 5).train(), torch.rand(4, 3, 32, 16)
    assert stack.training
    assert [o['num_chs'] for o in model.body.feature_info] == [8, 16]
    assert [o['reduction'] for o in model.body.feature_info] == [2, 4]
    assert model.body.num_features == model.embed_dim == 16
    assert isinstance(model.pool, GeM)
    assert isinstance(model.neck, BNNeck)
    out = model(x)
    assert torch.equal(out.levels[0], stack[:2](x))
    assert torch.equal(out.levels[1], stack(x))
    assert torch.equal(out.pooled, model.pool(stack(x)))
    only = Recognizer(layers(), 5, levels=['layers.3']).train()
    assert [o.shape[1] for o in only(x).levels] == [16]
    with torch.no_grad(): assert model.eval()(x).shape == (4, 16)


def test_a_body_of_fastai():
    body = given_body(create_body(torchvision.models.resnet18(weights=None)), (64, 32))
    assert [o['reduction'] for o in body.feature_info] == [2, 4, 8, 16, 32]
    assert [o['num_chs'] for o in body.feature_info] == [64, 64, 128, 256, 512]
    assert Recognizer(body, 3).level_indices == [2, 3, 4]
    frozen = layers().eval()
    LayerStack(frozen)
    assert not frozen.training


def test_functions():
    assert given_body(torchvision.models.resnet34) == 'resnet34'
    assert given_body(agw_resnet50) == 'agw_resnet50'
    assert given_body(osnet_x0_25) == 'osnet_x0_25'
    assert given_body('resnet18') == 'resnet18'
    body = given_body(partial(timm.create_model, 'test_resnet', num_classes=0))
    assert given_body(body) is body
    assert isinstance(given_body(layers), LayerStack)


@pytest.mark.parametrize(('wrong', 'said'), [
    (torchvision.models.alexnet, 'AlexNet, which has no forward_intermediates.*create_body'),
    (nn.Linear(3, 3), 'Linear, which has no forward_intermediates'), (3, 'type int'),
    (lambda n: n, 'cannot be called without arguments'),
    (nn.Sequential(*layers(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), r'ends in \(2, 16\).*pooling'),
    (nn.Sequential(nn.Conv2d(1, 8, 3)), 'cannot take pictures of 64x64.*channels')])
def test_what_is_no_body(wrong, said):
    with pytest.raises(ValueError, match=said): given_body(wrong)
