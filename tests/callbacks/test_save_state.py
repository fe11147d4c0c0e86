"A run that was stopped and gone on with against the same run left alone: bit for bit"
import multiprocessing
import os
import pickle
import random
import shutil
import signal
import sys
from copy import deepcopy
from datetime import timedelta
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
import torch
import torch.distributed as dist
from fastai.callback.core import Callback
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.learner import load_learner
from fastai.torch_core import set_seed

from qsd_fastai.callbacks.centers import CenterUpdate
from qsd_fastai.callbacks.save_state import SaveState, random_state, set_random_state
from qsd_fastai.callbacks.track_run import TrackRun
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import CenterLoss, RecognitionLoss
from qsd_fastai.models.heads.margins import AdaFace
from qsd_fastai.models.heads.partial_fc import PartialFC, whole_state_dict

pytestmark = [pytest.mark.filterwarnings('ignore::UserWarning'), pytest.mark.usefixtures('one_thread', 'on_cpu')]


class StopAt(Callback):
    "Ctrl-C in the middle of an epoch, counted from 0"
    order = 90

    def __init__(self, epoch, event='after_batch'): self.epoch_to_stop,self.event = epoch,event

    def stop(self, event):
        if self.epoch == self.epoch_to_stop and self.event == event: raise KeyboardInterrupt

    def after_batch(self):
        if self.training and self.iter == 1: self.stop('after_batch')

    def before_validate(self): self.stop('before_validate')


def make(table, workers=0, arch='test_resnet', cbs=None, seed=3, n_ids=4, path=None, **kwargs):
    set_seed(seed)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=n_ids, n_imgs=3, seed=1, num_workers=workers,
                                  device='cpu')
    learn = recognition_learner(dls, arch, metrics=Retrieval('mAP', 'mINP'), cbs=cbs, path=path, **kwargs)
    learn.remove_cb(learn.progress)
    return learn


def equal_states(a, b):
    assert a.keys() == b.keys()
    for k,v in a.items(): assert torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k], k


def same(a, b):
    "Weights, statistics of the optimizer, and all that the run has written down"
    equal_states(a.model.state_dict(), b.model.state_dict())
    one,two = a.opt.state_dict(),b.opt.state_dict()
    assert one['hypers'] == two['hypers']
    for p,q in zip(one['state'], two['state']): equal_states(p, q)
    assert a.recorder.values == b.recorder.values
    assert a.recorder.lrs == b.recorder.lrs
    assert a.recorder.iters == b.recorder.iters
    assert [float(v) for v in a.recorder.losses] == [float(v) for v in b.recorder.losses]
    assert a.loss_terms.epochs == b.loss_terms.epochs
    if hasattr(a.recorder, 'hps'): assert a.recorder.hps == b.recorder.hps
    assert a.train_iter == b.train_iter


def fit(learn, *cbs): learn.fit_one_cycle(4, slice(1e-4, 2e-3), cbs=[QualityDistillation(), *cbs])


@pytest.fixture(scope='module')
def whole(labelled_people, one_thread):
    "The run that nobody stops"
    learn = make(labelled_people)
    fit(learn)
    return learn


@pytest.mark.parametrize('stop', [StopAt(1), StopAt(2, 'before_validate'), StopAt(3)],
                         ids=['training 2', 'validation 3', 'training 4'])
def test_after_ctrl_c_it_goes_on_bit_for_bit(labelled_people, whole, stop, tmp_path, capsys):
    file = tmp_path/'kept'/'run.state'
    with pytest.raises(KeyboardInterrupt): fit(make(labelled_people), SaveState(file), stop)
    assert [o.name for o in file.parent.iterdir()] == ['run.state']
    # the epoch that was interrupted is not in the state
    assert len(torch.load(file, weights_only=True)['values']) == stop.epoch_to_stop
    capsys.readouterr()
    learn = make(labelled_people, seed=9)  # other weights, other generators: all that counts comes from the file
    fit(learn, SaveState(file, resume=True))
    said = capsys.readouterr().out
    assert f'Resuming after epoch {stop.epoch_to_stop} of 4' in said
    assert [line for line in said.splitlines() if line.startswith('[0, ')]  # the rows that were done are printed again
    same(whole, learn)


