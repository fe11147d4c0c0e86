"What a state is refused for, whatever the file holds; a training that diverges; several processes; another table"
import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed

from qsd_fastai.callbacks.kept import PARTS, read_state
from qsd_fastai.callbacks.save_state import Diverged, SaveState
from qsd_fastai.data.loaders import IdentityDL, recognition_dataloaders
from qsd_fastai.data.within import own_loader
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.learner import recognition_learner

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.usefixtures('one_thread')]


def make(table, *cbs, seed=3, **kwargs):
    set_seed(seed)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, seed=1, num_workers=0, device='cpu')
    learn = recognition_learner(dls, 'test_resnet', metrics=Retrieval('mAP'), cbs=cbs, **kwargs)
    learn.remove_cb(learn.progress)
    return learn


@pytest.fixture(scope='module')
def state(labelled_people, tmp_path_factory, one_thread):
    "A state of one epoch of two"
    class Stop(Callback):
        def before_epoch(self):
            if self.epoch == 1: raise KeyboardInterrupt
    file = tmp_path_factory.mktemp('state')/'a.state'
    with pytest.raises(KeyboardInterrupt): make(labelled_people).fit_one_cycle(2, 1e-3, cbs=[SaveState(file), Stop()])
    return file


def odd(rng): return rng.choice([None, 7, -1, 1e30, 'x', b'x', [], [[]], {}, {'a': 1}, (), (1, 2), torch.ones(2),
                                 torch.ones(0), [torch.ones(1)], True])


def changed(o, rng):
    "The same with one part of it, at any depth, odd, gone or one more"
    if isinstance(o, dict) and o and rng.random() < .85:
        key = rng.choice(list(o))
        if rng.random() < .2: return {k: v for k,v in o.items() if k != key}
        return {**o, key: changed(o[key], rng)}
    if isinstance(o, list | tuple) and len(o) and rng.random() < .85:
        parts,i = list(o),rng.randrange(len(o))
        if rng.random() < .2: del parts[i]
        else: parts[i] = changed(parts[i], rng)
        return type(o)(parts)
    return odd(rng)


def test_states_of_any_content_are_refused_by_name_or_read(labelled_people, state, tmp_path):
    rng,whole,file = random.Random(0),torch.load(state, weights_only=True),tmp_path/'odd.state'
    refused = 0
    learn,now = make(labelled_people),random.getstate()
    class Once(Callback):
        "Far enough: everything that comes from the file has been put where it belongs"
        order = SaveState.order + 1
        def before_train(self): raise KeyboardInterrupt
    learn.add_cb(Once())
    for _ in range(150):
        torch.save(changed(whole, rng), file)
        with pytest.raises((ValueError, KeyboardInterrupt)) as e:
            learn.fit_one_cycle(2, 1e-3, cbs=SaveState(file, resume=True))
        vars(learn).pop('save', None)
        if e.type is ValueError:
            assert 'odd.state' in str(e.value)
            refused += 1
    assert refused > 60
    random.setstate(now)


def test_bytes_of_any_kind_are_refused_by_name(state, damaged, tmp_path):
    whole,file = state.read_bytes(),tmp_path/'odd.state'
    for data in (b'', b'x', b'PK', b'\x80\x02.', b'\x80\x04N.', b'{}', b'[]', whole[:100], whole[:-1]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r'odd\.state'): read_state(file)
    for data in damaged(whole, 100, 20):
        file.write_bytes(data)
        try: read_state(file)  # a number within a weight may be another one
        except ValueError as e: assert 'odd.state' in str(e)


@pytest.mark.parametrize('part', PARTS)
def test_every_part_must_be_there_and_of_its_type(state, tmp_path, part):
    whole,file = torch.load(state, weights_only=True),tmp_path/'odd.state'
    for other in ({k: v for k,v in whole.items() if k != part}, {**whole, part: None}):
        torch.save(other, file)
        with pytest.raises(ValueError, match=rf'odd\.state is not the state of a run: look at {part}'): read_state(file)


class Poison(Callback):
    "Makes the training of an epoch diverge, as a rate that is too high does"
    order = 90

    def __init__(self, where, epoch=1): self.where,self.at = where,epoch

    def before_batch(self):
        if not self.training or self.epoch != self.at: return
        if self.where == 'rate':
            for h in self.opt.hypers: h['lr'] = 1e30

    def after_step(self):
        if self.epoch != self.at: return
        if self.where == 'weight': next(self.learn.model.parameters()).data.view(-1)[0] = float('nan')
        means = [b for k,b in self.learn.model.named_buffers() if 'mean' in k]
        if self.where == 'statistics': means[0][0] = float('nan')

    def after_loss(self):
        if self.where == 'loss' and self.training and self.epoch == self.at: self.learn.loss = self.loss*float('inf')


