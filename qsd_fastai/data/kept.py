"""Pictures decoded once and kept as bytes: in memory, on the device, or in a file that is mapped.

A batch is then a copy of its pictures, and neither opens, decodes nor collates anything; all that is drawn anew for
each batch is drawn after that, on the device."""
import hashlib
import math
import os
from contextlib import contextmanager
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import PIL
import torch
from fastai.data.transforms import ToTensor
from fastai.vision.core import TensorImage

from ..choices import one_of
from ..distributed import after_first, processes
from ..files import in_one_move
from .draws import same_draws
from .sources import split_address
from .transforms import Squish

__all__ = ['KeptPictures', 'keep_pictures', 'make_ready', 'unheard']

MOST = 4*2**30 # Bytes: kept in memory unasked
known = WeakValueDictionary() # By content: loaders of one table share its pictures
told = set() # Lines: loaders of one table are told of once


class KeptPictures:
    "The pictures and targets of a loader, filled by its own transforms and processes the first time they are needed"
    def __init__(self,
        dl,        # `IdentityDL` whose items are rows of a table, brought to one size
        where:str, # 'memory', 'device' or 'file'
        folder,    # Of files
    ):
        self.where,self.folder,self.workers = where,Path(folder),dl.fake_l.num_workers
        self.size = next(t for t in dl.after_item if isinstance(t, Squish))
        self.store = self.targets = None

    def __getstate__(self): return {**self.__dict__, 'store': None, 'targets': None}

    @property
    def filled(self): return self.store is not None

    @property
    def shape(self): return 3,*self.size.size

    def fill(self,
        dl, # Of the same items
    ):
        "Decode all pictures, unless another loader of this process, or an earlier run, has done it"
        if self.filled: return
        key = self._key(dl),self.where,dl.device if self.where == 'device' else None
        if self.where == 'file': self._write(dl, key[0]) # All processes come here, whoever has a store already
        store = known.get(key)
        if store is None:
            with same_draws(): store = _Store(self._mapped(dl, key[0]) if self.where == 'file' else self._decoded(dl))
            if self.where == 'device': store.pixels = store.pixels.to(dl.device)
            known[key] = store
        targets = [[tl[i] for i in range(len(tl))] for tl in dl.dataset.tls[1:]]
        self.kinds = [TensorImage, *(type(o[0]) for o in targets)]
        stacked = (torch.stack([o.as_subclass(torch.Tensor) for o in part]) for part in targets)
        self.targets = [o.to(store.pixels.device) for o in stacked]
        self.store = store

    def batch(self,
        at,          # Numbers of items
        device=None, # That it goes to: to a GPU by way of memory that is pinned, and nothing waits for it
    )->tuple:
        "As the transforms of items and fastai's collating make it, where the pictures are or on a GPU that is named"
        parts = [self.store.pixels, *self.targets]
        at = torch.tensor(list(at)).to(parts[0].device, non_blocking=True)
        pinned = at.device.type == 'cpu' and _is_gpu(device)
        chosen = [_pinned(o, at).to(device, non_blocking=True) if pinned else o[at] for o in parts]
        return tuple(torch.as_subclass(o, kind) for kind,o in zip(self.kinds, chosen))

    def _key(self, dl):
        "Of everything that the pixels depend on: names, sizes and times of the files, and what is done to them"
        mark,seen = hashlib.sha256(repr((PIL.__version__, self.shape, self.size.resize)).encode()),set()
        for address in _files(dl):
            mark.update(f'{address}\n'.encode())
            file = split_address(address)[0]
            if file in seen or not os.path.exists(file): continue # What is not there is said by who opens it
            seen.add(file)
            mark.update(f'{(stat := os.stat(file)).st_size} {stat.st_mtime_ns}\n'.encode())
        return mark.hexdigest()[:16]

    def _decoded(self, dl):
        pixels = torch.empty(len(dl.dataset), *self.shape, dtype=torch.uint8)
        self._fill(dl, pixels)
        return pixels

    def _write(self, dl, key):
        "By the first process, in one move: who finds the file finds it whole"
        file,shape = self.folder/f'{key}.npy',(len(dl.dataset), *self.shape)

        def make():
            if file.is_file(): return
            with in_one_move(file) as part:
                pixels = np.lib.format.open_memmap(part, 'w+', np.uint8, shape)
                self._fill(dl, torch.from_numpy(pixels))
                pixels.flush()
        with same_draws(): after_first(make)

    def _mapped(self, dl, key):
        file,shape = self.folder/f'{key}.npy',(len(dl.dataset), *self.shape)
        pixels = np.load(file, mmap_mode='c')
        if pixels.shape != shape: raise ValueError(f'{file} holds {pixels.shape}, not {shape}. Delete it.')
        return torch.from_numpy(pixels)

    def _fill(self, dl, pixels):
        plain = dl.new(shuffle=False, bs=min(256, len(pixels)), drop_last=False, after_batch=[], device='cpu',
                       num_workers=self.workers)
        plain.kept,at = None,0
        for pictures,*_ in plain:
            pixels[at:at + len(pictures)] = pictures.as_subclass(torch.Tensor)
            at += len(pictures)

    @property
    def place(self): return {'memory': 'in memory', 'device': 'on the device', 'file': f'in {self.folder}'}[self.where]


