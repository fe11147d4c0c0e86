"Files made to break the reader: after it, names, shapes and types are not trusted either"
import random
from functools import partial

import pytest
import torch

from qsd_fastai.models.bodies.agw import NonLocalResNet
from qsd_fastai.models.bodies.iresnet import IResNet
from qsd_fastai.models.bodies.mobilefacenet import MobileFaceNet
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.weights import read
from qsd_fastai.models.weights.read import LoadReport, load_reference
from qsd_fastai.models.weights.safe_pickle import Inert

pytestmark = pytest.mark.usefixtures('one_thread')

resnet = partial(NonLocalResNet, (1, 1, 1, 1), (0, 1, 0, 0))
ir = partial(IResNet, (1, 1, 1, 1), size=(32, 32))
UNIT = dict(zip(('bn1', 'conv1', 'bn2', 'prelu', 'conv2', 'bn3'), (f'res_layer.{i}' for i in range(6)), strict=True))
UNIT |= {'downsample.0': 'shortcut_layer.0', 'downsample.1': 'shortcut_layer.1'}
ENDS = {'conv1': 'input_layer.0', 'bn1': 'input_layer.1', 'prelu': 'input_layer.2', 'bn2': 'output_layer.0',
        'fc': 'output_layer.3', 'features': 'output_layer.4'}


def by_prefix(**names):
    def rename(state):
        return {next((new + k[len(old) + 1:] for old,new in names.items() if k.startswith(f'{old}.')), k): v
                for k,v in state.items() if k != '_extra_state'}
    return rename


def bare(state): return {k.removeprefix('body.'): v for k,v in state.items() if k.startswith('body.')}


def as_adaface(state):
    found = {}
    for k,v in state.items():
        if not k.startswith('body.'): continue
        module,_,end = k.removeprefix('body.').rpartition('.')
        stage,_,part = module.partition('.0.')
        found[f'body.{int(stage[5:]) - 1}.{UNIT[part]}.{end}' if part else f'{ENDS[module]}.{end}'] = v
    return found


def as_insightface(state):
    names = {'conv1.0': 'conv1.conv', 'conv1.1': 'conv1.bn', 'conv3': 'linear', 'gdconv.depthwise': 'conv_6_dw.conv',
             'dw_conv.depthwise': 'conv2_dw.conv'}
    state = bare(state)
    return {next((new + k[len(old):] for old,new in names.items() if k.startswith(f'{old}.')), k):
            v.flatten(1) if k == 'conv3.weight' else v for k,v in state.items() if k != 'conv3.bias'}


# project -> the body it is read into, and its names for that
FORMS = {
    'qsd_fastai': (resnet, dict),
    'agw': (resnet, by_prefix(body='base.', pool='global_pool.', neck='bottleneck.', head='classifier.')),
    'fastreid': (resnet, by_prefix(body='backbone.', pool='heads.pool_layer.', neck='heads.bottleneck.0.',
                                   head='heads.')),
    'torchreid': (resnet, lambda s: {k.removeprefix('body.').replace('head.', 'classifier.'): v for k,v in s.items()
                                     if k.startswith(('body.', 'head.'))}),
    'arcface': (ir, by_prefix(body='', head='head.')), 'magface': (ir, by_prefix(body='features.module.', head='fc.')),
    'adaface': (partial(ir, form='adaface'), lambda s: {f'model.{k}': v for k,v in as_adaface(s).items()} | {
        'head.kernel': torch.ones(512, 5), 'head.t': torch.ones(1)}),
    'tface': (partial(ir, form='adaface'), as_adaface),
    'mobilefacenet': (partial(MobileFaceNet, size=(32, 32)), bare),
    'insightface': (partial(MobileFaceNet, 512, (32, 32), 'prelu'), as_insightface),
    'vit': (lambda: Recognizer('test_vit', 1).body, bare),
    'swin': (lambda: Recognizer('swin_tiny_patch4_window7_224', 1, embed_dim=24, depths=(1, 1, 1, 1), num_heads=(
        1, 1, 2, 2)).body, bare),
    'convnext': (lambda: Recognizer('test_convnext', 1).body, bare)}
