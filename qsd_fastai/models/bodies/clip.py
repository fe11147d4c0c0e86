"The image towers of CLIP as CLIP-ReID judges them: what they see, and its projection to where texts are, side by side"
from functools import partial

import torch
import torch.nn.functional as F
from fastai.vision.core import imagenet_stats
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ..preprocess import Preprocess, face_stats
from .staged import StagedBody, named_body

__all__ = ['ClipResNet', 'ClipViT', 'clip_reid_rn50', 'clip_reid_vit']


class ClipViT(VisionTransformer):
    "ViT-B/16 of CLIP (Radford et al., ICML 2021): timm's names and levels, 768 numbers and their 512 projected ones"
    def __init__(self,
        size:tuple[int, int]=(256, 128), # `(height, width)` of pictures: it has an embedding for each place
        **kwargs,                        # For timm's `VisionTransformer`
    ):
        norm = partial(nn.LayerNorm, eps=1e-5)
        super().__init__(tuple(size), patch_size=16, embed_dim=768, depth=12, num_heads=12, pre_norm=True,
                         norm_layer=norm, act_layer='quick_gelu', num_classes=0, **kwargs)
        self.proj = nn.Linear(768, 512, bias=False)
        self.head_hidden_size = 768 + 512
        self.preprocess = Preprocess(*face_stats, tuple(size))

    def forward_head(self,
        x,                    # `(bs, tokens, 768)`, of `forward_features`
        pre_logits:bool=True, # For timm's signature: there are no logits here
    ): # `(bs, 1280)`
        "The class token, and its projection behind it"
        x = super().forward_head(x, pre_logits=True)
        return torch.cat([x, self.proj(x)], 1)


class Block(nn.Module):
    "Bottleneck whose stride is an average pool, also in its shortcut"
    def __init__(self, nf_in, nh, stride):
        super().__init__()
        nf = 4*nh
        self.conv1,self.bn1 = nn.Conv2d(nf_in, nh, 1, bias=False), nn.BatchNorm2d(nh)
        self.conv2,self.bn2 = nn.Conv2d(nh, nh, 3, padding=1, bias=False), nn.BatchNorm2d(nh)
        self.conv3,self.bn3 = nn.Conv2d(nh, nf, 1, bias=False), nn.BatchNorm2d(nf)
        self.pool = nn.AvgPool2d(stride) if stride > 1 else nn.Identity()
        first = stride > 1 or nf_in != nf
        self.downsample = nn.Sequential(nn.Conv2d(nf_in, nf, 1, bias=False), nn.BatchNorm2d(nf)) if first else None

    def forward(self, x):
        h = self.bn1(self.conv1(x)).relu()
        h = self.bn2(self.conv2(h)).relu()
        h = self.bn3(self.conv3(self.pool(h)))
        return (h + (x if self.downsample is None else self.downsample(self.pool(x)))).relu()


class AttentionPool(nn.Module):
    "The mean of all places looks at them"
    def __init__(self, places, nf, heads, embed_dim):
        super().__init__()
        self.heads = heads
        self.positional_embedding = nn.Parameter(torch.randn(places + 1, nf)/nf**.5)
        self.q_proj,self.k_proj,self.v_proj = (nn.Linear(nf, nf) for _ in range(3))
        self.c_proj = nn.Linear(nf, embed_dim)

    def forward(self, maps):
        x = maps.flatten(2).transpose(1, 2)
        x = torch.cat([x.mean(1, keepdim=True), x], 1) + self.positional_embedding
        q,k,v = (layer(o).unflatten(-1, (self.heads, -1)).transpose(1, 2)
                 for layer,o in ((self.q_proj, x[:, :1]), (self.k_proj, x), (self.v_proj, x)))
        return self.c_proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(1))


class ClipResNet(StagedBody):
    "RN50 of CLIP, last stride 1: the mean of its maps, and 1024 numbers of its attention pool"
    own_embedding = False
    embed_layers = ('attnpool',)

    def __init__(self,
        size:tuple[int, int]=(256, 128), # `(height, width)` of pictures: it has an embedding for each place
    ):
        super().__init__(2048, 2048 + 1024, Preprocess(*map(tuple, imagenet_stats), tuple(size)))
        for i,(a, b) in enumerate(((3, 32), (32, 32), (32, 64)), 1):
            self.add_module(f'conv{i}', nn.Conv2d(a, b, 3, 2 if i == 1 else 1, 1, bias=False))
            self.add_module(f'bn{i}', nn.BatchNorm2d(b))
        self.avgpool,self.relu = nn.AvgPool2d(2), nn.ReLU()
        self.feature_info,nf_in = [{'num_chs': 64, 'reduction': 2, 'module': 'bn3'}], 64
        for i,(n, stride) in enumerate(((3, 1), (4, 2), (6, 2), (3, 1)), 1):
            nh = 32*2**i
            blocks = [Block(nf_in, nh, stride), *(Block(4*nh, nh, 1) for _ in range(n - 1))]
            self.add_module(f'layer{i}', nn.Sequential(*blocks))
            self.feature_info.append({'num_chs': 4*nh, 'reduction': min(2**(i + 1), 16), 'module': f'layer{i}'})
            nf_in = 4*nh
        self.attnpool = AttentionPool((size[0]//16)*(size[1]//16), 2048, 32, 1024)

    def stages(self):
        stem = [o for i in (1, 2, 3) for o in (getattr(self, f'conv{i}'), getattr(self, f'bn{i}'), self.relu)]
        return [stem, (self.avgpool, *self.layer1), self.layer2, self.layer3, self.layer4]

    def final(self, x): return x
    def embed(self, maps): return torch.cat([maps.mean((2, 3)), self.attnpool(maps)], 1)


clip_reid_vit = named_body('clip_reid_vit', "CLIP-ReID's ViT-B/16", ClipViT)
clip_reid_rn50 = named_body('clip_reid_rn50', "CLIP-ReID's ResNet-50", ClipResNet)
