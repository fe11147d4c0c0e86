"The same training in less time: `torch.compile` in place, and all that pays on one device"
from functools import partial

import torch
from fastai.callback import channelslast  # noqa: F401 gives `Learner` its `to_channelslast`
from fastai.callback.core import Callback
from fastai.callback.fp16 import AMPMode
from fastai.learner import Learner
from fastai.optimizer import Adam
from fastcore.basics import patch_to
from torch import nn

from .callbacks.loss_terms import loss_of
from .distillation import QualityDistillation
from .optimizers import fused_adam

__all__ = ['to_compiled', 'to_fast']


class CompileFit(Callback):
    "Compiles what a fit brings: the loss of a `QualityDistillation`, and one in place of the learner's"
    order = 90 # When all others have begun

    def __init__(self,
        **kwargs, # For `torch.compile`
    ): self.kwargs = kwargs

    def before_fit(self):
        parts = [loss_of(self.learn), *(cb.qsd for cb in self.learn.cbs if isinstance(cb, QualityDistillation))]
        for part in parts: _compile(part, **self.kwargs)


def _compile(part, **kwargs):
    if not isinstance(part, nn.Module) or part._compiled_call_impl is not None: return
    if getattr(part, '_compiled', None) is None: part.compile(**kwargs)


def to_compiled(
    learn,    # `Learner`, whose method it is too: `learn.to_compiled()`
    **kwargs, # For `torch.compile`: `mode='reduce-overhead'`, `backend`, `fullgraph`, ...
)->Learner: # The same
    """Compile the network, the loss and the loss of `QualityDistillation`, each at its first call.

    Weights keep their names, and what is saved or exported is the plain network. The weight of a level that changes
    with the progress of training asks for compiling anew each time, which PyTorch gives up after a few."""
    for part in (learn.model, learn.loss_func): _compile(part, **kwargs)
    learn.remove_cbs([cb for cb in learn.cbs if isinstance(cb, CompileFit)])
    return learn.add_cb(CompileFit(**kwargs))


def to_fast(
    learn,               # `Learner`, whose method it is too: `learn.to_fast()`
    compiled:bool=False, # `learn.to_compiled()`, too?
    **kwargs,            # For `torch.compile`
)->Learner: # The same
    """The same training in less time: channels last, fastai's `Adam` in one kernel, and on a GPU bfloat16.

    Losses stay in float32. Another optimizer than `Adam` stays; one that has begun begins anew, so call it before the
    first fit. `learn.to_fp32()` takes bfloat16 back."""
    device = torch.device(getattr(learn.dls, 'device', None) or 'cpu')
    learn.to_channelslast(use_amp=device.type == 'cuda', amp_mode=AMPMode.BF16)
    learn.model.to(memory_format=torch.channels_last)
    func = learn.opt_func
    if getattr(func, 'func', func) is Adam:
        learn.opt_func,learn.opt = partial(fused_adam, **getattr(func, 'keywords', {})), None
    return learn.to_compiled(**kwargs) if compiled else learn


for _verb in (to_compiled, to_fast): patch_to(Learner)(_verb)
