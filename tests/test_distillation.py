"Distillation: pairs, values and gradients against golden files and plain loops, and the callback in a fastai learner"
import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.callback.progress import ProgressCallback
from fastai.callback.schedule import SchedCos, SchedLin
from fastai.callback.training import GradientAccumulation, GradientClip
from fastai.data.core import DataLoaders
from fastai.learner import AvgMetric, Learner, Recorder
from fastai.optimizer import SGD
from torch import nn

from qsd_fastai.callbacks.loss_terms import LossTerms
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.losses import RecognitionLoss
from qsd_fastai.models.recognizer import Recognition
from qsd_fastai.qsd_loss import QSDLoss, identity_pairs, partner_pairs, select_pairs
from qsd_fastai.taught import energy_map

pytestmark = pytest.mark.usefixtures('on_cpu')

GOLDEN = Path(__file__).parent/'golden'
DEVICES = ['cpu'] + ['cuda']*torch.cuda.is_available()
nan = float('nan')


# --- against the golden files
def golden_case(file, dtype):
    d = np.load(file)
    def both(name): return torch.from_numpy(np.concatenate([d[name.format(k)] for k in (1, 2)]))

    levels = [both(f'f{{}}_{i}').to(dtype).requires_grad_() for i in range(d['n_levels'])]
    loss = QSDLoss(d['weights'].tolist(), distance=str(d['distance']).lower(), unlabelled_as_equal=True)
    return d, loss, levels, both('q{}'), partner_pairs(len(d['q1']))


@pytest.mark.parametrize('dtype, tol, tol_grad', [(torch.float64, 1e-9, 1e-6), (torch.float32, 2e-6, 2e-5)],
                         ids=['float64', 'float32'])
@pytest.mark.parametrize('file', sorted(GOLDEN.glob('qsd_*.npz')), ids=lambda o: o.stem)
def test_golden(file, dtype, tol, tol_grad):
    d,loss,levels,quality,pairs = golden_case(file, dtype)
    value = loss(levels, quality, pairs)
    value.backward()
    assert value.isfinite()
    assert all(o.grad.isfinite().all() for o in levels)
    if d['status'] == 0:
        np.testing.assert_allclose(value.item(), d['loss'], rtol=tol)
        np.testing.assert_allclose([float(o) for o in loss.terms.values()], d['parts'], rtol=tol)
        for i,level in enumerate(levels):
            wanted = np.concatenate([d[f'g1_{i}'], d[f'g2_{i}']])
            assert np.abs(level.grad.numpy() - wanted).max() <= tol_grad*np.abs(wanted).max()
    else: assert (value == 0) == (file.stem in ('qsd_all_masked', 'qsd_all_equal'))


# --- against plain loops
def naive_select(q, pairs, tau=.3):
    gaps = [abs(q[a] - q[b]) for a,b in pairs]
    known = [o for o in gaps if o == o]
    m = sum(known)/len(known) if known else 0
    kept = [(a, b) for (a, b),o in zip(pairs, gaps) if o == o and o > 0 and tau*m <= o <= 100 - tau*(100 - m)]
    return [(a, b) if q[a] > q[b] else (b, a) for a,b in kept]


def naive_loss(levels, q, pairs, weights, amplify='reference', map_norm='none', distance='l2', tau=.3):
    "Values only, a number at a time"
    kept,parts = naive_select(q, pairs, tau), []
    for level,weight in zip(levels, weights):
        level = level.double().numpy()
        if level.ndim == 2:
            costs = [1 - (level[t]*level[s]).sum()/np.sqrt((level[t]**2).sum()*(level[s]**2).sum()) for t,s in kept]
            parts.append(weight*float(np.mean(costs)))
            continue
        energy = [(o**2).mean(0 if level.ndim == 4 else 1) for o in level]
        if map_norm == 'l2': energy = [o/np.sqrt((o**2).sum()) for o in energy]
        gap = np.mean([np.mean(np.abs(energy[s] - energy[t])**(2 if distance == 'l2' else 1)) for t,s in kept])
        spread = max(energy[s].max() for _,s in kept) - min(energy[s].min() for _,s in kept)
        parts.append(weight*float(gap if amplify == 'none' else 2/spread*gap))
    return parts


