"""What an epoch costs before its first batch, over four sizes: the order of pictures, and the partners.

The peer is the published sampler's loop, which looks each identity that is done up in a list; it is left out where that
takes minutes. Limit: a second for the order of 100,000 identities.

    python benchmarks/sampler.py"""
import random
import time

from fastcore.script import call_parse
from tuning.measured import Measured

from qsd_fastai.commands import in_one_line
from qsd_fastai.data.order import identity_order, partner_order

SIZES = 1_000, 10_000, 100_000, 1_000_000


def list_order(ids, n_ids, n_imgs, rng):
    "The same draws, with identities that wait in a list"
    where = {}
    for i,identity in enumerate(ids): where.setdefault(identity, []).append(i)
    groups = {}
    for identity,idxs in where.items():
        idxs = list(idxs) if len(idxs) >= n_imgs else rng.choices(idxs, k=n_imgs)
        rng.shuffle(idxs)
        groups[identity] = [idxs[i:i + n_imgs] for i in range(0, len(idxs) - n_imgs + 1, n_imgs)]
    waiting,order = list(groups), []
    while len(waiting) >= n_ids:
        for identity in rng.sample(waiting, n_ids):
            order += groups[identity].pop(0)
            if not groups[identity]: waiting.remove(identity)
    return order


def seconds(f, *args):
    "CPU time of a call, and what it gave"
    start = time.process_time()
    found = f(*args)
    return time.process_time() - start, found


@call_parse
@in_one_line
def main(
    n_imgs:int=4,         # Pictures of each identity in a batch, and in the set
    n_ids:int=16,         # Identities a batch
    most_list:int=30_000, # Identities up to which the list is run, too
    out:str='',           # Folder for sampler.json and sampler.md
):
    "CPU seconds for growing numbers of identities"
    table = Measured('sampler', n_imgs=n_imgs, n_ids=n_ids)
    for n in SIZES:
        ids = [i//n_imgs for i in range(n*n_imgs)]
        random.Random(0).shuffle(ids)
        took,order = seconds(list_order, ids, n_ids, n_imgs, random.Random(1)) if n <= most_list else (None, None)
        ours,found = seconds(identity_order, ids, n_ids, n_imgs, random.Random(1))
        if order is not None and order != found: raise SystemExit('The orders differ.')
        partners,_ = seconds(partner_order, ids, found, random.Random(1))
        print(f'{n:,} identities: {ours:.2f} s', flush=True)
        table.add(f'{n:,} identities', **{'faster than the list': took and took/ours, 'pictures': len(ids),
                                          'list, s': took, 'ours, s': ours, 'partners, s': partners})
    table.show(out)
