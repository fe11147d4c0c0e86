"When a callback is part of a fit, and when of something else that sends the same events"

__all__ = ['is_fit', 'is_judging']


def is_judging(
    learn, # `Learner` in a callback's `before_fit` or `after_fit`
)->bool:
    "Is this validate, get_preds or predict? They send the events of a fit too, within one as well, and hold the lock"
    return learn.lock.locked()


def is_fit(
    learn, # `Learner` in a callback's `before_fit`
)->bool:
    "Is this a fit? fastai sends its events for lr_find too, and when it judges"
    return not is_judging(learn) and not hasattr(learn, 'lr_finder')
