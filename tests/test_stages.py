"Stages of a recipe: typos found before anything is trained, what a resume may change, what a run leaves"
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fastai.learner import load_learner
from matplotlib.figure import Figure

from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.callbacks.track_run import TrackRun
from qsd_fastai.data.table import read_table, write_table
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.stages import Run, in_one_line, rehearse

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT/'recipes'))
import reid  # noqa: E402

pytestmark = pytest.mark.usefixtures('one_thread')
tiny = dict(arch='test_resnet', height=32, width=16, n_ids=4, n_imgs=3, epochs=500, tune_epochs=1)


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('stages')
    generate_people(folder/'people', n_train=8, n_test=4, n_imgs=4, n_test_imgs=4, size=(48, 24), progress=False)
    table = read_table(folder/'people'/'images.csv')
    table.loc[table['split'] == 'query', 'identity'] = 'nobody'
    write_table(table, folder/'alone'/'images.csv')
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch, people):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.chdir(people)


@pytest.mark.parametrize('typo,said', [
    ({'arms': 'without,wiht'}, 'Did you mean with'), ({'arms': 'with,with'}, 'an arm twice'), ({'pairs': 'partners'},
                                                                                             'partners'),
    ({'arch': 'test_resnte'}, 'Did you mean test_resnet'), ({'n_ids': 40}, '40'), ({'weight': -1.}, '-1'),
    ({'data': 'people/image.csv'}, 'No table at'), ({'arch': 'vit_tiny_patch16_224'}, 'does not pass'),
    ({'arch': 'mobilefacenet'}, '112'), ({'data': 'alone/images.csv'}, 'query can be answered')], ids=str)
def test_a_typo_is_found_before_anything_is_trained(people, typo, said, capsys):
    with pytest.raises(SystemExit) as e: reid.main(**{'data': 'people/images.csv', 'out': 'typo', **tiny, **typo})
    assert said in str(e.value)
    assert '\n' not in str(e.value)
    assert '== baseline' not in capsys.readouterr().out
    assert not (people/'typo').exists()


@pytest.fixture
def options(tmp_path):
    return {'out': tmp_path/'run', 'resume': False, 'seed': 0, 'group': '', 'lr': .1, 'tune_lr': .01, 'weight': 1.,
            'workers': 0}


def stub(): return SimpleNamespace(export=lambda name: None)


def ended(run, title, *cbs):
    "A stage whose fit left its state"
    with run.stage(title, 1) as stage:
        stage.cbs(*cbs)
        (run.out/f'{stage.name}.state').touch()
        stage.done(stub(), SimpleNamespace(figures={'mAP': .5}, plots={'cmc': Figure()}))
    return stage


def test_what_a_stage_gives_and_leaves(options):
    run = Run('page', options)
    assert not run.out.exists()
    with run.stage('with QSD, shuffled', 2) as stage:
        method = QualityDistillation()
        cbs = stage.cbs(None, method)
        assert [type(cb) for cb in cbs] == [QualityDistillation, SaveState, TrackRun]
        assert cbs[0] is method
        assert cbs[1].file == run.out/'with_QSD_shuffled.state'
        stage.done(stub(), SimpleNamespace(figures={'mAP': .5}, plots={'cmc': Figure()}),
                   SimpleNamespace(figures={'rank1': 1.}, plots={}))
    assert (run.out/'with_QSD_shuffled_cmc.png').stat().st_size
    results = run.finish('Judged')
    pd.testing.assert_frame_equal(results, pd.read_csv(run.out/'results.csv', index_col=0))
    assert results.loc['with QSD, shuffled'].to_dict() == {'mAP': .5, 'rank1': 1.}


