"Fine-tuning by the Octuplet loss in place of the losses of the learner, as a peer to compare with"
import torch
from fastai.callback.core import Callback

from ..distillation import QualityDistillation, check_halves
from ..fits import is_judging
from ..losses import OctupletLoss
from ..shown import shown
from .loss_terms import check_only_loss

__all__ = ['OctupletTuning']


class OctupletTuning(Callback):
    """Trains by `OctupletLoss` of pictures and their degraded copies (`copies=True` in the loader) and by nothing else

    A picture and its own copy are no pair: batches are dealt by identity, two pictures or more of each. ValueError at
    the start of a fit where they are not."""
    # before QSD, which adds to the loss that it finds
    order,run_valid,pairs = QualityDistillation.order - .5,False,'copies'
    replaces_loss,trains_head = True,False # Of the learner: what that comes to is no part of this training

    def __init__(self,
        margin:float=.3, # Of `OctupletLoss`
    ): self.margin,self.loss,self.terms = margin,OctupletLoss(margin),{}

    __repr__ = shown

    def before_fit(self):
        if is_judging(self.learn): return
        check_only_loss(self.learn)
        dl = self.learn.dls.train
        if getattr(dl, 'by_identity', True) and getattr(dl, 'n_imgs', 2) >= 2: return
        raise ValueError('The Octuplet loss compares pictures of one identity, and batches here hold two of them only '
                         "by chance. Deal them by='identity' with n_imgs=2 or more, or leave the arm octuplet out.")

    def after_loss(self):
        ids = self.yb[0].as_subclass(torch.Tensor)
        check_halves(ids, 'copies', self.learn.dl, self.iter)
        self.learn.loss_grad = self.loss(self.pred.emb, ids)
        self.learn.loss = self.learn.loss_grad.clone()
        self.terms = {'octuplet': self.learn.loss_grad.detach()}
