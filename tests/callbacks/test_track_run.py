"Runs are written offline, and their files are read back"
import csv
import json
import os
import struct
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import wandb
from fastai.callback.core import Callback
from fastai.callback.schedule import SchedCos
from fastai.callback.tracker import EarlyStoppingCallback
from fastai.learner import Learner, load_learner
from fastai.torch_core import set_seed
from PIL import Image
from wandb.proto import wandb_internal_pb2

from qsd_fastai.callbacks import track_run as tracking
from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.callbacks.track_run import TrackRun, described
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.evaluation.metrics import Retrieval, Verification, hardest_pairs, hardest_queries
from qsd_fastai.evaluation.roc import far_of
from qsd_fastai.evaluation.scores import all_pairs
from qsd_fastai.evaluation.store import EmbeddingStore
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import RecognitionLoss
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.runs.tables import table_picture
from qsd_fastai.runs.wandb_run import finish_run, has_key, start_run

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning'), pytest.mark.usefixtures('one_thread')]


def records(file):
    "The records of a `.wandb` file: a log of blocks of 32 KiB, as LevelDB writes them"
    data,place,found,part = Path(file).read_bytes(), 7, [], b''
    assert data[:4] == b':W&B'
    while place + 7 <= len(data):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _,size,kind = struct.unpack('<IHB', data[place:place + 7])
        part += data[place + 7:place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # whole, or the last part
            found.append(wandb_internal_pb2.Record.FromString(part))
            part = b''
    return found


class Run:
    "What is in the file of a run"
    def __init__(self, folder):
        self.folder = Path(folder)
        for _ in range(100):  # another process writes it, and on a busy machine it comes late
            self.records = records(next(self.folder.glob('*.wandb')))
            if {'run', 'exit'} <= {r.WhichOneof('record_type') for r in self.records}: break
            time.sleep(.1)
        of = lambda kind: [getattr(r, kind) for r in self.records if r.WhichOneof('record_type') == kind]
        self.config,self.history,self.artifacts = {}, [], {}
        for update in (*(r.config for r in of('run')), *of('config')):
            self.config.update({item.key or '/'.join(item.nested_key): json.loads(item.value_json) for item in update.update})
        for h in of('history'):
            row = {}
            for item in h.item:
                *parents,key = list(item.nested_key) or [item.key]
                place = row
                for p in parents: place = place.setdefault(p, {})
                place[key] = json.loads(item.value_json)
            self.history.append(row)
        for a in of('artifact'): self.artifacts[a.name] = a
        self.exit = [e.exit_code for e in of('exit')]
        self.header = of('run')[0]
        self.steps = {m.glob_name: m.step_metric for m in of('metric')}

    def rows(self, key): return [row for row in self.history if key in row]


def runs(folder): return [Run(o) for o in sorted(Path(folder).glob('wandb/offline-run-*'), key=lambda o: o.stat().st_mtime_ns)]


class StopAt(Callback):
    "Ctrl-C in the middle of an epoch, counted from 0"
    order = 90
    def __init__(self, epoch): self.epoch_to_stop = epoch
    def after_batch(self):
        if self.training and self.iter == 1 and self.epoch == self.epoch_to_stop: raise KeyboardInterrupt


def make(table, cbs=None, path=None, **kwargs):
    set_seed(0)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, seed=0, num_workers=0, device='cpu')
    learn = recognition_learner(dls, 'test_resnet', **{'metrics': Retrieval('rank1', 'mAP'), 'cbs': cbs, 'path': path, **kwargs})
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
        assert wandb.run is None and not (folder/'runs').exists()
        losses = []
        class Keep(Callback):
            order,run_valid = 66,False
            def after_batch(self): losses.append((float(self.loss), {k: float(v) for k,v in self.learn.loss_terms.last.items()}))
        learn.fit_one_cycle(2, slice(1e-4, 1e-3), cbs=Keep())
        assert wandb.run is None
        learn.validate()
    run, = runs(folder/'runs')
    return run, learn, losses, said, folder


def test_offline_without_a_key_and_it_says_so(tracked):
    run,_,_,said,folder = tracked
    line = f'W&B run kept offline. To upload it: wandb login, then wandb sync {run.folder}'
    assert line in said and Path(line.split()[-1]).is_dir()
    assert (run.header.project, run.header.run_group, run.header.display_name) == ('qsd_fastai', 'tests', 'first')
    assert run.exit == [0]
    # everything that waits for the upload is in the folder of the run
    assert not list((folder/'home').glob('.local/share/wandb/artifacts/**/*'))


