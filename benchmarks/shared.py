"""What several processes save: quality labels and a search, shared out, against one process that does all.

    python benchmarks/shared.py                          # one process
    torchrun --nproc_per_node 2 benchmarks/shared.py     # two
    torchrun --nproc_per_node 2 benchmarks/shared.py --pictures 1000000 --file compared.f32

Each prints seconds, the peak memory of the first process, and two sums, which are the same however many there are. What
of a file is in memory counts in each process, though they share it and the system may take it back: *its own* is the
peak without it, looked at ten times a second. Embeddings are drawn, 512 numbers, 20 pictures an identity; the search is
of Market-1501's size, 3,368 queries and 15,913 pictures.
"""
import re
import time
from pathlib import Path
from threading import Thread

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


def drawn(n, draw, some=10_000):
    "Embeddings, part by part"
    for lo in range(0, n, some): yield torch.randn(min(some, n - lo), 512, generator=draw)


class Own(Thread):
    "The most that this process has in memory beside files, MiB; 0 where the system does not say it"
    def __init__(self):
        super().__init__(daemon=True)
        self.peak = 0
        self.start()

    def run(self):
        status = Path('/proc/self/status')
        while status.is_file():
            self.peak = max(self.peak, int(re.search(r'RssAnon:\s+(\d+)', status.read_text())[1])/2**10)
            time.sleep(.1)


@call_parse
@in_one_line
def main(
    pictures:int=100_000, # That are labelled
    file:str='',          # Where embeddings lie while they are compared; in memory when not given
):
    "Seconds of labels and of a search"
    torch.set_num_threads(1)
    own = Own()
    draw = torch.Generator().manual_seed(0)
    ids = torch.arange(pictures)//20
    searched = torch.Generator().manual_seed(1)
    sides = torch.randn(3368, 512, generator=searched),torch.randn(15_913, 512, generator=searched)
    who = torch.arange(3368) % 750,torch.arange(15_913) % 750
    with joined():
        labels,quality = timed(lambda: similarity_quality(drawn(pictures, draw), ids, file=file or None))
        search,found = timed(lambda: evaluate_retrieval(*sides, *who))
        sums = f'{quality.sum(dtype="float64"):.6f}, {found.per_query["ap"].sum():.9f}'
        print(f'{processes()[1]} processes: {pictures:,} labels {labels:.1f} s, search {search:.2f} s, '
              f'peak {own_peak():,.0f} MiB, its own {own.peak:,.0f} MiB; sums {sums}')
