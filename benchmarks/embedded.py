"""Very many pictures from a record file to Parquet: pictures a second, and memory as they become more.

    OMP_NUM_THREADS=1 python benchmarks/embedded.py [--n 1000000] [--rows 100000]

A record file of drawn faces, 112x112, is gone through again and again until `n` pictures are embedded by a small body.
Memory is that of the process after each file; files that are there are not made again, so that a run goes on.
"""
import re
import tempfile
import time
from pathlib import Path

from fastcore.script import call_parse
from tuning.measured import Measured

from qsd_fastai.commands import in_one_line
from qsd_fastai.data.loaders import picture_files, recognition_dataloaders
from qsd_fastai.data.packing import write_records
from qsd_fastai.data.sources import list_records
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.embedded import embed_to
from qsd_fastai.embedder import Embedder
from qsd_fastai.export import export_embedder
from qsd_fastai.learner import recognition_learner


def memory():
    "MiB of this process"
    return int(re.search(r'VmRSS:\s+(\d+)', Path('/proc/self/status').read_text())[1])/1024


def made(folder, arch):
    "A record file and a model"
    table = generate_faces(folder/'faces', n_train=100, n_test=2, progress=False)
    train = table[table['split'] == 'train']
    numbers = {o: i for i,o in enumerate(sorted(set(train['identity'])))}
    pairs = zip(train['identity'].map(numbers), picture_files(train, table.attrs['root']))
    write_records(((who, Path(file).read_bytes()) for who,file in sorted(pairs)), folder/'train.rec')
    dls = recognition_dataloaders(table, size=(112, 112), n_ids=4, n_imgs=2, num_workers=0)
    export_embedder(recognition_learner(dls, arch), folder/'model.onnx', table.iloc[:4])


@call_parse
@in_one_line
def main(
    n:int=100_000,        # Pictures
    rows:int=20_000,      # A file
    arch:str='test_resnet', # A timm model
    out:str='',           # Folder to keep, so that a run is gone on with
):
    "A row a file"
    with tempfile.TemporaryDirectory() as tmp:
        folder = Path(out or tmp)
        if not (folder/'model.onnx').is_file(): made(folder, arch)
        own = list_records(folder/'train.rec')
        addresses = [f'{folder}/train.rec#{o}' for o in own['offset']]
        pictures = (addresses*(n//len(addresses) + 1))[:n]
        table = Measured('embedded', pictures=n, different=len(addresses), arch=arch)
        for start in range(0, n, rows):
            begun = time.perf_counter()
            part = pictures[:start + rows]
            new = embed_to(Embedder(folder/'model.onnx', threads=1), part, folder/'embedded', rows, bs=64, workers=2)
            pace = rows/(time.perf_counter() - begun)
            if not new: continue
            table.add(f'{len(part):,} pictures', **{'a second': pace, 'MiB': memory()})
            print(f'{len(part):,} pictures: {pace:,.0f} a second', flush=True)
        table.show(out)
