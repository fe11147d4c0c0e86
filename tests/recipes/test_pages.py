"What a recipe that trains does, step by step: from which weights, on which labels, by which schedule, judged how"
import inspect
import sys
from functools import wraps
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.tracker import TrackerCallback
from fastai.optimizer import Adam
from torch import nn

from qsd_fastai import stages
from qsd_fastai.arms import ARMS
from qsd_fastai.callbacks.centers import CenterUpdate
from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.callbacks.track_run import TrackRun
from qsd_fastai.data.transforms import CropFlip, FaceAugment
from qsd_fastai.distillation import PRESETS, QualityDistillation
from qsd_fastai.judging.judgement import Judgement
from qsd_fastai.losses import CenterLoss, WeightedRegularizedTriplet
from qsd_fastai.runs.no_run import NoRun

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT/'recipes'))
import compare  # noqa: E402
import face  # noqa: E402
import reid  # noqa: E402
import reid_agw  # noqa: E402

ALL = ','.join(ARMS)
SEED = 3
common = {'n_ids': 5, 'n_imgs': 3, 'weight': .5, 'arms': ALL, 'seed': SEED, 'workers': 0}


class Net(nn.Module):
    "Stands for a network: what training does to it is told by its weights"
    def __init__(self):
        super().__init__()
        self.body,self.head = nn.Linear(2, 2),nn.Linear(2, 2)

    def to(self, *args, **kwargs): return self


class Learner:
    "Stands for a learner: remembers what it was made with, and what its fits began with"
    made = []

    def __init__(self, dls, arch, head=None, **kwargs):
        self.dls,self.arch,self.head,self.kwargs,self.fits,self.model = dls,arch,head,kwargs,[],Net()
        self.first = weights(self)
        Learner.made.append(self)

    def fit_one_cycle(self, epochs, lr, **kwargs): self._fit('one cycle', epochs, lr, **kwargs)
    def fit(self, epochs, lr, **kwargs): self._fit('plain', epochs, lr, **kwargs)

    def _fit(self, how, epochs, lr, cbs, wd=None):
        kinds = {type(cb): cb for cb in cbs}
        self.fits.append(SimpleNamespace(how=how, epochs=epochs, lr=lr, wd=wd, cbs=kinds, start=weights(self)))
        if CenterUpdate in kinds: self.model.center = nn.Linear(2, 2)  # as `CenterUpdate` does
        with torch.no_grad():
            for p in self.model.parameters(): p += torch.rand(p.shape) + epochs

    def export(self, file): file.write_bytes(b'learner')


def weights(learn):
    kept = {k: v for k,v in learn.model.state_dict().items() if not k.startswith('center.')}
    return torch.cat([v.flatten() for v in kept.values()]).clone()


@pytest.fixture
def seen(monkeypatch, labelled_people, tmp_path):
    "A recipe's page with nothing in it that takes time: what was called, in order"
    Learner.made,calls = [],SimpleNamespace(labels=[], judged=[], rehearsed=[], pairs=[], bodies=[], imprinted=[])
    calls.table,calls.out = labelled_people,tmp_path/'r'
    calls.data = str(Path(labelled_people.attrs['root'])/'labelled.csv')

    def label_table(table, learn, seed):
        calls.labels.append((table, learn, weights(learn), seed))
        rng = np.random.default_rng(seed)
        return table.assign(quality=rng.uniform(0, 100, len(table)))

    def judge_held_out(learn, table, figures, by='', cameras=True, flip=False, degraded=False):
        calls.judged.append(SimpleNamespace(learn=learn, weights=weights(learn), table=table, figures=figures, by=by,
                                            cameras=cameras, flip=flip))
        return Judgement({'mAP': .1*len(calls.judged)}, {})

    class PairSets:
        def __init__(self, *args): self.args = args
        def check(self, degraded): return self
        def metrics(self): return 'of the pairs'
        def judge(self, learn, seed, labelled):
            calls.pairs.append((learn, seed, self.args))
            return Judgement({'pairs accuracy': .5}, {})

    def imprint_head(learn, table): calls.imprinted.append((learn, weights(learn), table))
    def make_body(*args, **kwargs):
        calls.bodies.append((args, kwargs))
        return 'body'
    run = NoRun()
    monkeypatch.setattr(stages, 'start_run', lambda **kwargs: run)
    monkeypatch.setattr(stages, 'finish_run', lambda *args, **kwargs: None)
    for page in (reid, reid_agw, face):
        monkeypatch.setattr(page, 'recognition_dataloaders', lambda table, **kwargs: SimpleNamespace(
            table=table, kwargs=kwargs, c=8, device='cpu'))
        monkeypatch.setattr(page, 'recognition_learner', Learner)
        monkeypatch.setattr(page, 'label_table', label_table)
        monkeypatch.setattr(page, 'judge_held_out', judge_held_out)
        monkeypatch.setattr(page, 'rehearse', lambda *args: calls.rehearsed.append(args))
    for name,stub in (('PairSets', PairSets), ('imprint_head', imprint_head), ('make_body', make_body),
                      ('make_head', lambda *args: args), ('stats_of', lambda body: f'stats of {body}')):
        monkeypatch.setattr(face, name, stub)
    return calls


