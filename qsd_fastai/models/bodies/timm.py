"Bodies of timm by name, with weights through timm or from a file, and the stride of their last stage"
from difflib import get_close_matches
from pathlib import Path

import timm
from torch import nn

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
    last_stride:int|None=None,      # Of a ResNet; None: the body's own
    **kwargs,                       # For the model itself
): # A module with `forward_features`, `forward_intermediates`, `num_features` and `feature_info`
    "A timm model without its classifier; raises `ConnectionError` when weights cannot be fetched"
    if not isinstance(pretrained, bool):
        if not Path(pretrained).is_file():
            raise FileNotFoundError(f'pretrained is {str(pretrained)!r}: no such file. '
                                    f'Give weights of {name}, True, or False.')
        kwargs['pretrained_cfg_overlay'] = {'file': str(pretrained), **kwargs.get('pretrained_cfg_overlay', {})}
    try: body = timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **kwargs)
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
    return body if last_stride is None else set_last_stride(body, last_stride)


def set_last_stride(
    body,       # A timm ResNet, ResNeXt, SE-ResNet or their kin
    stride:int, # 1 or 2
):
    "Set the stride of the last stage in place, and return the body; weights stay valid"
    block = getattr(body, 'layer4', [None])[0]
    if stride not in (1, 2): raise ValueError(f'last_stride is {stride}. Give 1 or 2.')
    if block is None or not isinstance(getattr(block, 'aa', nn.Identity()), nn.Identity):
        raise ValueError(f'last_stride is {stride}. Leave it None for {type(body).__name__}: '
                         'only ResNets without anti-aliasing have such a stage.')
    if stride == 2: return body
    for module in block.modules():
        if isinstance(module, nn.Conv2d): module.stride = (1, 1)
    down = block.downsample
    if down is not None and isinstance(down[0], nn.AvgPool2d): down[0] = nn.Identity()
    body.feature_info[-1]['reduction'] //= 2
    return body
