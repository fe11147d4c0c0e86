"What is within the loaders of a learner: the one that deals out, the size of its pictures, its processes"
import multiprocessing
import os
from contextlib import contextmanager
from itertools import repeat
from pathlib import Path

from fastai.data.load import _FakeLoader

from .blocks import RecognitionImage

__all__ = ['as_items', 'by_fork', 'one_picture', 'own_loader', 'picture_size']


def own_loader(
    dls, # `DataLoaders`, in a fit or not
):
    "The training loader with the transforms and the generator: within that which deals out to several processes"
    dl = dls.train
    return getattr(dl, '__dict__', {}).get('dl', dl)


def picture_size(
    dls, # `DataLoaders`
): # `(height, width)`, pixels, or `None`
    "The size that pictures are brought to, where a transform of items says it"
    sizes = (getattr(t, 'size', None) for t in getattr(own_loader(dls), 'after_item', ()))
    return next((tuple(o) for o in sizes if isinstance(o, tuple)), None)


def as_items(
    files, # Files as text, or anything that is a picture
    dls,   # `DataLoaders` of blocks of one's own
)->list: # For their `test_dl`
    "What their pictures were made of, as far as fastai knows it: a `str` is none of its `Path`s; else pictures"
    if not all(isinstance(o, (str, os.PathLike)) for o in files): return [RecognitionImage.create(o) for o in files]
    types = [getattr(o, 'types', None) or [None] for o in getattr(dls.valid_ds, 'tls', ())]
    paths = bool(types) and isinstance(types[0][0], type) and issubclass(types[0][0], Path)
    return [Path(o) for o in files] if paths else files


class _Forked(_FakeLoader):
    @property
    def multiprocessing_context(self): return multiprocessing.get_context('fork') if self.num_workers > 0 else None


def by_fork(
    dl, # A loader of fastai, changed in place
): # The same
    """Let its processes begin as a fork, where the system has that

    Whatever Python begins others by: transforms of fasttransform hold functions that cannot be sent to new ones."""
    if 'fork' in multiprocessing.get_all_start_methods(): dl.fake_l.__class__ = _Forked
    return dl


@contextmanager
def one_picture(
    dl, # A loader of fastai
):
    "Within this it gives its first picture again and again"
    own = vars(dl).pop('get_idxs', None)
    dl.get_idxs = lambda: repeat(0)
    try: yield
    finally:
        del dl.get_idxs
        if own is not None: dl.get_idxs = own
