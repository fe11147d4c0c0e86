"Bodies: names, weights, strides, and the AGW network against its golden forward"
import copy

import numpy as np
import pytest
import timm
import torch
from recent import skip_where_it_lacks
from timm.models.resnet import Bottleneck, ResNet

from qsd_fastai.models.bodies.agw import NonLocalResNet, agw_resnet50
from qsd_fastai.models.bodies.by_name import make_body
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.switches import set_last_stride
from qsd_fastai.models.weights.read import load_reference


def rel(a, b): return (np.abs(a - b).max()/np.abs(b).max()).item()


def test_agw_forward_golden(golden, agw_weights, tmp_path):
    d = golden('agw_resnet50_nl_forward')
    torch.save(agw_weights, tmp_path/'agw.pth')
    model = Recognizer(agw_resnet50(), n_ids=12).double()
    report = load_reference(model, tmp_path/'agw.pth', show=False)
    assert len(report.used) == len(agw_weights)
    assert not report.missing
    assert not report.unexpected
    assert not report.skipped
    x = torch.from_numpy(np.random.RandomState(5000).standard_normal((3, 3, 64, 32)))
    with torch.no_grad():
        model.eval()
        assert rel(model(x).numpy(), d['eval_feat']) < 1e-9
        for i,level in enumerate(model.body.forward_intermediates(x, indices=model.level_indices)[1]):
            assert tuple(level.shape) == tuple(d[f'eval_shape_{i}'])
            assert rel(level.square().mean(1).numpy(), d[f'eval_msq_{i}']) < 1e-9
            assert rel(level[:, :8].numpy(), d[f'eval_ch8_{i}']) < 1e-6
        # in training a neck that normalises three rows multiplies rounding by a thousand: float32 is compared here
        assert rel(copy.deepcopy(model).float()(x.float()).numpy(), d['eval_feat']) < 1e-4
        out = model.train()(x)
    for i,level in enumerate(out.levels): assert rel(level.square().mean(1).numpy(), d[f'train_msq_{i}']) < 1e-9
    assert rel(out.logits.numpy(), d['train_score']) < 1e-9
    assert rel(out.pooled.numpy(), d['train_global_feat']) < 1e-9
    assert rel(out.emb.numpy(), d['train_bnneck']) < 1e-9


def test_stem_relu_and_inter_channels():
    body = NonLocalResNet(layers=(1, 1, 1, 1), non_local=(0, 1, 0, 1), inter_channels=3)
    assert body.stem_relu
    assert body.NL_2[0].theta.out_channels == 3
    assert not hasattr(body, 'NL_3')
    x = torch.randn(1, 3, 32, 32)
    assert body.forward_intermediates(x, indices=[0])[1][0].min() >= 0
    body.set_stem_relu(False)
    assert body.forward_intermediates(x, indices=[0])[1][0].min() < 0


def test_agw_body_without_non_local_is_timms_resnet():
    torch.manual_seed(0)
    layers = (1, 2, 1, 1)
    ours = NonLocalResNet(layers, non_local=(0, 0, 0, 0))
    theirs = set_last_stride(ResNet(Bottleneck, layers, num_classes=0), 1)
    theirs.load_state_dict(ours.state_dict())
    x = torch.randn(2, 3, 64, 32)
    ours.eval(), theirs.eval()
    with torch.no_grad():
        final,levels = ours.forward_intermediates(x)
        assert torch.equal(final, theirs.forward_features(x))
        assert torch.equal(final, ours.forward_features(x))
        for a,b in zip(levels, theirs.forward_intermediates(x)[1], strict=True): assert torch.equal(a, b)


def test_checkpointing_changes_nothing():
    torch.manual_seed(0)
    body = NonLocalResNet(layers=(1, 1, 2, 1), non_local=(0, 0, 1, 0)).train()
    x = torch.randn(2, 3, 32, 32)
    a = body.forward_features(x)
    body.set_grad_checkpointing(True)
    assert torch.equal(a, body.forward_features(x))


@pytest.mark.parametrize('name', ['resnet18', 'resnet26d'])
def test_last_stride(name):
    torch.manual_seed(0)
    plain,wide = make_body(name), make_body(name, last_stride=1)
    wide.load_state_dict(plain.state_dict())
    x = torch.randn(2, 3, 64, 32)
    plain.eval(), wide.eval()
    with torch.no_grad(): a,b = plain.forward_features(x), wide.forward_features(x)
    assert a.shape[-2:] == (2, 1)
    assert b.shape[-2:] == (4, 2)
    assert a.shape[1] == b.shape[1]
    assert wide.feature_info[-1]['reduction'] == 16
    with pytest.raises(ValueError, match='ResNets'): make_body('convnext_atto', last_stride=1)
    with pytest.raises(ValueError, match='1 or 2'): make_body(name, last_stride=3)