def check_arms(seen, results, epochs, lr, tune_epochs, tune_lr, pairs, map_norm='none'):
    "What all recipes have in common: one baseline, its labels, and fine-tunings that differ in the method alone"
    baseline,*tuned = Learner.made
    arms = list(ARMS.values())
    assert results.index.tolist() == ['baseline', *(o.title for o in arms)]
    assert len(tuned) == len(arms)
    assert baseline.dls.table['quality'].isna().all()
    torch.manual_seed(SEED)
    for learn in Learner.made: assert torch.equal(learn.first, baseline.first) # Every stage has the same seed
    assert torch.equal(Net().body.weight.flatten(), baseline.first[:4])

    (table, labeller, at, seed), = seen.labels
    assert labeller is baseline
    assert seed == SEED
    pd.testing.assert_frame_equal(table, seen.table)
    ends = [torch.as_tensor(weights(o)) for o in Learner.made]
    assert torch.equal(at, ends[0])
    labels = np.random.default_rng(SEED).uniform(0, 100, len(table))
    labelled = table.assign(quality=labels)

    if epochs:
        fit, = baseline.fits
        assert (fit.epochs, fit.lr) == (epochs, lr)
        assert torch.equal(fit.start, baseline.first)
        assert QualityDistillation not in fit.cbs
    else: assert not baseline.fits
    for arm,learn in zip(arms, tuned):
        pd.testing.assert_frame_equal(learn.dls.table, arm.table(labelled, SEED))
        fit, = learn.fits
        assert torch.equal(fit.start, ends[0]), f'{arm.title} does not go on from the baseline'
        assert torch.equal(fit.start, learn.first) == (not epochs)
        assert (fit.epochs, fit.lr) == (tune_epochs, tune_lr)
        assert learn.dls.kwargs['partners'] == ((arm.pairs or pairs) == 'partner')
        assert learn.dls.kwargs['copies'] == (arm.pairs == 'copies')
        if arm.peer: assert arm.peer in fit.cbs
        assert (QualityDistillation in fit.cbs) == (arm.pairs != 'none' and arm.peer is None)
        if QualityDistillation not in fit.cbs: continue
        method,asked = fit.cbs[QualityDistillation],arm.settings
        asked = {**PRESETS[asked.get('preset', 'batch')], **asked}
        wanted = .5*asked['weight'], arm.pairs or pairs, asked['forward']
        assert (method.weight, method.pairs, method.forward) == wanted
        qsd = method.qsd
        maps = arm.settings.get('map_norm', map_norm)
        assert (qsd.tau, qsd.amplify, qsd.map_norm, qsd.distance) == (asked['tau'], 'reference', maps, 'l2')
        assert method.level_weights == asked.get('level_weights')
    for learn in Learner.made:
        # the last weights are judged: none is chosen by what it is judged on
        for fit in learn.fits:
            assert not any(issubclass(kind, TrackerCallback) for kind in fit.cbs)
            assert fit.cbs[SaveState].file.name == stages.stage_file(results.index[Learner.made.index(learn)], '.state')
            assert TrackRun in fit.cbs
    assert [o.learn for o in seen.judged] == Learner.made
    for judged,end in zip(seen.judged, ends): assert torch.equal(judged.weights, end)

    (learner, judge, table, methods), = seen.rehearsed
    assert table['quality'].isna().all()
    assert [type(o) for o in methods] == [type(o.method()) for o in arms]
    made = len(Learner.made)
    assert learner(table, list(methods)[1]) is Learner.made[made]
    judge(Learner.made.pop())
    seen.judged.pop()
    return baseline,tuned,labelled


def check_loaders(learn, **wanted):
    assert {k: learn.dls.kwargs[k] for k in wanted} == wanted


