"What is drawn: none of it is missed after work that others do not do, or that has draws of its own"
import random
from contextlib import contextmanager

import numpy as np
import torch

__all__ = ['drawn_apart', 'same_draws']


@contextmanager
def same_draws():
    "What is drawn within is not missed after it"
    kept = random.getstate(),np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try: yield
        finally:
            random.setstate(kept[0])
            np.random.set_state(kept[1])


@contextmanager
def drawn_apart():
    "What is drawn within follows from where the generators are, has nothing of what they give next, and is not missed"
    with same_draws():
        seed = int(torch.randint(2**31, ()))
        random.seed(seed)
        np.random.seed(seed)
        torch.default_generator.manual_seed(seed)
        yield
