"Arms: what each of them is trained on, by which method, and which are refused"
import re

import numpy as np
import pandas as pd
import pytest

from qsd_fastai.arms import ARMS, added_by, chosen_arms, read_arms, settings_of
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.runs.folder import stage_file


@pytest.fixture
def labelled():
    rng = np.random.default_rng(0)
    return pd.DataFrame({'path': [f'{i}.jpg' for i in range(20)], 'split': ['train']*16 + ['query', 'gallery']*2,
                         'identity': [f'{i % 4}' for i in range(20)],
                         'quality': rng.permutation(20)*1., 'true_quality': rng.permutation(20)*1.})


def test_labels_of_each_arm(labelled):
    kept = labelled.copy()
    pd.testing.assert_frame_equal(ARMS['with'].table(labelled), labelled)
    pd.testing.assert_frame_equal(ARMS['without'].table(labelled), labelled)
    assert ARMS['true'].table(labelled)['quality'].tolist() == labelled['true_quality'].tolist()
    shuffled = ARMS['shuffled'].table(labelled, seed=3)
    train = labelled['split'] == 'train'
    assert sorted(shuffled.loc[train, 'quality']) == sorted(labelled.loc[train, 'quality'])
    assert not shuffled.loc[train, 'quality'].equals(labelled.loc[train, 'quality'])
    assert shuffled.loc[~train, 'quality'].equals(labelled.loc[~train, 'quality'])
    pd.testing.assert_frame_equal(ARMS['shuffled'].table(labelled, seed=3), shuffled)
    pd.testing.assert_frame_equal(labelled, kept)


def test_methods_of_each_arm():
    assert ARMS['without'].method() is None
    assert added_by(None) == {'partners': False, 'copies': False}
    found = {key: arm.method(.5, 'batch', map_norm='l2') for key,arm in ARMS.items()
             if arm.pairs != 'none' and arm.peer is None}
    for key,method in found.items():
        assert method.weight == (0. if key == 'copies' else .5), key
        assert method.qsd.map_norm == ('none' if key == 'published' else 'l2')
        assert method.pairs == added_to(method)
    assert {key for key,o in found.items() if o.pairs == 'partner'} == {'published', 'partner', 'joint'}
    assert {key for key,o in found.items() if o.pairs == 'copies'} == {key for key in ARMS if key.startswith('copies')}
    assert [found[key].forward for key in ('partner', 'joint')] == ['separate', 'joint']
    for key in ('octuplet', 'adaface'): assert added_by(ARMS[key].method()) == {'partners': False, 'copies': True}
    assert added_by(ARMS['with'].method(1., 'partner'))['partners']
    with pytest.raises(ValueError, match='pairs'): ARMS['with'].method(1., 'partners')


def added_to(method):
    added = added_by(method)
    return 'partner' if added['partners'] else 'copies' if added['copies'] else 'batch'


def test_arms_differ_in_the_method_alone():
    "Each in one answer from another one"
    found = {key: arm.method() for key,arm in ARMS.items() if arm.pairs == 'copies' and arm.peer is None}
    stop = found['copies-free']
    def answers(o): return {'stop': o.qsd.stop, 'labels': o.labels, 'teacher': o.teacher, 'weight': o.weight,
                            'taught': (o.level_weights, o.qsd.relations, o.qsd.mean, o.qsd.logits)}
    differ = {key: {k for k,v in answers(o).items() if v != answers(stop)[k]} for key,o in found.items()}
    assert differ == {'copies': {'stop', 'weight'}, 'copies-free': set(), 'copies-stop': {'stop'},
                      'copies-gap': {'stop'}, 'copies-reversed': {'stop', 'labels'},
                      'copies-gap-reversed': {'stop', 'labels'}, 'copies-gap-shuffled': {'stop', 'labels'},
                      'copies-shuffled': {'stop', 'labels'},
                      'copies-ema': {'stop', 'teacher'}, 'copies-frozen': {'stop', 'teacher'},
                      'copies-relations': {'taught'}, 'copies-mean': {'taught'}, 'copies-logits': {'taught'}}
    for key in ('gap', 'gap-reversed', 'gap-shuffled'): assert found[f'copies-{key}'].qsd.stop == 'gap'
    assert QualityDistillation(preset='copies').qsd.stop == 'gap'
    for o in found.values(): assert (o.balance, o.qsd.tau) == (True, 0.)


def test_arms_of_a_command_line(labelled, tmp_path):
    assert [o.key for o in chosen_arms('without,with', labelled)] == ['without', 'with']
    assert [o.key for o in chosen_arms('without,with', labelled, shuffle_quality=True)] == ['without', 'shuffled']
    with pytest.raises(ValueError, match='Did you mean with'): chosen_arms('wiht')
    with pytest.raises(ValueError, match='an arm twice'): chosen_arms('with,with')
    with pytest.raises(ValueError, match='an arm twice'): chosen_arms('with,shuffled', shuffle_quality=True)
    with pytest.raises(ValueError, match='true_quality'): chosen_arms('true', labelled.drop(columns='true_quality'))
    (tmp_path/'own.csv').write_text('key,labels\nmine,true\n')
    with pytest.raises(ValueError, match='mine needs a table with the column true_quality'):
        chosen_arms(str(tmp_path/'own.csv'), labelled.drop(columns='true_quality'))