def test_with_worker_processes(labelled_people, tmp_path):
    left_alone = make(labelled_people, workers=2)
    left_alone.fit_one_cycle(2, 1e-3)
    learn = make(labelled_people, workers=2)
    with pytest.raises(KeyboardInterrupt): learn.fit_one_cycle(2, 1e-3, cbs=[SaveState(tmp_path/'s'), StopAt(1)])
    learn = make(labelled_people, workers=2, seed=9)
    learn.fit_one_cycle(2, 1e-3, cbs=SaveState(tmp_path/'s', resume=True))
    same(left_alone, learn)


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='the child is a fork')
def test_after_a_kill_it_goes_on_bit_for_bit(labelled_people, whole, tmp_path):
    class Wait(Callback):
        "In the third epoch, until the kill"
        def before_validate(self):
            if self.epoch < 2: return
            theirs.send('there')
            theirs.recv()
    file = tmp_path/'run.state'
    ours,theirs = multiprocessing.Pipe()
    # the learner is made in the child: Python seeds `random` anew when it forks
    def child(): fit(make(labelled_people), SaveState(file), Wait())
    going = multiprocessing.get_context('fork').Process(target=child)
    going.start()
    theirs.close()
    assert ours.recv() == 'there'
    going.kill()
    going.join(60)
    assert going.exitcode == -signal.SIGKILL
    assert len(torch.load(file, weights_only=True)['values']) == 2
    learn = make(labelled_people, seed=9)
    fit(learn, SaveState(file, resume=True))
    same(whole, learn)


def test_a_complete_run_is_only_repeated(labelled_people, whole, tmp_path, capsys):
    first = make(labelled_people)
    fit(first, SaveState(tmp_path/'s'))
    same(whole, first)  # keeping a state changes nothing
    learn = make(labelled_people, seed=9)
    before = (tmp_path/'s').stat().st_mtime_ns
    class Never(Callback):
        def before_train(self): raise AssertionError('trained')
    capsys.readouterr()
    fit(learn, SaveState(tmp_path/'s', resume=True), Never())
    said = capsys.readouterr().out
    assert 'All 4 epochs were done' in said
    assert sum(line.startswith('[') for line in said.splitlines()) == 4
    assert (tmp_path/'s').stat().st_mtime_ns == before
    same(whole, learn)


def test_fine_tune_is_one_run_in_two_parts(labelled_people, tmp_path):
    left_alone = make(labelled_people)
    left_alone.fine_tune(2, 1e-3)
    for part,stop in ((1, StopAt(0)), (2, StopAt(1))):
        file = tmp_path/f's{part}'
        learn = make(labelled_people)
        # the first epoch of fine_tune is a fit by itself; it must not be taken for the first epoch of the second
        class Later(StopAt):
            def before_fit(self): self.fits = getattr(self, 'fits', 0) + 1
            def stop(self, event):
                if self.fits == 2: super().stop(event)
        stop = Later(stop.epoch_to_stop)
        with pytest.raises(KeyboardInterrupt): learn.fine_tune(2, 1e-3, cbs=[SaveState(file), stop])
        learn = make(labelled_people, seed=9)
        learn.fine_tune(2, 1e-3, cbs=SaveState(file, resume=True))
        same(left_alone, learn)


