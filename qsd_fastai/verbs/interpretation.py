"fastai's `Interpretation` of a learner that judges a search: the hardest queries with their answers"
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastcore.basics import patch

from ..callbacks.held_out import HeldOut
from .results import Results, has_labels

__all__ = []

_of_classes = Interpretation.plot_top_losses


def _searches(learn): return any(isinstance(cb, HeldOut) for cb in learn.cbs)


@patch
def plot_top_losses(self:Interpretation,
    k,                 # How many; or a list or range of places, 0 the first
    largest:bool=True, # The hardest first? Else the easiest
    top:int=5,         # Answers of each
    height:float=1.5,  # Of a picture, inches
    **kwargs,          # Of other learners: as in fastai
):
    "Queries whose loss, 1 - AP, is largest, each in a row with its first answers and the first right one"
    if not _searches(self.learn) or not has_labels(self.dl): return _of_classes(self, k, largest, **kwargs)
    results = Results(self.learn, self.dl)
    order = results.hardest if largest else results.hardest[::-1]
    results.draw(order[:k] if isinstance(k, int) else order[list(k)], top, height)


@patch(cls_method=True)
def from_learner(cls:ClassificationInterpretation,
    learn,    # `Learner`
    *args,    # As in fastai
    **kwargs, # As in fastai
):
    "`Interpretation.from_learner`; ValueError where people are searched, who have no class to be confused with"
    if _searches(learn):
        raise ValueError('ClassificationInterpretation is for classes, and the people judged here have none. '
                         'Use `Interpretation.from_learner(learn).plot_top_losses(9)`: the hardest queries.')
    return Interpretation.from_learner.__func__(cls, learn, *args, **kwargs)
