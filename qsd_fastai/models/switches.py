"What a network does beside its weights: pooling, neck, stem, stride, pictures; kept in its state dict"
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import nn

from ..choices import FILTERS
from .layers import BNNeck, GeM
from .preprocess import Preprocess, preprocess_of, stats_of

__all__ = ['SWITCHES', 'Plan', 'Switch', 'packed', 'plan_switches', 'set_last_stride', 'switches_of', 'unpacked']


def set_last_stride(
    body,       # A timm ResNet, ResNeXt, SE-ResNet or their kin
    stride:int, # 1 or 2
):
    "Set the stride of the last stage in place, and return the body; weights stay valid"
    if stride not in (1, 2): raise ValueError(f'last_stride is {stride}. Give 1 or 2.')
    if _last_block(body) is None:
        raise ValueError(f'last_stride is {stride}. Leave it None for {type(body).__name__}: '
                         'only ResNets without anti-aliasing have such a stage.')
    if last_stride(body) == stride: return body
    for module in _striding(body):
        # an average pool over one pixel is the identity
        if isinstance(module, nn.AvgPool2d): module.kernel_size = module.stride = stride
        else: module.stride = (stride, stride)
    body.feature_info[-1]['reduction'] = body.feature_info[-2]['reduction']*stride
    return body


def last_stride(
    body, # A module
)->int|None: # None: it has no such stage
    "Stride of the last stage of a ResNet"
    if _last_block(body) is None: return None
    return body.feature_info[-1]['reduction']//body.feature_info[-2]['reduction']


def _last_block(body):
    block = getattr(body, 'layer4', [None])[0]
    plain = block is not None and isinstance(getattr(block, 'aa', None) or nn.Identity(), nn.Identity)
    return block if plain and hasattr(block, 'conv1') and len(getattr(body, 'feature_info', ())) > 1 else None


def _striding(body):
    "What halves the maps in the last stage: remembered by name, for at stride 1 nothing tells it from its neighbours"
    block = _last_block(body)
    if not hasattr(body, 'striding'):
        strides = {n: getattr(m, 'stride', 1) for n,m in block.named_modules()}
        body.striding = [n for n,stride in strides.items() if stride in (2, (2, 2))]
    return [block.get_submodule(n) for n in body.striding]


def _stem(body): return all(hasattr(body, o) for o in ('conv1', 'bn1', 'act1', 'maxpool', 'layer1'))


def _stem_relu(model):
    return not isinstance(model.body.act1, nn.Identity) if _stem(model.body) else None


def _set_stem_relu(model, on): model.body.act1 = nn.ReLU(inplace=True) if on else nn.Identity()


STEM_POOLS = {'padded': {'padding': 1}, 'ceil': {'ceil_mode': True}}


def _stem_pool(model):
    pool = model.body.maxpool if _stem(model.body) else None
    if not isinstance(pool, nn.MaxPool2d) or (pool.kernel_size, pool.stride) != (3, 2): return None
    return next((k for k,o in STEM_POOLS.items()
                 if (pool.padding, pool.ceil_mode) == (o.get('padding', 0), o.get('ceil_mode', False))), None)


def _set_stem_pool(model, form): model.body.maxpool = nn.MaxPool2d(3, stride=2, **STEM_POOLS[form])


def _norms(model): return [m for m in model.body.modules() if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]


def _eps(model):
    found = {m.eps for m in _norms(model)}
    return found.pop() if len(found) == 1 else None


def _set_eps(model, eps):
    for m in _norms(model): m.eps = eps


def _picture(name):
    def read(model):
        wanted = preprocess_of(model.body)
        value = None if wanted is None else getattr(wanted, name)
        return list(value) if isinstance(value, tuple) else value

    def write(model, value):
        old = preprocess_of(model.body) or Preprocess(*map(tuple, stats_of(model.body)))
        model.body.preprocess = replace(old, **{name: tuple(value) if isinstance(value, list) else value})

    return read, write


POOLS = {'gem': GeM, 'average': lambda: nn.AdaptiveAvgPool2d(1), 'max': lambda: nn.AdaptiveMaxPool2d(1)}
NECKS = {'bnneck': BNNeck, 'none': lambda nf: nn.Identity()}


def _pool(model):
    if not hasattr(model, 'pool'): return None
    if model.pool is None: return 'own'
    kinds = {GeM: 'gem', nn.AdaptiveAvgPool2d: 'average', nn.AdaptiveMaxPool2d: 'max'}
    return kinds.get(type(model.pool))


def _neck(model):
    if not hasattr(model, 'neck'): return None
    return {BNNeck: 'bnneck', nn.Identity: 'none'}.get(type(model.neck))


def _judged(model): return model.neck.judged if isinstance(getattr(model, 'neck', None), BNNeck) else None


def _set_judged(model, value): model.neck.judged = value


def _numbers(value):
    return (isinstance(value, list) and len(value) == 3
            and all(isinstance(o, int | float) and math.isfinite(o) for o in value))


@dataclass(frozen=True)
class Switch:
    "One thing that a network does in one way or another, whatever its weights"
    read:Callable       # Of the model: how it is, None where there is no such thing
    write:Callable|None # Of model and value; None: `made` is put in its place
    valid:Callable      # Of a value
    says:str            # What is so now, `{}` for the value


