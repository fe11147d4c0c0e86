"A stage that was finished before, its weights taken from the learner that it has left"
import warnings
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.learner import load_learner
from fastai.torch_core import get_model

from ..fits import is_fit
from .save_state import SaveState

__all__ = ['Finished']


class Finished(Callback):
    "In place of `SaveState` where the state is gone: `fit` and its kin train nothing, and end with the weights there"
    order = SaveState.order

    def __init__(self,
        file, # Of `learn.export`; a pickle, and so of a run of one's own
    ): self.file = Path(file)

    def before_fit(self):
        self.active = is_fit(self.learn)
        if not self.active: return
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*insecure pickle')
            kept = load_learner(self.file)
        get_model(self.learn.model).load_state_dict(kept.model.state_dict())
        if isinstance(self.loss_func, torch.nn.Module): self.loss_func.load_state_dict(kept.loss_func.state_dict())
        print(f'All {self.n_epoch} epochs were done: the weights are those of {self.file}')

    def before_epoch(self):
        if self.active: raise CancelFitException
