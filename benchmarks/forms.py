"""What a step costs with each form of QSD, against the same step on the same pictures without it.

    python benchmarks/forms.py [--arch resnet18] [--height 128] [--width 64] [--bs 64] [--rounds 7]

Medians of interleaved rounds through a fastai `Learner` on one CPU thread or a GPU; memory is the peak of a process of
its own. Ratios are what counts: machines differ, and these are noisy.
"""
import time
from statistics import median

import torch
from fastai.callback.progress import ProgressCallback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
from fastcore.script import call_parse
from tuning.measured import Measured
from tuning.peaks import own_peak, peaks_alone

from qsd_fastai.arms import ARMS
from qsd_fastai.commands import in_one_line
from qsd_fastai.losses import RecognitionLoss
from qsd_fastai.models.recognizer import Recognizer

FORMS = ('without', 'with', 'free', 'copies', 'copies-stop', 'copies-gap', 'copies-free', 'copies-ema',
         'copies-relations', 'copies-mean', 'copies-logits', 'octuplet', 'adaface')


def learner(key, arch, height, width, bs, n=3):
    "A learner whose batches hold `bs` pictures, the second half of them as copies of the first"
    torch.manual_seed(0)
    ids = (torch.arange(bs//2)//4).repeat(2)
    quality = torch.cat([torch.full((bs//2,), 100.), torch.linspace(10, 80, bs//2)])
    batches = [(torch.randn(bs, 3, height, width), ids, quality, ids) for _ in range(n)]
    dls = DataLoaders(batches, [])
    dls.n_inp = 1
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    if device == 'cuda': dls.train = [tuple(o.cuda() for o in b) for b in batches]
    model = Recognizer(arch, bs//8, pretrained=False).to(device, memory_format=torch.channels_last)
    method = ARMS[key].method()
    learn = Learner(dls, model, loss_func=RecognitionLoss(), opt_func=SGD, cbs=[method] if method else [])
    learn.remove_cb(ProgressCallback)
    return learn


def seconds(learn):
    "Of a step"
    start = time.perf_counter()
    with learn.no_logging(): learn.fit(1, 1e-4)
    if torch.cuda.is_available(): torch.cuda.synchronize()
    return (time.perf_counter() - start)/len(learn.dls.train)


@call_parse
@in_one_line
def main(
    arch:str='resnet18', # A timm model
    height:int=128,      # Of the pictures, pixels
    width:int=64,        # Of the pictures, pixels
    bs:int=64,           # Pictures a step, copies among them
    rounds:int=7,        # Of which medians are taken
    out:str='',          # Folder for forms.json and forms.md
    memory:str='',       # Print the peak memory of this form alone, MiB
):
    "A row a form: seconds a step and peak memory, and both against none"
    torch.set_num_threads(1)
    size = arch,height,width,bs
    if memory:
        seconds(learner(memory, *size))
        return print(own_peak())
    learners = {key: learner(key, *size) for key in FORMS}
    found = {key: [] for key in FORMS}
    for k in range(rounds + 1):
        for key,learn in learners.items():
            took = seconds(learn)
            if k: found[key].append(took) # The first round warms up
    peak = peaks_alone(__file__, {'arch': arch, 'height': height, 'width': width, 'bs': bs}, FORMS)
    base,least = median(found['without']),peak['without']
    table = Measured('forms', arch=arch, size=f'{height}x{width}', bs=bs, rounds=rounds)
    for key,took in found.items():
        table.add(key, **{'time against none': median(took)/base, 'memory against none': peak[key]/least,
                          's a step': median(took), 'MiB': peak[key]})
    table.show(out)