def random_batch(seed, bs=16, n_ids=4, dtype=torch.float64, unknown=.2):
    rng = torch.Generator().manual_seed(seed)
    shapes = (6, 4, 2), (5, 7), (9,), (3,)
    levels = [torch.rand(bs, *shape, generator=rng, dtype=torch.float64).to(dtype) for shape in shapes]
    quality = torch.rand(bs, generator=rng)*100
    quality[torch.rand(bs, generator=rng) < unknown] = nan
    return levels, torch.randint(n_ids, (bs,), generator=rng), quality


@pytest.mark.parametrize('seed', range(20))
def test_pairs_naive(seed):
    _,ids,quality = random_batch(seed, bs=24, n_ids=5)
    if seed % 2: quality = (quality/20).round()*20  # many equal ones, and many zeros
    pairs = identity_pairs(ids)
    wanted = [(a, b) for a in range(24) for b in range(a + 1, 24) if ids[a] == ids[b]]
    assert list(zip(*[o.tolist() for o in pairs])) == wanted
    for tau in (0., .3, 1.):
        teacher,student = select_pairs(quality, pairs, tau)
        assert list(zip(teacher.tolist(), student.tolist())) == naive_select(quality.tolist(), wanted, tau)
        assert (quality[teacher] > quality[student]).all()


@pytest.mark.parametrize('amplify, map_norm, distance', [
    ('reference', 'none', 'l2'), ('detached', 'none', 'l2'), ('none', 'none', 'l2'),
    ('reference', 'l2', 'l2'), ('none', 'l2', 'l1')])
@pytest.mark.parametrize('device', DEVICES)
def test_value_naive(amplify, map_norm, distance, device):
    levels,ids,quality = random_batch(3)  # maps, tokens and two levels of vectors
    pairs,weights = identity_pairs(ids), (1., 2., .5, .1)
    loss = QSDLoss(weights, amplify=amplify, map_norm=map_norm, distance=distance)
    there = [o.to(device) for o in levels], quality.to(device), [o.to(device) for o in pairs]
    value = loss(*there, names=['a', 'b', 'c', 'd'])
    listed = list(zip(*[o.tolist() for o in pairs]))
    wanted = naive_loss(levels, quality.tolist(), listed, weights, amplify, map_norm, distance)
    assert value.device.type == device
    assert list(loss.terms) == ['a', 'b', 'c', 'd']
    np.testing.assert_allclose([float(o) for o in loss.terms.values()], wanted, rtol=1e-9)
    np.testing.assert_allclose(value.item(), sum(wanted), rtol=1e-9)
    assert loss.n_candidates == len(pairs[0])
    assert 0 < loss.n_pairs < loss.n_candidates
    kept = naive_select(quality.tolist(), listed)
    assert float(loss.stats['gap']) == pytest.approx(np.mean([float(quality[t] - quality[s]) for t,s in kept]))
    for name,level in zip('abcd', levels):
        taught = level.detach().double().cpu()
        if level.dim() > 2: taught = taught.square().mean(1 if level.dim() == 4 else 2).flatten(1) # Energies
        cosines = [float((taught[t]*taught[s]).sum()/taught[t].norm()/taught[s].norm()) for t,s in kept]
        assert float(loss.stats[f'cosine_{name}']) == pytest.approx(np.mean(cosines))


@pytest.mark.parametrize('amplify', ['reference', 'detached', 'none'])
def test_gradients_reach_students_only(amplify):
    levels,ids,quality = random_batch(4, bs=8, n_ids=2)
    teacher,student = select_pairs(quality, identity_pairs(ids))
    students = set(student.tolist())
    assert set(teacher.tolist()) - students
    def value(levels, frozen):
        "A teacher is what it was, whatever is done to the pictures now"
        cost = QSDLoss((1.,)*4, amplify=amplify)
        both = [torch.cat([a, b.detach()]) for a,b in zip(levels, frozen)]
        return cost(both, quality.repeat(2), (student, teacher + len(quality)))
    same = [o.clone().requires_grad_() for o in levels]
    QSDLoss((1.,)*4, amplify=amplify, tau=.3)(same, quality, identity_pairs(ids)).backward()
    split = [o.clone().requires_grad_() for o in levels]
    value(split, levels).backward()
    for a,b in zip(same, split):
        torch.testing.assert_close(a.grad, b.grad)
        for i in range(len(ids)): assert bool(a.grad[i].any()) == (i in students)
    if amplify != 'detached':
        assert torch.autograd.gradcheck(lambda *o: value(o, levels), [o.clone().requires_grad_() for o in levels])


