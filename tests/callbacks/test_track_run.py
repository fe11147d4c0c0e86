"Runs are written offline, and their files are read back"
import csv
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from fastai.callback.core import Callback
from fastai.callback.schedule import SchedCos
from fastai.callback.tracker import EarlyStoppingCallback, SaveModelCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner, load_learner
from fastai.optimizer import SGD
from fastai.torch_core import set_seed
from torch.utils._python_dispatch import TorchDispatchMode

from qsd_fastai.callbacks import track_run as tracking
from qsd_fastai.callbacks.found import described
from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.callbacks.track_run import TrackRun
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.evaluation.metrics import Retrieval, Verification, hardest_pairs, hardest_queries
from qsd_fastai.evaluation.roc import far_of
from qsd_fastai.evaluation.scores import all_pairs
from qsd_fastai.evaluation.store import EmbeddingStore
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import RecognitionLoss
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.runs.made import package_state, versions
from qsd_fastai.runs.wandb_run import finish_run, last_known, start_run, waiting
from qsd_fastai.tensors import numbers

sys.path.insert(0, str(Path(__file__).parents[1]/'runs'))
from wandb_files import Run, runs

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning'),
              pytest.mark.usefixtures('one_thread')]


class StopAt(Callback):
    "Ctrl-C in the middle of an epoch, counted from 0"
    order = 90

    def __init__(self, epoch): self.epoch_to_stop = epoch

    def after_batch(self):
        if self.training and self.iter == 1 and self.epoch == self.epoch_to_stop: raise KeyboardInterrupt


def make(table, cbs=None, path=None, metrics=None):
    set_seed(0)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, seed=0, num_workers=0, device='cpu')
    metrics = metrics or Retrieval('rank1', 'mAP')
    learn = recognition_learner(dls, 'test_resnet', metrics=metrics, cbs=cbs, path=path)
    learn.remove_cb(learn.progress)
    return learn


