"The recogniser's outputs, levels, parameter groups, and its life in a fastai learner"
import math

import pytest
import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn

from qsd_fastai.losses import RecognitionLoss
from qsd_fastai.models.bodies.agw import NonLocalResNet
from qsd_fastai.models.bodies.by_name import make_body
from qsd_fastai.models.layers import GeM
from qsd_fastai.models.levels import level_indices
from qsd_fastai.models.recognizer import Recognition, Recognizer, recognizer_splitter


def small(**kwargs): return Recognizer(NonLocalResNet(layers=(1, 1, 1, 1), non_local=(0, 0, 0, 0)), n_ids=5, **kwargs)


def narrow(name, size):
    "Arguments that make transformers small"
    if name.startswith('vit'): return {'img_size': size, 'embed_dim': 48, 'depth': 8}
    if name.startswith('swin'):
        return {'img_size': size, 'embed_dim': 24, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 2, 2)}
    return {}


def test_parts_in_training_and_embedding_in_evaluation():
    torch.manual_seed(0)
    model,x = small().train(), torch.rand(4, 3, 32, 32)
    out = model(x)
    assert isinstance(out, Recognition)
    assert isinstance(out, tuple)
    assert len(out) == 4
    assert out.logits.shape == (4, 5)
    assert out.emb.shape == out.pooled.shape == (4, model.embed_dim)
    assert [o.shape[1] for o in out.levels] == [512, 1024, 2048]
    assert torch.equal(out.logits, out.emb@model.head.weight.T)
    assert torch.allclose(out.pooled, GeM()(out.levels[-1]))
    model.eval()
    with torch.no_grad():
        emb = model(x)
        assert type(emb) is torch.Tensor
        assert torch.equal(emb, model.neck(model.pool(model.body.forward_features(x))))


@pytest.mark.parametrize('name, size, nf, channels, gem', [
    ('resnet18', (64, 32), 512, [128, 256, 512], True),
    ('convnext_atto', (64, 32), 320, [80, 160, 320], False),
    ('mobilenetv3_small_050', (64, 32), 1024, [16, 24, 288], False),
    ('vit_tiny_patch16_224', (64, 32), 48, [48, 48, 48], False),
    ('swin_tiny_patch4_window7_224', (64, 64), 192, [48, 96, 192], False)])
def test_any_body(name, size, nf, channels, gem):
    torch.manual_seed(0)
    model = Recognizer(name, n_ids=3, **narrow(name, size)).train()
    out = model(torch.rand(2, 3, *size))
    assert out.emb.shape == (2, nf)
    assert model.embed_dim == nf
    assert (model.pool is not None) is gem
    assert [o.shape[1] for o in out.levels] == channels
    assert all(o.ndim == 4 for o in out.levels)
    (out.logits.sum() + sum(o.sum() for o in out.levels)).backward()
    model.eval()
    with torch.no_grad(): assert model(torch.rand(2, 3, *size)).shape == (2, nf)


@pytest.mark.parametrize('name, size', [('vit_tiny_patch16_224', (64, 32)), ('swin_tiny_patch4_window7_224', (64, 64))])
def test_a_pool_of_ones_own_sees_channels_first(name, size):
    torch.manual_seed(0)
    body = make_body(name, **narrow(name, size)).eval()
    model = Recognizer(body, n_ids=3, pool=nn.AdaptiveAvgPool2d(1), neck=nn.Identity()).eval()
    x = torch.rand(2, 3, *size)
    with torch.no_grad():
        final = body.forward_features(x)
        naive = final[:, body.num_prefix_tokens:].mean(1) if final.ndim == 3 else final.mean((1, 2))
        assert torch.allclose(model(x), naive, atol=1e-5)


