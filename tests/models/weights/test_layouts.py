"Files as other projects leave them: golden embeddings of their own networks, their names, and what is refused by name"
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn

from qsd_fastai.models.bodies.by_name import make_body
from qsd_fastai.models.bodies.clip import clip_reid_rn50, clip_reid_vit
from qsd_fastai.models.bodies.iresnet import IResNet
from qsd_fastai.models.bodies.mobilefacenet import MobileFaceNet
from qsd_fastai.models.bodies.osnet import OSNet
from qsd_fastai.models.bodies.solider import SoliderSwin
from qsd_fastai.models.preprocess import face_stats
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.weights import read
from qsd_fastai.models.weights.project import Found
from qsd_fastai.models.weights.read import load_reference
from qsd_fastai.models.weights.refused import REFUSED, refusal
from qsd_fastai.models.weights.transformers import CLIP_RN50, CLIP_VIT

pytestmark = pytest.mark.usefixtures('one_thread')


def noisy(module):
    torch.manual_seed(1)
    for v in module.state_dict().values():
        if v.is_floating_point(): v.copy_(torch.rand_like(v) + .1)
    return module.eval()


def renamed(module, rules):
    "Its state dict by the first pattern that fits, and nothing of what no pattern knows"
    found = {}
    for k,v in module.state_dict().items():
        for old,new in rules:
            if re.fullmatch(old, k):
                found[re.sub(old, new, k)] = v
                break
    return found


def same(body, source): return all(torch.equal(v, source.state_dict()[k]) for k,v in body.state_dict().items())


GOLDEN = [('torchreid_osnet_x0_25', 'osnet_x0_25', (64, 32)), ('torchreid_osnet_ibn_x1_0', 'osnet_ibn_x1_0', (64, 32)),
          ('torchreid_osnet_ain_x0_25', 'osnet_ain_x0_25', (64, 32)), ('arcface_torch_mbf', 'mbf', (112, 112)),
          ('insightface_pytorch_mobilefacenet', 'mobilefacenet_prelu', (112, 112)), ('solider_swin', None, (122, 70))]


@pytest.mark.parametrize('name, arch, size', GOLDEN)
@pytest.mark.parametrize('prefix', ['', 'module.'])
def test_golden_embeddings(given, golden, golden_weights, name, arch, size, prefix):
    "Embeddings of the projects' own modules, at random weights"
    d,weights = golden(name),golden_weights(name)
    body = SoliderSwin(16, (2, 2, 2, 2), (1, 2, 4, 8)) if arch is None else make_body(arch)
    if arch is None: weights = {f'base.{k}': v for k,v in weights.items()} | behind(128)
    model = Recognizer(body, 3).double().eval()
    report = load_reference(model, given({'state_dict': {prefix + k: v for k,v in weights.items()}}), show=False)
    assert report.missing in ([], ['head.weight'])
    assert set(report.unexpected) <= {'head.bias'} | {k for k in report.unexpected if 'norm' in k or 'semantic' in k
                                                      or 'index' in k}
    x = torch.from_numpy(np.random.RandomState(5000).standard_normal((2, 3, *size)))
    if 'insightface' in name: x = x.flip(1) # it was made for blue first
    with torch.no_grad(): found = nn.functional.normalize(model(x))
    assert (found - nn.functional.normalize(torch.from_numpy(d['eval_feat']))).abs().max() < 1e-9


def found_in(weights): return Found(weights, {k: k for k in weights}, Path('weights.pth'))


def behind(nf, ids=3):
    neck = {f'bottleneck.{k}': v.double() + .1 for k,v in nn.BatchNorm1d(nf).state_dict().items()}
    return neck | {'classifier.weight': torch.ones(ids, nf).double()}


def test_osnet_of_fastreid_pools_by_itself(given):
    source = noisy(OSNet(.25, 32))
    streams = [(rf'(conv\d\.\d\.conv2)\.{i}\.(.+)', rf'backbone.\1{c}.\2') for i,c in ((1, 'b'), (2, 'c'), (3, 'd'))]
    rules = [(r'(conv\d\.\d\.conv2)\.0\.0\.(.+)', r'backbone.\1a.\2'), *streams,
             (r'pool(\d)\.0\.(.+)', r'backbone.conv\1.2.0.\2'), (r'fc\..+', ''), (r'(.+)', r'backbone.\1')]
    state = renamed(source, rules) | {f'heads.bottleneck.0.{k}': v for k,v in nn.BatchNorm1d(128).state_dict().items()}
    state = {'model': {k: v for k,v in state.items() if k} | {'heads.weight': torch.rand(5, 128)}}
    model = Recognizer(OSNet(.25, 32), 5, pool=nn.AdaptiveAvgPool2d(1))
    assert load_reference(model, given(state), show=False).source == 'FastReID'
    assert same(model.body, source)
    assert model.preprocess.resize == 'bicubic'
    # with the layer that Torchreid's has behind the pooling, it would stay untrained
    with pytest.raises(ValueError, match=r'lacks body\.fc\.0\.weight'):
        load_reference(Recognizer(OSNet(.25, 32), 5), given(state), show=False)


