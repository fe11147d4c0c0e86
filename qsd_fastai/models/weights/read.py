"Weights that people already have, into a model, with a report on every key"
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from .faces import face_source
from .people import CLASSIFIERS, is_ours, keep_meaning, renamed
from .safe_pickle import Inert, read_checkpoint, state_of

__all__ = ['LoadReport', 'load_body', 'load_reference']

# where a checkpoint may keep its weights, beside an optimizer or an epoch
HOLDERS = ('state_dict', 'model', 'state_dict_backbone', 'model_state_dict', 'net')


@dataclass
class LoadReport:
    "What `load_reference` did with each key"
    file:str             # The file of weights
    source:str           # The project its names are of
    used:list[str]       # Keys of the model that were filled
    missing:list[str]    # Keys of the model that the file lacks: they keep their values
    unexpected:list[str] # Keys of the file that the model has no place for
    skipped:list[str] = field(default_factory=list) # Keys whose shapes differ: the head of other identities
    notes:list[str] = field(default_factory=list) # What was changed so that the weights keep their meaning

    def __str__(self):
        parts = {'missing': self.missing, 'unexpected': self.unexpected, 'of another shape': self.skipped}
        lines = [f'{self.file}: weights of {self.source}, {len(self.used)} keys used']
        return '\n'.join(lines + [f'  {k}: {_some(v)}' for k,v in parts.items() if v] + [f'  {o}' for o in self.notes])


def _some(keys, n=6): return ', '.join(keys[:n]) + (f' and {len(keys) - n} more' if len(keys) > n else '')


def load_reference(
    model,          # A `Recognizer` with the body of the weights, `agw_resnet50` for AGW and QSD
    file:str|Path,  # Of a state dict, a checkpoint with one, or a module pickled whole; of DataParallel or not
    head:bool=True, # The classifier too, where it has as many identities? They must be the same in the same order
    show:bool=True, # Print the report?
)->LoadReport:
    "Load published weights without running code of the file; raises `ValueError` when they are of another architecture"
    weights = _weights(read_checkpoint(file), file)
    face = None if is_ours(weights) else face_source(weights)
    source,weights = renamed(weights) if face is None else (face.source, face.weights)
    if not head: weights = {k: v for k,v in weights.items() if not k.startswith('head.')}
    own = model.state_dict()
    counts = [k for k in own if k.endswith('num_batches_tracked')]
    skipped = [k for k,v in weights.items() if k in own and v.shape != own[k].shape]
    missing = [k for k in own if k not in weights and k not in counts and not k.startswith('center.')]
    unexpected = [k for k in weights if k not in own]
    foreign = [k for k in unexpected if not k.startswith(CLASSIFIERS)]
    wrong = [k for k in [*missing, *foreign] if k.startswith('body.')]
    wrong += [k for k in skipped if k.startswith(('body.', 'pool.', 'neck.'))]
    if wrong:
        raise ValueError(f'{file}: weights of {source} do not fit a {type(model.body).__name__} ({len(wrong)} keys, as '
                         f'{_some(wrong, 3)}). Make the Recognizer with the body that they were trained with.')
    used = [k for k in weights if k in own and k not in skipped]
    model.load_state_dict({k: weights[k] for k in used}, strict=False)
    notes = keep_meaning(model, source) if face is None else face.keep_meaning(model.body)
    report = LoadReport(str(file), source, used, missing, unexpected, skipped, notes)
    if show: print(report)
    return report


def load_body(
    body,                           # A module
    pretrained:bool|str|Path=False, # False: it stays as it is; or a file of weights
):
    """The body, with the weights of a file.

    `ConnectionError` for True: only timm's bodies have weights that can be fetched."""
    if pretrained is True:
        raise ConnectionError(f'There are no weights of {type(body).__name__} to fetch. Go on from a file, '
                              'pretrained="weights.pt", or from scratch, pretrained=False.')
    if pretrained is not False: load_reference(nn.ModuleDict({'body': body}), pretrained, head=False, show=False)
    return body


def _weights(found, file):
    "The state dict within what a file holds, `module.` taken off, with the head that arcface_torch keeps beside it"
    shard = found.get('state_dict_softmax_fc') if isinstance(found, dict) else None
    for name in HOLDERS:
        if isinstance(found, dict) and isinstance(found.get(name), (dict, Inert)): found = found[name]
    weights = state_of(found) if isinstance(found, (dict, Inert)) else {}
    if not weights: raise ValueError(f'{file} holds no weights. Give a state dict, or a module that was saved whole.')
    while all(k.startswith('module.') for k in weights): weights = {k[len('module.'):]: v for k,v in weights.items()}
    if isinstance(shard, dict) and 'weight' in shard: weights = {**weights, 'head.weight': shard['weight']}
    return weights