@pytest.fixture
def offline(monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    yield
    if wandb.run is not None: finish_run(wandb.run, failed=True)


@pytest.fixture(scope='module')
def tracked(labelled_people, tmp_path_factory, one_thread):
    "A run without a key and without anybody having asked for offline, and what was printed"
    folder,said = tmp_path_factory.mktemp('tracked'),[]
    with pytest.MonkeyPatch.context() as mp:
        for name in ('WANDB_MODE', 'WANDB_API_KEY', 'WANDB_DATA_DIR', 'NETRC'): mp.delenv(name, raising=False)
        (folder/'home').mkdir()
        mp.setenv('HOME', str(folder/'home'))
        mp.setattr('builtins.print', lambda *args, **kwargs: said.append(' '.join(map(str, args))))
        table = labelled_people.copy()
        table.loc[:9, 'quality'] = float('nan')
        table.attrs = {**labelled_people.attrs}
        track = TrackRun(run_name='first', group='tests', config={'note': 'mine'}, dir=folder/'runs', hardest=5)
        learn = make(table, cbs=[QualityDistillation(SchedCos(.5, 1.), tau=.2), track])
        learn.lr_find(num_it=3, show_plot=False, suggest_funcs=None)  # all these log nothing
        learn.validate()
        assert wandb.run is None
        assert not (folder/'runs').exists()
        losses = []
        class Keep(Callback):
            order,run_valid = 66,False
            def after_batch(self):
                terms = {k: float(v) for k,v in self.learn.loss_terms.last.items()}
                losses.append((float(self.loss), terms))
        learn.fit_one_cycle(2, slice(1e-4, 1e-3), cbs=Keep())
        assert wandb.run is None
        learn.validate()
    run, = runs(folder/'runs')
    return run, learn, losses, said, folder


def test_offline_without_a_key_and_it_says_so(tracked):
    run,_,_,said,folder = tracked
    line = f'W&B run kept offline. To upload it: wandb login, then wandb sync {run.folder}'
    assert line in said
    assert Path(line.split()[-1]).is_dir()
    assert (run.header.project, run.header.run_group, run.header.display_name) == ('qsd_fastai', 'tests', 'first')
    assert run.exit == [0]
    # everything that waits for the upload is in the folder of the run
    assert not list((folder/'home').glob('.local/share/wandb/artifacts/**/*'))


def test_its_keys(tracked):
    tracked[0].check_keys()


def test_config(tracked, labelled_people):
    run,learn,*_ = tracked
    assert run.config['note'] == 'mine'  # what is found does not stand beside what was said
    assert run.config['versions'] == versions()
    assert run.config['package'] == package_state()
    c = run.config['found']
    known = {'body': 'test_resnet', 'size': [32, 16], 'n_identities': 8, 'n_ids': 4, 'n_imgs': 3, 'n_epoch': 2}
    assert {k: c[k] for k in known} == known
    assert c['n_batches'] == 4
    assert set(c['changes']) == {'CropFlip', 'RandomErasing'}
    assert c['changes']['CropFlip']['p'] == .5
    assert (c['optimizer'], c['device'], c['seed'], c['wd']) == ('Adam', 'cpu', 0, .01)
    assert c['parameters'] == sum(p.numel() for p in learn.model.parameters())
    np.testing.assert_allclose(c['lr'], [1e-4, 1e-3])
    assert c['head']['name'] == 'LinearHead'
    assert c['loss']['name'] == 'RecognitionLoss'
    assert c['loss']['weights'] == {'identity': 1., 'triplet': 1., 'center': 0.}
    assert c['loss']['identity']['smoothing'] == .1
    assert c['loss']['triplet']['margin'] == .3
    qsd = c['callbacks']['quality_distillation']
    assert qsd['weight']['start'] == .5
    assert qsd['qsd']['tau'] == .2
    assert qsd['pairs'] == 'batch'
    assert qsd['qsd']['level_weights'][-1] == .1
    assert not {k for k in {**qsd, **qsd['qsd']} if k.startswith('n_') or k == 'taught'}
    assert c['callbacks']['loss_terms'] == {'name': 'LossTerms'}
    assert {'loss_terms', 'param_scheduler'} <= set(c['callbacks'])
    assert not {'recorder', 'track_run'} & set(c['callbacks'])
    record = labelled_people.attrs['record']
    assert c['table'] == {'rows': 72, 'train': 48, 'query': 12, 'gallery': 12, 'record': record}


def test_every_term_and_rate_of_every_batch(tracked):
    run,_,losses,*_ = tracked
    rows = run.rows('train/loss')
    assert [r['batch'] for r in rows] == list(range(8)) == list(range(len(losses)))
    names = {'identity', 'triplet', 'qsd', 'qsd_level1', 'qsd_level2', 'qsd_level3', 'qsd_emb', 'qsd_logits',
             'qsd_gap', 'qsd_cosine_level1', 'qsd_cosine_emb'}
    for row,(loss,terms) in zip(rows, losses):
        np.testing.assert_allclose(row['train/loss'], loss, rtol=1e-6)
        assert names <= set(terms)
        for k,v in terms.items(): np.testing.assert_allclose(row[f'train/{k}'], v, rtol=1e-6)
    np.testing.assert_allclose([r['lr/group1'] for r in rows], [r['lr/group0']*10 for r in rows])
    assert max(r['lr/group1'] for r in rows) == pytest.approx(1e-3)
    assert rows[0]['lr/group1'] < 1e-4
    steps = {'train/*': 'batch', 'lr/*': 'batch', 'valid/*': 'epoch', 'mean/*': 'epoch', 'cost/*': 'epoch'}
    assert steps.items() <= run.steps.items()


def test_metrics_of_every_epoch(tracked):
    run,learn,*_ = tracked
    rows = run.rows('valid/mAP')
    assert [r['epoch'] for r in rows] == [1, 2]
    assert all(0 <= r['valid/rank1'] <= 1 and r['valid/loss'] > 0 for r in rows)
    _,rank1,mAP = learn.validate()  # the weights are those of the last epoch
    np.testing.assert_allclose([rows[-1]['valid/rank1'], rows[-1]['valid/mAP']], [rank1, mAP], rtol=1e-6)
    for row in rows:
        assert row['cost/pictures_a_second'] > 0
        assert row['cost/process_gib'] > .05
    for row,terms in zip(rows, learn.loss_terms.epochs):
        for k in ('identity', 'triplet', 'qsd', 'qsd_emb'):
            np.testing.assert_allclose(row[f'mean/{k}'], terms[k], rtol=1e-6)


def test_hardest_queries_table(tracked):
    run,learn,*_ = tracked
    row, = run.rows('tables/hardest_queries')
    assert row['tables/hardest_queries']['_type'] == 'table-file'
    assert row['tables/hardest_queries']['nrows'] == 5
    table,files = run.table('tables/hardest_queries')
    assert table['columns'] == ['query', 'path', 'quality', 'ap', 'first_rank', 'first_right',
                                *(f'rank{k}' for k in range(1, 6))]
    hard = hardest_queries(learn.metrics[0].store, 5)
    pictures,known = learn.dls.table['path'],learn.dls.table['quality']
    root = Path(learn.dls.table.attrs['root'])
    assert len(table['data']) == 5
    for cells,o in zip(table['data'], hard.itertuples()):
        _,path,quality,ap,first_rank,*_ = cells
        assert path == pictures[o.row]
        assert first_rank == o.first_rank
        assert quality == pytest.approx(known[o.row], rel=1e-6)
        assert ap == pytest.approx(o.ap)
        shown = [cells[0], *cells[5:]]
        right = int(o.answer)
        assert pictures[right] != pictures[o.row]
        assert learn.dls.table['identity'][right] == learn.dls.table['identity'][o.row]
        assert all(c['_type'] == 'image-file' for c in shown)
        for cell,source in zip(shown, [o.row, right, *o.gallery]):
            assert files[cell['path']].read_bytes() == (root/pictures[source]).read_bytes()
        assert [c['caption'] for c in cells[6:]] == ['right' if ok else 'wrong' for ok in o.correct]
    assert min(run.picture_size(row['plots/hardest_queries'])) > 300


def test_curves_and_thirds_of_what_was_judged(tracked):
    "As recipes have them: of the last epoch, as pictures and as charts, without a picture that is embedded again"
    run,learn,*_ = tracked
    row, = run.rows('charts/cmc_table')
    plots = {'plots/cmc', 'plots/search_vs_reject', 'plots/map_by_quality', 'plots/rank1_by_quality'}
    assert plots | {'charts/search_vs_reject_table'} <= set(row)
    for k in plots: assert min(run.picture_size(row[k])) > 250
    result,thirds = learn.metrics[0].judge.found()
    lines = [dict(zip(table['columns'], o)) for table,_ in [run.table('charts/cmc_table')] for o in table['data']]
    np.testing.assert_allclose([o['lineVal'] for o in lines], result.cmc, atol=1e-6)
    table,_ = run.table('charts/search_vs_reject_table')
    kept = [o for o in (dict(zip(table['columns'], o)) for o in table['data']) if o['lineKey'] == 'quality']
    assert kept[0]['step'] == 0
    assert kept[0]['lineVal'] == pytest.approx(result.mAP)
    assert len(kept) > 10
    assert {'worst', 'best'} <= set(thirds.index)


def test_verification_is_looked_at(labelled_people, offline, tmp_path):
    held = labelled_people[labelled_people['split'] != 'train'].reset_index(drop=True)
    found,path = all_pairs(held['identity']),held['path'].to_numpy()
    pairs = pd.DataFrame({'path1': path[found['first']], 'path2': path[found['second']], 'same': found['same']})
    pairs['fold'] = np.arange(len(pairs)) % 5
    store = EmbeddingStore()
    metrics = Retrieval('mAP', store=store) + Verification('accuracy', 'tar@1e-1', pairs=pairs, store=store)
    track = TrackRun(dir=tmp_path, hardest=3, log_model=False, log_table=False)
    make(labelled_people, metrics=metrics, cbs=track).fit(1, 1e-3)
    run, = runs(tmp_path)
    assert {'valid/mAP', 'valid/accuracy', 'valid/tar@1e-1'} <= set(run.rows('valid/mAP')[0])
    row, = run.rows('tables/hardest_pairs')
    for k in ('roc', 'det', 'error_vs_reject', 'accuracy_by_quality', 'hardest_pairs', 'hardest_queries'):
        k = f'plots/{k}'
        assert min(run.picture_size(row[k])) > 300
    table,files = run.table('tables/hardest_pairs')
    hard = hardest_pairs(store, 3)
    assert len(table['data']) == len(hard) == 6
    root,pictures = Path(labelled_people.attrs['root']),labelled_people['path']
    for cells,o in zip(table['data'], hard.itertuples()):
        found = dict(zip(table['columns'], cells))
        for k,row in (('1', o.row1), ('2', o.row2)):
            assert files[found[f'picture{k}']['path']].read_bytes() == (root/pictures[row]).read_bytes()
            assert found[f'path{k}'] == pictures[row]
        assert found['same'] == o.same
        assert found['correct'] == o.correct
        assert (found['score'] >= found['threshold']) == (o.correct == o.same)
        worse = labelled_people['quality'][[o.row1, o.row2]].min()
        assert found['quality'] == pytest.approx(worse, rel=1e-6)
        assert found['score'] == pytest.approx(o.score)
    assert far_of([True]*5 + [False]*1000) == .001
    assert far_of([False]*999) == .01
    assert far_of([0]*30) == .1


def test_verification_without_quality_is_looked_at_too(labelled_people, offline, tmp_path):
    held = labelled_people[labelled_people['split'] != 'train']['path'].to_numpy()
    pairs = pd.DataFrame({'path1': held[:12], 'path2': held[12:], 'same': [1, 0]*6, 'fold': 0})
    table = labelled_people.assign(quality=np.nan)
    table.attrs = labelled_people.attrs
    track = TrackRun(dir=tmp_path, log_model=False, log_table=False)
    make(table, metrics=Verification(pairs=pairs, folds=2), cbs=track).fit(1, 1e-3)
    run, = runs(tmp_path)
    row, = run.rows('tables/hardest_pairs')
    assert {'plots/roc', 'charts/roc_table', 'charts/det_table'} <= set(row)
    assert not [k for k in row if 'reject' in k or 'by_quality' in k]
    assert row['tables/hardest_pairs']['nrows'] == 12


def test_quality_histogram(tracked):
    run,learn,*_ = tracked
    row, = run.rows('histograms/quality')
    assert row['histograms/quality']['_type'] == 'histogram'
    train = learn.dls.table.loc[learn.dls.table['split'] == 'train', 'quality'].dropna()
    np.testing.assert_array_equal(row['histograms/quality']['values'], np.histogram(train, 40)[0])
    assert min(run.picture_size(row['plots/quality'])) > 300


def test_model_and_table_are_artifacts(tracked):
    run,learn,*_ = tracked
    artifacts = run.artifacts.items()
    model,table = (next(a for name,a in artifacts if name.endswith(end)) for end in ('-model', '-table'))
    assert model.type == 'model'
    assert table.type == 'dataset'
    assert model.digest
    assert table.digest
    entry, = model.manifest.contents
    assert entry.path == 'model.pth'
    assert entry.digest
    kept = torch.load(entry.local_path, weights_only=True)
    assert all(torch.equal(v, kept[k]) for k,v in learn.model.state_dict().items())
    entry, = table.manifest.contents
    assert entry.path == 'images.csv'
    with open(entry.local_path) as f: rows = list(csv.DictReader(f))
    assert [r['path'] for r in rows] == list(learn.dls.table['path'])
    assert sum(r['quality'] == '' for r in rows) == 10
    assert json.loads(table.metadata) == learn.dls.table.attrs['record']
    for entry in (*model.manifest.contents, *table.manifest.contents):
        assert run.folder in Path(entry.local_path).parents


def test_two_learners_are_two_runs_and_ctrl_c_is_a_failure(labelled_people, offline, tmp_path, capsys):
    learn = make(labelled_people)
    with pytest.raises(KeyboardInterrupt): learn.fit(2, 1e-3, cbs=[TrackRun(dir=tmp_path), StopAt(1)])
    first = wandb.run
    assert first is not None  # nobody tells a callback; the next fit clears up
    assert not waiting  # rows are not lost where somebody else finishes the run
    learn = make(labelled_people, path=tmp_path)
    learn.fit(1, 1e-3, cbs=TrackRun(dir=tmp_path, log_table=False))
    assert wandb.run is None
    assert capsys.readouterr().out.count('kept offline') == 2
    one,two = runs(tmp_path)
    assert one.header.run_id == first.id != two.header.run_id
    assert one.exit == [1]
    assert not one.artifacts
    assert not one.rows('histograms/quality')
    assert len(one.rows('train/loss')) == 6
    assert [r['epoch'] for r in one.rows('valid/mAP')] == [1]  # what was done is there
    assert two.exit == [0]
    assert {a.type for a in two.artifacts.values()} == {'model', 'run_table'}


class Seen(Callback):
    "AP of each query after each epoch, and the weights"
    order = 70
    def before_fit(self): self.ap,self.weights = [],[]

    def after_epoch(self):
        judged = self.metrics[0].judge.found()[0].per_query
        self.ap.append(np.sort(judged['ap'].dropna())[:5])
        self.weights.append({k: v.clone() for k,v in self.model.state_dict().items()})


@pytest.mark.parametrize('best', [True, False], ids=['best', 'last'])
def test_all_that_is_kept_is_of_one_epoch(labelled_people, offline, tmp_path, best):
    "The figure that is watched is best after the second of three epochs"
    learn,seen = make(labelled_people, path=tmp_path),Seen()
    class Rise(Callback):
        "The monitored figure by epoch"
        order = 59
        def after_epoch(self): self.recorder.values[-1][1] = [.9, .2, .5][self.epoch]
    cbs = [seen, Rise(), TrackRun(dir=tmp_path, hardest=5), *([SaveModelCallback()] if best else [])]
    learn.fit(3, 1e-2, cbs=cbs)
    run, = runs(tmp_path)
    epoch = 2 if best else 3
    artifact, = (a for a in run.artifacts.values() if a.type == 'model')
    assert set(artifact.aliases) == {'best' if best else 'last', 'latest'}
    known = json.loads(artifact.metadata)
    assert known['epoch'] == epoch
    assert known.get('monitor') == ('valid_loss' if best else None)
    assert known['mAP'] == pytest.approx(run.rows('valid/mAP')[epoch - 1]['valid/mAP'])
    weights = torch.load(next(Path(o.local_path) for o in artifact.manifest.contents), weights_only=True)
    assert all(torch.equal(weights[k], v) for k,v in seen.weights[epoch - 1].items())
    table,_ = run.table('tables/hardest_queries')
    np.testing.assert_allclose([row[3] for row in table['data']], seen.ap[epoch - 1], atol=1e-6)
    cmc,_ = run.table('charts/cmc_table')
    first = dict(zip(cmc['columns'], cmc['data'][0]))
    assert first['lineVal'] == pytest.approx(run.rows('valid/rank1')[epoch - 1]['valid/rank1'])
    assert run.summary['final/epoch'] == epoch
    # both by name, whichever the model is of
    for name,best in (('mAP', max), ('rank1', max)):
        values = [row[f'valid/{name}'] for row in run.rows(f'valid/{name}')]
        assert run.summary[f'valid/{name}'] == {'max': best(values), 'last': values[-1]}
    assert run.summary['valid/loss'] == {'min': .2, 'last': .5}


def test_the_best_epoch_of_a_run_that_is_resumed(labelled_people, offline, tmp_path):
    "It was before the stop: its figures are known, its hardest queries are not, and no others are shown for them"
    class Rise(Callback):
        order = 59
        def after_epoch(self): self.recorder.values[-1][1] = [.2, .9, .8][self.epoch]
    def fit(resume, *cbs):
        learn = make(labelled_people, path=tmp_path)
        track = TrackRun(dir=tmp_path, id='again', log_table=False)
        learn.fit(3, 1e-2, cbs=[Rise(), SaveModelCallback(), track, SaveState(tmp_path/'s', resume), *cbs])
    with pytest.raises(KeyboardInterrupt): fit(False, StopAt(1))
    fit(True)
    _,run = runs(tmp_path)
    artifact, = (a for a in run.artifacts.values() if a.type == 'model')
    assert json.loads(artifact.metadata)['epoch'] == 1
    assert 'best' in artifact.aliases
    assert not run.rows('tables/hardest_queries')


class Looks(TorchDispatchMode):
    "Counts numbers that are looked at: each would wait for a device"
    n = 0
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.n += func.overloadpacket.__name__ == '_local_scalar_dense'
        return func(*args, **(kwargs or {}))


def test_a_logged_batch_looks_at_no_number_by_itself(labelled_people, offline, tmp_path, monkeypatch):
    "All come at once, and with `every` only from those batches that are logged"
    seen,came = [],[]
    def counted(scalars):
        came.append(set(scalars))
        return numbers(scalars)
    monkeypatch.setattr(tracking, 'numbers', counted)
    class Counted(TrackRun):
        def after_batch(self):
            with Looks() as looks: super().after_batch()
            if self.training: seen.append(looks.n)
    track = Counted(dir=tmp_path, every=3, log_model=False, log_table=False)
    learn = make(labelled_people, cbs=[QualityDistillation(), track])
    learn.fit(2, 1e-3)
    assert seen == [0]*8
    assert len(came) == 3
    assert {'train/loss', 'train/qsd_gap', 'train/identity'} <= came[0]
    run, = runs(tmp_path)
    assert [r['batch'] for r in run.rows('train/loss')] == [0, 3, 6]
    assert track.batches.frame()['batch'].tolist() == [0, 3, 6]
    frame,rows = track.epochs.frame(),run.rows('valid/mAP')
    for k in ('epoch', 'valid/mAP', 'cost/pictures_a_second'): assert frame[k].tolist() == [r[k] for r in rows]


@pytest.mark.parametrize('n,every', [(1, 1), (19, 1), (20, 2), (57, 5), (100, 10), (5000, 10)])
def test_of_long_epochs_every_tenth_batch_is_logged(n, every):
    "W&B's own `log` takes longer than a fast step can spare"
    assert tracking.usual_every(n) == every


def test_without_every_the_length_of_the_epoch_says_what_is_logged(offline, tmp_path):
    batches = [(torch.randn(4, 3, 8, 8), torch.arange(4) % 2)]*25
    dls = DataLoaders(batches, [], device='cpu')
    learn = Learner(dls, Recognizer('test_resnet', 2, pretrained=False), loss_func=RecognitionLoss(), opt_func=SGD)
    track = TrackRun(dir=tmp_path, log_model=False, log_table=False)
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-4, cbs=track)
    assert track.batches.frame()['batch'].tolist() == list(range(0, 50, 2))