# --- what the published code gets wrong, row by row of its audit
def graded(loss, levels, quality, pairs):
    "Value and gradients"
    levels = [o.clone().requires_grad_() for o in levels]
    value = loss(levels, quality, pairs)
    value.backward()
    return value, [o.grad for o in levels]


def partner_batch(seed=0, n=6):
    levels,_,_ = random_batch(seed, bs=2*n)
    return levels, partner_pairs(n)


def test_defect_1_quality_0_is_a_quality_and_nothing_is_changed():
    levels,pairs = partner_batch()
    zero,some = torch.zeros(6), torch.tensor([60., 70., 50., 40., 55., 65.])
    loss = QSDLoss((1.,)*4)
    value,_ = graded(loss, levels, torch.cat([zero, some]), pairs)
    assert value > 0
    assert loss.n_pairs == 6
    swapped,_ = graded(loss, [torch.cat([o[6:], o[:6]]) for o in levels], torch.cat([some, zero]), pairs)
    torch.testing.assert_close(value, swapped, rtol=1e-12, atol=0)
    quality = torch.tensor([0., 50., 50., 2., nan, 99.]*2).roll(1)
    given = *levels, quality, *pairs
    before = copy.deepcopy(given)
    loss(levels, quality, pairs)
    for a,b in zip(given, before): assert torch.equal(a.nan_to_num(-1.), b.nan_to_num(-1.))


@pytest.mark.parametrize('quality', [[50.]*12, [nan]*12, [0.]*12, [50., nan]*6, [0.]*6 + [100.]*5 + [0.]], ids=str)
def test_defect_2_no_pair_is_a_zero_with_a_graph(quality):
    levels,pairs = partner_batch()
    loss = QSDLoss((1.,)*4)
    if quality[-2] == 100.: quality = [0.]*6 + [100.] + [0.]*5  # one extreme difference among equal ones
    value,grads = graded(loss, levels, torch.tensor(quality), pairs)
    assert value == 0
    assert value.dtype == torch.float64
    assert loss.n_pairs == 0
    assert all(v == 0 for v in loss.terms.values())
    assert all(not o.any() for o in grads)
    value,grads = graded(loss, levels, torch.tensor(quality), identity_pairs(torch.arange(12)))  # nobody twice
    assert value == 0
    assert loss.n_candidates == 0
    assert all(not o.any() for o in grads)


@pytest.mark.parametrize('map_norm', ['none', 'l2'])
@pytest.mark.parametrize('amplify', ['reference', 'detached', 'none'])
def test_defect_3_constant_maps_and_a_detached_factor(amplify, map_norm):
    levels,pairs = partner_batch()
    quality = torch.tensor([0.]*6 + [60., 70., 50., 40., 55., 65.])
    for constant in (0., 3.):
        dead = [levels[0].clone(), *levels[1:]]
        dead[0][:6] = constant  # the students
        loss = QSDLoss((1.,)*4, amplify=amplify, map_norm=map_norm)
        value,grads = graded(loss, dead, quality, pairs)
        assert value.isfinite()
        assert all(o.isfinite().all() for o in grads)
        if amplify != 'none':
            assert loss.terms['level1'] == 0
            assert not grads[0].any()
        assert loss.terms['level2'] > 0
        assert grads[1].any()
    # the published gradient also flows through max and min, the detached one is that of a fixed factor
    loss = QSDLoss((1.,)*4, amplify=amplify, map_norm=map_norm)
    _,(grad, *_) = graded(loss, levels, quality, pairs)
    energy = energy_map(levels[0].requires_grad_())
    if map_norm == 'l2': energy = F.normalize(energy.flatten(1), dim=1).view_as(energy)
    factor = 1 if amplify == 'none' else float(2/(energy[:6].max() - energy[:6].min()).detach())
    (factor*(energy[:6] - energy[6:].detach()).square().mean()).backward()
    assert torch.allclose(grad, levels[0].grad) == (amplify != 'reference')


def test_defect_4_scale_of_activations():
    levels,pairs = partner_batch()
    quality = torch.tensor([0.]*6 + [60., 70., 50., 40., 55., 65.])
    for loss,power in ((QSDLoss((1.,)), 2), (QSDLoss((1.,), map_norm='l2'), 0)):
        one,three = (graded(loss, [k*levels[0]], quality, pairs)[0] for k in (1, 3))
        torch.testing.assert_close(three, 3**power*one)


