"The names that face projects give their weights, and what pictures these weights were trained on"
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from torch import nn

from ..preprocess import Preprocess, face_stats

__all__ = ['FaceSource', 'face_source']


@dataclass
class FaceSource:
    "Weights of a face project under our names"
    source:str                 # The project
    weights:dict               # Our key to tensor: `body.`, `head.`
    preprocess:Preprocess|None # What pictures it was trained on; None: the body knows
    notes:list[str] = field(default_factory=list) # What was changed so that the weights keep their meaning
    eps:float|None = None      # Of its batch norms, where it isn't torch's

    def keep_meaning(self,
        body, # That got the weights
    )->list[str]: # What was changed
        "Set the body's batch norms and `preprocess` to what the weights were trained with"
        notes = [*self.notes]
        if self.eps is not None:
            for m in body.modules():
                if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d): m.eps = self.eps
            notes.append(f'batch norms count {self.eps} to the variance, as these weights were trained')
        if self.preprocess is not None:
            old,new = getattr(body, 'preprocess', None), self.preprocess
            body.preprocess = new if old is None else replace(old, mean=new.mean, std=new.std)
        if isinstance(wanted := getattr(body, 'preprocess', None), Preprocess):
            mean,std = wanted.stats
            notes.append(f'normalise pictures by mean {mean}, std {std}: recognition_dataloaders(stats=...)')
        return notes


def face_source(
    weights:dict, # A state dict, `module.` taken off
)->FaceSource|None: # None: not of a face project that we know
    "Whose weights are these?"
    return next((make(weights) for tells,make in FORMS if tells(weights)), None)


def _rgb(weights, notes):
    "Turn the first convolution, which expects blue first"
    key = next((k for k,v in weights.items() if k.startswith('body.') and v.ndim == 4 and v.shape[1] == 3), None)
    if key is None: return weights
    notes.append(f'{key} was turned from BGR to RGB: pictures are RGB here')
    return {**weights, key: weights[key].flip(1)}


def _arcface(weights):
    found = {k if k.startswith('head.') else f'body.{k}': v for k,v in weights.items()}
    return FaceSource('arcface_torch', found, Preprocess(*face_stats))


def _magface(weights):
    found,notes = {}, ['these weights expect pictures of 0 to 1: mean 0, std 1']
    for k,v in weights.items():
        if k.startswith('features.'): found['body.' + k.removeprefix('features.').removeprefix('module.')] = v
        else: found['head.weight' if k == 'fc.weight' else k] = v.T if k == 'fc.weight' else v
    return FaceSource('MagFace', _rgb(found, notes), Preprocess((0., 0., 0.), (1., 1., 1.)), notes, 2e-5)


# AdaFace: the parts of a unit, and what comes before and after all units
UNIT = {'res_layer.0': 'bn1', 'res_layer.1': 'conv1', 'res_layer.2': 'bn2',
        'res_layer.3': 'prelu', 'res_layer.4': 'conv2', 'res_layer.5': 'bn3',
        'shortcut_layer.0': 'downsample.0', 'shortcut_layer.1': 'downsample.1'}
ENDS = {'input_layer.0': 'conv1', 'input_layer.1': 'bn1', 'input_layer.2': 'prelu',
        'output_layer.0': 'bn2', 'output_layer.3': 'fc', 'output_layer.4': 'features'}


