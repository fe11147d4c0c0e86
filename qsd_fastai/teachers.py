"Who teaches, where it is not the network that is trained: what a fit began with, or the moving average of its weights"
from copy import deepcopy

import torch
from torch import nn

from .distributed import as_first

__all__ = ['Teacher']


class Teacher:
    """A copy of a network: without gradient, with the statistics of evaluation, it gives all that it does in training.

    ValueError for a head that samples its identities, whose sample the copy does not know."""
    def __init__(self,
        model:nn.Module,  # At the beginning of a fit
        decay:float=None, # Share that the average keeps at each step, 0 to 1; `None`: it stays what it is
    ):
        if hasattr(getattr(model, 'head', None), 'sample'):
            raise ValueError("The head samples identities, and a teacher of its own ('ema', 'frozen') has no sample. "
                             "Use teacher='same', or a head of all identities (rate 1).")
        self.network,self.decay = deepcopy(model).eval().requires_grad_(False),decay

    @torch.no_grad()
    def follow(self,
        model:nn.Module, # After a step
    ):
        "Move towards it; whole numbers, such as counts of batches, are taken over"
        if self.decay is None: return
        ours = (*self.network.parameters(), *self.network.buffers())
        for old,new in zip(ours, (*model.parameters(), *model.buffers())):
            if old.is_floating_point(): old.lerp_(new.to(old.dtype), 1 - self.decay)
            else: old.copy_(new)

    def settle(self):
        "One teacher for all processes, whose statistics of batch norm have followed batches of their own"
        as_first(self.network.buffers())

    @torch.no_grad()
    def __call__(self,
        *x, # Inputs of the network
    ): # What it gives in training
        self.network.training = True # Of the outermost module alone: the parts stay in evaluation
        return self.network(*x)