def test_defect_5_one_pair():
    levels,pairs = partner_batch(n=1)
    value,grads = graded(QSDLoss((1.,)*4), levels, torch.tensor([80., 20.]), pairs)
    np.testing.assert_allclose(value.item(), sum(naive_loss(levels, [80., 20.], [(0, 1)], (1,)*4)))
    for o in grads:
        assert not o[0].any()
        assert o[1].any()


def test_defect_6_a_float_scalar_and_named_terms():
    levels,pairs = partner_batch()
    for quality in (torch.full((12,), 50.), torch.arange(12)*9):  # integers will do
        loss = QSDLoss((1., 1., 1., .1))
        value = loss([o.float() for o in levels], quality, pairs)
        assert value.shape == ()
        assert value.dtype == torch.float32
        assert value.device == levels[0].device
        assert list(loss.terms) == ['level1', 'level2', 'level3', 'level4']
        torch.testing.assert_close(sum(loss.terms.values()), value)
        assert not any(v.requires_grad for v in loss.terms.values())


def test_defect_7_unknown_pairs_do_not_lower_the_mean():
    quality,pairs = torch.tensor([50., 50., 50., 50., 90., 60., nan, nan]), partner_pairs(4)
    # the mean of 40 and 10 is 25, so 10 is kept; counting the unknown as equal it is 12.5
    q = torch.tensor([50., 50., 50., 50., 90., 57., nan, nan])
    assert len(select_pairs(quality, pairs)[0]) == 2
    assert len(select_pairs(q, pairs)[0]) == 1
    assert len(select_pairs(q, pairs, unlabelled_as_equal=True)[0]) == 2


@pytest.mark.parametrize('device', DEVICES)
@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
def test_defect_8_half_precision_is_computed_in_float32(dtype, device):
    levels,ids,quality = random_batch(5, unknown=0.)
    levels = [o.to(dtype).to(device) for o in levels]
    levels[0] = levels[0]*6e4  # their squares overflow float16
    quality,pairs,loss = quality.to(device), identity_pairs(ids.to(device)), QSDLoss((1e-6, 1., 1., .1))
    wanted,_ = graded(loss, [o.double() for o in levels], quality, pairs)
    for autocast in (True, False):
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            value,grads = graded(loss, levels, quality, pairs)
        assert value.dtype == torch.float32
        assert value.isfinite()
        torch.testing.assert_close(value.double(), wanted, rtol=1e-5, atol=0)
        assert all(o.dtype == dtype and o.isfinite().all() for o in grads)
    assert energy_map(levels[0]).dtype == torch.float32
    assert energy_map(levels[0].double()).dtype == torch.float64
    # quality in half precision as well
    teacher,student = select_pairs(quality.to(dtype), pairs)
    again = select_pairs(quality.to(dtype).double(), pairs)
    assert torch.equal(teacher, again[0])
    assert torch.equal(student, again[1])


def test_defect_9_mean_and_range_are_those_of_the_batch_at_hand():
    levels,pairs = partner_batch(n=4)
    quality = torch.tensor([10., 10., 10., 10., 20., 20.5, 70., 75.])
    assert select_pairs(quality, pairs)[1].tolist() == [2, 3]  # the mean is 36.4
    first = [torch.tensor([0, 1]), torch.tensor([4, 5])]
    assert select_pairs(quality, first)[1].tolist() == [0, 1]  # of these alone it is 10.25
    loss = QSDLoss((1.,), tau=0.)
    whole = loss(levels[:1], quality, pairs)
    halves = [loss(levels[:1], quality, [o[i:i+2] for o in pairs]) for i in (0, 2)]
    assert not torch.isclose(whole, sum(halves)/2)


@pytest.mark.parametrize('wrong', [{'amplify': 'mean'}, {'map_norm': 'l1'}, {'distance': 'L3'}, {'tau': 1.5}])
def test_defect_10_options_that_do_not_exist(wrong):
    name, = wrong
    with pytest.raises(ValueError, match=name): QSDLoss(**wrong)
    with pytest.raises(ValueError, match=name): QualityDistillation(**wrong)


def test_levels_that_do_not_fit():
    levels,pairs = partner_batch()
    quality = torch.rand(12)
    with pytest.raises(ValueError, match=r'4 levels \(level1, level2, level3, level4\) but 5'):
        QSDLoss()(levels, quality, pairs)
    with pytest.raises(ValueError, match='0 levels'): QSDLoss(())([], quality, pairs)
    with pytest.raises(ValueError, match=r'level1 is \(12,\)'): QSDLoss((1.,))([quality], quality, pairs)
    with pytest.raises(ValueError, match=r'map is \(12, 6, 4, 2\) for 11'):
        QSDLoss((1.,))(levels[:1], quality[:11], pairs, names=['map'])


