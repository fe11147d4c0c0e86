"""What several processes save: quality labels and a search, shared out, against one process that does all.

    python benchmarks/shared.py                          # one process
    torchrun --nproc_per_node 2 benchmarks/shared.py     # two
    torchrun --nproc_per_node 2 benchmarks/shared.py --pictures 1000000

Each prints seconds, the peak memory of the first process, and two sums, which are the same however many there are.
Embeddings are drawn, 512 numbers, 20 pictures an identity; the search is of Market-1501's size, 3,368 queries and
15,913 pictures.
"""
import time

import torch
from fastcore.script import call_parse
from tuning.peaks import own_peak

from qsd_fastai.commands import in_one_line
from qsd_fastai.distributed import processes, together
from qsd_fastai.evaluation.retrieval import evaluate_retrieval
from qsd_fastai.launched import joined
from qsd_fastai.quality import similarity_quality


def timed(work):
    "Seconds, from when all processes begin, and what came out"
    if processes()[1] > 1: torch.distributed.barrier()
    start = time.perf_counter()
    with together(): found = work()
    return time.perf_counter() - start, found


@call_parse
@in_one_line
def main(
    pictures:int=100_000, # That are labelled
):
    "Seconds of labels and of a search"
    torch.set_num_threads(1)
    draw = torch.Generator().manual_seed(0)
    emb,ids = torch.randn(pictures, 512, generator=draw),torch.arange(pictures)//20
    sides = torch.randn(3368, 512, generator=draw),torch.randn(15_913, 512, generator=draw)
    who = torch.arange(3368) % 750,torch.arange(15_913) % 750
    with joined():
        labels,quality = timed(lambda: similarity_quality(emb, ids))
        search,found = timed(lambda: evaluate_retrieval(*sides, *who))
        print(f'{processes()[1]} processes: {pictures:,} labels {labels:.1f} s, search {search:.2f} s, '
              f'peak {own_peak():,.0f} MiB; sums {quality.sum(dtype="float64"):.6f}, {found.per_query["ap"].sum():.9f}')
