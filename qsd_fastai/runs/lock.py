"One process at a time in a folder: a second one is refused; a process that is dead, however it died, holds nothing"
import atexit
import errno
import os
from pathlib import Path

try:
    import fcntl
except ImportError: fcntl = None # Windows

__all__ = ['hold', 'release']

NAME = 'run.lock'
UNABLE = errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP # What file systems without locks answer
held = {}                                             # By folder: files that this process holds, and descriptors


def hold(
    folder, # Of a run, there already
):
    """Take a folder for this process, until `release` or its end; `FileExistsError` where another process has it

    It is the system's own lock of a file, which ends with its process. Where the file system has none, that the file
    is there must do: then somebody must remove what a killed process has left."""
    folder = Path(folder).resolve()
    if folder not in held: held[folder] = _taken(folder/NAME)


def release(
    folder, # That may be held
):
    "Leave a folder to others"
    file,fd = held.pop(Path(folder).resolve(), (None, None))
    if file is None: return
    # removed while it is held: who opened it in the meantime sees that and looks again
    try: file.unlink(missing_ok=True)
    finally: os.close(fd)


def _taken(file):
    while True:
        fd = os.open(file, os.O_RDWR | os.O_CREAT, 0o644)
        try: _lock(fd)
        except OSError as e:
            owner = os.read(fd, 20)
            os.close(fd)
            if e.errno in UNABLE: return _made(file.with_name('run.pid'))
            raise _refusal(file, owner, 'Wait until it is over') from e
        if _same(fd, file): return _signed(file, fd)
        os.close(fd)  # its last holder has removed it since


def _lock(fd):
    if fcntl is not None: return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    import msvcrt
    os.lseek(fd, 2**20, os.SEEK_SET)  # a byte behind the number, which others must be able to read
    msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)
    os.lseek(fd, 0, os.SEEK_SET)


def _same(fd, file):
    try: return os.path.samestat(os.fstat(fd), os.stat(file))
    except FileNotFoundError: return False


def _made(file):
    "Where there are no locks: the file must be new"
    try: return _signed(file, os.open(file, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o644))
    except FileExistsError as e:
        raise _refusal(file, file.read_bytes()[:20], f'Remove {file} if that has ended') from e


def _signed(file, fd):
    os.ftruncate(fd, 0)
    os.write(fd, str(os.getpid()).encode())
    return file,fd


def _refusal(file, owner, remedy):
    owner = owner.decode('ascii', 'replace') or '?'
    return FileExistsError(f'{file.parent} is in use by process {owner}. {remedy}, or name another --out.')


def _forget():
    "A child that is forked, to load pictures say, holds nothing"
    for _,fd in held.values(): os.close(fd)
    held.clear()


if hasattr(os, 'register_at_fork'): os.register_at_fork(after_in_child=_forget)


@atexit.register
def _release_all():
    for folder in list(held): release(folder)
