"Blocks for recognition: who is in a picture, how good it is, and where it was taken"
from hashlib import blake2b

import torch
from fastai.data.block import TransformBlock
from fastai.data.transforms import Categorize, Category, CategoryMap
from fastai.torch_core import ShowTitle, TensorBase, TensorCategory, show_title
from fastai.vision.core import PILImage
from fastai.vision.data import ImageBlock
from fastcore.basics import merge
from fastcore.foundation import L
from fasttransform import DisplayedTransform

from ..shown import cut_to
from ..spelling import spell, spelled
from .pictures import LARGE, open_picture

__all__ = ['HeldOutCategorize', 'IdentityBlock', 'PictureBlock', 'Quality', 'QualityBlock', 'RecognitionImage',
           'SceneBlock', 'TensorQuality', 'TensorScene']


class RecognitionImage(PILImage):
    "A `PILImage` as `open_picture` gives it, of whatever that takes"
    @classmethod
    def create(cls, fn): return cls(open_picture(fn, LARGE))


def PictureBlock():
    "An `ImageBlock` of `RecognitionImage`"
    return ImageBlock(RecognitionImage)


def _number(name):
    "Of a name that validation brings and setup has not seen: the same in every worker process"
    return int.from_bytes(blake2b(name.encode(), digest_size=7).digest(), 'big')


class IdentityCategorize(Categorize):
    "Number identities by their one spelling, in sorted order"
    def setups(self, dsets):
        if self.vocab is None and dsets is not None: super().setups(_identities(dsets))

    def encodes(self, o): return super().encodes(spell(o, 'identity'))


def _identities(dset):
    "The names in a set; ValueError where one is empty"
    names = spelled(list(dset), 'identity', tell=True)
    if (names == '').any():
        raise ValueError(f'identity of item {(names == "").argmax()} is empty. Every picture needs an identity.')
    return L(names.tolist())


class Identity(Category):
    "The name of one person; over a picture it ends where its column of the figure does"
    def show(self, ctx=None, **kwargs):
        place = ctx.get_subplotspec() if hasattr(ctx, 'get_subplotspec') else None
        if place is None: return super().show(ctx=ctx, **kwargs)
        width = ctx.figure.get_size_inches()[0]/place.get_gridspec().ncols
        room = int(.94*width*72/(.58*ctx.title.get_fontsize()))
        return show_title(cut_to(str(self), room), ctx=ctx, **merge(self._show_args, kwargs))


class HeldOutCategorize(IdentityCategorize):
    """Number identities: those of the training split first, in sorted order, which `c` counts, then the held-out ones.

    Those that only a later validation brings get numbers of their own, far above all of these."""
    train_setup = False  # see the whole `TfmdLists`, not its training half alone

    def setups(self, dsets):
        if self.vocab is None:
            train = list(CategoryMap(_identities(dsets.train), sort=True).items)
            known = set(train)
            held_out = [o for o in CategoryMap(_identities(dsets), sort=True).items if o not in known]
            self.vocab,self.n_train = CategoryMap(train + held_out, sort=False), len(train)
        self.c = self.n_train

    def encodes(self, o):
        name = spell(o, 'identity')
        known = self.vocab.o2i.get(name)
        return TensorCategory(len(self.vocab) + _number(name) if known is None else known)  # of another set: nobody's

    def decodes(self, o):
        return Identity(self.vocab[o] if 0 <= o < len(self.vocab) else '?')  # an embedding names nobody


def IdentityBlock(
    held_out:bool=True, # May validation hold identities that training does not have? False: such a one is an error
):
    "A block for who is in the picture: an int64 number; `dls.c` counts the identities that can be trained on"
    return TransformBlock(type_tfms=HeldOutCategorize() if held_out else IdentityCategorize())


class TensorQuality(TensorBase):
    "Quality of pictures, float32, 0 to 100, higher is better, NaN = unknown"


class Quality(float, ShowTitle):
    "The quality of one picture"
    def __str__(self): return 'quality ?' if self != self else f'quality {float(self):.0f}'

    def show(self, ctx=None, **kwargs): return show_title(str(self), ctx=ctx, **merge({'label': 'quality'}, kwargs))


class EncodeQuality(DisplayedTransform):
    "A number or nothing to `TensorQuality` and back"
    order = 1

    def encodes(self, o:object):
        q = float('nan') if o is None or o == '' else float(o)
        if q < 0 or q > 100:
            raise ValueError(f'Quality {q:g} is outside 0 to 100. Rescale the column, or leave unknown ones empty.')
        return TensorQuality(torch.tensor(q, dtype=torch.float32))

    def decodes(self, o:TensorQuality): return Quality(o)


def QualityBlock():
    "A block for how good a picture is: float32, 0 to 100, NaN = unknown"
    return TransformBlock(type_tfms=EncodeQuality())


class TensorScene(TensorBase):
    "int64 `(row of the table, camera, is it a query)`; camera -1 = unknown"


class Scene(tuple, ShowTitle):
    "Where a picture stands in its table, from which camera, and as what"
    def show(self, ctx=None, **kwargs):
        row,camera,query = self
        return show_title(f'camera {"?" if camera == "" else camera}' + (', query' if query else ''), ctx=ctx, **kwargs)


class EncodeScene(DisplayedTransform):
    "`[row, camera, split]` to `TensorScene` and back; cameras of training and validation are numbered in sorted order"
    order,train_setup = 1,False

    def __init__(self, cameras=None): self.cameras = cameras

    def setups(self, dsets):
        if self.cameras is None: self.cameras = [camera for _,camera,_ in dsets]
        self.cameras = sorted(set(spelled(self.cameras, 'camera', camera=True, tell=True)) - {''})

    def encodes(self, o:object):
        row,camera,split = o
        camera = spell(camera, 'camera', camera=True)
        return TensorScene(torch.tensor([int(row), self._number(camera), split == 'query']))

    def _number(self, camera):
        if not camera: return -1
        if camera in self.cameras: return self.cameras.index(camera)
        return len(self.cameras) + _number(camera)

    def decodes(self, o:TensorScene):
        row,camera,query = (int(v) for v in o)
        return Scene((row, self.cameras[camera] if 0 <= camera < len(self.cameras) else '', bool(query)))


def SceneBlock(
    cameras:list=None, # All camera names; found in the items when not given
):
    "A block for what judging needs beside identity: table row, camera, and whether the picture is a query"
    return TransformBlock(type_tfms=EncodeScene(cameras))
