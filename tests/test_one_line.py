"What a command says when it fails: a line to its user, a traceback for bugs, a word on how to go on when stopped"
import ast
import errno
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from fastai.callback.core import Callback
from torch.utils.data import DataLoader, Dataset

from qsd_fastai import commands
from qsd_fastai.choices import one_of
from qsd_fastai.commands import in_one_line, line_of
from qsd_fastai.runs import folder
from qsd_fastai.runs.folder import RunFolder

ROOT = Path(__file__).parents[1]
SCRIPTS = sorted([*(ROOT/'recipes').glob('*.py'), *(ROOT/'data_prep').glob('*.py')])


def raised(f):
    try: f()
    except Exception as e: return e


def ours(): raise ValueError('quality is 7.\nGive less.')


def full():
    try: raise OSError(errno.ENOSPC, 'No space left on device', 'runs/a.state')
    except OSError as e: raise RuntimeError('[enforce fail at inline_container.cc:664] . unexpected pos') from e


class Unreadable(Dataset):
    def __len__(self): return 2
    def __getitem__(self, i): one_of('picture', 'x', 'a', 'b')


class Refusing(Callback):
    def before_fit(self): one_of('rate', 'x', 'a', 'b')


def within_a_fit():
    "As fastai hands it on"
    callback = Refusing()
    callback.learn = None
    callback('before_fit')


@pytest.mark.parametrize('f, said', [
    (ours, 'quality is 7. Give less.'),
    (lambda: one_of('how', 'x', 'a', 'b'), "how is 'x'"),
    (within_a_fit, "rate is 'x'"),
    (lambda: next(iter(DataLoader(Unreadable(), num_workers=1))), "picture is 'x'"),
    (lambda: (ROOT/'none').read_text(), 'No such file'),
    (lambda: __import__('no_such_package'), 'no_such_package'),
    (full, 'The disk is full .*Make room.*--resume'),
    (lambda: torch.empty(2**60), 'The memory is not enough'),
    (lambda: (_ for _ in ()).throw(MemoryError()), 'The memory is not enough'),
    (lambda: (_ for _ in ()).throw(torch.OutOfMemoryError('CUDA out of memory. Tried')), 'The memory is not enough'),
    (lambda: (_ for _ in ()).throw(RuntimeError('DataLoader worker (pid 7) is killed by signal: Killed. ')),
     'A loading process has ended'),
], ids=lambda o: o.__name__ if callable(o) else '')
def test_what_a_user_can_mend_is_one_line(f, said):
    line = line_of(raised(f), (commands.PACKAGE, Path(__file__).parent))
    assert len(line.splitlines()) == 1
    assert re.search(said, line)
    assert 'Exception occured' not in line


@pytest.mark.parametrize('f', [
    lambda: int('x'), lambda: torch.ones(2) + torch.ones(3), lambda: {}['a'], lambda: [].pop(), lambda: None.x,
    lambda: torch.load(ROOT/'pyproject.toml', weights_only=True), lambda: 1/0])
def test_a_bug_is_none(f): assert line_of(raised(f), (commands.PACKAGE, Path(__file__).parent)) is None


def test_what_others_raise_is_a_bug(): assert line_of(raised(ours)) is None


def test_a_command_ends_in_the_line_or_the_traceback():
    @in_one_line
    def good(a:int=1):
        "Said"
        return a
    @in_one_line
    def bad(): ours()
    @in_one_line
    def bug(): int('x')
    assert good(3) == 3
    assert good.__doc__ == 'Said'
    with pytest.raises(SystemExit, match=r'^quality is 7\. Give less\.$'): bad()
    with pytest.raises(ValueError, match='invalid literal'): bug()


def decorators(function): return {getattr(o, 'id', getattr(getattr(o, 'func', None), 'id', '')) for o in
                                  function.decorator_list}


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda o: f'{o.parent.name}/{o.stem}')
def test_every_script_says_it_in_one_line(script):
    "By the decorator of the recipes and tools, or by that of the sets, which has it"
    for function in [o for o in ast.parse(script.read_text()).body if isinstance(o, ast.FunctionDef)]:
        found = decorators(function)
        if 'call_parse' in found: assert found & {'in_one_line', 'in_a_line'}, function.name


COMMAND = '''
import os, signal, sys, time
from pathlib import Path
from qsd_fastai.commands import in_one_line
from qsd_fastai.runs.folder import RunFolder

@in_one_line
def main():
    run = RunFolder('page', sys.argv[1])
    if sys.argv[2] != 'before': run.open()
    if sys.argv[2] == 'later': (run.out/'baseline.state').touch()
    os.kill(os.getpid(), getattr(signal, sys.argv[3]))
    time.sleep(60)

signal.signal(signal.SIGINT, signal.default_int_handler) # Jobs in the background begin with it ignored
main()
'''


@pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')
@pytest.mark.parametrize('name', ['SIGINT', 'SIGTERM'])
@pytest.mark.parametrize('when, said', [('before', 'before anything was kept'), ('early', 'nothing to go on with'),
                                        ('later', '--resume')])
def test_a_signal_ends_it_with_a_word_on_how_to_go_on(tmp_path, name, when, said):
    env = {**os.environ, 'PYTHONPATH': str(ROOT)}
    args = [sys.executable, '-W', 'ignore', '-c', COMMAND, str(tmp_path/'run'), when, name]
    done = subprocess.run(args, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    left = {o.name for o in tmp_path.rglob('*')}
    assert left == ({'run', 'run.json', 'baseline.state'} if when == 'later' else set())


def test_a_run_that_was_open_before_is_not_named(tmp_path):
    RunFolder('other', tmp_path/'other').open()
    @in_one_line
    def stopped(): raise KeyboardInterrupt
    with pytest.raises(SystemExit, match='before anything was kept'): stopped()
    assert [o.out.name for o in folder.opened] == ['other']


def test_the_outermost_run_is_named(tmp_path):
    @in_one_line
    def inner():
        RunFolder('seed', tmp_path/'outer'/'seed0').open()
        (tmp_path/'outer'/'seed0'/'baseline.state').touch()
        raise KeyboardInterrupt
    @in_one_line
    def outer():
        RunFolder('compare', tmp_path/'outer').open()
        inner()
    with pytest.raises(SystemExit, match='outer: give the same command with --resume'): outer()
    assert not folder.opened
    assert sorted(o.name for o in (tmp_path/'outer').rglob('*')) == ['baseline.state', 'run.json', 'run.json', 'seed0']


@pytest.mark.skipif(sys.platform == 'win32', reason='signals of POSIX')
def test_the_handler_of_others_stays(monkeypatch):
    def mine(number, frame): pass
    seen = []
    @in_one_line
    def look(): seen.append(signal.getsignal(signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, mine)
    try: look()
    finally: signal.signal(signal.SIGTERM, signal.SIG_DFL)
    look()
    signal.signal(signal.SIGTERM, before)
    assert seen == [mine, commands._interrupt]


@pytest.mark.parametrize('error', [ValueError, ZeroDivisionError, KeyboardInterrupt])
@pytest.mark.parametrize('kept', [None, 'results.csv', 'seed0/baseline.state'])
def test_a_folder_where_nothing_came_of_a_command_goes(tmp_path, error, kept):
    @in_one_line
    def main():
        out = RunFolder('compare', tmp_path/'out').open().out
        (out/'seed0').mkdir()
        if kept: (out/kept).touch()
        raise error('no')
    with pytest.raises((SystemExit, error)): main()
    assert (tmp_path/'out').is_dir() == bool(kept)
    assert not folder.opened
