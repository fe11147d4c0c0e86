"The callback that draws the identities of each step of a `PartialFC`, and moves its centers"
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.torch_core import get_model

from ..models.heads.partial_fc import PartialFC
from ..shown import shown

__all__ = ['PartialUpdate']


class PartialUpdate(Callback):
    "Sample before each batch, SGD of the sampled centers whenever the model steps (Partial FC, An et al., CVPR 2022)"
    # after GradientAccumulation has decided on a step; before MixedPrecision updates its scale, and before
    # DistributedTrainer wraps the model
    order,run_valid = MixedPrecision.order - 1,False

    def __init__(self,
        lr:float=None,     # Rate of the centers; that of the head's parameter group, with its schedule, when not given
        momentum:float=.9, # Of the centers, 0 to 1
        wd:float=5e-4,     # Decay of weights
    ): self.lr,self.momentum,self.wd = lr,momentum,wd

    __repr__ = shown

    @property
    def head(self): return get_model(self.learn.model).head

    def after_create(self):
        if not isinstance(self.head, PartialFC):
            raise ValueError(f'head is {type(self.head).__name__}. Use PartialFC, whose centers PartialUpdate moves.')

    def before_fit(self):
        self.head.shard()
        # a run that was interrupted between backward and step leaves a sample behind
        self.head.forget()
        # every process has other centers: the wrapper must not make them the same
        own = [f'head.{name}' for name in ('weight', 'momentum', 'step')]
        get_model(self.learn.model)._ddp_params_and_buffers_to_ignore = own

    def before_batch(self): self.head.sample(self.yb[0])

    def before_step(self):
        scaler = getattr(self.learn, 'scaler', None)
        lr = float(self.opt.hypers[-1]['lr']) if self.lr is None else self.lr
        self.head.update(lr, self.momentum, self.wd, 1. if scaler is None else scaler.get_scale())

    def after_fit(self): self.head.forget()
