"A learner whose bars stay out of what is no terminal, and that says so where it has no pictures or those of others"
from pathlib import Path

from fastai.learner import Learner

from ..runs.wandb_run import send_rows
from ..terminal import rows_only
from .refusals import refuse_empty, refuse_loss, refuse_others

__all__ = ['LoggedLearner']


class LoggedLearner(Learner):
    """A fastai `Learner` that leaves rows of epochs, and no bars, in a log; terminals and notebooks see both

    ValueError from each verb where there are no pictures, as in a learner that was loaded."""
    people = () # Whom the head has, in the order of its classes; of learners that were exported before they were noted

    def fit(self,
        *args,    # Of fastai's `fit`: `n_epoch`, `lr`, ...
        **kwargs, # Likewise
    ):
        "As fastai's, which its other fits call; ValueError for loaders of other people than the head has"
        refuse_empty(self.dls.train)
        refuse_others(self)
        refuse_loss(self.loss_func)
        try:
            with rows_only(): return super().fit(*args, **kwargs)
        finally: send_rows() # Of a fit that was stopped: its run may be ended by others

    def export(self,
        fname='export.pkl', # The file, from `learn.path`; its folder is made
        *args,              # As in fastai: `pickle_module`, `pickle_protocol`
        **kwargs,           # Likewise
    ):
        "As fastai's; OSError where it cannot be written, and the learner stays as it was"
        file,dls,opt = Path(self.path)/fname,self.dls,self.opt
        file.parent.mkdir(parents=True, exist_ok=True)
        try: super().export(fname, *args, **kwargs)
        except BaseException as e:
            self.dls,self.opt = dls,opt
            if not isinstance(e, RuntimeError) or 'inline_container' not in str(e): raise
            raise OSError(f'{file} cannot be written ({e}).') from e

    def lr_find(self,
        *args,    # Of fastai's `lr_find`: `start_lr`, `end_lr`, ...
        **kwargs, # Likewise
    ):
        "As fastai's"
        refuse_empty(self.dls.train)
        return super().lr_find(*args, **kwargs)

    def get_preds(self,
        ds_idx:int=1, # Which of `dls`, where `dl` is not given
        dl=None,      # A loader
        *args,        # Of fastai's `get_preds`: `with_input`, ...
        **kwargs,     # Likewise
    ):
        "As fastai's"
        refuse_empty(self.dls[ds_idx] if dl is None else dl)
        with rows_only(): return super().get_preds(ds_idx, dl, *args, **kwargs)

    def tta(self,
        ds_idx:int=1, # Which of `dls`, where `dl` is not given
        dl=None,      # A loader
        *args,        # Of fastai's `tta`: `n`, ...
        **kwargs,     # Likewise
    ):
        "As fastai's, of all pictures in their order, whatever batches they are dealt to"
        if dl is None: dl = self.dls[ds_idx].new(shuffle=False, drop_last=False)
        refuse_empty(dl)
        return super().tta(ds_idx, dl, *args, **kwargs)

    def validate(self,
        ds_idx:int=1, # Which of `dls`, where `dl` is not given
        dl=None,      # A loader
        cbs=None,     # Callbacks of this validation
    ):
        "As fastai's"
        refuse_empty(self.dls[ds_idx] if dl is None else dl)
        with rows_only(): return super().validate(ds_idx, dl, cbs)
