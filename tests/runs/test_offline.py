"Runs that were kept offline are read back as they were logged, and listed with their figures"
import re
import sys
from pathlib import Path

import pytest

from qsd_fastai.runs.offline import offline_runs, read_offline, runs_frame
from qsd_fastai.runs.wandb_run import finish_run, log_files, start_run, uses

sys.path.insert(0, str(Path(__file__).parents[2]/'recipes'))
import runs as page


@pytest.fixture(scope='module')
def kept(tmp_path_factory):
    "Two seeds of two arms; one run was gone on with"
    folder = tmp_path_factory.mktemp('kept')
    def run(arm, seed, mAP, again=False, failed=False):
        job = 'train' if arm == 'fine-tuned without QSD' else 'fine-tune'
        of = start_run(name=f'{arm} {seed}', group='mine', dir=folder/f'seed{seed}', id=f'{job}{seed}', job_type=job,
                       config={'arm': arm, 'seed': seed, 'nested': {'lr': [.1, .2]}})
        for k in range(2): of.log({'train/loss': 2. - k, 'batch': k + 2*again})
        of.log({'valid/mAP': mAP, 'epoch': 1 + again})
        of.summary.update({'final/mAP': mAP, 'final/rank1': .5})
        finish_run(of, failed=failed)
    with pytest.MonkeyPatch.context() as mp:
        mp.setenv('WANDB_MODE', 'offline')
        for seed,gain in ((0, .1), (1, .2)):
            run('fine-tuned without QSD', seed, .3)
            run('fine-tuned with QSD', seed, .3 + gain, failed=seed == 1)
        run('fine-tuned with QSD', 1, .5, again=True)
        finish_run(start_run(name='compared', group='mine', dir=folder, id='summary', job_type='compare'))
    return folder


def test_a_run_is_read_as_it_was_logged(kept):
    found = offline_runs(kept)
    assert [o.id for o in found if o.header['job_type'] == 'compare'] == ['summary']
    found = sorted((o for o in found if o.id != 'summary'),
                   key=lambda o: (o.config['seed'], o.header['job_type'] != 'train')) # Within a second
    assert [o.id for o in found] == ['train0', 'fine-tune0', 'train1', 'fine-tune1']
    assert [o.state for o in found] == ['finished']*4
    again = found[-1]
    assert len(again.folders) == 2
    assert [r['batch'] for r in again.rows('train/loss')] == [0, 1, 2, 3]
    assert [r['train/loss'] for r in again.rows('batch')] == [2, 1, 2, 1]
    assert again.config['nested'] == {'lr': [.1, .2]}
    assert again.summary['final/mAP'] == .5
    assert again.header['run_group'] == 'mine'
    assert read_offline(again.folders[0]).state == 'failed'
    assert 'versions' in again.config


def test_a_row_a_run(kept):
    frame = runs_frame(offline_runs(kept)).sort_values(['seed', 'arm'], ascending=[True, False])
    assert frame['run'].iloc[-1] == 'compared'
    frame = frame[:-1]
    assert frame['arm'].tolist() == ['fine-tuned without QSD', 'fine-tuned with QSD']*2
    assert frame['seed'].tolist() == [0, 0, 1, 1]
    assert frame['mAP'].tolist() == [.3, .4, .3, .5]
    assert frame['epochs'].tolist() == [1, 1, 1, 2]
    assert frame['rank1'].eq(.5).all()


@pytest.mark.filterwarnings('error')
def test_the_page_compares_the_arms_of_a_group(kept, capsys, tmp_path):
    page.main(str(kept), out=str(tmp_path/'all.csv'))
    said = capsys.readouterr().out
    assert '5 runs' in said
    assert re.search(r'fine-tuned with QSD 1 +fine-tune +1 +finished +2 ', said)
    assert re.search(r'compared +compare +finished', said)
    assert max(map(len, said.split('\n'))) <= 100
    assert 'mine: 2 seeds' in said
    assert '40.0' in said
    gains = said.partition('Gain over')[2]
    gain = next(line for line in gains.split('\n') if line.startswith('fine-tuned with QSD'))
    assert '+15.00' in gain
    assert '(2/2)' in gain
    assert (tmp_path/'all.csv').read_text().count('\n') == 6
    with pytest.raises(SystemExit, match='no offline run of W&B'): page.main(str(tmp_path))


def test_the_page_names_the_figures_there_are(kept, capsys):
    with pytest.raises(SystemExit, match=r"--figures is 'map', which no run here has\. There are mAP, rank1\."):
        page.main(str(kept), figures='rank1,map')
    assert not capsys.readouterr().out
    page.main(str(kept), figures='rank1, mAP')
    assert 'mine: 2 seeds' in capsys.readouterr().out


def test_a_group_without_the_figure_is_listed_and_not_compared(kept, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    for arm,figures in (('without', {'tar': .1}), ('with', {'tar': .2, 'rank1': .7})):
        of = start_run(name=f'other {arm}', group='other', dir=tmp_path, id=arm, job_type='fine-tune',
                       config={'arm': arm, 'seed': 0})
        of.summary.update({f'final/{k}': v for k,v in figures.items()})
        finish_run(of)
    found = offline_runs(tmp_path) + offline_runs(kept)
    monkeypatch.setattr(page, 'offline_runs', lambda folder: found)
    page.main(str(tmp_path), figures='rank1')
    said = capsys.readouterr().out
    assert '7 runs' in said
    assert 'other without' in said
    assert 'mine: 2 seeds' in said
    assert 'other: ' not in said


def test_what_is_damaged_is_refused_by_name(kept, tmp_path):
    file = tmp_path/'offline-run-20260101_000000-a'/'run-a.wandb'
    file.parent.mkdir()
    file.write_bytes(b'no run at all')
    with pytest.raises(ValueError, match=r'run-a\.wandb cannot be read'): read_offline(file.parent)


class Online:
    "Stands for a run that is online, of which W&B knows one artifact"
    offline = disabled = False
    def __init__(self): self.config,self.used = {},[]
    def use_artifact(self, name):
        if 'unknown' in name: raise ValueError('artifact not found')
        self.used.append(name)


def test_lineage(capsys):
    run = Online()
    run.config = type('Config', (dict,), {'update': lambda self, o, allow_val_change: dict.update(self, o)})()
    uses(run, 'a-model', 'unknown-model')
    assert run.used == ['a-model:latest']
    assert run.config == {'uses': ['a-model', 'unknown-model']}
    assert 'W&B does not know unknown-model' in capsys.readouterr().out
    uses(run)


def test_files_are_an_artifact(monkeypatch, tmp_path):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    (tmp_path/'a.csv').write_text('x')
    run = start_run(dir=tmp_path, id='one')
    log_files(run, 'evaluation', 'evaluation', [tmp_path/'a.csv'], {'mAP': .5}, ['best'])
    finish_run(run)
    artifact = offline_runs(tmp_path)[0].artifacts['one-evaluation']
    assert artifact['type'] == 'evaluation'
    assert artifact['metadata'] == '{"mAP":0.5}'
    assert 'best' in artifact['aliases']
    assert [o['path'] for o in artifact['manifest']['contents']] == ['a.csv']