def test_the_users_run_goes_on(labelled_people, offline, tmp_path):
    "It is not finished, and both fits of `fine_tune` follow one another in it"
    run = start_run(dir=tmp_path, config={'mine': 1})
    learn = make(labelled_people, cbs=TrackRun(dir=tmp_path/'other', log_model=False, log_table=False))
    learn.fine_tune(1, 1e-3)
    assert wandb.run is run
    run.log({'after': 1})
    finish_run(run)
    read, = runs(tmp_path)
    assert read.config['mine'] == 1
    assert read.config['found']['body'] == 'test_resnet'
    assert read.rows('after')
    assert not (tmp_path/'other').exists()
    assert [r['batch'] for r in read.rows('train/loss')] == list(range(8))
    assert [r['epoch'] for r in read.rows('valid/mAP')] == [1, 2]
    assert not {'model', 'dataset'} & {a.type for a in read.artifacts.values()}


def test_fine_tune_is_one_run(labelled_people, offline, tmp_path):
    learn = make(labelled_people, cbs=TrackRun(dir=tmp_path, log_table=False))
    for n in (1, 2): # again: another run
        learn.fine_tune(1, 1e-3)
        assert wandb.run is None
        read = runs(tmp_path)[-1]
        assert len(runs(tmp_path)) == n
        assert read.exit == [0]
        assert [r['batch'] for r in read.rows('train/loss')] == list(range(8))
        assert [r['epoch'] for r in read.rows('valid/mAP')] == [1, 2]
        assert [a.type for a in read.artifacts.values()].count('model') == 1
        frozen,then = read.config['found'],read.config['found_second']
        assert max(frozen['lr']) == pytest.approx(1e-3)
        assert max(then['lr']) == pytest.approx(5e-4)