EVOLVE = [('conv1', 'input_layer.0'), ('bn1', 'input_layer.1'), ('prelu', 'input_layer.2'), ('bn2', 'output_layer.0'),
          ('act', 'output_layer.1'), ('fc', 'output_layer.3'), ('features', 'output_layer.4')]


def ir_names(body, parts):
    "Names of face.evoLVe and its children: units are numbered through"
    first = [0, *torch.tensor(body.layers).cumsum(0).tolist()]
    rules = [(rf'layer{i}\.{j}\.{part}\.(.+)', rf'body.{first[i - 1] + j}.{name}.\1')
             for i in range(1, 5) for j in range(body.layers[i - 1]) for part,name in parts]
    return renamed(body, rules + [(rf'{ours}\.(.+)', rf'{theirs}.\1') for ours,theirs in EVOLVE])


SHORT = [('downsample', 'shortcut_layer')]
WITHOUT = [*((o, f'res_layer.{i}') for i,o in enumerate(('bn1', 'conv1', 'prelu', 'conv2', 'bn3', 'se'))), *SHORT]
WITH = [*((o, f'res_layer.{i}') for i,o in enumerate(('bn1', 'conv1', 'bn2', 'prelu', 'conv2', 'bn3'))),
        ('se', 'res_layer.se_block'), *SHORT]


def tiny(form, **kwargs): return IResNet((2, 1, 1, 1), size=(32, 32), form=form, **kwargs)


@pytest.mark.parametrize('squeeze', [False, True])
def test_names_that_two_projects_share_are_asked_about(given, squeeze):
    source = noisy(tiny('evolve', squeeze=squeeze))
    file = given(ir_names(source, WITHOUT))
    with pytest.raises(ValueError, match=r"InsightFace_Pytorch, which trains on BGR.*channels='bgr'"):
        load_reference(Recognizer(tiny('evolve', squeeze=squeeze), 5), file, show=False)
    x = torch.rand(2, 3, 32, 32)*.01
    for channels in ('rgb', 'bgr'):
        model = Recognizer(tiny('evolve', squeeze=squeeze), 5).eval()
        load_reference(model, file, show=False, channels=channels)
        with torch.no_grad(): assert torch.allclose(model(x), source(x.flip(1) if channels == 'bgr' else x), rtol=1e-4)
    # the network with batch norms between its convolutions is another
    with pytest.raises(ValueError, match='do not fit'):
        load_reference(Recognizer(tiny('adaface', squeeze=squeeze), 5), file, show=False, channels='rgb')


def test_curricularface_learns_nothing_in_its_last_layer(given):
    source = noisy(tiny('evolve'))
    nn.init.ones_(source.features.weight), nn.init.zeros_(source.features.bias)
    state = ir_names(source, WITHOUT)
    for end in ('weight', 'bias'): del state[f'output_layer.4.{end}']
    model = Recognizer(noisy(tiny('evolve')), 5)
    assert load_reference(model, given(state), show=False).source == 'CurricularFace'
    assert same(model.body, source)


@pytest.mark.parametrize('form, squeeze, source', [('adaface', True, 'TFace, or AdaFace without its head'),
                                                   ('tface', False, "TFace's R50 for labels of quality")])
def test_networks_of_tface(given, form, squeeze, source):
    body = noisy(tiny(form, squeeze=squeeze))
    model = Recognizer(tiny(form, squeeze=squeeze), 5)
    state = ir_names(body, WITHOUT if form == 'tface' else WITH)
    assert load_reference(model, given(state), show=False).source == source
    assert same(model.body, body)


@pytest.mark.parametrize(('name', 'order'), [
    ('weights.ckpt', None), ('adaface_ir18.ckpt', 'bgr'), ('ir18_rgb.ckpt', 'rgb')])
