"Projects of face recognition: their names, and what their networks do otherwise than ours"
import re

import torch

from .mobilefacenets import FACE, MOBILEFACENETS
from .project import HALF, Network, Part, Project, nothing_told

__all__ = ['FACES']


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


# The IR networks: the parts of a unit with a batch norm between its convolutions and of one without, and what comes
# before and after all units
UNIT = {'0': 'bn1', '1': 'conv1', '2': 'bn2', '3': 'prelu', '4': 'conv2', '5': 'bn3', 'se_block': 'se'}
EVOLVED = {'0': 'bn1', '1': 'conv1', '2': 'prelu', '3': 'conv2', '4': 'bn3', '5': 'se'}
ENDS = {'input_layer.0': 'conv1', 'input_layer.1': 'bn1', 'input_layer.2': 'prelu',
        'output_layer.0': 'bn2', 'output_layer.1': 'act', 'output_layer.3': 'fc', 'output_layer.4': 'features'}
IN_UNIT = re.compile(r'body\.(\d{1,4})\.(res|shortcut)_layer\.(\w+)\.((?:fc[12]\.)?\w+)')


def _ir(found):
    weights,unit = found.weights, EVOLVED if _is_evolved(found) else UNIT
    # units are numbered through; each stage begins where the channels grow
    widths = {int(m[1]): len(v) for k,v in weights.items()
              if (m := IN_UNIT.fullmatch(k)) and m[2] == 'res' and m[3] == '1' and v.ndim == 4}
    place,counts = {}, {}
    for n in sorted(widths):
        stage = widths[n].bit_length() - 6 # 64 channels: stage 1
        place[n] = f'layer{stage}.{counts.get(stage, 0)}'
        counts[stage] = counts.get(stage, 0) + 1
    for k,v in weights.items():
        module,_,end = k.rpartition('.')
        m = IN_UNIT.fullmatch(k)
        if m is None: ours = f'{ENDS.get(module, module)}.{end}'
        elif m[2] == 'shortcut': ours = f'{place.get(int(m[1]), "unknown")}.downsample.{m[3]}.{m[4]}'
        else: ours = f'{place.get(int(m[1]), "unknown")}.{unit.get(m[3], m[3])}.{m[4]}'
        if k == 'head.kernel': yield Part('head.weight', k, v.T if v.ndim == 2 else v)
        else: yield Part(k if k.startswith('head.') else f'body.{ours}', k, v)


def _curricular(found):
    "What the last batch norm does not learn is fixed"
    yield from _ir(found)
    n = len(found.weights['output_layer.4.running_mean'])
    for k,v in (('weight', 1.), ('bias', 0.)): yield Part(f'body.features.{k}', '', torch.tensor([v]).expand(n))


def _is_ir(found): return found.has('input_layer.0.weight', 'output_layer.3.weight')


def _is_evolved(found):
    fourth = found.weights.get('body.0.res_layer.4.weight')
    return _is_ir(found) and fourth is not None and fourth.ndim == 1


# Its trainer keeps the network as `model.` beside a head of its own; without the head it looks as TFace does
def _is_adaface(found):
    inside = not any(k.startswith('model.') for k in found.weights)
    return inside and (found.has('head.kernel') or (_is_ir(found) and 'adaface' in found.file.name.lower()))


ADAFACE = Project(
    name='AdaFace', channels='bgr', tells=_is_adaface, rename=_ir, told=nothing_told,
    spare=r'head\.(t|batch_mean|batch_std)',
    network=Network(eps=1e-5, **HALF, **FACE))

IR_IN_A_MODEL = Project(
    name='AdaFace without its head, which trains on BGR, or of another trainer that keeps a model', channels='ask',
    tells=lambda found: _is_ir(found) and found.wrapper.endswith('model.'), rename=_ir, told=nothing_told, spare=r'',
    network=Network(eps=1e-5, **HALF, **FACE))

IR = Project(
    name='TFace, or AdaFace without its head', channels=None, tells=_is_ir, rename=_ir, told=nothing_told, spare=r'',
    network=Network(eps=1e-5, **HALF, **FACE))

TFACE_R50 = Project(
    name="TFace's R50 for labels of quality", channels='rgb', rename=_ir, told=nothing_told, spare=r'',
    tells=lambda found: _is_evolved(found) and found.has('output_layer.1.weight'),
    network=Network(eps=1e-5, **HALF, **FACE))

CURRICULARFACE = Project(
    name='CurricularFace', channels='rgb', rename=_curricular, told=nothing_told, spare=r'',
    tells=lambda found: _is_evolved(found) and found.has('output_layer.4.running_mean')
                        and not found.has('output_layer.4.weight'),
    network=Network(eps=1e-5, **HALF, **FACE))

# the same names in two projects that disagree: whoever loads has to say
EVOLVE = Project(
    name='face.evoLVe, which trains on RGB, or InsightFace_Pytorch, which trains on BGR', channels='ask', rename=_ir,
    told=nothing_told, spare=r'', tells=_is_evolved, network=Network(eps=1e-5, **HALF, **FACE))

FACES = [MAGFACE, TFACE_R50, CURRICULARFACE, EVOLVE, ADAFACE, IR_IN_A_MODEL, IR, ARCFACE, *MOBILEFACENETS]
