"""What `TrackRun` costs a training step: its own time in each batch, and steps with it beside steps without.

    python benchmarks/tracking.py [--arch resnet18] [--height 128] [--width 64] [--bs 64] [--rounds 7]

The run is kept offline and every batch is logged. Its own time is what passes in the callback from the beginning of an
epoch to its end, the row of the epoch included; what it does once, at the start and the end of a fit, is beside it.
"""
import tempfile
import time
from statistics import median

import torch
from fastai.callback.core import Callback
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import SGD
from fastcore.script import call_parse
from tuning.measured import Measured

from qsd_fastai.callbacks.loss_terms import LossTerms
from qsd_fastai.callbacks.track_run import TrackRun, usual_every
from qsd_fastai.commands import in_one_line
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.losses import RecognitionLoss
from qsd_fastai.models.recognizer import Recognizer

ONCE = 'before_epoch','after_fit' # The run starts with the first epoch


class Timed(TrackRun):
    "Adds up what it takes"
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.of_steps = self.once = 0.

    def __call__(self, event):
        start = time.perf_counter()
        super().__call__(event)
        took = time.perf_counter() - start
        if event in ONCE: self.once += took
        else: self.of_steps += took


class Clock(Callback):
    "Takes the time of the batches"
    order = TrackRun.order + 1
    def before_train(self): self.start = time.perf_counter()
    def after_train(self):
        if torch.cuda.is_available(): torch.cuda.synchronize()
        self.took = time.perf_counter() - self.start


def seconds(learn, *cbs):
    "Of the batches of an epoch"
    clock = Clock()
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-4, cbs=[*cbs, clock])
    return clock.took


@call_parse
@in_one_line
def main(
    arch:str='resnet18', # A timm model
    height:int=128,      # Of the pictures, pixels
    width:int=64,        # Of the pictures, pixels
    bs:int=64,           # Pictures a step
    steps:int=6,         # A round
    rounds:int=7,        # Of which medians are taken
    out:str='',          # Folder for tracking.json and tracking.md
):
    "Milliseconds of a step and a logged batch, and the share"
    torch.set_num_threads(1)
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    torch.manual_seed(0)
    ids,quality = torch.arange(bs)//4,torch.linspace(0, 100, bs)
    batches = [tuple(o.to(device) for o in (torch.randn(bs, 3, height, width), ids, quality)) for _ in range(steps)]
    dls = DataLoaders(batches, [], device=device)
    dls.n_inp = 1
    model = Recognizer(arch, bs//4, pretrained=False).to(device)
    learn = Learner(dls, model, loss_func=RecognitionLoss(), opt_func=SGD, cbs=[QualityDistillation(), LossTerms()])
    plain,tracked,own,once = [],[],[],[]
    with tempfile.TemporaryDirectory() as folder:
        for k in range(rounds + 1):
            track = Timed(dir=folder, every=1, log_model=False, log_table=False)
            found = seconds(learn),seconds(learn, track),track.of_steps,track.once
            if not k: continue # The first round warms up
            for into,o in zip((plain, tracked, own, once), found): into.append(o)
    step,took = median(plain)/steps,median(own)/steps
    table,each = Measured('tracking', arch=arch, size=f'{height}x{width}', bs=bs), usual_every(100)
    table.add('a step without TrackRun', **{'of a step': 1., 'ms': 1e3*step})
    table.add('a batch that is logged', **{'of a step': took/step, 'ms': 1e3*took})
    table.add(f'a batch of a long epoch, each {each}th logged', **{'of a step': took/step/each, 'ms': 1e3*took/each})
    table.add('a step with TrackRun, all logged', **{'of a step': median(tracked)/median(plain)})
    table.add('once a fit', ms=1e3*median(once))
    table.show(out)