@pytest.mark.parametrize('where', ['rate', 'weight', 'statistics', 'loss'])
def test_a_training_that_diverges_stops_and_keeps_what_was_finite(labelled_people, tmp_path, where):
    file,judged = tmp_path/'a.state',[]
    class Seen(Callback):
        def before_validate(self): judged.append(self.epoch)
    said = r'in epoch 2 of 3, at learning rates .*of epoch 1 is kept in .*a\.state\..* lower'
    with pytest.raises(Diverged, match=said):
        make(labelled_people).fit(3, 1e-3, cbs=[SaveState(file), Poison(where), Seen()])
    assert judged == [0]
    kept = torch.load(file, weights_only=True)
    assert len(kept['values']) == 1
    assert all(v.isfinite().all() for v in kept['model'].values() if v.is_floating_point())
    learn,rates = make(labelled_people, seed=9),[]
    class Rates(Callback):
        def before_batch(self):
            if self.training: rates.append(self.opt.hypers[0]['lr'])
    learn.fit(3, 1e-4, cbs=[SaveState(file, resume=True), Rates()])
    assert len(learn.recorder.values) == 3
    assert set(rates) == {1e-4}  # The new rate, not that of the state


def test_a_training_that_diverges_at_once_says_that_nothing_is_kept(labelled_people, tmp_path):
    with pytest.raises(Diverged, match='No epoch was finished'):
        make(labelled_people).fit(2, 1e-3, cbs=[SaveState(tmp_path/'a.state'), Poison('weight', 0)])
    assert not (tmp_path/'a.state').exists()


def test_a_step_that_a_scaler_leaves_out_is_no_divergence(labelled_people, tmp_path):
    class Scaler(Callback):
        def before_fit(self): self.learn.scaler = SimpleNamespace(state_dict=dict)
    make(labelled_people).fit(2, 1e-3, cbs=[Scaler(), SaveState(tmp_path/'a.state'), Poison('loss')])
    assert len(torch.load(tmp_path/'a.state', weights_only=True)['values']) == 2


def test_another_table_is_refused(labelled_people, state, tmp_path):
    def resume(table):
        table.attrs = labelled_people.attrs
        file = tmp_path/'a.state'
        file.write_bytes(state.read_bytes())
        make(table).fit_one_cycle(2, 1e-3, cbs=SaveState(file, resume=True))
    train = labelled_people['split'] == 'train'
    worse = labelled_people.assign(quality=labelled_people['quality'].where(~train, 100 - labelled_people['quality']))
    with pytest.raises(ValueError, match=r'a\.state is of other labels: the quality of \d+ of 48 '): resume(worse)
    with pytest.raises(ValueError, match='other labels'): resume(labelled_people.assign(quality=np.nan))
    names = {o: f'{o}x' for o in labelled_people['identity'].unique()}
    with pytest.raises(ValueError, match=r'a\.state is of another table: it had 72 rows'):
        resume(labelled_people.assign(identity=labelled_people['identity'].map(names)))
    with pytest.raises(ValueError, match='this one has 71'): resume(labelled_people.iloc[:-1].copy())
    resume(labelled_people.assign(quality=labelled_people['quality']*.999))  # Computed on another device


class DealtOut:
    """As fastai's loader of several processes, which holds another one and has no generator of its own

    The real one needs a package for launches that tests do not have."""
    def __init__(self, dl): self.dl = dl
    def __getattr__(self, name):
        if name == 'rng': raise AttributeError(name)
        return getattr(vars(self)['dl'], name)
    def __iter__(self): return iter(self.dl)
    def __len__(self): return len(self.dl)


def test_loaders_of_several_processes_go_on_with_their_own_pictures(labelled_people, tmp_path):
    class Deal(Callback):
        "As `DistributedTrainer` does before a fit"
        order = 11
        def before_fit(self): self.learn.dls.loaders = [DealtOut(self.dls.train), self.dls.valid]
        def after_fit(self): self.learn.dls.loaders = [self.dls.train.dl, self.dls.valid]
    class Pictures(Callback):
        def __init__(self): self.seen = {}
        def before_batch(self):
            if self.training: self.seen.setdefault(self.epoch, []).append(self.yb[2][:, 0].tolist())
    class Stop(Callback):
        def before_train(self):
            if self.epoch == 2: raise KeyboardInterrupt
    whole,resumed,file = Pictures(),Pictures(),tmp_path/'a.state'
    make(labelled_people).fit(3, 1e-3, cbs=[Deal(), whole])
    learn = make(labelled_people)
    with pytest.raises(KeyboardInterrupt): learn.fit(3, 1e-3, cbs=[Deal(), SaveState(file), Stop()])
    make(labelled_people, seed=9).fit(3, 1e-3, cbs=[Deal(), SaveState(file, resume=True), resumed])
    assert whole.seen[0] != whole.seen[2]
    assert resumed.seen == {2: whole.seen[2]}


def test_the_loader_with_the_generator(labelled_people):
    dls = make(labelled_people).dls
    assert own_loader(dls) is dls.train
    assert isinstance(own_loader(SimpleNamespace(train=DealtOut(dls.train))), IdentityDL)
    assert own_loader(SimpleNamespace(train=[1])) == [1]
