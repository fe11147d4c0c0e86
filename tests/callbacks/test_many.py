"A fit on two processes against the fit of one with the same batches, whole, resumed and judged"
import os
import signal

import pytest
import torch
from fastai.callback.core import Callback
from fastai.torch_core import set_seed
from started import launch_function
from torch import nn

from qsd_fastai import distributed
from qsd_fastai.callbacks.centers import CenterUpdate
from qsd_fastai.callbacks.many import ManyProcesses
from qsd_fastai.callbacks.margin import MarginTuning
from qsd_fastai.callbacks.octuplet import OctupletTuning
from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.distributed import processes
from qsd_fastai.evaluation import retrieval
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.launched import joined
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import CenterLoss, RecognitionLoss
from qsd_fastai.quality import label_table


class Body(nn.Module):
    "Two levels, batch norm and dropout"
    num_features,feature_info = 8, [{'num_chs': n, 'module': k} for k,n in (('first', 6), ('second', 8))]

    def __init__(self, drop=0.):
        super().__init__()
        conv = nn.Conv2d(3, 6, 3, 2, bias=False)
        self.first = nn.Sequential(conv, nn.BatchNorm2d(6), nn.LeakyReLU(), nn.Dropout(drop))
        self.second = nn.Sequential(nn.Conv2d(6, 8, 3, 2, bias=False), nn.BatchNorm2d(8))

    def forward_features(self, x): return self.second(self.first(x))

    def forward_intermediates(self, x, indices=None, **kwargs):
        maps = [self.first(x)]
        maps.append(self.second(maps[0]))
        return maps[1], maps


class Losses(Callback):
    "The loss of each step, as the recorder has it: the mean over processes"
    order,run_valid = 60,False
    def before_fit(self): self.found = []
    def after_batch(self): self.found.append(float(self.recorder.losses[-1]) if self.recorder.losses else 0.)


def learner(table, n_ids, plain=True, cbs=(), copies=False):
    set_seed(4)
    changes = {'augment': False, 'erase': 0} if plain else {'erase': .5}
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=n_ids, n_imgs=2, seed=3, num_workers=0, bs=5,
                                  copies=copies, **changes)
    metrics,pool = Retrieval('rank1', 'mAP', 'mINP'),nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    learn = recognition_learner(dls, Body(0. if plain else .3), pool=pool, metrics=metrics, cbs=cbs)
    learn.remove_cb(learn.progress)
    return learn


class Curious(Callback):
    "Looks at a figure before anybody else, on the first process alone"
    order = 0
    def after_validate(self):
        if not processes()[0]: assert self.learn.metrics[1].value >= 0


METHODS = {'none': None, 'qsd': {}, 'balanced': {'weight': 'auto', 'stop': 'gap', 'unlabelled_as_equal': True},
           'l1': {'distance': 'l1', 'amplify': 'detached', 'map_norm': 'l2', 'tau': .5},
           'octuplet': {'octuplet': .3}, 'margin': {'head': 'adaface'}, 'copies': {'pairs': 'copies', 'stop': 0.}}
SHIFT = 'body.second.1.bias','neck.running_mean'
SAME = DegradedCopies(('blur',), (.5, .5)) # Nothing of them is drawn


class Headless(RecognitionLoss):
    "No term of identity, so that the head has no gradient"
    def __init__(self): super().__init__(identity_weight=0.)


def with_centers(table, many):
    "By the Octuplet loss, and by a loss without identities, beside centers that nothing moves"
    ends = []
    for loss,cbs in ((None, [OctupletTuning()]), (Headless(), [])):
        learn = learner(table, 2, copies=SAME if cbs else False)
        center = CenterLoss(learn.dls.c, learn.model.embed_dim, start='random')
        learn.loss_func = loss or RecognitionLoss(center=center)
        with learn.no_logging(): learn.fit(1, 1e-3, cbs=[many, *cbs, *([CenterUpdate()] if cbs else [])])
        ends.append(learn.recorder.losses[-1])
    return torch.stack(ends)


def idle_fit(rank, table, folder):
    with joined(): torch.save(with_centers(table, ManyProcesses()), folder/f'{rank}.pt')


def test_what_has_no_gradient_ends_no_fit(labelled_people, tmp_path, one_thread):
    launch_function(2, idle_fit, labelled_people, tmp_path)
    for rank in range(2): assert torch.load(tmp_path/f'{rank}.pt', weights_only=True).isfinite().all()


def method_of(octuplet=0., head='', **settings):
    if head: return MarginTuning(head)
    return OctupletTuning(octuplet) if octuplet else QualityDistillation(**settings)


def trained(table, n_ids, many, method=None):
    cbs = [] if method is None else [method_of(**method)]
    copies = any(getattr(cb, 'pairs', '') == 'copies' for cb in cbs)
    learn = learner(table, n_ids, cbs=cbs, copies=copies and SAME)
    with learn.no_logging(): learn.fit_one_cycle(2, 1e-2, cbs=many)
    return {'values': torch.tensor(list(learn.recorder.values)), 'weights': learn.model.state_dict(),
            'losses': torch.tensor([float(o) for o in learn.recorder.losses]),
            'terms': torch.tensor([list(o.values()) for o in learn.loss_terms.epochs])}


