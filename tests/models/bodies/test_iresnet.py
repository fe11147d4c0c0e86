"Face bodies: shapes, levels, the key names of public weights, their channel order and scale"
import re

import pytest
import torch
from torch import nn

from qsd_fastai.models.bodies.by_name import face_bodies, make_body
from qsd_fastai.models.bodies.face import StillScale
from qsd_fastai.models.bodies.iresnet import IResNet
from qsd_fastai.models.bodies.mobilefacenet import MobileFaceNet
from qsd_fastai.models.heads.margins import AdaFace
from qsd_fastai.models.preprocess import Preprocess, face_stats, preprocess_of, stats_differ
from qsd_fastai.models.recognizer import Recognizer, recognizer_splitter
from qsd_fastai.models.weights.read import load_reference

pytestmark = pytest.mark.usefixtures('one_thread')


def tiny(form='arcface', **kwargs): return IResNet((2, 1, 1, 1), form=form, **{'size': (32, 32), **kwargs})


def noisy(model):
    torch.manual_seed(1)
    for v in model.state_dict().values():
        if v.is_floating_point(): v.copy_(torch.rand_like(v) + .1)
    return model


def same(a, b):
    a,b = a.state_dict(), b.state_dict()
    return a.keys() == b.keys() and all(torch.equal(v, b[k]) for k,v in a.items())


def parameters(model): return sum(p.numel() for p in model.parameters())


def counted(layers):
    "Parameters of an improved residual network, from the paper's description of its units"
    n,nf_in = 3*64*9 + 2*64 + 64, 64
    for nf,blocks in zip((64, 128, 256, 512), layers, strict=True):
        n += nf_in*nf + 2*nf  # the shortcut
        for _ in range(blocks):
            n += 2*nf_in + 9*nf_in*nf + 2*nf + nf + 9*nf*nf + 2*nf
            nf_in = nf
    return n + 2*512 + 512*49*512 + 512 + 2*512


def test_sizes_at_112():
    for name in ('iresnet18', 'iresnet34', 'iresnet50', 'iresnet100', 'iresnet200'):
        assert parameters(make_meta(name)) == counted(make_meta(name).layers)
    # .99 million, says the paper
    assert parameters(make_meta('mobilefacenet')) == 999_936
    assert make_meta('mobilefacenet').preprocess.size == (112, 112)


def test_depths():
    depths = {'18': (2, 2, 2, 2), '34': (3, 4, 6, 3), '50': (3, 4, 14, 3), '100': (3, 13, 30, 3),
              '101': (3, 13, 30, 3), '152': (3, 8, 36, 3), '200': (6, 26, 60, 6)}
    bodies = {name: make_meta(name) for name in face_bodies if 'm' not in name}
    assert len(bodies) == 18
    for name,body in bodies.items():
        assert body.layers == depths[re.search(r'\d+$', name)[0]]
        assert any('.se.' in k for k in body.state_dict()) == ('_se' in name)


def make_meta(name):
    with torch.device('meta'): return make_body(name)


@pytest.mark.parametrize('make, nf, channels', [
    (tiny, 512, [128, 256, 512]), (lambda: tiny('adaface'), 512, [128, 256, 512]),
    (lambda: tiny('evolve', squeeze=True), 512, [128, 256, 512]), (lambda: tiny('tface'), 512, [128, 256, 512]),
    (lambda: MobileFaceNet(size=(32, 32)), 128, [64, 128, 128]),
    (lambda: MobileFaceNet(512, (32, 32), 'prelu'), 512, [64, 128, 128]),
    (lambda: MobileFaceNet(512, (32, 32), 'prelu', scale=2), 512, [128, 256, 256]),
    (lambda: MobileFaceNet(512, (32, 32), 'prelu', scale=4, depth=2), 512, [256, 512, 512])])
