"""Quality labels from known severity: what degraded copies look like to a network tells how degraded pictures are.

Labels by likeness ask the network whom it recognises, and a weak one recognises hardly anybody. Here it is a
measuring instrument only: degraded copies of the pictures, whose severity was drawn, are described by mean and
deviation of each channel at each stage, as DISTS does (Ding et al., TPAMI 2020), and a ridge regression finds the
severity in them; then it reads that of the pictures. Learning from distortions of known degree is RankIQA's idea (Liu
et al., ICCV 2017). It knows the kinds of degradation that the copies had, and little of others."""
import numpy as np
import pandas as pd
import torch
from fastai.vision.core import TensorImage
from fasttransform import ItemTransform

from .columns import complete_table
from .data.copies import DegradedCopies
from .data.degradations import DEGRADATIONS
from .data.given import TableRow, picture_files
from .labelling import cross_fit_folds
from .quality import to_hundred
from .regression import ridge_regression
from .tensors import plain_tensor

__all__ = ['Described', 'describe_copies', 'severity_labels', 'severity_of']


class Described:
    "What `describe_copies` gives: how pictures and copies look to a network"
    def __init__(self,
        pictures, # `(n, nf)`
        copies,   # `(rounds*n, nf)`, round by round in the order of the pictures
        severity, # `(rounds*n,)`, 0 to 1
        kind,     # `(rounds*n,)`, names of degradations
    ):
        self.pictures,self.copies,self.severity,self.kind = pictures,copies,severity,kind


class _WithCopies(ItemTransform):
    "Puts degraded copies behind the pictures of a batch, and remembers what was done"
    order = DegradedCopies.order

    def __init__(self, copies):
        super().__init__()
        self.copies,self.severity,self.kind = copies,[],[]

    def encodes(self, b):
        x,*targets = b
        copies,severity,kind = self.copies.drawn(x)
        self.severity.append(severity)
        self.kind += [self.copies.kinds[k] for k in kind]
        return TensorImage(torch.cat([x.as_subclass(torch.Tensor), copies])), *targets


def _statistics(body, x):
    "`(bs, nf)`: mean, and logarithm of the deviation, of each channel at each stage"
    _,maps = body.forward_intermediates(x)
    flat = [o.flatten(2).float() for o in maps]
    return torch.cat([torch.cat([o.mean(2), o.std(2, correction=0).clamp(min=1e-4).log()], 1) for o in flat], 1)


@torch.no_grad()
def describe_copies(
    table,                      # Of pictures
    learn,                      # `Learner` of `recognition_learner`; trained or not hardly matters
    copies:DegradedCopies=None, # How they are degraded; every way, from not at all to fully, when not given
    rounds:int=4,               # Copies of each picture
    seed:int=0,                 # Of kinds and severities
)->Described:
    "Statistics of the network's maps for pictures, and for degraded copies of them"
    if rounds < 1: raise ValueError(f'rounds is {rounds}. Give 1 or more copies of each picture.')
    drawn = _WithCopies(copies or DegradedCopies(DEGRADATIONS, (0., 1.)))
    dl = learn.dls.test_dl([TableRow(o) for o in picture_files(table)])
    dl.after_batch = type(dl.after_batch)(list(dl.after_batch))
    dl.after_batch.add(drawn)
    body,was_training,clean,bad = learn.model.body,learn.model.training,[],[]
    learn.model.eval()
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for k in range(rounds):
            for x,*_ in dl:
                own,copied = _statistics(body, plain_tensor(x)).cpu().chunk(2)
                bad.append(copied)
                if not k: clean.append(own)
    learn.model.train(was_training)
    return Described(torch.cat(clean), torch.cat(bad), torch.cat(drawn.severity), np.array(drawn.kind))


def severity_of(
    pictures,       # `(n, nf)` descriptions of the pictures to be judged
    copies,         # `(m, nf)` descriptions of copies
    severity,       # `(m,)` of the copies, 0 to 1
    ridge:float=1., # Of `ridge_regression`, over columns of unit variance
)->np.ndarray: # `(n,)`, as a severity but not bounded by 0 and 1
    "The severity that a linear reading of descriptions gives"
    mean,std = copies.double().mean(0),copies.double().std(0).clamp(min=1e-6)
    scaled,asked = ((o.double() - mean)/std for o in (copies, pictures))
    weight,bias = ridge_regression(scaled, severity.double()[:, None], ridge)
    return (asked@weight + bias)[:, 0].numpy()


def severity_labels(
    table,                      # Its training rows are labelled
    learn,                      # For `describe_copies`
    copies:DegradedCopies=None, # For `describe_copies`
    rounds:int=4,               # For `describe_copies`
    k:int=2,                    # Folds of identities: nobody's pictures are judged by what copies of them taught
    ridge:float=1.,             # For `severity_of`
    seed:int=0,                 # Of folds, kinds and severities
)->pd.DataFrame: # The table with `quality`; that of rows that are not trained on is unknown
    "Labels by how degraded pictures look, learned from copies of known severity; 0 to 100 over the training pictures"
    table = complete_table(table)
    train = (table['split'] == 'train').to_numpy()
    fold = cross_fit_folds(table['identity'].to_numpy()[train], k, seed=seed)
    found,severity = describe_copies(table[train], learn, copies, rounds, seed),np.empty(train.sum())
    of_copy = np.tile(fold, rounds)
    for i in range(k):
        others = of_copy != i
        taught = found.copies[others],found.severity[others]
        severity[fold == i] = severity_of(found.pictures[fold == i], *taught, ridge)
    quality = np.full(len(table), np.nan)
    quality[train] = to_hundred(-severity[:, None])
    return table.assign(quality=quality)
