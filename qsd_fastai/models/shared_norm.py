"Batch norm by the statistics of the batches of all processes, on a CPU as on a GPU"
from functools import partial

import torch
import torch.distributed.nn.functional as everywhere
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed import processes
from ..tensors import full_precision

__all__ = ['own_statistics', 'share_statistics']


def share_statistics(
    model:nn.Module, # Changed in place, until `own_statistics`
):
    """Batch norm of all layers over all processes, what else a layer does, an activation in timm's, as before

    The gradient is that of one process with all pictures. Parameters and their names stay."""
    for o in model.modules():
        if isinstance(o, _BatchNorm): o.forward = partial(_shared, o)


def own_statistics(
    model:nn.Module, # Of `share_statistics`
):
    "Batch norm as it was"
    for o in model.modules():
        if isinstance(o, _BatchNorm): vars(o).pop('forward', None)


def _shared(layer, x):
    if not layer.training or processes()[1] == 1: return type(layer).forward(layer, x)
    with torch.autocast(x.device.type, enabled=False): found = _normalized(layer, full_precision(x)).to(x.dtype)
    # of timm's BatchNormAct2d
    for name in ('drop', 'act'): found = getattr(layer, name, nn.Identity())(found)
    return found


def _normalized(layer, x):
    dims,shape = [d for d in range(x.dim()) if d != 1],[1, -1, *[1]*(x.dim() - 2)]
    n = x.new_full((1,), x.numel()/x.shape[1])
    *sums,n = everywhere.all_reduce(torch.cat([x.sum(dims), n])).split([x.shape[1], 1])
    mean = sums[0]/n
    centred = x - mean.view(shape)
    var = everywhere.all_reduce(centred.square().sum(dims))/n
    if layer.track_running_stats: _move(layer, mean.detach(), var.detach(), n)
    found = centred*(var + layer.eps).rsqrt().view(shape)
    return found*layer.weight.view(shape) + layer.bias.view(shape) if layer.affine else found


@torch.no_grad()
def _move(layer, mean, var, n):
    "Running statistics, as one process moves them"
    layer.num_batches_tracked.add_(1)
    share = 1/float(layer.num_batches_tracked) if layer.momentum is None else layer.momentum
    layer.running_mean.lerp_(mean.to(layer.running_mean.dtype), share)
    layer.running_var.lerp_((var*n/(n - 1)).to(layer.running_var.dtype), share)