def test_best_model_and_rates_on_a_plateau(labelled_people, tmp_path):
    "Callbacks that watch the rows of the table decide as if the run had not been stopped"
    def trackers(): return [SaveModelCallback('mAP', fname='best'), ReduceLROnPlateau('mAP', patience=1, factor=2.)]
    left_alone = make(labelled_people, path=tmp_path/'a')
    left_alone.fit(4, 1e-3, cbs=trackers())
    for epoch in (1, 3):
        folder = tmp_path/f'b{epoch}'
        with pytest.raises(KeyboardInterrupt):
            make(labelled_people, path=folder).fit(4, 1e-3, cbs=[*trackers(), SaveState(folder/'s'), StopAt(epoch)])
        learn = make(labelled_people, path=folder, seed=9)
        learn.fit(4, 1e-3, cbs=[*trackers(), SaveState(folder/'s', resume=True)])
        same(left_alone, learn)
        equal_states(*(torch.load(o/'models'/'best.pth', weights_only=True) for o in (tmp_path/'a', folder)))
        assert 'save' not in vars(learn)


def test_early_stopping(labelled_people, tmp_path):
    stopper = lambda: EarlyStoppingCallback('mAP', min_delta=1., patience=2)
    left_alone = make(labelled_people)
    left_alone.fit(5, 1e-3, cbs=stopper())
    learn = make(labelled_people)
    learn.fit(5, 1e-3, cbs=[stopper(), SaveState(tmp_path/'s')])
    assert len(learn.recorder.values) == 3
    learn = make(labelled_people, seed=9)
    learn.fit(5, 1e-3, cbs=[stopper(), SaveState(tmp_path/'s', resume=True)])
    same(left_alone, learn)


def test_scaler(labelled_people, tmp_path):
    "Mixed precision's scale goes on from where it was"
    class Scaler(Callback):
        order = 10
        def before_fit(self): self.learn.scaler = torch.amp.GradScaler('cpu', init_scale=2.**4, growth_interval=3)
        def before_backward(self): self.learn.loss_grad = self.scaler.scale(self.loss_grad)
        def before_step(self):
            self.scaler.unscale_(self)
            self.scaler.step(self)
        def after_step(self): self.learn.scaler.update()
        def after_fit(self): self.seen = self.scaler.state_dict()
        @property
        def param_groups(self): return self.opt.param_groups
        def step(self): pass
    def run(*cbs, seed=3):
        learn,scaler = make(labelled_people, seed=seed),Scaler()
        learn.fit(3, 1e-3, cbs=[scaler, *cbs])
        return learn,scaler.seen
    left_alone,seen = run()
    assert seen['scale'] > 16
    with pytest.raises(KeyboardInterrupt): run(SaveState(tmp_path/'s'), StopAt(2))
    learn,again = run(SaveState(tmp_path/'s', resume=True), seed=9)
    assert seen == again
    same(left_alone, learn)


def test_other_runs_are_refused(labelled_people, tmp_path):
    file = tmp_path/'s'
    def resume(n=1, **kwargs): make(labelled_people, **kwargs).fit(n, 1e-3, cbs=SaveState(file, resume=True))
    make(labelled_people).fit(1, 1e-3, cbs=SaveState(file))
    with pytest.raises(ValueError, match='1 epochs, this one has 2'): resume(2)
    with pytest.raises(ValueError, match='batches an epoch'): resume(n_ids=2)
    with pytest.raises(ValueError, match='of another model'): resume(arch='resnet10t')
    with pytest.raises(ValueError, match='of another model'): resume(splitter=lambda model: [list(model.parameters())])
    for part in (file.read_bytes()[:-2000], b''):
        file.write_bytes(part)
        with pytest.raises(ValueError, match='cannot be read'): resume()
    torch.save({'model': {}}, file)
    with pytest.raises(ValueError, match='not the state of a run'): resume()


def test_half_a_state_is_never_read(labelled_people, tmp_path, monkeypatch):
    "Whatever a run that was killed while it wrote has left there: without a whole file it is a fresh start"
    file,parts = tmp_path/'s',[]
    def killed(obj, f):
        f.write(b'half')
        parts.append(Path(f.name))
        raise KeyboardInterrupt
    monkeypatch.setattr(torch, 'save', killed)
    with pytest.raises(KeyboardInterrupt): make(labelled_people).fit(1, 1e-3, cbs=SaveState(file))
    monkeypatch.undo()
    assert not file.exists()
    parts[0].write_bytes(b'half')  # a kill, unlike Ctrl-C, would not have removed it
    make(labelled_people).fit(1, 1e-3, cbs=SaveState(file, resume=True))
    assert len(torch.load(file, weights_only=True)['values']) == 1