SWITCHES = {
    'pool': Switch(_pool, None, lambda v: v in (*POOLS, 'own'), 'pooling is {}'),
    'neck': Switch(_neck, None, lambda v: v in NECKS, 'the neck is {}'),
    'judged': Switch(_judged, _set_judged, lambda v: v in BNNeck.judges, 'the embedding is what comes {} the neck'),
    'semantic': Switch(lambda model: getattr(model.body, 'semantic', None),
                       lambda model, v: setattr(model.body, 'semantic', v),
                       lambda v: isinstance(v, int | float) and 0 <= v <= 1, 'meaning weighs {}'),
    'stem_relu': Switch(_stem_relu, _set_stem_relu, lambda v: isinstance(v, bool), 'a ReLU in the stem: {}'),
    'stem_pool': Switch(_stem_pool, _set_stem_pool, lambda v: v in STEM_POOLS, 'the stem pools {}'),
    'eps': Switch(_eps, _set_eps, lambda v: isinstance(v, float) and 0 < v < 1,
                  'batch norms count {} to the variance'),
    'last_stride': Switch(lambda model: last_stride(model.body), lambda model, v: set_last_stride(model.body, v),
                          lambda v: v in (1, 2) and not isinstance(v, bool), 'the stride of the last stage is {}'),
    'mean': Switch(*_picture('mean'), _numbers, 'pictures are normalised by mean {}'),
    'std': Switch(*_picture('std'), lambda v: _numbers(v) and min(v) > 0, 'pictures are normalised by std {}'),
    'resize': Switch(*_picture('resize'), lambda v: v in FILTERS, 'pictures are resized by a {} filter'),
    'turned': Switch(lambda model: getattr(model.body, 'turned', False),
                     lambda model, v: setattr(model.body, 'turned', v),
                     lambda v: isinstance(v, bool), 'the first layer was turned from BGR to RGB: {}')}


PICTURES = 'mean', 'std', 'resize'


@dataclass
class Plan:
    "What is to change in a model, made before anything does"
    set:dict  # Switch to value
    kept:dict # Switch to value it has, because it was asked for, where another was wanted
    made:dict # `pool`, `neck`: what comes in their place

    def shapes(self,
        model, # That it was made for
    )->dict: # Key to shape
        "Of the state dict after the change"
        found = {k: tuple(v.shape) for k,v in model.state_dict().items() if k != '_extra_state'}
        for part,module in self.made.items():
            found = {k: v for k,v in found.items() if not k.startswith(f'{part}.')}
            found |= {f'{part}.{k}': tuple(v.shape) for k,v in module.state_dict().items()}
        return found

    def carry_out(self,
        model, # That it was made for
    )->list[str]: # What was changed
        "Change the model"
        like = next(model.parameters())
        for name,value in self.set.items():
            module = self.made.get(name)
            if module is None: SWITCHES[name].write(model, value)
            else: setattr(model, name, module.to(like.device, like.dtype).train(model.training))
        said = [f'{SWITCHES[name].says.format(_shown(value))}, as these weights were trained'
                for name,value in self.set.items()]
        return said + [f'{SWITCHES[name].says.format(_shown(value))}, as asked for, though these weights were trained '
                       'otherwise' for name,value in self.kept.items()]


def _shown(value):
    return {True: 'yes', False: 'no'}.get(value, value) if isinstance(value, bool) else value


def plan_switches(
    model,       # A `Recognizer`, or a module with a `body`
    wanted:dict, # Switch to value; None: as it is
)->Plan:
    "What has to change for a model to do as wanted: what was asked for when it was made stays, and so does what is so"
    asked = {*getattr(model, 'asked', ()), *getattr(model.body, 'asked', ())}
    plan = Plan({}, {}, {})
    for name,value in wanted.items():
        found = None if value is None else SWITCHES[name].read(model)
        if name == 'judged' and value is not None and plan.set.get('neck') == 'bnneck': found = 'after'
        # what a body pools by itself, nothing else does
        if name == 'pool' and value != found and 'own' in (value, found): continue
        if name in ('pool', 'neck') and name in asked and value is not None and found is None: found = 'its own'
        # a body that says nothing of pictures can be told
        if value is None or (found is None and name not in PICTURES) or _same(found, value): continue
        if name in asked:
            plan.kept[name] = found
            continue
        plan.set[name] = value
        if name == 'pool': plan.made[name] = POOLS[value]()
        if name == 'neck': plan.made[name] = NECKS[value](model.embed_dim)
    return plan


def _same(a, b):
    return all(abs(x - y) < 1e-6 for x,y in zip(a, b)) if isinstance(a, list) and isinstance(b, list) else a == b


def switches_of(
    model, # A `Recognizer`, or a module with a `body`
)->dict: # Switch to value; None where there is no such thing
    "How a model does all that its weights do not say"
    return {name: switch.read(model) for name,switch in SWITCHES.items()}


def packed(
    switches:dict, # Of `switches_of`
)->torch.Tensor: # Uint8
    "As a tensor, for a state dict"
    text = json.dumps({k: v for k,v in switches.items() if v is not None})
    return torch.tensor(list(text.encode()), dtype=torch.uint8)


def _byte(number):
    if int(number) != number: raise ValueError('No whole number.')
    return int(number)


def unpacked(
    tensor, # Of `packed`
)->dict: # Switch to value
    "What a state dict says of the network it is of; `ValueError` for what is none, or only a newer version knows"
    flat = isinstance(tensor, torch.Tensor) and tensor.ndim == 1 and not tensor.is_complex()
    # bytes are exact in every kind of number, and in the mean of several that say the same
    try: found = json.loads(bytes(map(_byte, tensor.tolist()))) if flat and len(tensor) < 10_000 else None
    except (ValueError, OverflowError, RecursionError): found = None
    if not isinstance(found, dict):
        raise ValueError('_extra_state is not what a Recognizer keeps. Leave it out of the state dict.')
    for name,value in found.items():
        if name not in SWITCHES or not SWITCHES[name].valid(value):
            raise ValueError(f'_extra_state has {name!r} as {value!r}. Update qsd_fastai, or leave it out.')
    return found
