"MobileFaceNet: a face body of a million parameters, under the key names of public weights"
from pathlib import Path

from torch import nn

from ..preprocess import Preprocess, face_stats
from ..weights.read import load_body
from .face import FaceBody

__all__ = ['MobileFaceNet', 'mobilefacenet', 'mobilefacenet_prelu']

ACTIVATIONS = {'relu6': lambda nf: nn.ReLU6(inplace=True), 'prelu': nn.PReLU}
IMAGENET_STATS = (.485, .456, .406), (.229, .224, .225)

# expansion, channels, blocks, stride of the first (table 1 of the paper)
STAGES = (2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1)


def _conv(nf_in, nf, size, stride, act, groups=1):
    conv = nn.Conv2d(nf_in, nf, size, stride, size//2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(nf), ACTIVATIONS[act](nf))


class Bottleneck(nn.Module):
    "Inverted residual (Sandler et al., CVPR 2018), linear at its end"
    def __init__(self, nf_in, nf, stride, expansion, act):
        super().__init__()
        nh,self.residual = nf_in*expansion, stride == 1 and nf_in == nf
        self.conv = nn.Sequential(_conv(nf_in, nh, 1, 1, act), _conv(nh, nh, 3, stride, act, nh),
                                  nn.Conv2d(nh, nf, 1, bias=False), nn.BatchNorm2d(nf))

    def forward(self, x): return x + self.conv(x) if self.residual else self.conv(x)


class Depthwise(nn.Module):
    "Depthwise convolution of the stem, and a pointwise one behind it where there is one"
    def __init__(self, nf, act, pointwise):
        super().__init__()
        self.depthwise = nn.Conv2d(nf, nf, 3, 1, 1, groups=nf, bias=False)
        self.bn1 = nn.BatchNorm2d(nf)
        self.act = nn.PReLU(nf) if act == 'prelu' else nn.ReLU(inplace=True)
        self.pointwise = nn.Conv2d(nf, nf, 1, bias=False) if pointwise else None
        if pointwise: self.bn2 = nn.BatchNorm2d(nf)

    def forward(self, x):
        x = self.act(self.bn1(self.depthwise(x)))
        return x if self.pointwise is None else self.act(self.bn2(self.pointwise(x)))


class GlobalDepthwise(nn.Module):
    "A weight for each place of each map, in place of pooling: the corners of a face are not worth its middle"
    def __init__(self, nf, size):
        super().__init__()
        self.depthwise = nn.Conv2d(nf, nf, size, groups=nf, bias=False)
        self.bn = nn.BatchNorm2d(nf)

    def forward(self, x): return self.bn(self.depthwise(x))


class MobileFaceNet(FaceBody):
    "MobileFaceNet (Chen et al., CCBR 2018)"
    embed_layers = 'gdconv', 'conv3', 'bn'

    def __init__(self,
        embed_dim:int=128,               # Size of the embedding
        size:tuple[int, int]=(112, 112), # `(height, width)` of pictures
        act:str='relu6',                 # 'relu6', as public weights of 128 numbers; 'prelu', as those of 512
        pointwise:bool|None=None,        # A pointwise convolution in the stem? None: with 'relu6'
    ):
        if act not in ACTIVATIONS: raise ValueError(f'act is {act!r}. Use relu6 or prelu.')
        stats = IMAGENET_STATS if act == 'relu6' else face_stats
        super().__init__(512, embed_dim, Preprocess(*stats, tuple(size)))
        self.conv1 = _conv(3, 64, 3, 2, act)
        self.dw_conv = Depthwise(64, act, act == 'relu6' if pointwise is None else pointwise)
        # stages end where the next one halves the maps
        blocks,nf_in,self.ends = [], 64, []
        for expansion,nf,n,stride in STAGES:
            if stride == 2: self.ends.append(len(blocks))
            for i in range(n):
                blocks.append(Bottleneck(nf_in, nf, stride if i == 0 else 1, expansion, act))
                nf_in = nf
        self.ends,self.features = [*self.ends[1:], len(blocks)], nn.Sequential(*blocks)
        self.conv2 = _conv(nf_in, 512, 1, 1, act)
        self.gdconv = GlobalDepthwise(512, self.map_size)
        self.conv3 = nn.Conv2d(512, embed_dim, 1)
        self.bn = nn.BatchNorm1d(embed_dim)
        self.feature_info = [{'num_chs': 64, 'reduction': 2, 'module': 'dw_conv'}]
        for i,(nf, end) in enumerate(zip((64, 128, 128), self.ends)):
            self.feature_info.append({'num_chs': nf, 'reduction': 2**(i + 2), 'module': f'features.{end - 1}'})
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode='fan_out')
                if m.bias is not None: nn.init.zeros_(m.bias)

    def stages(self):
        parts = (self.features[a:b] for a,b in zip([0, *self.ends], self.ends))
        return [[self.conv1, self.dw_conv], *parts]

    def final(self, x): return self.conv2(x)
    def embed(self, maps): return self.bn(self.conv3(self.gdconv(maps)).flatten(1))

    def _stage(self, stage, x):
        return self.dw_conv(self.conv1(x)) if isinstance(stage, list) else super()._stage(stage, x)


def mobilefacenet(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights
    **kwargs,                       # For `MobileFaceNet`
):
    "`MobileFaceNet` with 128 numbers an embedding"
    return load_body(MobileFaceNet(**kwargs), pretrained)


def mobilefacenet_prelu(
    pretrained:bool|str|Path=False, # False: from scratch; or a file of weights, InsightFace_Pytorch's for example
    **kwargs,                       # For `MobileFaceNet`
):
    "The paper's `MobileFaceNet`: PReLU, no pointwise convolution in the stem, and 512 numbers an embedding"
    return load_body(MobileFaceNet(**{'embed_dim': 512, 'act': 'prelu', **kwargs}), pretrained)