@pytest.mark.parametrize('values,best', [([.2, .9, .5], 1), ([.9, .5, .2], 3), ([.5, .2, .9], 2)])
def test_the_best_of_fine_tune_is_the_best_of_both_fits(labelled_people, offline, tmp_path, values, best):
    weights,left = [],[]
    class Rise(Callback):
        "The monitored figure by epoch, and the weights it is of"
        order = 59
        def after_epoch(self):
            self.recorder.values[-1][1] = left.pop(0)
            weights.append({k: v.clone() for k,v in self.model.state_dict().items()})
    keep,track = SaveModelCallback(),TrackRun(dir=tmp_path, log_table=False)
    learn = make(labelled_people, cbs=[Rise(), track], path=tmp_path)
    for k in range(2): # The second time nothing of the first counts
        weights.clear()
        left[:] = [o + k/100 for o in values]
        learn.fine_tune(2, 1e-2, cbs=keep)
        run = runs(tmp_path)[-1]
        artifact, = (a for a in run.artifacts.values() if a.type == 'model')
        assert 'best' in artifact.aliases
        assert json.loads(artifact.metadata)['epoch'] == run.summary['final/epoch'] == best
        kept = torch.load(next(Path(o.local_path) for o in artifact.manifest.contents), weights_only=True)
        assert all(torch.equal(kept[k], v) for k,v in weights[best - 1].items())
        assert all(torch.equal(learn.model.state_dict()[k], v) for k,v in weights[best - 1].items())
        assert keep.best == min(values) + k/100
        assert keep.reset_on_fit


