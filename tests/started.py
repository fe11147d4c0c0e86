"Scripts as a command starts them, in a process forked from one that has imported the library: seconds saved each time"
import atexit
import multiprocessing
import os
import runpy
import socket
import sys
import tempfile
import time
import traceback
import warnings
import weakref
from multiprocessing.connection import wait
from pathlib import Path

import torch

forks = multiprocessing.get_context('forkserver')
forks.set_forkserver_preload(['qsd_fastai.all', 'fastai.distributed'])


def start(script, *args, folder, timeout=280, **env):
    "Its exit code and what it printed, to both streams, as `python -W ignore script args` in a folder would"
    (code,),(said,) = _ended([_begun(script, args, folder, env)], timeout)
    return code,said


def launch(n, script, *args, folder, timeout=280, kill=None, **env):
    """Exit codes of `n` processes and what they printed, as `torchrun --nproc_per_node n` starts them: with one all go

    `kill=(rank, file)`: that process gets SIGKILL as soon as the file is there."""
    return _ended([_begun(script, args, folder, {**env, **o}) for o in launcher_env(n)], timeout, kill)


def launch_function(n, function, *args, timeout=280, codes=None):
    "Call a function in each of `n` processes of a launch, the rank first; AssertionError where one ends otherwise"
    begun = []
    for rank,env in enumerate(launcher_env(n)):
        said = tempfile.NamedTemporaryFile() # noqa: SIM115
        begun.append((forks.Process(target=_call, args=(function, (rank, *args), env, said.name)), said))
        begun[-1][0].start()
    ended,texts = _ended(begun, timeout)
    assert ended == (codes or [0]*n), '\n'.join(texts)[-6000:]
    return texts


def launcher_env(n):
    "What `torchrun` tells each of its processes"
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    both = {'WORLD_SIZE': n, 'LOCAL_WORLD_SIZE': n, 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': port,
            'OMP_NUM_THREADS': 1}
    return [{k: str(v) for k,v in {**both, 'RANK': k, 'LOCAL_RANK': k}.items()} for k in range(n)]


def _begun(script, args, folder, env):
    said = tempfile.NamedTemporaryFile() # noqa: SIM115
    asked = str(Path(script).resolve()), list(map(str, args)), str(folder), {**os.environ, **env}, said.name
    going = forks.Process(target=_run, args=asked)
    going.start()
    return going,said


def _ended(begun, timeout, kill=None):
    until,texts = time.monotonic() + timeout,[]
    going = [o for o,_ in begun]
    while any(o.is_alive() for o in going) and time.monotonic() < until:
        if kill and Path(kill[1]).exists(): going[kill[0]].kill()
        if any(o.exitcode for o in going):
            for o in going: o.join(20)  # those whose peer is gone end by themselves
            break
        wait([o.sentinel for o in going if o.is_alive()], .02 if kill else 1)
    for o in going:
        if o.is_alive(): o.kill()
        o.join()
    for _,said in begun:
        texts.append(Path(said.name).read_text(encoding='utf-8'))
        said.close()
    return [o.exitcode for o in going], texts


def _call(function, args, env, said):
    with open(said, 'wb') as out:
        for stream in (1, 2): os.dup2(out.fileno(), stream)
    sys.stdout,sys.stderr = (os.fdopen(stream, 'w', buffering=1, encoding='utf-8') for stream in (1, 2))
    os.environ.update(env)
    torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    function(*args)


def _run(script, args, folder, env, said):
    with open(said, 'wb') as out:
        for stream in (1, 2): os.dup2(out.fileno(), stream)
    sys.stdout,sys.stderr = (os.fdopen(stream, 'w', buffering=1, encoding='utf-8') for stream in (1, 2))
    os.environ.clear()
    os.environ.update(env)
    os.chdir(folder)
    sys.argv,sys.path[0:0] = [script, *args],[os.path.dirname(script)]
    # what imports have left to do at the end, removing a folder say, concerns all children
    atexit._clear()
    for o in list(weakref.finalize._registry): o.atexit = False
    weakref.finalize._registered_with_atexit = False
    multiprocessing.set_start_method('fork', force=True) # As everywhere
    if 'RANK' in env: torch.set_num_threads(1)
    warnings.simplefilter('ignore')
    code = _code_of(script)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr): stream.flush()
    os._exit(code)


def _code_of(script):
    try: runpy.run_path(script, run_name='__main__')
    except SystemExit as e:
        if e.code is None or isinstance(e.code, int): return e.code or 0
        print(e.code, file=sys.stderr)
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
