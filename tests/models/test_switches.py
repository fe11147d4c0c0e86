"What a network does beside its weights: set, kept by every way that weights go, and not lost by any"
import copy
from dataclasses import replace

import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.learner import Learner
from torch import nn

from qsd_fastai.models.bodies.agw import NonLocalResNet
from qsd_fastai.models.layers import BNNeck, GeM
from qsd_fastai.models.preprocess import preprocess_of
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.switches import (
    POOLS,
    SWITCHES,
    packed,
    plan_switches,
    set_last_stride,
    switches_of,
    unpacked,
)
from qsd_fastai.models.weights.read import load_reference

pytestmark = pytest.mark.usefixtures('one_thread', 'on_cpu')

# each switch, as a fresh network does not have it
OTHERWISE = {'pool': 'average', 'neck': 'none', 'stem_relu': False, 'stem_pool': 'ceil', 'eps': 2e-3, 'last_stride': 2,
             'mean': [.1, .2, .3], 'std': [.4, .5, .6], 'resize': 'bicubic', 'turned': True}
# of networks that this one is not
APART = {'judged': ('before', lambda: small()), 'semantic': (.5, lambda: Recognizer('solider_swin_tiny', 5))}


def small(**kwargs):
    torch.manual_seed(len(kwargs))
    return Recognizer(NonLocalResNet(layers=(1, 1, 1, 1), non_local=(0, 0, 0, 0)), 5, **kwargs)


def switched():
    "A network with every switch turned, and weights that make each of them count"
    model = small()
    plan_switches(model, OTHERWISE).carry_out(model)
    x = torch.rand(4, 3, 64, 32)
    model.train()
    with torch.no_grad():
        for _ in range(3): model(x)
    return model.eval()


def as_told(model, x):
    "Embeddings of pictures as the model says it wants them"
    mean,std = (torch.tensor(o).view(1, 3, 1, 1) for o in preprocess_of(model.body).stats)
    with torch.no_grad(): return model.eval()((x - mean)/std)


def learner(model, tmp_path):
    dls = DataLoaders(*(DataLoader([(torch.rand(3, 32, 32), torch.tensor(0))], bs=1, num_workers=0) for _ in range(2)))
    return Learner(dls, model, loss_func=nn.CrossEntropyLoss(), path=tmp_path)


def through_safetensors(model, tmp_path):
    from safetensors.torch import load_file, save_file
    save_file(model.state_dict(), tmp_path/'m.safetensors')
    fresh = small()
    fresh.load_state_dict(load_file(tmp_path/'m.safetensors'))
    return fresh


def through(model, tmp_path, form, read):
    torch.save(form(model.state_dict()), tmp_path/'m.pth')
    fresh = small()
    read(fresh, tmp_path/'m.pth')
    return fresh


def strict(fresh, file): fresh.load_state_dict(torch.load(file, weights_only=True))


def reference(fresh, file): load_reference(fresh, file, show=False)


def through_learner(model, tmp_path):
    learner(model, tmp_path).save('kept')
    other = learner(small(), tmp_path)
    other.load('kept')
    return other.model.cpu()


def through_parallel(model, tmp_path):
    wrapped = nn.DataParallel(model)
    torch.save({'state_dict': wrapped.state_dict()}, tmp_path/'m.pth')
    fresh = small()
    reference(fresh, tmp_path/'m.pth')
    return fresh


def whole(model, tmp_path):
    torch.save(model, tmp_path/'whole.pth')
    fresh = small()
    reference(fresh, tmp_path/'whole.pth')
    return fresh


