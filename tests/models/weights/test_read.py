"Weights of other projects: every form of file, nothing of it executed, everything reported"
import os
import pickle
import sys
import types
import zipfile

import pytest
import torch
from torch import nn

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.learner import recognition_learner
from qsd_fastai.models.bodies.agw import NonLocalResNet
from qsd_fastai.models.layers import GeM
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.switches import plan_switches, switches_of
from qsd_fastai.models.weights.read import load_reference
from qsd_fastai.models.weights.safe_pickle import read_checkpoint

pytestmark = pytest.mark.usefixtures('on_cpu')

AGW = {'body.': 'base.', 'pool.': 'global_pool.', 'neck.': 'bottleneck.', 'head.': 'classifier.'}
FASTREID = {'body.': 'backbone.', 'pool.': 'heads.pool_layer.', 'neck.': 'heads.bottleneck.0.',
            'head.weight': 'heads.weight'}


def small(n_ids=5, **kwargs):
    return Recognizer(NonLocalResNet(layers=(1, 1, 1, 1), non_local=(0, 1, 0, 0), **kwargs), n_ids)


def noisy(model):
    for v in model.state_dict().values():
        if v.is_floating_point(): v.copy_(torch.rand_like(v) + .1)
    return model


@pytest.fixture(scope='module')
def source(): torch.manual_seed(0); return noisy(small())


def renamed(state, names):
    "As another project names them: its files know nothing of our switches"
    return {next(new + k[len(old):] for old,new in names.items() if k.startswith(old)): v for k,v in state.items()
            if k != '_extra_state'}


def same(model, source):
    theirs = source.state_dict()
    return all(torch.equal(v, theirs[k]) for k,v in model.state_dict().items() if k != '_extra_state')


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('form', ['bare', 'state_dict', 'model', 'module', 'module in state_dict'])
def test_agw_state_dicts(source, tmp_path, form, legacy):
    state = renamed(source.state_dict(), AGW)
    if 'module' in form: state = {f'module.{k}': v for k,v in state.items()}
    if 'state_dict' in form: state = {'state_dict': state, 'epoch': 3}
    if form == 'model': state = {'model': state, 'optimizer': {'lr': .1}}
    torch.save(state, tmp_path/'agw.pth', _use_new_zipfile_serialization=not legacy)
    model = small()
    assert model.body.stem_relu
    report = load_reference(model, tmp_path/'agw.pth', show=False)
    assert same(model, source)
    assert report.source == 'AGW or QSD'
    assert not model.body.stem_relu
    assert set(report.used) == set(source.state_dict()) - {'_extra_state'}
    assert not (report.missing or report.unexpected or report.skipped)


@pytest.fixture
def foreign(source):
    "A class of a project that is not installed, whose import must not be needed"
    module = types.ModuleType('foreign_project')
    class Baseline(nn.Module):
        def __init__(self):
            super().__init__()
            self.base,self.global_pool,self.bottleneck = source.body, GeM(), nn.BatchNorm1d(source.embed_dim)
            self.classifier = nn.Linear(source.embed_dim, 5, bias=False)
            self.register_buffer('scratch', torch.ones(2), persistent=False)
    Baseline.__module__,Baseline.__qualname__ = 'foreign_project', 'Baseline'
    module.Baseline = Baseline
    sys.modules['foreign_project'] = module
    made = Baseline()
    made.load_state_dict(renamed(source.state_dict(), AGW))
    yield made
    sys.modules.pop('foreign_project', None)


@pytest.mark.filterwarnings('ignore:Couldn.t retrieve source code')
@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('wrapped', [False, True])
def test_a_module_pickled_whole(foreign, source, tmp_path, wrapped, legacy):
    whole = nn.DataParallel(foreign) if wrapped else foreign
    torch.save(whole, tmp_path/'Best_Model.pth', _use_new_zipfile_serialization=not legacy)
    del sys.modules['foreign_project']
    model = small()
    report = load_reference(model, tmp_path/'Best_Model.pth', show=False)
    assert same(model, source)
    assert not report.missing
    assert not report.unexpected


class Attack:
    def __init__(self, file): self.file = file
    def __reduce__(self): return os.mkdir, (str(self.file),)


