"How objects show themselves: what they were set to, by the names of their arguments"
import inspect
from pathlib import Path

import numpy as np
import torch

__all__ = ['cut_to', 'settings_text', 'shown']

LONGEST = 60 # Letters of a setting


def settings_text(
    o, # Whose attributes bear the names of its arguments
)->str:
    "What an object was set to, `margin=0.3, normalize=False`: its arguments, as far as they are attributes of it"
    names = [k for k,p in inspect.signature(type(o).__init__).parameters.items() if p.kind is not p.VAR_KEYWORD]
    found = [(k, getattr(o, k)) for k in names if k != 'self' and (k in vars(o) or hasattr(type(o), k))]
    return ', '.join(f'{k}={_said(v)}' for k,v in found if not isinstance(v, torch.nn.Module))


def _said(v):
    if isinstance(v, float): return f'{v:g}'
    if isinstance(v, (tuple, list)) and len(v) < 9:
        text = ', '.join(map(_said, v))
        return f'[{text}]' if isinstance(v, list) else f'({text}{"," if len(v) == 1 else ""})'
    if isinstance(v, Path): v = str(v)
    if isinstance(v, (np.ndarray, torch.Tensor)): return f'{type(v).__name__} {tuple(v.shape)}'
    text = getattr(v, '__name__', None) or repr(v)
    return text if len(text) <= LONGEST else text[:LONGEST - 1] + '…'


def shown(
    self, # Of any class
)->str:
    "`Class(setting=value, ...)`, for `__repr__`"
    return f'{type(self).__name__}({settings_text(self)})'


def cut_to(
    text:str, # Of one line
    n:int,    # Letters there is room for
)->str:
    "The text, or its beginning and an ellipsis"
    return text if len(text) <= n else text[:max(n - 1, 1)] + '…'
