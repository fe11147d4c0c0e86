"The named terms of the losses of a fit, a batch and an epoch at a time"
import pandas as pd
import torch
from fastai.callback.core import Callback
from fastai.learner import Recorder

from ..distributed import processes, summed
from ..fits import is_fit

__all__ = ['LossTerms', 'check_only_loss', 'loss_of', 'loss_terms']


def loss_of(
    learn, # `Learner`
):
    "What it is trained by: its own loss, or that of a callback that `replaces_loss`"
    return next((cb.loss for cb in _replacing(learn)), learn.loss_func)


def _replacing(learn): return [cb for cb in learn.cbs if getattr(cb, 'replaces_loss', False)]


def check_only_loss(
    learn, # `Learner`
):
    "`ValueError` where two callbacks each train by a loss in place of all others: the last one alone would count"
    names = [type(cb).__name__ for cb in _replacing(learn)]
    if len(names) < 2: return
    raise ValueError(f'{" and ".join(names)} each replace the loss of the learner. Take one of them.')


def loss_terms(
    learn, # `Learner`
)->dict: # Of scalar tensors
    "The named terms of the last batch: those of `loss_of`, and of every callback that has `terms`"
    terms = {}
    for owner in (loss_of(learn), *learn.cbs): terms.update(getattr(owner, 'terms', None) or {})
    return terms


class LossTerms(Callback):
    """Collects `loss_terms`: the last batch in `last`, the mean of each epoch in `epochs`, until the next fit

    Of several processes `last` has the batch of this one, `epochs` the means over all."""
    order,run_valid = Recorder.order - 5,False # When all have been computed

    def __init__(self): self.epochs,self.last = [],{}

    def before_fit(self):
        if is_fit(self.learn): self.epochs,self.last = [],{}

    def before_train(self): self.sums,self.count = {},0

    def after_batch(self):
        self.last = loss_terms(self.learn)
        for k,v in self.last.items(): self.sums[k] = self.sums.get(k, 0) + v.detach().float()
        self.count += 1

    def after_train(self):
        if self.sums and processes()[1] > 1:
            found = summed(torch.stack([v.detach().float() for v in self.sums.values()]))/processes()[1]
            self.sums = dict(zip(self.sums, found))
        means = {k: float(v)/self.count for k,v in self.sums.items()}
        self.epochs.append({'epoch': self.epoch, **means})

    def frame(self):
        "A row an epoch, a column a term"
        return pd.DataFrame(self.epochs)