def test_fine_tune_takes_classes_of_callbacks(labelled_people, offline, tmp_path, capsys):
    learn = make(labelled_people, path=tmp_path)
    learn.fine_tune(1, 0., cbs=SaveModelCallback) # Nothing changes but statistics of batch norm
    said = capsys.readouterr().out
    assert len(learn.cbs.filter(lambda o: isinstance(o, SaveModelCallback))) == 0
    values = [float(o.split(': ')[1].rstrip('.')) for o in said.split('\n') if o.startswith('Better model')]
    assert values == sorted(set(values), reverse=True)


def test_peak_memory_is_that_of_the_run(labelled_people, offline, tmp_path, monkeypatch):
    "Each is counted from its beginning, both fits of `fine_tune` together"
    seen = []
    monkeypatch.setattr(tracking, 'reset_peak_memory', lambda device: seen.append((str(device), learn.epoch)))
    learn = make(labelled_people, cbs=TrackRun(dir=tmp_path, log_model=False, log_table=False))
    learn.validate()
    assert not seen
    for n in (1, 2):
        learn.fine_tune(1, 1e-3)
        assert seen == [('cpu', 0)]*n


def test_resume_with_the_same_id(labelled_people, offline, tmp_path, capsys):
    def fit(resume, *cbs):
        state,track = SaveState(tmp_path/'s', resume),TrackRun(dir=tmp_path, id='again')
        make(labelled_people).fit(3, 1e-3, cbs=[state, track, *cbs])
    with pytest.raises(KeyboardInterrupt): fit(False, StopAt(1))
    fit(True)
    one,two = runs(tmp_path)
    assert one.header.run_id == two.header.run_id == 'again'
    steps = [[r['_step'] for r in o.history] for o in (one, two)]
    assert steps[0][0] == 0
    assert steps[1] == list(range(steps[0][-1] + 1, steps[0][-1] + 1 + len(two.history)))
    assert capsys.readouterr().out.rstrip().endswith(f'wandb sync {one.folder} {two.folder}')
    assert (one.exit, two.exit) == ([1], [0])
    # what was done before is not logged again, nor the batches of the epoch that was stopped, which is done again
    done,then = ([r['batch'] for r in o.rows('train/loss')] for o in (one, two))
    assert done[:4] == [0, 1, 2, 3]
    assert 4 < len(done) < 8
    assert done + then == list(range(12))
    assert [r['epoch'] for r in two.rows('valid/mAP')] == [2, 3]
    assert {a.type for a in two.artifacts.values()} == {'model', 'dataset', 'run_table'}
    fit(True)  # nothing left to train: the artifacts are made sure of
    three = runs(tmp_path)[2]
    assert not three.rows('train/loss')
    assert {a.type for a in three.artifacts.values()} == {'model', 'dataset'}


