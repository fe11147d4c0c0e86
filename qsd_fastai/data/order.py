"The order of one pass over training pictures: identities by the batch, and partners"
import random

import numpy as np

__all__ = ['dealt_out', 'identity_order', 'partner_order']


def identity_order(
    ids,        # Identity of each picture, `(n,)`, anything hashable
    n_ids:int,  # Identities a batch
    n_imgs:int, # Pictures of each
    rng=random, # `random` itself, or a `random.Random`
)->list: # Indices, consecutive runs of `n_ids*n_imgs` are batches
    """One epoch's order of pictures, each batch `n_ids` identities x `n_imgs` pictures (Hermans et al. 2017, AGW, QSD).

    Every identity is cut into groups of `n_imgs`; groups are dealt until fewer than `n_ids` identities have one left.
    An identity with fewer pictures than `n_imgs` repeats them."""
    code = {}
    codes = [code.setdefault(identity, len(code)) for identity in ids]
    by_identity,hi = np.argsort(codes, kind='stable').tolist(), 0
    # groups end to end, and where those of each identity begin: a list for each of them would cost more than its draws
    groups,start = [], [0]
    for n in np.bincount(codes).tolist():
        lo,hi = hi, hi + n
        idxs = by_identity[lo:hi]
        if n < n_imgs: idxs = [idxs[int(rng.random()*n)] for _ in range(n_imgs)]  # as `rng.choices` draws
        _shuffle(idxs, rng.getrandbits)
        groups += idxs[:len(idxs)//n_imgs*n_imgs]
        start.append(len(groups))
    waiting,at,order = _Waiting(len(code)), start[:-1], []
    while len(waiting) >= n_ids:
        drawn,done = waiting.places(rng.sample(range(len(waiting)), n_ids)), []
        for k,place in zip(waiting.numbers[drawn].tolist(), drawn.tolist()):
            order += groups[at[k]:at[k] + n_imgs]
            at[k] += n_imgs
            if at[k] == start[k + 1]: done.append(place)
        if done: waiting.remove(done)
    return order


def _shuffle(items, getrandbits):
    "What `random.shuffle` does, draw for draw, without a call of Python for each: many identities have few pictures"
    for i in range(len(items) - 1, 0, -1):
        bits = (i + 1).bit_length()
        while (j := getrandbits(bits)) > i: pass
        items[i],items[j] = items[j],items[i]


class _Waiting:
    """The numbers 0 to `n - 1` in order, from which some are taken out, in time that hardly grows with `n`.

    Places that were left are kept in a short sorted array, and cut out together once that is long."""
    def __init__(self, n): self.numbers,self.gone,self.before = np.arange(n), np.empty(0, int), np.empty(0, int)

    def __len__(self): return len(self.numbers) - len(self.gone)

    def places(self, drawn):
        "Where in `numbers` those stand that are the `drawn`-th of what is left"
        return drawn + self.before.searchsorted(drawn, side='right')

    def remove(self, places):
        gone = np.concatenate([self.gone, places])
        gone.sort()
        if len(gone) > 2048: self.numbers,gone = np.delete(self.numbers, gone), gone[:0]
        self.gone,self.before = gone, gone - np.arange(len(gone))  # before the i-th, so many are left


def partner_order(
    ids,        # Identity of each picture, `(n,)`, anything hashable
    order,      # Pictures that want a partner, indices, repeated ones included
    rng=random, # Anything with `randrange`
)->list: # As many indices
    "For each picture another of its identity, each of them as likely (Ou et al. 2024); itself where there is no other"
    where,place = {},[]
    for i,identity in enumerate(ids):
        others = where.setdefault(identity, [])
        place.append(len(others))
        others.append(i)

    def draw(i):
        others = where[ids[i]]
        if len(others) == 1: return i
        k = rng.randrange(len(others) - 1)
        return others[k + (k >= place[i])]  # one step on from the picture itself

    return [draw(i) for i in order]


def dealt_out(
    parts,     # Orders of as many pictures each: the pictures, their partners
    n:int,     # Of each order in a batch
    world:int, # Processes that batches are dealt to in turn; 0 is 1
)->list: # Indices, all batches of the first process, then those of the next
    "Batches as `DistributedDL` takes them apart: it gives each process neighbours"
    world = max(world, 1)
    starts = [k for rank in range(world) for k in range(rank*n, len(parts[0]), world*n)]
    return [i for k in starts for part in parts for i in part[k:k + n]]
