"Network, losses and distillation are one graph each, and stay what they are when saved"
from copy import deepcopy
from functools import partial

import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD, Adam
from torch._subclasses.fake_tensor import FakeTensorMode

from qsd_fastai import losses
from qsd_fastai.balance import GradientBalance
from qsd_fastai.compiled import to_compiled, to_fast  # noqa: F401  (methods of Learner)
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.models.heads.by_name import make_head
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.optimizers import fused_adam
from qsd_fastai.qsd_loss import QSDLoss, grouped_pairs

FORMS = [{}, {'stop': 'gap'}, {'stop': 0., 'relations': 1., 'mean': 1.}, {'logits': 'kl'}, {'map_norm': 'l2'},
         {'distance': 'l1'}, {'amplify': 'detached'}, {'unlabelled_as_equal': True}]
NAMES = ['level1', 'level2', 'emb', 'logits']


def levels_of(device='cpu'):
    shapes = (16, 6, 8, 4),(16, 10, 12),(16, 9),(16, 4)
    return [torch.rand(o, device=device, requires_grad=True) for o in shapes]


def known(device='cpu'): return torch.arange(4, device=device).repeat_interleave(4), 100*torch.rand(16, device=device)


class Batches(list):
    "What QSD asks of a loader"
    by_identity,n_imgs,copies = True,4,False


def small_learner(start, ids, quality, **kwargs):
    batches = Batches([(torch.rand(16, 3, 32, 32, generator=torch.Generator().manual_seed(0)), ids, quality)]*2)
    dls = DataLoaders(batches, [], device='cpu')
    dls.n_inp = 1
    return Learner(dls, deepcopy(start), loss_func=losses.RecognitionLoss(), **kwargs)


@pytest.fixture(autouse=True)
def nothing_compiled_before():
    "Graphs of one function count for all tests of a process, and at eight it is given up"
    torch._dynamo.reset()


def of_one_graph(module): return module.compile(backend='eager', fullgraph=True)


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_distillation_is_one_graph(form):
    torch.manual_seed(0)
    loss,levels,(ids,quality) = QSDLoss((1., 1., 1., .1), **form),levels_of(),known()
    given = levels,quality,grouped_pairs(16, 4),NAMES
    plain = loss(*given, ids=ids)
    terms = loss.terms
    grads = torch.autograd.grad(plain, levels)
    of_one_graph(loss)
    value = loss(*given, ids=ids)
    torch.testing.assert_close(value, plain)
    torch.testing.assert_close(loss.terms, terms)
    for a,b in zip(torch.autograd.grad(value, levels), grads): torch.testing.assert_close(a, b)
    assert 0 < loss.n_pairs < loss.n_candidates


def test_distillation_gives_a_device_few_operations(script):
    "Launching them is what it costs there. Levels of maps are worked at side by side"
    counts,operations = [],script('benchmarks/tuning/bounds.py').Work
    for n_maps in (1, 3):
        levels = [torch.rand(16, 6, 8, 4, requires_grad=True) for _ in range(n_maps)] + levels_of()[2:]
        loss,pairs,(_,quality) = QSDLoss((1.,)*len(levels)),grouped_pairs(16, 4),known()
        with operations() as found: loss(levels, quality, pairs).backward()
        counts.append(found.operations)
    assert counts[1] <= 220
    assert (counts[1] - counts[0])/2 <= 25 # For a level more


@pytest.mark.parametrize('order', [(3, 2, 1, 0), (2, 0, 3, 1)])
def test_levels_stand_in_any_order(order):
    loss,levels,(_,quality) = QSDLoss((1., 2., 3., .1)),levels_of(),known()
    value,terms = loss(levels, quality, grouped_pairs(16, 4), NAMES), loss.terms
    grads = torch.autograd.grad(value, levels)
    turned = [[o[i] for i in order] for o in (levels, NAMES, loss.level_weights)]
    again = loss(turned[0], quality, grouped_pairs(16, 4), *turned[1:])
    torch.testing.assert_close(again, value)
    assert list(loss.terms) == turned[1]
    torch.testing.assert_close({k: loss.terms[k] for k in NAMES}, terms)
    for a,b in zip(torch.autograd.grad(again, levels), grads): torch.testing.assert_close(a, b)


