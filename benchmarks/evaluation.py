"""Judging by search at full size: ours beside the product alone, the published loop, sorting, dense re-ranking.

The plain forms are our own writing of the rules as they are usually coded. Ratios are what counts: forms take turns,
and the best run of each is taken. `busy` is the time of all cores together: on a machine that others use too, its
ratios (in brackets) can be trusted longer. Memory is the growth of resident memory during the call, over its inputs.

    python benchmarks/evaluation.py                   # Market-1501's and MSMT17's sizes; 16 GB, minutes on 2 cores
    python benchmarks/evaluation.py --no-dense        # without dense re-ranking, which takes about 7 GB
    python benchmarks/evaluation.py --sizes market    # a quick look"""
import argparse
import ctypes
import gc
import resource
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from tuning.measured import Measured

from qsd_fastai.evaluation.distances import DistanceBlocks, Embeddings
from qsd_fastai.evaluation.open_set import open_set_rates, pair_rates
from qsd_fastai.evaluation.reranking import k_reciprocal
from qsd_fastai.evaluation.retrieval import evaluate_distances, evaluate_retrieval
from qsd_fastai.evaluation.single_shot import single_shot_cmc

SIZES = {'market / 16': (842, 3978, 188), 'market / 4': (1684, 7956, 376), 'market': (3368, 15913, 751),
         'msmt17': (11659, 82161, 3060)}  # queries, gallery pictures, identities
PAGE,libc = resource.getpagesize(), ctypes.CDLL(None)


def search(n_query, n_gallery, n_ids, nf=2048):
    "Embeddings of noisy identities and their labels, as `evaluate_retrieval` takes them"
    own = dict(generator=torch.Generator().manual_seed(n_gallery))
    ids = [torch.randint(n_ids, (n,), **own) for n in (n_query, n_gallery)]
    centers = torch.randn(n_ids, nf, **own)
    emb = [torch.randn(len(o), nf, **own).mul_(torch.rand(len(o), 1, **own)*8 + 2) for o in ids]
    for e,o in zip(emb, ids):
        for lo in range(0, len(e), 4096): e[lo:lo + 4096] += centers[o[lo:lo + 4096]]
    cameras = [torch.randint(6, (n,), **own) for n in (n_query, n_gallery)]
    return *emb, *(o.numpy() for o in (*ids, *cameras))


class Peak:
    "Growth of resident memory inside a `with`, in MB"
    def __enter__(self):
        gc.collect()
        if hasattr(libc, 'malloc_trim'): libc.malloc_trim(0)  # memory that was freed but kept would hide growth
        self.before,self.most,self.end = self.now(), 0, threading.Event()
        self.thread = threading.Thread(target=self.watch)
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.end.set()
        self.thread.join()

    def watch(self):
        while not self.end.wait(.003): self.most = max(self.most, self.now() - self.before)

    @staticmethod
    def now(): return int(Path('/proc/self/statm').read_text().split()[1])*PAGE/2**20


class Took(NamedTuple):
    "What a call took: seconds on the clock, seconds of all cores, MB"
    seconds: float
    busy: float
    memory: float


def timed(f, sync=False, watch=True):
    "`Took` and result of a call; without `watch` memory is not looked at, which takes time itself"
    if sync: torch.cuda.synchronize()
    with Peak() if watch else nullcontext() as peak:
        start,busy = time.perf_counter(), time.process_time()
        out = f()
        if sync: torch.cuda.synchronize()
        took = Took(time.perf_counter() - start, time.process_time() - busy, 0)
    return took._replace(memory=peak.most if watch else 0), out


def in_turn(forms, runs, sync=False):
    "The best that each of several forms took, and its last result; they take turns, and a last one for memory"
    got = {name: [] for name in forms}
    for _ in range(runs):
        for name,f in forms.items(): got[name].append(timed(f, sync, watch=False)[0])
    best = {name: Took(min(t.seconds for t in o), min(t.busy for t in o), 0) for name,o in got.items()}
    watched = {name: timed(f, sync) for name,f in forms.items()}
    return {name: (best[name]._replace(memory=took.memory), out) for name,(took, out) in watched.items()}


def product_alone(q, g, chunk):
    "Nothing but the matrix product, in blocks of the same size into the same memory"
    out = torch.empty(chunk, len(g), device=q.device)
    for lo in range(0, len(q), chunk): torch.mm(q[lo:lo + chunk], g.T, out=out[:min(chunk, len(q) - lo)])


def published_loop(dist, q_ids, g_ids, q_cameras, g_cameras, max_rank=50):
    "mAP, a query at a time: everything sorted, junk masked, sums along the list"
    order = np.argsort(dist, axis=1)
    right = g_ids[order] == q_ids[:, None]
    ap,inp,cmc = [], [], []
    for i in range(len(dist)):
        keep = ~((g_ids[order[i]] == q_ids[i]) & (g_cameras[order[i]] == q_cameras[i]))
        hits = right[i][keep].astype(np.int32)
        if not hits.any(): continue
        so_far = hits.cumsum()
        last = np.where(hits == 1)[0].max()
        inp.append(so_far[last]/(last + 1))
        cmc.append((so_far > 0)[:max_rank])
        ap.append((np.array([c/(k + 1) for k,c in enumerate(so_far)])*hits).sum()/hits.sum())
    return np.mean(ap)