def test_config(tracked, labelled_people):
    run,learn,*_ = tracked
    c = run.config
    known = {'body': 'test_resnet', 'size': [32, 16], 'n_identities': 8, 'n_ids': 4, 'n_imgs': 3, 'n_epoch': 2, 'n_batches': 4}
    assert {k: c[k] for k in known} == known
    assert (c['note'], c['optimizer'], c['device'], c['seed']) == ('mine', 'Adam', 'cpu', 0)
    assert c['parameters'] == sum(p.numel() for p in learn.model.parameters())
    np.testing.assert_allclose(c['lr'], [1e-4, 1e-3])
    assert c['loss']['name'] == 'RecognitionLoss' and c['loss']['weights'] == {'identity': 1., 'triplet': 1., 'center': 0.}
    assert c['loss']['identity']['smoothing'] == .1 and c['loss']['triplet']['margin'] == .3
    qsd = c['callbacks']['quality_distillation']
    assert qsd['weight']['start'] == .5 and qsd['qsd']['tau'] == .2 and qsd['pairs'] == 'batch' and qsd['qsd']['level_weights'][-1] == .1
    assert {'loss_terms', 'param_scheduler'} <= set(c['callbacks']) and not {'recorder', 'track_run'} & set(c['callbacks'])
    assert c['table'] == {'rows': 72, 'train': 48, 'query': 12, 'gallery': 12, 'record': labelled_people.attrs['record']}


def test_every_term_and_rate_of_every_batch(tracked):
    run,_,losses,*_ = tracked
    rows = run.rows('train/loss')
    assert [r['batch'] for r in rows] == list(range(8)) == list(range(len(losses)))
    names = {'identity', 'triplet', 'qsd', 'qsd_level1', 'qsd_level2', 'qsd_level3', 'qsd_emb', 'qsd_logits'}
    for row,(loss,terms) in zip(rows, losses):
        np.testing.assert_allclose(row['train/loss'], loss, rtol=1e-6)
        assert names <= set(terms)
        for k,v in terms.items(): np.testing.assert_allclose(row[f'train/{k}'], v, rtol=1e-6)
    np.testing.assert_allclose([r['lr/group1'] for r in rows], [r['lr/group0']*10 for r in rows])
    assert max(r['lr/group1'] for r in rows) == pytest.approx(1e-3) and rows[0]['lr/group1'] < 1e-4
    assert {'train/*': 'batch', 'lr/*': 'batch', 'valid/*': 'epoch', 'mean/*': 'epoch'}.items() <= run.steps.items()


def test_metrics_of_every_epoch(tracked):
    run,learn,*_ = tracked
    rows = run.rows('valid/mAP')
    assert [r['epoch'] for r in rows] == [1, 2] and all(0 <= r['valid/rank1'] <= 1 and r['valid/loss'] > 0 for r in rows)
    _,rank1,mAP = learn.validate()  # the weights are those of the last epoch
    np.testing.assert_allclose([rows[-1]['valid/rank1'], rows[-1]['valid/mAP']], [rank1, mAP], rtol=1e-6)
    for row,terms in zip(rows, learn.loss_terms.epochs):
        for k in ('identity', 'triplet', 'qsd', 'qsd_emb'): np.testing.assert_allclose(row[f'mean/{k}'], terms[k], rtol=1e-6)


def test_hardest_queries_table(tracked):
    run,learn,*_ = tracked
    row, = run.rows('hardest_queries')
    assert row['hardest_queries']['_type'] == 'table-file' and row['hardest_queries']['nrows'] == 5
    artifact, = (a for name,a in run.artifacts.items() if name.endswith('hardest_queries'))
    files = {o.path: Path(o.local_path) for o in artifact.manifest.contents}
    table = json.loads(files['hardest_queries.table.json'].read_text())
    assert table['columns'] == ['query', 'path', 'quality', 'ap', 'first_rank', *(f'rank{k}' for k in range(1, 6))]
    hard = hardest_queries(learn.metrics[0].store, 5)
    pictures = learn.dls.table['path']
    root = Path(learn.dls.table.attrs['root'])
    assert len(table['data']) == 5
    for cells,o in zip(table['data'], hard.itertuples()):
        _,path,quality,ap,first_rank,*_ = cells
        assert path == pictures[o.row] and first_rank == o.first_rank and quality == pytest.approx(learn.dls.table['quality'][o.row], rel=1e-6)
        assert ap == pytest.approx(o.ap)
        shown = [cells[0], *cells[5:]]
        assert all(c['_type'] == 'image-file' for c in shown)
        for cell,source in zip(shown, [o.row, *o.gallery]):
            assert files[cell['path']].read_bytes() == (root/pictures[source]).read_bytes()
        assert [c['caption'] for c in cells[5:]] == ['right' if ok else 'wrong' for ok in o.correct]
    with Image.open(run.folder/'files'/row['hardest_queries_sheet']['path']) as img: assert min(img.size) > 300


