"Any body by its name: one of our own, or a timm model"
from collections.abc import Callable
from pathlib import Path

from .agw import agw_resnet50
from .iresnet import ir18, ir34, ir50, ir101, iresnet18, iresnet34, iresnet50, iresnet100
from .mobilefacenet import mobilefacenet, mobilefacenet_prelu
from .timm import check_name, timm_body

__all__ = ['make_body', 'own_bodies']

own_bodies:dict[str,Callable] = {f.__name__: f for f in (agw_resnet50, iresnet18, iresnet34, iresnet50, iresnet100, ir18, ir34, ir50, ir101,
                                                         mobilefacenet, mobilefacenet_prelu)}


def make_body(
    name:str, # A timm model, or one of our own: `agw_resnet50`, `iresnet50`, `mobilefacenet`, ... of `own_bodies`
    pretrained:bool|str|Path=False, # False: from scratch; True: the published weights, through timm; or a file of them (.pth, .safetensors)
    last_stride:int|None=None, # Stride of the last stage of a ResNet; 1 is the habit in person re-identification; None keeps the body's own
    **kwargs, # For the model itself, for example `img_size=(256, 128)` of a ViT
): # A module with `forward_features`, `forward_intermediates`, `num_features` and `feature_info`
    "A body without a classifier; raises `ValueError` for an unknown name and `ConnectionError` when weights cannot be fetched"
    if name in own_bodies:
        if last_stride is not None: kwargs['last_stride'] = last_stride
        return own_bodies[name](pretrained=pretrained, **kwargs)
    check_name(name, own_bodies)
    return timm_body(name, pretrained, last_stride, **kwargs)
