"A plain fastai `Learner` for recognition, and embeddings from it"
import math
import warnings
from contextlib import nullcontext
from dataclasses import replace

import matplotlib.pyplot as plt
import pandas as pd
import torch

# each of these gives `Learner` some of its methods: fit_one_cycle, to_fp16, fine_tune, ...
from fastai.callback import fp16, progress, schedule, training  # noqa: F401
from fastai.callback.core import Callback
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.learner import Learner
from fastai.torch_core import TensorBase

# its `show_results` for all pictures must be defined before ours: of two that fit, the later one is taken
from fastai.vision import learner as vision_learner  # noqa: F401
from fastai.vision.core import TensorImage
from fastai.vision.data import get_grid
from fastcore.basics import patch
from fastcore.foundation import L
from plum import dispatch

from .callbacks.held_out import HeldOut
from .callbacks.loss_terms import LossTerms
from .callbacks.partial_update import PartialUpdate
from .columns import complete_table
from .data.blocks import TensorQuality, TensorScene
from .data.folders import list_pictures
from .data.loaders import TableRow, picture_files, picture_size
from .data.transforms import Squish
from .evaluation.verification import fuse_flip
from .losses import MarginLoss, RecognitionLoss
from .models.heads.margins import MarginHead
from .models.heads.partial_fc import PartialFC
from .models.preprocess import Preprocess, stats_differ
from .models.recognizer import Recognizer, recognizer_splitter
from .tensors import plain_tensor

__all__ = ['imprint_head', 'pictures_of_loader', 'recognition_learner']


def recognition_learner(
    dls,                   # Of `recognition_dataloaders`, or of any `DataBlock` with an `IdentityBlock` as first target
    arch,                  # A timm model name, one of our own, or a body as a module
    head=None,             # Over identities, a module or a function of `(nf, n_ids)`; `LinearHead` when not given
    loss=None,             # `MarginLoss` for a head with a margin, else `RecognitionLoss()`, when not given
    metrics=None,          # `Retrieval('rank1', 'mAP', 'mINP')`, say
    pretrained=False,      # `True`: published weights through timm; a file of weights; `False`: from scratch
    last_stride:int=None,  # 1 doubles the resolution of a ResNet's last stage, the habit in Re-ID; `None`: as it is
    levels=None,           # Which stages QSD sees; the last three when not given
    pool=None,             # Of the body's maps; `GeM` when not given
    neck=None,             # Between pooling and head; `BNNeck` when not given
    body_kwargs:dict=None, # For the body, `drop_path_rate=.1`, say; it knows the size of the pictures of `dls`
    cbs=None,              # Callbacks beside fastai's own
    splitter=recognizer_splitter, # Parameter groups: body; pool, neck and head
    **kwargs,              # For `Learner`: `opt_func`, `lr`, `wd`, `path`, `moms`, ...
)->Learner:
    "A fastai `Learner` that trains an embedding of identities; in evaluation its model gives the embedding `(bs, nf)`"
    if not getattr(dls, 'c', 0):
        raise ValueError('dls.c is 0: no training identity. Give a table with training rows and an `IdentityBlock`.')
    if isinstance(arch, str):
        known = {'pretrained': pretrained, 'last_stride': last_stride, 'size': picture_size(dls)}
        options = {**known, **(body_kwargs or {})}
    elif pretrained or last_stride or body_kwargs:
        raise ValueError('pretrained, last_stride and body_kwargs are of a body given by name. Set them on the module.')
    else: options = {}
    model = Recognizer(arch, dls.c, pool=pool, neck=neck, head=head, levels=levels, **options)
    _set_pictures(dls, model, pretrained)
    cbs = L(LossTerms(), HeldOut()) + L(cbs)
    updates = any(isinstance(cb, PartialUpdate) for cb in cbs)
    if isinstance(model.head, PartialFC) and not updates: cbs = cbs + [PartialUpdate()]
    loss = _loss_of(model, loss)
    learn = Learner(dls, model, loss_func=loss, metrics=metrics, splitter=splitter, cbs=cbs, **kwargs)
    learn.made_by = recognition_learner  # exported with it: whoever loads it imports this module, and so has `embed`
    return learn


def _loss_of(model, loss):
    margin = isinstance(model.head, MarginHead | PartialFC)
    if loss is None: return MarginLoss(model.head) if margin else RecognitionLoss()
    if margin and isinstance(loss, RecognitionLoss) and not isinstance(loss, MarginLoss):
        raise ValueError(f'{type(model.head).__name__} gives cosines, and {type(loss).__name__} knows no margin. '
                         'Leave loss out, or make the head yourself and give head=head, loss=MarginLoss(head, ...).')
    return loss


