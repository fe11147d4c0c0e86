"What the README prints runs as printed"
import os
import re
import shutil
import subprocess
from configparser import ConfigParser
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import qsd_fastai
from qsd_fastai.drawn.people import generate_people

ROOT = Path(__file__).parents[1]
readme = (ROOT/'README.md').read_text()


def test_the_python_lines_run(tmp_path, monkeypatch):
    "As printed, but for a small body, small pictures and one epoch"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WANDB_MODE', 'offline')
    generate_people('market1501', n_train=16, n_test=4, n_imgs=4, n_test_imgs=4, size=(64, 32), progress=False)
    blocks,done = re.findall(r'```python\n(.*?)```', readme, re.S),{}
    assert 'learn.fit_one_cycle(60, 3.5e-4)' in blocks[0]
    small = (r'fit_one_cycle\(\d+,', 'fit_one_cycle(1,'), ("'resnet50'", "'resnet18'"), (r'\(256,128\)', '(64,32)')
    for printed,other in small: blocks = [re.sub(printed, other, o) for o in blocks]
    exec(blocks[0], done)
    for learn in (done['learn'], done['tuned']): assert len(learn.recorder.values) == 1
    assert done['tuned'].octuplet_tuning.terms['octuplet'] > 0
    exec(blocks[1], done)
    labels = done['table'].loc[done['table']['split'] == 'train', 'quality']
    assert labels.std() > 1
    assert done['tuned'].quality_distillation.n_known
    assert len(done['tuned'].recorder.values) == 1
    assert len(done['tuned'].recorder.values[0]) == 5
    assert done['tuned'].track_run.logged[2] == 1  # epochs, to W&B
    shutil.copy(next(Path('market1501/images').glob('*')), 'somebody.jpg')
    plt.close('all') # Of other tests
    exec(blocks[2], done)
    assert done['cosines'][done['index']] == done['cosines'].max()
    assert len(plt.get_fignums()) == 2
    plt.close('all')


def test_what_it_names_is_there():
    for link in re.findall(r'\]\(((?!http)[^)#]+)\)', readme): assert (ROOT/link).exists(), link
    for script in set(re.findall(r'python ((?:recipes|data_prep)/\w+\.py)',
                                 readme)): assert (ROOT/script).is_file(), script
    targets = re.findall(r'^(\w+):', (ROOT/'Makefile').read_text(), re.M)
    for target in set(re.findall(r'make (\w+) ', readme)): assert target in targets


def test_metadata_stands_in_one_place():
    config = ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini')
    assert qsd_fastai.__version__ == config['DEFAULT']['version']
    assert config['DEFAULT']['version'] not in (ROOT/'pyproject.toml').read_text() + (ROOT/'setup.py').read_text()


def test_ci_calls_the_test_command_of_the_readme():
    assert 'make test' in readme
    assert 'make demo' in readme
    assert 'make test' in (ROOT/'.ci'/'run').read_text()


@pytest.mark.skipif(not shutil.which('make'), reason='make is not here')
def test_make_takes_a_list_of_tests_over_several_lines():
    command = 'make', '-n', 'test', 'TESTS=tests/a.py\n  tests/b.py'
    # a make within a make says so, and takes the options of the other
    env = {k: v for k,v in os.environ.items() if k not in ('MAKEFLAGS', 'MFLAGS', 'MAKEOVERRIDES', 'MAKELEVEL')}
    said = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True)
    assert said.stdout.splitlines()[-1].endswith('-m pytest tests/a.py tests/b.py'), said