def _is_gpu(device): return str(device).startswith('cuda') and torch.cuda.is_available()


def make_ready(
    dl, # `IdentityDL` whose epoch begins
):
    """Keep its pictures, where they are to be kept and are not yet

    What processes load for a GPU comes by way of pinned memory, by a thread of PyTorch; what is kept is pinned as it is
    chosen."""
    if dl.kept is not None: dl.kept.fill(dl)
    dl.pin_memory = dl.fake_l.pin_memory = dl.kept is None and dl.fake_l.num_workers > 0 and _is_gpu(dl.device)


def _pinned(pictures, at):
    "Rows in memory that a GPU reads by itself; PyTorch gives such memory out again only when it has been read"
    out = torch.empty(len(at), *pictures.shape[1:], dtype=pictures.dtype, pin_memory=True)
    return torch.index_select(pictures, 0, at, out=out)


@contextmanager
def unheard():
    "What is told meanwhile nobody reads: it is told again"
    before = set(told)
    try: yield
    finally: told.intersection_update(before)


def _many(n, size): return f'{n:,} pictures of {size[0]}x{size[1]}'
def _size(nbytes): return f'{nbytes/2**30:.1f} GiB' if nbytes >= 2**30 else f'{nbytes/2**20:.1f} MiB'


def _tell(line):
    "Once, by the first process"
    if line in told or processes()[0]: return
    told.add(line)
    print(line, flush=True)


class _Store:
    "Pixels, uint8 `(n, 3, height, width)`, that several loaders may hold"
    def __init__(self, pixels): self.pixels = pixels


def keep_pictures(
    dl,          # `IdentityDL`; from its first epoch on it decodes nothing, and needs no processes
    keep='auto', # 'memory', 'device', 'file', 'no', or 'auto'
    folder='.',  # Of files
):
    """Set what keeps the pictures of a loader, `dl.kept`, or nothing.

    'auto' keeps them in memory where they take 4 GiB and an eighth of the machine at most, shared out to the
    processes, and says what it does. ValueError for another word, and where a transform of items draws something or
    pictures are no files."""
    one_of('keep', keep, 'auto', 'memory', 'device', 'file', 'no')
    if keep == 'no' or not len(dl.dataset): return
    squish = next((o for o in dl.after_item if isinstance(o, Squish)), None)
    strange = [type(o).__name__ for o in dl.after_item if not isinstance(o, (Squish, ToTensor))]
    plain = squish is not None and not strange and _files(dl) is not None
    what = f'the transforms of items hold {", ".join(strange)}' if strange else 'not all pictures are files'
    if keep == 'auto':
        n = len(dl.dataset)
        if not plain: return _tell(f'Pictures are decoded each time, since {what}.')
        if not _few(nbytes := 3*n*math.prod(squish.size)):
            return _tell(f'{_many(n, squish.size)} are decoded each time: {_size(nbytes)} are not kept unasked. '
                         'Use keep="file", --keep file in recipes, to decode them once.')
        keep = 'memory'
    if not plain: raise ValueError(f'keep is {keep!r}, and {what}: they differ from time to time. Use "no".')
    dl.kept = KeptPictures(dl, keep, folder)
    if getattr(dl.dataset, 'split_idx', 0) == 0: # Validation follows
        size = _size(len(dl.dataset)*math.prod(dl.kept.shape))
        _tell(f'{_many(len(dl.dataset), squish.size)} are decoded once and kept {dl.kept.place}, {size}.')
    dl.fake_l.num_workers = 0


def _few(nbytes):
    "Little enough to be kept unasked, by each of the processes"
    if not hasattr(os, 'sysconf'): return False
    return nbytes <= min(MOST, os.sysconf('SC_PHYS_PAGES')*os.sysconf('SC_PAGE_SIZE')/8)/processes()[1]


def _files(dl):
    "Addresses of the pictures, or `None` where they are none"
    files = [getattr(o, 'file', o) for o in dl.dataset.items]
    return [os.fspath(o) for o in files] if all(isinstance(o, (str, os.PathLike)) for o in files) else None
