"One fine-tuning: from given weights, by an arm, with the batches that its seed gives to all arms"
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.torch_core import set_seed
from fastai.vision.core import imagenet_stats

from qsd_fastai.arms import added_by
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.files import save_whole
from qsd_fastai.learner import recognition_learner
from qsd_fastai.optimizers import fused_adam
from qsd_fastai.panning import pan_model
from qsd_fastai.quality import similarity_quality

from .arms import PANNING
from .memory import layout_of, set_quality, unit_embeddings

__all__ = ['Tuning']


class Watch(Callback):
    "Ends a fit after so many steps, judges after some of them, and takes the time of all but the judging"
    def __init__(self, n, at, judge): self.n,self.at,self.judge,self.rows,self.paused,self.cases = n,at,judge,[],0.,{}

    def before_fit(self): self.begun = time.perf_counter()

    def before_batch(self):
        if self.training and self.train_iter >= self.n: raise CancelFitException

    def after_batch(self):
        if not self.training or self.train_iter not in self.at: return
        row = {'at': self.train_iter, 'MB': 0.}
        if torch.cuda.is_available():
            torch.cuda.synchronize()
            row['MB'] = torch.cuda.max_memory_allocated()/2**20
        start = time.perf_counter()
        row['s a step'] = (start - self.begun - self.paused)/self.train_iter
        figures,self.cases = self.judge(self.model)
        self.rows.append({**row, **figures})
        self.model.train()
        self.paused += time.perf_counter() - start


@dataclass
class Tuning:
    "What all fine-tunings of a set have in common"
    table:pd.DataFrame  # Trained on are its rows of split 'train'
    body:Callable       # Makes the network with its weights
    head:Callable       # Of `(nf, n_ids)`: makes a head, which is yet to be started
    imprint:Callable    # Of a head, embeddings `(n, nf)` and identities `(n,)`: starts it there
    judge:Callable      # Of a model: figures, 0 to 1, by name, and what each pair or query adds to some of them `(n,)`
    copies:object       # `DegradedCopies`
    out:Path            # Folder of the results
    size:tuple          # `(height, width)`, pixels
    batch:dict          # Of `recognition_dataloaders`: `n_ids`, `n_imgs`, `augment`
    lr:float            # Highest rate
    device:torch.device # Of everything
    loaders:dict = field(default_factory=dict)

    def __post_init__(self):
        train = self.table[self.table['split'] == 'train']
        self.out.mkdir(parents=True, exist_ok=True)
        file = self.out/'start.pt' # What the weights as they are make of the training pictures
        if not file.is_file():
            learn = self.learner(None)
            dl = learn.dls.train
            dl.kept.fill(dl)
            save_whole(unit_embeddings(learn.model, dl.kept.store.pixels, imagenet_stats).cpu(), file)
        self.start = torch.load(file, weights_only=True)
        quality = np.full(len(self.table), np.nan)
        quality[(self.table['split'] == 'train').to_numpy()] = similarity_quality(self.start, train['identity'])
        self.labelled = self.table.assign(quality=quality)

    def _loaders(self, partners, copies):
        "Made once of each kind: tables are long and fine-tunings short"
        if (partners, copies) not in self.loaders:
            dls = recognition_dataloaders(self.table, size=self.size, partners=partners, copies=copies and self.copies,
                                          seed=0, erase=0, device=self.device, keep='device', **self.batch)
            dls.valid.n = 0
            self.loaders[partners, copies] = dls
        return self.loaders[partners, copies]

    def learner(self,
        method, # Callback of an arm; None: without one
    ):
        "With the weights as they are, and a head that is yet to be started"
        learn = recognition_learner(self._loaders(**added_by(method)), self.body(), self.head, opt_func=fused_adam)
        learn.model.to(self.device, memory_format=layout_of(self.device))
        return learn

    def tuned(self,
        arm,       # `Arm`
        seed:int,  # Of batches and of what is drawn
        steps:int, # Of the whole schedule
        at=(),     # Steps after which it is judged, too
    ): # `(learner, rows, cases)`: a row each time it was judged, what `judge` said of pairs or queries at the end
        "The learner after its fine-tuning"
        set_seed(seed)
        method = arm.method()
        learn = self.learner(method)
        dl = learn.dls.train
        # a picture beside its copy counts as good, whatever it is
        shown = self.table.assign(quality=np.nan) if arm.pairs == 'copies' else arm.table(self.labelled, seed)
        set_quality(learn.dls, shown.loc[shown['split'] == 'train', 'quality'])
        dl.rng.seed(seed)
        self.imprint(learn.model.head, self.start.to(self.device), dl.kept.targets[0])
        set_seed(seed)
        if torch.cuda.is_available(): torch.cuda.reset_peak_memory_stats()
        watch = Watch(steps, {*at, steps}, self.judge)
        if arm is PANNING:
            pan_model(learn, self.copies)
            figures,cases = self.judge(learn.model)
            return learn, [{'at': steps, 'MB': 0., 's a step': 0., **figures}], cases
        epochs = max(1, -(-steps//len(dl)))
        curve,share = combined_cos(.25, 1/25, 1., 1e-2),epochs*len(dl)/steps
        schedule = ParamScheduler({'lr': lambda pct: self.lr*float(curve(min(1., pct*share)))})
        with learn.no_bar(), learn.no_logging():
            learn.fit(epochs, self.lr, cbs=[watch, *([method] if method else []), schedule])
        return learn, watch.rows, watch.cases
