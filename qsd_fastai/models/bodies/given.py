"A body that is no name: a function that makes one, or layers one after the other"
from collections.abc import Callable

import timm
import torch
from timm.layers import SelectAdaptivePool2d
from torch import nn

from .by_name import own_bodies

__all__ = ['LayerStack', 'given_body']


class LayerStack(nn.Module):
    """Layers one after the other as a body: an `nn.Sequential` whose last layer gives maps, fastai's `create_body` say

    Levels are the last layers before the maps get coarser, and the end."""
    output_fmt = 'NCHW'

    def __init__(self,
        layers:nn.Sequential, # Of pictures `(bs, 3, height, width)`, to maps `(bs, nf, h, w)`
        size:tuple=None,      # `(height, width)` of pictures to try them with; `(64, 64)` when not given
    ):
        super().__init__()
        self.layers = layers
        self.global_pool = SelectAdaptivePool2d(pool_type='avg') # What stands behind plain maps, for `Recognizer`
        shapes = self._tried(size or (64, 64))
        height,last = shapes[0][2],len(shapes) - 1
        coarser = [i for i in range(1, last) if len(shapes[i]) == 4 and shapes[i + 1][2:] != shapes[i][2:]]
        self.levels,self.num_features = [i - 1 for i in (*coarser, last)],shapes[-1][1]
        def about(i, n, h): return {'num_chs': n, 'reduction': round(height/h), 'module': f'layers.{i}'}
        self.feature_info = [about(i, *shapes[i + 1][1:3]) for i in self.levels]

    @torch.no_grad()
    def _tried(self, size):
        "Shape of a batch, and behind each layer"
        training,some = self.layers.training,next(self.layers.parameters(), torch.zeros(1))
        x,shapes = torch.zeros(2, 3, *size, device=some.device, dtype=some.dtype),[(2, 3, *size)]
        self.layers.eval()
        try:
            for layer in self.layers: shapes.append(tuple((x := layer(x)).shape))
        except RuntimeError as e:
            raise ValueError(f'arch cannot take pictures of {size[0]}x{size[1]} ({" ".join(str(e).split())[:200]}). '
                             'Give layers that take `(bs, 3, height, width)`.') from e
        finally: self.layers.train(training)
        if len(shapes[-1]) != 4:
            raise ValueError(f'arch ends in {shapes[-1]}, and maps (bs, channels, height, width) are wanted. Leave its '
                             'pooling and its classifier out.')
        return shapes

    def forward_features(self, x): return self.layers(x)

    def forward_intermediates(self,
        x,            # `(bs, 3, height, width)`
        indices=None, # Which of the levels; None: all
    ): # Final maps, list of maps
        "Final maps and those of the levels asked for"
        maps = []
        for layer in self.layers: maps.append(x := layer(x))
        levels = [maps[i] for i in self.levels]
        return x, levels if indices is None else [levels[i] for i in indices]

    def forward(self, x): return self.global_pool(self.layers(x)).flatten(1)


def given_body(
    arch:nn.Module|Callable, # A body, layers one after the other, or a function of no argument that makes one of these
    size:tuple=None,         # `(height, width)` of its pictures
): # A module with `forward_features`, `forward_intermediates`, `num_features` and `feature_info`; or a name
    """A body, or the name of one: of our functions, and of those of torchvision, whose networks timm has by their name.

    ValueError for what gives no levels."""
    if not isinstance(arch, nn.Module) and callable(arch):
        name = getattr(arch, '__name__', '')
        if own_bodies.get(name) is arch: return name
        if getattr(arch, '__module__', '').startswith('torchvision') and timm.is_model(name): return name
        arch = _made(arch)
    if isinstance(arch, str): return arch
    if isinstance(arch, nn.Sequential): return LayerStack(arch, size)
    lack = [o for o in ('forward_intermediates', 'feature_info', 'num_features') if not hasattr(arch, o)]
    if lack:
        raise ValueError(f'arch is of type {type(arch).__name__}, which has no {lack[0]}. Give the name of a timm '
                         "model, or its layers up to the last maps as nn.Sequential, as fastai's create_body has them.")
    return arch


def _made(maker):
    try: return maker()
    except TypeError as e:
        raise ValueError(f'arch is {maker!r}, which cannot be called without arguments ({e}). Give the name of a timm '
                         'model, or a module.') from e
