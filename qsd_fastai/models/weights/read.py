"The one door for weights from a file into any body or recogniser: every key accounted for, or refused"
import math
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from ..preprocess import preprocess_of
from ..switches import SWITCHES, plan_switches
from .colours import colour_order
from .faces import FACES
from .peel import network_in, peeled
from .people import BODY, PEOPLE, QSD_FASTAI, TORCHREID
from .project import Part
from .refused import refusal
from .safe_pickle import read_checkpoint
from .transformers import TRANSFORMERS

__all__ = ['PROJECTS', 'LoadReport', 'load_body', 'load_reference']

# the first that tells has them; bodies as such come last, by the wrapper behind which most of their names fit
PROJECTS = [QSD_FASTAI, *FACES, *TRANSFORMERS, *PEOPLE]
# what timm's own readers leave out: tables that a network makes for itself
MADE = re.compile(r'.*(relative_position_index|attn_mask|attention_bias_idxs|position_ids)')


@dataclass
class LoadReport:
    "What `load_reference` did with each key"
    file:str             # The file of weights
    source:str           # The project its names are of
    used:list[str]       # Keys of the model that were filled
    missing:list[str]    # Keys of the model that the file lacks: they keep their values
    unexpected:list[str] # Keys of the file that the model has no place for, under our names
    skipped:list[str] = field(default_factory=list) # Keys whose shapes differ: the head of other identities
    notes:list[str] = field(default_factory=list) # What was changed so that the weights keep their meaning

    def __str__(self):
        parts = {'missing': self.missing, 'unexpected': self.unexpected, 'of another shape': self.skipped}
        lines = [f'{self.file}: weights of {self.source}, {len(self.used)} keys used']
        return '\n'.join(lines + [f'  {k}: {_some(v)}' for k,v in parts.items() if v] + [f'  {o}' for o in self.notes])


def _some(keys, n=6): return ', '.join(keys[:n]) + (f' and {len(keys) - n} more' if len(keys) > n else '')


def load_reference(
    model,          # A `Recognizer` with the body of the weights, `agw_resnet50` for AGW and QSD
    file:str|Path,  # Of AGW, QSD, FastReID, Torchreid, arcface_torch, AdaFace, MagFace, timm, `learn.save`, `.export`
    head:bool=True, # The classifier too, where it has as many identities? They must be the same in the same order
    show:bool=True, # Print the report?
    channels:str|None=None, # Of the pictures they were trained on: 'rgb', 'bgr'; None: as their project or card says
)->LoadReport:
    "Load published weights without running code of the file; raises `ValueError` when they are of another architecture"
    report = _load(model, file, head, channels)
    if show: print(report)
    return report


def load_body(
    body,                           # A module
    pretrained:bool|str|Path=False, # False: it stays as it is; or a file of weights
    channels:str|None=None,         # Of the pictures that a file's weights were trained on: 'rgb', 'bgr'
):
    """The body, with the weights of a file, and doing otherwise than ours what their project does; prints the report.

    `ConnectionError` for True: only timm's bodies have weights that can be fetched."""
    if pretrained is True:
        raise ConnectionError(f'There are no weights of {type(body).__name__} to fetch. Go on from a file, '
                              'pretrained="weights.pt", or from scratch, pretrained=False.')
    if pretrained is not False: print(_load(nn.ModuleDict({'body': body}), pretrained, False, channels))
    elif channels is not None: raise ValueError(f'channels is {channels!r}. Leave it out: there are no weights.')
    return body


def _load(model, file, head, channels):
    found,project = _whose(network_in(read_checkpoint(file), file), model, file)
    try: parts,told = list(project.rename(found)), project.told(found)
    except (ArithmeticError, LookupError, RuntimeError, TypeError, ValueError) as e:
        why = str(e).removesuffix('.')
        raise ValueError(f'{file}: weights of {project.name} cannot be read ({why}). '
                         'Save model.state_dict() of the network as it was trained.') from e
    named = {o.ours for o in parts}
    wanted = {k: list(v) if isinstance(v, tuple) else v for k,v in vars(project.network).items()} | told
    wanted |= {switch: value for key,switch,value in (('pool.p', 'pool', 'gem'), ('neck.weight', 'neck', 'bnneck'))
               if key in named}
    if wrong := next((k for k,v in wanted.items() if v is not None and not SWITCHES[k].valid(v)), None):
        raise ValueError(f'{file}: {wrong} of these weights is {wanted[wrong]}. Save model.state_dict() again.')
    plan = plan_switches(model, wanted)
    shapes = plan.shapes(model)
    body_only = isinstance(model, nn.ModuleDict)
    _refuse_layers_between(model, parts, found, project, file)
    if not head: parts = [o for o in parts if not o.ours.startswith('head.')
                          or not _is_spare(o, model.body, project, body_only)]
    parts = _for_timm(model.body, parts, shapes, found, file)
    fit = _fitted(model, parts, shapes, plan, found, project, file)
    order,because = colour_order(file, channels, project)
    first = _first_convolution(model.body)
    if order == 'bgr' and first not in fit.use:
        raise ValueError(f'{file}: weights of {project.name} are for BGR ({because}), and {type(model.body).__name__} '
                         "has no convolution of three channels to turn. Say channels='rgb' to leave them.")
    notes = [*found.notes, *plan.carry_out(model)]
    weights = {k: o.value for k,o in fit.use.items()}
    if order == 'bgr': weights[first] = weights[first].flip(1)
    if channels is not None or project is not QSD_FASTAI: model.body.turned = order == 'bgr'
    turned = f'; {first} was turned from BGR to RGB' if order == 'bgr' else ''
    notes += [f'colour order of the weights: {order.upper()}, {because}{turned}', *_pictures(model.body)]
    model.load_state_dict(weights, strict=False)
    return LoadReport(str(file), project.name, [*weights], fit.missing, fit.unexpected, fit.skipped, notes)


