"Stages of a recipe: typos found before anything is trained, what a resume may change, what a run leaves"
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from fastai.callback.schedule import SchedCos
from fastai.learner import load_learner
from matplotlib.figure import Figure
from torch import nn

from qsd_fastai import stages
from qsd_fastai.arms import chosen_arms
from qsd_fastai.callbacks.save_state import Diverged, SaveState
from qsd_fastai.callbacks.track_run import TrackRun
from qsd_fastai.commands import in_one_line
from qsd_fastai.data import kept
from qsd_fastai.data.table import read_table, write_table
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.judging.judgement import Judgement
from qsd_fastai.rehearsal import rehearse
from qsd_fastai.runs.no_run import NoRun
from qsd_fastai.stages import Run

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
    table = read_table(folder/'people'/'images.csv')
    for name,other in (('one_camera', table.assign(camera='1')), ('asked', table[table['split'] != 'gallery']),
                       ('shown', table[table['split'] != 'query'])):
        other.attrs = table.attrs
        write_table(other, folder/name/'images.csv')
    (folder/'odd.csv').write_text('key,level_weights\nodd,{\'embedding\': 1.}\n')
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch, people):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.chdir(people)


@pytest.mark.parametrize('typo,said', [
    ({'arms': 'without,wiht'}, 'Did you mean with'),
    ({'arms': 'with,with'}, 'an arm twice'),
    ({'arms': 'without,with,odd.csv'}, 'embedding'),
    ({'pairs': 'partners'}, 'partners'),
    ({'arch': 'test_resnte'}, 'Did you mean test_resnet'),
    ({'arch': 'mvitv2_tiny'}, 'mvitv2_tiny does not take pictures of 32x16'),
    ({'arch': 'iresnet18', 'width': 8}, '16 pixels'),
    ({'weight': -1.}, '-1'),
    ({'n_ids': 40}, '40'),
    ({'n_ids': 16}, 'n_ids=8 or less'),
    ({'n_imgs': 1}, 'n_imgs=2 or more'),
    ({'epochs': 0}, 'Name them with --pretrained'),
    ({'epochs': -1}, 'epochs is -1'),
    ({'tune_epochs': -1}, 'tune-epochs is -1'),
    ({'data': 'people/image.csv'}, 'No table at'),
    ({'data': 'alone/images.csv'}, 'query can be answered'),
    ({'data': 'one_camera/images.csv'}, 'answered'),
    ({'data': 'asked/images.csv'}, 'gallery'),
    ({'data': 'shown/images.csv'}, 'no queries')], ids=str)
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


def stub():
    dls,model = SimpleNamespace(),nn.Identity()
    return SimpleNamespace(export=lambda file: file.write_bytes(b'learner'), dls=dls, model=model)


def ended(run, title, *cbs):
    "A stage whose fit left its state"
    with run.stage(title, 1) as stage:
        stage.cbs(*cbs)
        (run.out/f'{stage.name}.state').touch()
        stage.done(stub(), Judgement({'mAP': .5}, {}, plots={'cmc': Figure()}))
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
        stage.done(stub(), Judgement({'mAP': .5}, {}, plots={'cmc': Figure()}),
                   Judgement({'rank1': 1.}, {}))
    assert (run.out/'with_QSD_shuffled_cmc.png').stat().st_size
    results = run.finish('Judged')
    assert not list(run.out.glob('*.state'))
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


@pytest.fixture
def configs(monkeypatch):
    "What W&B would be told of each run, by its name"
    found = {}
    def start(name, config, group, **kwargs):
        start = name.split(' seed', 1)[-1] # Of a comparison: its own name is in front
        found[start.split(' ', 1)[1]] = {**config, 'group of W&B': group, 'whole name': name}
        return NoRun()
    monkeypatch.setattr(stages, 'start_run', start)
    return found


@pytest.mark.parametrize('shuffle_quality', [False, True])
def test_what_is_said_of_a_stage_is_what_its_arm_does(options, configs, shuffle_quality):
    keys = 'without,with,copies,copies-gap,copies-reversed,partner,published,true,octuplet'
    options |= {'arms': keys, 'shuffle_quality': shuffle_quality, 'pairs': 'batch', 'map_norm': 'l2', 'weight': .5}
    arms,run = chosen_arms(keys, shuffle_quality=shuffle_quality),Run('page', options)
    ended(run, 'baseline')
    for arm in arms: ended(run, arm.title, arm.method(.5, 'batch', map_norm='l2'))
    def said(key):
        title = next(o.title for o in arms if o.key == key)
        assert configs[title]['arm'] == title
        return tuple(configs[title].get(k) for k in ('labels', 'pairs', 'map_norm', 'weight'))
    with_ = ('shuffled', 'shuffled') if shuffle_quality else ('with', 'computed')
    assert said(with_[0]) == (with_[1], 'batch', 'l2', .5)
    for key in ('without', 'copies', 'octuplet'): assert said(key) == (None,)*4
    assert said('copies-gap') == ('computed', 'copies', 'l2', .5)
    assert said('copies-reversed') == ('reversed', 'copies', 'l2', .5)
    assert said('partner') == ('computed', 'partner', 'l2', .5)
    assert said('published') == ('computed', 'partner', 'none', .5)
    assert said('true') == ('true', 'batch', 'l2', .5)
    assert not any('shuffle_quality' in o for o in configs.values())


