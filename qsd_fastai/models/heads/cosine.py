"""Cosines of an embedding to one direction for each identity: what every margin head begins with.

Everything is computed in float32 or better, also under autocast. Identity -1 means that a picture has no class here."""
import torch
import torch.nn.functional as F
from torch import nn

from ...shown import settings_text
from ...tensors import full_precision

__all__ = ['MarginHead']

# shortest vector that is made a unit one: the gradient of an embedding of zeros stays in the range of float16
TINY = 1e-3


def unit(
    x, # `(n, nf)`
): # `(n, nf)`, at least float32
    "Rows of length 1"
    return F.normalize(full_precision(x), eps=TINY)


def mean_directions(
    emb,    # `(n, nf)` embeddings, on any device
    ids,    # `(n,)` their identities
    first,  # Identities from here
    last,   # To here, itself left out
    device, # Where to compute
): # `(n_seen, nf)` unit rows; `(last - first,)` bool, whose they are
    "Mean direction of the pictures of each identity in a range, of those that have any"
    emb,ids = F.normalize(full_precision(emb)), torch.as_tensor(ids, device=device)
    inside = (ids >= first) & (ids < last)
    total = torch.zeros(last - first, emb.shape[1], device=device, dtype=emb.dtype)
    total.index_add_(0, ids[inside] - first, emb.to(device)[inside])
    seen = total.norm(dim=1) > 0
    return F.normalize(total[seen]), seen


class MarginHead(nn.Module):
    "Cosine of an embedding to each identity; without a margin, the normalised softmax (NormFace)"
    def __init__(self,
        nf:int,      # Size of the embedding
        n_ids:int,   # Training identities
        s:float=64., # What cosines are multiplied by before the softmax, > 0
    ):
        super().__init__()
        if not s > 0: raise ValueError(f's is {s}. Give a scale above 0: 64 suits very many identities, 32 few.')
        self.nf,self.n_ids,self.s = nf, n_ids, float(s)
        # set where every process sees the batch of all, as within `PartialFC`
        self.gathered = False
        self.weight = nn.Parameter(torch.empty(n_ids, nf).normal_(std=.01))

    extra_repr = settings_text

    def forward(self,
        emb, # `(bs, nf)`
    ): # `(bs, n_ids)` cosines, at least float32
        with torch.autocast(emb.device.type, enabled=False):
            return F.linear(unit(emb), unit(self.weight))

    def margin(self,
        cosine,      # `(bs, n_ids)` of `forward`
        ids,         # `(bs,)` int64; -1 = no class
        norms,       # `(bs,)` lengths of the embeddings, with their graph
        target=None, # `(bs,)` cosines to the own class, if another process can have it; NaN: no class
    ): # `(bs, n_ids)` logits, scaled
        "Logits for the cross entropy, with the margin taken from each picture's own class"
        return self.s*cosine

    def regularizer(self,
        norms, # `(bs,)`
    ): # A scalar to add to the loss, or None
        "What else the head asks of an embedding; nothing, but for `MagFace`"
        return None

    def terms(self,
        cosine,             # `(bs, n_ids)` of `forward`
        emb,                # `(bs, nf)` that gave them
        ids,                # `(bs,)` int64; outside 0 to n_ids - 1: an identity without a class
        smoothing:float=0., # Share of the label spread over all identities, 0 to 1
    ): # Dict of scalars
        "Named terms of the loss: cross-entropy with the margin, a mean over pictures with a class, and `regularizer`"
        with torch.autocast(cosine.device.type, enabled=False):
            known,norms = (ids >= 0) & (ids < self.n_ids), full_precision(emb).norm(dim=1)
            ids = torch.where(known, ids, -1)
            logits = self.margin(full_precision(cosine), ids, norms)
            value = F.cross_entropy(logits, ids, ignore_index=-1, label_smoothing=smoothing, reduction='sum')
            found,extra = {'identity': value/known.sum().clamp(min=1)}, self.regularizer(norms)
        return found if extra is None else {**found, 'norm': extra}

    @torch.no_grad()
    def imprint(self,
        emb, # `(n, nf)` embeddings of training pictures
        ids, # `(n,)` their identities as the loader numbers them; those outside `n_ids` are passed over
    ):
        """Start every identity at the mean direction of its pictures (weight imprinting, Qi et al., CVPR 2018).

        One without pictures stays as it is."""
        self._set_directions(*mean_directions(emb, ids, 0, self.n_ids, self.weight.device))

    def _set_directions(self, directions, seen): self.weight[seen] = directions.to(self.weight.dtype)
