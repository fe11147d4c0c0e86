"Any body by its name: one of our own, or a timm model"
from collections.abc import Callable
from pathlib import Path

from ..weights.read import load_body
from . import clip, iresnet, mobilefacenet, osnet, solider
from .agw import agw_resnet50
from .timm import check_name, timm_body

__all__ = ['body_name', 'face_bodies', 'make_body', 'own_bodies', 'person_bodies', 'sized_bodies']


def _makers(module): return {name: getattr(module, name) for name in module.__all__ if name.islower()}


person_bodies:dict[str,Callable] = {'agw_resnet50': agw_resnet50, **_makers(osnet), **_makers(clip), **_makers(solider)}
face_bodies:dict[str,Callable] = {**_makers(iresnet), **_makers(mobilefacenet)}
own_bodies = {**person_bodies, **face_bodies}
# these have a weight for each place of their maps
sized_bodies = {*face_bodies, *_makers(clip)}


def make_body(
    name:str,                       # A timm model, or one of our own, the names of `own_bodies`
    pretrained:bool|str|Path=False, # False: from scratch; True: the published weights, through timm; or a file
    last_stride:int|None=None,      # Of a ResNet; 1 is the habit in person Re-ID; None: the body's own
    channels:str|None=None,         # Of the pictures that a file's weights were trained on: 'rgb', 'bgr'
    size:tuple|None=None,           # `(height, width)` of its pictures, pixels; None: of its own size, or of any
    **kwargs,                       # For the model itself
): # A module with `forward_features`, `forward_intermediates`, `num_features` and `feature_info`
    """A body without a classifier, for pictures of `size`

    `ValueError` for an unknown name, for weights that are no file, and where it cannot take such pictures;
    `ConnectionError` when weights cannot be fetched."""
    if not isinstance(pretrained, bool | str | Path):
        raise ValueError(f'pretrained is a {type(pretrained).__name__}. Give True, False or a file; weights that are '
                         'at hand are for load_state_dict of the model that is made.')
    if name not in own_bodies:
        check_name(name, own_bodies)
        return timm_body(name, pretrained, last_stride, channels, size, **kwargs)
    if last_stride is not None:
        if name != 'agw_resnet50':
            raise ValueError(f'last_stride is {last_stride}. Leave it None for {name}: only ResNets have it.')
        kwargs['last_stride'] = last_stride
    if size is not None and name in sized_bodies: kwargs['size'] = tuple(size)
    file = False if isinstance(pretrained, bool) else pretrained
    return load_body(own_bodies[name](pretrained=pretrained is True, **kwargs), file, channels)


def body_name(
    body, # A module
)->str:
    "What a body is called: timm's name of its architecture, else its class"
    return (getattr(body, 'pretrained_cfg', None) or {}).get('architecture') or type(body).__name__
