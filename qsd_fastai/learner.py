"A plain fastai `Learner` for recognition, embeddings from it, and the named terms of its losses."
import pandas as pd
import torch

# each of these gives `Learner` some of its methods: fit_one_cycle, to_fp16, fine_tune, ...
from fastai.callback import fp16, progress, schedule, training  # noqa: F401
from fastai.callback.core import Callback
from fastai.data.load import DataLoader
from fastai.learner import Learner
from fastcore.basics import patch
from fastcore.foundation import L

from .data.loaders import TableRow, picture_files
from .losses import RecognitionLoss
from .models.recognizer import Recognizer, recognizer_splitter

__all__ = ['LossTerms', 'recognition_learner']


class LossTerms(Callback):
    "Collects the named terms of the loss and of every callback that has `terms`: the last batch in `last`, the mean of each epoch in `epochs`"
    order,run_valid = 45,False  # when all have been computed, before the Recorder

    def before_fit(self): self.epochs,self.last = [],{}

    def before_train(self): self.sums,self.count = {},0

    def after_batch(self):
        self.last = {}
        for owner in (self.learn.loss_func, *self.learn.cbs):
            if owner is not self: self.last.update(getattr(owner, 'terms', None) or {})
        for k,v in self.last.items(): self.sums[k] = self.sums.get(k, 0) + v.detach().float()
        self.count += 1

    def after_train(self): self.epochs.append({'epoch': self.epoch, **{k: float(v)/self.count for k,v in self.sums.items()}})

    def frame(self):
        "A row an epoch, a column a term"
        return pd.DataFrame(self.epochs)


def recognition_learner(
    dls,                  # Of `recognition_dataloaders`, or of any `DataBlock` whose first target is an `IdentityBlock`
    arch,                 # A timm model name, one of our own, or a body as a module
    head=None,            # Over identities, a module or a function of `(nf, n_ids)`; `LinearHead` when not given
    loss=None,            # `RecognitionLoss()` when not given
    metrics=None,         # `Retrieval('rank1', 'mAP', 'mINP')`, say
    pretrained=False,     # `True`: published weights through timm; a file of weights; `False`: from scratch
    last_stride:int=None, # 1 keeps the last stage of a ResNet at twice the resolution, the habit in Re-ID; `None`: as the body has it
    levels=None,          # Which stages QSD sees; the last three when not given
    pool=None,            # Of the body's maps; `GeM` when not given
    neck=None,            # Between pooling and head; `BNNeck` when not given
    body_kwargs:dict=None,# For the body, `img_size=(256, 128)` of a ViT, say
    cbs=None,             # Callbacks beside fastai's own
    splitter=recognizer_splitter, # Parameter groups: body; pool, neck and head
    **kwargs,             # For `Learner`: `opt_func`, `lr`, `wd`, `path`, `moms`, ...
)->Learner:
    "A fastai `Learner` that trains an embedding of identities; in evaluation its model gives the embedding `(bs, nf)`"
    if not getattr(dls, 'c', 0): raise ValueError('dls.c is 0: no training identity. Give a table with training rows and an `IdentityBlock`.')
    if isinstance(arch, str): options = {'pretrained': pretrained, 'last_stride': last_stride, **(body_kwargs or {})}
    elif pretrained or last_stride or body_kwargs:
        raise ValueError('pretrained, last_stride and body_kwargs are for a body given by name. Set them on the module itself.')
    else: options = {}
    model = Recognizer(arch, dls.c, pool=pool, neck=neck, head=head, levels=levels, **options)
    return Learner(dls, model, loss_func=loss or RecognitionLoss(), metrics=metrics, splitter=splitter, cbs=L(LossTerms()) + L(cbs), **kwargs)


@patch
def embed(self:Learner,
    data,          # A table, a list of picture files, or a `DataLoader`
    root=None,     # The folder the paths of a table start from; `table.attrs['root']` when not given
    bs:int=None,   # Pictures a batch; that of validation when not given
    normalize:bool=False, # To unit length?
)->torch.Tensor: # `(n, nf)` float32 on the CPU, in the order of `data`
    "Embeddings of pictures, with the transforms of validation"
    if isinstance(data, DataLoader): dl = data.new(shuffle=False, drop_last=False)
    else:
        files = picture_files(data, root) if isinstance(data, pd.DataFrame) else L(data).map(str)
        if not len(files): raise ValueError('There is no picture to embed: the table or list is empty.')
        dl = self.dls.test_dl([TableRow(o) for o in files], **({'bs': bs} if bs else {}))
    emb = self.get_preds(dl=dl)[0].as_subclass(torch.Tensor).float()
    return torch.nn.functional.normalize(emb) if normalize else emb