def test_an_epoch_that_is_done_at_another_rate_is_logged_whole(labelled_people, offline, tmp_path):
    "What was logged of it before is of the rate that was given up"
    def fit(lr, resume, *cbs):
        state,track = SaveState(tmp_path/'s', resume),TrackRun(dir=tmp_path, id='again')
        make(labelled_people).fit(3, lr, cbs=[state, track, *cbs])
        return track
    with pytest.raises(KeyboardInterrupt): fit(1e-3, False, StopAt(1))
    whole = fit(1e-4, True).batches.frame()['batch']
    one,two = runs(tmp_path)
    assert 4 < len(one.rows('train/loss')) < 8
    assert [r['batch'] for r in two.rows('train/loss')] == list(range(4, 12))
    assert whole.tolist() == list(range(12))


def test_epochs_that_were_not_written_are_logged_again(labelled_people, offline, tmp_path):
    "A process that is killed loses what W&B had not written or sent yet; the state has it"
    class Kill(Callback):
        order = SaveState.order + 1
        def before_epoch(self):
            if self.epoch == 3: raise KeyboardInterrupt
    def fit(resume, *cbs):
        state,track = SaveState(tmp_path/'s', resume),TrackRun(dir=tmp_path, id='again', log_table=False)
        learn = make(labelled_people)
        learn.track_run_was = track
        learn.fit(4, 1e-3, cbs=[state, track, *cbs])
        return learn
    with pytest.raises(KeyboardInterrupt): fit(False, Kill())
    finish_run(wandb.run, failed=True)
    whole, = runs(tmp_path)
    file, = whole.folder.glob('*.wandb')
    data = file.read_bytes()
    second = re.search(rb'\x05epoch\x82\x01.2', data).start()
    file.write_bytes(data[:second])  # epoch 1 is there, 2 and 3 are not
    learn = fit(True)
    assert learn.track_run_was.epochs.frame()['epoch'].tolist() == [1, 2, 3, 4]
    two = max(tmp_path.glob('wandb/offline-run-*'), key=lambda o: o.stat().st_mtime_ns)
    rows = Run(two).rows('valid/mAP')
    assert [r['epoch'] for r in rows] == [2, 3, 4]
    before = {r['epoch']: r for r in whole.rows('valid/mAP')}
    for row in rows[:2]:
        for k in ('valid/mAP', 'valid/loss', 'mean/identity'): assert row[k] == before[row['epoch']][k]
    assert rows[-1]['valid/mAP'] == learn.recorder.values[-1][-1]


