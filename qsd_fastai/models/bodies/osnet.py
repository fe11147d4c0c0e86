"OSNet: a body of two million parameters for people, which sees several scales at once"
from fastai.vision.core import imagenet_stats
from torch import nn

from ...choices import one_of
from ..preprocess import Preprocess
from .staged import StagedBody, named_body

__all__ = ['OSNet', 'osnet_ain_x0_5', 'osnet_ain_x0_25', 'osnet_ain_x0_75', 'osnet_ain_x1_0', 'osnet_ibn_x1_0',
           'osnet_x0_5', 'osnet_x0_25', 'osnet_x0_75', 'osnet_x1_0']

# where the two blocks of each of three stages normalise each picture by itself: never; behind the first stage's sums
# (IBN-Net, Pan et al., ECCV 2018); inside the residual, at the places that a search found (TPAMI 2021)
FORMS = {'plain': (('', ''), ('', ''), ('', '')),
         'ibn': (('behind', 'behind'), ('', ''), ('', '')),
         'ain': (('inside', 'inside'), ('', 'inside'), ('inside', ''))}


class ConvNorm(nn.Module):
    "Convolution, a norm and a ReLU, each of the last two only where asked for"
    def __init__(self, nf_in, nf, size=1, stride=1, norm=nn.BatchNorm2d, act=True):
        super().__init__()
        self.conv = nn.Conv2d(nf_in, nf, size, stride, size//2, bias=False)
        self.bn = norm(nf) if norm else nn.Identity()
        self.relu = nn.ReLU(inplace=True) if act else nn.Identity()

    def forward(self, x): return self.relu(self.bn(self.conv(x)))


class LightConv(nn.Module):
    "A 3x3 convolution split in two: pointwise, which is linear, then depthwise"
    def __init__(self, nf):
        super().__init__()
        self.conv1 = nn.Conv2d(nf, nf, 1, bias=False)
        self.conv2 = nn.Conv2d(nf, nf, 3, padding=1, groups=nf, bias=False)
        self.bn,self.relu = nn.BatchNorm2d(nf), nn.ReLU(inplace=True)

    def forward(self, x): return self.relu(self.bn(self.conv2(self.conv1(x))))


class Gate(nn.Module):
    "Weights its maps by what they show as a whole; the streams of a block share one"
    def __init__(self, nf):
        super().__init__()
        self.fc1,self.fc2 = nn.Conv2d(nf, nf//16, 1), nn.Conv2d(nf//16, nf, 1)

    def forward(self, x): return x*self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Block(nn.Module):
    "Residual of four gated streams, which see 3, 5, 7 and 9 pixels"
    def __init__(self, nf_in, nf, instance):
        super().__init__()
        nh,self.instance = nf//4, instance
        self.conv1 = ConvNorm(nf_in, nh)
        self.conv2 = nn.ModuleList(nn.Sequential(*(LightConv(nh) for _ in range(n))) for n in range(1, 5))
        self.gate = Gate(nh)
        self.conv3 = ConvNorm(nh, nf, norm=None if instance == 'inside' else nn.BatchNorm2d, act=False)
        self.downsample = ConvNorm(nf_in, nf, act=False) if nf_in != nf else nn.Identity()
        self.IN = nn.InstanceNorm2d(nf, affine=True) if instance else nn.Identity()

    def forward(self, x):
        h = self.conv1(x)
        h = self.conv3(sum(self.gate(stream(h)) for stream in self.conv2))
        x = self.downsample(x)
        return (self.IN(h) + x if self.instance == 'inside' else self.IN(h + x)).relu()


class OSNet(StagedBody):
    """Omni-Scale Network (Zhou et al., ICCV 2019 and TPAMI 2021).

    `load_reference` knows Torchreid's names."""
    embed_layers = ('fc',)

    def __init__(self,
        width:float=1.,    # Of all channels: 1, .75, .5 or .25 have public weights
        embed_dim:int=512, # Size of the embedding
        form:str='plain',  # 'plain', 'ibn' or 'ain': where it has instance norms
    ):
        one_of('form', form, *FORMS)
        first,*channels = (int(nf*width) for nf in (64, 256, 384, 512))
        if first < 16: raise ValueError(f'width is {width}. Give .25 or more: its gates divide channels by 64.')
        super().__init__(channels[-1], embed_dim, Preprocess(*map(tuple, imagenet_stats)))
        self.form = form
        self.conv1 = ConvNorm(3, first, 7, 2, nn.BatchNorm2d if form == 'plain' else _instance_norm)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.feature_info,nf_in = [{'num_chs': first, 'reduction': 2, 'module': 'conv1'}], first
        for i,(nf, (a, b)) in enumerate(zip(channels, FORMS[form], strict=True), 2):
            self.add_module(f'conv{i}', nn.Sequential(Block(nf_in, nf, a), Block(nf, nf, b)))
            if i < 4: self.add_module(f'pool{i}', nn.Sequential(ConvNorm(nf, nf), nn.AvgPool2d(2)))
            self.feature_info.append({'num_chs': nf, 'reduction': 2**i, 'module': f'conv{i}'})
            nf_in = nf
        self.conv5 = ConvNorm(nf_in, nf_in)
        self.fc = nn.Sequential(nn.Linear(nf_in, embed_dim), nn.BatchNorm1d(embed_dim), nn.ReLU(inplace=True))
        for m in self.modules():
            if isinstance(m, nn.Conv2d): nn.init.kaiming_normal_(m.weight, mode='fan_out', nonlinearity='relu')
            if isinstance(m, nn.Linear): nn.init.normal_(m.weight, std=.01)
            if getattr(m, 'bias', None) is not None: nn.init.zeros_(m.bias)

    def stages(self):
        return [[self.conv1], (self.maxpool, *self.conv2), (self.pool2, *self.conv3), (self.pool3, *self.conv4)]

    def final(self, x): return self.conv5(x)
    def embed(self, maps): return self.fc(maps.mean((2, 3)))


def _instance_norm(nf): return nn.InstanceNorm2d(nf, affine=True)


osnet_x1_0 = named_body('osnet_x1_0', '`OSNet` of width 1', OSNet)
osnet_x0_75 = named_body('osnet_x0_75', '`OSNet` of width .75', OSNet, width=.75)
osnet_x0_5 = named_body('osnet_x0_5', '`OSNet` of width .5', OSNet, width=.5)
osnet_x0_25 = named_body('osnet_x0_25', '`OSNet` of width .25', OSNet, width=.25)
osnet_ibn_x1_0 = named_body('osnet_ibn_x1_0', "`OSNet` of width 1 with IBN-Net's instance norms", OSNet, form='ibn')
osnet_ain_x1_0 = named_body('osnet_ain_x1_0', '`OSNet-AIN` of width 1', OSNet, form='ain')
osnet_ain_x0_75 = named_body('osnet_ain_x0_75', '`OSNet-AIN` of width .75', OSNet, width=.75, form='ain')
osnet_ain_x0_5 = named_body('osnet_ain_x0_5', '`OSNet-AIN` of width .5', OSNet, width=.5, form='ain')
osnet_ain_x0_25 = named_body('osnet_ain_x0_25', '`OSNet-AIN` of width .25', OSNet, width=.25, form='ain')
