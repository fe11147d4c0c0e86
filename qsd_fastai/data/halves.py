"Transforms of batches that have partners: what is drawn for the pictures is what is drawn without partners"
import random
from contextlib import contextmanager

import numpy as np
import torch
from fasttransform import Pipeline

__all__ = ['Halves', 'drawn_apart']


@contextmanager
def drawn_apart():
    "What is drawn within follows from where the generators are, and leaves them there"
    kept = random.getstate(),np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        seed = int(torch.randint(2**31, ()))
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        try: yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


class Halves(Pipeline):
    "Changes the first `n` of `2n` pictures, and then the others with draws of their own; other batches as they come"
    def __init__(self,
        funcs,         # A `Pipeline`, or as for one
        n:int,         # Pictures before their partners
        **kwargs,      # For `Pipeline`
    ):
        super().__init__(funcs, **kwargs)
        self.n = n

    def __call__(self, b):
        if not isinstance(b, tuple) or len(b[0]) != 2*self.n: return super().__call__(b)
        first = super().__call__(tuple(o[:self.n] for o in b))
        with drawn_apart(): second = super().__call__(tuple(o[self.n:] for o in b))
        return tuple(map(torch.cat, zip(first, second)))
