"Scripts as a command starts them, in a process forked from one that has imported the library: seconds saved each time"
import atexit
import multiprocessing
import os
import runpy
import sys
import tempfile
import traceback
import warnings
import weakref
from pathlib import Path

forks = multiprocessing.get_context('forkserver')
forks.set_forkserver_preload(['qsd_fastai.all'])


def start(script, *args, folder, timeout=280, **env):
    "Its exit code and what it printed, to both streams, as `python -W ignore script args` in a folder would"
    with tempfile.NamedTemporaryFile() as said:
        asked = str(Path(script).resolve()), list(map(str, args)), str(folder), {**os.environ, **env}, said.name
        going = forks.Process(target=_run, args=asked)
        going.start()
        going.join(timeout)
        if going.is_alive():
            going.kill()
            going.join()
        return going.exitcode, Path(said.name).read_text(encoding='utf-8')


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
