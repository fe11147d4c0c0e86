"Improved residual networks for faces, under the key names of arcface_torch and AdaFace"
from collections.abc import Sequence
from pathlib import Path

from torch import nn

from ...choices import one_of
from ..preprocess import Preprocess, face_stats
from ..weights.read import load_body
from .face import FaceBody, StillScale

__all__ = ['IResNet', 'ir18', 'ir34', 'ir50', 'ir101', 'iresnet18', 'iresnet34', 'iresnet50', 'iresnet100']


class Block(nn.Module):
    "Unit of ArcFace's network: batch norm first and last, PReLU once, the stride in the second convolution"
    def __init__(self, nf_in, nf, stride, shortcut):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(nf_in)
        self.conv1 = nn.Conv2d(nf_in, nf, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(nf)
        self.prelu = nn.PReLU(nf)
        self.conv2 = nn.Conv2d(nf, nf, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(nf)
        self.downsample = shortcut

    def forward(self, x):
        short = x if self.downsample is None else self.downsample(x)
        return self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x)))))) + short


class IResNet(FaceBody):
    """Residual network of ArcFace (Deng et al., CVPR 2019).

    Its state dict has the keys of arcface_torch and MagFace; `load_reference` knows those of AdaFace. AdaFace's form
    has no convolution in the shortcut of the first stage, and no parameters in the last batch norm."""
    embed_layers = 'dropout', 'fc', 'features'

    def __init__(self,
        layers:Sequence[int],            # Blocks of each of four stages
        embed_dim:int=512,               # Size of the embedding
        size:tuple[int, int]=(112, 112), # `(height, width)` of pictures
        dropout:float=0.,                # Before the embedding, 0 to 1
        form:str='arcface',              # 'arcface' or 'adaface'
    ):
        one_of('form', form, 'arcface', 'adaface')
        super().__init__(512, embed_dim, Preprocess(*face_stats, tuple(size)))
        self.layers,self.form = tuple(layers), form
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.feature_info,nf_in = [{'num_chs': 64, 'reduction': 1, 'module': 'prelu'}], 64
        for i,(nf, n) in enumerate(zip((64, 128, 256, 512), layers, strict=True), 1):
            if form == 'adaface' and nf == nf_in: short = nn.MaxPool2d(1, 2)
            else: short = nn.Sequential(nn.Conv2d(nf_in, nf, 1, 2, bias=False), nn.BatchNorm2d(nf))
            blocks = [Block(nf_in, nf, 2, short), *(Block(nf, nf, 1, None) for _ in range(n - 1))]
            self.add_module(f'layer{i}', nn.Sequential(*blocks))
            self.feature_info.append({'num_chs': nf, 'reduction': 2**i, 'module': f'layer{i}'})
            nf_in = nf
        self.bn2,self.dropout = nn.BatchNorm2d(512), nn.Dropout(dropout)
        self.fc = nn.Linear(512*self.map_size[0]*self.map_size[1], embed_dim)
        self.features = StillScale(embed_dim) if form == 'arcface' else nn.BatchNorm1d(embed_dim, affine=False)
        for m in self.modules():
            if isinstance(m, nn.Conv2d): nn.init.normal_(m.weight, std=.1)

    def stages(self): return [[self.conv1, self.bn1, self.prelu], *(getattr(self, f'layer{i}') for i in range(1, 5))]
    def final(self, x): return self.bn2(x)
    def embed(self, maps): return self.features(self.fc(self.dropout(maps).flatten(1)))

    def _stage(self, stage, x):
        return self.prelu(self.bn1(self.conv1(x))) if isinstance(stage, list) else super()._stage(stage, x)


def _iresnet(layers, pretrained, form='arcface', **kwargs):
    return load_body(IResNet(layers, form=form, **kwargs), pretrained)


def iresnet18(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "The 18-layer `IResNet`"
    return _iresnet((2, 2, 2, 2), pretrained, **kwargs)


def iresnet34(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "The 34-layer `IResNet`"
    return _iresnet((3, 4, 6, 3), pretrained, **kwargs)


def iresnet50(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "The 50-layer `IResNet`"
    return _iresnet((3, 4, 14, 3), pretrained, **kwargs)


def iresnet100(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "The 100-layer `IResNet`"
    return _iresnet((3, 13, 30, 3), pretrained, **kwargs)


def ir18(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "AdaFace's 18-layer body"
    return _iresnet((2, 2, 2, 2), pretrained, 'adaface', **kwargs)


def ir34(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "AdaFace's 34-layer body"
    return _iresnet((3, 4, 6, 3), pretrained, 'adaface', **kwargs)


def ir50(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "AdaFace's 50-layer body"
    return _iresnet((3, 4, 14, 3), pretrained, 'adaface', **kwargs)


def ir101(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `IResNet`
):
    "AdaFace's 101-layer body"
    return _iresnet((3, 13, 30, 3), pretrained, 'adaface', **kwargs)