def test_without_resume_an_old_state_is_removed(labelled_people, tmp_path):
    "Else a run that is stopped in its first epoch would later go on from another one's state"
    file = tmp_path/'s'
    make(labelled_people).fit(1, 1e-3, cbs=SaveState(file))
    with pytest.raises(KeyboardInterrupt): make(labelled_people).fit(1, 1e-3, cbs=[SaveState(file), StopAt(0)])
    assert not file.exists()


def test_only_fits_are_kept(labelled_people, tmp_path):
    "validate, get_preds and lr_find leave the state alone, also when it is the learner's own"
    state = SaveState(tmp_path/'s')
    learn = make(labelled_people, cbs=state, path=tmp_path)
    def others():
        learn.validate()
        learn.get_preds()
        learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)
        learn.embed(labelled_people[:3])
    others()
    assert not (tmp_path/'s').exists()
    assert state.fits == 0
    learn.fit(1, 1e-3)
    before = (tmp_path/'s').read_bytes()
    others()
    assert (tmp_path/'s').read_bytes() == before
    # an error in lr_find switches nothing off
    with pytest.raises(KeyboardInterrupt), learn.added_cbs(StopAt(0)):
        learn.lr_find(num_it=5, show_plot=False, suggest_funcs=None)
    learn.fit(1, 1e-3)
    assert (tmp_path/'s').read_bytes() != before
    assert state.fits == 2
    learn.export('x.pkl')
    with pytest.warns(UserWarning, match='pickle'): assert load_learner(tmp_path/'x.pkl').save_state.fits == 2


def test_a_resumed_learner_exports_no_state(labelled_people, tmp_path):
    make(labelled_people).fit(1, 1e-3, cbs=SaveState(tmp_path/'s'))
    learn = make(labelled_people, cbs=SaveState(tmp_path/'s', resume=True))
    learn.fit(1, 1e-3)
    assert len(pickle.dumps({k: v for k,v in vars(learn.save_state).items() if k != 'learn'})) < 4000


def test_random_state():
    set_seed(0)
    draw = lambda: (random.random(), np.random.rand(), np.random.randn(), torch.rand(1).item())
    draw()  # leaves half of a pair of normal numbers behind
    state = random_state()
    first = draw(), draw()
    set_random_state(state)
    assert (draw(), draw()) == first


def partial_fc(table, rate=.6, seed=3):
    "A learner with sampled centers, and with margins that keep statistics"
    return make(table, seed=seed, head=partial(PartialFC, margin=partial(AdaFace, s=16.), rate=rate))


def test_sampled_centers_go_on_bit_for_bit(labelled_people, tmp_path):
    left_alone = partial_fc(labelled_people)
    left_alone.fit_one_cycle(3, 1e-2)
    learn,file = partial_fc(labelled_people),tmp_path/'s'
    with pytest.raises(KeyboardInterrupt): learn.fit_one_cycle(3, 1e-2, cbs=[SaveState(file), StopAt(2)])
    learn = partial_fc(labelled_people, seed=9)
    learn.fit_one_cycle(3, 1e-2, cbs=SaveState(file, resume=True))
    same(left_alone, learn)
    assert int(learn.model.head.step) > 3
    assert learn.model.head.momentum.abs().sum() > 0


class Averaged(Callback):
    "What distributed training does with gradients, without its loaders: each process has a batch of its own"
    order = 1

    def before_step(self):
        for p in self.learn.model.parameters():
            if p.grad is not None:
                dist.all_reduce(p.grad)
                p.grad /= dist.get_world_size()


class KeepLoaded(Callback):
    "The weights that an epoch starts with"
    order = 90

    def before_train(self):
        if not hasattr(self, 'state'): self.state = deepcopy(whole_state_dict(self.learn.model))


