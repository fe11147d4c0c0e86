"Projects of face recognition: their names, and what their networks do otherwise than ours"
import re

import torch

from ..preprocess import face_stats
from .project import Network, Part, Project, as_they_are, nothing_told

__all__ = ['FACES']

# no face body pools, none has a neck, and none a stem that halves the picture
FACE = {'pool': 'own', 'neck': 'none', 'stem_relu': None, 'stem_pool': None, 'last_stride': None, 'resize': 'bilinear'}
HALF = dict(zip(('mean', 'std'), face_stats))
AS_THE_BODY = {'mean': None, 'std': None}


def _arcface(found):
    return (Part(k if k.startswith('head.') else f'body.{k}', k, v) for k,v in found.weights.items())


ARCFACE = Project(
    name='arcface_torch', channels='rgb', rename=_arcface, told=nothing_told, spare=r'',
    tells=lambda found: found.has('features.running_mean', 'fc.weight', 'prelu.weight'),
    network=Network(eps=1e-5, **HALF, **FACE))


def _magface(found):
    for k,v in found.weights.items():
        if k.startswith('features.'): yield Part(f'body.{k.removeprefix("features.").removeprefix("module.")}', k, v)
        else: yield Part('head.weight', k, v.T) if k == 'fc.weight' and v.ndim == 2 else Part(k, k, v)


MAGFACE = Project(
    name='MagFace', channels='bgr', rename=_magface, told=nothing_told, spare=r'',
    tells=lambda found: any(k.startswith('features.') and k.endswith('layer1.0.prelu.weight') for k in found.weights),
    network=Network(eps=2e-5, mean=(0., 0., 0.), std=(1., 1., 1.), **FACE))


# The improved residual networks of AdaFace and TFace: the parts of a unit, and what comes before and after all units
UNIT = {'res_layer.0': 'bn1', 'res_layer.1': 'conv1', 'res_layer.2': 'bn2',
        'res_layer.3': 'prelu', 'res_layer.4': 'conv2', 'res_layer.5': 'bn3',
        'shortcut_layer.0': 'downsample.0', 'shortcut_layer.1': 'downsample.1'}
ENDS = {'input_layer.0': 'conv1', 'input_layer.1': 'bn1', 'input_layer.2': 'prelu',
        'output_layer.0': 'bn2', 'output_layer.3': 'fc', 'output_layer.4': 'features'}


def _ir(found):
    weights = found.weights
    # units are numbered through; each stage begins where the channels grow
    last = {k: re.fullmatch(r'body\.(\d{1,4})\.res_layer\.5\.weight', k) for k in weights}
    widths = {int(m[1]): weights[k].numel() for k,m in last.items() if m}
    place,counts = {}, {}
    for n in sorted(widths):
        stage = widths[n].bit_length() - 6 # 64 channels: stage 1
        place[n] = f'layer{stage}.{counts.get(stage, 0)}'
        counts[stage] = counts.get(stage, 0) + 1
    for k,v in weights.items():
        m = re.fullmatch(r'body\.(\d{1,4})\.(\w+_layer\.\d)\.(\w+)', k)
        m = m or re.fullmatch(r'()(\w+_layer\.\d)\.(\w+)', k)
        name = None if m is None else UNIT.get(m[2]) if m[1] else ENDS.get(m[2])
        ours = k if name is None else f'{place.get(int(m[1]), "unknown")}.{name}.{m[3]}' if m[1] else f'{name}.{m[3]}'
        if k == 'head.kernel': yield Part('head.weight', k, v.T if v.ndim == 2 else v)
        else: yield Part(k if k.startswith('head.') else f'body.{ours}', k, v)


def _is_ir(found): return found.has('input_layer.0.weight', 'output_layer.3.weight')


# Its trainer keeps the network as `model.` beside a head of its own; without these it looks as TFace does
def _is_adaface(found):
    inside = not any(k.startswith('model.') for k in found.weights)
    return inside and (found.has('head.kernel') or (_is_ir(found) and found.wrapper.endswith('model.')))


ADAFACE = Project(
    name='AdaFace', channels='bgr', tells=_is_adaface, rename=_ir, told=nothing_told,
    spare=r'head\.(t|batch_mean|batch_std)',
    network=Network(eps=1e-5, **HALF, **FACE))

IR = Project(
    name='TFace, or AdaFace without its head', channels=None, tells=_is_ir, rename=_ir, told=nothing_told, spare=r'',
    network=Network(eps=1e-5, **HALF, **FACE))

MOBILEFACENET = Project(
    name='MobileFaceNet', channels='rgb', rename=as_they_are, told=nothing_told, spare=r'',
    tells=lambda found: found.has('gdconv.depthwise.weight', 'conv3.weight'),
    network=Network(eps=1e-5, **AS_THE_BODY, **FACE))


# InsightFace_Pytorch: the first of our blocks behind each of its names
SINGLE,SEVERAL = {'conv_23': 0, 'conv_34': 5, 'conv_45': 12}, {'conv_3': 1, 'conv_4': 6, 'conv_5': 13}
PARTS = {'conv.conv': 'conv.0.0', 'conv.bn': 'conv.0.1', 'conv.prelu': 'conv.0.2',
         'conv_dw.conv': 'conv.1.0', 'conv_dw.bn': 'conv.1.1', 'conv_dw.prelu': 'conv.1.2',
         'project.conv': 'conv.2', 'project.bn': 'conv.3'}
WHOLES = {'conv1.conv': 'conv1.0', 'conv1.bn': 'conv1.1', 'conv1.prelu': 'conv1.2',
          'conv2_dw.conv': 'dw_conv.depthwise', 'conv2_dw.bn': 'dw_conv.bn1', 'conv2_dw.prelu': 'dw_conv.act',
          'conv_6_sep.conv': 'conv2.0', 'conv_6_sep.bn': 'conv2.1', 'conv_6_sep.prelu': 'conv2.2',
          'conv_6_dw.conv': 'gdconv.depthwise', 'conv_6_dw.bn': 'gdconv.bn', 'linear': 'conv3', 'bn': 'bn'}


def _insightface_pytorch(found):
    for k,v in found.weights.items():
        module,_,end = k.rpartition('.')
        stage,_,part = module.partition('.')
        index,_,inner = part.removeprefix('model.').partition('.')
        if stage in SINGLE: ours = f'features.{SINGLE[stage]}.{PARTS.get(part, part)}'
        elif stage in SEVERAL and re.fullmatch(r'\d{1,2}', index):
            ours = f'features.{SEVERAL[stage] + int(index)}.{PARTS.get(inner, inner)}'
        else: ours = WHOLES.get(module, module)
        yield Part(f'body.{ours}.{end}', k, v[:, :, None, None] if k == 'linear.weight' and v.ndim == 2 else v)
    last = found.weights['linear.weight']
    # its last convolution has no bias
    yield Part('body.conv3.bias', '', torch.zeros(1).expand(len(last) if last.ndim else 0))


INSIGHTFACE_PYTORCH = Project(
    name='InsightFace_Pytorch', channels='bgr', rename=_insightface_pytorch, told=nothing_told, spare=r'',
    tells=lambda found: found.has('conv2_dw.conv.weight', 'conv_6_dw.conv.weight', 'linear.weight'),
    network=Network(eps=1e-5, **HALF, **FACE))

FACES = [MAGFACE, ADAFACE, IR, ARCFACE, MOBILEFACENET, INSIGHTFACE_PYTORCH]
