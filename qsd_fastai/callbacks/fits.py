"When a callback is part of a fit, and when of something else that sends the same events"

__all__ = ['is_fit']


def is_fit(
    learn, # `Learner` in a callback's `before_fit`
)->bool:
    "Is this a fit? fastai sends the same events for validate, get_preds and predict, which hold the lock, and for lr_find"
    return not learn.lock.locked() and not hasattr(learn, 'lr_finder')
