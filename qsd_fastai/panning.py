"""Embeddings of bad pictures moved to where those of good ones lie, after training: fitted in closed form, in seconds.

The idea is vector panning (feature alignment across resolutions for person re-identification, 2025): what low
resolution does to embeddings is much the same for everybody, so it can be learned apart from the network."""
import torch
import torch.nn.functional as F
from torch import nn

from .data.copies import DegradedCopies
from .regression import ridge_regression
from .tensors import finite_rows, full_precision

__all__ = ['Panning', 'fit_panning', 'pan_model']


class Panning(nn.Module):
    "A linear shift of the direction of an embedding; its length stays"
    def __init__(self,
        nf:int, # Size of the embedding
    ):
        super().__init__()
        self.register_buffer('weight', torch.zeros(nf, nf))
        self.register_buffer('bias', torch.zeros(nf))

    def forward(self,
        emb, # `(n, nf)`
    ): # `(n, nf)`
        emb = full_precision(emb)
        unit,length = F.normalize(emb),emb.norm(dim=1, keepdim=True)
        return length*F.normalize(unit + unit@self.weight.to(unit) + self.bias.to(unit))


def fit_panning(
    bad,            # `(n, nf)` embeddings of pictures as they are met; good ones among them stay where they are
    good,           # `(n, nf)` embeddings of the same pictures before they were degraded
    ridge:float=1., # Strength of the pull to no shift, above 0, in units of the mean variance of a feature
)->Panning:
    "The shift that brings unit vectors of `bad` nearest to those of `good` (ridge regression, computed in float64)"
    if bad.ndim != 2 or bad.shape != good.shape:
        raise ValueError(f'bad is {tuple(bad.shape)} and good {tuple(good.shape)}. Give two of (pictures, features).')
    x,y = (F.normalize(finite_rows(o, name).double()) for o,name in ((bad, 'bad'), (good, 'good')))
    weight,bias = ridge_regression(x, y - x, ridge)
    panning = Panning(bad.shape[1])
    panning.weight.copy_(weight)
    panning.bias.copy_(bias)
    return panning


@torch.no_grad()
def pan_model(
    learn,                      # `Learner` of `recognition_learner`; its model is changed
    copies:DegradedCopies=None, # How pictures are degraded; as training does when not given
    rounds:int=1,               # Passes over the training pictures
    ridge:float=1.,             # Of `fit_panning`
)->Panning: # The last part of the neck from now on, exported with the model
    "Fit a `Panning` on the training pictures and degraded copies of them, and put it behind the neck"
    model,add,embs = learn.model.eval(),copies or DegradedCopies(),[]
    dl = learn.dls.train.new(shuffle=False, drop_last=False)
    dl.after_batch = type(dl.after_batch)([t for t in dl.after_batch if not isinstance(t, DegradedCopies)])
    dl.after_batch.add(add)
    for _ in range(rounds):
        for x,*_ in dl:
            clean,bad = model(x.as_subclass(torch.Tensor)).chunk(2)
            embs.append((torch.cat([bad, clean]), torch.cat([clean, clean])))
    bad,clean = (torch.cat(o) for o in zip(*embs))
    panning = fit_panning(bad, clean, ridge).to(bad.device)
    model.neck = nn.Sequential(model.neck, panning)
    return panning
