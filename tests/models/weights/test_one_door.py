"One door for weights: any body, behind any wrapper and in any container, is filled to the last key or refused by name"
import re

import pytest
import torch
from recent import skip_where_it_lacks
from torch import nn

from qsd_fastai.models.bodies.by_name import make_body, own_bodies, sized_bodies
from qsd_fastai.models.layers import BNNeck
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.weights.read import load_body, load_reference

pytestmark = pytest.mark.usefixtures('one_thread')

SMALL = {'size': (32, 32)}
# of networks that differ in depth or width alone, one
ALIKE = re.compile(r'(iresnet|ir)(34|50)|.*(10[01]|152|200|_small|_base)|osnet(_ain)?_x(0_5|0_75|1_0)')
OWN = {name: SMALL if name in sized_bodies else {} for name in own_bodies if not ALIKE.fullmatch(name)}
TIMM = {'resnet18': {}, 'test_resnet': {}, 'test_vit': {}, 'test_convnext': {}, 'test_efficientnet': {},
        'test_byobnet': {}, 'regnetx_002': {}, 'mobilenetv3_small_050': {}, 'densenet121': {}, 'seresnet18': {},
        'swin_tiny_patch4_window7_224': {'embed_dim': 24, 'depths': (1, 1, 1, 1), 'num_heads': (1, 1, 2, 2)}}
WRAPPERS = ['', 'module.', '_orig_mod.', 'module._orig_mod.', 'model.', 'backbone.', 'base.', 'body.', 'encoder.',
            'net.', 'network.', 'student.', 'teacher.', 'model.backbone.', 'a_trainer_that_nobody_knows.']
CONTAINERS = {
    'bare': lambda w: w, 'state_dict': lambda w: {'state_dict': w, 'epoch': 3, 'best': torch.tensor(.5)},
    'learn.save': lambda w: {'model': w, 'opt': {'state': [{'grad_avg': torch.ones(3)}]}},
    'lightning': lambda w: {'state_dict': w, 'pytorch-lightning_version': '2', 'optimizer_states': [{'state': {}}]},
    'model_state_dict': lambda w: {'model_state_dict': w, 'optimizer_state_dict': {'state': {0: torch.ones(2)}}},
    'ema beside it': lambda w: {'model': w, 'ema': {k: torch.zeros_like(v) for k,v in w.items()}},
    'student beside it': lambda w: {'teacher': w, 'student': {k: torch.zeros_like(v) for k,v in w.items()}},
    'twice': lambda w: {'checkpoint': {'state_dict': w}}, 'net': lambda w: {'net': w, 'acc': 93.1}}


def noise(module):
    "Its weights, each another; where names are those of timm, with a classifier"
    found = {k: torch.rand_like(v) + .1 if v.is_floating_point() else v.clone() for k,v in module.state_dict().items()}
    return found | {f'{module.pretrained_cfg["classifier"]}.{end}': torch.zeros(7, 5)[:, 0] if end == 'bias' else
                    torch.zeros(7, 5) for end in ('weight', 'bias')} if hasattr(module, 'pretrained_cfg') else found


def emptied(body):
    for v in body.state_dict().values(): v.zero_()
    return body


def holds(body, weights): return all(torch.equal(v, weights[k]) for k,v in body.state_dict().items())


