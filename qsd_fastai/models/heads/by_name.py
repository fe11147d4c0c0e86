"Any head by its name, with its scale, over all identities or a sample of them a step"
from collections.abc import Callable
from functools import partial

from ...choices import one_of
from .linear import LinearHead
from .margins import AdaFace, ArcFace, CosFace, CurricularFace, MagFace, SubCenterArcFace
from .partial_fc import PartialFC

__all__ = ['make_head', 'own_heads']

own_heads:dict[str, Callable] = {
    'linear': LinearHead, 'arcface': ArcFace, 'cosface': CosFace, 'adaface': AdaFace, 'magface': MagFace,
    'curricularface': CurricularFace, 'subcenter': SubCenterArcFace}


def make_head(
    name:str,      # One of `own_heads`
    s:float=64.,   # Scale of a margin head, > 0; 64 suits very many identities, 32 few
    rate:float=1., # Below 1: share of the identities that a step compares with (Partial FC)
)->Callable: # Of `(nf, n_ids)`, for `Recognizer`
    "What makes a head; raises `ValueError` for an unknown name"
    head = own_heads[one_of('head', name, *own_heads)]
    if name == 'linear': return head
    head = partial(head, s=s)
    return head if rate >= 1 else partial(PartialFC, margin=head, rate=rate)
