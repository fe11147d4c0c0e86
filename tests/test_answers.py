"The questions that QSD as published answers in one way, answered in others: against plain forms, and weight 0"
from copy import deepcopy
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from qsd_fastai.callbacks.octuplet import OctupletTuning
from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.data.copies import degrade_batch
from qsd_fastai.distillation import PRESETS, QualityDistillation
from qsd_fastai.losses import OctupletLoss, RecognitionLoss
from qsd_fastai.models.heads.by_name import make_head
from qsd_fastai.models.recognizer import Recognition, Recognizer
from qsd_fastai.qsd_loss import QSDLoss, identity_pairs, partner_pairs, select_pairs
from qsd_fastai.taught import identity_mean_gap, relation_gap
from qsd_fastai.teachers import Teacher

pytestmark = pytest.mark.usefixtures('on_cpu')

nan = float('nan')


class Net(nn.Module):
    "One level of maps, dropout that draws"
    def __init__(self):
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.drop,self.neck,self.head = nn.Dropout(.3), nn.BatchNorm1d(6), nn.Linear(6, 4, bias=False)

    def forward(self, x):
        one = self.one(x)
        pooled = self.drop(one).mean((2, 3))
        emb = self.neck(pooled)
        return Recognition((self.head(emb), emb, (one,), pooled)) if self.training else emb


def batches(n=3):
    "Eight pictures of four identities, and as many copies or partners that are worse"
    rng,found = torch.Generator().manual_seed(0),[]
    for _ in range(n):
        ids,good = torch.arange(4).repeat_interleave(2).repeat(2),50 + 50*torch.rand(8, generator=rng)
        x = torch.randn(16, 3, 8, 8, generator=rng)
        found.append((x, ids, torch.cat([good, good*torch.rand(8, generator=rng)])))
    return found


def learner(cbs, train=None):
    torch.manual_seed(1)
    dls = DataLoaders(train or batches(), [])
    dls.n_inp = 1
    learn = Learner(dls, Net(), loss_func=RecognitionLoss(), opt_func=SGD, cbs=cbs, wd=0., moms=None)
    learn.remove_cb(ProgressCallback)
    return learn


def fit(learn, n=2, lr=.1, seed=2):
    torch.manual_seed(seed)
    with learn.no_logging(): learn.fit(n, lr)
    return learn


class Gradients(Callback):
    "Those of the parameters before each step"
    order = 55
    def __init__(self): self.found = []
    def before_step(self): self.found.append([p.grad.clone() for p in self.learn.model.parameters()])


FORMS = [{'pairs': pairs, 'teacher': teacher, 'balance': balance, **taught}
         for pairs,teacher,balance,taught in product(
             ('batch', 'copies'), ('same', 'ema', 'frozen'), (False, True),
             ({}, {'relations': 1., 'mean': 1.}, {'logits': 'kl', 'temperature': .5}))]
FORMS += [{'pairs': pairs, 'stop': stop} for pairs in ('batch', 'copies') for stop in (0., .5, 'gap')]
FORMS += [{'preset': preset} for preset in PRESETS] + [{'pairs': 'partner', 'forward': 'joint'}]


def rows(form):
    "What the batches of a form are without it: partners are looked at by distillation alone"
    aside = QualityDistillation(**form).pairs == 'partner'
    return [tuple(o[:8] for o in b) if aside else b for b in batches()]


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_weight_0_is_the_run_without_it(form):
    cb = QualityDistillation(**{**form, 'weight': 0})
    ours,base = fit(learner([cb])),fit(learner([], rows(form)))
    for (k, a),b in zip(ours.model.state_dict().items(), base.model.state_dict().values()): assert torch.equal(a, b), k
    assert ours.recorder.losses == base.recorder.losses
    assert cb.network is None


@pytest.mark.parametrize('form', FORMS, ids=str)
def test_every_form_teaches(form):
    cb = QualityDistillation(**form)
    ours,base = fit(learner([cb])),fit(learner([], rows(form)))
    assert any(not torch.equal(a, b) for a,b in zip(ours.model.parameters(), base.model.parameters()))
    assert all(o.isfinite().all() for o in ours.model.parameters())
    assert cb.terms['qsd'] > 0


