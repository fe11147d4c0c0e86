"""Quality labels that no network gives to pictures it was trained on, or that follow the network as it is trained.

A network has seen its own training pictures so often that all of them look good to it: labels by the network that was
trained on the pictures agree least with what is wrong with them."""
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback

from .choices import one_of
from .columns import complete_table
from .data.blocks import TensorQuality, TensorScene
from .data.within import own_loader
from .distillation import QualityDistillation
from .distributed import gather, together
from .fits import is_judging
from .quality import comparable, similarity_quality
from .shown import shown

__all__ = ['OnlineQuality', 'cross_fit_folds', 'cross_fitted_labels']


def cross_fit_folds(
    ids,               # `(n,)` identity of each training picture
    k:int=2,           # Folds
    by:str='identity', # 'identity': an identity is in one fold; 'picture': its pictures are dealt to all folds
    seed:int=0,        # Of the dealing
)->np.ndarray: # `(n,)` int, 0 to k - 1
    "Which fold each picture is in; folds are as equal as can be. ValueError where a fold would be empty"
    codes,rng = pd.factorize(np.asarray(ids))[0],np.random.default_rng(seed)
    n = codes.max() + 1 if one_of('by', by, 'identity', 'picture') == 'identity' else len(codes)
    if not 2 <= k <= n: raise ValueError(f'k is {k} for {n} to deal by {by}. Give 2 folds, or up to {n}.')
    if by == 'identity': return (rng.permutation(n) % k)[codes]
    # identity by identity, in drawn order within each, one picture to each fold in turn
    order = np.lexsort((rng.random(n), codes))
    fold = np.empty(n, int)
    fold[order] = np.arange(n) % k
    return fold


def cross_fitted_labels(
    table,             # Its training rows are labelled
    fit,               # Function of a table that gives a `Learner` trained on its training rows
    k:int=2,           # Folds; so many networks are trained
    by:str='identity', # Of `cross_fit_folds`
    seed:int=0,        # Of folds and draws
    **kwargs,          # For `similarity_quality`
)->pd.DataFrame: # The table with `quality`; that of rows that are not trained on is unknown
    """Labels by k networks, each of pictures that it was not trained on

    With folds of identities the pictures of a fold are compared among themselves, with folds of pictures with all
    training pictures. Each fold is scaled to 0 to 100 by itself."""
    table = complete_table(table)
    train = np.flatnonzero(table['split'] == 'train')
    fold = cross_fit_folds(table['identity'].to_numpy()[train], k, by, seed)
    quality = np.full(len(table), np.nan)
    for i in range(k):
        out = train[fold == i]
        learn = fit(table.drop(table.index[out]).assign(quality=np.nan))
        compared = out if by == 'identity' else train
        who = table['identity'].iloc[compared]
        if not comparable(who.value_counts(), kwargs.get('min_imgs', 2)):
            raise ValueError(f'Fold {i} of {k} has no two pictures of an identity to compare. Take fewer folds.')
        emb = learn.embed(table.iloc[compared])
        with together(): found = similarity_quality(emb, who, seed=seed, **kwargs)
        quality[out] = found[np.isin(compared, out)]
    return table.assign(quality=quality)


class OnlineQuality(Callback):
    """Labels that are renewed after each epoch, from a moving average of the embeddings that training sees anyway

    No picture passes through the network once more; several processes tell each other what they have seen. Until a
    picture has been seen, and in the first epoch, its label is that of the table. Needs targets
    `(identity, quality, scene)`, as `recognition_dataloaders` gives them."""
    order,run_valid = QualityDistillation.order - 1,False

    def __init__(self,
        momentum:float=.5, # Share of the average that stays when a picture is seen again, 0 to 1
        seed:int=0,        # Of `similarity_quality`
        **kwargs,          # For `similarity_quality`
    ):
        if not 0 <= momentum < 1: raise ValueError(f'momentum is {momentum}. Give 0 or more, and less than 1.')
        self.momentum,self.seed,self.kwargs = momentum,seed,kwargs
        self.emb = self.quality = None

    __repr__ = shown

    def before_fit(self):
        if is_judging(self.learn): return
        if getattr(own_loader(self.dls), 'copies', False):
            raise ValueError('OnlineQuality would give a picture and its degraded copy one label. Leave copies out.')
        self.emb = None
        self.quality = torch.full((len(self.dls.table),), float('nan'))

    def before_batch(self):
        if len(self.yb) < 3 or not isinstance(self.yb[2], TensorScene):
            raise ValueError('OnlineQuality needs targets (identity, quality, scene). Make the loaders by '
                             '`recognition_dataloaders`, or put a `SceneBlock` third.')
        ids,given,scene,*more = self.yb
        self.rows = scene.as_subclass(torch.Tensor)[:, 0]
        now = self.quality.to(given.device)[self.rows]
        label = torch.where(now.isnan(), given.as_subclass(torch.Tensor), now)
        self.learn.yb = (ids, TensorQuality(label), scene, *more)

    def after_pred(self):
        emb = F.normalize(self.pred.emb.detach().as_subclass(torch.Tensor).float())
        rows,emb = gather(self.rows[:len(emb)]),gather(emb)
        if self.emb is None: self.emb = emb.new_zeros(len(self.quality), emb.shape[1])
        seen = self.emb[rows].square().sum(1, keepdim=True) > 0
        self.emb[rows] = torch.where(seen, self.momentum*self.emb[rows] + (1 - self.momentum)*emb, emb)

    def after_train(self):
        if self.emb is None: return # A fit that was stopped before its first batch
        seen = (self.emb.square().sum(1) > 0).cpu().numpy()
        who = self.dls.table['identity'][seen]
        if not comparable(who.value_counts(), self.kwargs.get('min_imgs', 2)): return
        emb = self.emb[torch.from_numpy(seen).to(self.emb.device)]
        with together(): found = similarity_quality(emb, who, seed=self.seed, **self.kwargs)
        self.quality[torch.from_numpy(seen)] = torch.from_numpy(found)

    def state_dict(self):
        "What a fit that is resumed needs"
        return {'emb': None if self.emb is None else self.emb.cpu(), 'quality': self.quality}

    def load_state_dict(self,
        state:dict, # Of `state_dict`
    ):
        "Go on from there"
        device = next(self.learn.model.parameters()).device
        self.emb = None if state['emb'] is None else state['emb'].to(device)
        self.quality = state['quality']