def test_unknown_name():
    with pytest.raises(ValueError, match=r"Unknown body 'resnet5O'.*resnet50"): make_body('resnet5O')
    with pytest.raises(ValueError, match='agw_resnet50'): make_body('agw_resnet')


def test_weights_that_cannot_be_fetched(monkeypatch):
    made = timm.create_model
    def offline(name, pretrained=False, **kwargs):
        if pretrained: raise OSError('no network')
        return made(name, pretrained=False, **kwargs)
    monkeypatch.setattr(timm, 'create_model', offline)
    with pytest.raises(ConnectionError, match=r'resnet18.*no network.*file.*pretrained=False'):
        make_body('resnet18', pretrained=True)


def test_a_wrong_argument_is_not_taken_for_a_network_failure():
    with pytest.raises(TypeError, match='colour'): make_body('resnet18', pretrained=False, colour=1)


@pytest.mark.parametrize('suffix', ['pth', 'safetensors'])
def test_weights_from_a_file(tmp_path, suffix):
    file = tmp_path/f'resnet18.{suffix}'
    weights = timm.create_model('resnet18').state_dict()
    if suffix == 'pth': torch.save(weights, file)
    else:
        from safetensors.torch import save_file
        save_file(weights, file)
    body = make_body('resnet18', pretrained=file)
    assert all(torch.equal(v, weights[k]) for k,v in body.state_dict().items())
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pth'):
        make_body('resnet18', pretrained=tmp_path/'nowhere.pth')


def test_agw_from_imagenet_weights_in_a_file(tmp_path):
    weights = timm.create_model('resnet50').state_dict()
    torch.save(weights, tmp_path/'resnet50.pth')
    body = make_body('agw_resnet50', pretrained=tmp_path/'resnet50.pth', last_stride=2)
    own = body.state_dict()
    assert all(torch.equal(v, own[k]) for k,v in weights.items() if not k.startswith('fc.'))
    assert body.feature_info[-1]['reduction'] == 32


# a family each; what is made for one size is told the size of the pictures, what cannot take them is refused
TAKES = ['test_vit', 'deit_tiny_patch16_224', 'swin_tiny_patch4_window7_224', 'cait_xxs24_224', 'mixer_s16_224',
         'levit_128s', 'hiera_tiny_224', 'xcit_nano_12_p16_224', 'pvt_v2_b0', 'efficientvit_m0',
         'eva02_tiny_patch14_224', 'visformer_tiny', 'swinv2_cr_tiny_ns_224', 'maxvit_rmlp_pico_rw_256', 'test_resnet',
         'test_efficientnet',
         'convnext_atto', 'regnetx_002', 'mobilevit_xxs', 'ghostnet_050', 'agw_resnet50', 'mobilefacenet', 'iresnet18']
REFUSES = ['mvitv2_tiny', 'convit_tiny', 'coat_tiny', 'crossvit_tiny_240', 'nest_tiny', 'efficientformer_l1']


@pytest.mark.parametrize('name', TAKES)
def test_bodies_at_the_sizes_of_re_id(name):
    skip_where_it_lacks(name)
    for size in ((64, 32), (256, 128)):
        body = make_body(name, size=size)
        assert body.training
        model,x = Recognizer(body, 3).eval(),torch.rand(1, 3, *size)
        with torch.no_grad():
            assert model(x).shape == (1, model.embed_dim)
            assert len(body.forward_intermediates(x, indices=model.level_indices)[1]) == len(model.level_indices)


@pytest.mark.parametrize('name', REFUSES)
def test_bodies_that_cannot_take_a_size_are_refused_by_name(name):
    skip_where_it_lacks(name)
    for make in (make_body, lambda name, size: Recognizer(name, 3, size=size)):
        with pytest.raises(ValueError, match=rf'{name} does not take pictures of 64x32 pixels .*Give another size'):
            make(name, size=(64, 32))


def test_asking_for_the_own_size_changes_nothing():
    "Neither the weights that a seed gives, nor what may be handed over besides"
    torch.manual_seed(0)
    plain = make_body('test_vit')
    torch.manual_seed(0)
    asked = make_body('test_vit', size=(160, 160))
    assert all(torch.equal(v, asked.state_dict()[k]) for k,v in plain.state_dict().items())
    with pytest.raises(ValueError, match='64x32'):
        make_body('vit_tiny_patch16_224', size=(64, 32), img_size=(32, 32))


@pytest.mark.parametrize('name', ['resnet18', 'iresnet18'])
def test_weights_that_are_no_file_are_refused(name):
    "A model, a state dict, a learner at hand"
    for given in (torch.nn.Linear(2, 2), {}, None):
        with pytest.raises(ValueError, match=r'pretrained is a (Linear|dict|NoneType)\. Give .* load_state_dict'):
            make_body(name, pretrained=given)
