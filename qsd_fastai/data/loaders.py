"Batches of `n_ids` identities with `n_imgs` pictures each, and the whole way from a table to `DataLoaders`"
import math
import random
from contextlib import nullcontext
from operator import attrgetter
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from fastai.data.block import DataBlock
from fastai.data.core import TfmdDL
from fastai.data.transforms import Normalize
from fastai.torch_core import num_distrib
from fastai.vision.core import imagenet_stats
from fastcore.basics import merge

from ..choices import one_of
from ..columns import complete_table
from ..launched import loading_processes
from .blocks import IdentityBlock, PictureBlock, QualityBlock, SceneBlock
from .copies import DegradedCopies
from .given import PictureOf, RecognitionDataLoaders, TableRow, complete_rows, picture_files, table_rows
from .halves import Halves
from .kept import keep_pictures, make_ready
from .order import dealt_out, identity_order, partner_order
from .table import check_table, trainable
from .transforms import CropFlip, FaceAugment, RandomErasing, Squish, height_width
from .within import by_fork, one_picture

__all__ = ['IdentityDL', 'RecognitionBlock', 'TableRow', 'picture_files', 'recognition_block',
           'recognition_dataloaders', 'table_rows']


class IdentityDL(TfmdDL):
    """A `TfmdDL` that shuffles into batches of `n_ids` identities x `n_imgs` pictures.

    Without `shuffle`, or on validation data, it is a plain one.

    With `partners`, a batch is those pictures followed by a partner of each: another picture of the same identity,
    drawn evenly from all that training has of it, as QSD does. An identity with a single picture is its own partner.
    The first halves are the batches that the same seed gives without partners, pixel by pixel where nothing of an item
    is drawn.

    `by='picture'` deals every picture once an epoch, in no order, `n_ids*n_imgs` a batch: the habit with very many
    faces, where a batch by identity would show few people. Pairs then come from `partners`.

    Of several processes each has batches of `n_ids` x `n_imgs`, and what all have in a step is the batch of
    `n_ids*processes` identities that one process would have with the same seed. Where there are fewer identities than
    that, two processes may have the same one."""
    kept = None # Of `keep_pictures`; learners saved before there was any have none

    def __init__(self,
        dataset,             # `Datasets` whose first target is the identity
        n_ids:int=16,        # Identities a batch
        n_imgs:int=4,        # Pictures of each
        partners:bool=False, # Add a partner of each picture, for `QualityDistillation(pairs='partner')`? `bs` doubles
        by:str='identity',   # `'identity'`, or `'picture'`: each picture once an epoch, whomever it shows
        seed:int=None,       # Of the order of pictures; None: from the state of `random`
        ids=None,            # Identity of each item; read from the dataset when not given
        bs:int=None,         # For plain order only: pictures a batch; `n_ids*n_imgs` when not given
        do_setup:bool=True,  # Set up the transforms of batches?
        **kwargs,            # For `TfmdDL`
    ):
        if n_imgs < 1 or n_ids < 1: raise ValueError(f'n_ids={n_ids} and n_imgs={n_imgs}. Both are 1 or more.')
        one_of('by', by, 'identity', 'picture')
        super().__init__(dataset, bs=bs or n_ids*n_imgs, do_setup=False, **kwargs)
        by_fork(self)
        self.n_ids,self.n_imgs,self.partners,self.by,self.ids,self.seed = n_ids,n_imgs,partners,by,ids,seed
        if seed is not None: self.rng = random.Random(seed)
        if self.deals:
            if self.ids is None: self.ids = self._read_ids()
            counts = np.unique(self.ids, return_counts=True)[1]
            if by == 'picture' and len(self.ids) < n_ids*n_imgs:
                raise ValueError(f'A batch of n_ids*n_imgs={n_ids*n_imgs} is larger than the training set, '
                                 f'{len(self.ids)} pictures. Use less.')
            if by == 'identity' and len(counts) < n_ids:
                raise ValueError(f'n_ids={n_ids} is larger than the number of training identities, {len(counts)}. '
                                 f'Use n_ids={len(counts)} or less, or add identities.')
            self.bs = n_ids*n_imgs*(1 + partners)
            of_ids,self.n_people = np.maximum(counts//n_imgs, 1),len(counts)
            self.n_groups = int(of_ids.sum()) if by == 'identity' else len(self.ids)//n_imgs
        if do_setup:  # only now: a transform may ask for a batch, `Normalize` without statistics does
            for tfms in (self.after_item, self.before_batch, self.after_batch): tfms.setup(self)
        if self.deals and partners: self.after_batch = Halves(self.after_batch, n_ids*n_imgs)

    def __repr__(self):
        if not self.deals: return f'{type(self).__name__}({self.n} pictures in order, bs={self.bs})'
        how = ', '.join(f'{k}={getattr(self, k)!r}' for k in ('n_ids', 'n_imgs', 'partners', 'copies', 'by', 'seed'))
        return f'{type(self).__name__}({self.n} pictures, {len(self)} batches, {how})'

    @property
    def deals(self):
        "Validation data are never dealt, also where `Learner.show_results` shuffles them"
        return bool(self.shuffle and self.n) and getattr(self.dataset, 'split_idx', 0) != 1

    @property
    def copies(self):
        "Do transforms add a degraded copy of each picture?"
        return any(isinstance(t, DegradedCopies) for t in self.after_batch)

    @property
    def by_identity(self): return self.deals and self.by == 'identity'

    @property
    def dealt(self):
        "Identities that are dealt together, to all processes"
        n_ids = self.n_ids*max(num_distrib(), 1)
        return n_ids if n_ids <= self.n_people or self.by == 'picture' else self.n_ids

    def _order(self, ids):
        "Indices of one pass"
        n_ids = self.dealt
        if self.by == 'identity': return identity_order(ids, n_ids, self.n_imgs, self.rng)
        order,n = list(range(len(ids))), min(n_ids*self.n_imgs, len(ids))
        self.rng.shuffle(order)
        return order[:len(order)//n*n]

    def _read_ids(self):
        "The identity pipeline alone: no picture is opened"
        targets = self.dataset.tls[self.dataset.n_inp]
        return np.array([int(targets[i]) for i in range(len(targets))])

    def __len__(self):
        if not self.deals: return super().__len__()
        world = max(num_distrib(), 1)  # every process gets the same number of whole batches
        return max(self.n_groups//self.n_ids//world, 1)*world

    def get_idxs(self):
        if not self.deals: return super().get_idxs()
        ids = np.asarray(self.ids).tolist()
        order,n = [], self.n_ids*self.n_imgs
        rng = random.Random(repr(self.rng.getstate()))  # the partners' own: they change nothing in the order of others
        while len(order) < len(self)*n: order += self._order(ids)
        order = order[:len(self)*n]
        return dealt_out([order, *([partner_order(ids, order, rng)] if self.partners else [])], n, num_distrib())

    def before_iter(self):
        super().before_iter()
        make_ready(self)

    def create_batches(self, samples):
        if self.kept is None: yield from super().create_batches(samples)
        else: yield from (self.kept.batch(o, self.device) for o in self.chunkify(samples))

    def one_batch(self):
        "A batch of its own: for it alone not all pictures are decoded, to be kept"
        if self.kept is None or self.kept.filled: return super().one_batch()
        kept,self.kept = self.kept,None
        try: return super().one_batch()
        finally: self.kept = kept

    def new(self, dataset=None, cls=None, **kwargs):
        same = dataset is None or dataset is self.dataset
        if 'bs' in kwargs and same and self.deals and kwargs.get('shuffle', True):
            raise ValueError(f'bs is {kwargs["bs"]}, and these batches are n_ids x n_imgs. Give n_ids and n_imgs.')
        own = dict(n_ids=self.n_ids, n_imgs=self.n_imgs, partners=self.partners, by=self.by, seed=self.seed,
                   ids=self.ids if same else None)
        stays = same and not {'after_item', 'before_batch', 'create_item'} & {*kwargs}
        if self.kept is not None and not stays: own['num_workers'] = self.kept.workers
        made = super().new(dataset, cls, **merge(own, kwargs))
        if stays: made.kept = self.kept
        return made

    def show_batch(self,
        b=None,            # Batch to show; one is drawn when not given
        max_n:int=None,    # Pictures; four rows when not given, or 9 pictures where batches are not by identity
        ctxs=None,         # Axes to draw on
        show:bool=True,    # False: give the decoded batch back instead
        unique:bool=False, # Show one item again and again, each time as augmented?
        nrows:int=None,    # Rows of the grid
        ncols:int=None,    # Columns of the grid; `n_imgs` when neither is given and batches are by identity
        **kwargs,          # For `TfmdDL.show_batch`
    ):
        "Show one identity a row; with partners, each row of pictures above the row of their partners"
        if not show or ctxs is not None: return super().show_batch(b, max_n or 9, ctxs, show, unique, **kwargs)
        with one_picture(self) if unique else nullcontext():
            if b is None: b = self.one_batch()
        if self.deals and (self.partners or self.copies) and len(b[0]) == self.bs*(1 + self.copies) and not unique:
            order = torch.arange(len(b[0])).view(2, -1, self.n_imgs).transpose(0, 1).flatten()
            b = tuple(o[order.to(o.device)] for o in b)
        in_rows = self.by_identity and not unique
        max_n = min(max_n or (4*self.n_imgs if in_rows else 9), len(b[0]))
        if not ncols:
            usual = self.n_imgs if in_rows else math.ceil(math.sqrt(max_n))
            ncols = math.ceil(max_n/nrows) if nrows else usual
        nrows = nrows or math.ceil(max_n/ncols)
        height,width = b[0].shape[-2:]
        size = 1.5*ncols, (1.5*height/width + .6)*nrows  # inches; a title takes .6
        plt.draw_if_interactive() # A notebook's backend switches interactive on when it loads, and rc_context off again
        with plt.rc_context({'axes.titlesize': 9, 'figure.constrained_layout.use': True}):
            super().show_batch(b, max_n, **merge({'nrows': nrows, 'ncols': ncols, 'figsize': size}, kwargs))


def _held_out(rows):
    held_out = [o.held_out for o in rows]
    return [i for i,o in enumerate(held_out) if not o], [i for i,o in enumerate(held_out) if o]


class RecognitionBlock(DataBlock):
    "A `DataBlock` over `table_rows` that also takes the table itself"
    def datasets(self,
        source,             # A table, or its `table_rows`
        verbose:bool=False, # Show messages?
    ):
        "Fastai's `Datasets`"
        rows = table_rows(trainable(check_table(source, files=False))) if isinstance(source, pd.DataFrame) else source
        dsets = super().datasets(rows, verbose)
        dsets._dbunch_type = RecognitionDataLoaders
        return dsets

    def dataloaders(self,
        source,             # A table, or its `table_rows`
        path=None,          # Folder of the learner; that of the table when not given
        verbose:bool=False, # Show messages?
        **kwargs,           # For the loaders: `dl_type=IdentityDL`, `n_ids`, `n_imgs`, `bs`, `num_workers`, `device`
    )->RecognitionDataLoaders:
        "Loaders of training and validation; `dls.table` is the table, where it was given"
        known = isinstance(source, pd.DataFrame)
        if path is None: path = source.attrs.get('root', '.') if known else '.'
        dls = super().dataloaders(source, Path(path), verbose, **kwargs)
        if known: dls.table = complete_table(source).reset_index(drop=True)
        return dls


def recognition_block(
    size:tuple=(256, 128),      # `(height, width)`, pixels; a number is both
    augment=True,               # What is done to training pictures: True, False, 'face' or a list of batch transforms
    erase:float=.5,             # Chance that a rectangle of a training picture is erased, 0 to 1
    stats:tuple=imagenet_stats, # Mean and standard deviation of the three channels, 0 to 1; None: they stay in 0 to 1
    cameras:list=None,          # All camera names; found in the items when not given
    resize:str='bilinear',      # Filter that brings pictures to `size`: 'bilinear', 'bicubic'
    copies=False,               # Add a degraded copy of each training picture? True, or a `DegradedCopies`
)->RecognitionBlock:
    """The usual `DataBlock`: picture -> (identity, quality, scene), over a table.

    `augment=True` mirrors and shifts, by up to 10 pixels at width 128 as published, in proportion at others; 'face'
    mirrors and does as `FaceAugment()`. Quality is that of the picture as it is on disk: what `augment` and `erase`
    take away, no label knows. ValueError if `augment` is unknown."""
    size = height_width(size)
    if isinstance(augment, (list, tuple)): batch_tfms = list(augment)
    elif augment == 'face': batch_tfms = [CropFlip(0), FaceAugment()]
    elif augment in (True, False): batch_tfms = [CropFlip(round(10*size[1]/128))] if augment else []
    else: raise ValueError(f"augment={augment!r} is unknown. Use True, False, 'face' or a list of batch transforms.")
    if copies: batch_tfms.append(DegradedCopies() if copies is True else copies)
    if stats is not None and (isinstance(stats, str) or len(stats) != 2):
        raise ValueError(f'stats is {stats!r}. Give (means, deviations) of three channels, or None.')
    if stats is not None: batch_tfms.append(Normalize.from_stats(*stats))
    if erase: batch_tfms.append(RandomErasing(erase))
    blocks = (PictureBlock, IdentityBlock, QualityBlock, SceneBlock(cameras))
    getters = [PictureOf(), *(attrgetter(o) for o in ('identity', 'quality', 'scene'))]
    return RecognitionBlock(blocks=blocks, n_inp=1, getters=getters, splitter=_held_out, batch_tfms=batch_tfms,
                            item_tfms=Squish(size, resize))


def recognition_dataloaders(
    table:pd.DataFrame,         # Checked by `check_table`
    path=None,                  # The folder the paths of the table start from; `table.attrs['root']` when not given
    size:tuple=(256, 128),      # `(height, width)`, pixels; a number is both
    n_ids:int=16,               # Identities a training batch
    n_imgs:int=4,               # Pictures of each
    partners:bool=False,        # Add a partner of each picture, for `QualityDistillation(pairs='partner')`?
    copies=False,               # Add a degraded copy of each training picture? True, or a `DegradedCopies`
    by:str='identity',          # What training batches are dealt by; `'picture'`: each once an epoch, for many faces
    bs:int=None,                # Pictures a validation batch; twice `n_ids*n_imgs` when not given
    augment=True,               # As in `recognition_block`: True, False, 'face' or a list of batch transforms
    erase:float=.5,             # Chance that a rectangle of a training picture is erased, 0 to 1
    stats:tuple=imagenet_stats, # Mean and standard deviation of the three channels
    seed:int=None,              # Of the order of training pictures
    num_workers:int=None,       # Loading processes; 0 loads in this one; None: up to 8, of the cores of this process
    device=None,                # Where batches go; fastai's default when not given
    resize:str='bilinear',      # Filter that brings pictures to `size`: 'bilinear', 'bicubic'
    keep:str='auto',            # Where decoded pictures are kept: 'memory', 'device', 'file' (folder `kept`), 'no'
):
    """`DataLoaders` from a table: batches of `n_ids` x `n_imgs` for training, query + gallery in order for validation

    With `keep` pictures are decoded once, by `num_workers` processes, and batches are copies of bytes; they are the
    same. 'auto' keeps sets of up to 4 GiB, and an eighth of the memory, from the first epoch on."""
    root = path if path is not None else getattr(table, 'attrs', {}).get('root', '.')
    check_table(table, root=root)
    table = complete_table(table, root)
    trainable(table)
    cameras = sorted(set(table['camera']) - {''})
    if copies and partners: raise ValueError('partners and copies both double a batch. Choose one of them.')
    block = recognition_block(size, augment, erase, stats, cameras, resize, copies)
    workers = loading_processes() if num_workers is None else num_workers
    dls = block.dataloaders(complete_rows(table, root), path=Path(root), dl_type=IdentityDL, n_ids=n_ids, n_imgs=n_imgs,
                            partners=partners, by=by, seed=seed, num_workers=workers, device=device,
                            val_bs=bs or 2*n_ids*n_imgs)
    for dl in dls.loaders: keep_pictures(dl, keep, Path(root)/'kept')
    dls.table = table.reset_index(drop=True)
    dls.table.attrs = {**table.attrs, 'root': str(root)}
    return dls