def test_verification_is_looked_at(labelled_people, offline, tmp_path):
    held = labelled_people[labelled_people['split'] != 'train'].reset_index(drop=True)
    pairs,path = all_pairs(held['identity']), held['path'].to_numpy()
    pairs = pd.DataFrame({'path1': path[pairs['first']], 'path2': path[pairs['second']], 'same': pairs['same'], 'fold': np.arange(len(pairs)) % 5})
    store = EmbeddingStore()
    metrics = Retrieval('mAP', store=store) + Verification('accuracy', 'tar@1e-1', pairs=pairs, store=store)
    learn = make(labelled_people, metrics=metrics, cbs=TrackRun(dir=tmp_path, hardest=3, log_model=False, log_table=False))
    learn.fit(1, 1e-3)
    run, = runs(tmp_path)
    assert {'valid/mAP', 'valid/accuracy', 'valid/tar@1e-1'} <= set(run.rows('valid/mAP')[0])
    row, = run.rows('hardest_pairs')
    for k in ('roc', 'error_vs_reject', 'hardest_pairs_sheet', 'hardest_queries_sheet'):
        with Image.open(run.folder/'files'/row[k]['path']) as img: assert min(img.size) > 300
    artifact, = (a for name,a in run.artifacts.items() if name.endswith('hardest_pairs'))
    files = {o.path: Path(o.local_path) for o in artifact.manifest.contents}
    table = json.loads(files['hardest_pairs.table.json'].read_text())
    hard = hardest_pairs(store, 3)
    assert len(table['data']) == len(hard) == 6
    root,pictures = Path(labelled_people.attrs['root']), labelled_people['path']
    for cells,o in zip(table['data'], hard.itertuples()):
        for cell,source in zip(cells, (o.row1, o.row2)): assert files[cell['path']].read_bytes() == (root/pictures[source]).read_bytes()
        found = dict(zip(table['columns'], cells))
        assert (found['same'], found['correct'], found['path1'], found['path2']) == (o.same, o.correct, pictures[o.row1], pictures[o.row2])
        assert (found['score'] >= found['threshold']) == (o.correct == o.same)
        worse = labelled_people['quality'][[o.row1, o.row2]].min()
        assert found['quality'] == pytest.approx(worse, rel=1e-6) and found['score'] == pytest.approx(o.score)
    assert far_of([True]*5 + [False]*1000) == .001 and far_of([False]*999) == .01 and far_of([0]*30) == .1


def test_verification_without_quality_is_looked_at_too(labelled_people, offline, tmp_path):
    held = labelled_people[labelled_people['split'] != 'train']['path'].to_numpy()
    pairs = pd.DataFrame({'path1': held[:12], 'path2': held[12:], 'same': [1, 0]*6, 'fold': 0})
    table = labelled_people.assign(quality=np.nan)
    table.attrs = labelled_people.attrs
    make(table, metrics=Verification(pairs=pairs, folds=2), cbs=TrackRun(dir=tmp_path, log_model=False, log_table=False)).fit(1, 1e-3)
    run, = runs(tmp_path)
    row, = run.rows('hardest_pairs')
    assert 'roc' in row and 'error_vs_reject' not in row and row['hardest_pairs']['nrows'] == 12


def test_quality_histogram(tracked):
    run,learn,*_ = tracked
    row, = run.rows('quality')
    assert row['quality']['_type'] == 'histogram'
    train = learn.dls.table.loc[learn.dls.table['split'] == 'train', 'quality'].dropna()
    np.testing.assert_array_equal(row['quality']['values'], np.histogram(train, 40)[0])
    with Image.open(run.folder/'files'/row['quality_histogram']['path']) as img: assert min(img.size) > 300


