"MobileFaceNet: a face body of a million parameters, under the key names of public weights"

from torch import nn

from ..preprocess import Preprocess, face_stats
from .face import FaceBody
from .staged import named_body

__all__ = ['MobileFaceNet', 'mbf', 'mbf_large', 'mobilefacenet', 'mobilefacenet_prelu']

ACTIVATIONS = {'relu6': lambda nf: nn.ReLU6(inplace=True), 'prelu': nn.PReLU}
IMAGENET_STATS = (.485, .456, .406), (.229, .224, .225)

# expansion of the first block, which halves the maps, channels, blocks behind it (table 1 of the paper)
STAGES = (2, 64, 4), (4, 128, 6), (4, 128, 2)


def _conv(nf_in, nf, size, stride, act, groups=1):
    conv = nn.Conv2d(nf_in, nf, size, stride, size//2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(nf), ACTIVATIONS[act](nf))


class Bottleneck(nn.Module):
    "Inverted residual (Sandler et al., CVPR 2018), linear at its end"
    def __init__(self, nf_in, nh, nf, stride, act):
        super().__init__()
        self.residual = stride == 1 and nf_in == nf
        self.conv = nn.Sequential(_conv(nf_in, nh, 1, 1, act), _conv(nh, nh, 3, stride, act, nh),
                                  nn.Conv2d(nh, nf, 1, bias=False), nn.BatchNorm2d(nf))

    def forward(self, x): return x + self.conv(x) if self.residual else self.conv(x)


class Depthwise(nn.Module):
    "Depthwise convolution of the stem, in 64 groups, and a pointwise one behind it where there is one"
    def __init__(self, nf, act, pointwise):
        super().__init__()
        self.depthwise = nn.Conv2d(nf, nf, 3, 1, 1, groups=64, bias=False)
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
    "MobileFaceNet (Chen et al., CCBR 2018), and arcface_torch's wider ones"
    embed_layers = 'gdconv', 'conv3', 'bn'

    def __init__(self,
        embed_dim:int=128,               # Size of the embedding
        size:tuple[int, int]=(112, 112), # `(height, width)` of pictures
        act:str='relu6',                 # 'relu6', as public weights of 128 numbers; 'prelu', as those of 512
        pointwise:bool|None=None,        # A pointwise convolution in the stem? None: with 'relu6'
        scale:int=1,                     # Of all channels but those within blocks; arcface_torch has 2 and 4
        depth:int=1,                     # Times as many blocks, and that many more in the stem
    ):
        if act not in ACTIVATIONS: raise ValueError(f'act is {act!r}. Use relu6 or prelu.')
        if pointwise and depth > 1: raise ValueError(f'pointwise is True. Leave it None for depth {depth}.')
        stats = IMAGENET_STATS if act == 'relu6' else face_stats
        super().__init__(512, embed_dim, Preprocess(*stats, tuple(size)))
        plain,nf_in = 64, 64*scale
        self.conv1 = _conv(3, nf_in, 3, 2, act)
        if depth == 1: self.dw_conv = Depthwise(nf_in, act, act == 'relu6' if pointwise is None else pointwise)
        else: self.dw_conv = nn.Sequential(*(Bottleneck(nf_in, 128, nf_in, 1, act) for _ in range(depth)))
        blocks,self.ends = [], []
        for expansion,width,n in STAGES:
            blocks.append(Bottleneck(nf_in, plain*expansion, width*scale, 2, act))
            plain,nf_in = width, width*scale
            blocks += [Bottleneck(nf_in, 2*width, nf_in, 1, act) for _ in range(n*depth)]
            self.ends.append(len(blocks))
        self.features = nn.Sequential(*blocks)
        self.conv2 = _conv(nf_in, 512, 1, 1, act)
        self.gdconv = GlobalDepthwise(512, self.map_size)
        self.conv3 = nn.Conv2d(512, embed_dim, 1)
        self.bn = nn.BatchNorm1d(embed_dim)
        self.feature_info = [{'num_chs': 64*scale, 'reduction': 2, 'module': 'dw_conv'}]
        for i,((_, width, _), end) in enumerate(zip(STAGES, self.ends, strict=True), 2):
            self.feature_info.append({'num_chs': width*scale, 'reduction': 2**i, 'module': f'features.{end - 1}'})
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode='fan_out')
                if m.bias is not None: nn.init.zeros_(m.bias)

    def stages(self):
        parts = (self.features[a:b] for a,b in zip([0, *self.ends], self.ends))
        return [[self.conv1, self.dw_conv], *parts]

    def final(self, x): return self.conv2(x)
    def embed(self, maps): return self.bn(self.conv3(self.gdconv(maps)).flatten(1))


PRELU = {'embed_dim': 512, 'act': 'prelu'}
mobilefacenet = named_body('mobilefacenet', 'The `MobileFaceNet` of the public weights of 128 numbers', MobileFaceNet)
mobilefacenet_prelu = named_body('mobilefacenet_prelu', "The paper's: PReLU, no pointwise convolution in the stem, and "
                                 '512 numbers; of InsightFace_Pytorch and TFace', MobileFaceNet, **PRELU)
mbf = named_body('mbf', "arcface_torch's `mbf`: twice the channels", MobileFaceNet, **PRELU, scale=2)
mbf_large = named_body('mbf_large', "arcface_torch's `mbf_large`: four times the channels, twice the blocks",
                       MobileFaceNet, **PRELU, scale=4, depth=2)