def shared_fit(rank, table, folder):
    asked,real = [],retrieval.shared_out
    def watched(jobs, do):
        asked.append(bool(distributed._together))
        return real(jobs, do)
    retrieval.shared_out = watched # In this process alone, which ends soon
    with joined():
        fits = {k: trained(table, 2, [ManyProcesses(sync_bn=True), *cbs], method) for k,method in METHODS.items()
                for cbs in [[Curious()] if k == 'qsd' else []]}
        learn,found = learner(table, 2),{'fits': fits, 'asked': asked}
        found['quality'] = torch.tensor(label_table(table, learn)['quality'].to_numpy())
        found['flipped'] = learn.embed(table, flip=True, bs=7)
        found['one'] = learn.embed(table.iloc[:1])
        found['loader'] = learn.embed(learn.dls.valid)
        torch.save(found, folder/f'{rank}.pt')


def test_two_processes_train_and_judge_as_one(labelled_people, tmp_path, one_thread):
    launch_function(2, shared_fit, labelled_people, tmp_path)
    found = [torch.load(tmp_path/f'{rank}.pt', weights_only=True) for rank in range(2)]
    for o in found: assert o['asked'].count(True) == 2*len(METHODS) # A search an epoch, shared out
    assert [o['asked'].count(False) for o in found] == [2, 0] # And what is asked by one process, by it alone
    for method,settings in METHODS.items():
        alone,fits = trained(labelled_people, 4, None, settings),[o['fits'][method] for o in found]
        assert len(alone['losses']) > 4
        for o in fits:
            for k in ('losses', 'terms'):
                said = f'{method}, {k}: {o[k].tolist()}, alone {alone[k].tolist()}'
                torch.testing.assert_close(o[k], alone[k], rtol=5e-4, atol=1e-5, msg=said)
            for k,v in alone['weights'].items():
                # where only embeddings count the neck takes a shift out again: rounding, of which Adam makes steps
                if k in SHIFT and method in ('none', 'octuplet', 'margin'): continue
                torch.testing.assert_close(o['weights'][k], v, rtol=1e-2, atol=1e-3)
        for k,v in fits[0]['weights'].items(): assert torch.equal(v, fits[1]['weights'][k])
    learn,plain = learner(labelled_people, 2),[o['fits']['none'] for o in found]
    learn.model.load_state_dict(plain[0]['weights'])
    for o in plain: assert o['values'][-1, 1:].tolist() == pytest.approx(list(learn.validate()), abs=1e-6)
    learn = learner(labelled_people, 2)
    wanted = {'quality': torch.tensor(label_table(labelled_people, learn)['quality'].to_numpy()),
              'flipped': learn.embed(labelled_people, flip=True, bs=7), 'one': learn.embed(labelled_people.iloc[:1]),
              'loader': learn.embed(learn.dls.valid)}
    for o in found:
        for k,v in wanted.items(): torch.testing.assert_close(o[k], v, rtol=0, atol=0, equal_nan=True)


class Kill(Callback):
    "SIGKILL in the second epoch"
    order = 70
    def before_batch(self):
        if self.epoch == 1 and self.iter == 1: os.kill(os.getpid(), signal.SIGKILL)


def teaching():
    "All that a fit of many processes may have of its own in each"
    return QualityDistillation('auto', teacher='ema', decay=.8)


def killed_fit(rank, table, folder):
    with joined():
        learn = learner(table, 2, plain=False, cbs=[teaching()])
        learn.fit(3, 1e-2, cbs=[ManyProcesses(), SaveState(folder/'run.state'), *([Kill()] if rank else [])])


def resumed_fit(rank, table, folder):
    with joined():
        for name,resume in (('run', True), ('whole', False)):
            learn = learner(table, 2, plain=False, cbs=[teaching()])
            file = folder/f'{name}.state'
            learn.fit(3, 1e-2, cbs=[ManyProcesses(), SaveState(file, resume=resume)])
            torch.save((learn.model.state_dict(), torch.rand(3)), folder/f'{name}{rank}.pt')


def test_resumed_after_a_kill_the_weights_are_the_uninterrupted_ones_bit_for_bit(labelled_people, tmp_path, capsys):
    said,_ = launch_function(2, killed_fit, labelled_people, tmp_path, codes=[1, -signal.SIGKILL])
    assert 'peer' in said
    kept = torch.load(tmp_path/'run.state', weights_only=True)
    assert (len(kept['values']), kept['processes'], len(kept['others'])) == (1, 2, 1)
    (tmp_path/'one.state').write_bytes((tmp_path/'run.state').read_bytes())
    said,_ = launch_function(2, resumed_fit, labelled_people, tmp_path)
    assert 'Resuming after epoch 1 of 3' in said
    (resumed, drawn),(whole, wanted) = (torch.load(tmp_path/f'{o}1.pt', weights_only=True) for o in ('run', 'whole'))
    assert torch.equal(drawn, wanted)
    for k,v in whole.items(): assert torch.equal(v, resumed[k]), k
    first,drawn = torch.load(tmp_path/'whole0.pt', weights_only=True)
    assert not torch.equal(drawn, wanted) # Each process draws otherwise
    for k,v in first.items(): assert torch.equal(v, whole[k]), k

    learn = learner(labelled_people, 2, plain=False, cbs=[teaching()])
    learn.fit(3, 1e-2, cbs=SaveState(tmp_path/'one.state', resume=True))
    assert 'is of 2 processes, and 1 go on' in capsys.readouterr().out
    assert len(learn.recorder.values) == 3
    with pytest.raises(ValueError, match='on 2 processes, this one has'):
        learner(labelled_people, 3, plain=False).fit(3, 1e-2, cbs=SaveState(tmp_path/'whole.state', resume=True))
    # one process with batches as those of both together
    learner(labelled_people, 4, plain=False).fit(3, 1e-2, cbs=SaveState(tmp_path/'whole.state', resume=True))
    assert 'All 3 epochs were done' in capsys.readouterr().out