def by_sorting(dist, q_ids, g_ids, q_cameras, g_cameras):
    "mAP from `torch.sort`, a block of queries at a time, all else vectorised"
    total = n = 0
    labels = [torch.as_tensor(o, device=dist.device) for o in (q_ids, g_ids, q_cameras, g_cameras)]
    for lo in range(0, len(dist), 256):
        q_id,q_camera = (o[lo:lo + 256, None] for o in labels[::2])
        order = dist[lo:lo + 256].sort(dim=1, stable=True)[1]
        same = labels[1][order] == q_id
        junk = same & (labels[3][order] == q_camera)
        hits = same & ~junk
        rank = (~junk).cumsum(1)
        ap = (hits.cumsum(1)/rank.clamp(min=1)*hits).sum(1)/hits.sum(1)
        total,n = total + ap.nansum().item(), n + ap.isfinite().sum().item()
    return total/n


def dense_reranking(q, g, k1=20, k2=6, share=.3):
    "k-reciprocal re-ranking with full matrices in numpy, a picture at a time"
    x = np.concatenate([q, g])
    dist = 2 - 2*x@x.T
    dist /= dist.max(1, keepdims=True)
    near = np.argsort(dist, axis=1)
    weights = np.zeros_like(dist)
    def mutual(i, k, near=near):
        forward = near[i, :k + 1]
        return forward[np.where(near[forward, :k + 1] == i)[0]]
    for i in range(len(x)):
        base = mutual(i, k1)
        members = base
        for j in base:
            other = mutual(j, round(k1/2))
            if len(np.intersect1d(other, base)) > 2/3*len(other): members = np.append(members, other)
        members = np.unique(members)
        weight = np.exp(-dist[i, members])
        weights[i, members] = weight/weight.sum()
    dist = dist[:len(q)].copy()
    averaged = np.zeros_like(weights)
    for i in range(len(x)): averaged[i] = weights[near[i, :k2]].mean(0)
    del weights
    having = [np.where(averaged[:, j] != 0)[0] for j in range(len(x))]
    jaccard = np.zeros_like(dist)
    for i in range(len(q)):
        shared = np.zeros(len(x), dtype=np.float32)
        for j in np.where(averaged[i] != 0)[0]: shared[having[j]] += np.minimum(averaged[i, j], averaged[having[j], j])
        jaccard[i] = 1 - shared/(2 - shared)
    return (jaccard*(1 - share) + dist*share)[:, len(q):]


def line(table, what, took, against=None, note=''):
    "A row: what a call took, and its ratio to another one"
    ratios = (took.seconds/against.seconds, took.busy/against.busy) if against else (None, None)
    table.add(what, **dict(zip(('ratio', 'busy ratio'), ratios)))
    table.add(what, **{'seconds': took.seconds, 'busy': took.busy, 'MiB': took.memory}, limits=note)
    print(f'{what}: {took.seconds:.3f} s {note}', flush=True)


def verdict(value, bound, unit, at_most=True):
    "A limit, and whether it is missed"
    missed = value > bound if at_most else value < bound
    return f'limit at {"most" if at_most else "least"} {bound} {unit}{": MISSED" if missed else ""}'