def test_a_resume_keeps_what_a_stage_was_made_with(options):
    run = Run('page', options)
    ended(run, 'baseline')
    ended(run, 'without')
    ended(run, 'with', QualityDistillation())
    kept = json.loads((run.out/'run.json').read_text())['stages']
    assert kept == {'baseline': {'seed': 0, 'lr': .1}, 'without': {'seed': 0, 'lr': .1, 'tune_lr': .01},
                    'with': {'seed': 0, 'lr': .1, 'tune_lr': .01, 'weight': 1.}}
    again = {**options, 'resume': True}
    Run('page', {**again, 'workers': 3, 'group': 'other'})
    for k,value,title in (('lr', .2, 'baseline'), ('tune_lr', .2, 'without'), ('weight', 2., 'with'),
                          ('seed', 1, 'baseline')):
        said = rf'"{title}" .*: {k} was .* and is {value}'
        with pytest.raises(ValueError, match=said): Run('page', {**again, k: value})
    with pytest.raises(FileExistsError, match='--resume'): Run('page', options)
    with pytest.raises(FileNotFoundError, match=r'no run\.json'): Run('page', {**again, 'out': run.out/'other'})


def test_what_has_not_begun_may_change_and_is_recorded(options):
    ended(Run('page', options), 'baseline')
    run = Run('page', {**options, 'resume': True, 'tune_lr': .5, 'weight': 3.})
    ended(run, 'baseline')
    ended(run, 'with', QualityDistillation())
    kept = json.loads((run.out/'run.json').read_text())
    changed, = kept['changed']
    assert changed['tune_lr'] == [.01, .5]
    assert changed['weight'] == [1., 3.]
    assert kept['stages']['with'] == {'seed': 0, 'lr': .1, 'tune_lr': .5, 'weight': 3.}
    with pytest.raises(ValueError, match=r'tune_lr was 0\.5 and is 0\.01'): Run('page',
                                                                             {**options, 'resume': True, 'weight': 3.})


@pytest.mark.parametrize('error', [ValueError('odd'), KeyboardInterrupt()], ids=repr)
def test_a_run_that_ends_before_its_first_epoch_leaves_its_folder_free(options, error):
    run = Run('page', options)
    with pytest.raises((ValueError, SystemExit)), run.stage('baseline', 1) as stage:
        stage.cbs()
        raise error
    assert not (run.out/'run.json').exists()
    Run('page', options)


@pytest.mark.parametrize('error', [ValueError('odd'), KeyboardInterrupt()], ids=repr)
def test_a_run_that_ends_later_can_be_resumed(options, error):
    run = Run('page', options)
    ended(run, 'baseline')
    with pytest.raises((ValueError, SystemExit)) as e, run.stage('without', 1): raise error
    assert (run.out/'run.json').exists()
    if isinstance(error, KeyboardInterrupt): assert '--resume' in str(e.value)
    Run('page', {**options, 'resume': True})


def test_errors_of_a_page_are_one_line_and_those_of_a_stage_are_whole(options):
    @in_one_line
    def early(): raise ValueError('first\nsecond.')

    @in_one_line
    def late():
        with Run('page', options).stage('baseline', 1): raise ValueError('within')
    with pytest.raises(SystemExit, match='first second'): early()
    with pytest.raises(ValueError, match='within'): late()


def test_a_rehearsal_uses_every_way_of_pairing_and_keeps_nothing():
    seen,method = [],QualityDistillation(pairs='partner')

    class Spy:
        def __init__(self, table, method): self.table,self.method = table,method
        def no_bar(self): return pytest.MonkeyPatch.context()
        no_logging = no_bar
        def fit(self, n, cbs): seen.append((n, [type(cb) for cb in cbs], method in cbs))
        def embed(self, table): assert len(table) == 2

    def judge(learn):
        first,second = (learn.embed(table) for _ in range(2))
        assert first.shape == (5, 8)
        np.testing.assert_array_equal(first, second)
    table = pd.DataFrame({'quality': [np.nan]*5})
    rehearse(Spy, judge, table, [None, QualityDistillation(), method])
    assert [(n, QualityDistillation in kinds, same) for n,kinds,same in seen] == [(1, True, False), (1, True, False)]
    assert table['quality'].isna().all()


def test_a_learner_that_was_kept_loads(people, tmp_path):
    reid.main(data='people/images.csv', out=tmp_path/'run', **{**tiny, 'epochs': 1, 'arms': 'with'})
    assert load_learner(tmp_path/'run'/'fine-tuned_with_QSD.pkl').model.embed_dim
