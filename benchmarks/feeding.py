"""How many pictures a second the training loader gives, with nothing behind it: decoded each time, and kept.

    OMP_NUM_THREADS=1 python benchmarks/feeding.py [--n_ids 100] [--height 256] [--width 128] [--workers 2]

Drawn people, 128x64 JPEG, brought to the size, mirrored, shifted, normalised and erased as for training. *Copying* is
what the same bytes cost as one gather a batch and a conversion to float, nothing else: the limit of all of these.
"""
import tempfile
import time
from statistics import median

import torch
from fastcore.script import call_parse
from tuning.measured import Measured

from qsd_fastai.commands import in_one_line
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.drawn.people import generate_people


def seconds(dl):
    "Of an epoch"
    start = time.perf_counter()
    for _ in dl: pass
    return time.perf_counter() - start


def copying(n, size, bs):
    "Seconds that the bytes of an epoch take"
    pixels,at = torch.zeros(n, 3, *size, dtype=torch.uint8),torch.randint(n, (n//bs, bs))
    start = time.perf_counter()
    for o in at: pixels[o].float()
    return time.perf_counter() - start


@call_parse
@in_one_line
def main(
    n_ids:int=100,  # Drawn, 12 pictures each
    height:int=256, # Of a batch, pixels
    width:int=128,  # Of a batch, pixels
    workers:int=2,  # Loading processes of the second row
    rounds:int=3,   # Of which medians are taken
    out:str='',     # Folder for feeding.json and feeding.md
):
    "Pictures a second, and against decoding in one process"
    with tempfile.TemporaryDirectory() as folder:
        table = generate_people(folder, n_train=n_ids, n_test=0, progress=False)
        n,size = len(table),(height, width)

        def loader(keep, workers=0, **kwargs):
            return recognition_dataloaders(table, size=size, seed=0, keep=keep, num_workers=workers, **kwargs).train
        bare = {'augment': False, 'erase': 0., 'stats': None} # On a GPU that is where these are
        forms = {'decoded, in this process': loader('no'), f'decoded, {workers} processes': loader('no', workers),
                 'kept in memory': loader('memory', workers), 'kept in a file': loader('file', workers),
                 'kept in memory, nothing drawn': loader('memory', **bare)}
        first = {k: seconds(dl) for k,dl in forms.items()}
        found = {k: [] for k in forms} | {'copying': []}
        for _ in range(rounds):
            for k,dl in forms.items(): found[k].append(seconds(dl)/len(dl)/dl.bs)
            found['copying'].append(copying(n, size, 64)/(n//64*64))
    base = median(found['decoded, in this process'])
    table = Measured('feeding', pictures=n, size=f'{height}x{width}')
    for k,o in found.items():
        took = median(o)
        table.add(k, **{'against decoding': base/took, 'pictures a second': 1/took, 'us a picture': 1e6*took,
                        'first epoch, s': first.get(k)})
    table.show(out)