def share_centers(rank, folder, table):
    "One of two processes: a run that is stopped, another one that goes on, and one more of what `TrackRun` keeps"
    torch.set_num_threads(1)
    os.environ |= {'RANK': str(rank), 'WORLD_SIZE': '2', 'WANDB_MODE': 'offline'}
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2,
                            timeout=timedelta(seconds=60))
    file,learn = Path(folder)/'run.state',partial_fc(table)
    with pytest.raises(KeyboardInterrupt): learn.fit(2, 1e-2, cbs=[SaveState(file), Averaged(), StopAt(1)])
    if rank == 0: shutil.copy(file, Path(folder)/'stopped.state')
    rows = len(learn.model.head.weight)
    loaded,loaded_as = partial_fc(table, seed=9),KeepLoaded()
    track = TrackRun(dir=folder, hardest=1, log_table=False)
    with patch.object(torch, 'save', wraps=torch.save) as save:
        loaded.fit(2, 1e-2, cbs=[SaveState(file, resume=True), Averaged(), loaded_as, track])
    logged = [o.args[0] for o in save.call_args_list if str(o.args[1]).endswith('model.pth')]
    state = whole_state_dict(loaded.model)
    torch.save({'rows': rows, 'loaded': loaded_as.state, 'logged': logged, 'after': state}, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


@pytest.mark.skipif(sys.platform == 'win32' or not dist.is_available(), reason='gloo over a file')
def test_centers_of_two_processes_are_resumed_by_two_and_by_one(labelled_people, tmp_path):
    torch.multiprocessing.spawn(share_centers, (str(tmp_path), labelled_people), nprocs=2)
    first,second = (torch.load(tmp_path/f'{rank}.pt', weights_only=True) for rank in range(2))
    state = torch.load(tmp_path/'run.state', weights_only=True)
    n_ids = labelled_people.loc[labelled_people['split'] == 'train', 'identity'].nunique()
    assert [first['rows'], second['rows']] == [n_ids//2]*2
    assert state['model']['head.weight'].shape[0] == n_ids
    assert second['loaded'] is None
    assert second['logged'] == []
    assert len(first['logged']) == 1
    assert torch.equal(first['logged'][0]['head.weight'], first['after']['head.weight'])
    equal_states(first['after'], state['model'])
    assert not torch.equal(first['loaded']['head.weight'], first['after']['head.weight'])
    stopped = torch.load(tmp_path/'stopped.state', weights_only=True)['model']
    alone = KeepLoaded()
    partial_fc(labelled_people, seed=9).fit(2, 1e-2, cbs=[SaveState(tmp_path/'stopped.state', resume=True), alone])
    for found in (first['loaded'], alone.state): equal_states(stopped, found)


@pytest.mark.parametrize('center', [False, True])
def test_defect_18_every_epoch_is_judged_and_kept_with_and_without_centers(labelled_people, tmp_path, center):
    "The published checkpoint needs centers, keeps ten files, and judges every fifth epoch whatever is asked for"
    cbs,loss = (CenterUpdate(),) if center else (),RecognitionLoss(center=CenterLoss(8, 96)) if center else None
    def learner(seed=3): return make(labelled_people, seed=seed, cbs=list(cbs), loss=deepcopy(loss))
    seen,file = [],tmp_path/'kept'/'a.state'
    class Look(Callback):
        order = SaveState.order + 1
        def after_epoch(self):
            kept = torch.load(file, weights_only=True)
            files = [o.name for o in file.parent.iterdir()]
            seen.append((len(kept['values']), 'center.centers' in kept['model'], files))
            assert all(v == v for v in kept['values'][-1])
    left_alone = learner()
    left_alone.fit(3, 1e-3, cbs=[SaveState(file), Look()])
    assert seen == [(k, center, ['a.state']) for k in (1, 2, 3)]
    with pytest.raises(KeyboardInterrupt): learner().fit(3, 1e-3, cbs=[SaveState(file), StopAt(2)])
    learn = learner(seed=9)
    learn.fit(3, 1e-3, cbs=SaveState(file, resume=True))
    same(left_alone, learn)
