"Fine-tuning by the margin of another head, over the identities that the head of the learner has, as a peer"
from fastai.callback.core import Callback
from fastai.torch_core import get_model
from torch.random import fork_rng

from ..choices import one_of
from ..distillation import QualityDistillation
from ..fits import is_judging
from ..losses import MarginLoss, RecognitionLoss
from ..models.heads.by_name import make_head
from ..models.heads.margins import SubCenterArcFace
from ..models.heads.partial_fc import PartialFC
from ..models.recognizer import Recognition
from ..shown import shown
from .loss_terms import check_only_loss

__all__ = ['MarginTuning']


class MarginTuning(Callback):
    """Trains by the margin of a head of that name in place of the identity loss; triplets and centers stay as they were

    The identities keep their directions, the rows of `learn.model.head.weight`: linear ones and those of another margin
    alike. So AdaFace (Kim et al., CVPR 2022), say, goes on from any baseline. ValueError at the start of a fit where
    the head has no such rows, as with `PartialFC`."""
    # before QSD, which adds to the loss that it finds
    order,run_valid = QualityDistillation.order - .5,False
    replaces_loss = trains_head = True

    def __init__(self,
        head:str='adaface', # Or arcface, cosface, magface, curricularface
        s:float=None,       # Scale, > 0; that of the learner's own margin head, or 32, when not given
        pairs:str='copies', # copies: with a degraded copy of each picture; none: with the pictures alone
    ):
        self.head,self.s = one_of('head', head, 'arcface', 'cosface', 'adaface', 'magface', 'curricularface'),s
        self.pairs = one_of('pairs', pairs, 'copies', 'none')
        self.criterion = self.margin = None # Until a fit begins

    __repr__ = shown
    # set, it would hide the loss of the learner, of which fastai warns
    loss = property(lambda self: self.criterion, doc='What it trains by')

    def before_fit(self):
        if is_judging(self.learn): return
        check_only_loss(self.learn)
        self._check_loader(self.learn.dls.train)
        model,base = get_model(self.learn.model),self.learn.loss_func
        weight = getattr(model.head, 'weight', None)
        if weight is None or weight.ndim != 2 or isinstance(model.head, PartialFC | SubCenterArcFace):
            raise ValueError(f'{type(model.head).__name__} has no single direction of each identity here, which '
                             f'{self.head} would go on from. Take a linear head, or another one that compares with all '
                             'identities a step.')
        n_ids,nf = weight.shape
        with fork_rng(devices=[]): # Other arms draw the same pictures
            own = make_head(self.head, self.s or getattr(model.head, 's', 32.))(nf, n_ids)
        own.to(weight.device).weight = weight # One and the same: the optimizer has it
        others = {}
        if isinstance(base, RecognitionLoss):
            others = {k: getattr(base, k) for k in ('triplet', 'center', 'gathered')}
            others |= {f'{k}_weight': base.weights[k] for k in ('triplet', 'center')}
        self.margin,self.criterion = own,MarginLoss(own, **others)

    def _check_loader(self, dl):
        copies,partners = (getattr(dl, o, None) for o in ('copies', 'partners'))
        if partners: raise ValueError('The loader adds partners, which only QualityDistillation takes out again. '
                                      'Make it without `partners=True`.')
        if copies is None or bool(copies) == (self.pairs == 'copies'): return
        raise ValueError(f"pairs is '{self.pairs}', and the loader adds {'copies' if copies else 'no copies'}. "
                         f"Make it with copies={not copies}, or take "
                         f"MarginTuning(pairs='{'copies' if copies else 'none'}').")

    def after_loss(self):
        emb = self.pred.emb
        pred = Recognition((self.margin(emb), emb, self.pred.levels, self.pred.pooled))
        self.learn.loss_grad = self.criterion(pred, *self.yb)
        self.learn.loss = self.learn.loss_grad.clone()

    def state_dict(self):
        "What the margin has learned of lengths"
        return {k: v for k,v in self.margin.state_dict().items() if k != 'weight'}

    def load_state_dict(self,
        state:dict, # Of `state_dict`
    ):
        "Go on with it"
        self.margin.load_state_dict({'weight': self.margin.weight, **state})
