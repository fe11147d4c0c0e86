"""Training-time changes to pictures: each picture of a batch its own, on the device of the batch.

Persons are squished to one size, mirrored, shifted and partly erased, as AGW and QSD do. Faces lose a part, detail or
light (`FaceAugment`), as they do between cameras; its steps are functions of a batch that stand for themselves."""
import io
import math
import random
from numbers import Integral

import numpy as np
import torch
import torch.nn.functional as F
from fastai.data.transforms import IntToFloatTensor, Normalize, ToTensor
from fastai.vision.core import PILImage, TensorImage
from fasttransform import Transform
from PIL import Image

from ..choices import FILTERS, one_of
from ..shown import shown

__all__ = ['CropFlip', 'FaceAugment', 'RandomErasing', 'Squish', 'erasing_rectangle', 'height_width', 'jitter_light',
           'keep_rectangle', 'lower_resolution', 'recompress']


def height_width(
    size, # `(height, width)`, or one number for both
)->tuple:
    "Both, pixels; ValueError for anything else"
    both = (size, size) if isinstance(size, Integral) else tuple(size) if hasattr(size, '__iter__') else ()
    if len(both) == 2 and all(isinstance(o, Integral) and not isinstance(o, bool) and o > 0 for o in both):
        return tuple(map(int, both))
    raise ValueError(f'size is {size!r}. Give (height, width) in pixels, or one number for both.')


class Squish(Transform):
    "Resize a picture to one size, whatever its shape, with a filter of PIL: bilinear as AGW and QSD do, unless told"
    order = ToTensor.order - 4
    resize = 'bilinear' # Of learners saved before there was a choice

    def __init__(self,
        size:tuple,            # `(height, width)`, pixels; a number is both
        resize:str='bilinear', # 'bilinear', or 'bicubic' as FastReID
    ): self.size,self.resize = height_width(size),one_of('resize', resize, *FILTERS)

    name = property(shown)
    __repr__ = shown

    def encodes(self, x:PILImage):
        size = self.size[::-1]
        return x if x.size == size else x.resize(size, Image.Resampling[self.resize.upper()])


class CropFlip(Transform):
    "Mirror with chance `p`, and shift by up to `pad` pixels into a black border: one gather for a whole batch"
    split_idx,order = 0,IntToFloatTensor.order + 10 # Training only

    def __init__(self,
        pad:int=10, # Black border, pixels on each side
        p:float=.5, # Chance of a mirrored picture, 0 to 1
    ): self.pad,self.p = pad,p

    name = property(shown)
    __repr__ = shown

    def encodes(self, x:TensorImage): # `(bs, 3, height, width)`
        bs,_,h,w = x.shape
        top,left = torch.randint(0, 2*self.pad + 1, (2, bs)).to(x.device, non_blocking=True)
        mirrored = (torch.rand(bs) < self.p).to(x.device, non_blocking=True)
        rows = top[:, None] + torch.arange(h, device=x.device)
        cols = torch.arange(w, device=x.device).expand(bs, w)
        cols = left[:, None] + torch.where(mirrored[:, None], w - 1 - cols, cols)
        padded = F.pad(x, [self.pad]*4)
        picture = torch.arange(bs, device=x.device)[:, None, None]
        return padded[picture, :, rows[:, :, None], cols[:, None, :]].permute(0, 3, 1, 2).contiguous()


def erasing_rectangle(
    height:int,           # Of the picture, pixels
    width:int,            # Of the picture, pixels
    p:float=.5,           # Chance that anything is erased, 0 to 1
    area:tuple=(.02, .4), # Least and greatest part of the picture
    aspect:float=.3,      # Least height/width of the rectangle; the greatest is its inverse
    rng=random,           # Anything with `uniform` and `randint`
):
    "`(row, column, height, width)` of what to erase, or None (Zhong et al., AAAI 2020, as published for Re-ID)"
    if rng.uniform(0, 1) >= p: return None
    for _ in range(100):
        target = rng.uniform(*area)*height*width
        ratio = rng.uniform(aspect, 1/aspect)
        h,w = round(math.sqrt(target*ratio)), round(math.sqrt(target/ratio))
        if h < height and w < width: return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return None


def _inside(rectangles, x):
    "`(bs, 1, height, width)` bool: where the rectangle of each picture is"
    h,w = x.shape[-2:]
    top,left,rh,rw = torch.tensor(rectangles).to(x.device, non_blocking=True).T[:, :, None]
    row,col = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
    rows,cols = (row >= top) & (row < top + rh), (col >= left) & (col < left + rw)
    return rows[:, None, :, None] & cols[:, None, None, :]


class RandomErasing(Transform):
    "Overwrite a rectangle of each picture with chance `p`, after normalisation, as AGW and QSD do"
    split_idx,order = 0,Normalize.order + 1 # Training only

    def __init__(self,
        p:float=.5,                    # Chance of erasing, 0 to 1
        area:tuple=(.02, .4),          # Least and greatest part of the picture
        aspect:float=.3,               # Least height/width of the rectangle
        fill:tuple=(.485, .456, .406), # A number a channel, in normalised units; as published, the ImageNet mean
    ): self.p,self.area,self.aspect,self.fill = p,area,aspect,fill

    name = property(shown)
    __repr__ = shown

    def encodes(self, x:TensorImage): # `(bs, 3, height, width)`
        h,w = x.shape[-2:]
        found = [erasing_rectangle(h, w, self.p, self.area, self.aspect) or (0, 0, 0, 0) for _ in range(len(x))]
        return torch.where(_inside(found, x), torch.tensor(self.fill).to(x, non_blocking=True)[:, None, None], x)


