"Training-time changes to pictures, each picture of a batch its own, on the batch's device."
import math
import random

import torch
import torch.nn.functional as F
from fastai.vision.core import PILImage, TensorImage
from fasttransform import Transform
from PIL import Image

__all__ = ['CropFlip', 'RandomErasing', 'Squish', 'erasing_rectangle']


class Squish(Transform):
    "Resize a picture to one size, whatever its shape, with the bilinear filter of PIL, as AGW and QSD do"
    order = 1

    def __init__(self,
        size:tuple, # `(height, width)`, pixels
    ): self.size = tuple(size)

    def encodes(self, x:PILImage): return x if x.size == self.size[::-1] else x.resize(self.size[::-1], Image.BILINEAR)


class CropFlip(Transform):
    "Mirror with chance `p`, and shift by up to `pad` pixels into a black border: the usual Re-ID augmentation, one gather for a whole batch"
    split_idx,order = 0,20  # training only; after the conversion to float, before normalisation

    def __init__(self,
        pad:int=10,  # Black border, pixels on each side
        p:float=.5,  # Chance of a mirrored picture, 0 to 1
    ): self.pad,self.p = pad,p

    def encodes(self, x:TensorImage): # `(bs, 3, height, width)`
        bs,_,h,w = x.shape
        top,left = torch.randint(0, 2*self.pad + 1, (2, bs)).to(x.device)
        mirrored = (torch.rand(bs) < self.p).to(x.device)
        rows = top[:,None] + torch.arange(h, device=x.device)
        cols = torch.arange(w, device=x.device).expand(bs, w)
        cols = left[:,None] + torch.where(mirrored[:,None], w - 1 - cols, cols)
        padded = F.pad(x, [self.pad]*4)
        return padded[torch.arange(bs, device=x.device)[:,None,None], :, rows[:,:,None], cols[:,None,:]].permute(0, 3, 1, 2).contiguous()


def erasing_rectangle(
    height:int,           # Of the picture, pixels
    width:int,            # Of the picture, pixels
    p:float=.5,           # Chance that anything is erased, 0 to 1
    area:tuple=(.02, .4), # Least and greatest part of the picture
    aspect:float=.3,      # Least height/width of the rectangle; the greatest is its inverse
    rng=random,           # Anything with `uniform` and `randint`
):
    "`(row, column, height, width)` of what to erase, or `None` (Zhong et al., AAAI 2020, with the published Re-ID settings)"
    if rng.uniform(0, 1) >= p: return None
    for _ in range(100):
        target = rng.uniform(*area)*height*width
        ratio = rng.uniform(aspect, 1/aspect)
        h,w = round(math.sqrt(target*ratio)), round(math.sqrt(target/ratio))
        if h < height and w < width: return rng.randint(0, height - h), rng.randint(0, width - w), h, w
    return None


class RandomErasing(Transform):
    "Overwrite a rectangle of each picture with chance `p`, after normalisation, as AGW and QSD do"
    split_idx,order = 0,100

    def __init__(self,
        p:float=.5,                     # Chance of erasing, 0 to 1
        area:tuple=(.02, .4),           # Least and greatest part of the picture
        aspect:float=.3,                # Least height/width of the rectangle
        fill:tuple=(.485, .456, .406),  # Written in normalised units, a number a channel; the published code writes the ImageNet mean
    ): self.p,self.area,self.aspect,self.fill = p,area,aspect,fill

    def encodes(self, x:TensorImage): # `(bs, 3, height, width)`
        h,w = x.shape[-2:]
        found = [erasing_rectangle(h, w, self.p, self.area, self.aspect) or (0, 0, 0, 0) for _ in range(len(x))]
        top,left,rh,rw = torch.tensor(found, device=x.device).T[:,:,None]
        row,col = torch.arange(h, device=x.device), torch.arange(w, device=x.device)
        rows,cols = (row >= top) & (row < top + rh), (col >= left) & (col < left + rw)
        inside = rows[:,None,:,None] & cols[:,None,None,:]
        return torch.where(inside, x.new_tensor(self.fill)[:,None,None], x)
