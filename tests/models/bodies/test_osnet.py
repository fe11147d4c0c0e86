"OSNet: sizes of the paper, its forms, and what distillation and export need of it"
import pytest
import torch
from torch import nn

from qsd_fastai.models.bodies.by_name import make_body
from qsd_fastai.models.bodies.osnet import FORMS, OSNet
from qsd_fastai.models.layers import GeM
from qsd_fastai.models.recognizer import Recognizer

pytestmark = pytest.mark.usefixtures('one_thread')
forms = pytest.mark.parametrize('form', FORMS)


def tiny(form='plain'): return OSNet(.25, 32, form)


@pytest.mark.parametrize('name, millions', [('osnet_x1_0', 2.2), ('osnet_x0_75', 1.3), ('osnet_x0_5', .6),
                                            ('osnet_x0_25', .2), ('osnet_ain_x1_0', 2.2)])
def test_sizes_of_the_papers(name, millions):
    with torch.device('meta'): body = make_body(name)
    assert round(sum(p.numel() for p in body.parameters())/1e6, 1) == millions


@forms
def test_in_a_recognizer(form):
    torch.manual_seed(0)
    model,x = Recognizer(tiny(form), 5).train(), torch.rand(3, 3, 64, 32)
    out = model(x)
    assert type(model.neck) is nn.Identity
    assert out.emb is out.pooled
    assert out.emb.min() == 0, 'the embedding comes out of a ReLU'
    assert [tuple(o.shape[1:]) for o in out.levels] == [(64, 16, 8), (96, 8, 4), (128, 4, 2)]
    (out.logits.sum() + sum(o.square().mean() for o in out.levels)).backward()
    assert all(p.grad is not None for p in model.parameters()), 'every parameter is used'
    model.eval()
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim('n', min=1)},))
    with torch.no_grad():
        assert torch.allclose(program.module()(x[:2]), model(x)[:2], atol=1e-5)
        assert model(torch.rand(1, 3, 96, 48)).shape == (1, 32)


@forms
def test_where_instances_are_normalised(form):
    body = tiny(form)
    places = {name for name,m in body.named_modules() if isinstance(m, nn.InstanceNorm2d)}
    assert places == {'plain': set(), 'ibn': {'conv1.bn', 'conv2.0.IN', 'conv2.1.IN'},
                      'ain': {'conv1.bn', 'conv2.0.IN', 'conv2.1.IN', 'conv3.1.IN', 'conv4.0.IN'}}[form]


@pytest.mark.parametrize('inside', [False, True])
def test_a_block_naive(inside):
    "Four streams of one to four light convolutions, each through the same gate, before they are summed"
    torch.manual_seed(0)
    block = tiny('ain' if inside else 'plain').double().conv3[1 if inside else 0].eval()
    x = torch.randn(2, block.conv1.conv.in_channels, 8, 4, dtype=torch.float64)
    h,total = block.conv1.bn(block.conv1.conv(x)).clamp(min=0), 0
    for n,stream in enumerate(block.conv2, 1):
        assert len(stream) == n
        y = h
        for light in stream: y = light.bn(light.conv2(light.conv1(y))).clamp(min=0)
        gate = block.gate.fc2(block.gate.fc1(y.mean((2, 3), keepdim=True)).clamp(min=0))
        total = total + y/(1 + torch.exp(-gate))
    y = block.conv3.conv(total)
    if inside: y = (y - y.mean((2, 3), keepdim=True))/(y.var((2, 3), keepdim=True, unbiased=False) + 1e-5).sqrt()
    else: y = block.conv3.bn(y)
    short = x if inside else block.downsample.bn(block.downsample.conv(x))
    assert torch.allclose(block(x), (y + short).clamp(min=0), atol=1e-12)


def test_half_precision_embeds_in_float32():
    torch.manual_seed(0)
    model = Recognizer(tiny(), 5)
    with torch.autocast('cpu', dtype=torch.bfloat16): out = model(torch.rand(2, 3, 64, 32))
    assert out.emb.dtype == torch.float32
    assert out.levels[0].dtype == torch.bfloat16


def test_a_pool_in_place_of_the_embedding():
    model = Recognizer(tiny(), 5, pool=GeM())
    assert model(torch.rand(2, 3, 64, 32)).emb.shape == (2, 128)
    assert not any('fc.' in k and 'gate' not in k for k in model.body.state_dict())
    assert isinstance(model.neck, nn.BatchNorm1d)


@forms
def test_checkpointing_changes_nothing(form):
    torch.manual_seed(0)
    body,x = tiny(form).train(), torch.rand(2, 3, 32, 32)
    a = body(x)
    body.set_grad_checkpointing()
    assert torch.equal(a, body(x))


def test_what_cannot_be_built():
    with pytest.raises(ValueError, match=r'width is 0\.1'): OSNet(.1)
    with pytest.raises(ValueError, match='Did you mean ain'): OSNet(form='ains')
