"""From a record file to quality labels, by several processes: pictures a second, and memory as they become more.

    OMP_NUM_THREADS=1 python benchmarks/recorded.py [--n 1000000] [--processes 2] [--folder DIR]

A record file of `n` drawn faces of 32x32, 20 of a person, is made into a table (`data_prep/records.py`) and labelled by
a small body (`data_prep/quality.py`): first a tenth of it, then all. Each step is a process of its own, or several,
imports included; memory is that of the largest. With --folder what is done stays, and a run that was stopped goes on.
"""
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastcore.script import call_parse
from tuning.measured import Measured

from qsd_fastai.commands import in_one_line
from qsd_fastai.data.loaders import picture_files, recognition_dataloaders
from qsd_fastai.data.packing import write_records
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.learner import recognition_learner

PREP = Path(__file__).parents[1]/'data_prep'


def run(
    *command, # Arguments of Python
): # `(seconds, MiB)`
    "Of a process and those that it starts; memory is the largest of all so far"
    start = time.perf_counter()
    subprocess.run([sys.executable, '-W', 'ignore', *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return time.perf_counter() - start, most/2**(20 if sys.platform == 'darwin' else 10)


def model(
    folder, # Where it goes
    arch,   # A timm model
): # Bytes of the pictures that records are made of
    "An exported learner, not trained, and drawn faces of 20 people"
    table = generate_faces(folder/'faces', n_train=20, n_test=2, n_imgs=20, size=(32, 32), progress=False)
    if not (folder/'learner.pkl').is_file():
        dls = recognition_dataloaders(table, size=(32, 32), n_ids=4, n_imgs=2, num_workers=0)
        recognition_learner(dls, arch, path=folder).export('learner.pkl')
    return [Path(o).read_bytes() for o in picture_files(table[table['split'] == 'train'])]


@call_parse
@in_one_line
def main(
    n:int=1_000_000,     # Pictures
    processes:int=2,     # That embed and compare
    arch:str='test_resnet', # A timm model
    folder:str='',       # To keep; a temporary one when not given
    out:str='',          # Folder for recorded.json and recorded.md
):
    "A row a size"
    with tempfile.TemporaryDirectory() as tmp:
        at = Path(folder or tmp)
        faces = model(at, arch)
        table = Measured('recorded', processes=processes, arch=arch, size='32x32')
        for some in (n//10, n):
            own = at/f'{some}'
            own.mkdir(parents=True, exist_ok=True)
            if not (own/'train.rec').is_file():
                write_records(((k//20, faces[k//20 % 20*20 + k % 20]) for k in range(some)), own/'train.rec')
            listed,_ = run(PREP/'records.py', own, '--no-verify')
            many = ('-m', 'torch.distributed.run', '--nproc_per_node', processes) if processes > 1 else ()
            labelled,most = run(*many, PREP/'quality.py', own/'images.csv', '--learner', at/'learner.pkl', '--force')
            table.add(f'{some:,} pictures', **{'labelled a second': some/labelled, 'labelled, s': labelled,
                                              'table, s': listed, 'MiB': most})
        table.show(out)