@pytest.mark.parametrize('key', [key for key,arm in ARMS.items() if arm.pairs not in ('none', 'copies')])
def test_an_arm_that_would_teach_nothing_is_refused(labelled, key):
    column = 'true_quality' if key == 'true' else 'quality'
    alone = labelled.assign(identity=labelled['path'])
    unknown = labelled.assign(**{column: labelled[column].where(labelled.index % 4 == labelled.index)})
    same = labelled.assign(**{column: 50.}),labelled.assign(**{column: np.nan}),alone
    for table in same if key == 'shuffled' else (*same, unknown):
        with pytest.raises(ValueError, match=f'"{ARMS[key].title}" has nothing to learn'): ARMS[key].table(table)
        ARMS['without'].table(table)
        if key == 'true':
            with pytest.raises(ValueError, match='nothing to learn'): chosen_arms('with,true', table)


def test_arms_of_a_table_of_settings(tmp_path):
    file = tmp_path/'mine.csv'
    file.write_text('key,title,labels,pairs,stop,weight,level_weights\n'
                    'half,Half of it,,copies,.5,2,\n'
                    'maps,,true,,,,"(1, 1, 1, 0, 0)"\n'
                    'paper,,shuffled,partner,,,\n'
                    'chance,,shuffled,copies,,auto,\n')
    half,maps,paper,chance = read_arms(file)
    # with copies the order is known, and it is the order that is shuffled
    assert (chance.labels, chance.method().labels, chance.method().weight) == ('computed', 'shuffled', 1.)
    assert chance.method().balance
    assert (half.title, half.labels, half.pairs) == ('Half of it', 'computed', 'copies')
    method = half.method(1.5)
    assert (method.weight, method.qsd.stop, method.balance, method.pairs) == (3., .5, True, 'copies')
    assert (maps.title, maps.labels, maps.method().level_weights) == ('maps', 'true', (1, 1, 1, 0, 0))
    assert maps.method(1., 'partner').pairs == 'partner'
    assert (paper.labels, paper.method().pairs) == ('shuffled', 'partner')
    found = chosen_arms(f'without,{file},with')
    assert [o.key for o in found] == ['without', 'half', 'maps', 'paper', 'chance', 'with']
    again = ','.join(o.asked for o in found if o.key != 'maps')
    assert [o.key for o in chosen_arms(again)] == ['without', 'half', 'paper', 'chance', 'with']
    with pytest.raises(ValueError, match='an arm twice'): chosen_arms(f'{file},{file}:half')
    with pytest.raises(ValueError, match="'other'"): chosen_arms(f'{file}:other')


def test_a_preset_in_a_table_of_settings_pairs_as_it_does(tmp_path):
    file = tmp_path/'mine.csv'
    file.write_text('key,preset,pairs,stop\npaper,published,,\nown,copies,,\nloose,copies,,0\nhere,published,batch,\n')
    paper,own,loose,here = (o.method() for o in read_arms(file))
    assert [o.pairs for o in (paper, own, loose, here)] == ['partner', 'copies', 'copies', 'batch']
    assert [o.qsd.stop for o in (paper, own, loose)] == [1., 'gap', 0.]


def test_a_table_of_settings_that_is_not_there_is_told():
    for take,keys in ((chosen_arms, 'with,none.csv'), (settings_of, 'none.csv:half')):
        with pytest.raises(FileNotFoundError, match=r'There is no table of settings none\.csv'): take(keys)


@pytest.mark.parametrize('text, said', [
    ('key\n', 'no arms'), ('title\nx\n', 'no arms'), ('key,stop\nx,3\n', r'mine\.csv, row 0.*stop is 3'),
    ('key\nwith\n', 'is an arm already'), ('key,stop\n,1\n', 'key is empty'), ('key,speed\nx,1\n', "'speed'"),
    ('key,stop\nx,1\nx,0\n', 'row 1.*x is there twice'), ('key,level_weights\nx,{}\n', 'nothing is taught'),
    ('key,labels\nx,odd\n', "labels is 'odd'"), ('key,pairs\nx,all\n', "pairs is 'all'")])
def test_a_table_of_settings_that_makes_no_arm_is_told(tmp_path, text, said):
    (tmp_path/'mine.csv').write_text(text)
    with pytest.raises(ValueError, match=said): chosen_arms(f'without,{tmp_path/"mine.csv"}')


def test_titles_make_names_that_files_and_wandb_take(tmp_path):
    "And no two stages of a run have one name"
    names = [stage_file(o.title) for o in ARMS.values()]
    assert all(re.fullmatch(r'[A-Za-z0-9_.-]+', o) for o in names), names
    assert len(set(names)) == len(names)
    file = tmp_path/'mine.csv'
    file.write_text('key,title,pairs\none,"half: a/b, Ü?",copies\ntwo,half_ a_b Ü#,copies\nthree,baseline,copies\n')
    assert stage_file(chosen_arms(f'{file}:one')[0].title) == 'half__a_b___'
    with pytest.raises(ValueError, match='"half_ a_b Ü#" would be called as those of another stage, half__a_b___'):
        chosen_arms(f'{file}:one,{file}:two')
    with pytest.raises(ValueError, match='"baseline" would be called'): chosen_arms(f'{file}:three')
