"Bodies of timm by name, with weights through timm or from a file, and the stride of their last stage"
from difflib import get_close_matches
from pathlib import Path

import timm
import torch

from ..switches import set_last_stride
from ..weights.read import load_body

__all__ = ['check_name', 'timm_body']


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
    size:tuple|None=None,           # `(height, width)` of its pictures, pixels; it is tried whether it takes them
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
    asked = _size_asked(name, size) if size is not None and 'img_size' not in kwargs else {}
    kwargs |= asked
    try: body = timm.create_model(name, pretrained=pretrained is True, num_classes=0, **kwargs)
    except Exception as e:
        if asked: _check_size(name, asked)
        # a wrong argument fails without weights too, and then its own message is the right one
        if pretrained is not True: raise
        timm.create_model(name, pretrained=False, num_classes=0, **kwargs)
        first = str(e).splitlines()[0] if str(e) else ''
        raise ConnectionError(f'The weights of {name} could not be had ({type(e).__name__}: {first}). Go on from a '
                              "file, pretrained='weights.safetensors', or from scratch, pretrained=False.") from e
    if not hasattr(body, 'forward_intermediates'):
        raise ValueError(f'{name} of timm {timm.__version__} gives no levels: it has no forward_intermediates. '
                         'Choose another body.')
    if size is not None: _try_size(name, body, size)
    if last_stride is not None:
        set_last_stride(body, last_stride)
        body.asked = {'last_stride'}
    return body if file is None else load_body(body, file, channels)


def _size_asked(name, size):
    "What a body must be told of its pictures' size, where it is made for one"
    fixed,made_for = getattr(_cfg(name), 'fixed_input_size', False), getattr(_cfg(name), 'input_size', None)
    return {'img_size': tuple(size)} if fixed and tuple(made_for[1:]) != tuple(size) else {}


def _cfg(name): return timm.get_pretrained_cfg(name) if timm.is_model(name) else None


def _check_size(name, asked):
    "`ValueError` where a body cannot be made for a size, weights or no weights"
    try: timm.create_model(name, num_classes=0, **asked)
    except Exception as e: raise _refusal(name, asked['img_size'], e) from e


@torch.no_grad()
def _try_size(name, body, size):
    "One grey picture through the body"
    was,device = body.training,next(body.parameters()).device
    try:
        final,_ = body.eval().forward_intermediates(torch.zeros(1, 3, *size, device=device))
        if not isinstance(final, torch.Tensor): raise TypeError('Its maps come as a list.')
    except Exception as e: raise _refusal(name, size, e) from e
    finally: body.train(was)


def _refusal(name, size, e):
    (height, width),made_for = size,getattr(_cfg(name), 'input_size', None)
    known = f' It was made for {made_for[1]}x{made_for[2]}.' if made_for else ''
    said = ' '.join(str(e).split())[:200]
    return ValueError(f'{name} does not take pictures of {height}x{width} pixels ({type(e).__name__}: {said}).{known} '
                      'Give another size or another body.')