def keep_rectangle(
    x:torch.Tensor,      # `(bs, 3, height, width)`
    area:tuple=(.2, 1.), # Least and greatest part of the picture that is kept
    aspect:float=.75,    # Least height/width of what is kept; the greatest is its inverse
)->torch.Tensor:
    "A rectangle of each picture where it was, and black around it: a face that is partly out of the picture or covered"
    h,w = x.shape[-2:]
    found = [erasing_rectangle(h, w, 1., area, aspect) or (0, 0, h, w) for _ in range(len(x))]
    return x*_inside(found, x)


_DOWN = ('nearest', 'bilinear', 'bicubic', 'area')
_UP = ('nearest', 'bilinear', 'bicubic')


def lower_resolution(
    x:torch.Tensor,      # `(bs, 3, height, width)`, 0 to 1
    part:tuple=(.2, 1.), # Least and greatest side that is left, of the side
)->torch.Tensor:
    "Each picture shrunk and enlarged again, both ways drawn anew: a far face, from cameras and programs of all kinds"
    h,w = x.shape[-2:]
    out = []
    for o in x.split(1):
        side = random.uniform(*part)
        down,up = random.choice(_DOWN), random.choice(_UP)
        small = max(1, round(side*h)), max(1, round(side*w))
        out.append(F.interpolate(F.interpolate(o, small, mode=down), (h, w), mode=up))
    return torch.cat(out).clamp(0, 1) if out else x


def recompress(
    x:torch.Tensor,         # `(bs, 3, height, width)`, 0 to 1
    quality:tuple=(10, 75), # Least and greatest JPEG quality, 1 to 100
)->torch.Tensor:
    "Each picture through a JPEG encoder of random quality, on the CPU wherever the batch is"
    pixels = (x.detach()*255).round().clamp(0, 255).to('cpu', torch.uint8)
    pixels = pixels.permute(0, 2, 3, 1).contiguous().numpy()
    out = [np.asarray(_through_jpeg(Image.fromarray(o), random.randint(*quality))) for o in pixels]
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2).to(x)/255 if out else x


def _through_jpeg(img, quality):
    file = io.BytesIO()
    img.save(file, 'JPEG', quality=quality)
    return Image.open(file).convert('RGB')


def jitter_light(
    x:torch.Tensor,      # `(bs, 3, height, width)`, 0 to 1
    brightness:float=.5, # Factor is drawn from 1 - this to 1 + this
    contrast:float=.5,   # Likewise
    saturation:float=.5, # Likewise
)->torch.Tensor:
    "Brightness, contrast and saturation of each picture, in random order"
    def factor(spread): return (1 + spread*(2*torch.rand(len(x), 1, 1, 1) - 1)).to(x, non_blocking=True)
    shares = torch.tensor((.299, .587, .114)).to(x, non_blocking=True)[:, None, None]
    def grey(x): return (x*shares).sum(1, keepdim=True)
    ways = [lambda x: x*factor(brightness),
            lambda x: grey(x).mean((2, 3), keepdim=True).lerp(x, factor(contrast)),
            lambda x: grey(x).expand_as(x).lerp(x, factor(saturation))]
    for way in random.sample(ways, 3): x = way(x).clamp(0, 1)
    return x


class FaceAugment(Transform):
    """Crop, low resolution, light and JPEG, each with its own chance for each picture of a batch.

    Chances are those of AdaFace (Kim et al., CVPR 2022: .2 each, no JPEG). A quality label is that of the picture as it
    is on disk. `low_res`, `jpeg` and `crop` make a picture worse than its label says; where labels are to stay true, as
    for `QualityDistillation`, give them 0 and keep `photometric`."""
    split_idx,order = 0,CropFlip.order + 10 # Training only; before normalisation

    def __init__(self,
        low_res:float=.2,            # Chance of a lower resolution, 0 to 1
        jpeg:float=0.,               # Chance of another JPEG compression, 0 to 1
        crop:float=.2,               # Chance that only a part is kept, 0 to 1
        photometric:float=.2,        # Chance of other light, 0 to 1
        low_res_part:tuple=(.2, 1.), # Of `lower_resolution`
        jpeg_quality:tuple=(10, 75), # Of `recompress`
        crop_area:tuple=(.2, 1.),    # Of `keep_rectangle`
    ):
        for name,chance in (('low_res', low_res), ('jpeg', jpeg), ('crop', crop), ('photometric', photometric)):
            if not 0 <= chance <= 1: raise ValueError(f'{name}={chance} is no chance. Use a number from 0 to 1.')
        for name,(least,most),lowest,highest in (('low_res_part', low_res_part, 0, 1),
                                                 ('jpeg_quality', jpeg_quality, 1, 100),
                                                 ('crop_area', crop_area, 0, 1)):
            if not lowest <= least <= most <= highest:
                raise ValueError(f'{name}={(least, most)} is out of range. '
                                 f'Use the least and the greatest value, from {lowest} to {highest}.')
        self.low_res,self.jpeg,self.crop,self.photometric = low_res,jpeg,crop,photometric
        self.low_res_part,self.jpeg_quality,self.crop_area = low_res_part,jpeg_quality,crop_area
        self.steps = [(crop, keep_rectangle, crop_area), (low_res, lower_resolution, low_res_part),
                      (photometric, jitter_light, None), (jpeg, recompress, jpeg_quality)]

    name = property(shown)
    __repr__ = shown

    def encodes(self, x:TensorImage): # `(bs, 3, height, width)`, 0 to 1
        out = x.as_subclass(torch.Tensor).clone()
        for chance,change,limits in self.steps:
            chosen = (torch.rand(len(x)) < chance).nonzero().flatten().to(x.device, non_blocking=True)
            if len(chosen): out[chosen] = change(out[chosen], *([] if limits is None else [limits]))
        return TensorImage(out)