@pytest.mark.parametrize('pairs', ['batch', 'partner'])
def test_reid(seen, pairs):
    results = reid.main(data=seen.data, out=seen.out, arch='resnet18', pretrained=True, last_stride=1, height=40,
                        width=24, erase=.25, epochs=7, lr=.02, tune_epochs=2, tune_lr=.004, pairs=pairs, **common)
    baseline,tuned,labelled = check_arms(seen, results, 7, .02, 2, .004, pairs)
    for learn in (baseline, *tuned):
        check_loaders(learn, size=(40, 24), n_ids=5, n_imgs=3, erase=.25, seed=SEED, num_workers=0)
        assert learn.arch == 'resnet18'
        assert (learn.kwargs['pretrained'], learn.kwargs['last_stride']) == (True, 1)
        assert all(fit.how == 'one cycle' for fit in learn.fits)
        names = {m.name for m in learn.kwargs['metrics']}
        assert {'rank1', 'mAP', 'mINP', 'mAP_worst', 'mAP_middle', 'mAP_best'} == names
    for judged in seen.judged:
        assert judged.figures == ('rank1', 'mAP', 'mINP')
        assert judged.by == 'true_quality'
        assert judged.cameras
        pd.testing.assert_frame_equal(judged.table, labelled)


def published_rate(epoch, steps):
    "Of the full rate, epochs counted from 1: a warm-up over ten epochs from a hundredth, and a tenth at each step"
    warm = min(1., .01*(1 - epoch/10) + epoch/10)
    return warm*.1**sum(epoch >= step for step in steps)


def test_reid_agw(seen):
    defaults = {k: o.default for k,o in inspect.signature(reid_agw.main).parameters.items()}
    published = {'height': 256, 'width': 128, 'n_ids': 16, 'n_imgs': 4, 'erase': .5, 'epochs': 120, 'lr': 3.5e-4,
                 'tune_epochs': 90, 'tune_lr': 3.5e-6, 'weight': 1., 'pairs': 'partner', 'arms': 'without,with'}
    assert {k: defaults[k] for k in published} == published
    results = reid_agw.main(data=seen.data, out=seen.out, pretrained=True, height=40, width=24, erase=.25, **common)
    baseline,tuned,labelled = check_arms(seen, results, 120, 3.5e-4, 90, 3.5e-6, 'partner')
    for learn in (baseline, *tuned):
        check_loaders(learn, size=(40, 24), n_ids=5, n_imgs=3, erase=.25, seed=SEED, num_workers=0)
        assert learn.arch == 'agw_resnet50'
        assert learn.kwargs['pretrained']
        loss,opt_func = learn.kwargs['loss'],learn.kwargs['opt_func']
        assert type(loss.triplet) is WeightedRegularizedTriplet
        assert type(loss.center) is CenterLoss
        assert loss.center.centers.shape == (8, 2048)
        assert loss.weights == {'identity': 1., 'triplet': 1., 'center': 5e-4}
        # L2 decay on every parameter, batch norm too
        assert (opt_func.func, opt_func.keywords) == (Adam, {'decouple_wd': False})
        assert learn.kwargs['wd_bn_bias'] is True
        assert {m.name for m in learn.kwargs['metrics']} == {'rank1', 'mAP', 'mINP'}
        fit, = learn.fits
        assert (fit.how, fit.wd) == ('plain', 5e-4)
        assert fit.cbs[CenterUpdate].lr == .5
        schedule = next(cb for kind,cb in fit.cbs.items() if kind.__name__ == 'ParamScheduler').scheds
        steps = (40, 70) if learn is baseline else (50, 90)
        wanted = [fit.lr*published_rate(epoch, steps) for epoch in range(1, fit.epochs + 1)]
        np.testing.assert_allclose([schedule['lr'](k/fit.epochs) for k in range(fit.epochs)], wanted, rtol=1e-9)
        assert list(schedule) == ['lr']
    for judged in seen.judged:
        assert (judged.figures, judged.by, judged.cameras) == (('rank1', 'mAP', 'mINP'), 'true_quality', True)
        pd.testing.assert_frame_equal(judged.table, labelled)