def test_model_and_table_are_artifacts(tracked):
    run,learn,*_ = tracked
    model,table = (next(a for name,a in run.artifacts.items() if name.endswith(end)) for end in ('-model', '-table'))
    assert model.type == 'model' and table.type == 'dataset' and model.digest and table.digest
    entry, = model.manifest.contents
    assert entry.path == 'model.pth' and entry.digest
    kept = torch.load(entry.local_path, weights_only=True)
    assert all(torch.equal(v, kept[k]) for k,v in learn.model.state_dict().items())
    entry, = table.manifest.contents
    assert entry.path == 'images.csv'
    with open(entry.local_path) as f: rows = list(csv.DictReader(f))
    assert [r['path'] for r in rows] == list(learn.dls.table['path']) and sum(r['quality'] == '' for r in rows) == 10
    assert json.loads(table.metadata) == learn.dls.table.attrs['record']
    for entry in (*model.manifest.contents, *table.manifest.contents): assert run.folder in Path(entry.local_path).parents


def test_two_learners_are_two_runs_and_ctrl_c_is_a_failure(labelled_people, offline, tmp_path, capsys):
    with pytest.raises(KeyboardInterrupt): make(labelled_people).fit(2, 1e-3, cbs=[TrackRun(dir=tmp_path), StopAt(1)])
    first = wandb.run
    assert first is not None  # nobody tells a callback; the next fit clears up
    learn = make(labelled_people, path=tmp_path)
    learn.fit(1, 1e-3, cbs=TrackRun(dir=tmp_path, log_table=False))
    assert wandb.run is None and capsys.readouterr().out.count('kept offline') == 2
    one,two = runs(tmp_path)
    assert one.header.run_id == first.id != two.header.run_id
    assert one.exit == [1] and not one.artifacts and not one.rows('quality')
    assert len(one.rows('train/loss')) == 6 and [r['epoch'] for r in one.rows('valid/mAP')] == [1]  # what was done is there
    assert two.exit == [0] and sorted(a.type for a in two.artifacts.values()) == ['model', 'run_table']


def test_a_run_that_is_left_open_is_failed_when_python_ends(tmp_path):
    script = f'from qsd_fastai.runs import start_run; run = start_run(dir=r"{tmp_path}"); run.log(dict(a=1)); raise KeyboardInterrupt'
    env = {**os.environ, 'WANDB_MODE': 'offline'}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True, env=env)
    run, = runs(tmp_path)
    assert f'wandb sync {run.folder}' in done.stdout and 'KeyboardInterrupt' in done.stderr
    assert run.exit == [1] and run.rows('a')


def test_the_users_run_goes_on(labelled_people, offline, tmp_path):
    "It is not finished, and both fits of `fine_tune` follow one another in it"
    run = start_run(dir=tmp_path, config={'mine': 1})
    learn = make(labelled_people, cbs=TrackRun(dir=tmp_path/'other', log_model=False, log_table=False))
    learn.fine_tune(1, 1e-3)
    assert wandb.run is run
    run.log({'after': 1})
    finish_run(run)
    read, = runs(tmp_path)
    assert read.config['mine'] == 1 and read.config['body'] == 'test_resnet' and read.rows('after') and not (tmp_path/'other').exists()
    assert [r['batch'] for r in read.rows('train/loss')] == list(range(8)) and [r['epoch'] for r in read.rows('valid/mAP')] == [1, 2]
    assert not {'model', 'dataset'} & {a.type for a in read.artifacts.values()}


def test_resume_with_the_same_id(labelled_people, offline, tmp_path):
    def fit(resume, *cbs): make(labelled_people).fit(3, 1e-3, cbs=[SaveState(tmp_path/'s', resume), TrackRun(dir=tmp_path, id='again'), *cbs])
    with pytest.raises(KeyboardInterrupt): fit(False, StopAt(1))
    fit(True)
    one,two = runs(tmp_path)
    assert one.header.run_id == two.header.run_id == 'again' and (one.exit, two.exit) == ([1], [0])
    # what was done before is not logged again
    assert [r['batch'] for r in two.rows('train/loss')] == list(range(4, 12)) and [r['epoch'] for r in two.rows('valid/mAP')] == [2, 3]
    assert len(two.artifacts) == 3
    fit(True)  # nothing left to train: the artifacts are made sure of
    three = runs(tmp_path)[2]
    assert not three.rows('train/loss') and {a.type for a in three.artifacts.values()} == {'model', 'dataset'}