def test_what_is_known_of_a_run_that_is_online():
    run = SimpleNamespace(offline=False, summary={'epoch': 7, 'batch': 0})
    assert last_known(run, 'epoch') == 7
    assert last_known(run, 'batch', -1) == 0
    run.summary = {}
    assert last_known(run, 'epoch') == 0
    assert last_known(run, 'batch', -1) == -1


def test_a_fit_that_is_refused_starts_no_run(labelled_people, offline, tmp_path):
    (tmp_path/'s').write_bytes(b'no state')
    with pytest.raises(ValueError, match='cannot be read'):
        make(labelled_people).fit(1, 1e-3, cbs=[SaveState(tmp_path/'s', True), TrackRun(dir=tmp_path)])
    assert wandb.run is None
    assert not runs(tmp_path)


def test_a_learner_of_ones_own(labelled_people, offline, tmp_path):
    "No table, no metrics, no LossTerms, early stopping; and the learner can be exported afterwards"
    dls = make(labelled_people).dls
    del dls.table
    model,track = Recognizer('test_resnet', 8),TrackRun(dir=tmp_path)
    learn = Learner(dls, model, loss_func=RecognitionLoss(), path=tmp_path, cbs=track)
    learn.remove_cb(learn.progress)
    learn.fit(4, 1e-3, cbs=EarlyStoppingCallback(min_delta=100., patience=1))
    run, = runs(tmp_path)
    assert {'train/identity', 'train/triplet', 'train/loss', 'lr/group0'} <= set(run.rows('train/loss')[0])
    assert [r['epoch'] for r in run.rows('valid/loss')] == [1, 2]  # the epoch that stopped it included
    assert [a.type for a in run.artifacts.values()] == ['model']
    assert run.config['found']['loss']['name'] == 'RecognitionLoss'
    learn.export('it.pkl')
    assert load_learner(tmp_path/'it.pkl').track_run.wandb_run is None


