"MobileFaceNets of face projects: four names for the same network"
import re

import torch

from .project import HALF, Network, Part, Project, as_they_are, nothing_told

__all__ = ['FACE', 'MOBILEFACENETS']

# no face body pools, none has a neck, and none a stem that halves the picture
FACE = {'pool': 'own', 'neck': 'none', 'judged': None, 'stem_relu': None, 'stem_pool': None, 'last_stride': None,
        'resize': 'bilinear'}


# foamliu's, whose names ours are
MOBILEFACENET = Project(
    name='MobileFaceNet', channels='rgb', rename=as_they_are, told=nothing_told, spare=r'',
    tells=lambda found: found.has('gdconv.depthwise.weight', 'conv3.weight'),
    network=Network(eps=1e-5, mean=None, std=None, **FACE))


# InsightFace_Pytorch's and TFace's: the first of our blocks behind each of their names
SINGLE,SEVERAL = {'conv_23': 0, 'conv_34': 5, 'conv_45': 12}, {'conv_3': 1, 'conv_4': 6, 'conv_5': 13}
PARTS = {'conv.conv': 'conv.0.0', 'conv.bn': 'conv.0.1', 'conv.prelu': 'conv.0.2',
         'conv_dw.conv': 'conv.1.0', 'conv_dw.bn': 'conv.1.1', 'conv_dw.prelu': 'conv.1.2',
         'project.conv': 'conv.2', 'project.bn': 'conv.3'}
WHOLES = {'conv1.conv': 'conv1.0', 'conv1.bn': 'conv1.1', 'conv1.prelu': 'conv1.2',
          'conv2_dw.conv': 'dw_conv.depthwise', 'conv2_dw.bn': 'dw_conv.bn1', 'conv2_dw.prelu': 'dw_conv.act',
          'conv_6_sep.conv': 'conv2.0', 'conv_6_sep.bn': 'conv2.1', 'conv_6_sep.prelu': 'conv2.2',
          'conv_6_dw.conv': 'gdconv.depthwise', 'conv_6_dw.bn': 'gdconv.bn', 'linear': 'conv3', 'bn': 'bn'}


def _named_stages(found):
    names = {k.removeprefix('output_layer.'): k for k in found.weights}
    for k,theirs in names.items():
        v = found.weights[theirs]
        module,_,end = k.rpartition('.')
        stage,_,part = module.partition('.')
        index,_,inner = part.removeprefix('model.').partition('.')
        if stage in SINGLE: ours = f'features.{SINGLE[stage]}.{PARTS.get(part, part)}'
        elif stage in SEVERAL and re.fullmatch(r'\d{1,2}', index):
            ours = f'features.{SEVERAL[stage] + int(index)}.{PARTS.get(inner, inner)}'
        else: ours = WHOLES.get(module, module)
        yield Part(f'body.{ours}.{end}', theirs, v[:, :, None, None] if k == 'linear.weight' and v.ndim == 2 else v)
    yield from _fixed(len(found.weights[names['linear.weight']]), 'bn.weight' in names)


def _fixed(n, learned):
    "What these networks do not learn: a bias of the last convolution, in some projects anything of the last batch norm"
    yield Part('body.conv3.bias', '', torch.zeros(1).expand(n))
    if not learned: yield from (Part(f'body.bn.{k}', '', torch.tensor([v]).expand(n)) for k,v in
                                (('weight', 1.), ('bias', 0.)))


INSIGHTFACE_PYTORCH = Project(
    name='InsightFace_Pytorch', channels='bgr', rename=_named_stages, told=nothing_told, spare=r'',
    tells=lambda found: found.has('conv2_dw.conv.weight', 'conv_6_dw.conv.weight', 'linear.weight'),
    network=Network(eps=1e-5, **HALF, **FACE))

TFACE = Project(
    name="TFace's MobileFaceNet", channels='rgb', rename=_named_stages, told=nothing_told, spare=r'',
    tells=lambda found: found.has('conv2_dw.conv.weight', 'output_layer.conv_6_dw.conv.weight',
                                  'output_layer.linear.weight'),
    network=Network(eps=1e-5, **HALF, **FACE))


# arcface_torch's: layers of layers, which are numbered alone
ENDS = {'conv_sep.layers.0': 'conv2.0', 'conv_sep.layers.1': 'conv2.1', 'conv_sep.layers.2': 'conv2.2',
        'features.layers.0.layers.0': 'gdconv.depthwise', 'features.layers.0.layers.1': 'gdconv.bn',
        'features.layers.2': 'conv3', 'features.layers.3': 'bn'}
STEM = {(0, 0): 'conv1.0', (0, 1): 'conv1.1', (0, 2): 'conv1.2',
        (1, 0): 'dw_conv.depthwise', (1, 1): 'dw_conv.bn1', (1, 2): 'dw_conv.act'}


def _numbers(module):
    "`layers.3.layers.0.layers.2` as `(3, 0, 2)`, and nothing of another name"
    if not re.fullmatch(r'layers\.\d{1,2}(\.layers\.\d{1,2})*', module): return ()
    return tuple(map(int, re.findall(r'\d+', module)))


def _mbf(found):
    paths = {k: _numbers(k.rpartition('.')[0]) for k in found.weights}
    # its odd entries hold the blocks behind one that halves the maps
    behind = {i: len({o[1] for o in paths.values() if len(o) == 4 and o[0] == i}) for i in (3, 5, 7)}
    first = {2: 0, 4: 1 + behind[3], 6: 2 + behind[3] + behind[5]}
    for k,v in found.weights.items():
        module,_,end = k.rpartition('.')
        path = paths[k]
        part = '' if len(path) < 3 else f'conv.{2 + path[-1]}' if path[-2] == 2 else f'conv.{path[-2]}.{path[-1]}'
        if len(path) == 3 and path[0] in first: ours = f'features.{first[path[0]]}.{part}'
        elif len(path) == 4 and path[0] == 1: ours = f'dw_conv.{path[1]}.{part}'
        elif len(path) == 4 and path[0] - 1 in first: ours = f'features.{first[path[0] - 1] + 1 + path[1]}.{part}'
        else: ours = STEM.get(path) or ENDS.get(module, module)
        linear = k == 'features.layers.2.weight' and v.ndim == 2
        yield Part(f'body.{ours}.{end}', k, v[:, :, None, None] if linear else v)
    yield from _fixed(len(found.weights['features.layers.2.weight']), True)


MBF = Project(
    name="arcface_torch's mbf", channels='rgb', rename=_mbf, told=nothing_told, spare=r'',
    tells=lambda found: found.has('layers.0.layers.0.weight', 'conv_sep.layers.0.weight', 'features.layers.2.weight'),
    network=Network(eps=1e-5, **HALF, **FACE))

MOBILEFACENETS = [MOBILEFACENET, INSIGHTFACE_PYTORCH, TFACE, MBF]
