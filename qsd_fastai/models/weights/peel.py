"What trainers wrap around weights: mappings within mappings, and prefixes before names"
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from .project import Found
from .safe_pickle import Inert, state_of

__all__ = ['network_in', 'peeled']

# where a checkpoint keeps the network that is to be used; of several the first is taken, and the report says so
HOLDERS = ('state_dict', 'model', 'state_dict_backbone', 'model_state_dict', 'model_state', 'net', 'network', 'module',
           'backbone', 'body', 'encoder', 'params', 'weights', 'teacher', 'student', 'ema', 'model_ema',
           'state_dict_ema', 'ema_state_dict', 'params_ema')
# what lies beside it, and is none
BESIDE = re.compile(r'(.*(optim|sched|scaler|amp|loss|criterion|center|random|rng|callback|loop|hyper|config|args).*'
                    r'|opt|hps|head|fc|state_dict_softmax_fc|epoch|values|loader)', re.IGNORECASE)
# of two networks under one roof, the one that is judged
TWINS = [('teacher', 'student'), ('module_ema', 'module'), ('model_ema', 'model'), ('encoder_q', 'encoder_k'),
         ('online', 'target')]
# what trains a network beside it, or names its classes: it may lie outside of the wrapper of the network
OUTSIDE = re.compile(r'((fc|head|classifier|linear|logits|last_linear|head_dist)\.(weight|bias|kernel|t|batch_mean|'
                     r'batch_std)|[^.]*(loss|criterion|center|metric)[^.]*(\..*)?|n_averaged|_extra_state)')


def network_in(
    found,    # What `read_checkpoint` gave
    file:str, # That it came from
)->Found:
    "The state dict within what a file holds, with the head that arcface_torch keeps beside it"
    try: return _network_in(found, file)
    except RecursionError as e:
        raise ValueError(f'{file} holds a module that lies in itself. Save model.state_dict().') from e


def _network_in(found, file):
    notes,shard = [],None
    if isinstance(found, Inert) and isinstance(found.state, dict) and _holds(found.state.get('model')):
        found,notes = found.state['model'],['of an exported learner, its model was taken']
    for _ in range(8):
        if not isinstance(found, dict): break
        one = found.get('state_dict_softmax_fc')
        if isinstance(one, dict) and isinstance(one.get('weight'), torch.Tensor): shard = one['weight']
        inner = {k: v for k,v in found.items() if isinstance(k, str) and isinstance(v, dict | Inert) and _holds(v)}
        inner = {k: v for k,v in inner.items() if k in HOLDERS or not BESIDE.fullmatch(k)}
        loose = any(isinstance(v, torch.Tensor) and v.ndim for v in found.values())
        if not inner or (loose and not set(inner) & set(HOLDERS)): break
        names = [*(k for k in HOLDERS if k in inner), *(k for k in inner if k not in HOLDERS)]
        if len(names) > 1 and names[0] not in HOLDERS:
            raise ValueError(f'{file} holds several networks, {", ".join(names[:6])}. Save the one that is meant.')
        if len(names) > 1: notes.append(f'of {", ".join(names)} in the file, {names[0]} was taken')
        found = inner[names[0]]
    strange = next((k for k,v in found.items() if not isinstance(k, str) and isinstance(v, torch.Tensor)),
                   None) if isinstance(found, dict) else None
    if strange is not None:
        raise ValueError(f'{file}: a key of the weights is {strange!r}, no text. Save model.state_dict().')
    weights = state_of(found) if isinstance(found, dict | Inert) else {}
    if not weights:
        raise ValueError(f'{file} holds no weights. Give a state dict, a module that was saved whole, or an exported '
                         'learner.')
    for k,v in weights.items():
        # an expanded tensor is as large as its file says, and no file is as large as it
        if v.layout != torch.strided or v.numel()*v.element_size() > v.untyped_storage().nbytes():
            raise ValueError(f'{file}: {k} has more numbers than the file. Save model.state_dict().')
    if shard is not None: weights['head.weight'] = shard
    return Found(weights, {k: k for k in weights}, Path(file), notes=notes)


def _holds(o, depth=4, seen=None):
    "Are there tensors in it, other than single numbers?"
    if isinstance(o, Inert): return bool(state_of(o))
    if isinstance(o, torch.Tensor): return o.ndim > 0
    seen = set() if seen is None else seen # A mapping that lies in itself, or in a thousand places
    if not isinstance(o, dict) or not depth or id(o) in seen: return False
    seen.add(id(o))
    return any(_holds(v, depth - 1, seen) for v in o.values())


def peeled(
    found:Found, # Of `network_in`
)->Iterator[Found]:
    """The same weights with one wrapper more taken off each time, until there is none.

    A wrapper is what all names of the network begin with, whatever it is called: `module.`, `_orig_mod.`, `model.`."""
    for _ in range(16):
        yield found
        network = [k for k in found.weights if not OUTSIDE.fullmatch(k)]
        first = {k.partition('.')[0] for k in network}
        notes,origin = found.notes, found.origin
        for taken,left in TWINS:
            if first == {taken, left}:
                first,notes = {taken}, [*notes, f'of {taken} and {left} in the file, {taken} was taken']
                network = [k for k in network if k.startswith(f'{taken}.')]
                origin = {k: v for k,v in origin.items() if not k.startswith(f'{left}.')}
        if len(first) != 1 or not all('.' in k for k in network): return
        wrapper = first.pop() + '.'
        inside = set(network)
        names = {k: k.removeprefix(wrapper) if k in inside else k for k in origin}
        if len(set(names.values())) < len(names): return
        found = replace(found, weights={new: found.weights[k] for k,new in names.items()}, notes=notes,
                        origin={new: origin[k] for k,new in names.items()}, wrapper=found.wrapper + wrapper)
