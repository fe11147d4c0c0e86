"Bodies of face recognition that end in an embedding of their own: improved residual networks under the key names of public weights."
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from .checkpoints import load_body
from .layers import full_precision
from .preprocess import Preprocess, face_stats

__all__ = ['FaceBody', 'IResNet', 'StillScale', 'ir18', 'ir34', 'ir50', 'ir101', 'iresnet18', 'iresnet34', 'iresnet50', 'iresnet100']


class StillScale(nn.BatchNorm1d):
    "Batch norm whose scale is not trained: the last layer of a face body, where the length of an embedding is the margin's business"
    still = ('weight',)

    def __init__(self,
        nf:int, # size of the embedding
        **kwargs, # `eps` and `momentum` of `nn.BatchNorm1d`
    ):
        super().__init__(nf, **kwargs)
        self.weight.requires_grad_(False)

    def forward(self,
        x, # (bs, nf)
    ): # (bs, nf)
        if self.training: self.num_batches_tracked.add_(1)
        # detached, because fastai's `unfreeze` turns `requires_grad` on for every parameter it is given
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight.detach(), self.bias, self.training, self.momentum, self.eps)


class FaceBody(nn.Module):
    "What face bodies share: `stages`, maps that `forward_head` turns into an embedding, and levels for distillation"
    own_embedding, grad_checkpointing = True, False

    def __init__(self,
        num_features:int, # channels of the final maps
        embed_dim:int, # size of the embedding
        preprocess:Preprocess, # what pictures it wants; its `size` is the one the embedding layer is built for
    ):
        super().__init__()
        if min(preprocess.size) < 16: raise ValueError(f'size={preprocess.size}: a face body halves pictures four times, so 16 pixels is the least.')
        self.num_features, self.head_hidden_size, self.preprocess = num_features, embed_dim, preprocess

    @property
    def map_size(self):
        "(height, width) of the final maps"
        return tuple(-(-n // 16) for n in self.preprocess.size)

    def stages(self): raise NotImplementedError('A face body gives a list of modules: stem and stages, one for each entry of `feature_info`.')
    def final(self, x): raise NotImplementedError('A face body turns the maps of its last stage into final ones.')
    def embed(self, maps): raise NotImplementedError('A face body turns final maps into an embedding.')

    def set_grad_checkpointing(self, enable:bool=True):
        "Keep no activations within blocks, and compute them again in the backward pass?"
        self.grad_checkpointing = enable

    def _stage(self, stage, x):
        if not (self.grad_checkpointing and self.training): return stage(x)
        for block in stage: x = checkpoint(block, x, use_reentrant=False)
        return x

    def forward_features(self, x): return self.forward_intermediates(x, indices=[])[0]

    def forward_intermediates(self,
        x, # (bs, 3, height, width)
        indices:Sequence[int]|None=None, # which of stem and stages; None: all
    ): # final maps, list of maps
        "Final maps and those of the stages asked for"
        n, levels = len(self.feature_info), []
        wanted = [i % n for i in (range(n) if indices is None else indices)]
        for stage in self.stages():
            x = self._stage(stage, x)
            levels.append(x)
        return self.final(x), [levels[i] for i in wanted]

    def forward_head(self,
        maps, # (bs, num_features, h, w), of `forward_features`
        pre_logits:bool=True, # for timm's signature: there are no logits here
    ): # (bs, embed_dim), at least float32
        "The embedding; raises `ValueError` for pictures of another size than the body was built for"
        if tuple(maps.shape[-2:]) != self.map_size:
            raise ValueError(f'This {type(self).__name__} is built for pictures of {self.preprocess.size}, but their maps are '
                             f"{tuple(maps.shape[-2:])}, not {self.map_size}. "
                             f"Load pictures of that size, or build it for yours: body_kwargs={{'size': (height, width)}}.")
        with torch.autocast(maps.device.type, enabled=False):
            return self.embed(full_precision(maps))

    def forward(self, x): return self.forward_head(self.forward_features(x))

    def drop_head(self):
        "Forget the embedding layers, when a pool of one's own takes their place: parameters without a gradient stop distributed training"
        self.own_embedding = False
        for name in self.embed_layers: delattr(self, name)


class Block(nn.Module):
    "Batch norm first and last, PReLU once, the stride in the second convolution (the unit of ArcFace, Deng et al., CVPR 2019)"
    def __init__(self, nf_in, nf, stride, shortcut):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(nf_in), nn.Conv2d(nf_in, nf, 3, 1, 1, bias=False)
        self.bn2, self.prelu = nn.BatchNorm2d(nf), nn.PReLU(nf)
        self.conv2, self.bn3 = nn.Conv2d(nf, nf, 3, stride, 1, bias=False), nn.BatchNorm2d(nf)
        self.downsample = shortcut

    def forward(self, x):
        short = x if self.downsample is None else self.downsample(x)
        return self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x)))))) + short


