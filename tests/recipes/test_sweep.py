"`recipes/sweep.yaml` as an agent of W&B runs it, as far as that goes without its server"
import inspect
import sys
from pathlib import Path

import pytest
import yaml
from wandb.wandb_agent import Agent

from qsd_fastai.drawn.people import generate_people
from qsd_fastai.runs.offline import offline_runs, runs_frame

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT/'recipes'))
import reid  # noqa: E402


@pytest.fixture(scope='module')
def sweep(): return yaml.safe_load((ROOT/'recipes'/'sweep.yaml').read_text())


def test_its_parameters_are_options_of_the_recipe(sweep):
    assert {*sweep['parameters']} <= {*inspect.signature(reid.main).parameters}


def test_a_trial_is_one_run_of_the_sweep(sweep, tmp_path, monkeypatch):
    generate_people(tmp_path/'people', n_train=8, n_test=4, n_imgs=4, n_test_imgs=4, size=(48, 24), progress=False)
    drawn = {'weight': 2., 'tune_lr': 1e-3, 'n_imgs': 3, 'arms': sweep['parameters']['arms']['value']}
    assert {*drawn} == {*sweep['parameters']}
    tiny = {'arch': 'test_resnet', 'height': 32, 'width': 16, 'n_ids': 4, 'epochs': 1, 'tune_epochs': 1, 'seed': 3,
            'data': 'people/images.csv', 'out': 'out', 'pretrained': False}
    for name in ('WANDB_RUN_ID', 'WANDB_SWEEP_PARAM_PATH'): monkeypatch.setenv(name, '') # Put back what an agent sets
    monkeypatch.setenv('WANDB_SWEEP_ID', 'sweep1')
    monkeypatch.setenv('WANDB_MODE', 'offline')
    monkeypatch.setenv('PYTHONPATH', str(ROOT))
    monkeypatch.setenv('PATH', str(Path(sys.executable).parent), prepend=':')
    monkeypatch.chdir(tmp_path)
    agent = Agent(None, None, sweep_id='sweep1')
    agent._sweep_command = sweep['command']
    agent._command_run({'run_id': 'trial1', 'program': str(ROOT/sweep['program']),
                        'args': {k: {'value': v} for k,v in {**drawn, **tiny}.items()}})
    assert agent._run_processes['trial1'].wait() == 0

    runs = {o.id: o for o in offline_runs('out')}
    assert len(runs) == 3
    trials = {id for id,o in runs.items() if o.header.get('sweep_id')}
    assert trials == {'trial1'}
    frame = runs_frame(list(runs.values())).set_index('job')
    assert frame.loc['compare', 'mAP'] == frame.loc['fine-tune', 'mAP'] > 0
    assert sweep['metric']['name'] == 'final/mAP'
    assert {k: runs['trial1'].config[k] for k in drawn} == drawn
