"Improved residual networks for faces, under the key names of arcface_torch"
from collections.abc import Sequence
from functools import partial

from torch import nn

from ...choices import one_of
from ..preprocess import Preprocess, face_stats
from .face import FaceBody, StillScale
from .staged import named_body

__all__ = ['IResNet', 'evolve_ir50', 'evolve_ir101', 'evolve_ir152', 'evolve_ir_se50', 'evolve_ir_se101',
           'evolve_ir_se152', 'ir18', 'ir34', 'ir50', 'ir101', 'iresnet18', 'iresnet34', 'iresnet50', 'iresnet100',
           'iresnet200', 'tface_ir_se50', 'tface_ir_se101', 'tface_r50']

# what projects do otherwise: batch norm between the convolutions of a unit? a convolution in the first shortcut?
# and the last layer: with what it learns
FORMS = {'arcface': (True, True, StillScale),
         'adaface': (True, False, partial(nn.BatchNorm1d, affine=False)),
         'evolve': (False, False, nn.BatchNorm1d),
         'tface': (False, False, None)}
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3), 152: (3, 8, 36, 3),
          200: (6, 26, 60, 6)}


class Squeeze(nn.Module):
    "Weights its maps by what they show as a whole (Hu et al., CVPR 2018)"
    def __init__(self, nf):
        super().__init__()
        self.fc1,self.fc2 = nn.Conv2d(nf, nf//16, 1, bias=False), nn.Conv2d(nf//16, nf, 1, bias=False)

    def forward(self, x): return x*self.fc2(self.fc1(x.mean((2, 3), keepdim=True)).relu()).sigmoid()


class Block(nn.Module):
    "Unit of ArcFace's network: batch norm first and last, PReLU once, the stride in the second convolution"
    def __init__(self, nf_in, nf, stride, shortcut, middle=True, squeeze=False):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(nf_in)
        self.conv1 = nn.Conv2d(nf_in, nf, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(nf) if middle else nn.Identity()
        self.prelu = nn.PReLU(nf)
        self.conv2 = nn.Conv2d(nf, nf, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(nf)
        self.se = Squeeze(nf) if squeeze else nn.Identity()
        self.downsample = shortcut

    def forward(self, x):
        short = x if self.downsample is None else self.downsample(x)
        return self.se(self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))) + short


class IResNet(FaceBody):
    """Residual network of ArcFace (Deng et al., CVPR 2019), and what other projects made of it.

    Its state dict has the keys of arcface_torch and MagFace; `load_reference` knows those of the others. They have no
    convolution in the shortcut of the first stage. In the last batch norm AdaFace and TFace learn nothing; face.evoLVe,
    InsightFace_Pytorch and CurricularFace have none between the two convolutions of a unit. The network for TFace's
    quality labels ends without one: a PReLU for each place, and a layer."""
    embed_layers = 'act', 'dropout', 'fc', 'features'

    def __init__(self,
        layers:Sequence[int],            # Blocks of each of four stages
        embed_dim:int=512,               # Size of the embedding
        size:tuple[int, int]=(112, 112), # `(height, width)` of pictures
        dropout:float=0.,                # Before the embedding, 0 to 1
        form:str='arcface',              # 'arcface', 'adaface', 'evolve' or 'tface'
        squeeze:bool=False,              # Squeeze and excitation at the end of each unit?
    ):
        middle,first,last = FORMS[one_of('form', form, *FORMS)]
        super().__init__(512, embed_dim, Preprocess(*face_stats, tuple(size)))
        self.layers,self.form = tuple(layers), form
        self.conv1 = nn.Conv2d(3, 64, 3, 1, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.prelu = nn.PReLU(64)
        self.feature_info,nf_in = [{'num_chs': 64, 'reduction': 1, 'module': 'prelu'}], 64
        for i,(nf, n) in enumerate(zip((64, 128, 256, 512), layers, strict=True), 1):
            if nf == nf_in and not first: short = nn.MaxPool2d(1, 2)
            else: short = nn.Sequential(nn.Conv2d(nf_in, nf, 1, 2, bias=False), nn.BatchNorm2d(nf))
            blocks = [Block(nf_in, nf, 2, short, middle, squeeze),
                      *(Block(nf, nf, 1, None, middle, squeeze) for _ in range(n - 1))]
            self.add_module(f'layer{i}', nn.Sequential(*blocks))
            self.feature_info.append({'num_chs': nf, 'reduction': 2**i, 'module': f'layer{i}'})
            nf_in = nf
        places = 512*self.map_size[0]*self.map_size[1]
        self.bn2 = nn.Identity() if last is None else nn.BatchNorm2d(512)
        self.act = nn.PReLU(places) if last is None else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.fc = nn.Linear(places, embed_dim)
        self.features = nn.Identity() if last is None else last(embed_dim)
        for m in self.modules():
            if isinstance(m, nn.Conv2d): nn.init.normal_(m.weight, std=.1)

    def stages(self): return [[self.conv1, self.bn1, self.prelu], *(getattr(self, f'layer{i}') for i in range(1, 5))]
    def final(self, x): return self.bn2(x)
    def embed(self, maps): return self.features(self.fc(self.dropout(self.act(maps.flatten(1)))))


def _iresnet(name, depth, form, said, squeeze=False):
    return named_body(name, said, IResNet, layers=DEPTHS[depth], form=form, squeeze=squeeze)


iresnet18 = _iresnet('iresnet18', 18, 'arcface', 'The 18-layer `IResNet`')
iresnet34 = _iresnet('iresnet34', 34, 'arcface', 'The 34-layer `IResNet`')
iresnet50 = _iresnet('iresnet50', 50, 'arcface', 'The 50-layer `IResNet`')
iresnet100 = _iresnet('iresnet100', 100, 'arcface', 'The 100-layer `IResNet`')
iresnet200 = _iresnet('iresnet200', 200, 'arcface', 'The 200-layer `IResNet`')
ir18 = _iresnet('ir18', 18, 'adaface', 'The 18-layer body of AdaFace and TFace')
ir34 = _iresnet('ir34', 34, 'adaface', 'The 34-layer body of AdaFace and TFace')
ir50 = _iresnet('ir50', 50, 'adaface', 'The 50-layer body of AdaFace and TFace')
ir101 = _iresnet('ir101', 100, 'adaface', 'The 101-layer body of AdaFace and TFace')
tface_ir_se50 = _iresnet('tface_ir_se50', 50, 'adaface', "TFace's `ir50` with squeeze and excitation", True)
tface_ir_se101 = _iresnet('tface_ir_se101', 100, 'adaface', "TFace's `ir101` with squeeze and excitation", True)
evolve_ir50 = _iresnet('evolve_ir50', 50, 'evolve', 'Of face.evoLVe, InsightFace_Pytorch, CurricularFace')
evolve_ir101 = _iresnet('evolve_ir101', 100, 'evolve', 'Of face.evoLVe, InsightFace_Pytorch, CurricularFace')
evolve_ir152 = _iresnet('evolve_ir152', 152, 'evolve', 'Of face.evoLVe, InsightFace_Pytorch, CurricularFace')
evolve_ir_se50 = _iresnet('evolve_ir_se50', 50, 'evolve', '`evolve_ir50` with squeeze and excitation', True)
evolve_ir_se101 = _iresnet('evolve_ir_se101', 100, 'evolve', '`evolve_ir101` with squeeze and excitation', True)
evolve_ir_se152 = _iresnet('evolve_ir_se152', 152, 'evolve', '`evolve_ir152` with squeeze and excitation', True)
tface_r50 = _iresnet('tface_r50', 50, 'tface', "The 50-layer body that TFace's quality labels may be made with")