class IResNet(FaceBody):
    "Residual network of ArcFace (Deng et al., CVPR 2019), the state-dict keys of arcface_torch and MagFace; or of AdaFace, through `load_reference`"
    embed_layers = 'dropout', 'fc', 'features'

    def __init__(self,
        layers:Sequence[int], # blocks of each of four stages
        embed_dim:int=512, # size of the embedding
        size:tuple[int, int]=(112, 112), # (height, width) of pictures
        dropout:float=0., # before the embedding, 0..1
        form:str='arcface', # 'arcface'; 'adaface': no convolution in the shortcut of the first stage, and a last batch norm without parameters
    ):
        if form not in ('arcface', 'adaface'): raise ValueError(f"form={form!r} of IResNet: it is 'arcface' or 'adaface'.")
        super().__init__(512, embed_dim, Preprocess(*face_stats, tuple(size)))
        self.layers, self.form = tuple(layers), form
        self.conv1, self.bn1, self.prelu = nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.PReLU(64)
        self.feature_info, nf_in = [{'num_chs': 64, 'reduction': 1, 'module': 'prelu'}], 64
        for i, (nf, n) in enumerate(zip((64, 128, 256, 512), layers, strict=True), 1):
            plain = form == 'adaface' and nf == nf_in
            short = nn.MaxPool2d(1, 2) if plain else nn.Sequential(nn.Conv2d(nf_in, nf, 1, 2, bias=False), nn.BatchNorm2d(nf))
            self.add_module(f'layer{i}', nn.Sequential(Block(nf_in, nf, 2, short), *(Block(nf, nf, 1, None) for _ in range(n - 1))))
            self.feature_info.append({'num_chs': nf, 'reduction': 2**i, 'module': f'layer{i}'})
            nf_in = nf
        self.bn2, self.dropout = nn.BatchNorm2d(512), nn.Dropout(dropout)
        self.fc = nn.Linear(512 * self.map_size[0] * self.map_size[1], embed_dim)
        self.features = StillScale(embed_dim) if form == 'arcface' else nn.BatchNorm1d(embed_dim, affine=False)
        for m in self.modules():
            if isinstance(m, nn.Conv2d): nn.init.normal_(m.weight, std=.1)

    def stages(self): return [[self.conv1, self.bn1, self.prelu], *(getattr(self, f'layer{i}') for i in range(1, 5))]
    def final(self, x): return self.bn2(x)
    def embed(self, maps): return self.features(self.fc(self.dropout(maps).flatten(1)))

    def _stage(self, stage, x):
        return self.prelu(self.bn1(self.conv1(x))) if isinstance(stage, list) else super()._stage(stage, x)


def _iresnet(layers, pretrained, form='arcface', **kwargs): return load_body(IResNet(layers, form=form, **kwargs), pretrained)


def iresnet18(pretrained:bool|str|Path=False, **kwargs):
    "The 18-layer `IResNet`; `pretrained` is False or a file of weights"
    return _iresnet((2, 2, 2, 2), pretrained, **kwargs)


def iresnet34(pretrained:bool|str|Path=False, **kwargs):
    "The 34-layer `IResNet`; `pretrained` is False or a file of weights"
    return _iresnet((3, 4, 6, 3), pretrained, **kwargs)


def iresnet50(pretrained:bool|str|Path=False, **kwargs):
    "The 50-layer `IResNet`; `pretrained` is False or a file of weights"
    return _iresnet((3, 4, 14, 3), pretrained, **kwargs)


def iresnet100(pretrained:bool|str|Path=False, **kwargs):
    "The 100-layer `IResNet`; `pretrained` is False or a file of weights"
    return _iresnet((3, 13, 30, 3), pretrained, **kwargs)


def ir18(pretrained:bool|str|Path=False, **kwargs):
    "AdaFace's 18-layer body; `pretrained` is False or a file of weights"
    return _iresnet((2, 2, 2, 2), pretrained, 'adaface', **kwargs)


def ir34(pretrained:bool|str|Path=False, **kwargs):
    "AdaFace's 34-layer body; `pretrained` is False or a file of weights"
    return _iresnet((3, 4, 6, 3), pretrained, 'adaface', **kwargs)


def ir50(pretrained:bool|str|Path=False, **kwargs):
    "AdaFace's 50-layer body; `pretrained` is False or a file of weights"
    return _iresnet((3, 4, 14, 3), pretrained, 'adaface', **kwargs)


def ir101(pretrained:bool|str|Path=False, **kwargs):
    "AdaFace's 101-layer body; `pretrained` is False or a file of weights"
    return _iresnet((3, 13, 30, 3), pretrained, 'adaface', **kwargs)
