"The recipes as people run them: a command in a folder, tiny data"
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastai.learner import load_learner
from started import start

from qsd_fastai.data.table import read_table
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.losses import WeightedRegularizedTriplet

sys.path.insert(0, str(Path(__file__).parents[1]/'runs'))
from wandb_files import runs

ROOT = Path(__file__).parents[2]
FACES = ROOT.parent/'shared'/'data'/'london_faces'/'images'
tiny = ['--arch', 'test_resnet', '--height', 32, '--width', 16, '--n-ids', 4, '--n-imgs', 3, '--epochs', 2,
        '--tune-epochs', 1, '--lr', 1e-2]


def command(script, *args): return [sys.executable, '-W', 'ignore', str(ROOT/script), *map(str, args)]


def run(folder, script, *args, code=0):
    ended,said = start(ROOT/script, *args, folder=folder, WANDB_MODE='offline', COLUMNS='200')
    assert ended == code, said[-5000:]
    return said


@pytest.fixture(scope='module')
def people(tmp_path_factory):
    folder = tmp_path_factory.mktemp('recipes')
    generate_people(folder/'people', n_train=8, n_test=6, n_imgs=6, n_test_imgs=4, size=(48, 24), progress=False)
    return folder


def test_reid_trains_labels_tunes_and_judges(people):
    said = run(people, 'recipes/reid.py', '--data', 'people/images.csv', '--out', 'one', *tiny)
    results = pd.read_csv(people/'one'/'results.csv', index_col=0)
    assert list(results.index) == ['baseline', 'fine-tuned without QSD', 'fine-tuned with QSD', 'Octuplet loss']
    assert {'rank1', 'mAP', 'mINP', 'mAP worst', 'mAP best'} <= set(results.columns)
    assert results.notna().all(axis=None)
    assert results.stack().between(0, 1).all()
    for name in results.index: assert name in said
    assert not {'\r', '█'} & set(said)  # a log holds rows of epochs, no bars
    assert max(map(len, said.split('\n'))) < 200
    assert len(re.findall(r'^[01] +\d+\.\d+ +', said, re.M)) == 5
    assert 'Rank correlation of the computed quality with true_quality over 48 training pictures' in said
    assert 'wandb sync' in said
    labelled = read_table(people/'one'/'labelled'/'images.csv')
    assert labelled['quality'].between(0, 100).all()
    assert labelled.groupby(labelled['split'] == 'train')['quality'].std().min() > 1
    assert read_table(people/'people'/'images.csv')['quality'].isna().all()  # the table that was given is left as it is
    assert len(list((people/'one').glob('*_history.png'))) == 4
    for file in ('quality.png', 'quality_agreement.png', 'baseline_hardest_queries.png', 'fine-tuned_with_QSD_cmc.png',
                 'baseline.pkl'):
        assert (people/'one'/file).stat().st_size
    first,*tuned,closing = tracked = runs(people/'one')
    for o in tracked: o.check_keys()
    for o in tracked[:-1]:
        final = [k for k in o.summary if k.startswith('final/')]
        assert 'final/mAP_best' in final
        assert not any(' ' in k for k in final)  # one figure, one name: as `valid/` spells it
    assert [o.header.job_type for o in tracked] == ['train', *['fine-tune']*3, 'compare']
    assert [o.config['arm'] for o in tracked[:-1]] == list(results.index)
    assert [o.config['stage'] for o in tracked[:-1]] == ['baseline', *['fine-tuning']*3]
    # that from which gains are counted, on every page
    assert {o.config['reference'] for o in tracked[:-1]} == {tuned[0].header.run_id}
    # what each is made of, which W&B shows as lineage where it is online
    started,*judged = (o.header.run_id for o in tracked[:-1])
    given = [f'{started}-model', f'{started}-table']
    assert [o.config.get('uses') for o in tracked] == [None, *[given]*3,
                                                       [f'{o}-evaluation' for o in (started, *judged)]]
    check_closing(closing, people/'one', results)
    assert not list((people/'one').glob('*.state'))
    # what a stage does not do is not said of it
    assert not {'weight', 'pairs', 'tune_lr'} & set(first.config)
    without,distilled,octuplet = (set(o.config) for o in tuned)
    assert distilled - without == {'weight', 'pairs', 'labels'}
    assert octuplet == without
    assert tuned[2].config['found']['loss']['name'] == 'OctupletLoss'
    terms = [{k for row in o.history for k in row if k.startswith('train/')} for o in tuned]
    assert {'train/identity', 'train/triplet'} <= terms[0] <= terms[1]
    assert terms[2] == {'train/loss', 'train/octuplet'}
    for o in tuned: # One figure, one name; of the best epoch and of the last one
        logged = {k for row in o.history for k in row}
        assert {'plots/hardest_queries', 'tables/hardest_queries', 'plots/quality'} <= logged
        assert not any(' ' in k for k in logged)
        assert o.summary['final/epoch'] == o.summary['epoch']
        evaluation, = (json.loads(a.metadata) for a in o.artifacts.values() if a.type == 'evaluation')
        assert evaluation['epoch'] == o.summary['epoch']
    assert 'already holds a run' in run(people, 'recipes/reid.py', '--data', 'people/images.csv', '--out', 'one', *tiny,
                                        code=1)