def test_a_network_in_a_model_without_a_head_is_of_nobody(tmp_path, name, order):
    "AdaFace's trainer keeps it so, and others do, whose pictures are RGB"
    body = noisy(tiny('adaface'))
    torch.save({'state_dict': {f'model.{k}': v for k,v in ir_names(body, WITH).items()}}, tmp_path/name)
    model = Recognizer(tiny('adaface'), 5)
    if order is None:
        with pytest.raises(ValueError, match="channels='bgr': nothing tells"): load_reference(model, tmp_path/name)
        order = 'rgb'
        load_reference(model, tmp_path/name, channels=order, show=False)
    else: load_reference(model, tmp_path/name, show=False)
    assert model.body.turned == (order == 'bgr')


def test_mobilefacenet_of_tface(given):
    "The names of InsightFace_Pytorch, but for the last layers, which may learn nothing; RGB"
    source = noisy(MobileFaceNet(512, (32, 32), 'prelu'))
    nn.init.zeros_(source.conv3.bias)
    blocks = {0: 'conv_23', 5: 'conv_34', 12: 'conv_45', **{1 + i: f'conv_3.model.{i}' for i in range(4)},
              **{6 + i: f'conv_4.model.{i}' for i in range(6)}, **{13 + i: f'conv_5.model.{i}' for i in range(2)}}
    units = {'0.0': 'conv.conv', '0.1': 'conv.bn', '0.2': 'conv.prelu', '1.0': 'conv_dw.conv', '1.1': 'conv_dw.bn',
             '1.2': 'conv_dw.prelu', '2': 'project.conv', '3': 'project.bn'}
    others = {'conv1.0': 'conv1.conv', 'conv1.1': 'conv1.bn', 'conv1.2': 'conv1.prelu',
              'dw_conv.depthwise': 'conv2_dw.conv', 'dw_conv.bn1': 'conv2_dw.bn', 'dw_conv.act': 'conv2_dw.prelu',
              'conv2.0': 'conv_6_sep.conv', 'conv2.1': 'conv_6_sep.bn', 'conv2.2': 'conv_6_sep.prelu',
              'gdconv.depthwise': 'output_layer.conv_6_dw.conv', 'gdconv.bn': 'output_layer.conv_6_dw.bn',
              'conv3': 'output_layer.linear', 'bn': 'output_layer.bn'}
    rules = [(rf'features\.{i}\.conv\.{unit}\.(.+)', rf'{name}.{theirs}.\1') for i,name in blocks.items()
             for unit,theirs in units.items()] + [(rf'{ours}\.(.+)', rf'{theirs}.\1') for ours,theirs in others.items()]
    state = renamed(source, rules)
    del state['output_layer.linear.bias']
    state['output_layer.linear.weight'] = state['output_layer.linear.weight'].flatten(1)
    for learned in (True, False):
        if not learned:
            for end in ('weight', 'bias'): del state[f'output_layer.bn.{end}']
            nn.init.ones_(source.bn.weight), nn.init.zeros_(source.bn.bias)
        model = Recognizer(noisy(MobileFaceNet(512, (32, 32), 'prelu')), 5)
        assert load_reference(model, given(state), show=False).source == "TFace's MobileFaceNet"
        assert same(model.body, source)
        assert model.preprocess.stats == face_stats


def test_mbf_large(given):
    "Its stem are two blocks where that of mbf is one convolution"
    source = noisy(MobileFaceNet(512, (32, 32), 'prelu', scale=4, depth=2))
    nn.init.zeros_(source.conv3.bias)
    places = {'dw_conv.0': '1.layers.0', 'dw_conv.1': '1.layers.1'}
    n = 0
    for entry,count in ((2, 1), (3, 8), (4, 1), (5, 12), (6, 1), (7, 4)):
        for j in range(count): places[f'features.{n + j}'] = f'{entry}.layers.{j}' if entry % 2 else f'{entry}'
        n += count
    units = {f'conv.{a}.{b}': f'{a}.layers.{b}' for a in (0, 1) for b in (0, 1, 2)}
    units |= {'conv.2': '2.layers.0', 'conv.3': '2.layers.1'}
    rules = [(rf'{ours}\.{unit}\.(.+)', rf'layers.{theirs}.layers.{end}.\1') for ours,theirs in places.items()
             for unit,end in units.items()]
    rules += [(r'conv1\.(\d\..+)', r'layers.0.layers.\1'), (r'conv2\.(\d\..+)', r'conv_sep.layers.\1'),
              (r'gdconv\.depthwise\.(.+)', r'features.layers.0.layers.0.\1'),
              (r'gdconv\.bn\.(.+)', r'features.layers.0.layers.1.\1'), (r'conv3\.weight', 'features.layers.2.weight'),
              (r'bn\.(.+)', r'features.layers.3.\1')]
    state = renamed(source, rules)
    assert len(state) == len(source.state_dict()) - 1
    state['features.layers.2.weight'] = state['features.layers.2.weight'].flatten(1)
    model = Recognizer(MobileFaceNet(512, (32, 32), 'prelu', scale=4, depth=2), 5)
    assert load_reference(model, given(state), show=False).source == "arcface_torch's mbf"
    assert same(model.body, source)