def _whose(found, model, file):
    "The project, and the weights behind the wrapper at which its names begin"
    own = {k.removeprefix('body.') for k in model.state_dict() if k.startswith('body.')}
    forms = list(peeled(found))
    if said := next(filter(None, map(refusal, forms)), None): raise ValueError(f'{file} holds {said}')
    for form in forms:
        if project := next((o for o in PROJECTS if o.tells(form)), None): return form, project
    best = max(forms, key=lambda form: len(own & form.weights.keys()))
    return best, TORCHREID if TORCHREID.tells(best) else BODY


def _pictures(body):
    wanted = preprocess_of(body)
    if wanted is None: return []
    return [f'pictures: mean {wanted.mean}, std {wanted.std}, resized by a {wanted.resize} filter: '
            'recognition_dataloaders(stats=..., resize=...)']


def _first_convolution(body):
    layers = ((n, m) for n,m in body.named_modules() if isinstance(m, nn.Conv2d) and m.in_channels == 3)
    return next((f'body.{n}.weight' for n,_ in layers), None)


@dataclass
class Fit:
    "Where every key of a file and of a model went"
    use:dict             # Our key to `Part`
    missing:list[str]
    unexpected:list[str]
    skipped:list[str]


def _fitted(model, parts, shapes, plan, found, project, file):
    "What goes where; `ValueError`, naming the file's keys, for all that is neither used nor known as spare"
    body_only = isinstance(model, nn.ModuleDict)
    use,unexpected,skipped,foreign,wrong = {}, [], [], [], []
    for o in parts:
        theirs = found.origin.get(o.theirs, o.theirs) or o.ours
        if o.ours in use: foreign.append(f'{theirs} (twice)')
        elif o.ours not in shapes:
            if not _is_spare(o, model.body, project, body_only): foreign.append(theirs)
            elif o.ours != '_extra_state': unexpected.append(o.ours)
        elif tuple(o.value.shape) == shapes[o.ours] or (o.value.numel() == 1 and shapes[o.ours] == ()): use[o.ours] = o
        elif o.ours.startswith(('head.', 'center.')): skipped.append(o.ours)
        else: wrong.append(f'{theirs} ({tuple(o.value.shape)}, not {shapes[o.ours]})')
    given = {o.ours for o in parts}
    missing = [k for k in shapes if k not in given and not k.endswith('num_batches_tracked')]
    missing = [k for k in missing if not k.startswith('center.')]
    fresh = tuple(f'body.{o}' for o in getattr(model.body, 'fresh', ())) if body_only else ()
    lacking = [k for k in missing if not k.startswith(('head.', *fresh, *(f'{o}.' for o in plan.kept)))]
    own = model.state_dict()
    wrong += [f'{found.origin.get(o.theirs, o.theirs)} ({o.value.dtype})' for k,o in use.items()
              if o.value.is_complex() or (k in own and not k.endswith('num_batches_tracked')
                                          and own[k].is_floating_point() != o.value.is_floating_point())]
    said = {'there is no place for': foreign, 'it lacks': lacking, 'another shape or type has': wrong}
    if any(said.values()):
        what = '; '.join(f'{k} {_some(v, 3)}' for k,v in said.items() if v)
        raise ValueError(f'{file}: weights of {project.name} do not fit a {type(model.body).__name__}: {what} '
                         f'(keys of the file begin with {next(iter(found.origin.values()))}). '
                         'Make the Recognizer with the body that they were trained with.')
    return Fit(use, [k for k in missing if k in own], unexpected, skipped)