def check_closing(run, out, results):
    "The closing table, and all arms in one"
    arms = list(results.index)
    table,_ = run.table('tables/results')
    assert table['columns'] == ['arm', *results.columns]
    assert [row[0] for row in table['data']] == arms
    logged = {k for row in run.history for k in row}
    figures = {'cmc', 'search_vs_reject', 'map_search_by_true_quality', 'rank1_search_by_true_quality', 'query_gains',
               'gained_and_lost_fine-tuned_with_QSD'}
    assert {f'plots/{k}' for k in figures} <= logged
    assert {'charts/cmc_table', 'charts/search_vs_reject_table', 'tables/query_gains'} <= logged
    for k in figures: assert (out/f'all_{k}.png').stat().st_size
    gains = pd.read_csv(out/'all_query_gains.csv')
    for arm in arms:
        assert gains[arm].mean() == pytest.approx(results.loc[arm, 'mAP'])
        own = pd.read_csv(out/f'{arm.replace(" ", "_")}_per_query.csv')
        assert own['ap'].mean() == pytest.approx(results.loc[arm, 'mAP'])
        hard = pd.read_csv(out/f'{arm.replace(" ", "_")}_hardest_queries.csv', dtype={'correct': str})
        for o in hard.itertuples(): # As many marks as answers, and the first right one where its rank says
            marks = o.correct.split()
            assert len(marks) == len(o.gallery.split())
            assert (marks + ['1']).index('1') == min(o.first_rank - 1, len(marks))
        assert (out/f'{arm.replace(" ", "_")}_embedding_map.png').stat().st_size
    cmc = pd.read_csv(out/'all_cmc.csv')
    assert cmc[cmc['rank'] == 1].set_index('line')['found'].to_dict() == pytest.approx(results['rank1'].to_dict())
    for group in ('worst', 'middle', 'best'): assert {f'rank1 {group}', f'mAP {group}'} <= set(results)


def test_weight_zero_is_the_fine_tuning_without(people):
    run(people, 'recipes/reid.py', '--data', 'people/images.csv', '--out', 'zero', '--weight', 0,
        '--arms', 'without,with', *tiny)
    results = pd.read_csv(people/'zero'/'results.csv', index_col=0)
    without,qsd = (results.loc[f'fine-tuned {o} QSD'] for o in ('without', 'with'))
    assert without.tolist() == qsd.tolist()


def foreground():
    "Jobs in the background, of `nohup` or of some shells, begin with Ctrl-C ignored, and so would their children"
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def stop_when(file, going, number):
    "Send a signal when a file is there; what the process said"
    while not file.is_file() and going.poll() is None: time.sleep(.02)
    going.send_signal(number)
    return going.communicate()[0]


@pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_goes_on_to_the_same_end(people, number):
    out,whole = f'stopped{number}',f'whole{number}'
    args = ['--data', 'people/images.csv', *tiny, '--arms', 'without,with', '--epochs', 6]
    if number == signal.SIGTERM: args.insert(0, '--fast') # The other optimizer has another state
    run(people, 'recipes/reid.py', *args, '--out', whole)
    going = subprocess.Popen(command('recipes/reid.py', *args, '--out', out), cwd=people, preexec_fn=foreground,
                             env={**os.environ, 'WANDB_MODE': 'offline'},
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    said = stop_when(people/out/'baseline.state', going, number)
    assert going.returncode and '--resume' in said, said[-3000:]
    assert not (people/out/'results.csv').exists()
    said = run(people, 'recipes/reid.py', *args, '--out', out, '--resume')
    assert 'Resuming after epoch' in said
    whole,resumed = (pd.read_csv(people/o/'results.csv', index_col=0) for o in (whole, out))
    pd.testing.assert_frame_equal(whole, resumed)
    assert 'epochs was 6 and is 5' in run(people, 'recipes/reid.py', *args[:-1], 5, '--out', out, '--resume',
                                          code=1)


def test_compare_runs_every_arm_with_the_same_seeds(people):
    said = run(people, 'recipes/compare.py', '--seeds', 2, '--out', 'compared', '--', '--data', 'people/images.csv',
               *tiny)
    results = pd.read_csv(people/'compared'/'results.csv')
    arms = ['baseline', 'fine-tuned without QSD', 'with QSD, quality shuffled', 'fine-tuned with QSD',
            'Octuplet loss', 'with QSD, true quality']
    assert results.groupby('seed')['arm'].apply(list).tolist() == [arms, arms]
    gains = pd.read_csv(people/'compared'/'gains.csv').set_index(['arm', 'figure'])
    whole = pd.read_csv(people/'compared'/'query_gains.csv').set_index('path')
    parts = [pd.read_csv(people/'compared'/f'seed{k}'/'all_query_gains.csv').set_index('path') for k in range(2)]
    pd.testing.assert_frame_equal(whole, (parts[0] + parts[1])/2)
    closing, = (o for o in runs(people/'compared') if o.header.job_type == 'compare')
    closing.check_keys()
    logged = {k for row in closing.history for k in row}
    assert {'plots/gains', 'plots/query_gains', 'tables/query_gains', 'tables/results', 'tables/gains'} <= logged
    assert {'plots/cmc', 'charts/cmc_table', 'plots/search_vs_reject', 'charts/search_vs_reject_table'} <= logged
    assert (people/'compared'/'cmc.png').stat().st_size
    cmc = pd.read_csv(people/'compared'/'cmc.csv')
    assert cmc['line'].unique().tolist() == arms
    seeds = [pd.read_csv(people/'compared'/f'seed{k}'/'all_cmc.csv')['found'] for k in range(2)]
    np.testing.assert_allclose(cmc['found'], (seeds[0] + seeds[1])/2)
    found = results.set_index(['arm', 'seed'])['mAP']
    without,qsd = (found[f'fine-tuned {o} QSD'] for o in ('without', 'with'))
    assert gains.loc[('fine-tuned with QSD', 'mAP'), 'mean'] == pytest.approx((qsd - without).mean())
    assert 'Gain over "fine-tuned without QSD" of the same seed' in said
    assert (people/'compared'/'gains.png').stat().st_size
    summary, = runs(people/'compared')
    summary.check_keys()
    assert summary.header.job_type == 'compare'
    ids = [o.header.run_id for k in range(2) for o in runs(people/'compared'/f'seed{k}')]
    assert len(ids) == 12
    assert sorted(summary.config['uses']) == sorted(f'{o}-evaluation' for o in ids)
    groups = {json.loads((o/'run.json').read_text())['args']['group'] for o in (people/'compared').glob('seed*')}
    assert groups == {'compared'}
    assert 'compare' not in {o.header.job_type for k in range(2) for o in runs(people/'compared'/f'seed{k}')}


def test_the_published_schedule_runs(people):
    said = run(people, 'recipes/reid_agw.py', '--data', 'people/images.csv', '--out', 'paper', '--height', 32,
               '--width', 16,
               '--n-ids', 4, '--n-imgs', 2, '--epochs', 1, '--tune-epochs', 1, '--arms', 'with')
    assert 'with QSD' in said
    kept = json.loads((people/'paper'/'run.json').read_text())
    assert kept['args']['pairs'] == 'partner'
    assert kept['args']['tune_lr'] == 3.5e-6
    assert 'pairs' in kept['stages']['fine-tuned with QSD']
    learn = load_learner(people/'paper'/'fine-tuned_with_QSD.pkl')
    assert type(learn.model.body).__name__ == 'NonLocalResNet'
    assert isinstance(learn.loss_func.triplet, WeightedRegularizedTriplet)
    assert learn.loss_func.center.centers.shape == (8, 2048)


def test_what_remains_may_be_asked_for_otherwise(people):
    args = ['--data', 'people/images.csv', '--out', 'changed', *tiny]
    run(people, 'recipes/reid.py', *args, '--arms', 'without')
    before = pd.read_csv(people/'changed'/'results.csv', index_col=0)
    batches = (people/'changed'/'baseline_batches.csv').read_bytes()
    said = run(people, 'recipes/reid.py', *args, '--arms', 'without,with', '--weight', 3, '--workers', 1, '--resume')
    assert said.count('epochs were done: the weights are those of changed/') == 2
    assert (people/'changed'/'baseline_batches.csv').read_bytes() == batches
    after = pd.read_csv(people/'changed'/'results.csv', index_col=0)
    pd.testing.assert_frame_equal(after.iloc[:2], before)
    changed, = json.loads((people/'changed'/'run.json').read_text())['changed']
    assert changed['weight'] == [1.0, 3.0]
    assert changed['arms'] == ['without', 'without,with']
    said = run(people, 'recipes/reid.py', *args, '--arms', 'without,with', '--weight', 2, '--resume', code=1)
    assert 'The stage "fine-tuned with QSD"' in said
    assert 'weight was 3.0 and is 2.0' in said
    said = run(people, 'recipes/reid.py', *args, '--weight', 3, '--tune-lr', 1e-4, '--resume', code=1)
    assert 'tune_lr was 0.002 and is 0.0001' in said


@pytest.mark.skipif(not FACES.is_dir(), reason='the London faces are not beside the repository')
def test_real_faces_end_to_end(tmp_path):
    said = run(tmp_path, 'data_prep/folder.py', FACES, '--query', 'neutral', '--degrade', 3, '--out', 'faces')
    table = read_table(tmp_path/'faces'/'images.csv')
    assert table['identity'].nunique() == 102
    assert table['true_quality'].between(0, 100).all()
    assert table.loc[table['split'] == 'gallery', 'path'].str.contains('smiling').all()
    assert table.loc[table['split'] == 'query', 'path'].str.contains('neutral').all()
    said = run(tmp_path, 'recipes/reid.py', '--data', 'faces/images.csv', '--out', 'run', '--arch', 'test_resnet',
               '--height', 32, '--width', 32,
               '--n-ids', 12, '--n-imgs', 4, '--epochs', 1, '--tune-epochs', 1)
    assert 'fine-tuned with QSD' in said
