"What fastai's users add to a learner and what is of no use to people without a class: a sentence in place of a figure"
import warnings

from fastai.callback.mixup import MixHandler
from fastai.learner import Metric
from fastai.losses import BaseLoss
from fastai.metrics import AccumMetric
from fastai.torch_core import get_model
from fastcore.foundation import L
from torch.nn.modules.loss import _Loss

from ..evaluation.metrics import Retrieval, Verification
from .results import has_labels

__all__ = ['flat_metrics', 'people_of', 'refuse_callbacks', 'refuse_empty', 'refuse_loss', 'refuse_options',
           'refuse_others', 'refuse_unjudged']

OF_CLASSES = 'fastai.losses', 'torch.nn.functional', 'torch.nn.modules.loss' # Modules whose losses take logits
# What `vision_learner` takes: what there is in its place
OTHERS = {'loss_func': 'loss=...', 'custom_head': 'head=..., over identities.', 'cut': 'pool=... and neck=...',
          'concat_pool': 'pool=...', 'n_out': 'dls, whose identities are counted.',
          'normalize': 'recognition_dataloaders(stats=...).'}


def refuse_options(
    options:dict, # Beside those of `recognition_learner`
):
    "ValueError for those of `vision_learner` that are called otherwise here"
    if other := next((k for k in options if k in OTHERS), None):
        raise ValueError(f'{other} is given, and recognition_learner does not take it. Its own is {OTHERS[other]}')


def refuse_empty(
    dl, # That is to be looked at
):
    "ValueError for a loader without pictures, as all are of a learner that was loaded"
    if getattr(dl, 'n', 1): return
    raise ValueError('The loader has no pictures: a learner that was exported knows none, and none are held out of a '
                     'table without query, gallery or val. Give dl=learn.dls.test_dl(table, with_labels=True); to '
                     'train on with the same people, set learn.dls = recognition_dataloaders(table, ...).')


def people_of(
    dls, # `DataLoaders`
)->list:
    "Whom they train on, in the order of the classes; those that are held out stand behind them in `vocab`"
    return list(getattr(dls, 'vocab', None) or ())[:getattr(dls, 'c', None) or 0]


def refuse_others(
    learn, # `RecognitionLearner`, to be trained
):
    """ValueError for loaders of more or fewer people than the head has; a warning, once, where they are others

    Either would train classes of other people."""
    n,there = getattr(get_model(learn.model), 'n_ids', None),getattr(learn.dls, 'c', None)
    if n is None or not there: return
    if n != there:
        raise ValueError(f'learn.dls is of {there} identities, and the head has {n}. Make another learner of these '
                         'loaders, and load the body: new.model.body.load_state_dict(learn.model.body.state_dict()), '
                         'or pretrained=FILE of an exported one.')
    known,learn.people = learn.people,people_of(learn.dls)
    if others := set(learn.people) - set(known) if known else ():
        warnings.warn(f'learn.dls is of {min(others)!r} and {len(others) - 1} others whom the head was not made for: '
                      'they begin with the classes of other people.', stacklevel=3)


def refuse_unjudged(
    dl, # That is to be validated
):
    "ValueError for a loader without labels"
    if not hasattr(getattr(dl, 'dataset', None), 'tls') or has_labels(dl): return
    raise ValueError('dl has pictures without labels, and there is nothing to judge them by. '
                     'Use `learn.dls.test_dl(table, with_labels=True)`.')


def flat_metrics(
    metrics, # One, a list, or a list with lists in it, `[Retrieval('mAP'), Verification('auc', pairs=pairs)]`
)->L:
    "All of them in one list; ValueError for those of classes, and for what is no metric"
    found = [o for group in L(metrics) for o in (group if isinstance(group, (L, list, tuple)) else [group])]
    for o in found: _refuse_metric(o)
    return L(found)


def _refuse_metric(metric):
    makes = metric is Retrieval or metric is Verification
    if makes or not (callable(metric) or isinstance(metric, Metric)) or isinstance(metric, type):
        what = getattr(metric, '__name__', repr(metric))
        kind = 'makes metrics and is' if makes else 'is a class and' if isinstance(metric, type) else 'is'
        raise ValueError(f"metrics holds {what}, which {kind} no metric. Use Retrieval('rank1', 'mAP'), "
                         "Verification('auc', pairs=pairs), or a function of (emb, identity, quality, scene).")
    func = getattr(metric, 'func', None if isinstance(metric, Metric) else metric)
    func = getattr(func, 'func', func)
    if not isinstance(metric, AccumMetric) and getattr(func, '__module__', '') != 'fastai.metrics': return
    name = getattr(metric, 'name', None) or getattr(func, '__name__', type(metric).__name__)
    raise ValueError(f"metrics holds {name}, which compares classes, and people that are held out have none. Use "
                     "Retrieval('rank1', 'mAP'), or a function of (emb, identity, quality, scene).")


def refuse_callbacks(
    cbs, # That are added
):
    "ValueError for those that mix pictures of different people"
    for cb in L(cbs):
        kind = cb if isinstance(cb, type) else type(cb)
        if issubclass(kind, MixHandler):
            raise ValueError(f'{kind.__name__} makes one picture of two people, and triplets and distillation need to '
                             'know who it shows. Leave it out: augment, erase and copies of recognition_dataloaders '
                             'vary pictures.')


def refuse_loss(
    loss, # For a learner
):
    "ValueError for a loss of classes, which would take a `Recognition` for logits, and for what is no loss"
    func = getattr(loss, 'func', loss)
    what = func if isinstance(func, type) or hasattr(func, '__name__') else type(func)
    name = what.__name__
    if isinstance(loss, BaseLoss | _Loss) or what.__module__ in OF_CLASSES:
        raise ValueError(f'loss is {name}, which takes logits and labels alone. Give RecognitionLoss(identity=...), '
                         'with a function of (logits, ids), or leave it out.')
    if isinstance(loss, type): raise ValueError(f'loss is the class {name}. Give one of it, {name}().')
    if loss is not None and not callable(loss):
        raise ValueError(f'loss is {loss!r}, which cannot be called. Give RecognitionLoss(), or leave it out.')