@pytest.mark.parametrize('name', [*OWN, *TIMM])
def test_every_body_behind_every_wrapper(given, name):
    skip_where_it_lacks(name)
    body = make_body(name, **{**OWN, **TIMM}[name])
    weights = noise(body)
    for wrapper in WRAPPERS:
        file = given({f'{wrapper}{k}': v for k,v in weights.items()})
        assert holds(load_body(emptied(body), file), weights), wrapper
    # a classifier that lies outside of the wrapper
    names = {k if k.startswith(('fc.', 'classifier.')) else f'backbone.{k}': v for k,v in weights.items()}
    if hasattr(body, 'pretrained_cfg'): assert holds(load_body(emptied(body), given(names)), weights)
    key = next(k for k in body.state_dict() if k.endswith('weight'))
    for wrapper in ('', 'model.backbone.'):
        wrapped = {f'{wrapper}{k}': v for k,v in weights.items()}
        ours = f'{wrapper}{key}'
        less = {k: v for k,v in wrapped.items() if k != ours}
        for wrong in (less, {**less, f'{ours}_': wrapped[ours]}, {**wrapped, ours: wrapped[ours][..., :0]},
                      {**wrapped, f'{wrapper}neck.fc.weight': torch.ones(2, 2)}, {**wrapped, ours: torch.tensor(1.)},
                      {**wrapped, ours: wrapped[ours].to(torch.int8)}):
            before = {k: v.clone() for k,v in body.state_dict().items()}
            with pytest.raises(ValueError, match=r'weights\.pth') as e: load_body(body, given(wrong))
            strange = [k for k in wrong if k not in wrapped] or [ours if ours in wrong else key]
            assert strange[0] in str(e.value), e.value
            assert holds(body, before)


@pytest.mark.parametrize('container', CONTAINERS)
def test_every_container_behind_every_wrapper(given, container):
    body = make_body('test_resnet')
    weights = noise(body)
    for wrapper in WRAPPERS:
        file = given(CONTAINERS[container]({f'{wrapper}{k}': v for k,v in weights.items()}))
        assert holds(load_body(emptied(body), file), weights), wrapper


def test_what_was_chosen_is_said(given, capsys):
    body,weights = make_body('test_resnet'), noise(make_body('test_resnet'))
    load_body(body, given(CONTAINERS['ema beside it'](weights)))
    assert 'of model, ema in the file, model was taken' in capsys.readouterr().out
    both = {f'{name}.{k}': v*factor for name,factor in (('student', 0), ('teacher', 1)) for k,v in weights.items()}
    load_body(body, given(both))
    assert holds(body, weights)
    assert 'of teacher and student in the file, teacher was taken' in capsys.readouterr().out
    with pytest.raises(ValueError, match='several networks, left, right'):
        load_body(body, given({'left': weights, 'right': weights}))
    with pytest.raises(ValueError, match=r'left\.'):
        load_body(body, given({f'{o}.{k}': v for o in ('left', 'right') for k,v in weights.items()}))


def test_another_depth(given):
    weights = noise(make_body('resnet18'))
    with pytest.raises(ValueError, match=r'lacks body\.layer1\.2'): make_body('resnet34', pretrained=given(weights))
    deeper = given(noise(make_body('resnet34')))
    with pytest.raises(ValueError, match='no place'): make_body('resnet18', pretrained=deeper)
    with pytest.raises(ValueError, match=r'lacks.*NL_'):
        load_reference(Recognizer('agw_resnet50', 5), given(noise(make_body('resnet50'))))


@pytest.mark.parametrize('name, kwargs', [
    ('test_vit', {'img_size': (64, 32)}),
    ('swin_tiny_patch4_window7_224', {**TIMM['swin_tiny_patch4_window7_224'], 'img_size': (128, 64)})])
def test_position_embeddings_are_resized(given, name, kwargs):
    "As timm's own reader does, and nothing else of it: a key that it would drop is refused"
    weights = noise(make_body(name, **TIMM[name]))
    body = make_body(name, pretrained=given({f'model.{k}': v for k,v in weights.items()}), **kwargs)
    same = [k for k,v in body.state_dict().items() if v.shape == weights[k].shape]
    assert len(same) > .9*len(body.state_dict())
    assert all(torch.equal(body.state_dict()[k], weights[k]) for k in same)
    with pytest.raises(ValueError, match=r'model\.blocks\.99'):
        more = {f'model.{k}': v for k,v in {**weights, 'blocks.99.w': torch.ones(2)}.items()}
        make_body(name, pretrained=given(more), **kwargs)