def _adaface(weights):
    notes,found = [], {}
    bodies = {k.removeprefix('model.'): v for k,v in weights.items() if not k.startswith('head.')}
    # units are numbered through; each stage begins where the channels grow
    last = {k: re.fullmatch(r'body\.(\d+)\.res_layer\.5\.weight', k) for k in bodies}
    widths = {int(m[1]): len(bodies[k]) for k,m in last.items() if m}
    place,counts = {}, {}
    for n in sorted(widths):
        stage = widths[n].bit_length() - 6 # 64 channels: stage 1
        place[n] = f'layer{stage}.{counts.get(stage, 0)}'
        counts[stage] = counts.get(stage, 0) + 1
    for k,v in bodies.items():
        m = re.fullmatch(r'body\.(\d+)\.(\w+_layer\.\d)\.(\w+)', k) or re.fullmatch(r'()(\w+_layer\.\d)\.(\w+)', k)
        name = None if m is None else UNIT.get(m[2]) if m[1] else ENDS.get(m[2])
        ours = k if name is None else f'{place.get(int(m[1]), "unknown")}.{name}.{m[3]}' if m[1] else f'{name}.{m[3]}'
        found[f'body.{ours}'] = v
    for k,v in weights.items():
        if k.startswith('head.'): found['head.weight' if k == 'head.kernel' else k] = v.T if k == 'head.kernel' else v
    return FaceSource('AdaFace', _rgb(found, notes), Preprocess(*face_stats), notes)


def _mobilefacenet(weights): return FaceSource('MobileFaceNet', {f'body.{k}': v for k,v in weights.items()}, None)


# InsightFace_Pytorch: the first of our blocks behind each of its names
SINGLE,SEVERAL = {'conv_23': 0, 'conv_34': 5, 'conv_45': 12}, {'conv_3': 1, 'conv_4': 6, 'conv_5': 13}
PARTS = {'conv.conv': 'conv.0.0', 'conv.bn': 'conv.0.1', 'conv.prelu': 'conv.0.2',
         'conv_dw.conv': 'conv.1.0', 'conv_dw.bn': 'conv.1.1', 'conv_dw.prelu': 'conv.1.2',
         'project.conv': 'conv.2', 'project.bn': 'conv.3'}
WHOLES = {'conv1.conv': 'conv1.0', 'conv1.bn': 'conv1.1', 'conv1.prelu': 'conv1.2',
          'conv2_dw.conv': 'dw_conv.depthwise', 'conv2_dw.bn': 'dw_conv.bn1', 'conv2_dw.prelu': 'dw_conv.act',
          'conv_6_sep.conv': 'conv2.0', 'conv_6_sep.bn': 'conv2.1', 'conv_6_sep.prelu': 'conv2.2',
          'conv_6_dw.conv': 'gdconv.depthwise', 'conv_6_dw.bn': 'gdconv.bn', 'linear': 'conv3', 'bn': 'bn'}


def _insightface_pytorch(weights):
    found,notes = {}, []
    for k,v in weights.items():
        module,_,end = k.rpartition('.')
        stage,_,part = module.partition('.')
        index,_,inner = part.removeprefix('model.').partition('.')
        if stage in SINGLE: ours = f'features.{SINGLE[stage]}.{PARTS.get(part, part)}'
        elif stage in SEVERAL: ours = f'features.{SEVERAL[stage] + int(index)}.{PARTS.get(inner, inner)}'
        else: ours = WHOLES.get(module, module)
        found[f'body.{ours}.{end}'] = v[:, :, None, None] if k == 'linear.weight' else v
    if (last := found.get('body.conv3.weight')) is not None:
        found['body.conv3.bias'] = last.new_zeros(len(last))
        notes.append('the last convolution has no bias in these weights: it is zero')
    return FaceSource('InsightFace_Pytorch', found, Preprocess(*face_stats), notes)


def _has(*keys): return lambda weights: all(k in weights for k in keys)


# keys that tell a project -> how its names become ours
FORMS:list[tuple[Callable, Callable]] = [
    (lambda w: any(k.startswith('features.') and k.endswith('layer1.0.prelu.weight') for k in w), _magface),
    (lambda w: 'head.kernel' in w or 'input_layer.0.weight' in w or 'model.input_layer.0.weight' in w, _adaface),
    (_has('features.running_mean', 'fc.weight', 'prelu.weight'), _arcface),
    (_has('gdconv.depthwise.weight', 'conv3.weight'), _mobilefacenet),
    (_has('conv2_dw.conv.weight', 'conv_6_dw.conv.weight', 'linear.weight'), _insightface_pytorch),
]
