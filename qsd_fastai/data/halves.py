"Transforms of batches that have partners: what is drawn for the pictures is what is drawn without partners"
import torch
from fasttransform import Pipeline

from .draws import drawn_apart

__all__ = ['Halves']


class Halves(Pipeline):
    "Changes the first `n` of `2n` pictures, and then the others with draws of their own; other batches as they come"
    def __init__(self,
        funcs,    # A `Pipeline`, or as for one
        n:int,    # Pictures before their partners
        **kwargs, # For `Pipeline`
    ):
        super().__init__(funcs, **kwargs)
        self.n = n

    def __call__(self, b):
        if not isinstance(b, tuple) or len(b[0]) != 2*self.n: return super().__call__(b)
        first = super().__call__(tuple(o[:self.n] for o in b))
        with drawn_apart(): second = super().__call__(tuple(o[self.n:] for o in b))
        return tuple(map(torch.cat, zip(first, second)))
