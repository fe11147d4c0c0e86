"`torch.compile` of a learner: network, losses and distillation, in place"
from fastai.learner import Learner
from fastcore.basics import patch_to
from torch import nn

from .distillation import QualityDistillation

__all__ = ['to_compiled']


def to_compiled(
    learn,    # `Learner`, whose method it is too: `learn.to_compiled()`
    **kwargs, # For `torch.compile`: `mode='reduce-overhead'`, `backend`, `fullgraph`, ...
)->Learner: # The same
    """Compile the network, the loss and the loss of `QualityDistillation`, each at its first call.

    Weights keep their names, and what is saved or exported is the plain network. The weight of a level that changes
    with the progress of training asks for compiling anew each time, which PyTorch gives up after a few."""
    parts = [learn.model, learn.loss_func, *(cb.qsd for cb in learn.cbs if isinstance(cb, QualityDistillation))]
    for part in parts:
        if isinstance(part, nn.Module): part.compile(**kwargs)
    return learn


patch_to(Learner)(to_compiled)