@pytest.mark.parametrize('head', [None, 'arcface'])
def test_network_and_losses_are_one_graph(head):
    torch.manual_seed(0)
    head = head and make_head(head, 32.)
    model = Recognizer('resnet10t', 4, head=head).train()
    make = (lambda: losses.MarginLoss(model.head, triplet_weight=1.)) if head else (
        lambda: losses.RecognitionLoss(triplet=losses.WeightedRegularizedTriplet(), center=losses.CenterLoss(4, 512)))
    loss,x,(ids,_) = make(),torch.rand(16, 3, 32, 32),known()
    plain = loss(deepcopy(model)(x), ids) # The same statistics of batch norm
    of_one_graph(model)
    of_one_graph(loss)
    torch.testing.assert_close(loss(model(x), ids), plain)


def test_a_sample_of_identities_is_no_one_graph():
    model = Recognizer('resnet10t', 8, head=make_head('arcface', 32., rate=.5)).train()
    x,(ids,_) = torch.rand(16, 3, 32, 32),known()
    def loss(**kwargs):
        torch._dynamo.reset()
        made = losses.MarginLoss(model.head)
        made.compile(backend='eager', **kwargs)
        return made(out, ids)
    model.head.sample(ids)
    out = model(x)
    torch.testing.assert_close(loss(), losses.MarginLoss(model.head)(out, ids))
    with pytest.raises(torch._dynamo.exc.TorchDynamoException): loss(fullgraph=True)


def test_a_learner_is_compiled_in_place():
    torch.manual_seed(0)
    start,ends = Recognizer('resnet10t', 4),[]
    ids,quality = known()
    for compiled in (False, True):
        learn = small_learner(start, ids, quality, opt_func=SGD, cbs=QualityDistillation())
        if compiled: assert learn.to_compiled(backend='eager') is learn
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
        ends.append(learn.model)
    for a,b in zip(ends[1].parameters(), ends[0].parameters()): torch.testing.assert_close(a, b)
    assert ends[1].state_dict().keys() == start.state_dict().keys()
    assert ends[1]._compiled is not None
    assert ends[1].head._compiled_call_impl is not None
    plain = deepcopy(ends[1]) # What is copied, saved or exported is the plain network
    assert plain._compiled is None
    assert plain.head._compiled_call_impl is None


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_distillation_waits_for_no_device(form):
    "Fake tensors on `cuda:0` raise where a value is looked at and where devices mix"
    loss,pairs = QSDLoss((1., 1., 1., .1), **form),grouped_pairs(16, 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        levels,(ids,quality) = levels_of('cuda'),known('cuda')
        pairs = [o.to('cuda') for o in pairs]
        value = loss(levels, quality, pairs, NAMES, ids=ids)
        others = levels[2].square().sum()
        assert value.device == loss.n_pairs.device == ids.device
        # a backward pass on a device that is not there is refused
        assert GradientBalance().factor(others.detach(), value.detach(), [levels[2]]).device == ids.device


AT = {losses.IdentityLoss(): 3, losses.TripletLoss(): 2, losses.WeightedRegularizedTriplet(): 2,
      losses.OctupletLoss(): 2, losses.CenterLoss(4, 9): 2, losses.CenterLoss(4, 9, start='random'): 2}


@pytest.mark.parametrize('loss, at', AT.items())
def test_losses_wait_for_no_device(loss, at):
    with FakeTensorMode(allow_non_fake_inputs=True):
        if isinstance(loss, losses.CenterLoss):
            loss.centers = torch.nn.Parameter(torch.zeros(4, 9, device='cuda'))
            loss.started = torch.zeros(4, dtype=torch.bool, device='cuda')
        ids,_ = known('cuda')
        assert loss(levels_of('cuda')[at], ids).device == ids.device


@pytest.mark.parametrize('arch', ['resnet10t', 'agw_resnet50', 'mobilefacenet'])
@pytest.mark.parametrize('head', [None, 'arcface', 'cosface', 'adaface', 'magface', 'curricularface'])
def test_a_step_waits_for_no_device(arch, head):
    "All of a step up to its backward pass, which fake tensors refuse"
    pairs = grouped_pairs(16, 4)
    with FakeTensorMode(allow_non_fake_inputs=True):
        with torch.device('cuda'): model = Recognizer(arch, 4, head=head and make_head(head, 32.)).train()
        out,(ids,quality) = model(torch.empty(16, 3, 112, 112, device='cuda')),known('cuda')
        loss = (losses.MarginLoss(model.head) if head else losses.RecognitionLoss())(out, ids)
        levels = [*out.levels, out.emb, out.logits]
        names = [f'level{i + 1}' for i in range(len(out.levels))] + ['emb', 'logits']
        pairs = [o.to('cuda') for o in pairs]
        distilled = QSDLoss((1.,)*len(levels))(levels, quality, pairs, names, ids=ids)
        assert (loss + distilled).device == ids.device


class OtherLoss(Callback):
    replaces_loss = True
    def __init__(self, loss): self.loss = loss
    def after_loss(self): self.learn.loss_grad = self.learn.loss = self.loss(self.pred, *self.yb)


def test_what_a_fit_brings_is_compiled_too():
    start,(ids,quality) = Recognizer('resnet10t', 4),known()
    learn,method = small_learner(start, ids, quality).to_compiled(backend='eager'),QualityDistillation()
    learn.to_compiled(backend='eager') # Asked for twice
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=method)
    assert method.qsd._compiled_call_impl is not None
    assert [type(cb).__name__ for cb in learn.cbs].count('CompileFit') == 1
    other = losses.RecognitionLoss(triplet_weight=0.)
    learn = small_learner(start, ids, quality).to_compiled(backend='eager')
    with learn.no_bar(), learn.no_logging():
        learn.fit(1, 1e-3, cbs=OtherLoss(other))
    assert other._compiled_call_impl is not None


