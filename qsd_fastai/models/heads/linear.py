"Heads: an embedding to one logit for each training identity"
import torch.nn.functional as F
from torch import nn

from ...shown import settings_text

__all__ = ['LinearHead']


class LinearHead(nn.Linear):
    "Linear classifier without bias, started near zero (Luo et al., CVPRW 2019)"
    def __init__(self,
        nf:int,    # Size of the embedding
        n_ids:int, # Training identities
    ):
        super().__init__(nf, n_ids, bias=False)
        nn.init.normal_(self.weight, std=.001)
        self.nf,self.n_ids = nf, n_ids

    extra_repr = settings_text

    def forward(self,
        emb, # `(bs, nf)`
    ): # `(bs, n_ids)` logits
        return F.linear(emb, self.weight)
