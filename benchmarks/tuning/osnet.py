"""A published OSNet that is at hand as ONNX alone, its batch norms folded into convolutions, made one to train again.

Folded, a norm has nothing to normalise by: in training it would divide by what the batch has, and the network would be
another. So the mean and variance of each are measured on pictures, and given back, which changes no output."""
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import nn

from qsd_fastai.models.bodies.osnet import osnet_x0_25
from qsd_fastai.models.weights.read import load_body

__all__ = ['osnet_of_onnx', 'unfold_norms']

EPS = 1e-5 # Of the norms


def _module(node):
    "Torchreid's name of the module that a node is of: /conv2/conv2.0/conv1/conv/Conv is conv2.0.conv1.conv"
    names = []
    for part in node.name.strip('/').split('/')[:-1]:
        above,dot,index = part.rpartition('.')
        names.append(index if dot and names and (above == names[-1] or above.endswith(names[-1])) else part)
    return '.'.join(names)


def reference_weights(file):
    "Weights by Torchreid's names; a folded norm keeps its shift, divides by 1 and takes off 0"
    graph = onnx.load(str(file)).graph
    known = {o.name: torch.from_numpy(np.array(numpy_helper.to_array(o))) for o in graph.initializer}
    found = {k: v for k,v in known.items() if not k.startswith('onnx::')}
    for node in graph.node:
        if node.op_type != 'Conv' or not node.input[1].startswith('onnx::'): continue
        name,shift = _module(node),known[node.input[2]]
        norm = f'{name.rpartition(".")[0]}.bn'
        found[f'{name}.weight'] = known[node.input[1]]
        one,zero = torch.ones_like(shift),torch.zeros_like(shift)
        found |= {f'{norm}.weight': one, f'{norm}.bias': shift, f'{norm}.running_mean': zero,
                  f'{norm}.running_var': one*(1 - EPS)}
    return found


def osnet_of_onnx(
    file, # Of OSNet x0.25
):
    "Our body with its weights, which gives what they give"
    with TemporaryDirectory() as folder:
        kept = f'{folder}/{Path(file).stem}.pt'
        torch.save(reference_weights(file), kept)
        return load_body(osnet_x0_25(), kept, 'rgb')


@torch.no_grad()
def unfold_norms(
    body,    # Of `osnet_of_onnx`; it is changed, what it gives in evaluation is not
    batches, # Of normalised pictures `(bs, 3, height, width)`
):
    "Each norm that was folded gets the mean and the variance that its input has over these pictures"
    norms = [m for m in body.modules() if isinstance(m, nn.BatchNorm2d)]
    total = {m: torch.zeros(3, m.num_features, dtype=torch.float64, device=m.bias.device) for m in norms}

    def count(m, x):
        x = x[0].double()
        n = x.new_full((x.shape[1],), x.numel()/x.shape[1])
        total[m] += torch.stack([n, x.sum((0, 2, 3)), x.square().sum((0, 2, 3))])
    hooks = [m.register_forward_pre_hook(count) for m in norms]
    body.eval()
    for x in batches: body(x)
    for hook in hooks: hook.remove()
    for m,(n, first, second) in total.items():
        mean = first/n
        spread = second/n - mean.square()
        m.running_mean.copy_(mean)
        m.running_var.copy_(spread)
        m.weight.copy_((m.running_var + m.eps).sqrt())
        m.bias.copy_(m.bias + mean)
    return body
