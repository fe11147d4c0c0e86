"What our bodies share that end in an embedding of their own, and how one of them gets a name"
from collections.abc import Callable, Sequence

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from ...tensors import full_precision
from ..preprocess import Preprocess
from ..weights.read import load_body

__all__ = ['StagedBody', 'named_body']


class StagedBody(nn.Module):
    "`stages`, maps that `forward_head` turns into an embedding, and levels for distillation"
    own_embedding = True
    grad_checkpointing = False

    def __init__(self,
        num_features:int,      # Channels of the final maps
        embed_dim:int,         # Size of the embedding
        preprocess:Preprocess, # What pictures it wants
    ):
        super().__init__()
        self.num_features,self.head_hidden_size,self.preprocess = num_features, embed_dim, preprocess

    def stages(self): raise NotImplementedError('A body lists its stem and stages, as `feature_info` does.')
    def final(self, x): raise NotImplementedError('A body turns the maps of its last stage into final ones.')
    def embed(self, maps): raise NotImplementedError('A body turns final maps into an embedding.')

    def set_grad_checkpointing(self, enable:bool=True):
        "Keep no activations within blocks, and compute them again in the backward pass?"
        self.grad_checkpointing = enable

    def _stage(self, stage, x):
        # a stem is a plain list: it is small, and its first layer has no input to compute a gradient of
        again = self.grad_checkpointing and self.training and not isinstance(stage, list)
        for block in stage: x = checkpoint(block, x, use_reentrant=False) if again else block(x)
        return x

    def forward_features(self, x): return self.forward_intermediates(x, indices=[])[0]

    def forward_intermediates(self,
        x,                               # `(bs, 3, height, width)`
        indices:Sequence[int]|None=None, # Which of stem and stages; None: all
    ): # Final maps, list of maps
        "Final maps and those of the stages asked for"
        n,levels = len(self.feature_info), []
        wanted = [i % n for i in (range(n) if indices is None else indices)]
        for stage in self.stages():
            x = self._stage(stage, x)
            levels.append(x)
        return self.final(x), [levels[i] for i in wanted]

    def forward_head(self,
        maps,                 # `(bs, num_features, h, w)`, of `forward_features`
        pre_logits:bool=True, # For timm's signature: there are no logits here
    ): # `(bs, embed_dim)`, at least float32
        "The embedding"
        with torch.autocast(maps.device.type, enabled=False): return self.embed(full_precision(maps))

    def forward(self, x): return self.forward_head(self.forward_features(x))

    def drop_head(self):
        """Forget the embedding layers, when a pool of one's own takes their place.

        Parameters without a gradient stop distributed training."""
        self.own_embedding = False
        for name in self.embed_layers: delattr(self, name)


def named_body(
    name:str, # As users write it
    said:str, # In a line, what it is
    body,     # Its class
    **fixed,  # Arguments that make it this one
)->Callable:
    "A maker of one published form of a body: `name(pretrained=False, **kwargs)`, the latter for the class"
    def make(pretrained=False, **kwargs): return load_body(body(**{**fixed, **kwargs}), pretrained)

    make.__name__ = make.__qualname__ = name
    make.__module__,make.__doc__ = body.__module__,f'{said}. `pretrained`: False, from scratch; or a file of weights.'
    return make
