"When a callback is part of a fit, and when of something else that sends the same events"

__all__ = ['is_fit']


def is_fit(
    learn, # `Learner` in a callback's `before_fit`
)->bool:
    "Is this a fit? fastai sends its events for lr_find too, and for validate, get_preds, predict, which hold the lock"
    return not learn.lock.locked() and not hasattr(learn, 'lr_finder')
