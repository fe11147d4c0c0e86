"""A million identities: memory and time of a training step over a sample of them, beside the same step over all.

Peak memory is that of the process, everything in it. Every form runs in a process of its own.

    python benchmarks/partial_fc.py                  # 1,000,000 identities of 512 numbers, a tenth of them in a step
    python benchmarks/partial_fc.py --all            # and all of them in a step: needs about 16 GB
    python benchmarks/partial_fc.py --n_ids 100000 --all"""
import argparse
import multiprocessing
import resource
import sys
import time

import torch

from qsd_fastai.models.heads.margins import ArcFace
from qsd_fastai.models.heads.partial_fc import PartialFC


def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)/2**30


def run(name, n_ids, nf, bs, rate, steps, results):
    "One form: seconds to make it, seconds of each step, GiB at most"
    torch.manual_seed(0)
    began = time.perf_counter()
    if name == 'parameter, SGD':
        head = ArcFace(nf, n_ids)
        opt = torch.optim.SGD(head.parameters(), lr=.1, momentum=.9, weight_decay=5e-4)
    else: head = PartialFC(nf, n_ids, rate=rate)
    made,times = time.perf_counter() - began, []
    for _ in range(steps):
        emb,ids = torch.randn(bs, nf, requires_grad=True), torch.randint(0, n_ids, (bs,))
        began = time.perf_counter()
        if isinstance(head, PartialFC): head.sample(ids)
        sum(head.terms(head(emb), emb, ids).values()).backward()
        if isinstance(head, PartialFC): head.update(.1)
        else: opt.step(), opt.zero_grad()
        times.append(time.perf_counter() - began)
    results.put((made, min(times), peak()))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--n_ids', type=int, default=1_000_000)
    parser.add_argument('--nf', type=int, default=512, help='size of the embedding')
    parser.add_argument('--bs', type=int, default=64, help='pictures in a step')
    parser.add_argument('--rate', type=float, default=.1, help='share of identities in a step')
    parser.add_argument('--steps', type=int, default=3)
    parser.add_argument('--all', action='store_true', help='also with every identity in every step')
    args = parser.parse_args()
    forms = [(f'sampled, rate {args.rate:g}', args.rate)]
    if args.all: forms += [('sampled, rate 1', 1.), ('parameter, SGD', 1.)]
    print(f'{args.n_ids:,} identities x {args.nf}, {args.bs} pictures a step, '
          f'{torch.get_num_threads()} threads, torch {torch.__version__}')
    context = multiprocessing.get_context('spawn')
    for name,rate in forms:
        results = context.SimpleQueue()
        given = name, args.n_ids, args.nf, args.bs, rate, args.steps, results
        process = context.Process(target=run, args=given)
        process.start()
        process.join()
        if process.exitcode: print(f'{name:20} stopped with code {process.exitcode}: not enough memory?')
        else:
            made,step,most = results.get()
            print(f'{name:20} made in {made:5.1f} s   best step {step:6.2f} s   peak {most:5.1f} GiB', flush=True)


if __name__ == '__main__': main()
