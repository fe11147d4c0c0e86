"Training-time changes for faces: crops, low resolution, JPEG and light, each with a chance of its own, on the batch's device."
import io
import random

import numpy as np
import torch
import torch.nn.functional as F
from fastai.vision.core import TensorImage
from fasttransform import Transform
from PIL import Image

from .transforms import erasing_rectangle

__all__ = ['FaceAugment', 'jitter_light', 'keep_rectangle', 'lower_resolution', 'recompress']

_DOWN, _UP = ('nearest', 'bilinear', 'bicubic', 'area'), ('nearest', 'bilinear', 'bicubic')


def keep_rectangle(
    x:torch.Tensor,          # `(bs, 3, height, width)`
    area:tuple=(.2, 1.),     # Least and greatest part of the picture that is kept
    aspect:float=.75,        # Least height/width of what is kept; the greatest is its inverse
)->torch.Tensor:
    "A rectangle of each picture where it was, and black around it: a face that is partly out of the picture or covered"
    h,w = x.shape[-2:]
    found = [erasing_rectangle(h, w, 1., area, aspect) or (0, 0, h, w) for _ in range(len(x))]
    top,left,rh,rw = torch.tensor(found, device=x.device).T[:,:,None]
    row,col = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    rows,cols = (row >= top) & (row < top + rh), (col >= left) & (col < left + rw)
    return x*(rows[:,None,:,None] & cols[:,None,None,:])


def lower_resolution(
    x:torch.Tensor,      # `(bs, 3, height, width)`, 0 to 1
    part:tuple=(.2, 1.), # Least and greatest side that is left, of the side
)->torch.Tensor:
    "Each picture shrunk and enlarged again, both ways of interpolating drawn anew: a far face, from cameras and programs of all kinds"
    h,w = x.shape[-2:]
    out = []
    for o in x.split(1):
        side = random.uniform(*part)
        down,up = random.choice(_DOWN), random.choice(_UP)
        o = F.interpolate(o, (max(1, round(side*h)), max(1, round(side*w))), mode=down)
        out.append(F.interpolate(o, (h, w), mode=up))
    return torch.cat(out).clamp(0, 1) if out else x


def recompress(
    x:torch.Tensor,         # `(bs, 3, height, width)`, 0 to 1
    quality:tuple=(10, 75), # Least and greatest JPEG quality, 1 to 100
)->torch.Tensor:
    "Each picture through a JPEG encoder of random quality, on the CPU wherever the batch is"
    pixels = (x.detach()*255).round().clamp(0, 255).to('cpu', torch.uint8).permute(0, 2, 3, 1).contiguous().numpy()
    out = [np.asarray(_through_jpeg(Image.fromarray(o), random.randint(*quality))) for o in pixels]
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).to(x)/255 if out else x


def _through_jpeg(img, quality):
    file = io.BytesIO()
    img.save(file, 'JPEG', quality=quality)
    return Image.open(file).convert('RGB')


def jitter_light(
    x:torch.Tensor,        # `(bs, 3, height, width)`, 0 to 1
    brightness:float=.5,   # Factor is drawn from 1 - this to 1 + this
    contrast:float=.5,     # Likewise
    saturation:float=.5,   # Likewise
)->torch.Tensor:
    "Brightness, contrast and saturation of each picture, in random order"
    def factor(spread): return (1 + spread*(2*torch.rand(len(x), 1, 1, 1) - 1)).to(x)
    def grey(x): return (x*x.new_tensor((.299, .587, .114))[:,None,None]).sum(1, keepdim=True)
    ways = [lambda x: x*factor(brightness),
            lambda x: grey(x).mean((2, 3), keepdim=True).lerp(x, factor(contrast)),
            lambda x: grey(x).expand_as(x).lerp(x, factor(saturation))]
    for way in random.sample(ways, 3): x = way(x).clamp(0, 1)
    return x


class FaceAugment(Transform):
    """Crop, low resolution, JPEG and light, each with its own chance for each picture of a batch (Kim et al., AdaFace, CVPR 2022: .2 each, no JPEG).

    A quality label is that of the picture as it is on disk. `low_res`, `jpeg` and `crop` make a picture worse than its label says;
    where labels are to stay true, as for `QualityDistillation`, give them 0 and keep `photometric`."""
    split_idx,order = 0,30  # training only; after the mirror, before normalisation

    def __init__(self,
        low_res:float=.2,        # Chance of a lower resolution, 0 to 1
        jpeg:float=0.,           # Chance of another JPEG compression, 0 to 1
        crop:float=.2,           # Chance that only a part is kept, 0 to 1
        photometric:float=.2,    # Chance of other light, 0 to 1
        low_res_part:tuple=(.2, 1.),  # Of `lower_resolution`
        jpeg_quality:tuple=(10, 75),  # Of `recompress`
        crop_area:tuple=(.2, 1.),     # Of `keep_rectangle`
    ):
        for name,chance in (('low_res', low_res), ('jpeg', jpeg), ('crop', crop), ('photometric', photometric)):
            if not 0 <= chance <= 1: raise ValueError(f'{name}={chance} is a chance; give a number from 0 to 1')
        for name,(least,most),lowest,highest in (('low_res_part', low_res_part, 0, 1), ('jpeg_quality', jpeg_quality, 1, 100),
                                                 ('crop_area', crop_area, 0, 1)):
            if not lowest <= least <= most <= highest:
                raise ValueError(f'{name}={(least, most)} must be the least and the greatest value, from {lowest} to {highest}')
        self.steps = [(crop, keep_rectangle, crop_area), (low_res, lower_resolution, low_res_part), (photometric, jitter_light, None),
                      (jpeg, recompress, jpeg_quality)]

    def encodes(self, x:TensorImage): # `(bs, 3, height, width)`, 0 to 1
        out = x.as_subclass(torch.Tensor).clone()
        for chance,change,limits in self.steps:
            chosen = (torch.rand(len(x)) < chance).nonzero().flatten().to(x.device)
            if len(chosen): out[chosen] = change(out[chosen], *([] if limits is None else [limits]))
        return TensorImage(out)