def test_presets():
    published = QualityDistillation(preset='published')
    plain = QualityDistillation(pairs='partner')
    assert (published.pairs, published.teacher, published.weight) == ('partner', 'same', 1.)
    assert vars(published.qsd).keys() == vars(plain.qsd).keys()
    for k in ('tau', 'stop', 'amplify', 'map_norm', 'distance', 'logits', 'relations', 'mean'):
        assert getattr(published.qsd, k) == getattr(plain.qsd, k), k
    other = QualityDistillation(preset='published', pairs='batch', weight=3., stop=.5)
    assert (other.pairs, other.weight, other.qsd.stop, other.forward) == ('batch', 3., .5, 'separate')
    assert QualityDistillation(preset='copies', teacher='ema').qsd.stop == 1
    auto = QualityDistillation('auto')
    assert (auto.weight, auto.balance) == (1., True)


@pytest.mark.parametrize('wrong, said', [
    ({'preset': 'paper'}, "preset is 'paper'"), ({'teacher': 'other'}, "teacher is 'other'"),
    ({'stop': 2.}, 'stop is 2'), ({'stop': 'far'}, "stop is 'far'"), ({'weight': 'much'}, "weight is 'much'"),
    ({'teacher': 'ema', 'stop': 0.}, "teacher 'ema' gets no gradient"), ({'decay': 1.}, 'decay is 1'),
    ({'temperature': 0.}, 'temperature is 0'), ({'relations': -1.}, 'relations is -1'), ({'mean': nan}, 'mean is nan'),
    ({'logits': 'l2'}, "logits is 'l2'")])
def test_errors(wrong, said):
    with pytest.raises(ValueError, match=said): QualityDistillation(**wrong)


@pytest.mark.parametrize('cb', [QualityDistillation(pairs='copies'), OctupletTuning()], ids=['qsd', 'octuplet'])
def test_copies_that_are_not_there_are_told(cb):
    train = [tuple(o[:8] for o in b) for b in batches()]
    with pytest.raises(ValueError, match=r'copies of the first.*copies=True'):
        fit(learner([cb], train))


@pytest.mark.parametrize('dealt', [{'by_identity': False, 'n_imgs': 4}, {'by_identity': True, 'n_imgs': 1}], ids=str)
def test_octuplet_tuning_asks_for_several_pictures_of_an_identity(dealt):
    "Else no anchor had a positive, and it would train nothing without a word"
    train = type('Dealt', (list,), dealt)(batches())
    with pytest.raises(ValueError, match="by='identity' with n_imgs=2 or more"): fit(learner([OctupletTuning()], train))
    judged = learner([OctupletTuning()], train)
    judged.validate(dl=batches()) # Sends the event of a fit too, and trains nothing


def levels(seed=0, n=12):
    rng = torch.Generator().manual_seed(seed)
    def draw(*shape): return torch.randn(*shape, generator=rng, dtype=torch.float64).requires_grad_()
    ids = torch.arange(n) % 3
    quality = torch.rand(n, generator=rng, dtype=torch.float64)*100
    return [draw(n, 3, 4, 2), draw(n, 5), draw(n, 4)], quality, ids


NAMES = ['map', 'emb', 'logits']


def gradients(loss, stop, weights=(1., 1., 1.), **kwargs):
    found,quality,ids = levels()
    value = QSDLoss(weights, stop=stop, **kwargs)(found, quality, identity_pairs(ids), NAMES, ids=ids)
    return value, torch.autograd.grad(value, found, allow_unused=True)


def test_stop_changes_gradients_and_no_value():
    (all_,stopped),(half,some),(none,free) = (gradients(QSDLoss, o) for o in (1., .5, 0.))
    for value in (half, none): torch.testing.assert_close(value, all_)
    for a,b,c in zip(stopped, some, free): torch.testing.assert_close(b, (a + c)/2)
    assert not torch.allclose(stopped[1], free[1])