@pytest.mark.parametrize('settings', [{'weight': 'auto'}, {'level_weights': {'logits': 1.}, 'balance': True}], ids=str)
def test_the_gradient_at_the_embedding_is_found_in_a_compiled_network(settings):
    "Of a graph that gives embedding and logits together, autograd knows of none"
    start,(ids,quality),found = Recognizer('resnet10t', 4),known(),[]
    for compiled in (False, True):
        learn,method = small_learner(start, ids, quality, opt_func=SGD),QualityDistillation(**settings)
        if compiled: learn.to_compiled(backend='aot_eager')
        with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3, cbs=method)
        found.append([method.terms['qsd_scale'], learn.recorder.losses[0]])
    assert found[0][0] > 0
    for a,b in zip(*found): torch.testing.assert_close(b, a, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize('opt_func', [Adam, partial(Adam, decouple_wd=False), SGD])
def test_fast_trains_the_same(opt_func):
    torch.manual_seed(0)
    start,(ids,quality),ends = Recognizer('resnet10t', 4),known(),[]
    for fast in (False, True):
        learn = small_learner(start, ids, quality, opt_func=opt_func)
        if fast: assert learn.to_fast() is learn
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-5, cbs=QualityDistillation())
        ends.append(learn.recorder.losses)
    func = getattr(learn.opt_func, 'func', learn.opt_func)
    assert func is (SGD if opt_func is SGD else fused_adam)
    assert next(learn.model.parameters()).is_contiguous(memory_format=torch.channels_last)
    assert not hasattr(learn, 'mixed_precision') # There is no GPU
    torch.testing.assert_close(*map(torch.stack, ends), rtol=1e-3, atol=1e-3) # Adam makes much of a rounded zero
    assert ends[0][0] != ends[0][-1]


def test_fast_is_bfloat16_on_a_gpu():
    start,(ids,quality) = Recognizer('resnet10t', 4),known()
    learn = small_learner(start, ids, quality)
    learn.dls._device = torch.device('cuda')
    learn.to_fast(compiled=True, backend='eager')
    assert learn.mixed_precision.amp_mode == AMPMode.BF16
    assert hasattr(learn, 'compile_fit')
