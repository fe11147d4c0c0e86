"A learner whose bars stay out of what is no terminal"
from fastai.learner import Learner

from ..terminal import rows_only

__all__ = ['LoggedLearner']


class LoggedLearner(Learner):
    "A fastai `Learner` that leaves rows of epochs, and no bars, in a log; terminals and notebooks see both"
    def fit(self,
        *args,    # Of fastai's `fit`: `n_epoch`, `lr`, ...
        **kwargs, # Likewise
    ):
        "As fastai's, which its other fits call"
        with rows_only(): return super().fit(*args, **kwargs)

    def get_preds(self,
        *args,    # Of fastai's `get_preds`: `ds_idx`, `dl`, ...
        **kwargs, # Likewise
    ):
        "As fastai's"
        with rows_only(): return super().get_preds(*args, **kwargs)

    def validate(self,
        *args,    # Of fastai's `validate`: `ds_idx`, `dl`, `cbs`
        **kwargs, # Likewise
    ):
        "As fastai's"
        with rows_only(): return super().validate(*args, **kwargs)
