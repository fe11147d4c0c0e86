"Everything of a recipe once in small before it begins, so that what does not fit is found in seconds"
import io
import warnings
from contextlib import redirect_stdout
from copy import deepcopy

import numpy as np
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.training import GradientAccumulation

from .arms import added_by
from .data.kept import unheard
from .distillation import QualityDistillation

__all__ = ['rehearse']


class _OneBatch(Callback):
    "Ends a fit when its first batch has gone forward and backward"
    order = GradientAccumulation.order - 5
    def before_fit(self):
        for dl in self.dls.loaders: dl.kept = None # For this not all pictures are decoded
    def before_step(self): raise CancelFitException


class _Blind:
    "Embeds pictures without looking at them"
    sees = False
    def embed(self, table, **kwargs): return torch.rand(len(table), 8, generator=torch.Generator().manual_seed(0))


def rehearse(
    learner,    # Function of a table and a method that makes a learner, as the stages will
    judge,      # Function of a learner that judges it, as the stages will; here it gets random embeddings
    table,      # To be trained on
    methods=(), # Callbacks or `None`, as the stages will use them
):
    """Everything once in small, so that what does not fit is found in seconds; nothing is kept.

    One batch forward and backward with each method, two pictures embedded, one judgement."""
    table = table.assign(quality=np.linspace(0, 100, len(table)))
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()), unheard():
        warnings.simplefilter('ignore')
        found = judge(_Blind())
        if not any(o.figures for o in (found if isinstance(found, tuple) else (found,))):
            raise ValueError('Nothing of the table can be judged: it has no queries. Hold people out, as '
                             '`split_identities` does, or give pairs of them.')
        by_loader = {}
        for o in (None, *(o for o in methods if o)): by_loader.setdefault(tuple(added_by(o).values()), []).append(o)
        for some in by_loader.values():
            learn = learner(table, some[0])
            for method in some: _first_batch(learn, deepcopy(method), table)


def _first_batch(learn, method, table):
    try:
        with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=[_OneBatch(), *([method] if method else [])])
        learn.embed(table.iloc[:2])
    except (AssertionError, RuntimeError) as e:
        raise ValueError(f'A first batch does not pass. {e} Look at the size and at the body.') from e
    # where every picture comes once, whomever it shows, one batch tells little
    if isinstance(method, QualityDistillation) and method.teaches_nothing and learn.dls.train.by == 'identity':
        raise ValueError(method.teaches_nothing)