def test_stop_that_follows_the_gap():
    "By hand, for the embedding: of each pair the teacher keeps 1 - gap/100 of its gradient"
    found,quality,ids = levels()
    teacher,student = select_pairs(quality, identity_pairs(ids))
    emb = found[1]
    def cosines(t, s): return (1 - F.cosine_similarity(t, s)).mean()
    on_student, = torch.autograd.grad(cosines(emb.detach()[teacher], emb[student]), emb)
    share = 1 - (quality[teacher] - quality[student])/100
    each = 1 - F.cosine_similarity(emb[teacher], emb.detach()[student])
    on_teacher, = torch.autograd.grad((each*share).mean(), emb)
    _,got = gradients(QSDLoss, 'gap', (0., 1., 0.))
    torch.testing.assert_close(got[1], on_student + on_teacher)


def test_relations_by_hand():
    rng = torch.Generator().manual_seed(0)
    s,t = torch.randn(5, 3, generator=rng),torch.randn(5, 3, generator=rng)
    found = [(F.cosine_similarity(s[i], s[j], 0) - F.cosine_similarity(t[i], t[j], 0))**2
             for i in range(5) for j in range(5)]
    torch.testing.assert_close(relation_gap(s, t), sum(found)/25)
    assert relation_gap(s, 3*s) < 1e-12


def test_identity_mean_by_hand():
    found,quality,ids = levels()
    emb = found[1].detach()
    quality[3],quality[4] = nan,0.
    unit,total,n = F.normalize(emb),0.,0
    for i in range(12):
        own = [j for j in range(12) if ids[j] == ids[i] and not quality[j].isnan()]
        mean = F.normalize(sum(quality[j]*unit[j] for j in own), dim=0)
        if quality[i].isnan(): continue
        # the mean quality is weighted by quality as well: what the mean picture is like
        if quality[i] < sum(quality[j]**2 for j in own)/sum(quality[j] for j in own):
            total,n = total + 1 - unit[i]@mean,n + 1
    torch.testing.assert_close(identity_mean_gap(emb, quality, ids), total/n)
    assert identity_mean_gap(emb, torch.full((12,), 50.), ids) == 0
    assert identity_mean_gap(emb, torch.full((12,), nan), ids) == 0


def test_softmax_of_logits_by_hand():
    found,quality,ids = levels()
    teacher,student = select_pairs(quality, identity_pairs(ids))
    p,q = ((found[2].detach()[o]/.5).softmax(1) for o in (teacher, student))
    wanted = (p*(p.log() - q.log())).sum(1).mean()
    value,_ = gradients(QSDLoss, 1., (0., 0., 1.), logits='kl', temperature=.5)
    torch.testing.assert_close(value.detach(), wanted)


def test_another_network_teaches():
    found,quality,ids = levels()
    others,_,_ = levels(1)
    pairs = partner_pairs(6)
    teacher,student = select_pairs(quality, pairs)
    value = QSDLoss((0., 1., 0.))(found, quality, pairs, NAMES, taught_by=others)
    wanted = (1 - F.cosine_similarity(others[1][teacher], found[1][student])).mean()
    torch.testing.assert_close(value, wanted)
    assert torch.autograd.grad(value, others, allow_unused=True) == (None, None, None)


class Seen(Callback):
    "The teacher and the network after each step"
    order = QualityDistillation.order + 1
    def __init__(self, cb): self.cb,self.teachers,self.networks = cb,[],[]
    def after_step(self):
        self.teachers.append(deepcopy(self.cb.network.network.state_dict()))
        self.networks.append(deepcopy(self.learn.model.state_dict()))


def test_a_teacher_of_a_sampled_head_is_refused():
    model = Recognizer('resnet10t', 8, head=make_head('arcface', 32., rate=.5))
    with pytest.raises(ValueError, match=r"samples identities.*teacher='same'"): Teacher(model)


@pytest.mark.parametrize('given', [{'level_weights': {'level1': 1.}}, {'level_weights': (1, 1, 1, 0, 0)}])
def test_a_weight_counted_where_nothing_is_taught_is_refused(given):
    with pytest.raises(ValueError, match='no term reaches it'): QualityDistillation('auto', **given)
    assert QualityDistillation('auto', relations=1., **given).balance
    with pytest.raises(ValueError, match='nothing is taught'): QualityDistillation(level_weights={})


