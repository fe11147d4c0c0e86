"""Quality labels per second: ours beside the published loops in plain Python, from one run.

The plain form is our own writing of SDD-FIQA's definition as it is usually coded: for every picture and round a scan
for its identity, 24 + 24 draws, one cosine at a time, SciPy's Wasserstein distance. It runs one round on small sets,
and its figures are for the 12 rounds that this would have to be repeated. Embeddings: 512 numbers, 20 pictures an
identity, of varying noise.

    python benchmarks/quality.py                  # 2,000 to 100,000 pictures, under two minutes on 2 cores
    python benchmarks/quality.py --max_n 8000     # a quick look
    python benchmarks/quality.py --max_n 1000000 --max_plain 0 --max_exact 0   # a million"""
import argparse
import random
import resource
import time

import numpy as np
import torch
from scipy.stats import wasserstein_distance
from tuning.measured import Measured

from qsd_fastai.quality import similarity_quality

SIZES = 2_000, 4_000, 8_000, 16_000, 32_000, 64_000, 100_000, 1_000_000


def embeddings(n, nf=512, n_imgs=20):
    "Unit embeddings (n, nf) of `n // n_imgs` identities in no order, and the identities (n,)"
    generator = torch.Generator().manual_seed(n)
    ids = torch.randperm(n, generator=generator)//n_imgs
    emb = torch.randn(n, nf, generator=generator).mul_(torch.rand(n, 1, generator=generator)*1.5 + .5)
    emb += torch.randn(len(ids.unique()), nf, generator=generator)[ids]
    return torch.nn.functional.normalize(emb, dim=1), ids


def plain_round(emb, ids, m=24):
    "One round of the published definition, a picture and a pair at a time: labels (n,), 0..100"
    draw,distances = random.Random(0), []
    for i in range(len(ids)):
        others = [j for j,o in enumerate(ids) if o == ids[i] and j != i]
        pos = [float(np.dot(emb[i], emb[j])) for j in draw.sample(others, min(m, len(others)))]
        picks = []
        while len(picks) < m:
            j = draw.randrange(len(ids))
            if ids[j] != ids[i] and j not in picks: picks.append(j)
        distances.append(wasserstein_distance(pos, [float(np.dot(emb[i], emb[j])) for j in picks]))
    distances = np.array(distances)
    return 100*(distances - distances.min())/(distances.max() - distances.min())


def timed(f, *args, **kwargs):
    "Seconds and result of a call: the best of three, of fewer where they are long"
    best,end = float('inf'), time.perf_counter() + 5
    for _ in range(3):
        start = time.perf_counter()
        out = f(*args, **kwargs)
        best = min(best, time.perf_counter() - start)
        if time.perf_counter() > end: break
    return best, out


def main(
    max_n=100_000,    # Largest number of pictures
    max_plain=4_000,  # Largest number of pictures for the plain form
    max_exact=16_000, # Largest number of pictures for all pairs, which grows with their square
    out='',           # Folder for quality.json and quality.md
):
    "Seconds, labels per second, growth and peak memory for growing numbers of pictures"
    devices = ['cpu'] + (['cuda'] if torch.cuda.is_available() else [])
    table = Measured('quality', growth='exponent of the time against the size before, 1 is linear',
                     memory='of the process with its libraries and data (cuda: of tensors)')
    emb,ids = embeddings(400)
    for device in devices: similarity_quality(emb.to(device), ids)  # first calls load libraries
    before = {}

    def row(form, device, n, seconds):
        n0,seconds0 = before.get((form, device), (n, seconds))
        growth = float(np.log(seconds/seconds0)/np.log(n/n0)) if n > n0 else None
        before[form, device] = n, seconds
        if device == 'cuda': memory = torch.cuda.max_memory_allocated()/2**20
        else: memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**10
        title = f'{form}, {device}, {n:,} pictures'
        print(f'{title}: {seconds:.2f} s', flush=True)
        table.add(title, **{'faster than plain': None, 'growth': growth})
        table.add(title, **{'seconds': seconds, 'labels a second': n/seconds, 'peak MiB': memory})

    for n in [o for o in SIZES if o <= max_n]:
        emb,ids = embeddings(n)
        if n <= max_plain:
            seconds,labels = timed(plain_round, emb.numpy(), ids.tolist())
            row('plain x 12', 'cpu', n, 12*seconds)
        for device in devices:
            seconds,ours = timed(similarity_quality, emb.to(device), ids)
            row('sampled', device, n, seconds)
            if n <= max_exact: row('exact', device, n, timed(similarity_quality, emb.to(device), ids, mode='exact')[0])
        if n <= max_plain:
            faster = before['plain x 12', 'cpu'][1]/before['sampled', 'cpu'][1]
            table.add(f'sampled, cpu, {n:,} pictures', **{'faster than plain': faster,
                      'correlation with a round of it': float(np.corrcoef(labels, ours)[0, 1])})
    table.show(out)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=main.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    for name,default,text in (('max_n', 100_000, 'pictures'), ('max_plain', 4_000, 'pictures for the plain form'),
                              ('max_exact', 16_000, 'pictures for all pairs')):
        names = f'--{name}', f'--{name.replace("_", "-")}'
        parser.add_argument(*names, type=int, default=default, help=f'largest number of {text}')
    parser.add_argument('--out', default='', help='folder for quality.json and quality.md')
    main(**vars(parser.parse_args()))