def test_a_fit_that_is_refused_starts_no_run(labelled_people, offline, tmp_path):
    (tmp_path/'s').write_bytes(b'no state')
    with pytest.raises(ValueError, match='cannot be read'):
        make(labelled_people).fit(1, 1e-3, cbs=[SaveState(tmp_path/'s', True), TrackRun(dir=tmp_path)])
    assert wandb.run is None and not runs(tmp_path)


def test_a_learner_of_ones_own(labelled_people, offline, tmp_path):
    "No table, no metrics, no LossTerms, early stopping; and the learner can be exported afterwards"
    dls = make(labelled_people).dls
    del dls.table
    learn = Learner(dls, Recognizer('test_resnet', 8), loss_func=RecognitionLoss(), path=tmp_path, cbs=TrackRun(dir=tmp_path))
    learn.remove_cb(learn.progress)
    learn.fit(4, 1e-3, cbs=EarlyStoppingCallback(min_delta=100., patience=1))
    run, = runs(tmp_path)
    assert {'train/identity', 'train/triplet', 'train/loss', 'lr/group0'} <= set(run.rows('train/loss')[0])
    assert [r['epoch'] for r in run.rows('valid/loss')] == [1, 2]  # the epoch that stopped it included
    assert [a.type for a in run.artifacts.values()] == ['model'] and run.config['loss']['name'] == 'RecognitionLoss'
    learn.export('it.pkl')
    assert load_learner(tmp_path/'it.pkl').track_run.wandb_run is None


def test_other_processes_and_disabled_runs(labelled_people, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(tracking, 'rank_distrib', lambda: 1)
    make(labelled_people).fit(1, 1e-3, cbs=TrackRun(dir=tmp_path/'a'))
    assert not (tmp_path/'a').exists()
    monkeypatch.undo()
    monkeypatch.setenv('WANDB_MODE', 'disabled')
    make(labelled_people).fit(1, 1e-3, cbs=TrackRun(dir=tmp_path/'b'))
    assert not list(tmp_path.glob('b/**/*.wandb')) and 'W&B' not in capsys.readouterr().out
    assert wandb.run is None


def test_large_tables_are_kept_as_parquet(tracked, monkeypatch):
    learn = tracked[1]
    made = []
    monkeypatch.setattr(TrackRun, '_log_artifact', lambda self, name, kind, file, write, metadata=None: made.append(file))
    for n in (100_000, 100_001): TrackRun()._log_table(learn.dls.table.iloc[np.zeros(n, dtype=int)])
    assert made == ['images.csv', 'images.parquet']


def test_large_pictures_are_kept_small(tmp_path):
    for size in ((160, 160), (900, 1200)):
        Image.new('RGB', size).save(tmp_path/'a.jpg')
        kept = table_picture(tmp_path/'a.jpg', 'right')
        assert (kept._width, kept._height) == ((160, 160) if size[0] == 160 else (192, 256)) and kept._caption == 'right'
        assert kept._path.endswith('.jpg')


def test_has_key(monkeypatch, tmp_path):
    for name in ('WANDB_API_KEY', 'WANDB_IDENTITY_TOKEN_FILE', 'NETRC'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert not has_key()
    for host,known in (('example.org', False), ('api.wandb.ai', True)):
        (tmp_path/'.netrc').write_text(f'machine {host} login user password x\n')
        (tmp_path/'.netrc').chmod(0o600)
        assert has_key() == known
    monkeypatch.setenv('NETRC', str(tmp_path/'other'))
    assert not has_key()
    (tmp_path/'other').write_text('this is no netrc')
    assert not has_key()
    monkeypatch.setenv('WANDB_API_KEY', 'x'*40)
    assert has_key()


def test_described():
    def schedule(pct): return pct
    assert described(schedule) == {'name': 'schedule'}
    assert described(SaveState('runs/a.state'), 0) == {'name': 'SaveState', 'file': str(Path('runs/a.state')), 'resume': False, 'fits': 0}
    assert described(QualityDistillation(schedule))['weight'] == {'name': 'schedule'}
