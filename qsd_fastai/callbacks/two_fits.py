"Both fits of `fine_tune` as one: one run of `TrackRun`, and one best model of `SaveModelCallback`"
from contextlib import ExitStack, contextmanager

from fastai.callback.tracker import SaveModelCallback

from .track_run import TrackRun

__all__ = ['as_one_fit']


@contextmanager
def as_one_fit(
    cbs, # Callbacks of all fits within this
):
    "Within this a run of `TrackRun` is of two fits, and `SaveModelCallback` keeps the best of all"
    with ExitStack() as stack:
        for cb in cbs:
            if isinstance(cb, TrackRun): stack.enter_context(cb.of_two_fits())
            if isinstance(cb, SaveModelCallback) and cb.reset_on_fit: stack.enter_context(_reset_once(cb))
        yield


@contextmanager
def _reset_once(tracker):
    "At the first fit, where nothing is best yet"
    tracker.best,tracker.reset_on_fit = None,False
    try: yield
    finally: tracker.reset_on_fit = True
