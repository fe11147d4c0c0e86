"A fit over the processes of a launch, through fastai's distributed context"
import random
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from accelerate import Accelerator
from fastai.distributed import DistributedDL, DistributedTrainer
from fastai.torch_core import get_model

from ..data.within import by_fork
from ..distillation import QualityDistillation
from ..distributed import gather_objects, processes, together
from ..evaluation.metrics import StoredMetric
from ..fits import is_judging
from ..models.shared_norm import own_statistics, share_statistics

__all__ = ['ManyProcesses', 'SharedDL']


class SharedDL(DistributedDL):
    "fastai's `DistributedDL` where there is no GPU, too"
    def __init__(self,
        dl,       # Loader that deals out, the same on every process
        **kwargs, # For `DistributedDL`: `rank`, `world_size`, `device`
    ):
        super().__init__(dl, **kwargs)
        by_fork(self)

    def _broadcast(self, t, rank):
        t = torch.as_tensor(t, device='cuda' if dist.get_backend() == 'nccl' else 'cpu')
        dist.broadcast(t, rank)
        return t.tolist()


class ManyProcesses(DistributedTrainer):
    """Trains one network on all processes of a launch: each has batches of its own, gradients are averaged

    fastai's `DistributedTrainer` without what does not go with it here: its loaders work on GPUs only; its synchronised
    batch norm does not work on a CPU, takes the activation out of those layers of timm that hold one, and stays in the
    network; and its processes draw the same augmentation. Mixed precision is fastai's `to_bf16`, not accelerate's.

    Given to `fit`, by `Stage.cbs` in recipes. Validation is shared out, too, and every process knows all of it."""
    order = DistributedTrainer.order

    def __init__(self,
        sync_bn:bool=False, # Normalise by statistics over the batches of all processes?
    ): self.sync_bn,self.wrapped = sync_bn,False

    def before_fit(self):
        if is_judging(self.learn): return
        _draw_apart()
        model = self.learn.model
        if self.sync_bn: share_statistics(model)
        self.accelerator = Accelerator(cpu=next(model.parameters()).device.type == 'cpu', mixed_precision='no')
        with _idle(model, self.learn): self.learn.model = self.accelerator.prepare(model)
        self.old_dls,self.wrapped = list(self.dls),True
        self.learn.dls.loaders = [self._wrap_dl(dl) for dl in self.dls]

    def _wrap_dl(self, dl): return dl if isinstance(dl, DistributedDL) else SharedDL(dl, device=self.learn.model.device)

    def after_validate(self):
        "All ask at once, so that the search is shared out; who asks later is told what was found"
        if not self.wrapped: return
        judges = {id(o.judge): o.judge for o in self.learn.metrics if isinstance(o, StoredMetric) and o.store.current}
        with together():
            for judge in judges.values():
                # a callback may have asked in some of them
                if not all(gather_objects(judge.passed)): judge.found(anew=True)

    def after_fit(self):
        if not self.wrapped or is_judging(self.learn): return
        super().after_fit()
        self.wrapped,model = False,get_model(self.learn.model)
        own_statistics(model)
        # statistics of batch norm are those of the first process, as in what it keeps
        own = getattr(model, '_ddp_params_and_buffers_to_ignore', ())
        for name,o in model.named_buffers():
            if name not in own: dist.broadcast(o, 0)
        self.accelerator.free_memory()
        del self.accelerator


@contextmanager
def _idle(model, learn):
    """PyTorch waits for the gradient of every parameter but those named so. A loss in place of the learner's has none
    of the head, nor of the centers, which `CenterUpdate` puts into the network; one that has no term of identity, and
    no QSD beside it, has none behind the pool"""
    distils = any(isinstance(cb, QualityDistillation) for cb in learn.cbs)
    replaced = any(getattr(cb, 'replaces_loss', False) and not getattr(cb, 'trains_head', False) for cb in learn.cbs)
    headless = getattr(learn.loss_func, 'weights', {}).get('identity') == 0 and not distils
    parts = ('head.', 'center.') if replaced else ('neck.', 'head.') if headless else ()
    if not parts: return (yield)
    known = getattr(model, '_ddp_params_and_buffers_to_ignore', [])
    idle = [n for n,_ in model.named_parameters() if n.startswith(parts)]
    model._ddp_params_and_buffers_to_ignore = [*known, *idle]
    try: yield
    finally: model._ddp_params_and_buffers_to_ignore = known


def _draw_apart():
    "Other processes than the first draw otherwise: augmentation of one's own"
    rank = processes()[0]
    if not rank: return
    seed = (int(torch.randint(2**31, ())) + rank) % 2**31
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
