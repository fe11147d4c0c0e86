"What a run was made with: versions, and the repository of the library, not of the folder it is run from"
import importlib.metadata
import shutil
import subprocess
from types import SimpleNamespace

import pytest

from qsd_fastai.runs import made
from qsd_fastai.runs.made import made_with, package_state, peak_memory, reset_peak_memory, versions


def git(folder, *args):
    known = '-c', 'user.name=a', '-c', 'user.email=a@example.org', '-c', 'commit.gpgsign=false'
    done = subprocess.run(['git', '-C', folder, *known, *args], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.fixture
def repository(tmp_path):
    "A repository with the package in it, and a change that is not committed"
    if not shutil.which('git'): pytest.skip('git is not here')
    file = tmp_path/'repository'/'qsd_fastai'/'__init__.py'
    file.parent.mkdir(parents=True)
    file.write_text('one')
    git(tmp_path/'repository', 'init', '-q')
    git(tmp_path/'repository', 'add', '.')
    git(tmp_path/'repository', 'commit', '-qm', 'one')
    return tmp_path/'repository'


def test_the_commit_and_what_differs_from_it(repository, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # no repository
    package_state.cache_clear()
    commit = git(repository, 'rev-parse', 'HEAD')
    assert package_state(repository) == {'commit': commit}
    seen = []
    for text in ('two', 'three'):
        (repository/'qsd_fastai'/'__init__.py').write_text(text)
        package_state.cache_clear()
        seen.append(package_state(repository))
    assert [(o['commit'], o['changed']) for o in seen] == [(commit, 1)]*2
    assert seen[0]['diff'] != seen[1]['diff']


def test_the_repository_of_a_project_that_the_package_is_installed_in_says_nothing(repository, monkeypatch):
    installed = repository/'.venv'/'site-packages'
    shutil.copytree(repository/'qsd_fastai', installed/'qsd_fastai')
    known = {'direct_url.json': '{"url": "https://example.org/a.git", "vcs_info": {"vcs": "git", "commit_id": "abc"}}'}
    monkeypatch.setattr(made, 'distribution', lambda name: SimpleNamespace(read_text=known.get))
    package_state.cache_clear()
    assert package_state(installed) == {'commit': 'abc'}
    known.clear()
    package_state.cache_clear()
    assert package_state(installed) == {}


def test_without_git_and_without_wandb(monkeypatch, tmp_path):
    def lacking(*args, **kwargs): raise FileNotFoundError
    monkeypatch.setattr(made.subprocess, 'run', lacking)
    package_state.cache_clear()
    assert package_state(tmp_path) == {}
    package_state.cache_clear()
    found = importlib.metadata.version
    def without(name):
        if name == 'wandb': raise importlib.metadata.PackageNotFoundError
        return found(name)
    monkeypatch.setattr(made, 'version', without)
    assert 'wandb' not in versions()
    assert set(made_with()) == {'versions', 'package'}


def test_versions_of_all_that_counts():
    assert {'python', 'torch', 'fastai', 'timm', 'wandb', 'qsd_fastai'} <= set(versions())


def test_memory_of_the_process(monkeypatch):
    assert .05 < peak_memory('cpu')['process_gib'] < 1000
    assert peak_memory(None) == pytest.approx(peak_memory('cpu'))
    monkeypatch.setattr(made.torch.cuda, 'max_memory_allocated', lambda device: 3*2**30)
    assert peak_memory('cuda') == {'device_gib': 3}


def test_memory_of_a_gpu_is_counted_anew(monkeypatch):
    seen = []
    monkeypatch.setattr(made.torch.cuda, 'reset_peak_memory_stats', seen.append)
    for device in ('cpu', None, 'cuda:1', made.torch.device('cuda')): reset_peak_memory(device)
    assert list(map(str, seen)) == ['cuda:1', 'cuda']
