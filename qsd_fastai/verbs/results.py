"Queries with their first answers, right and wrong marked: what `learn.show_results` and `plot_top_losses` draw"
import math
import random
from contextlib import nullcontext

import matplotlib.pyplot as plt
import numpy as np
import torch
from fastai.torch_core import TensorBase

# its `show_results` for all pictures must be defined before ours: of two that fit, the later one is taken
from fastai.vision import learner as vision_learner  # noqa: F401
from fastai.vision.core import TensorImage
from fastai.vision.data import get_grid
from plum import dispatch

from ..callbacks.held_out import Sides
from ..data.blocks import Quality, TensorQuality, TensorScene
from ..data.given import TableRow
from ..evaluation.metrics import RetrievalMetric, judge_of
from ..evaluation.retrieval import evaluate_retrieval, ranked_gallery
from ..plots.pictures import ranked_lists_figure, shortened
from ..tensors import plain_tensor
from .answers import answer_of, draw_answers

__all__ = ['Results', 'answers_of_loader', 'as_judged', 'has_labels', 'some']


def has_labels(
    dl, # Any loader
)->bool:
    "Does a loader of fastai give identities, too?"
    return len(getattr(dl.dataset, 'tls', ())) > 1


def as_judged(
    dl, # Any loader
):
    "For the length of a block: training pictures come as validation has them, not changed at random"
    dataset = getattr(dl, 'dataset', None)
    return dataset.set_split_idx(1) if hasattr(dataset, 'set_split_idx') else nullcontext()


class Results:
    "The pictures of a loader with labels, embedded: who searches, and what was answered, as the metrics judge it"
    def __init__(self,
        learn, # `Learner`
        dl,    # With labels
    ):
        with as_judged(dl): emb,targets = learn.get_preds(dl=dl)
        targets = [plain_tensor(o) for o in (targets if isinstance(targets, (tuple, list)) else [targets])]
        self.dataset,self.ids,self.quality = dl.dataset,targets[0],targets[1] if len(targets) > 1 else None
        self.sides = Sides.of(len(emb), targets[2] if len(targets) > 2 else None)
        judge = judge_of(learn.metrics, RetrievalMetric)
        known = {} if judge is None else judge.kwargs
        self.normalize = known.get('normalize', True)
        self.cameras = self.sides.each_other or known.get('exclude_same_camera', True)
        self.searched = self.sides.split(emb, self.ids)
        per_query = evaluate_retrieval(*self.searched, normalize=self.normalize,
                                       exclude_same_camera=self.cameras).per_query
        self.ap,self.first_rank = per_query['ap'].to_numpy(),per_query['first_rank'].to_numpy()

    @property
    def hardest(self)->np.ndarray:
        "Which of the pictures that search can be answered, those of the least AP first"
        order = self.ap.argsort(kind='stable')
        return order[~np.isnan(self.ap[order])]

    def draw(self,
        which,      # `(n,)` of the pictures that search, counted among them
        top:int=5,  # Answers of each
        height=1.5, # Of a picture, inches
    ):
        "A row for each: itself, and what it was answered"
        if top < 1: raise ValueError(f'{top} answers are asked for. Give 1 or more.')
        which = torch.as_tensor(np.array(which, dtype=np.int64))
        if not len(which): raise ValueError('No picture is asked for. Give 1 or more that search, and can be answered.')
        asked,there,asked_ids,ids,*cameras = self.searched
        seen = (cameras[0][which.numpy()], cameras[1]) if self.cameras else (None, None)
        ranks = np.nan_to_num(self.first_rank[which.numpy()]).astype(int)
        found = ranked_gallery(asked[which], there, asked_ids[which], ids, *seen, top=max(top, *ranks),
                               normalize=self.normalize)
        lists = [[int(self.sides.searched[i]) for i in row[:top] if i >= 0] for row in found.index]
        rows = self.sides.asking[which].tolist()
        queries = [self.dataset.tls[0][i] for i in rows]
        titles = [f'{shortened(self._name(row), o, height)}\nAP {self.ap[i]:.2f}{self._said(row)}'
                  for row,o,i in zip(rows, queries, which.tolist())]
        answers = [[self.dataset.tls[0][i] for i in o] for o in lists]
        captions = [[shortened(self._name(i), o, height) for i,o in zip(*row)] for row in zip(lists, answers)]
        first = [(rank, self.dataset.tls[0][int(self.sides.searched[row[rank - 1]])]) if rank > top else None
                 for rank,row in zip(ranks.tolist(), found.index)]
        ranked_lists_figure(queries, answers, found.right[:, :top], titles, captions, height, plt.figure, first)

    def _name(self, i):
        "As the table has it: a number of another set names nobody"
        item = self.dataset.tls[0].items[i] if isinstance(self.dataset.tls[0].items, list) else None
        if isinstance(item, TableRow): return item.identity
        return str(self.dataset.tls[1].tfms.decode(self.ids[i]))

    def _said(self, i): return '' if self.quality is None else f'\n{Quality(self.quality[i])}'


def answers_of_loader(
    learn,      # `Learner`
    dl,         # Without labels
    which,      # `(n,)` of its pictures
    top:int=5,  # Answers of each
    height=1.5, # Of a picture, inches
):
    "A row for each picture: itself, and who it is as `learn.predict` says"
    with as_judged(dl): emb = plain_tensor(learn.get_preds(dl=dl)[0]).float()
    draw_answers([answer_of(learn, emb[i], dl.dataset.tls[0][i], top) for i in which], height)


def some(
    n:int,        # How many there are
    max_n:int,    # How many are wanted
    shuffle:bool, # At random?
)->list:
    "Numbers below `n`"
    return random.sample(range(n), min(n, max_n)) if shuffle else list(range(min(n, max_n)))


@dispatch
def show_results(x:TensorImage, y:tuple[TensorBase, TensorQuality, TensorScene], samples:object, outs:object,
                 ctxs=None, max_n=9, nrows=None, ncols=None, figsize=None, **kwargs):
    "Of a batch, `dl.show_results()` say: pictures, who they show and how good they are; an embedding names nobody"
    if ctxs is None:
        n,(height,width) = min(len(samples), max_n),x.shape[-2:]
        ncols = ncols or math.ceil(math.sqrt(n) if nrows is None else n/nrows)
        nrows = nrows or math.ceil(n/ncols)
        figsize = figsize or (1.6*ncols, (1.6*min(height/width, 2) + .6)*nrows)  # inches; a title takes .6
        plt.draw_if_interactive() # A notebook's backend switches interactive on when it loads, and rc_context off again
        with plt.rc_context({'axes.titlesize': 9, 'figure.constrained_layout.use': True}):
            ctxs = get_grid(n, nrows=nrows, ncols=ncols, figsize=figsize)
    for sample,ctx in zip(samples, ctxs):
        for part in sample: part.show(ctx=ctx, **kwargs)
    return ctxs
