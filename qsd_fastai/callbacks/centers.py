"The callback that moves the centers of a `CenterLoss` by their own rate"
import torch
from fastai.callback.core import Callback
from fastai.callback.fp16 import MixedPrecision
from fastai.torch_core import get_model

from ..shown import shown

__all__ = ['CenterUpdate']


class CenterUpdate(Callback):
    "SGD of the centers whenever the model steps, as if their loss had weight 1 (Wen et al., ECCV 2016; rate of AGW)"
    # after GradientAccumulation has decided on a step; before MixedPrecision updates its scale, and before
    # GradientClip, which would count the centers' gradients in the norm of the model's
    order,run_valid = MixedPrecision.order - 1,False

    def __init__(self,
        lr:float=.5, # Rate of the centers: at 1 the pull of one batch equals its share of squared distance, twice
    ):
        self.lr = lr

    __repr__ = shown

    def after_create(self): self._attach()

    def before_fit(self):
        self._attach()
        self.center_opt = torch.optim.SGD([self.loss_func.center.centers], lr=self.lr)
        # a run that was interrupted between backward and step leaves a gradient behind
        self.center_opt.zero_grad()

    def _attach(self):
        center = getattr(self.learn.loss_func, 'center', None)
        if center is None:
            raise ValueError('The loss has no centers. Give loss=RecognitionLoss(center=CenterLoss(dls.c, nf)).')
        # within the model, though in no parameter group: saved, loaded, moved, reduced over processes, and put back
        # by lr_find
        get_model(self.learn.model).center = center

    def before_step(self):
        scaler = getattr(self.learn, 'scaler', None)
        centers = self.loss_func.center.centers
        if centers.grad is None: return
        if scaler is not None: scaler.unscale_(self.center_opt)
        centers.grad.div_(self.loss_func.weights['center'])
        if scaler is None: self.center_opt.step()
        else: scaler.step(self.center_opt)
        self.center_opt.zero_grad()

    def after_fit(self): self.center_opt = None