def test_in_a_recognizer(make, nf, channels):
    torch.manual_seed(0)
    model,x = Recognizer(make(), 5).train(), torch.rand(3, 3, 32, 32)
    out = model(x)
    assert type(model.neck) is nn.Identity
    assert model.embed_dim == nf
    assert out.emb.shape == (3, nf)
    assert out.emb is out.pooled
    assert [(o.shape[1], o.shape[2]) for o in out.levels] == list(zip(channels, [8, 4, 2], strict=True))
    (out.logits.sum() + sum(o.square().mean() for o in out.levels)).backward()
    assert all(p.grad is not None for n,p in model.named_parameters() if p.requires_grad), 'every parameter is used'
    model.eval()
    with torch.no_grad():
        emb = model(x)
        assert torch.equal(emb, model.body(x))
        assert torch.allclose(emb[:1], model(x[:1]), rtol=1e-4, atol=1e-2)
        final,levels = model.body.forward_intermediates(x)
        assert torch.equal(final, model.body.forward_features(x))
        assert len(levels) == len(model.body.feature_info)
        for level,info in zip(levels, model.body.feature_info, strict=True):
            assert level.shape[1:] == (info['num_chs'], *[32//info['reduction']]*2)
    program = torch.export.export(model, (x,), dynamic_shapes=({0: torch.export.Dim('n', min=1)},))
    with torch.no_grad(): assert torch.allclose(program.module()(x[:2]), emb[:2], rtol=1e-4, atol=1e-2)


def test_iresnet_naive():
    "The units written out once more, from the names of their parts"
    torch.manual_seed(0)
    for form,squeeze in (('arcface', False), ('adaface', False), ('adaface', True), ('evolve', True), ('tface', False)):
        body = noisy(tiny(form, squeeze=squeeze).double()).eval()
        x = torch.randn(2, 3, 32, 32, dtype=torch.float64)*.01
        h = body.prelu(body.bn1(body.conv1(x)))
        for i in range(1, 5):
            for j,unit in enumerate(getattr(body, f'layer{i}')):
                if j: short = h
                elif form != 'arcface' and i == 1: short = h[:, :, ::2, ::2]
                else: short = unit.downsample[1](unit.downsample[0](h))
                h = unit.conv1(unit.bn1(h))
                if form in ('arcface', 'adaface'): h = unit.bn2(h)
                h = unit.bn3(unit.conv2(unit.prelu(h)))
                if squeeze:
                    gate = unit.se.fc2(unit.se.fc1(h.mean((2, 3), keepdim=True)).clamp(min=0))
                    h = h/(1 + torch.exp(-gate))
                h = h + short
        h = body.fc(body.act(h.flatten(1)) if form == 'tface' else body.bn2(h).flatten(1))
        assert torch.allclose(body(x), h if form == 'tface' else body.features(h), rtol=1e-10)


def test_other_sizes_and_pictures_that_do_not_fit():
    body = IResNet((1, 1, 1, 1), size=(128, 96)).eval()
    assert body.map_size == (8, 6)
    assert body(torch.rand(1, 3, 128, 96)).shape == (1, 512)
    with pytest.raises(ValueError, match=r"built for pictures of \(128, 96\).*body_kwargs"):
        body(torch.rand(1, 3, 112, 112))
    assert IResNet((1, 1, 1, 1), size=(113, 100)).map_size == (8, 7)  # stages round up
    with pytest.raises(ValueError, match='16 pixels'): tiny(size=(8, 8))
    with pytest.raises(ValueError, match='form'): tiny('magface')
    with pytest.raises(ValueError, match='act'): MobileFaceNet(act='gelu')


def test_half_precision_embeds_in_float32():
    torch.manual_seed(0)
    model = Recognizer(tiny(), 5)
    with torch.autocast('cpu', dtype=torch.bfloat16): out = model(torch.rand(2, 3, 32, 32))
    assert out.emb.dtype == torch.float32
    assert out.levels[0].dtype == torch.bfloat16


def test_a_pool_in_place_of_the_embedding():
    model = Recognizer(tiny(), 5, pool=nn.AdaptiveAvgPool2d(1))
    assert model(torch.rand(2, 3, 48, 32)).emb.shape == (2, 512)
    assert not any('fc' in k for k in model.body.state_dict())
    assert isinstance(model.neck, nn.BatchNorm1d)


def test_the_scale_of_the_embedding_stays():
    torch.manual_seed(0)
    model = Recognizer(tiny(), 5)
    body,rest = recognizer_splitter(model)
    still = model.body.features.weight
    assert all(p is not still for p in [*body, *rest])
    assert len(body) == len(list(model.body.parameters())) - 1
    still.requires_grad_(True)  # as fastai's unfreeze would
    model(torch.rand(4, 3, 32, 32)).emb.square().sum().backward()
    assert still.grad is None
    x,plain = torch.randn(6, 512), nn.BatchNorm1d(512)
    assert torch.equal(StillScale(512)(x), plain(x))


@pytest.mark.parametrize('make', [tiny, lambda: MobileFaceNet(size=(32, 32))])
def test_checkpointing_changes_nothing(make):
    torch.manual_seed(0)
    body,x = make().train(), torch.rand(2, 3, 32, 32)
    a = body(x)
    body.set_grad_checkpointing()
    assert torch.equal(a, body(x))


def save(state, file):
    torch.save(state, file)
    return file


def test_arcface_torch(tmp_path):
    source,shard = noisy(tiny()), torch.rand(5, 512)
    state = source.state_dict()
    unit = {f'layer1.0.{k}' for k in ('bn1.weight', 'conv1.weight', 'bn2.bias', 'prelu.weight', 'conv2.weight',
                                      'bn3.running_var', 'downsample.0.weight', 'downsample.1.weight')}
    assert unit <= state.keys()
    assert {'conv1.weight', 'bn1.weight', 'prelu.weight', 'bn2.weight', 'fc.weight', 'fc.bias',
            'features.weight', 'features.running_mean'} <= state.keys()
    model = Recognizer(tiny(), 5)
    report = load_reference(model, save(state, tmp_path/'model.pt'), show=False)
    assert same(model.body, source)
    assert report.source == 'arcface_torch'
    assert report.missing == ['head.weight']
    assert not report.unexpected
    assert model.preprocess.stats == face_stats
    assert 'stats=' in report.notes[-1]
    checkpoint = {'epoch': 3, 'global_step': 9, 'state_dict_backbone': state,
                  'state_dict_softmax_fc': {'weight': shard}, 'state_optimizer': {}}
    model = Recognizer(tiny(), 5)
    report = load_reference(model, save(checkpoint, tmp_path/'checkpoint_gpu_0.pt'), show=False)
    assert same(model.body, source)
    assert torch.equal(model.head.weight, shard)
    assert not report.missing
    assert not report.unexpected
    assert load_reference(Recognizer(tiny(), 9), tmp_path/'checkpoint_gpu_0.pt', show=False).skipped == ['head.weight']
    with pytest.raises(ValueError, match=r'model\.pt.*do not fit'):
        load_reference(Recognizer(tiny(size=(64, 64)), 5), tmp_path/'model.pt')


def adaface_names(body):
    "State dict of our body under the names of AdaFace's"
    parts = {'bn1': 'res_layer.0', 'conv1': 'res_layer.1', 'bn2': 'res_layer.2',
             'prelu': 'res_layer.3', 'conv2': 'res_layer.4', 'bn3': 'res_layer.5',
             'downsample.0': 'shortcut_layer.0', 'downsample.1': 'shortcut_layer.1'}
    ends = {'conv1': 'input_layer.0', 'bn1': 'input_layer.1', 'prelu': 'input_layer.2',
            'bn2': 'output_layer.0', 'fc': 'output_layer.3', 'features': 'output_layer.4'}
    first,found = dict(zip(range(1, 5), (0, *torch.tensor(body.layers).cumsum(0).tolist()), strict=False)), {}
    for k,v in body.state_dict().items():
        module,_,end = k.rpartition('.')
        m = re.fullmatch(r'layer(\d)\.(\d+)\.(.+)', module)
        found[f'body.{first[int(m[1])] + int(m[2])}.{parts[m[3]]}.{end}' if m else f'{ends[module]}.{end}'] = v
    return found


def test_adaface(tmp_path):
    source,kernel = noisy(tiny('adaface')), torch.rand(512, 5)
    names = adaface_names(source)
    assert {'body.2.shortcut_layer.0.weight', 'body.1.res_layer.5.weight'} <= names.keys()
    assert 'body.0.shortcut_layer.0.weight' not in names
    state = {**{f'model.{k}': v for k,v in names.items()}, 'head.kernel': kernel, 'head.t': torch.zeros(1),
             'head.batch_mean': torch.full((1,), 22.), 'head.batch_std': torch.full((1,), 7.)}
    file = save({'state_dict': state, 'epoch': 1}, tmp_path/'adaface.ckpt')
    model = Recognizer(tiny('adaface'), 5, head=AdaFace)
    report = load_reference(model, file, show=False)
    assert report.source == 'AdaFace'
    assert not report.missing
    assert report.unexpected == ['head.t']
    assert not report.skipped
    assert torch.equal(model.head.weight, kernel.T)
    assert model.head.batch_mean == 22
    assert model.head.batch_std == 7
    assert any('BGR to RGB' in o for o in report.notes)
    assert model.preprocess.stats == face_stats
    source.eval(), model.eval()
    x = torch.rand(2, 3, 32, 32)*.01
    with torch.no_grad(): assert torch.allclose(model(x), source(x.flip(1)), rtol=1e-4)  # the source sees blue first
    # without prefix and head the names are TFace's too, which trains on RGB
    bare = tiny('adaface')
    report = load_reference(Recognizer(bare, 5), save(names, tmp_path/'bare.pt'), show=False)
    assert same(bare, source)
    assert any("RGB, assumed" in o and "channels='bgr'" in o for o in report.notes)
    load_reference(Recognizer(bare, 5), tmp_path/'bare.pt', show=False, channels='bgr')
    assert same(bare, model.body)
    with pytest.raises(ValueError, match='do not fit'): load_reference(Recognizer(tiny(), 5), file)


@pytest.mark.parametrize('prefix', ['features.module.', 'module.features.'])
def test_magface(tmp_path, prefix):
    source,kernel = noisy(tiny()), torch.rand(512, 5)
    state = {f'{prefix}{k}': v for k,v in source.state_dict().items()}
    state['module.fc.weight' if prefix.startswith('module') else 'fc.weight'] = kernel
    model = Recognizer(tiny(), 5)
    report = load_reference(model, save({'state_dict': state, 'epoch': 25}, tmp_path/'magface.pth'), show=False)
    assert report.source == 'MagFace'
    assert not (report.missing or report.unexpected or report.skipped)
    assert torch.equal(model.head.weight, kernel.T)
    assert torch.equal(model.body.conv1.weight, source.conv1.weight.flip(1))
    assert model.preprocess == Preprocess((0., 0., 0.), (1., 1., 1.), (32, 32))
    assert model.body.layer3[0].bn2.eps == 2e-5


def test_mobilefacenet_of_128(tmp_path):
    source = noisy(MobileFaceNet(size=(32, 32)))
    assert {'conv1.0.weight', 'conv1.1.running_var', 'dw_conv.depthwise.weight', 'dw_conv.pointwise.weight',
            'dw_conv.bn1.bias', 'dw_conv.bn2.bias', 'features.0.conv.0.0.weight', 'features.14.conv.1.1.weight',
            'features.14.conv.2.weight', 'features.14.conv.3.weight', 'conv2.0.weight', 'gdconv.depthwise.weight',
            'gdconv.bn.weight', 'conv3.weight', 'conv3.bias', 'bn.weight'} <= source.state_dict().keys()
    assert len(source.state_dict()) == 307
    assert source.features[12].conv[0][0].weight.shape == (512, 128, 1, 1)
    file = save(source.state_dict(), tmp_path/'mobilefacenet.pt')
    model = Recognizer('mobilefacenet', 5, pretrained=file, size=(32, 32))
    assert same(model.body, source)
    assert model.preprocess.mean == (.485, .456, .406)
    with pytest.raises(ConnectionError, match='file'): make_body('mobilefacenet', pretrained=True)
    with pytest.raises(FileNotFoundError, match=r'nowhere\.pt'): make_body('iresnet18', pretrained='nowhere.pt')


def test_mobilefacenet_of_512(tmp_path):
    source = noisy(MobileFaceNet(512, (32, 32), 'prelu'))
    blocks = {0: 'conv_23', 5: 'conv_34', 12: 'conv_45', **{1 + i: f'conv_3.model.{i}' for i in range(4)},
              **{6 + i: f'conv_4.model.{i}' for i in range(6)}, **{13 + i: f'conv_5.model.{i}' for i in range(2)}}
    units = {'0.0': 'conv.conv', '0.1': 'conv.bn', '0.2': 'conv.prelu',
             '1.0': 'conv_dw.conv', '1.1': 'conv_dw.bn', '1.2': 'conv_dw.prelu', '2': 'project.conv', '3': 'project.bn'}
    others = {'conv1.0': 'conv1.conv', 'conv1.1': 'conv1.bn', 'conv1.2': 'conv1.prelu',
              'dw_conv.depthwise': 'conv2_dw.conv', 'dw_conv.bn1': 'conv2_dw.bn', 'dw_conv.act': 'conv2_dw.prelu',
              'conv2.0': 'conv_6_sep.conv', 'conv2.1': 'conv_6_sep.bn', 'conv2.2': 'conv_6_sep.prelu',
              'gdconv.depthwise': 'conv_6_dw.conv', 'gdconv.bn': 'conv_6_dw.bn', 'conv3': 'linear', 'bn': 'bn'}
    state = {}
    for k,v in source.state_dict().items():
        module,_,end = k.rpartition('.')
        m = re.fullmatch(r'features\.(\d+)\.conv\.(.+)', module)
        name = f'{blocks[int(m[1])]}.{units[m[2]]}.{end}' if m else f'{others[module]}.{end}'
        if k != 'conv3.bias': state[name] = v.flatten(1) if module == 'conv3' else v
    model = Recognizer(MobileFaceNet(512, (32, 32), 'prelu'), 5)
    report = load_reference(model, save(state, tmp_path/'mobilefacenet.pth'), show=False)
    nn.init.zeros_(source.conv3.bias)
    # it was trained on BGR
    source.conv1[0].weight.data = source.conv1[0].weight.data.flip(1)
    assert same(model.body, source)
    assert report.source == 'InsightFace_Pytorch'
    assert model.preprocess.stats == face_stats
    assert not report.unexpected
    # by name, as recipes do
    named = Recognizer('mobilefacenet_prelu', 5, pretrained=tmp_path/'mobilefacenet.pth', size=(32, 32))
    assert same(named.body, source)
    assert named.embed_dim == 512
    assert named.preprocess.stats == face_stats


def test_ones_own_with_no_neck(tmp_path):
    source = noisy(Recognizer(tiny(), 5, head=AdaFace))
    model = Recognizer(tiny(), 5, head=AdaFace)
    report = load_reference(model, save(source.state_dict(), tmp_path/'own.pth'), show=False)
    assert report.source == 'qsd_fastai'
    assert same(model, source)


def test_what_pictures_a_body_wants():
    assert preprocess_of(make_body('resnet18')).stats == ((.485, .456, .406), (.229, .224, .225))
    assert preprocess_of(nn.Identity()) is None
    assert Preprocess.channels == 'rgb'
    wanted = Preprocess(*face_stats)
    assert not stats_differ(wanted, torch.full((1, 3, 1, 1), .5), [.5, .5, .5])
    assert stats_differ(wanted, [.485, .456, .406], [.5, .5, .5])