# --- the callback
class Net(nn.Module):
    "Two levels, batch norm, dropout where wanted"
    def __init__(self, n_ids=4, p=0.):
        super().__init__()
        def stage(a, b): return nn.Sequential(nn.Conv2d(a, b, 3, 2, 1), nn.BatchNorm2d(b), nn.ReLU())

        self.one,self.two = stage(3, 4), stage(4, 6)
        self.drop,self.neck,self.head = nn.Dropout(p), nn.BatchNorm1d(6), nn.Linear(6, n_ids, bias=False)

    def forward(self, x):
        one = self.one(x)
        two = self.two(one)
        pooled = self.drop(two).mean((2, 3))
        emb = self.neck(pooled)
        return Recognition((self.head(emb), emb, (one, two), pooled)) if self.training else emb


def batches(n=3, bs=8, seed=0, partners=False, labelled=True):
    "`n` batches of two pictures an identity; with partners, twice as many pictures"
    rng,found = torch.Generator().manual_seed(seed), []
    for _ in range(n):
        ids = torch.arange(4).repeat_interleave(bs//4)
        k = 2*bs if partners else bs
        quality = torch.rand(k, generator=rng)*100 if labelled else torch.full((k,), nan)
        ids = ids.repeat(2) if partners else ids
        found.append((torch.randn(k, 3, 8, 8, generator=rng), ids, quality, torch.arange(k)))
    return found


def anchors(b): return tuple(o[:len(o)//2] for o in b)


def learner(train, cbs=(), valid=(), p=0., **kwargs):
    torch.manual_seed(1)
    dls = DataLoaders(list(train), list(valid))
    dls.n_inp = 1
    learn = Learner(dls, Net(p=p), loss_func=RecognitionLoss(), opt_func=SGD, cbs=cbs, wd=0., moms=None, **kwargs)
    learn.remove_cb(ProgressCallback)
    return learn


def fit(learn, n=1, lr=.1, cbs=()):
    torch.manual_seed(2)
    with learn.no_logging(): learn.fit(n, lr, cbs=list(cbs))
    return learn


def same_state(a, b, exact=True):
    a,b = a.model.state_dict(), b.model.state_dict()
    assert list(a) == list(b)
    for k in a: assert torch.equal(a[k], b[k]) if exact else torch.allclose(a[k], b[k], rtol=1e-4, atol=1e-6), k


class MixedPrecisionOnCpu(MixedPrecision):
    "fastai's, on the device that tests run on"
    def before_fit(self):
        self.scales = []
        self.autocast = torch.autocast('cpu', dtype=torch.bfloat16)
        self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=2.**10)


class Look(Callback):
    "What a batch leaves behind, and its gradients before the step"
    order = 55  # after the Recorder
    def __init__(self): self.grads,self.preds,self.losses,self.counts = [], [], [], []
    def before_backward(self): self.losses.append(self.learn.loss_grad.item())
    def before_step(self): self.grads.append([p.grad.clone() for p in self.learn.model.parameters()])
    def after_batch(self):
        self.preds.append(self.learn.pred)
        self.counts.append((len(self.learn.yb[0]), len(self.learn.pred[0])))


def by_hand(mode, train, n_epoch=1, lr=.1, weights=(1., 1., 1., .1), accumulate=1, clip=None):
    "The same training without fastai"
    torch.manual_seed(1)
    model,loss_func,qsd = Net(), RecognitionLoss(), QSDLoss(weights)
    opt = torch.optim.SGD(model.parameters(), lr)
    torch.manual_seed(2)
    for k,(x, ids, quality, _) in enumerate(train*n_epoch, 1):
        n = len(x)//2
        if mode == 'batch': out = (both := model(x))
        elif mode == 'joint':
            both = model(x)
            out = Recognition((both.logits[:n], both.emb[:n], tuple(o[:n] for o in both.levels), both.pooled[:n]))
        else:
            out,other = model(x[:n]), model(x[n:])
            both = Recognition((torch.cat([out.logits, other.logits]), torch.cat([out.emb, other.emb]),
                                [torch.cat(o) for o in zip(out.levels, other.levels)], None))
        pairs = identity_pairs(ids) if mode == 'batch' else partner_pairs(n)
        loss = loss_func(out, ids if mode == 'batch' else ids[:n])
        loss = loss + qsd([*both.levels, both.emb, both.logits], quality, pairs)
        (loss/accumulate).backward()
        if k % accumulate: continue
        if clip: nn.utils.clip_grad_norm_(model.parameters(), clip)
        opt.step()
        opt.zero_grad()
    return model


MODES = {'batch': {}, 'separate': {'pairs': 'partner'}, 'joint': {'pairs': 'partner', 'forward': 'joint'}}


@pytest.mark.parametrize('mode', MODES)
def test_steps_by_hand(mode):
    "Defect 12: two passes update batch norm twice, anchors first; defect 13: the other losses see anchors only"
    train = batches(partners=mode != 'batch')
    look = Look()
    learn = fit(learner(train, [QualityDistillation(**MODES[mode]), look]), 2)
    hand = by_hand(mode, train, 2)
    for (k, a),b in zip(learn.model.state_dict().items(), hand.state_dict().values()):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6, msg=k)
    assert learn.model.neck.num_batches_tracked == (12 if mode == 'separate' else 6)
    assert look.counts == [(8, 8)]*6


def test_defect_12_joint_is_not_separate():
    train = batches(partners=True)
    separate,joint = (fit(learner(train, [QualityDistillation(**MODES[o])])) for o in ('separate', 'joint'))
    assert not torch.allclose(separate.model.neck.running_mean, joint.model.neck.running_mean, rtol=1e-2)


@pytest.mark.parametrize('mode', ['separate', 'joint'])
def test_defect_13_identity_losses_see_anchors_only(mode):
    train = batches(1, partners=True)
    other = [(*(torch.cat([o[:8], o[8:].flip(0) if i != 1 else o[8:]]) for i,o in enumerate(train[0])),)]
    terms = []
    for b in (train, other):
        learn = fit(learner(b, [QualityDistillation(**MODES[mode]), LossTerms()]))
        terms.append(learn.loss_terms.last)
    # partners in another order: distillation changes, identity and triplet do not
    assert terms[0]['qsd'] != terms[1]['qsd']
    for k in ('identity', 'triplet'): torch.testing.assert_close(terms[0][k], terms[1][k])


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.parametrize('p', [0., .5])
@pytest.mark.parametrize('extra', [
    (), (MixedPrecisionOnCpu, lambda: GradientAccumulation(16), lambda: GradientClip(.1))], ids=['plain', 'amp'])
def test_weight_0_is_the_baseline(mode, p, extra):
    train = batches(partners=mode != 'batch')
    cb = QualityDistillation(0, **MODES[mode])
    ours = fit(learner(train, [cb, *(o() for o in extra)], p=p), 2)
    base = fit(learner(train if mode == 'batch' else map(anchors, train), [o() for o in extra], p=p), 2)
    same_state(ours, base)
    assert ours.recorder.values == base.recorder.values
    assert ours.recorder.losses == base.recorder.losses
    assert cb.terms['qsd'] > 0
    assert cb.whole is None
    assert cb.others is None
    assert all(p.grad is None or not p.grad.any() for p in ours.model.parameters())


@pytest.mark.parametrize('mode', MODES)
def test_accumulation_and_clipping(mode):
    train = batches(4, partners=mode != 'batch')
    # counted in anchors, of which a batch has 8
    learn = fit(learner(train, [QualityDistillation(**MODES[mode]), GradientAccumulation(16), GradientClip(.05)]))
    hand = by_hand(mode, train, accumulate=2, clip=.05)
    for a,b in zip(learn.model.parameters(), hand.parameters()): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize('mode', MODES)
def test_mixed_precision(mode):
    train = batches(partners=mode != 'batch')
    full,half = Look(), Look()
    fit(learner(train, [QualityDistillation(**MODES[mode]), full]), lr=0.)
    cb = QualityDistillation(**MODES[mode])
    fit(learner(train, [cb, half, MixedPrecisionOnCpu()]), lr=0.)
    assert all(v.dtype == torch.float32 and v.isfinite() for v in cb.terms.values())
    assert half.preds[0].logits.dtype == torch.float32
    assert isinstance(half.preds[0], Recognition)
    for a,b in zip(full.grads, half.grads):
        a,b = (torch.cat([o.flatten() for o in g]) for g in (a, b))
        assert F.cosine_similarity(a, b, dim=0) > .99
        assert .95 < b.norm()/a.norm() < 1.05


def test_a_batch_whose_scaled_gradients_overflow_is_skipped():
    train = batches(1, partners=True)
    train[0][0][:8] *= float('inf')
    learn = learner(train, [QualityDistillation(**MODES['separate']), MixedPrecisionOnCpu()])
    before = copy.deepcopy(list(learn.model.parameters()))
    fit(learn)
    assert all(torch.equal(a, b) for a,b in zip(before, learn.model.parameters()))


@pytest.mark.parametrize('mode', MODES)
def test_validation_metrics_and_predictions(mode):
    train,valid = batches(partners=mode != 'batch'), batches(2, seed=9)
    seen = []
    def size(pred, ids, *_):
        seen.append((len(pred if isinstance(pred, torch.Tensor) else pred.logits), len(ids)))
        return torch.tensor(1.)

    cb = QualityDistillation(**MODES[mode])
    learn = learner(train, [cb], valid, metrics=AvgMetric(size))
    learn.recorder.train_metrics = True
    fit(learn)
    assert seen == [(8, 8)]*5
    assert len(learn.recorder.values[0]) == 4
    cb.terms = {}
    with_it = learn.validate()
    assert cb.terms == {}
    emb = learn.get_preds(dl=valid)[0]
    learn.remove_cb(cb)
    assert list(learn.validate()) == list(with_it)
    assert torch.equal(learn.get_preds(dl=valid)[0], emb)
    assert emb.shape == (16, 6)


def test_schedules():
    cb,values = QualityDistillation(SchedCos(0., 2.), level_weights=(1, SchedLin(0., 4.), lambda pct: .5, 0)), []
    class Keep(Callback):
        def after_batch(self):
            learn = self.learn
            values.append((learn.pct_train, dict(cb.terms), learn.loss.item(), dict(learn.loss_func.terms)))
    train = batches(1)*4
    fit(learner(train, [cb, Keep()]), lr=0.)
    plain = QualityDistillation(level_weights=(1, 1, 1, 1))
    fit(learner(train, [plain]), lr=0.)
    for k,(pct, terms, loss, others) in enumerate(values):
        assert pct == pytest.approx((k + 1)/4)
        now = k/4  # as the batch began
        for name,factor in (('level1', 1), ('level2', 4*now), ('emb', .5), ('logits', 0)):
            torch.testing.assert_close(terms[f'qsd_{name}'], factor*plain.terms[f'qsd_{name}'], rtol=1e-4, atol=1e-7)
        wanted = sum(map(float, others.values())) + (1 - np.cos(np.pi*now))*float(terms['qsd'])
        assert loss == pytest.approx(wanted, rel=1e-5)


def test_terms_are_logged_and_default_weights_fit_any_number_of_levels():
    terms = LossTerms()
    fit(learner(batches(), [QualityDistillation(), terms]), 2)
    cosines = [f'qsd_cosine_{o}' for o in ('level1', 'level2', 'emb', 'logits')]
    assert list(terms.frame()) == ['epoch', 'identity', 'triplet', 'qsd', 'qsd_level1', 'qsd_level2', 'qsd_emb',
                                   'qsd_logits', 'qsd_gap', *cosines, 'qsd_pairs']
    row = terms.frame().iloc[-1]
    assert row['qsd'] == pytest.approx(sum(row[f'qsd_{o}'] for o in ('level1', 'level2', 'emb', 'logits')))
    assert 0 < row['qsd_pairs'] <= 1


def test_nothing_of_it_is_in_the_model():
    learn,base = fit(learner(batches(), [QualityDistillation(SchedCos(0., 1.))])), fit(learner(batches()))
    assert list(learn.model.state_dict()) == list(base.model.state_dict())
    base.model.load_state_dict(learn.model.state_dict())
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(learn.model.eval()(x), base.model.eval()(x))
    assert not learn.model._forward_hooks


def test_distributed(tmp_path):
    "The second pass goes by the wrapper, whose buffers the gradients of the first one need"
    train = batches(partners=True)
    wanted = fit(learner(train, [QualityDistillation(**MODES['separate'])]))
    torch.distributed.init_process_group('gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        for weight in (1, 0):
            learn = learner(train, [QualityDistillation(weight, **MODES['separate'])])
            learn.model,passes = nn.parallel.DistributedDataParallel(learn.model), []
            learn.model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
            fit(learn)
            assert len(passes) == len(train)
            learn.model = learn.model.module
            if weight: same_state(learn, wanted, exact=False)
    finally: torch.distributed.destroy_process_group()


# --- errors that name the remedy
def test_errors():
    for wrong,match in (({'pairs': 'all'}, 'batch, partner or copies'), ({'forward': 'twice'}, 'separate or joint'),
                        ({'weight': -1}, 'weight is -1'), ({'weight': nan}, 'weight is nan'),
                        ({'weight': float('inf')}, 'weight is inf'), ({'weight': [1]}, r'weight is \[1\]')):
        with pytest.raises(ValueError, match=match): QualityDistillation(**wrong)
    train = batches()
    def fails(train, match, cb=None, change=None):
        learn = learner(train, [cb or QualityDistillation()])
        if change: change(learn)
        with pytest.raises(ValueError, match=match): fit(learn)

    fails([b[:2] for b in train], 'QualityBlock')
    fails([(*b[:2], torch.zeros(8, 3)) for b in train], r'\(8, 3\).*QualityBlock')
    for forward in ('separate', 'joint'):
        fails(train, 'partners=True', QualityDistillation(pairs='partner', forward=forward))
    odd = [tuple(o[:7] for o in b) for b in batches(partners=True)]
    fails(odd, 'partners=True', QualityDistillation(pairs='partner'))
    fails(train, r'4 levels \(level1, level2, emb, logits\) but 2', QualityDistillation(level_weights=(1, 1)))
    fit(learner(batches(labelled=False), [QualityDistillation(0)]))

    class Bare(nn.Module):
        def __init__(self): super().__init__(); self.fc = nn.Linear(3*8*8, 4)
        def forward(self, x): return self.fc(x.flatten(1))
    fails(train, 'Linear|Tensor', change=lambda learn: setattr(learn, 'model', Bare()))

    class WithPartners(list): partners = True
    dls = DataLoaders(WithPartners(batches(partners=True)), [])
    dls.n_inp = 1
    learn = Learner(dls, Net(), loss_func=RecognitionLoss(), cbs=[QualityDistillation()])
    learn.remove_cb(ProgressCallback)
    with pytest.raises(ValueError, match="Use pairs='partner'"), learn.no_logging(): learn.fit(1)


def test_order_among_fastais_callbacks():
    assert QualityDistillation.order < GradientAccumulation.order < MixedPrecision.order < Recorder.order


def test_an_epoch_without_known_quality_warns():
    with pytest.warns(UserWarning, match='similarity_quality'):
        fit(learner(batches(labelled=False), [QualityDistillation()]))


@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.parametrize('case', ['equal', 'unknown', 'alone', 'alone with partners', 'far apart'])
def test_an_epoch_that_teaches_nothing_is_told_with_its_reason(case, strict):
    partners = 'partners' in case
    said = 'equal or unknown' if case in ('equal', 'far apart', 'alone with partners') else (
        'similarity_quality' if case == 'unknown' else 'n_imgs=2')
    def changed(x, ids, quality, *more):
        if case == 'equal': quality = torch.full_like(quality, 50.)
        if case == 'unknown': quality = torch.full_like(quality, nan)
        if case == 'far apart': quality = torch.arange(len(quality)).float()**2/2 # Of tau 1 the mean alone is kept
        if case == 'alone with partners': quality = quality[:len(quality)//2].repeat(2) # Each is its own partner
        return x,ids,quality,*more
    train = [changed(*b) for b in batches(bs=4 if case == 'alone' else 8, partners=partners)]
    cb = QualityDistillation(pairs='partner' if partners else 'batch', strict=strict, tau=1. if 'far' in case else .3)
    def run(): fit(learner(train, [cb]))
    if strict:
        with pytest.raises(ValueError, match=said): run()
    else:
        with pytest.warns(UserWarning, match=said): run()


def test_an_epoch_without_a_pair_is_no_error_after_one_with_some(recwarn):
    class Unlabel(Callback):
        order = QualityDistillation.order - 1
        def before_batch(self):
            if self.epoch: self.learn.yb = self.yb[0],torch.full_like(self.yb[1], nan),*self.yb[2:]
    fit(learner(batches(), [QualityDistillation(strict=True), Unlabel()]), 2)
    assert sum('taught nothing' in str(o.message) for o in recwarn) == 1
    recwarn.clear()
    fit(learner(batches(labelled=False), [QualityDistillation(0, strict=True)]))
    assert not [o for o in recwarn if 'taught nothing' in str(o.message)]
