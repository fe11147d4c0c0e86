"The margin of another head over the identities that are there"
import warnings

import pytest
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed

from qsd_fastai.callbacks.found import found_config
from qsd_fastai.callbacks.margin import MarginTuning
from qsd_fastai.callbacks.octuplet import OctupletTuning
from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import MarginLoss, RecognitionLoss, TripletLoss
from qsd_fastai.models.heads.by_name import make_head

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.usefixtures('one_thread', 'on_cpu')]


def learner(table, head=None, copies=False, cbs=None):
    set_seed(2)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, seed=1, num_workers=0, copies=copies)
    learn = recognition_learner(dls, 'test_resnet', head, metrics=Retrieval('mAP'), cbs=cbs)
    learn.remove_cb(learn.progress)
    return learn


def trained(learn, *cbs, n=2):
    set_seed(5)
    with learn.no_logging(): learn.fit(n, 1e-2, cbs=cbs)
    return learn


def test_a_margin_head_goes_on_as_its_own_would(labelled_people):
    "From the same directions, with the triplets of the baseline: what a learner with that head comes to"
    cb = MarginTuning(pairs='none')
    ours,theirs = learner(labelled_people), learner(labelled_people, make_head('adaface', 32.))
    theirs.loss_func = MarginLoss(theirs.model.head, triplet_weight=1., triplet=TripletLoss())
    with torch.no_grad(): theirs.model.head.weight.copy_(ours.model.head.weight)
    theirs.model.body.load_state_dict(ours.model.body.state_dict())
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning) # Of a shadowed attribute, say
        trained(ours, cb)
    trained(theirs)
    for (k, a),(_, b) in zip(ours.model.named_parameters(), theirs.model.named_parameters()):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7, msg=k)
    assert cb.margin.weight is ours.model.head.weight
    assert cb.margin.batch_mean == theirs.model.head.batch_mean != 20
    assert set(ours.loss_terms.epochs[-1]) == {'epoch', 'identity', 'triplet'}


@pytest.mark.parametrize('head', ['arcface', 'cosface', 'magface', 'curricularface'])
def test_every_margin_trains_from_any_head(labelled_people, head):
    "The scale is that of the head that is there; with copies, and QSD on top"
    plain,cb,qsd = make_head('arcface', 24.),MarginTuning(head),QualityDistillation(preset='copies')
    learn = learner(labelled_people, plain, copies=True)
    before = learn.model.head.weight.detach().clone()
    heads = []
    class Found(Callback):
        def before_epoch(self): heads.append(found_config(self.learn)['head'])
    trained(learn, cb, qsd, Found(), n=1)
    assert heads[0]['name'] == type(cb.margin).__name__
    assert heads[0]['s'] == cb.margin.s == 24
    assert not torch.equal(before, learn.model.head.weight)
    assert qsd.terms['qsd'] > 0
    assert ('norm' in learn.loss_terms.epochs[-1]) == (head == 'magface')


class StopAt(Callback):
    order = 90
    def after_batch(self):
        if self.training and self.epoch == 1: raise KeyboardInterrupt


def test_lengths_that_it_has_learned_are_resumed(labelled_people, tmp_path):
    def state(resume=False): return SaveState(tmp_path/'run.state', resume)
    whole = MarginTuning(pairs='none')
    expected = trained(learner(labelled_people, cbs=[whole]))
    with pytest.raises(KeyboardInterrupt):
        trained(learner(labelled_people, cbs=[MarginTuning(pairs='none')]), state(), StopAt())
    again = MarginTuning(pairs='none')
    found = trained(learner(labelled_people, cbs=[again]), state(resume=True))
    assert torch.equal(again.margin.batch_mean, whole.margin.batch_mean)
    for a,b in zip(found.model.parameters(), expected.model.parameters()): assert torch.equal(a, b)


@pytest.mark.parametrize('head', [make_head('subcenter', 32.), make_head('arcface', 32., rate=.5)],
                         ids=['two centers', 'sampled'])
def test_heads_without_single_directions_are_refused(labelled_people, head):
    with pytest.raises(ValueError, match='no single direction of each identity here'):
        trained(learner(labelled_people, head), MarginTuning(pairs='none'))


class OwnLoss(torch.nn.Module):
    "Of a user, with weights of another kind than ours"
    weights = 1.,2.
    def forward(self, pred, *targets): return (pred if isinstance(pred, torch.Tensor) else pred.emb).square().mean()


def test_it_judges_as_the_learner_does(labelled_people):
    "Nothing of it is in a validation, and another loss than ours has no triplets to keep"
    learn = learner(labelled_people)
    alone = list(learn.validate())
    assert list(learn.validate(cbs=MarginTuning(pairs='none'))) == alone
    for loss in (RecognitionLoss(triplet_weight=0.), OwnLoss()):
        learn.loss_func = loss
        trained(learn, MarginTuning(pairs='none'), n=1)
        assert set(learn.loss_terms.epochs[-1]) == {'epoch', 'identity'}


@pytest.mark.parametrize(('loader', 'cbs', 'said'), [
    ({}, [MarginTuning()], r"pairs is 'copies', and the loader adds no copies"),
    ({'copies': True}, [MarginTuning(pairs='none')], r"pairs is 'none', and the loader adds copies"),
    ({'partners': True}, [MarginTuning()], 'adds partners'),
    ({'partners': True}, [OctupletTuning()], 'not the copies of the first'),
    ({'copies': True}, [QualityDistillation(pairs='partner')], 'not the partners of the first'),
    ({'copies': True}, [MarginTuning(), OctupletTuning()], 'MarginTuning and OctupletTuning each replace the loss'),
    ({'copies': True}, [OctupletTuning(), OctupletTuning()], 'each replace the loss')], ids=str)
def test_who_trains_is_told_apart(labelled_people, loader, cbs, said):
    "What a loader adds is what a callback asks for, and one loss alone takes the place of the learner's"
    dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=2, num_workers=0, **loader)
    learn = recognition_learner(dls, 'test_resnet')
    with learn.no_bar(), learn.no_logging(), pytest.raises(ValueError, match=said): learn.fit(1, cbs=cbs)


@pytest.mark.parametrize('other', [
    [], [OctupletTuning()], [MarginTuning('arcface'), QualityDistillation(preset='copies')]], ids=str)
def test_a_fit_is_resumed_with_the_callbacks_that_it_had(labelled_people, tmp_path, other):
    "Else it would go on as another training, and say nothing"
    class Stop(Callback):
        def before_epoch(self):
            if self.epoch == 1: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        trained(learner(labelled_people, copies=True), MarginTuning(), SaveState(tmp_path/'s.state'), Stop())
    with pytest.raises(ValueError, match=r's\.state is of a run with other callbacks: MarginTuning, and this one has'):
        trained(learner(labelled_people, copies=True), *other, SaveState(tmp_path/'s.state', True))