@pytest.mark.parametrize('legacy', [False, True])
def test_nothing_in_a_file_is_executed(source, unpickled, tmp_path, legacy):
    state = {**renamed(source.state_dict(), AGW), 'attack': Attack(tmp_path/'executed')}
    torch.save(state, tmp_path/'evil.pth', _use_new_zipfile_serialization=not legacy)
    model = small()
    load_reference(model, tmp_path/'evil.pth', show=False)
    assert same(model, source)
    assert not (tmp_path/'executed').exists()
    # the attack is a real one
    assert unpickled(pickle.dumps(state['attack'])) == (f'{os.mkdir.__module__}.mkdir', f'{tmp_path}/executed')


def test_library_functions_cannot_be_altered_by_a_file(tmp_path):
    # GLOBAL torch._utils _rebuild_tensor_v2, BUILD with (None, {'__defaults__': ...}): sets attributes of what it got
    data = b'\x80\x02ctorch._utils\n_rebuild_tensor_v2\nN}X\x0c\x00\x00\x00__defaults__(K\x01ts\x86b.'
    with zipfile.ZipFile(tmp_path/'x.pth', 'w') as z: z.writestr('archive/data.pkl', data)
    read_checkpoint(tmp_path/'x.pth')
    from qsd_fastai.models.weights import safe_pickle
    assert all(f.__defaults__ is None for f in safe_pickle.TRUSTED.values() if isinstance(f, types.FunctionType))


def test_odd_tensors(tmp_path):
    whole = torch.arange(24, dtype=torch.float64).reshape(4, 6)
    state = {'view': whole[1:3, ::2], 'transposed': whole.T, 'half': whole.half(), 'bf16': whole.bfloat16(),
             'bool': whole > 3, 'int': whole.int(), 'empty': torch.zeros(0, 3), 'scalar': torch.tensor(7),
             'parameter': nn.Parameter(whole.clone())}
    for legacy in (False, True):
        torch.save(state, tmp_path/'odd.pt', _use_new_zipfile_serialization=not legacy)
        found = read_checkpoint(tmp_path/'odd.pt')
        for k,v in state.items():
            assert torch.equal(found[k], v), k
            assert found[k].dtype == v.dtype, k
            assert found[k].shape == v.shape, k


def test_fastreid(source, tmp_path):
    pixels = {'pixel_mean': torch.zeros(3, 1, 1), 'pixel_std': torch.ones(3, 1, 1)}
    state = renamed(source.state_dict(), FASTREID) | pixels
    torch.save({'model': state, 'optimizer': {}, 'epoch': 1}, tmp_path/'model_best.pth')
    model = small()
    report = load_reference(model, tmp_path/'model_best.pth', show=False)
    assert same(model, source)
    assert report.source == 'FastReID'
    assert not report.unexpected
    assert model.body.stem_relu
    assert model.body.maxpool.ceil_mode
    assert model.body.maxpool.padding == 0
    assert report.notes


def test_torchreid_and_plain_bodies(source, tmp_path):
    state = source.body.state_dict()
    classifier = {'classifier.weight': source.head.weight.data, 'classifier.bias': torch.zeros(5)}
    wrapped = {f'module.{k}': v for k,v in {**state, **classifier}.items()}
    torch.save({'state_dict': wrapped, 'rank1': .9}, tmp_path/'model-best.pth.tar')
    model = small()
    report = load_reference(model, tmp_path/'model-best.pth.tar', show=False)
    assert all(torch.equal(v, state[k]) for k,v in model.body.state_dict().items())
    assert torch.equal(model.head.weight, source.head.weight)
    assert report.unexpected == ['head.bias']
    assert not report.missing
    assert isinstance(model.pool, nn.AdaptiveAvgPool2d)
    assert isinstance(model.neck, nn.Identity)
    torch.save({**state, 'fc.weight': torch.zeros(1000, 2048), 'fc.bias': torch.zeros(1000)}, tmp_path/'imagenet.pth')
    report = load_reference(small(), tmp_path/'imagenet.pth', show=False)
    assert report.source == 'a body'
    assert report.unexpected == ['body.fc.weight', 'body.fc.bias']