VIT = {'num_classes': 0, 'img_size': (64, 32)}


def transreid(**kwargs):
    source = noisy(timm.create_model('vit_tiny_patch16_224', **{**VIT, **kwargs}))
    state = {f'module.base.{k}': v for k,v in source.state_dict().items()} | {
        'module.base.fc.weight': torch.ones(9, 192), 'module.base.fc.bias': torch.ones(9),
        'module.classifier.weight': torch.rand(5, 192)}
    neck = noisy(nn.BatchNorm1d(192))
    return source, state | {f'module.bottleneck.{k}': v for k,v in neck.state_dict().items()}, neck


def test_transreid_is_judged_before_its_neck(given):
    source,state,neck = transreid()
    model = Recognizer('vit_tiny_patch16_224', 5, img_size=(64, 32)).eval()
    report = load_reference(model, given(state), show=False)
    x = torch.randn(2, 3, 64, 32)
    with torch.no_grad():
        pooled = source.forward_head(source.forward_features(x), pre_logits=True)
        assert torch.equal(model(x), pooled)
        assert any('before the neck' in o for o in report.notes)
        assert model.preprocess.stats == face_stats
        # it travels with the weights, and whoever wants the other has it
        again = Recognizer('vit_tiny_patch16_224', 5, img_size=(64, 32)).eval()
        again.load_state_dict(model.state_dict())
        assert torch.equal(again(x), pooled)
        again.neck.judged = 'after'
        assert torch.allclose(again(x), neck.eval()(pooled), atol=1e-5)
        assert torch.allclose(model.train()(x).emb, again.train()(x).emb, atol=1e-5)


def test_places_of_another_size_are_refused(given):
    _,state,_ = transreid()
    with pytest.raises(ValueError, match=r'base\.pos_embed is for 8 patches, and the body has 32.*img_size'):
        load_reference(Recognizer('vit_tiny_patch16_224', 5, img_size=(128, 64)), given(state), show=False)


SWIN = [(r'patch\.(.+)', r'patch_embed.projection.\1'), (r'norm0\.(.+)', r'patch_embed.norm.\1'),
        (r'norm\.(.+)', r'norm3.\1'), (r'stage(\d)\.(\d\.norm\d\..+)', r'stages.\1.blocks.\2'),
        (r'stage(\d)\.(\d\.attn\.)(.+)', r'stages.\1.blocks.\2w_msa.\3'),
        (r'stage(\d)\.(\d\.)mlp\.0\.(.+)', r'stages.\1.blocks.\2ffn.layers.0.0.\3'),
        (r'stage(\d)\.(\d\.)mlp\.2\.(.+)', r'stages.\1.blocks.\2ffn.layers.1.\3')]


def test_solider_and_how_much_meaning_weighs(given):
    def make(**kwargs): return SoliderSwin(16, (1, 1, 1, 1), (1, 1, 1, 1), **kwargs)

    source = noisy(make())
    merges = [rule for i in range(3) for rule in (
        (rf'merge{i + 1}\.((norm|reduction)\..+)', rf'stages.{i}.downsample.\1'),
        (rf'merge{i + 1}\.scale_(.+)', rf'semantic_embed_w.{i}.\1'),
        (rf'merge{i + 1}\.shift_(.+)', rf'semantic_embed_b.{i}.\1'))]
    state = {f'base.{k}': v for k,v in renamed(source, SWIN + merges).items()} | behind(128, 5)
    state |= {'base.norm1.weight': torch.ones(32), 'base.semantic_embed_w.3.weight': torch.ones(128, 2),
              'base.stages.0.blocks.0.attn.w_msa.relative_position_index': torch.zeros(49, 49, dtype=torch.long)}
    model = Recognizer(make(), 5).eval()
    assert load_reference(model, given(state), show=False).source == "SOLIDER's Swin"
    assert same(model.body, source)
    assert model.body.semantic == .2
    x = torch.rand(1, 3, 64, 32)
    asked = Recognizer(make(semantic=.7), 5).eval()
    report = load_reference(asked, given(state), show=False)
    assert any('meaning weighs 0.7, as asked for' in o for o in report.notes)
    with torch.no_grad(): assert not torch.allclose(model(x), asked(x))