def test_names_of_older_versions(given):
    "As Facebook published ConvNeXt's: timm renames them"
    body = make_body('test_convnext')
    weights = noise(body)
    def old(k): return k.replace('stem.0', 'downsample_layers.0.0').replace('stem.1', 'downsample_layers.0.1') \
        if k.startswith('stem') else k.replace('mlp.fc1', 'pwconv1').replace('mlp.fc2', 'pwconv2') \
        .replace('conv_dw', 'dwconv').replace('head.norm', 'norm').replace('head.fc', 'head')
    names = {}
    for k,v in weights.items():
        stage = k.split('.')[1]
        k = k.replace(f'stages.{stage}.blocks', f'stages.{stage}')
        names[old(k).replace(f'stages.{stage}.downsample', f'downsample_layers.{stage}')] = v
    assert holds(load_body(emptied(body), given({'model': names})), weights)


def test_timms_own_reader_is_never_asked():
    for kwargs in ({'pretrained_cfg_overlay': {'file': 'w.pth'}}, {}):
        name = 'resnet18' if kwargs else 'local-dir:/nowhere'
        with pytest.raises(ValueError, match='pretrained=FILE'): make_body(name, pretrained=True, **kwargs)


def test_layers_between_pooling_and_classifier(given):
    "Torchreid's resnet50_fc512, FastReID's EMBEDDING_DIM, SOLIDER's reduced features, classifiers of several layers"
    weights = {k: v for k,v in noise(make_body('resnet18')).items() if not k.startswith('fc.')}
    norm = {k: torch.ones(64) for k in ('weight', 'bias', 'running_mean', 'running_var')}
    forms = {
        'fc.0.weight': {**weights, 'fc.0.weight': torch.ones(64, 512), 'fc.0.bias': torch.ones(64),
                        **{f'fc.1.{k}': v for k,v in norm.items()}, 'classifier.weight': torch.ones(5, 64)},
        'heads.bottleneck.0.weight': {**{f'backbone.{k}': v for k,v in weights.items()},
                                      'heads.bottleneck.0.weight': torch.ones(64, 512, 1, 1),
                                      **{f'heads.bottleneck.1.{k}': v for k,v in norm.items()},
                                      'heads.weight': torch.ones(5, 64)},
        'fcneck.weight': {**{f'base.{k}': v for k,v in weights.items()}, 'fcneck.weight': torch.ones(64, 512),
                          **{f'bottleneck.{k}': v for k,v in norm.items()}, 'classifier.weight': torch.ones(5, 64)},
        'no place for fc.weight, whose 64': {**weights, 'fc.weight': torch.ones(64, 512), 'fc.bias': torch.ones(64),
                                             'classifier.weight': torch.ones(5, 64)},
        'place for base.fc.weight': {**{f'base.{k}': v for k,v in weights.items()},
                                     'base.fc.weight': torch.ones(64, 512), 'classifier.weight': torch.ones(5, 64)},
        'place for backbone.fc.weight': {**{f'backbone.{k}': v for k,v in weights.items()},
                                         'backbone.fc.weight': torch.ones(64, 512), 'heads.weight': torch.ones(5, 64)},
        'no place for classifier.weight': {**weights, 'classifier.weight': torch.ones(64, 512),
                                           'fc.weight': torch.ones(5, 64)},
        'classifier.0.weight': {**weights, 'classifier.0.weight': torch.ones(64, 512),
                                'classifier.weight': torch.ones(5, 64)},
        'model.conv1.weight': {**{f'model.{k}': v for k,v in weights.items()},
                               'classifier.add_block.0.weight': torch.ones(64, 512)}}
    for key,state in forms.items():
        for head in (True, False):
            model,file = Recognizer('resnet18', 5), given(state)
            with pytest.raises(ValueError, match=key): load_reference(model, file, head, show=False)