def test_ones_own(source, tmp_path):
    from safetensors.torch import save_file
    save_file(source.state_dict(), tmp_path/'own.safetensors')
    model = small()
    report = load_reference(model, tmp_path/'own.safetensors', show=False)
    assert same(model, source)
    assert report.source == 'qsd_fastai'
    assert model.body.stem_relu


def test_other_identities(source, tmp_path, capsys):
    torch.save(renamed(source.state_dict(), AGW), tmp_path/'agw.pth')
    model = small(n_ids=9)
    started = model.head.weight.detach().clone()
    report = load_reference(model, tmp_path/'agw.pth')
    assert report.skipped == ['head.weight']
    assert torch.equal(model.head.weight, started)
    printed = capsys.readouterr().out
    assert 'of another shape: head.weight' in printed
    assert 'ReLU' in printed
    assert 'agw.pth' in printed
    model = small()
    report = load_reference(model, tmp_path/'agw.pth', head=False, show=False)
    assert report.missing == ['head.weight']
    assert not torch.equal(model.head.weight, source.head.weight)


def test_a_stem_that_was_asked_for_stays(source, tmp_path):
    torch.save(renamed(source.state_dict(), AGW), tmp_path/'agw.pth')
    model = small(stem_relu=True)
    assert 'as asked for' in load_reference(model, tmp_path/'agw.pth', show=False).notes[0]
    assert model.body.stem_relu
    report = load_reference(small(stem_relu=False), tmp_path/'agw.pth', show=False)
    assert not any('stem' in o for o in report.notes)


@pytest.mark.parametrize('other', [
    lambda: Recognizer('resnet18', 5), lambda: Recognizer(NonLocalResNet(layers=(1, 1, 2, 1)), 5),
    lambda: Recognizer(NonLocalResNet(layers=(1, 1, 1, 1), non_local=(0, 0, 0, 0)), 5),
    lambda: small(inter_channels=2)])
def test_a_wrong_architecture(source, tmp_path, other):
    torch.save(renamed(source.state_dict(), AGW), tmp_path/'agw.pth')
    model = other()
    before = {k: v.clone() for k,v in model.state_dict().items()}
    with pytest.raises(ValueError, match=r'agw\.pth.*do not fit'): load_reference(model, tmp_path/'agw.pth')
    assert same(model, types.SimpleNamespace(state_dict=lambda: before))


def test_an_exported_learner(labelled_people, source, tmp_path):
    "Its network, wherever it was put together; nothing else of it, and nothing of it is executed"
    dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=2, num_workers=0)
    learn = recognition_learner(dls, small().body, metrics=Retrieval('mAP'), path=tmp_path)
    noisy(learn.model)
    plan_switches(learn.model, {'eps': 2e-3, 'mean': [.1, .2, .3], 'pool': 'average'}).carry_out(learn.model)
    learn.export('learn.pkl')
    model = small(dls.c)
    report = load_reference(model, tmp_path/'learn.pkl')
    assert same(model, learn.model)
    assert switches_of(model) == switches_of(learn.model)
    assert not report.missing
    assert not report.unexpected
    assert 'of an exported learner, its model was taken' in report.notes


def test_files_that_are_none(tmp_path, source):
    with pytest.raises(FileNotFoundError, match=r'none\.pth'): load_reference(small(), tmp_path/'none.pth')
    (tmp_path/'text.pth').write_text('not weights')
    with pytest.raises(ValueError, match=r'text\.pth cannot be read'): load_reference(small(), tmp_path/'text.pth')
    torch.save({'epoch': 3}, tmp_path/'empty.pth')
    with pytest.raises(ValueError, match=r'empty\.pth holds no weights'): load_reference(small(), tmp_path/'empty.pth')
    torch.save(source.body.conv1.state_dict(), tmp_path/'cut.pth', _use_new_zipfile_serialization=False)
    (tmp_path/'cut.pth').write_bytes((tmp_path/'cut.pth').read_bytes()[:-100])
    with pytest.raises(ValueError, match=r'cut\.pth cannot be read'): read_checkpoint(tmp_path/'cut.pth')