@pytest.mark.parametrize('weights_file, epochs', [('', 7), ('body.pt', 7), ('body.pt', 0)])
def test_face(seen, weights_file, epochs):
    results = face.main(seen.data, sets='a/pairs.csv', out=seen.out, arch='iresnet18', weights=weights_file,
                        head='cosface', scale=48., rate=.5, size=40, by='picture', max_imgs=100, augment='face',
                        epochs=epochs, lr=.02, tune_epochs=2, tune_lr=.004, pairs='partner', map_norm='l2', far=.05,
                        flip=True, **common)
    baseline,tuned,labelled = check_arms(seen, results, epochs, .02, 2, .004, 'partner', 'l2')
    for learn in (baseline, *tuned):
        check_loaders(learn, size=(40, 40), n_ids=5, n_imgs=3, by='picture', erase=0, seed=SEED, num_workers=0,
                      stats='stats of body')
        flip,degrade = learn.dls.kwargs['augment']
        assert (type(flip), flip.pad, type(degrade)) == (CropFlip, 0, FaceAugment)
        assert (learn.arch, learn.head) == ('body', ('cosface', 48., .5))
        assert learn.kwargs['metrics'] == 'of the pairs'
        assert all(fit.how == 'one cycle' for fit in learn.fits)
    assert set(map(str, seen.bodies)) == {str((('iresnet18', weights_file or False), {'size': (40, 40)}))}
    if weights_file:
        (learn, at, table), = seen.imprinted
        assert learn is baseline
        assert torch.equal(at, baseline.first)
        pd.testing.assert_frame_equal(table, seen.table)
    else: assert not seen.imprinted
    assert [o[0] for o in seen.pairs[:len(Learner.made)]] == Learner.made
    for _,seed,(table, *args) in seen.pairs:
        assert (seed, args) == (SEED, ['a/pairs.csv', .05, True])
        pd.testing.assert_frame_equal(table, seen.table)
    for judged in seen.judged:
        assert judged.figures == ('rank1', 'rank5', 'rank20', 'mAP')
        assert (judged.cameras, judged.flip, judged.by) == (False, True, 'true_quality')
        pd.testing.assert_frame_equal(judged.table, labelled)


@pytest.mark.parametrize('augment, kinds', [('flip', [CropFlip]), ('face', [CropFlip, FaceAugment]), ('shift', True)])
def test_face_changes_pictures_as_asked(seen, augment, kinds):
    face.main(seen.data, out=seen.out, augment=augment, min_imgs=2, max_imgs=3, **common)
    found = Learner.made[0].dls.kwargs['augment']
    assert (found if kinds is True else [type(o) for o in found]) == kinds
    trained = Learner.made[0].dls.table
    assert (trained.loc[trained['split'] == 'train', 'identity'].value_counts() == 3).all()


RECIPES = {'reid': (reid, {'height': 32, 'epochs': 5, 'lr': .5}), 'face': (face, {'size': 32, 'epochs': 5, 'lr': .5}),
           'reid_agw': (reid_agw, {'height': 32, 'epochs': 5, 'lr': .5})}


@pytest.fixture
def runs(monkeypatch):
    "Stands for the recipes that `compare.py` runs: what each was called with; what a seed gains is its own"
    calls = []
    def stub(real):
        @wraps(real)
        def main(**kwargs):
            calls.append(kwargs)
            kwargs['out'].mkdir(parents=True, exist_ok=True)
            arms = ['baseline', *(ARMS[o].title for o in kwargs['arms'].split(','))]
            figures = [.1, *(.2 + .01*i*(kwargs['seed'] + 1) for i in range(len(arms) - 1))]
            pd.DataFrame({'mAP': figures}, index=arms).to_csv(kwargs['out']/'results.csv')
        return main
    for page,_ in RECIPES.values(): monkeypatch.setattr(page, 'main', stub(page.main))
    monkeypatch.setattr(compare, 'start_run', lambda **kwargs: NoRun())
    return calls


def compared(monkeypatch, recipe, given, **kwargs):
    behind = [str(o) for k,v in given.items() for o in (f'--{k.replace("_", "-")}', v) if o is not True]
    monkeypatch.setattr(compare, 'behind', behind)
    return compare.main(recipe=recipe, **kwargs)


@pytest.mark.parametrize('recipe', RECIPES)
def test_compare_runs_every_seed_once_with_what_is_given(monkeypatch, tmp_path, runs, recipe):
    out,(_, given) = tmp_path/'c',RECIPES[recipe]
    compared(monkeypatch, recipe, given, seeds=3, out=out)
    arms = 'without,shuffled,with,octuplet,true'
    same = {**given, 'arms': arms, 'group': 'c', 'resume': False}
    assert runs == [{**same, 'seed': k, 'out': out/f'seed{k}'} for k in range(3)]
    results = pd.read_csv(out/'results.csv')
    assert results.groupby('seed')['arm'].apply(list).map(len).to_dict() == {0: 6, 1: 6, 2: 6}
    for k in range(3):
        own = results[results['seed'] == k].set_index('arm')['mAP']
        assert own['fine-tuned with QSD'] == pytest.approx(.2 + .02*(k + 1))
    gains = pd.read_csv(out/'gains.csv').set_index('arm')
    assert gains.loc['fine-tuned with QSD', 'mean'] == pytest.approx(.04)  # over the arm without it, of the same seed
    assert gains.loc['fine-tuned with QSD', 'error'] == pytest.approx(.02/3**.5)
    assert 'fine-tuned without QSD' not in gains.index