@pytest.mark.parametrize('project, make', [(CLIP_VIT, clip_reid_vit), (CLIP_RN50, clip_reid_rn50)])
def test_towers_of_clip_reid(project, make):
    "By shapes alone: every weight of the tower has a place, and two necks are one"
    with torch.device('meta'): model = Recognizer(make(), 5)
    own = {k: v for k,v in model.state_dict().items() if k != '_extra_state'}
    vit = project is CLIP_VIT
    a,b = (768, 512) if vit else (2048, 1024)
    names = [('cls_token', 'class_embedding'), ('pos_embed', 'positional_embedding'), (r'proj\.weight', 'proj'),
             (r'patch_embed\.proj\.(.+)', r'conv1.\1'), (r'norm_pre\.(.+)', r'ln_pre.\1'),
             (r'norm\.(.+)', r'ln_post.\1'), (r'blocks\.(\d+)\.norm(\d\..+)', r'transformer.resblocks.\1.ln_\2'),
             (r'blocks\.(\d+)\.attn\.qkv\.(.+)', r'transformer.resblocks.\1.attn.in_proj_\2'),
             (r'blocks\.(\d+)\.attn\.proj\.(.+)', r'transformer.resblocks.\1.attn.out_proj.\2'),
             (r'blocks\.(\d+)\.mlp\.fc1\.(.+)', r'transformer.resblocks.\1.mlp.c_fc.\2'),
             (r'blocks\.(\d+)\.mlp\.fc2\.(.+)', r'transformer.resblocks.\1.mlp.c_proj.\2')]
    state = renamed(model.body, names if vit else [('(.+)', r'\1')])
    if vit: state |= {'class_embedding': torch.empty(768), 'positional_embedding': torch.empty(129, 768),
                      'proj': torch.empty(768, 512)}
    weights = {f'image_encoder.{k}': v for k,v in state.items()} | {
        'classifier.weight': torch.empty(5, a), 'classifier_proj.weight': torch.empty(5, b),
        'prompt_learner.cls_ctx': torch.empty(5, 4, 512), 'text_encoder.ln_final.weight': torch.empty(512)}
    for name,nf in (('bottleneck', a), ('bottleneck_proj', b)):
        weights |= {f'{name}.{k}': v for k,v in nn.BatchNorm1d(nf).state_dict().items()}
    found = found_in(weights)
    assert next(o for o in read.PROJECTS if o.tells(found)) is project
    parts = {o.ours: o.value for o in project.rename(found)}
    assert {k: v.shape for k,v in own.items() if not k.startswith('head.')} == {
        k: parts[k].shape for k in own if not k.startswith('head.')}
    left = [o.theirs for o in project.rename(found) if o.ours not in own]
    assert all(re.fullmatch(project.spare, o) for o in left)
    assert project.network.judged == 'before'


# what tells each of `REFUSED`, in its order, and a word of the answer
KNOWN = [(['b1.0.norm1.weight', 'base.cls_token'], 'JPM'), (['base.sie_embed', 'base.cls_token'], 'SIE'),
         (['fcneck.weight', 'base.norm3.weight'], 'REDUCE_FEAT_DIM'),
         (['conv_6_sep.conv.weight', 'output_layer.bn1.running_mean', 'output_layer.bn2.running_mean'], 'GNAP'),
         (['quality.3.weight', 'conv1.conv.weight'], 'quality'), (['body.0.res_layer.8.weight'], 'bottlenecks')]


@pytest.mark.parametrize('i', range(len(REFUSED)))
def test_what_is_known_and_not_built_is_refused_by_name(given, i):
    keys,word = KNOWN[i]
    assert REFUSED[i][0](found_in({k: torch.ones(2) for k in keys}))
    with pytest.raises(ValueError, match=rf'weights\.pth holds .*{word}'):
        load_reference(Recognizer('resnet18', 5), given({f'module.{k}': torch.ones(2) for k in keys}), show=False)
    assert refusal(found_in({'conv1.weight': torch.ones(2)})) is None