WAYS = {
    'state dict': lambda m,at: through(m, at, lambda s: s, strict),
    'reference': lambda m,at: through(m, at, lambda s: s, reference),
    'learn.save': through_learner,
    'learn.save as reference': lambda m,at: through(m, at, lambda s: {'model': s, 'opt': {}}, reference),
    'compiled': lambda m,at: through(m, at, lambda s: {f'_orig_mod.{k}': v for k,v in s.items()}, reference),
    'averaged': lambda m,at: through(m, at, lambda s: {'n_averaged': torch.tensor(3),
                                                       **{f'module.{k}': v for k,v in s.items()}}, reference),
    'as floats': lambda m,at: through(m, at, lambda s: {k: v.float() for k,v in s.items()}, reference),
    'half extra': lambda m,at: through(m, at, lambda s: {**s, '_extra_state': s['_extra_state'].bfloat16()}, strict),
    'whole': whole,
    'safetensors': through_safetensors, 'deepcopy': lambda m,at: copy.deepcopy(m), 'parallel': through_parallel}


def told(model): return {k: v for k,v in switches_of(model).items() if v is not None}


def test_every_switch_is_tried():
    assert {*OTHERWISE, *APART} == set(SWITCHES)
    found = switches_of(small())
    assert all(found[k] is not None and found[k] != v for k,v in OTHERWISE.items())
    assert told(switched()) == OTHERWISE


@pytest.mark.parametrize('way', WAYS)
def test_switches_travel_with_the_weights(tmp_path, way):
    model,x = switched(), torch.rand(3, 3, 64, 32)
    fresh = WAYS[way](model, tmp_path)
    assert told(fresh) == OTHERWISE
    assert torch.equal(as_told(model, x), as_told(fresh, x))
    # and back again from there
    again = small()
    again.load_state_dict(fresh.state_dict())
    assert torch.equal(as_told(model, x), as_told(again, x))


@pytest.mark.parametrize('name', OTHERWISE)
def test_every_switch_counts(name):
    "Each of them changes what comes out, or what is said of it; a fresh neck is an identity until it is trained"
    model,x = switched(), torch.rand(3, 3, 64, 32)
    other = small()
    state = {**model.state_dict(), '_extra_state': packed({**OTHERWISE, name: switches_of(small())[name]})}
    norm = [f'neck.{k}' for k in ('weight', 'bias', 'running_mean', 'running_var')]
    missing = {'pool': ['pool.p'], 'neck': norm}.get(name, [])
    found = other.load_state_dict(state, strict=not missing)
    if missing: assert found.missing_keys == missing
    if name in ('resize', 'turned', 'neck'): assert told(other) != OTHERWISE
    else: assert not torch.allclose(as_told(model, x), as_told(other, x), atol=1e-5)


@pytest.mark.parametrize('name', APART)
def test_switches_of_other_networks(tmp_path, name):
    value,make = APART[name]
    model,x = make(),torch.rand(3, 3, 64, 32)
    with torch.no_grad():
        if name == 'judged': model.neck.weight.uniform_(.5, 2)
    was = as_told(model, x)
    plan_switches(model, {name: value}).carry_out(model)
    assert switches_of(model)[name] == value
    assert not torch.allclose(as_told(model, x), was, atol=1e-5)
    torch.save(model.state_dict(), tmp_path/'m.pth')
    for read in (strict, reference):
        fresh = make()
        read(fresh, tmp_path/'m.pth')
        assert switches_of(fresh)[name] == value
        assert torch.equal(as_told(fresh, x), as_told(model, x))


def test_what_is_told_of_them(tmp_path):
    torch.save(switched().state_dict(), tmp_path/'m.pth')
    notes = '\n'.join(load_reference(small(), tmp_path/'m.pth', show=False).notes)
    said = ('pooling is average', 'the neck is none', 'ReLU in the stem: no', 'the stem pools ceil', 'count 0.002',
            'stride of the last stage is 2', 'mean [0.1, 0.2, 0.3]', 'bicubic', 'turned from BGR')
    assert [o for o in said if o not in notes] == []
    # weights of an older version leave all as it is, and that is said
    plain = small()
    state = {k: v for k,v in plain.state_dict().items() if k != '_extra_state'}
    model = switched()
    model.load_state_dict({k: v for k,v in state.items() if k in model.state_dict()})
    assert told(model) == OTHERWISE
    torch.save(state, tmp_path/'old.pth')
    report = load_reference(small(), tmp_path/'old.pth', show=False)
    assert any('do not say how their network was set' in o for o in report.notes)


