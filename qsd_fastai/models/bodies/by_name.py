"Any body by its name: one of our own, or a timm model"
from collections.abc import Callable
from pathlib import Path

from .agw import agw_resnet50
from .iresnet import ir18, ir34, ir50, ir101, iresnet18, iresnet34, iresnet50, iresnet100
from .mobilefacenet import mobilefacenet, mobilefacenet_prelu
from .timm import check_name, timm_body

__all__ = ['body_name', 'make_body', 'own_bodies']

own_bodies:dict[str,Callable] = {f.__name__: f for f in (
    agw_resnet50, iresnet18, iresnet34, iresnet50, iresnet100, ir18, ir34, ir50, ir101,
    mobilefacenet, mobilefacenet_prelu)}


def make_body(
    name:str,                       # A timm model, or one of our own, the names of `own_bodies`
    pretrained:bool|str|Path=False, # False: from scratch; True: the published weights, through timm; or a file
    last_stride:int|None=None,      # Of a ResNet; 1 is the habit in person Re-ID; None: the body's own
    size:tuple|None=None,           # `(height, width)` of its pictures, pixels; None: of its own size, or of any
    **kwargs,                       # For the model itself
): # A module with `forward_features`, `forward_intermediates`, `num_features` and `feature_info`
    """A body without a classifier, for pictures of `size`

    `ValueError` for an unknown name, and where it cannot take such pictures; `ConnectionError` when weights cannot be
    fetched."""
    if name not in own_bodies:
        check_name(name, own_bodies)
        return timm_body(name, pretrained, last_stride, size, **kwargs)
    if last_stride is not None: kwargs['last_stride'] = last_stride
    # bodies for faces end in a layer for one size
    if size is not None and name != 'agw_resnet50': kwargs['size'] = tuple(size)
    return own_bodies[name](pretrained=pretrained, **kwargs)


def body_name(
    body, # A module
)->str:
    "What a body is called: timm's name of its architecture, else its class"
    return (getattr(body, 'pretrained_cfg', None) or {}).get('architecture') or type(body).__name__
