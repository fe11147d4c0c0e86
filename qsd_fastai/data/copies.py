"""Degraded copies of the pictures of a batch, made where the batch is, of drawn kind and known severity.

The ways and their strengths are those of `degrade`, picture by picture, in operations on whole batches: whatever is
linear along rows and columns (fewer pixels, blur) is one matrix a picture and side."""
import math
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from fastai.vision.core import TensorImage
from fasttransform import ItemTransform
from PIL import Image

from ..choices import one_of
from ..shown import shown
from .blocks import TensorQuality
from .degradations import DEGRADATIONS, SIDE, degrade
from .transforms import FaceAugment

__all__ = ['DegradedCopies', 'degrade_batch']


@lru_cache(maxsize=512)
def _fewer_pixels(n, k):
    "`(n, n)`: brings n pixels down to k by averaging, and back (bicubic)"
    one_each = Image.fromarray(np.eye(n, dtype=np.float32)) # What PIL does to it is the matrix of what it does
    return torch.from_numpy(np.array(one_each.resize((n, k), Image.BOX).resize((n, n), Image.BICUBIC)))


def _blurring(n, sigma):
    "`(bs, n, n)`: a Gaussian of `sigma` `(bs,)` pixels, whose weights within the picture sum to 1"
    at = torch.arange(n, device=sigma.device)
    weight = (-.5*((at[:, None] - at)/sigma.clamp(min=1e-3)[:, None, None])**2).exp()
    return weight/weight.sum(2, keepdim=True)


def _both_ways(x, rows, cols): return rows[:, None]@x@cols[:, None].transpose(2, 3)


def _low_resolution(x, severity):
    h,w = x.shape[-2:]
    left = [min(1., 4/math.sqrt(h*w))**s**.6 for s in severity.tolist()]
    rows,cols = (torch.stack([_fewer_pixels(n, max(1, round(n*part))) for part in left]).to(x) for n in (h, w))
    return _both_ways(x, rows, cols)


def _blur(x, severity):
    h,w = x.shape[-2:]
    sigma = (10*math.sqrt(h*w)/SIDE*severity**1.6).to(x, non_blocking=True)
    return _both_ways(x, _blurring(h, sigma), _blurring(w, sigma))


def _noise(x, severity):
    (n,c,h,w),scale = x.shape,max(math.sqrt(x.shape[-2]*x.shape[-1])/SIDE, 1.)
    size = max(1, round(h/scale)), max(1, round(w/scale))
    grain = .8*torch.randn(n, 1, *size, device=x.device) + .6*torch.randn(n, c, *size, device=x.device)
    strength = (200/255*severity**2).to(x, non_blocking=True).view(-1, 1, 1, 1)
    return x + strength*F.interpolate(grain.to(x), (h, w), mode='nearest')


def _darkness(x, severity):
    s = severity.to(x, non_blocking=True).view(-1, 1, 1, 1)
    return x*.04**s**.8 + 2.5/255*s*torch.randn(x.shape, device=x.device).to(x)


def _by_picture(kind):
    def change(x, severity):
        "Picture by picture, on the CPU wherever the batch is"
        rng = np.random.default_rng(torch.randint(2**31, (2,)).tolist())
        pixels = (x*255).round().clamp(0, 255).to('cpu', torch.uint8).permute(0, 2, 3, 1).numpy()
        out = [np.asarray(degrade(Image.fromarray(o), kind, s, rng)) for o,s in zip(pixels, severity.tolist())]
        return torch.from_numpy(np.stack(out)).to(x.device).permute(0, 3, 1, 2).to(x.dtype)/255
    return change


_WAYS = {'low_resolution': _low_resolution, 'blur': _blur, 'noise': _noise, 'darkness': _darkness,
         'jpeg': _by_picture('jpeg'), 'occlusion': _by_picture('occlusion')}


@torch.no_grad()
def degrade_batch(
    x:torch.Tensor,        # `(bs, 3, height, width)`, 0 to 1
    kind:str,              # One of `DEGRADATIONS`
    severity:torch.Tensor, # `(bs,)`, 0 to 1, on the CPU
)->torch.Tensor: # As `x`
    "Each picture made worse in one way, as `degrade` does; 'jpeg' and 'occlusion' pass by the CPU"
    one_of('kind', kind, *DEGRADATIONS)
    return _WAYS[kind](x.as_subclass(torch.Tensor), severity).clamp(0, 1) if len(x) else x


class DegradedCopies(ItemTransform):
    """Adds to each picture of a training batch a copy of itself that is worse in a drawn way by a drawn amount.

    A batch of n is then one of 2n: picture k and its copy n + k, of the same identity, camera and row. What is
    mirrored, cut or lit otherwise is so in both. A copy of severity s has (1 - s) times the quality of its picture; a
    picture of unknown quality counts as 100."""
    split_idx,order = 0,FaceAugment.order + 10 # Training only; before normalisation

    def __init__(self,
        kinds:tuple=('low_resolution', 'blur', 'jpeg'), # To draw from, of `DEGRADATIONS`, equally likely
        severity:tuple=(.1, .8),                        # Least and greatest, 0 to 1, drawn evenly
    ):
        super().__init__()
        for kind in kinds: one_of('kind', kind, *DEGRADATIONS)
        if not kinds: raise ValueError('kinds is empty. Name one or more.')
        if not 0 <= severity[0] <= severity[1] <= 1:
            raise ValueError(f'severity={tuple(severity)} is out of range. Use the least and the greatest, 0 to 1.')
        self.kinds,self.severity = tuple(kinds),tuple(severity)

    name = property(shown)
    __repr__ = shown

    def encodes(self, b): # `(pictures (bs, 3, height, width), 0 to 1, identity, quality, ...)`
        x,*targets = b
        if not any(isinstance(y, TensorQuality) for y in targets):
            raise ValueError('The batch has no quality. Put a `QualityBlock` among the targets of the DataBlock.')
        copies,severity,_ = self.drawn(x)
        doubled = torch.cat([x.as_subclass(torch.Tensor), copies])
        return TensorImage(doubled), *(self._doubled(y, severity) for y in targets)

    def drawn(self,
        x, # `(bs, 3, height, width)`, 0 to 1
    ): # `(copies, severity, kind)`: as `x`; `(bs,)`, on the CPU; `(bs,)`, numbers of `kinds`
        "A copy of each picture"
        least,most = self.severity
        severity = least + (most - least)*torch.rand(len(x))
        kind,plain = torch.randint(len(self.kinds), (len(x),)),x.as_subclass(torch.Tensor)
        copies = plain.clone()
        for i,name in enumerate(self.kinds):
            chosen = (kind == i).nonzero()[:, 0]
            at = chosen.to(x.device, non_blocking=True)
            copies[at] = degrade_batch(plain[at], name, severity[chosen])
        return copies, severity, kind

    def _doubled(self, y, severity):
        plain = y.as_subclass(torch.Tensor)
        if not isinstance(y, TensorQuality): return torch.cat([plain, plain]).as_subclass(type(y))
        q = plain.nan_to_num(100.)
        return TensorQuality(torch.cat([q, q*(1 - severity.to(q, non_blocking=True))]))