def test_what_was_asked_for_stays():
    given = {'pool': GeM(), 'neck': BNNeck}
    body = NonLocalResNet((1, 1, 1, 1), (0, 0, 0, 0), stem_relu=True, last_stride=1)
    model = Recognizer(body, 5, **given)
    plan = plan_switches(model, OTHERWISE)
    assert plan.kept == {'pool': 'gem', 'neck': 'bnneck', 'stem_relu': True, 'last_stride': 1}
    notes = plan.carry_out(model)
    assert sum('as asked for' in o for o in notes) == 4
    assert isinstance(model.pool, GeM)


def test_nothing_is_swapped_that_is_so_already():
    model = small()
    parts = [*model.modules()]
    model.load_state_dict(small().state_dict())
    assert [id(o) for o in model.modules()] == [id(o) for o in parts]
    assert plan_switches(model, switches_of(model)).set == {}


def test_a_body_that_pools_by_itself_goes_on_so():
    model = Recognizer('test_vit', 5)
    assert switches_of(model)['pool'] == 'own'
    assert all(plan_switches(model, {'pool': pool}).set == {} for pool in POOLS)
    assert plan_switches(small(), {'pool': 'own'}).set == {}


@pytest.mark.parametrize('layout', ['test_resnet', 'resnet26d', 'resnet18', 'seresnet18'])
def test_a_stride_there_and_back(layout):
    model = Recognizer(layout, 5)
    body,x = model.body.eval(), torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        before = body.forward_features(x)
        assert set_last_stride(body, 1).forward_features(x).shape[-1] == 2*before.shape[-1]
        assert torch.equal(set_last_stride(body, 2).forward_features(x), before)


@pytest.mark.parametrize('state', [
    torch.tensor([123.5]), torch.tensor([float('inf')]), torch.tensor([float('nan')]),
    torch.tensor([1, 2], dtype=torch.uint8), torch.zeros(3), torch.tensor(7, dtype=torch.uint8), None, 'text', {},
    torch.tensor(list(b'[]'), dtype=torch.uint8), torch.tensor(list(b'{"pool": "sum"}'), dtype=torch.uint8),
    torch.tensor(list(b'{"eps": NaN}'), dtype=torch.uint8), torch.tensor(list(b'{"unheard": 1}'), dtype=torch.uint8),
    torch.tensor(list(b'{"mean": [1, 2]}'), dtype=torch.uint8), torch.tensor(list(b'['*9000), dtype=torch.uint8),
    torch.tensor(list(b'{"std": [1, 0, 1]}'), dtype=torch.uint8), torch.zeros(20_000, dtype=torch.uint8)], ids=str)
def test_what_is_no_record_of_switches(state):
    with pytest.raises(ValueError, match='_extra_state'): unpacked(state)


def test_switches_on_another_device_and_type():
    model = small().double()
    plan_switches(model, {'pool': 'average', 'neck': 'none'}).carry_out(model)
    plan_switches(model, {'pool': 'gem', 'neck': 'bnneck'}).carry_out(model)
    assert model.pool.p.dtype == torch.float64
    assert model(torch.rand(2, 3, 32, 32, dtype=torch.float64)).emb.dtype == torch.float64


def test_a_changed_wish_for_pictures_travels():
    model = small()
    model.body.preprocess = replace(model.preprocess, resize='bicubic')
    fresh = small()
    del fresh.body.preprocess # A body of one's own that says nothing of pictures
    fresh.load_state_dict(model.state_dict())
    assert fresh.preprocess == model.preprocess