def judge(table, name, device, runs, n_sorted):
    "One size on one device; seconds of the whole judgement"
    q,g,*labels = search(*SIZES[name])
    on_gpu = device == 'cuda'
    of = f'{name}, {device}: '
    print(f'{of}{len(q):,} queries x {len(g):,} gallery pictures, {q.shape[1]} features')
    stored = [o.to(device) for o in (q, g)]
    unit = [torch.nn.functional.normalize(o).to(device) for o in (q, g)]
    chunk = max(1, 2**25//len(g))
    forms = {'product alone': lambda: product_alone(*unit, chunk),
             'product and ranking': lambda: evaluate_retrieval(*stored, *labels)}
    got = in_turn(forms, runs, on_gpu)
    (alone, _),(whole, result) = got.values()
    line(table, f'{of}product alone', alone)
    notes = [verdict(whole.seconds/alone.seconds, 1.15, 'x')]
    if not on_gpu: notes.append(verdict(whole.memory, 500, 'MB'))  # stated at MSMT17's size: smaller ones need no more
    elif name == 'market': notes.append(verdict(whole.seconds, .2, 's'))
    line(table, f'{of}evaluate_retrieval', whole, alone, '; '.join(notes))
    print(result)
    n = min(n_sorted, len(q))
    some = [labels[0][:n], labels[1], labels[2][:n], labels[3]]
    dist = DistanceBlocks(*(Embeddings([o], ['emb'], True) for o in stored)).distances(0, n)
    evaluate_distances(dist[:8], some[0][:8], some[1], some[2][:8], some[3])
    forms = {'ours': lambda: evaluate_distances(dist, *some), 'sort': lambda: by_sorting(dist, *some)}
    if not on_gpu: forms['loop'] = lambda: published_loop(dist.numpy(), *some)
    got = in_turn(forms, min(runs, 2), on_gpu)
    ours,result = got['ours']
    line(table, f'{of}ranking without product, {n:,} queries', ours)
    for form,what,bound in (('sort', 'torch.sort', 20), ('loop', 'published loop', 50)):
        if form not in got: continue
        other,mean = got[form]
        assert abs(mean - result.mAP) < 1e-4, (form, mean, result.mAP)
        line(table, f'{of}the same by {what}', other, ours, verdict(other.seconds/ours.seconds, bound, 'x', False))
    return whole.seconds


def others(table, q, g, *labels):
    "What else looks at every pair"
    unmated = [labels[0].copy(), *labels[1:]]
    unmated[0][::10] += 10**6
    line(table, 'market, cpu: open_set_rates', timed(lambda: open_set_rates(q, g, *unmated))[0])
    line(table, 'market, cpu: pair_rates', timed(lambda: pair_rates(q, g, *labels))[0])
    line(table, 'market, cpu: single_shot_cmc, exact', timed(lambda: single_shot_cmc(q, g, *labels))[0])
    drawn = timed(lambda: single_shot_cmc(q, g, *labels, n_draws=10))[0]
    line(table, 'market, cpu: single_shot_cmc, 10 drawings', drawn)


def rerank(table, dense, device):
    "Re-ranking at Market-1501's size, its judgement included"
    q,g,*labels = search(*SIZES['market'])
    q,g = (torch.nn.functional.normalize(o).to(device) for o in (q, g))
    evaluate_distances(k_reciprocal(q[:99], g[:999]), labels[0][:99], labels[1][:999])  # the first call compiles
    forms = {'ours': lambda: evaluate_distances(k_reciprocal(q, g), *labels)}
    sparse,ours = in_turn(forms, 2, device == 'cuda')['ours']
    line(table, f'market, {device}: k_reciprocal and its judgement', sparse)
    print(ours)
    if not dense or device == 'cuda': return
    plain,dist = timed(lambda: dense_reranking(q.numpy(), g.numpy()))
    less = plain.memory/max(sparse.memory, 1)
    faster = plain.seconds/sparse.seconds
    note = f'{verdict(faster, 5, "x", False)}; memory {less:.1f} x, {verdict(less, 10, "x", False)}'
    line(table, f'market, {device}: dense in numpy, not judged', plain, sparse, note)
    difference = np.abs(k_reciprocal(q, g).distances(0, 200).numpy() - dist[:200])
    print(f'of the distances of 200 queries {(difference > 2e-5).mean():.2%} differ by more than 2e-5: '
          'neighbours as near as rounding can tell')


def main(
    sizes=tuple(SIZES), # Names of sizes
    runs=3,             # Turns of each form; one fewer at MSMT17's size
    dense=True,         # Dense re-ranking too
    out='',             # Folder for evaluation.json and evaluation.md
):
    "Seconds, memory, and ratios with their limits"
    devices = ['cpu'] + (['cuda'] if torch.cuda.is_available() else [])
    table = Measured('evaluation', runs=runs)
    for device in devices:
        q,g,*labels = search(64, 256, 9, 64)
        start = time.perf_counter()
        evaluate_retrieval(q.to(device), g.to(device), *labels)
        print(f'first call, {device}: {time.perf_counter() - start:.1f} s (compiled, or read from the cache)')
        before = None
        for name in sizes:
            large,pairs = name == 'msmt17', SIZES[name][0]*SIZES[name][1]
            seconds = judge(table, name, device, max(1, runs - large), 512 if large else 10**9)
            if before:
                exponent = np.log(seconds/before[0])/np.log(pairs/before[1])
                table.add(f'{name}, {device}: evaluate_retrieval', **{'growth with pairs': float(exponent)})
            before = seconds, pairs
            if name == 'market' and device == 'cpu': others(table, *search(*SIZES[name]))
        if 'market' in sizes: rerank(table, dense, device)
    table.show(out)


if __name__ == '__main__':
    parser = argparse.ArgumentParser(description=main.__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument('--sizes', nargs='+', choices=list(SIZES), default=list(SIZES), help='sizes to run')
    parser.add_argument('--runs', type=int, default=3, help='turns of each form, the best counts')
    parser.add_argument('--no-dense', '--no_dense', dest='dense', action='store_false',
                        help='leave out dense re-ranking (7 GB)')
    parser.add_argument('--out', default='', help='folder for evaluation.json and evaluation.md')
    main(**vars(parser.parse_args()))
