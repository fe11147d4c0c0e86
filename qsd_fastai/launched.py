"A command that a launcher has started several times: its processes join, and the first one speaks for all"
import os
import sys
from contextlib import contextmanager, redirect_stdout
from datetime import timedelta

import psutil
import torch
import torch.distributed as dist
from fastcore.basics import defaults

from .distributed import processes

__all__ = ['first_goes_on', 'joined', 'loading_processes', 'many_wanted']

PATIENCE = timedelta(hours=2) # With a process that works alone, drawing a set say; one that is dead is noticed at once


@contextmanager
def joined():
    """Join the processes of `torchrun` or `accelerate launch` in this block; nothing where there is one

    Each takes the GPU of its number, `gloo` connects them where there are none or `accelerate launch --cpu` says so.
    All but the first print nothing. `ValueError` where there are more processes than GPUs."""
    if (dist.is_available() and dist.is_initialized()) or int(os.environ.get('WORLD_SIZE') or 1) < 2:
        yield
        return
    # named, for PyTorch left alone takes that of the GPUs only, and what lies on the CPU is gathered, too
    dist.init_process_group('cpu:gloo,cuda:nccl' if _takes_gpu() else 'gloo', timeout=PATIENCE)
    try:
        if not processes()[0]:
            print(f'{processes()[1]} processes, each with batches of its own')
            yield
            return
        with open(os.devnull, 'w') as nowhere, redirect_stdout(nowhere): yield
    finally: dist.destroy_process_group()


def first_goes_on():
    "A command ends here on all processes but the first, which does what is left"
    if processes()[0]: raise SystemExit(0)


def _takes_gpu():
    "Take the GPU of this process, if it is to have one"
    n = torch.cuda.device_count()
    if os.environ.get('ACCELERATE_USE_CPU', '').lower() in ('true', '1') or not n:
        defaults.use_cuda = False # fastai's own switch
        return False
    local = int(os.environ.get('LOCAL_RANK', 0))
    if local >= n:
        many = os.environ.get('LOCAL_WORLD_SIZE', 'more')
        raise ValueError(f'There are {n} GPUs, and {many} processes. Start one a GPU, or accelerate launch --cpu.')
    torch.cuda.set_device(local)
    return True


def loading_processes(
    most:int=8, # At most so many
)->int:
    "Processes that load pictures for this one, where nobody says how many: its share of the cores"
    return min(most, max((os.cpu_count() or 1)//int(os.environ.get('LOCAL_WORLD_SIZE') or 1), 1))


def many_wanted()->list: # Of a command; empty where nothing is wanting
    """The command that starts the processes that `accelerate launch --num_processes N` was asked for on a CPU

    There accelerate starts one, whatever is asked, unless MPI starts the others. `ValueError` where N is not known."""
    env = os.environ
    if 'ACCELERATE_USE_CPU' not in env or 'MASTER_PORT' not in env or 'WORLD_SIZE' in env: return []
    if any(o.endswith('_SIZE') and o.startswith(('OMPI_', 'PMI_', 'MV2_')) for o in env): return []
    n = _asked(psutil.Process(os.getppid()).cmdline())
    if not n:
        raise ValueError('accelerate starts one process on a CPU, whatever it is asked for. '
                         f'Use torchrun --nproc_per_node N {sys.argv[0]}.')
    at = ['--nproc_per_node', str(n), '--master_addr', env['MASTER_ADDR'], '--master_port', env['MASTER_PORT']]
    return [sys.executable, '-m', 'torch.distributed.run', *at, *sys.argv]


def _asked(command):
    "`N` of `--num_processes N` in a command line, 0 where it is not there"
    for o,after in zip(command, [*command[1:], '']):
        name,_,value = o.replace('-', '_').partition('=')
        if name == '__num_processes' and (value or after).isdecimal(): return int(value or after)
    return 0