@pytest.mark.parametrize('group', ['', 'mine', 'c', 'run'])
def test_a_run_of_any_group_is_closed_but_for_the_seeds_of_compare(options, configs, tmp_path, group):
    def closed(out):
        configs.clear()
        run = Run('page', {**options, 'out': out, 'group': group})
        ended(run, 'baseline')
        run.finish('Judged')
        assert configs['baseline']['group of W&B'] == (group or out.name)
        if 'comparison' not in configs: return False
        assert configs['comparison']['group of W&B'] == (group or out.name)
        return True
    assert closed(tmp_path/'run')
    assert closed(tmp_path/'c'/'seed0') # A folder that happens to be called so
    (tmp_path/'c'/'run.json').write_text('{}') # As `compare.py` leaves it
    assert closed(tmp_path/'c'/'seed1') == (group != 'c')
    assert configs['baseline']['whole name'] == ('c ' if group == 'c' else '') + 'seed1 baseline'


def test_a_weight_that_changes_is_described(options, configs):
    ended(Run('page', options), 'mine', QualityDistillation(SchedCos(0., 2.)))
    assert configs['mine']['weight'].items() >= {'start': 0., 'end': 2.}.items()


def test_a_table_of_settings_is_the_one_that_a_run_was_begun_with(options, tmp_path):
    file = tmp_path/'mine.csv'
    file.write_text('key,pairs,stop\nmine,copies,.5\n')
    options['arms'] = f'without,{file}'
    run = Run('page', options)
    ended(run, 'baseline')
    ended(run, 'mine', QualityDistillation())
    again = {**options, 'resume': True}
    Run('page', again)
    file.write_text('key,pairs,stop\nmine,copies,1\n')
    with pytest.raises(ValueError, match=r'"mine" .*: settings was'): Run('page', again)


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
    with pytest.raises(ValueError, match=r'tune_lr was 0\.5 and is 0\.01'):
        Run('page', {**options, 'resume': True, 'weight': 3.})


ERRORS = pytest.mark.parametrize('error', [ValueError('odd'), KeyboardInterrupt(), KeyError('bug')], ids=repr)


@ERRORS
@pytest.mark.parametrize('there', [False, True], ids=['new folder', 'folder of others'])
def test_a_run_that_ends_before_its_first_epoch_leaves_nothing(options, error, there):
    mine = options['out']/'mine'/'note.txt'
    if there:
        mine.parent.mkdir(parents=True)
        mine.write_text('keep')
    run = Run('page', options)
    with pytest.raises(type(error)), run.stage('baseline', 1) as stage:
        stage.cbs()
        assert (run.out/'wandb').is_dir()
        raise error
    assert run.out.exists() == there
    if there: assert sorted(o.name for o in run.out.iterdir()) == ['mine']
    if there: assert mine.read_text() == 'keep'
    Run('page', options)


@ERRORS
def test_a_run_that_ends_later_can_be_resumed(options, error):
    @in_one_line
    def page():
        run = Run('page', options)
        ended(run, 'baseline')
        with run.stage('without', 1): raise error
    with pytest.raises((ValueError, SystemExit, KeyError)) as e: page()
    assert (options['out']/'run.json').exists()
    if isinstance(error, KeyboardInterrupt): assert '--resume' in str(e.value)
    Run('page', {**options, 'resume': True})


def test_a_run_says_of_what_table_and_with_which_versions(options, labelled_people, capsys, monkeypatch):
    def begin(table, **more):
        run = Run('page', {**options, **more})
        run.of_table(table)
        ended(run, 'baseline')
        run.folder.close()
        return json.loads((run.out/'run.json').read_text())
    kept = begin(labelled_people)
    assert {'python', 'torch', 'fastai', 'timm', 'qsd_fastai'} <= set(kept['versions'])
    assert kept['table']['rows'] == len(labelled_people)
    begin(labelled_people, resume=True, data='elsewhere/images.csv')
    others = {'quality': labelled_people.assign(quality=labelled_people['quality'] + .5),
              'identity': labelled_people.assign(identity=labelled_people['identity'][::-1].to_numpy()),
              'rows 72 -> 71': labelled_people.iloc[1:],
              'true_quality': labelled_people.assign(true_quality=1.),
              'path': labelled_people.iloc[::-1]}
    for said,other in others.items():
        with pytest.raises(ValueError, match=f'The table of .* is another one .*{said}'): begin(other, resume=True)
    assert 'other versions' not in capsys.readouterr().out
    monkeypatch.setattr('qsd_fastai.runs.folder.versions', lambda: {**kept['versions'], 'torch': '9.0'})
    assert begin(labelled_people, resume=True)['changed'][-1]['versions'][1]['torch'] == '9.0'
    assert f'torch {kept["versions"]["torch"]} -> 9.0' in capsys.readouterr().out


