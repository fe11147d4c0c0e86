"A folder is of one process at a time, whatever becomes of that one"
import errno
import multiprocessing
import os
import signal
import sys

import pytest

from qsd_fastai.runs import lock
from qsd_fastai.runs.lock import hold, release

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='children are forks')


def child(do, *args):
    "Another process, and the end of a pipe that it writes what became of `do` to"
    ours,theirs = multiprocessing.Pipe()
    def run():
        try: theirs.send(do(*args) or 'taken')
        except FileExistsError as e: theirs.send(str(e))
        theirs.recv() # Until it may end
    process = multiprocessing.get_context('fork').Process(target=run)
    process.start()
    theirs.close()
    return process,ours


def end(process, ours, kill=False):
    if kill: os.kill(process.pid, signal.SIGKILL)
    else: ours.send('end')
    process.join(60)


@pytest.mark.parametrize('kill', [False, True])
def test_another_process_is_refused_until_the_first_one_ends(tmp_path, kill):
    process,ours = child(hold, tmp_path)
    assert ours.recv() == 'taken'
    with pytest.raises(FileExistsError, match=f'in use by process {process.pid}. Wait'): hold(tmp_path)
    end(process, ours, kill)
    hold(tmp_path)
    hold(tmp_path) # A process that has it has it
    assert (tmp_path/'run.lock').read_text() == str(os.getpid())
    release(tmp_path)
    release(tmp_path)
    assert not list(tmp_path.iterdir())


def test_of_many_at_once_one_wins(tmp_path):
    for _ in range(3):
        children = [child(hold, tmp_path) for _ in range(6)]
        said = [ours.recv() for _,ours in children]
        assert said.count('taken') == 1
        for o in children: end(*o)
        release(tmp_path)


def test_a_fork_holds_nothing(tmp_path):
    hold(tmp_path)
    process,ours = child(lambda: str(lock.held))
    assert ours.recv() == '{}'
    release(tmp_path) # Though the child lives on
    other,theirs = child(hold, tmp_path)
    assert theirs.recv() == 'taken'
    end(process, ours)
    end(other, theirs)


def test_where_there_are_no_locks_the_file_must_be_new(tmp_path, monkeypatch):
    def unable(fd): raise OSError(errno.ENOLCK, 'No locks available')
    monkeypatch.setattr(lock, '_lock', unable)
    process,ours = child(hold, tmp_path)
    assert ours.recv() == 'taken'
    said = rf'in use by process {process.pid}. Remove .*run\.pid if that has ended'
    with pytest.raises(FileExistsError, match=said): hold(tmp_path)
    end(process, ours, kill=True)
    (tmp_path/'run.pid').unlink()
    hold(tmp_path)
    release(tmp_path)
    assert not (tmp_path/'run.pid').exists()