def _refuse_layers_between(model, parts, found, project, file):
    "`ValueError` where a classifier takes what another layer gives, for which there is no place: it would be left out"
    shapes,named = model.state_dict(),(getattr(model.body, 'pretrained_cfg', None) or {}).get('classifier')
    names = {f'body.{o}.weight' for o in ('fc', 'classifier', named) if isinstance(o, str)} | {'head.weight'}
    flat = [o for o in parts if o.ours in names and o.value.ndim == 2 and o.ours not in shapes.keys() - {'head.weight'}]
    for one in flat:
        if after := next((o for o in flat if o is not one and o.value.shape[1] == one.value.shape[0]), None):
            layer,classifier = (found.origin.get(o.theirs, o.theirs) for o in (one, after))
            raise ValueError(f'{file}: weights of {project.name} do not fit a {type(model.body).__name__}: there is no '
                             f'place for {layer}, whose {one.value.shape[0]} numbers {classifier} takes. Make the '
                             'Recognizer with all layers that they were trained with.')


def _is_spare(part, body, project, body_only):
    "Is it known as no part of the network? A classifier, what the project names, and a recogniser's own for a body"
    if part.ours == '_extra_state' or re.fullmatch(project.spare, part.theirs): return True
    if re.fullmatch(r'head\.[^.]+|center\..*|n_averaged|[^.]*(loss|criterion)[^.]*(\..*)?', part.ours): return True
    if body_only and part.ours.startswith(('pool.', 'neck.')): return True
    named = (getattr(body, 'pretrained_cfg', None) or {}).get('classifier') or 'fc'
    dropped = getattr(body, 'embed_layers', ()) if not getattr(body, 'own_embedding', True) else ()
    classifiers = [named] if isinstance(named, str) else [*named]
    return (any(part.ours in (f'body.{o}.weight', f'body.{o}.bias') for o in [*classifiers, 'fc', 'classifier'])
            or any(part.ours.startswith(f'body.{o}.') for o in dropped))


def _for_timm(body, parts, shapes, found, file):
    "The parts as timm's own reader of this body has them: other versions of its names, position embeddings resized"
    module = sys.modules.get(type(body).__module__)
    reader = next((getattr(module, o) for o in ('checkpoint_filter_fn', '_filter_fn', '_filter_torchvision_pretrained')
                   if hasattr(module, o)), None) if (module.__name__ or '').startswith('timm.') else None
    theirs = {o.ours.removeprefix('body.'): o for o in parts if o.ours.startswith('body.')}
    if reader is None or all(shapes.get(o.ours) == tuple(o.value.shape) for o in theirs.values()): return parts
    state = {k: o.value for k,o in theirs.items()}
    _check_places(body, theirs, shapes, found, file)
    try:
        try: made = reader(dict(state), body)
        except TypeError: made = reader(dict(state))
        made = {k: v for k,v in made.items() if isinstance(v, torch.Tensor)}
    except Exception as e: # code of timm, on whatever a file holds
        names = _some([found.origin.get(o.theirs, o.theirs) for o in theirs.values()], 3)
        raise ValueError(f'{file}: weights do not fit a {type(body).__name__}: timm cannot read its keys {names} '
                         f'({type(e).__name__}). Make the Recognizer with the body that they were trained with.') from e
    # a tensor that was renamed or viewed still lies where it lay
    places = {(v.untyped_storage().data_ptr(), v.storage_offset()): k for k,v in state.items()}
    def origin(k, v): return k if k in state else places.get((v.untyped_storage().data_ptr(), v.storage_offset()), '')
    again = [Part(f'body.{k}', theirs[origin(k, v)].theirs if origin(k, v) else '', v) for k,v in made.items()]
    taken = {o.theirs for o in again}
    left = [o for o in theirs.values() if o.theirs not in taken and not MADE.fullmatch(o.ours)]
    return [*(o for o in parts if not o.ours.startswith('body.')), *again, *left]


def _check_places(body, theirs, shapes, found, file):
    "`ValueError` where embeddings of places are for another shape of pictures: only a square can be made another size"
    part,shape = theirs.get('pos_embed'), shapes.get('body.pos_embed', ())
    if part is None or len(shape) != 3 or part.value.ndim != 3 or part.value.shape[1] == shape[1]: return
    places = part.value.shape[1] - getattr(body, 'num_prefix_tokens', 0)
    if math.isqrt(max(places, 0))**2 == places: return
    key = found.origin.get(part.theirs, part.theirs)
    raise ValueError(f'{file}: {key} is for {places} patches, and the body has {shape[1] - 1}. Make it for pictures of '
                     "the size that the weights are for, body_kwargs={'img_size': (height, width)}; where patches "
                     'overlapped, the stride of STRIDE_SIZE below 16, take weights that were trained without.')
