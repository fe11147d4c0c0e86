"Running means of the loss that stay on the device until they are read: fastai's wait for it twice a batch"
from itertools import takewhile

import torch
from fastai.callback.core import Callback
from fastai.learner import AvgLoss, AvgSmoothLoss, Recorder
from fastai.torch_core import find_bs, to_detach

__all__ = ['KeptLosses', 'RunningLoss', 'SmoothLoss']


class RunningLoss(AvgLoss):
    "Mean over the pictures of an epoch"
    def accumulate(self,
        learn, # `Learner`
    ):
        n = find_bs(learn.yb)
        # of the loader, where it has one: an `embed` that is shared out gathers nothing batch by batch
        self.total = self.total + learn.to_detach(learn.loss.mean(), cpu=False)*n
        self.count += n

    @property
    def value(self):
        found = super().value
        return found.cpu() if isinstance(found, torch.Tensor) else found


class SmoothLoss(AvgSmoothLoss):
    "Exponentially weighted mean over batches"
    def accumulate(self,
        learn, # `Learner`
    ):
        self.count += 1
        loss = to_detach(learn.loss.mean(), cpu=False)
        self.val = torch.lerp(loss, self.val.to(loss.device), self.beta)


class KeptLosses(Callback):
    "Brings the losses that the recorder keeps of each batch to the CPU, all of an epoch at once"
    order = Recorder.order # Between it and those that replace the losses it keeps

    def after_create(self):
        recorder = self.learn.recorder
        recorder.loss,recorder.smooth_loss = RunningLoss(),SmoothLoss(recorder.smooth_loss.beta)

    def after_train(self):
        losses = self.learn.recorder.losses
        n = sum(1 for _ in takewhile(lambda o: o.is_cuda, reversed(losses)))
        if n: losses[-n:] = list(torch.stack(losses[-n:]).cpu())

    def after_fit(self): self.after_train()
