"What a person runs: one line for what they can mend, a traceback for bugs, and a word on how to go on when stopped"
import dis
import errno
import inspect
import os
import re
import signal
import sys
import threading
from contextlib import contextmanager
from functools import wraps
from pathlib import Path

from .launched import joined, many_wanted
from .runs.folder import opened
from .terminal import rows_only

__all__ = ['in_one_line', 'line_of']

running = [] # Commands, the outermost first
PACKAGE = Path(__file__).parent
MEMORY = re.compile("out of memory|can't allocate memory|not enough memory", re.I)
WORKER = re.compile(r'DataLoader worker.*(killed|exited unexpectedly)')
PEER = re.compile(r'gloo/.*(by peer|Broken pipe|Timed out)|NCCL.*(remote process|aborted)', re.I)
EVENT = re.compile(r'^Exception occured in `\w+` when calling event `\w+`:\s*') # Put in front by fastai


def in_one_line(
    main,       # A command
    kind=False, # Begin with the kind of the error?
):
    """Decorate a command: what its user can do something about ends it in one line, a bug with a traceback

    SIGTERM, which clusters send before they kill, is Ctrl-C. Either ends the program with a word on how to go on.
    Where the output is no terminal it holds rows, and no progress bars.

    Options may be spelled as they are in Python, `--tune_lr=1e-3`, which is how sweeps give them.

    Started by `torchrun` or `accelerate launch`, the processes join, and the first one speaks for all."""
    if main.__module__ == '__main__': sys.argv[1:] = [_with_hyphens(o, main) for o in sys.argv[1:]]
    ours = PACKAGE,Path(inspect.unwrap(main).__code__.co_filename).parent

    @wraps(main)
    def run(*args, **kwargs):
        before,done = list(opened),False
        running.append(main)
        first = not int(os.environ.get('RANK') or 0)
        try:
            if wanted := many_wanted(): os.execv(wanted[0], wanted)
            with joined(), _terminated(), rows_only(): found = main(*args, **kwargs)
            done = True
            return found
        except KeyboardInterrupt:
            if len(running) > 1: raise # The outermost command has the last word
            said = _stopped(before)
            raise SystemExit(f'\n{said}' if first else 1) from None
        except Exception as e:
            line = line_of(e, ours)
            if line is None: raise
            raise SystemExit(f'{type(e).__name__}: {line}' if kind else line) from e
        finally:
            running.pop()
            for folder in [o for o in opened if o not in before]:
                if not done: folder.free() # Where nothing came of it there is nothing to go on with
                folder.close()
    run.__signature__ = inspect.signature(main)
    return run


def _with_hyphens(given, main):
    name,equals,value = given.partition('=')
    known = name.startswith('--') and name[2:] in inspect.signature(main).parameters
    return name.replace('_', '-') + equals + value if known else given


def line_of(
    e,               # An exception
    ours=(PACKAGE,), # Folders of code whose `raise` is meant for the user
): # Text, or `None` for a bug
    """What an error says to a user in one line, where it is one that a user can do something about

    That is what the machine lacks (files, rights, packages, room on the disk, memory), and what our own code has
    raised. What other code raises, or an operator of ours, is a bug."""
    said = ' '.join(EVENT.sub('', str(e)).split())
    chain = list(_causes(e))
    full = next((o for o in chain if isinstance(o, OSError) and o.errno == errno.ENOSPC), None)
    if full is not None: return f'The disk is full ({full}). Make room, then give the same command with --resume.'
    if isinstance(e, MemoryError) or (isinstance(e, RuntimeError) and MEMORY.search(said)):
        return f'The memory is not enough ({said[:200]}). Take smaller batches or pictures, or fewer --workers.'
    if isinstance(e, RuntimeError) and PEER.search(said):
        return 'Another process of the launch has ended: what it says is the cause. Then go on with --resume.'
    if isinstance(e, RuntimeError) and WORKER.search(said):
        return f'A loading process has ended ({said[:200]}). Look at the memory, or take fewer --workers.'
    if isinstance(e, OSError | ImportError) or type(e).__module__.startswith('wandb'): return said
    if not isinstance(e, ValueError | RuntimeError): return None
    if in_worker := _from_worker(str(e), ours): return in_worker
    return said if _raised(e, ours) else None


def _causes(e):
    seen = set()
    while e is not None and id(e) not in seen:
        seen.add(id(e))
        yield e
        e = e.__cause__ or e.__context__


def _raised(e, ours):
    "Does the error come from a `raise` of ours, instead of from an operator or a function of somebody else?"
    at = e.__traceback__
    while at.tb_next is not None: at = at.tb_next
    code = at.tb_frame.f_code
    return dis.opname[code.co_code[at.tb_lasti]] == 'RAISE_VARARGS' and _is_of(code.co_filename, ours)


def _from_worker(text, ours):
    "The message of an error that a loading process had, which comes as the text of its traceback"
    if not text.startswith('Caught '): return None
    *_,(file, line) = re.findall(r'File "(.+?)", line \d+, in .+\n\s+(.*)', text) or [('', '')]
    said = re.split(r'\n(?=[\w.]+: )', text)[-1].partition(': ')[2]
    return ' '.join(said.split()) if line.startswith('raise') and _is_of(file, ours) else None


def _is_of(file, ours): return any(folder in Path(file).parents for folder in ours)


def _stopped(before):
    "What to say of the outermost run among those that were opened after these"
    return next((o.stopped() for o in opened if o not in before), 'Stopped before anything was kept.')


@contextmanager
def _terminated():
    "SIGTERM as Ctrl-C in this block, where nobody else has asked for it"
    alone = threading.current_thread() is threading.main_thread()
    if not alone or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, _interrupt)
    try: yield
    finally: signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _interrupt(number, frame): raise KeyboardInterrupt
