"Bodies of timm by name, with weights through timm or from a file, and the stride of their last stage"
from difflib import get_close_matches
from pathlib import Path

import timm

from ..switches import set_last_stride
from ..weights.read import load_body

__all__ = ['set_last_stride', 'timm_body']


def check_name(
    name:str, # What might be a timm model
    own=(),   # Names that are known beside timm's
):
    "`ValueError`, with names that are near, where neither timm nor we have such a body"
    if name.startswith(('hf_hub:', 'hf-hub:', 'local-dir:')) or timm.is_model(name): return
    close = get_close_matches(name.split('.')[0], [*own, *timm.list_models()], n=5, cutoff=.5)
    near = f'Did you mean {", ".join(close)}? ' if close else ''
    raise ValueError(f'Unknown body {name!r}. {near}timm.list_models() lists the names.')


def timm_body(
    name:str,                       # A timm model
    pretrained:bool|str|Path=False, # False: from scratch; True: the published weights, through timm; or a file
    last_stride:int|None=None,      # Of a ResNet; None: the body's own, or that of the file's project
    channels:str|None=None,         # Of the pictures that a file's weights were trained on, 'rgb' or 'bgr'
    **kwargs,                       # For the model itself
): # A module with `forward_features`, `forward_intermediates`, `num_features` and `feature_info`
    "A timm model without its classifier; raises `ConnectionError` when weights cannot be fetched"
    elsewhere = 'file' in kwargs.get('pretrained_cfg_overlay', {}) or name.startswith('local-dir:')
    if pretrained is True and elsewhere:
        # timm would read it by itself, and some of its versions run what a file holds
        raise ValueError(f'pretrained is True, and the weights of {name} lie in a file. Give it: pretrained=FILE.')
    file = None if isinstance(pretrained, bool) else Path(pretrained)
    if file is not None and not file.is_file():
        raise FileNotFoundError(f'pretrained is {str(pretrained)!r}: no such file. Give weights of {name}, True, or '
                                'False.')
    if file is None and channels is not None:
        raise ValueError(f'channels is {channels!r}. Leave it out: it is for a file of weights.')
    try: body = timm.create_model(name, pretrained=pretrained is True, num_classes=0, **kwargs)
    except Exception as e:
        # a wrong argument fails without weights too, and then its own message is the right one
        if pretrained is not True: raise
        timm.create_model(name, pretrained=False, num_classes=0, **kwargs)
        first = str(e).splitlines()[0] if str(e) else ''
        raise ConnectionError(f'The weights of {name} could not be had ({type(e).__name__}: {first}). Go on from a '
                              "file, pretrained='weights.safetensors', or from scratch, pretrained=False.") from e
    if not hasattr(body, 'forward_intermediates'):
        raise ValueError(f'{name} of timm {timm.__version__} gives no levels: it has no forward_intermediates. '
                         'Choose another body.')
    if last_stride is not None:
        set_last_stride(body, last_stride)
        body.asked = {'last_stride'}
    return body if file is None else load_body(body, file, channels)