@pytest.mark.parametrize('teacher', ['ema', 'frozen'])
def test_the_teacher_is_the_start_or_a_moving_average(teacher):
    cb = QualityDistillation(teacher=teacher, decay=.8, pairs='copies')
    seen,learn = Seen(cb),learner([cb])
    wanted = deepcopy(learn.model.state_dict())
    learn.add_cb(seen)
    fit(learn)
    assert len(seen.teachers) == 6
    for now,network in zip(seen.teachers, seen.networks):
        if teacher == 'ema':
            wanted = {k: .8*v + .2*network[k] if v.is_floating_point() else network[k] for k,v in wanted.items()}
        for k,v in now.items(): torch.testing.assert_close(v, wanted[k], msg=k)
    assert cb.network is None


@pytest.mark.parametrize('loss_of', [1., 100.])
def test_balance_counts_in_gradients_at_the_embedding(loss_of):
    class Norms(Callback):
        order,found = QualityDistillation.order - 1,None
        def after_loss(self):
            self.learn.loss_grad = self.learn.loss_grad*loss_of
            if self.found is None:
                self.found = torch.autograd.grad(self.learn.loss_grad, self.learn.pred.emb, retain_graph=True)[0].norm()

    cb,norms = QualityDistillation(2., pairs='copies', balance=True),Norms()
    learn = learner([cb, norms], batches(1))
    found = {}
    class Look(Callback):
        order = QualityDistillation.order + 1
        def after_loss(self):
            found['all'] = torch.autograd.grad(self.learn.loss_grad, cb.whole.emb, retain_graph=True)[0]
            found['scale'],found['qsd'] = cb.terms['qsd_scale'],cb.terms['qsd']
    learn.add_cb(Look())
    fit(learn, 1, 0.)
    assert found['scale'] > 0
    # without QSD, the same batch gives the gradient of the others
    bare,first = learner([norms], batches(1)),{}
    class First(Callback):
        order = QualityDistillation.order + 1
        def after_loss(self):
            first['others'] = torch.autograd.grad(self.learn.loss_grad, self.learn.pred.emb, retain_graph=True)[0]
    bare.add_cb(First())
    fit(bare, 1, 0.)
    torch.testing.assert_close((found['all'] - first['others']).norm(), 2*first['others'].norm())


@pytest.mark.parametrize('form', [{'balance': True}, {'teacher': 'ema', 'decay': .5}, {'teacher': 'frozen'}], ids=str)
def test_a_resumed_fit_goes_on_with_teacher_and_norms(form, tmp_path):
    class StopAfter(Callback):
        order = SaveState.order + 1
        def after_epoch(self):
            if self.epoch == 0: raise CancelFitException

    def make(*cbs): return learner([QualityDistillation(pairs='copies', **form), *cbs])
    whole = fit(make(), 3)
    fit(make(SaveState(tmp_path/'s'), StopAfter()), 3)
    resumed = fit(make(SaveState(tmp_path/'s', resume=True)), 3)
    for (k, a),b in zip(resumed.model.state_dict().items(), whole.model.state_dict().values()):
        assert torch.equal(a, b), k


def test_controls_turn_or_deal_the_quality():
    class Look(Callback):
        order = QualityDistillation.order + 1
        def __init__(self, cb): self.cb,self.found = cb,[]
        def after_loss(self): self.found.append(self.cb.quality.clone())

    def seen(seed=2, **form):
        cb = QualityDistillation(weight=0., **form)
        look = Look(cb)
        fit(learner([cb, look], batches(20)), 1, seed=seed)
        return look.found

    given = [b[2] for b in batches(20)]
    for a,b in zip(seen(labels='reversed', pairs='copies'), given): assert torch.equal(a, 100 - b)
    turned = 0
    for a,b in zip(seen(labels='shuffled', pairs='copies'), given):
        pairs = torch.stack([a[:8], a[8:]], 1)
        # the two of a pair stay a pair, in either order
        assert torch.equal(pairs.sort(1).values, torch.stack([b[8:], b[:8]], 1))
        turned += int((pairs[:, 0] < pairs[:, 1]).sum())
    assert 50 < turned < 110
    for a,b in zip(seen(labels='shuffled'), given):
        assert torch.equal(a.sort().values, b.sort().values)
        assert not torch.equal(a, b)
    first,again,other = (seen(seed, labels='shuffled', pairs='copies') for seed in (2, 2, 3))
    assert all(torch.equal(a, b) for a,b in zip(first, again))
    assert not all(torch.equal(a, b) for a,b in zip(first, other)) # Seeds of an experiment are dealt otherwise