HUGE = 10**11
VALUES = [None, 3, 'text', b'bytes', [], {}, (), Inert(), torch.tensor(1.), torch.zeros(0), torch.zeros(0, HUGE),
          torch.zeros(1).expand(HUGE), torch.zeros(1).expand(3, HUGE), torch.zeros(HUGE, 0),
          torch.zeros(1, 1, 1, 1, 1, 1), torch.ones(2, dtype=torch.complex64), torch.ones(3, 3, dtype=torch.bool),
          torch.full((2, 2), float('nan')), torch.ones(3, 3).to_sparse(), {'weight': torch.ones(2)}]
NAMES = [None, 7, (), b'x', 3.5, True, '', '.', '..', 'body.', 'x'*5000, 'body.9999999999999.res_layer.5.weight',
         'body.99999999999999999999.res_layer.0.weight', 'features.', 'conv_3.model.99999.conv.conv.weight',
         'state_dict', 'model', 'head.weight', '_extra_state', 'linear.weight', 'pixel_mean', 'bottleneck.weight',
         'pos_embed', 'fc.weight']


def mutated(state, rng):
    "A state dict with one to three things done to it"
    for _ in range(rng.randint(1, 3)):
        keys = [*state]
        if not keys: break
        key,way = rng.choice(keys), rng.randrange(7)
        v = state[key]
        if way == 0: state.pop(key)
        elif way == 1: state[rng.choice(NAMES)] = state.pop(key)
        elif way == 2: state[key] = rng.choice(VALUES)
        elif way == 3: state[rng.choice(NAMES)] = rng.choice(VALUES)
        elif way == 4 and isinstance(v, torch.Tensor): state[key] = rng.choice([
            v.flatten(), v[None], v.T if v.ndim == 2 else v.flatten()[:0], v.reshape(-1)[:1], v.half(), v.int()])
        elif way == 5: state = {rng.choice(['state_dict', 'model', 'ema', 'x', 3]): state, rng.choice(['net', 'y']): {}}
        else: state = {f'{rng.choice(["module.", "", "body.", "x."])}{k}': v for k,v in state.items()}
    return state


@pytest.mark.parametrize('form', FORMS)
def test_every_form_mutated(form, monkeypatch, tmp_path):
    "Read, or refused by a `ValueError` with the name of the file; nothing is allocated that a file only speaks of"
    make,names = FORMS[form]
    rng,model = random.Random(form), Recognizer(make(), 5)
    state,file = names(model.state_dict()), tmp_path/'crafted.pth'
    monkeypatch.setattr(read, 'read_checkpoint', lambda file: dict(state))
    assert load_reference(model, file, show=False).used
    fresh,read_on = Recognizer(make(), 5), 0
    for _ in range(60):
        wrong = mutated(dict(state), rng)
        monkeypatch.setattr(read, 'read_checkpoint', lambda file, wrong=wrong: wrong)
        try: read_on += isinstance(load_reference(fresh, file, show=False), LoadReport)
        except ValueError as e: assert 'crafted.pth' in str(e), e
    assert read_on < 60


def test_mappings_that_lie_in_themselves(monkeypatch, tmp_path):
    ring,module = {'epoch': 3}, Inert()
    ring['state_dict'] = ring['model'] = ring
    module.state = {'_modules': {'a': module}}
    wide = {i: torch.tensor(1) for i in range(1000)}
    for _ in range(6): wide = {f'k{i}': wide for i in range(1000)}
    model,file = Recognizer('test_vit', 5), tmp_path/'crafted.pth'
    for o in (ring, module, {'model': module}, wide, [ring], None, 3, 'text', torch.ones(3), Inert(), [torch.ones(2)]):
        monkeypatch.setattr(read, 'read_checkpoint', lambda file, o=o: o)
        with pytest.raises(ValueError, match=r'crafted\.pth'): load_reference(model, file)