def test_a_table_that_teaches_nothing_is_refused(options, labelled_people):
    train,run = labelled_people['split'] == 'train',Run('page', options)
    for table in (labelled_people[~train], labelled_people[train].drop_duplicates('identity'),
                  labelled_people[train & (labelled_people['identity'] == labelled_people['identity'].iloc[0])]):
        with pytest.raises(ValueError, match='two pictures of an identity'): run.of_table(table)


def diverged(run, title):
    with pytest.raises(Diverged), run.stage(title, 1) as stage:
        stage.cbs()
        (run.out/f'{stage.name}.state').touch()
        raise Diverged('diverged')
    run.folder.close()


def test_a_diverged_baseline_goes_on_at_another_rate(options):
    diverged(Run('page', options), 'baseline')
    again = {**options, 'resume': True}
    with pytest.raises(ValueError, match='seed was 0'): Run('page', {**again, 'lr': .01, 'seed': 1})
    run = Run('page', {**again, 'lr': .01})
    with run.stage('baseline', 1) as stage:
        stage.cbs()
        assert (run.out/'baseline.state').exists()
    run.folder.close()
    with pytest.raises(ValueError, match='lr was'): Run('page', again)  # it has not diverged since


def test_fine_tunings_are_made_anew_at_one_rate_where_one_has_diverged(options, capsys):
    run = Run('page', options)
    for title in ('baseline', 'without'): ended(run, title)
    diverged(run, 'with')
    again = {**options, 'resume': True}
    with pytest.raises(ValueError, match='lr was'): Run('page', {**again, 'lr': .01})
    run = Run('page', {**again, 'tune_lr': .001})
    assert (run.out/'without.state').exists()
    ended(run, 'baseline')
    assert sorted(o.name for o in run.out.glob('*.state')) == ['baseline.state']
    assert '"without" is made anew' in capsys.readouterr().out
    assert list(json.loads(run.folder.file.read_text())['stages']) == ['baseline']


def test_one_of_two_runs_in_a_folder_loses(options):
    one,two = Run('page', options),Run('page', options)
    ended(one, 'baseline')
    with pytest.raises(FileExistsError, match='already holds a run'), two.stage('baseline', 1): pass
    assert (one.out/'baseline.pkl').exists()


def test_a_rehearsal_uses_every_way_of_pairing_and_keeps_nothing(monkeypatch):
    seen,made,method = [],[],QualityDistillation(pairs='partner')

    class Spy:
        def __init__(self, table, method):
            made.append(method)
            kept.told.add('meanwhile')
        def no_bar(self): return pytest.MonkeyPatch.context()
        no_logging = no_bar
        def fit(self, n, cbs): seen.append((n, [type(cb) for cb in cbs], method in cbs))
        def embed(self, table): assert len(table) == 2

    def judge(learn):
        first,second = (learn.embed(table) for _ in range(2))
        assert first.shape == (5, 8)
        np.testing.assert_array_equal(first, second)
        return SimpleNamespace(figures={'mAP': 0.})
    table = pd.DataFrame({'quality': [np.nan]*5})
    monkeypatch.setattr(kept, 'told', {'before'})
    rehearse(Spy, judge, table, [None, QualityDistillation(), method])
    assert kept.told == {'before'} # Nobody has read what was said meanwhile
    taught = [(n, QualityDistillation in kinds, same) for n,kinds,same in seen]
    assert taught == [(1, False, False), (1, True, False), (1, True, False)]
    assert len(made) == 2 # learners: one for each way that the loader pairs
    assert table['quality'].isna().all()
    def blind(learn): return SimpleNamespace(figures={})
    with pytest.raises(ValueError, match='it has no queries'): rehearse(Spy, blind, table)


def test_a_transformer_at_the_size_of_the_pictures(people, tmp_path):
    options = {**tiny, 'arch': 'test_vit', 'epochs': 1, 'arms': 'with', 'lr': 1e-3}
    results = reid.main(data='people/images.csv', out=tmp_path/'run', **options)
    assert results.notna().all(axis=None)


def test_a_learner_that_was_kept_loads(people, tmp_path):
    reid.main(data='people/images.csv', out=tmp_path/'run', **{**tiny, 'epochs': 1, 'arms': 'with'})
    assert load_learner(tmp_path/'run'/'fine-tuned_with_QSD.pkl').model.embed_dim