def test_octuplet_tuning_is_that_loss_alone():
    cb,train = OctupletTuning(.4),batches(2)
    learn = fit(learner([cb], train), 1)
    torch.manual_seed(1)
    hand = Net()
    opt = torch.optim.SGD(hand.parameters(), .1)
    torch.manual_seed(2)
    for x,ids,_ in train:
        OctupletLoss(.4)(hand(x).emb, ids).backward()
        opt.step()
        opt.zero_grad()
    for a,b in zip(learn.model.parameters(), hand.parameters()): torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert set(cb.terms) == {'octuplet'}


def test_qsd_is_added_to_the_octuplet_loss_whichever_is_named_first():
    found = []
    for turned in (False, True):
        cbs = [OctupletTuning(), QualityDistillation(preset='copies')]
        learn = fit(learner(cbs[::-1] if turned else cbs, batches(2)), 1)
        assert learn.quality_distillation.terms['qsd'] > 0
        found.append([o.detach().clone() for o in learn.model.parameters()])
    alone = list(fit(learner([OctupletTuning()], batches(2)), 1).model.parameters())
    for a,b in zip(*found): assert torch.equal(a, b)
    assert not all(torch.equal(a, b) for a,b in zip(alone, found[0]))


def test_levels_by_name():
    named,plain = QualityDistillation(level_weights={'emb': 2.}),QualityDistillation(level_weights=(0., 2., 0.))
    for cb in (named, plain): fit(learner([cb]))
    assert named.terms['qsd'] == plain.terms['qsd'] > 0
    assert named.terms['qsd_level1'] == 0
    with pytest.raises(ValueError, match=r"level_weights is 'embedding'.*emb"):
        fit(learner([QualityDistillation(level_weights={'embedding': 1.})]))


@pytest.mark.parametrize('kind', ['low_resolution', 'blur', 'noise', 'darkness'])
def test_copies_stay_on_a_device_that_is_not_there(kind):
    "Fake tensors on `cuda:0` raise where devices mix and where a value is looked at"
    severity = torch.rand(8) # Drawn on the CPU, where it may be looked at
    with FakeTensorMode(allow_non_fake_inputs=True):
        x = torch.empty(8, 3, 32, 16, device='cuda')
        assert degrade_batch(x, kind, severity).device == x.device


def test_terms_stay_on_a_device_that_is_not_there():
    with FakeTensorMode(allow_non_fake_inputs=True):
        emb,ids = torch.empty(8, 5, device='cuda'),torch.empty(8, dtype=torch.long, device='cuda')
        quality = torch.empty(8, device='cuda')
        for value in (relation_gap(emb, emb), identity_mean_gap(emb, quality, ids), OctupletLoss()(emb, ids)):
            assert value.device == emb.device
            assert value.shape == ()


@pytest.mark.parametrize('form', [{'teacher': 'frozen'}, {'teacher': 'ema', 'decay': .5}, {'balance': True}], ids=str)
def test_a_judgement_within_a_fit_changes_nothing(form):
    "validate and its kin send the events of a fit"
    class Judge(Callback):
        order = QualityDistillation.order + 60
        def after_epoch(self):
            if not self.learn.lock.locked(): self.learn.validate(dl=batches(1))

    plain = fit(learner([QualityDistillation(pairs='copies', **form)]), 3)
    judged = fit(learner([QualityDistillation(pairs='copies', **form), Judge()]), 3)
    for a,b in zip(judged.model.parameters(), plain.model.parameters()): assert torch.equal(a, b)