def test_other_processes_and_disabled_runs(labelled_people, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tracking, 'rank_distrib', lambda: 1)
    make(labelled_people).fit(1, 1e-3, cbs=TrackRun(dir=tmp_path/'a'))
    assert not (tmp_path/'a').exists()
    monkeypatch.undo()
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    make(labelled_people).fit(1, 1e-3, cbs=TrackRun(dir=tmp_path/'b'))
    assert not list(tmp_path.glob('b/**/*.wandb'))
    assert 'W&B' not in capsys.readouterr().out
    assert wandb.run is None


def test_large_tables_are_kept_as_parquet(tracked, monkeypatch):
    table,made = tracked[1].dls.table,[]
    monkeypatch.setattr(TrackRun, '_log_artifact', lambda self, name, kind, file, *args: made.append(file))
    for n in (100_000, 100_001): TrackRun()._log_table(table.iloc[np.zeros(n, dtype=int)])
    assert made == ['images.csv', 'images.parquet']


def test_described():
    def schedule(pct): return pct
    assert described(schedule) == {'name': 'schedule'}
    # where it lies is a matter of the machine
    found = described(SaveState(Path('runs/a.state').absolute()), 0)
    assert found == {'name': 'SaveState', 'file': 'a.state', 'resume': False}
    assert described(QualityDistillation(schedule))['weight'] == {'name': 'schedule'}


def test_level_weights_are_said_once():
    found = described(QualityDistillation(preset='copies'))
    assert found['level_weights'] == {'emb': 1.}
    assert 'level_weights' not in found['qsd']
    assert 'level_weights' not in described(QualityDistillation(level_weights={}, relations=1.))['qsd']
    assert described(QualityDistillation())['qsd']['level_weights'] == [1., 1., 1., 1., .1]


def test_a_learner_that_was_loaded_is_tracked_again(labelled_people, offline, tmp_path):
    "fastcore keeps what cannot be pickled of a callback under a name of its own"
    learn = make(labelled_people, path=tmp_path, cbs=TrackRun(dir=tmp_path, log_model=False, log_table=False))
    learn.fit(1, 1e-3)
    learn.export('learn.pkl')
    loaded = load_learner(tmp_path/'learn.pkl')
    loaded.dls = learn.dls
    with loaded.no_bar(): loaded.fit(1, 1e-3, cbs=SaveModelCallback())
    _,two = runs(tmp_path)
    assert two.exit == [0]
    assert 'final/mAP' in two.summary