@pytest.mark.parametrize('form', ['torchreid', 'fastreid', 'bot', 'plain'])
def test_weights_trained_with_average_pooling_keep_it(given, form):
    weights = {k: v for k,v in noise(make_body('resnet18')).items() if not k.startswith('fc.')}
    norm = noise(BNNeck(512))
    state = {'torchreid': {**weights, 'classifier.weight': torch.ones(5, 512)}, 'plain': weights,
             'fastreid': {**{f'backbone.{k}': v for k,v in weights.items()}, 'heads.weight': torch.ones(5, 512),
                          **{f'heads.bottleneck.0.{k}': v for k,v in norm.items()}},
             'bot': {**{f'base.{k}': v for k,v in weights.items()}, 'classifier.weight': torch.ones(5, 512),
                     **{f'bottleneck.{k}': v for k,v in norm.items()}}}[form]
    model = Recognizer('resnet18', 5).eval()
    report = load_reference(model, given(state), show=False)
    x = torch.randn(4, 512, 4, 2).relu()
    assert torch.allclose(model.pooled(x), x.mean((2, 3)), atol=1e-6)
    assert 'pooling is average, as these weights were trained' in report.notes
    trained = form in ('fastreid', 'bot')
    assert isinstance(model.neck, BNNeck if trained else nn.Identity)
    if trained: assert torch.equal(model.neck.weight, norm['weight'])
    assert model.body.feature_info[-1]['reduction'] == (16 if trained else 32)
    assert model.preprocess.resize == ('bicubic' if form == 'fastreid' else 'bilinear')
    assert isinstance(model.body.act1, nn.Identity) == (form == 'bot')
    assert model.body.maxpool.ceil_mode == (form == 'fastreid')
    # what is asked for stays, and is said
    model = Recognizer('resnet18', 5, last_stride=2, pool=nn.AdaptiveMaxPool2d(1), neck=BNNeck)
    report = load_reference(model, given(state), show=False)
    assert isinstance(model.pool, nn.AdaptiveMaxPool2d)
    assert isinstance(model.neck, BNNeck)
    assert model.body.feature_info[-1]['reduction'] == 32
    assert any('pooling is max, as asked for' in o for o in report.notes)
    assert any('stride of the last stage is 2, as asked for' in o for o in report.notes) == trained


@pytest.mark.parametrize('told, pool', [('', nn.AdaptiveAvgPool2d), ('GlobalMaxPool', nn.AdaptiveMaxPool2d),
                                        ('GeneralizedMeanPooling', None), ('Flatten', ValueError)])
def test_fastreid_tells_its_pooling_in_its_configuration(given, told, pool):
    weights = {k: v for k,v in noise(make_body('resnet18')).items() if not k.startswith('fc.')}
    state = {**{f'backbone.{k}': v for k,v in weights.items()}, 'heads.weight': torch.ones(5, 512)}
    file,model = given(state), Recognizer('resnet18', 5)
    if told: file.with_name('config.yaml').write_text(f'MODEL:\n  HEADS:\n    POOL_LAYER: {told}\n    LAST_STRIDE: 2\n')
    if pool is ValueError:
        with pytest.raises(ValueError, match=r'weights\.pth.*pools by Flatten'): load_reference(model, file)
        return
    report = load_reference(model, file, show=False)
    if pool is None: assert model.pool.p.item() == 3
    else: assert isinstance(model.pool, pool)
    assert model.body.feature_info[-1]['reduction'] == (32 if told else 16)
    assert any('config.yaml' in o for o in report.notes)


def test_fastreids_agw_pools_with_a_fixed_power(given):
    body = make_body('agw_resnet50')
    state = {f'backbone.{k}': v for k,v in noise(body).items()} | {'heads.weight': torch.ones(5, 2048)}
    model = Recognizer(body, 5)
    report = load_reference(model, given(state), show=False)
    assert model.pool.p.item() == 3
    assert any('a fixed 3' in o for o in report.notes)
    with pytest.raises(ValueError, match=r'backbone\.layer1\.0\.bn1\.IN\.weight'):
        load_reference(model, given({**state, 'backbone.layer1.0.bn1.IN.weight': torch.ones(32)}))
