"Layers between a body and an embedding: generalised-mean pooling, a neck whose bias stays still, non-local attention"
import torch
import torch.nn.functional as F
from torch import nn

from ..tensors import full_precision

__all__ = ['BNNeck', 'GeM', 'NonLocal']


class GeM(nn.Module):
    """Generalised-mean pooling (Radenovic, Tolias, Chum, TPAMI 2018).

    In person re-identification since AGW (Ye et al., TPAMI 2021)."""
    def __init__(self,
        p:float=3.,      # Power; 1 = average pooling, towards infinity = max pooling
        eps:float=1e-6,  # Smallest activation counted, > 0
        learn:bool=True, # Learn `p`?
    ):
        super().__init__()
        if eps <= 0: raise ValueError(f'eps is {eps}. Give more than 0: zeros have no gradient to a learned power.')
        self.p,self.eps = nn.Parameter(torch.full((1,), float(p)), requires_grad=learn), eps

    def forward(self,
        x, # `(bs, nf, h, w)` maps
    ): # `(bs, nf)`, float32 under autocast: cubes overflow float16
        with torch.autocast(x.device.type, enabled=False):
            return full_precision(x).clamp(min=self.eps).pow(self.p).flatten(2).mean(-1).pow(1/self.p)

    def extra_repr(self): return f'p={self.p.item():.3g}, eps={self.eps}, learn={self.p.requires_grad}'


class StillBatchNorm(nn.BatchNorm1d):
    "Batch norm with parameters that are not trained: no optimizer gets those named in `still`"
    still = ()

    def __init__(self,
        nf:int,   # Size of the embedding
        **kwargs, # `eps` and `momentum` of `nn.BatchNorm1d`
    ):
        super().__init__(nf, **kwargs)
        for name in self.still: getattr(self, name).requires_grad_(False)

    def forward(self,
        x, # `(bs, nf)`
    ): # `(bs, nf)`
        if self.training: self.num_batches_tracked.add_(1)
        # detached, because fastai's `unfreeze` turns `requires_grad` on for every parameter it is given
        weight = self.weight.detach() if 'weight' in self.still else self.weight
        bias = self.bias.detach() if 'bias' in self.still else self.bias
        mean,var = self.running_mean, self.running_var
        return F.batch_norm(x, mean, var, weight, bias, self.training, self.momentum, self.eps)


class BNNeck(StillBatchNorm):
    """Batch norm between the embedding for the triplet loss and the one for the classifier (Luo et al., CVPRW 2019).

    Its bias is not trained. In evaluation the embedding is what comes after it or, in some projects, before it."""
    still = ('bias',)
    judges = 'after', 'before'
    judged = 'after'

    def forward(self,
        x, # `(bs, nf)`
    ): # `(bs, nf)`
        return x if self.judged == 'before' and not self.training else super().forward(x)


class NonLocal(nn.Module):
    "Dot-product non-local block that starts as the identity (Wang et al., CVPR 2018; state-dict keys of AGW)"
    def __init__(self,
        nf:int,               # Channels in and out
        inter_channels:int=1, # Channels inside; 1 is what AGW's published weights have
    ):
        super().__init__()
        self.g,self.theta,self.phi = (nn.Conv2d(nf, inter_channels, 1) for _ in range(3))
        self.W = nn.Sequential(nn.Conv2d(inter_channels, nf, 1), nn.BatchNorm2d(nf))
        nn.init.zeros_(self.W[1].weight)
        nn.init.zeros_(self.W[1].bias)

    def forward(self,
        x, # `(bs, nf, h, w)`
    ): # `(bs, nf, h, w)`
        g,theta,phi = (conv(x).flatten(2) for conv in (self.g, self.theta, self.phi))
        # without a softmax the product is associative: channels x channels first, never positions x positions
        context = torch.einsum('bcn,bdn->bcd', phi, g/g.shape[-1])
        y = torch.einsum('bcn,bcd->bdn', theta, context)
        return x + self.W(y.unflatten(2, x.shape[-2:]))