def test_levels_by_name_and_position():
    body = make_body('resnet18')
    for levels in (None, ['layer2', 'layer3', 'layer4'], [-3, -2, -1]): assert level_indices(body, levels) == [2, 3, 4]
    assert level_indices(make_body('vit_tiny_patch16_224')) == [5, 8, 11]
    assert level_indices(body, ['layer1', 4]) == [1, 4]
    assert level_indices(body, ()) == []
    for wrong in ('layer9', 5, -6, 1.5):
        with pytest.raises(ValueError, match='Level'): level_indices(body, [wrong])
    assert [o.shape[1] for o in Recognizer('resnet18', 3, levels=['layer1'])(torch.rand(2, 3, 32, 32)).levels] == [64]


def test_a_body_that_pools_itself():
    class Embedder(nn.Module):
        num_features,feature_info = 6, [{'module': 'conv', 'reduction': 1}]
        def __init__(self): super().__init__(); self.conv = nn.Conv2d(3, 6, 1)
        def forward_features(self, x): return self.conv(x).mean((2, 3))
        def forward_intermediates(self, x, indices=None): return self.conv(x).mean((2, 3)), [self.conv(x)]
    model = Recognizer(Embedder(), 3, neck=nn.Identity())
    assert model(torch.rand(2, 3, 8, 8)).pooled.shape == (2, 6)


def test_bad_arguments():
    with pytest.raises(ValueError, match='n_ids'): Recognizer('resnet18', 0)
    with pytest.raises(ValueError, match='pretrained'): Recognizer(make_body('resnet18'), 3, pretrained=True)


def test_splitter_holds_everything_but_the_still_bias():
    model = small()
    body,rest = recognizer_splitter(model)
    held = {id(p) for p in [*body, *rest]}
    assert len(held) == len(body) + len(rest)
    assert [n for n,p in model.named_parameters() if id(p) not in held] == ['neck.bias']
    assert {id(p) for p in body} == {id(p) for p in model.body.parameters()}


def test_export_with_any_batch_size():
    model = small().eval()
    x = torch.rand(2, 3, 32, 32)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim('n', min=1, max=64)},))
    with torch.no_grad():
        assert torch.allclose(program.module()(torch.cat([x, x])), model(torch.cat([x, x])), atol=1e-5)


def test_training_output_can_be_exported():
    out = torch.export.export(small().train(), (torch.rand(2, 3, 32, 32),)).module()(torch.rand(2, 3, 32, 32))
    assert isinstance(out, Recognition)
    assert out.logits.shape == (2, 5)


def learner(tmp_path, **kwargs):
    torch.manual_seed(0)
    unknown = torch.tensor(float('nan'))
    items = [(torch.rand(3, 32, 32), torch.tensor(i % 4), unknown, torch.tensor([i, 0, 0])) for i in range(8)]
    dls = DataLoaders(*(DataLoader(items, bs=4, num_workers=0) for _ in range(2)))
    dls.n_inp = 1
    return Learner(dls, small(), loss_func=RecognitionLoss(), splitter=recognizer_splitter, path=tmp_path, **kwargs)


def test_the_validation_loss_is_finite(tmp_path):
    def norm(emb, *targets): return emb.norm(dim=1).mean()
    learn = learner(tmp_path, metrics=[norm])
    with learn.no_bar(), learn.no_logging():
        learn.fit(2, cbs=SaveModelCallback(monitor='norm'))
        train_loss,valid_loss,value = learn.recorder.values[-1]
        assert math.isfinite(train_loss)
        assert math.isfinite(valid_loss)
        assert value > 0
        assert set(learn.loss_func.terms) == {'identity', 'triplet'}
        assert (tmp_path/'models'/'model.pth').is_file()
        emb,targets = learn.get_preds()
        assert emb.shape == (8, learn.model.embed_dim)
        assert len(targets) == 3
        assert learn.get_preds(with_loss=True)[2].isfinite().all()
        assert len(learn.get_preds(with_decoded=True)[2]) == 3
        learn.freeze()
        norms = 'bn', 'downsample.1'
        body = {n: p for n,p in learn.model.body.named_parameters() if not any(o in n for o in norms)}
        assert not any(p.requires_grad for p in body.values())
        learn.unfreeze()
        learn.fit(1)
        assert torch.equal(learn.model.neck.bias.data, torch.zeros(learn.model.embed_dim))