def pictures_of_loader(
    dl, # Of `recognition_dataloaders`, or any other
)->Preprocess:
    "What a loader does to pictures; size None: it does not resize by `Squish`"
    normalize = next((t for t in getattr(dl, 'after_batch', ()) if isinstance(t, Normalize)), None)
    squish = next((t for t in getattr(dl, 'after_item', ()) if isinstance(t, Squish)), None)
    stats = ([0.]*3, [1.]*3) if normalize is None else (normalize.mean, normalize.std)
    mean,std = (tuple(round(float(v), 6) for v in torch.as_tensor(o).flatten()) for o in stats)
    if squish is None: return Preprocess(mean, std)
    return Preprocess(mean, std, tuple(map(int, squish.size)), squish.resize)


def _set_pictures(dls, model, pretrained):
    "What the loaders do to pictures is what the model is trained on; a warning where weights were on others"
    ours,theirs = pictures_of_loader(dls.train), model.preprocess
    if theirs is not None and pretrained:
        if stats_differ(theirs, ours.mean, ours.std):
            warnings.warn(f'These weights were trained on pictures normalised by mean {theirs.mean}, std {theirs.std}, '
                          f'but the loaders have mean {ours.mean}, std {ours.std}. Give '
                          'recognition_dataloaders(stats=...) theirs.', stacklevel=3)
        if theirs.resize != ours.resize:
            warnings.warn(f'These weights were trained on pictures resized by a {theirs.resize} filter, but the '
                          f"loaders use {ours.resize}. Give recognition_dataloaders(resize='{theirs.resize}').",
                          stacklevel=3)
    model.body.preprocess = replace(ours, size=getattr(theirs, 'size', None))


class _AddMirrored(Callback):
    "Adds the embedding of the mirror image to each prediction"
    order = fp16.MixedPrecision.order - .5 # After inputs are plain tensors, before predictions become float32

    def after_pred(self):
        first,*others = self.xb
        self.learn.pred = fuse_flip(self.pred, self.model(first.flip(-1), *others))


@patch
def embed(self:Learner,
    data,                 # A table, a `DataLoader`, or what `list_pictures` takes: a folder, a picture, a list of them
    root=None,            # The folder the paths of a table start from; `table.attrs['root']` when not given
    bs:int=None,          # Pictures a batch; that of validation when not given
    normalize:bool=False, # To unit length?
    flip:bool=False,      # Add the embedding of the mirror image, as face protocols do?
)->torch.Tensor: # `(n, nf)` float32 on the CPU, in the order of `data`
    "Embeddings of pictures, with the transforms of validation"
    as_judged = nullcontext()
    size = {'bs': bs} if bs else {}
    if isinstance(data, DataLoader):
        dl = data.new(shuffle=False, drop_last=False, **size)
        # training pictures, but not changed at random
        if hasattr(dl.dataset, 'set_split_idx'): as_judged = dl.dataset.set_split_idx(1)
    elif isinstance(data, torch.utils.data.DataLoader):
        raise ValueError("data is a loader of torch. Give fastai's DataLoader, a table or a list of picture files.")
    else:
        data = picture_files(data, root) if isinstance(data, pd.DataFrame) else list_pictures(data)
        dl = self.dls.test_dl([TableRow(o) for o in data], **size) if len(data) else ()
    if not len(dl): raise ValueError('data holds no picture to embed. Give a table, list or loader that does.')
    mirrored = [_AddMirrored()] if flip else None
    with as_judged: emb = plain_tensor(self.get_preds(dl=dl, cbs=mirrored)[0]).float()
    return torch.nn.functional.normalize(emb) if normalize else emb


@dispatch
def show_results(x:TensorImage, y:tuple[TensorBase, TensorQuality, TensorScene], samples:object, outs:object,
                 ctxs=None, max_n=9, nrows=None, ncols=None, figsize=None, **kwargs):
    "`learn.show_results()`: pictures, who they show and how good they are; an embedding names nobody and adds nothing"
    if ctxs is None:
        n,(height,width) = min(len(samples), max_n),x.shape[-2:]
        ncols = ncols or math.ceil(math.sqrt(n) if nrows is None else n/nrows)
        nrows = nrows or math.ceil(n/ncols)
        figsize = figsize or (1.6*ncols, (1.6*min(height/width, 2) + .6)*nrows)  # inches; a title takes .6
        with plt.rc_context({'axes.titlesize': 9, 'figure.constrained_layout.use': True}):
            ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize)
    for sample,ctx in zip(samples, ctxs):
        for part in sample: part.show(ctx=ctx, **kwargs)
    return ctxs


def imprint_head(
    learn, # `Learner` whose body has weights, and whose head has none yet
    table, # That it is to be trained on
):
    "Start a margin head at the mean direction of each identity's pictures; another head stays as it is"
    head = learn.model.head
    if not hasattr(head, 'imprint'): return
    table = complete_table(table)
    train = table[table['split'] == 'train']
    head.imprint(learn.embed(train), [learn.dls.vocab.o2i[o] for o in train['identity']])
