"Bodies: any timm model by name, and our own where timm has none."
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

import timm
from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from .face_bodies import ir18, ir34, ir50, ir101, iresnet18, iresnet34, iresnet50, iresnet100
from .layers import NonLocal
from .mobilefacenet import mobilefacenet, mobilefacenet_prelu

__all__ = ['NonLocalResNet', 'agw_resnet50', 'make_body', 'set_last_stride']


class NonLocalResNet(ResNet):
    "ResNet with non-local blocks after the last blocks of a stage (the body of AGW, Ye et al., TPAMI 2021; its state-dict keys)"
    def __init__(self,
        layers:Sequence[int]=(3, 4, 6, 3), # blocks of each stage
        non_local:Sequence[int]=(0, 2, 3, 0), # of those, how many at the end have a non-local block behind them
        inter_channels:int=1, # channels inside a non-local block
        stem_relu:bool|None=None, # ReLU after the first batch norm? None: yes, until `load_reference` brings AGW's weights
        last_stride:int=1, # stride of the last stage
    ):
        super().__init__(Bottleneck, layers, num_classes=0)
        for stage, n in enumerate(non_local, 1):
            nf = self.feature_info[stage]['num_chs']
            if n: self.add_module(f'NL_{stage}', nn.ModuleList(NonLocal(nf, inter_channels) for _ in range(n)))
        self.stem_relu_asked = stem_relu
        self.set_stem_relu(stem_relu is not False)
        set_last_stride(self, last_stride)

    def set_stem_relu(self, on:bool):
        "Have a ReLU after the first batch norm, or not, as AGW's and QSD's published weights"
        self.act1 = nn.ReLU(inplace=True) if on else nn.Identity()

    @property
    def stem_relu(self): return isinstance(self.act1, nn.ReLU)

    def _stage(self, i, x):
        blocks, non_local = getattr(self, f'layer{i}'), getattr(self, f'NL_{i}', ())
        for j, block in enumerate(blocks):
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing and self.training else block(x)
            k = j - len(blocks) + len(non_local)
            if k >= 0: x = non_local[k](x)
        return x

    def forward_features(self, x): return self.forward_intermediates(x, indices=[])[0]

    def forward_intermediates(self,
        x, # (bs, 3, height, width)
        indices:Sequence[int]|None=None, # which of stem and four stages; None: all
    ): # final maps, list of maps
        "Final maps and those of the stages asked for, after their non-local blocks"
        wanted = [i % 5 for i in (range(5) if indices is None else indices)]
        x = self.act1(self.bn1(self.conv1(x)))
        levels = [x]
        x = self.maxpool(x)
        for i in range(1, 5):
            x = self._stage(i, x)
            levels.append(x)
        return x, [levels[i] for i in wanted]


def agw_resnet50(
    pretrained:bool|str|Path=False, # False: from scratch; True: ImageNet weights of a plain ResNet-50; or a file of them
    **kwargs, # for `NonLocalResNet`
):
    "The ResNet-50 of AGW: non-local blocks, last stride 1"
    body = NonLocalResNet(**kwargs)
    if pretrained is not False:
        plain = make_body('resnet50.tv_in1k', pretrained)
        missing, unexpected = body.load_state_dict(plain.state_dict(), strict=False)
        if unexpected or any(not k.startswith('NL_') for k in missing):
            raise ValueError(f'pretrained={pretrained!r} are not the weights of a ResNet-50: {[*unexpected, *missing][:3]} do not fit.')
    return body


own_bodies:dict[str,Callable] = {f.__name__: f for f in (agw_resnet50, iresnet18, iresnet34, iresnet50, iresnet100, ir18, ir34, ir50, ir101,
                                                         mobilefacenet, mobilefacenet_prelu)}


def make_body(
    name:str, # a timm model, or one of our own: `agw_resnet50`, `iresnet50`, `mobilefacenet`, ... of `own_bodies`
    pretrained:bool|str|Path=False, # False: from scratch; True: the published weights, through timm; or a file of them (.pth, .safetensors)
    last_stride:int|None=None, # stride of the last stage of a ResNet; 1 is the habit in person re-identification; None keeps the body's own
    **kwargs, # for the model itself, for example `img_size=(256, 128)` of a ViT
): # a module with `forward_features`, `forward_intermediates`, `num_features` and `feature_info`
    "A body without a classifier; raises `ValueError` for an unknown name and `ConnectionError` when weights cannot be fetched"
    if name in own_bodies:
        if last_stride is not None: kwargs['last_stride'] = last_stride
        return own_bodies[name](pretrained=pretrained, **kwargs)
    _check_name(name)
    if not isinstance(pretrained, bool):
        if not Path(pretrained).is_file():
            raise FileNotFoundError(f'pretrained={str(pretrained)!r}: no such file. Give weights of {name}, True, or False.')
        kwargs['pretrained_cfg_overlay'] = {'file': str(pretrained), **kwargs.get('pretrained_cfg_overlay', {})}
    try: body = timm.create_model(name, pretrained=bool(pretrained), num_classes=0, **kwargs)
    except Exception as e:
        # a wrong argument fails without weights too, and then its own message is the right one
        if pretrained is not True: raise
        timm.create_model(name, pretrained=False, num_classes=0, **kwargs)
        raise ConnectionError(
            f"The weights of {name} could not be had ({type(e).__name__}: {str(e).splitlines()[0] if str(e) else ''}). Go on from a file, "
            f"pretrained='weights.safetensors', or from scratch, pretrained=False.") from e
    if not hasattr(body, 'forward_intermediates'):
        raise ValueError(f'{name} of timm {timm.__version__} gives no levels (no forward_intermediates). Choose another body.')
    return body if last_stride is None else set_last_stride(body, last_stride)


def _check_name(name):
    if name.startswith(('hf_hub:', 'hf-hub:', 'local-dir:')) or timm.is_model(name): return
    known = [*own_bodies, *timm.list_models()]
    close = get_close_matches(name.split('.')[0], known, n=5, cutoff=.5)
    raise ValueError(f'Unknown body {name!r}. ' + (f'Did you mean {", ".join(close)}? ' if close else '') +
                     'timm.list_models() lists the names.')


def set_last_stride(
    body, # a timm ResNet, ResNeXt, SE-ResNet or their kin
    stride:int, # 1 or 2
):
    "Set the stride of the last stage in place, and return the body; weights stay valid"
    block = getattr(body, 'layer4', [None])[0]
    if stride not in (1, 2): raise ValueError(f'last_stride={stride}: it is 1 or 2.')
    if block is None or not isinstance(getattr(block, 'aa', nn.Identity()), nn.Identity):
        raise ValueError(f'last_stride={stride} is for ResNets without anti-aliasing; leave it None for {type(body).__name__}.')
    if stride == 2: return body
    for module in block.modules():
        if isinstance(module, nn.Conv2d): module.stride = (1, 1)
    if block.downsample is not None and isinstance(block.downsample[0], nn.AvgPool2d): block.downsample[0] = nn.Identity()
    body.feature_info[-1]['reduction'] //= 2
    return body
