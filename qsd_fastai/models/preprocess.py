"What a body wants its pictures to be like: part of the model, and exported with it"
from dataclasses import dataclass
from typing import ClassVar

import torch
from fastai.vision.core import imagenet_stats

from ..choices import FILTERS

__all__ = ['Preprocess', 'face_stats', 'preprocess_of', 'stats_differ', 'stats_of']

# of arcface_torch, AdaFace, TFace: 0 to 1 becomes -1 to 1
face_stats = (.5, .5, .5), (.5, .5, .5)


@dataclass(frozen=True)
class Preprocess:
    "RGB, 0 to 1, then normalised by `mean` and `std`; weights made for BGR are turned when they are loaded"
    mean:tuple[float, ...]           # Of red, green, blue, 0 to 1
    std:tuple[float, ...]            # Of red, green, blue
    size:tuple[int, int]|None = None # `(height, width)` it was made for, pixels; None: any
    resize:str = FILTERS[0]          # The filter that brings it to its size, of `FILTERS`
    channels:ClassVar[str] = 'rgb'   # The same for every body: nobody has to ask

    @property
    def stats(self):
        "`(mean, std)`, for `recognition_dataloaders(stats=...)`"
        return self.mean, self.std


def preprocess_of(
    body, # With `preprocess`, or a timm model
)->Preprocess|None: # None: the body does not say
    "What a body wants its pictures to be like"
    if (own := getattr(body, 'preprocess', None)) is not None: return own
    cfg = getattr(body, 'pretrained_cfg', None) or {}
    if not cfg.get('mean') or not cfg.get('std'): return None
    size = tuple(cfg['input_size'][1:]) if cfg.get('fixed_input_size') else None
    return Preprocess(tuple(cfg['mean']), tuple(cfg['std']), size)


def stats_differ(
    preprocess:Preprocess, # What a body wants
    mean,                  # `(3,)` what the pictures are normalised by, or a tensor with as many values
    std,                   # `(3,)`
)->bool:
    "Are pictures normalised otherwise than a body wants? By more than a level in 255"
    def apart(wanted, found): return torch.as_tensor(wanted).float() - torch.as_tensor(found).float().cpu().flatten()

    gaps = apart(preprocess.mean, mean), apart(preprocess.std, std)
    return any(gap.abs().max().item() > 1/255 for gap in gaps)


def stats_of(
    body, # With `preprocess`, a timm model, or any other
)->tuple: # `(mean, std)`
    "What a body wants pictures to be normalised by; that of ImageNet where it does not say"
    wanted = preprocess_of(body)
    return imagenet_stats if wanted is None else wanted.stats
