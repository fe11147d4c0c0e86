"The body of AGW: a ResNet with non-local blocks"
from collections.abc import Sequence
from pathlib import Path

from fastai.vision.core import imagenet_stats
from timm.models.resnet import Bottleneck, ResNet
from torch import nn
from torch.utils.checkpoint import checkpoint

from ..layers import NonLocal
from ..preprocess import Preprocess
from ..switches import set_last_stride
from ..weights.read import load_body
from .timm import timm_body

__all__ = ['NonLocalResNet', 'agw_resnet50']


class NonLocalResNet(ResNet):
    """ResNet with non-local blocks after the last blocks of a stage: the body of AGW (Ye et al., TPAMI 2021).

    Its state dict has AGW's keys."""
    fresh = ('NL_',) # Identities until they are trained: a plain ResNet's weights lack them

    def __init__(self,
        layers:Sequence[int]=(3, 4, 6, 3),    # Blocks of each stage
        non_local:Sequence[int]=(0, 2, 3, 0), # Of those, how many at the end have a non-local block behind
        inter_channels:int=1,                 # Channels inside a non-local block
        stem_relu:bool|None=None,             # ReLU in the stem? None: yes, until `load_reference` brings AGW's weights
        last_stride:int|None=None,            # Stride of the last stage; None: 1
    ):
        super().__init__(Bottleneck, layers, num_classes=0)
        for stage,n in enumerate(non_local, 1):
            nf = self.feature_info[stage]['num_chs']
            if n: self.add_module(f'NL_{stage}', nn.ModuleList(NonLocal(nf, inter_channels) for _ in range(n)))
        given = {'stem_relu': stem_relu, 'last_stride': last_stride}
        self.asked = {name for name,value in given.items() if value is not None}
        self.preprocess = Preprocess(*map(tuple, imagenet_stats))
        self.set_stem_relu(stem_relu is not False)
        set_last_stride(self, last_stride or 1)

    def set_stem_relu(self, on:bool):
        "Have a ReLU after the first batch norm, or not, as AGW's and QSD's published weights"
        self.act1 = nn.ReLU(inplace=True) if on else nn.Identity()

    @property
    def stem_relu(self): return isinstance(self.act1, nn.ReLU)

    def _stage(self, i, x):
        blocks,non_local = getattr(self, f'layer{i}'), getattr(self, f'NL_{i}', ())
        for j,block in enumerate(blocks):
            x = checkpoint(block, x, use_reentrant=False) if self.grad_checkpointing and self.training else block(x)
            k = j - len(blocks) + len(non_local)
            if k >= 0: x = non_local[k](x)
        return x

    def forward_features(self, x): return self.forward_intermediates(x, indices=[])[0]

    def forward_intermediates(self,
        x,                               # `(bs, 3, height, width)`
        indices:Sequence[int]|None=None, # Which of stem and four stages; None: all
    ): # Final maps, list of maps
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
    pretrained:bool|str|Path=False, # False: from scratch; True: ImageNet weights of a ResNet-50; or a file of weights
    channels:str|None=None,         # Of the pictures that a file's weights were trained on, 'rgb' or 'bgr'
    **kwargs,                       # For `NonLocalResNet`
):
    "The ResNet-50 of AGW: non-local blocks, last stride 1"
    body = NonLocalResNet(**kwargs)
    if pretrained is not True: return load_body(body, pretrained, channels)
    body.load_state_dict(timm_body('resnet50.tv_in1k', True).state_dict(), strict=False)
    return body
