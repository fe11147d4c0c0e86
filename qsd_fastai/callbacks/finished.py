"A stage that was finished before, its weights taken from the learner that it has left"
from pathlib import Path

import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.torch_core import get_model

from ..fits import is_fit
from ..models.weights.safe_pickle import read_checkpoint, state_of
from .save_state import SaveState

__all__ = ['Finished']


class Finished(Callback):
    "In place of `SaveState` where the state is gone: `fit` and its kin train nothing, and end with the weights there"
    order = SaveState.order

    def __init__(self,
        file, # Of `learn.export`: weights are read, nothing in it is run
    ): self.file = Path(file)

    def before_fit(self):
        self.active = is_fit(self.learn)
        if not self.active: return
        kept = read_checkpoint(self.file).state
        get_model(self.learn.model).load_state_dict(state_of(kept['model']))
        if isinstance(self.loss_func, torch.nn.Module): self.loss_func.load_state_dict(state_of(kept['loss_func']))
        print(f'All {self.n_epoch} epochs were done: the weights are those of {self.file}')

    def before_epoch(self):
        if self.active: raise CancelFitException