@pytest.mark.parametrize('recipe, trained', [('reid', 'regnetx_002, table people, '), ('reid_agw', 'table people, '),
                                             ('face', 'regnetx_002, table faces, ')])
def test_compare_says_what_was_trained_on_what(monkeypatch, tmp_path, runs, labelled_people, recipe, trained):
    figures = {}
    monkeypatch.setattr(compare, 'save_figure', lambda figure, file: figures.update({file.name: figure}))
    def said(out, **given):
        kwargs = {'seeds': 1, 'arms': 'without,with', 'out': tmp_path/out}
        compared(monkeypatch, recipe, {**RECIPES[recipe][1], **given}, **kwargs)
        return ' '.join(figures['gains.png'].get_suptitle().split())
    assert said('c') == f'{trained}{recipe}.py, comparison c'
    root = Path(labelled_people.attrs['root'])
    own = {'data': root/'labelled.csv', **({} if recipe == 'reid_agw' else {'arch': 'resnet50'})}
    assert said('d', **own).startswith(f'{"resnet50, " if "arch" in own else ""}table {root.name}, ')


def test_compare_goes_on_where_it_was_stopped(monkeypatch, tmp_path, runs):
    out,given = tmp_path/'c',RECIPES['reid'][1]
    compared(monkeypatch, 'reid', given, seeds=3, out=out, arms='without,with')
    (out/'seed1'/'results.csv').unlink()
    (out/'seed1'/'run.json').write_text('{"id": "a", "args": {}}')
    runs.clear()
    compared(monkeypatch, 'reid', {**given, 'workers': 2}, seeds=3, out=out, arms='without,with', resume=True)
    assert [(o['seed'], o['resume']) for o in runs] == [(1, True)]
    runs.clear() # More seeds, in the same folder
    compared(monkeypatch, 'reid', given, seeds=5, out=out, arms='without,with', resume=True)
    assert [o['seed'] for o in runs] == [3, 4]
    assert pd.read_csv(out/'results.csv')['seed'].nunique() == 5
    with pytest.raises(SystemExit, match='first was 0 and is 1'):
        compared(monkeypatch, 'reid', given, seeds=5, out=out, arms='without,with', resume=True, first=1)
    runs.clear() # Seeds that are done are not judged again: their figures would stand beside others
    with pytest.raises(SystemExit, match='degraded was None and is True'):
        compared(monkeypatch, 'reid', {**given, 'degraded': True}, seeds=6, out=out, arms='without,with', resume=True)
    assert not runs


@pytest.mark.parametrize('text', ['', ',mAP\n', ',mAP\nbaseline,.1\n',
                                  ',mAP\nbaseline,.1\nfine-tuned without QSD,.2\nfi',
                                  ',mAP\nbaseline,x\nfine-tuned without QSD,.2\nfine-tuned with QSD,.2\n'])
def test_compare_names_results_that_are_cut(monkeypatch, tmp_path, runs, text):
    out,given = tmp_path/'c',RECIPES['reid'][1]
    compared(monkeypatch, 'reid', given, seeds=2, out=out, arms='without,with')
    (out/'seed1'/'results.csv').write_text(text)
    with pytest.raises(SystemExit, match=r'seed1.results\.csv .*Remove it'):
        compared(monkeypatch, 'reid', given, seeds=2, out=out, arms='without,with', resume=True)


def test_compare_screens_and_confirms_on_other_seeds(monkeypatch, tmp_path, runs):
    given = RECIPES['reid'][1]
    arms = 'without,with,shuffled,partner,joint'
    compared(monkeypatch, 'reid', given, out=tmp_path/'c', arms=arms, budget=16, first=3)
    left = 'without,partner,joint'
    assert [(o['seed'], o['arms']) for o in runs] == [(3, arms), (4, left), (5, left)]
    gains = pd.read_csv(tmp_path/'c'/'gains.csv').set_index('arm')
    assert gains['seeds'].to_dict() == {'baseline': 3, 'with QSD, partners': 3, 'with QSD, partners in one forward': 3,
                                        'fine-tuned with QSD': 1, 'with QSD, quality shuffled': 1}
    runs.clear()
    compared(monkeypatch, 'reid', given, out=tmp_path/'d', arms='without,joint', seeds=2, first=100)
    assert [o['seed'] for o in runs] == [100, 101]
    with pytest.raises(SystemExit, match='budget is 3'):
        compared(monkeypatch, 'reid', given, out=tmp_path/'e', arms=arms, budget=3)
