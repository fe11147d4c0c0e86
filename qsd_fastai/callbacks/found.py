"What is known about a learner without being told: for the configuration of its run"
from pathlib import Path

import numpy as np
from fastai.torch_core import get_model
from fastcore.basics import defaults
from torch import nn

from ..data.within import own_loader, picture_size
from .loss_terms import loss_of

__all__ = ['body_name', 'described', 'found_config', 'highest_rates']

# Counted or kept in a fit, and no setting
STATE = {'active', 'count', 'exact', 'fits', 'given', 'learn', 'n_batches', 'n_candidates', 'n_kept', 'n_known',
         'n_pairs', 'run', 'taught', 'terms', 'training'}
OF_TRANSFORM = 'name', 'order', 'split_idx' # Of every transform, and no setting either


def found_config(
    learn, # `Learner` in a fit
)->dict:
    "What is known about a learner without being told"
    dls,model = learn.dls,get_model(learn.model)
    opt_func,size = getattr(learn.opt_func, 'func', learn.opt_func),picture_size(dls)
    own = [cb for cb in learn.cbs if type(cb) not in defaults.callbacks and cb.name != 'track_run']
    found = {
        'body': body_name(model),
        'parameters': sum(p.numel() for p in model.parameters()),
        'n_identities': getattr(dls, 'c', None),
        'size': size and list(size),
        'loss': described(loss_of(learn)),
        'optimizer': getattr(opt_func, '__name__', type(learn.opt).__name__),
        'lr': highest_rates(learn), 'wd': learn.opt.hypers[-1].get('wd'),
        'n_epoch': learn.n_epoch, 'n_batches': len(dls.train),
        'callbacks': {cb.name: described(cb) for cb in own},
        'device': str(getattr(dls, 'device', None))}
    if (head := _head(learn, model)) is not None: found['head'] = described(head)
    loader = own_loader(dls)
    for k in ('n_ids', 'n_imgs', 'partners', 'bs', 'seed'): found[k] = getattr(loader, k, None)
    changes = [o for o in getattr(loader, 'after_batch', ()) if getattr(o, 'split_idx', None) == 0] # Of training alone
    found['changes'] = {type(o).__name__: {k: v for k,v in described(o).items() if k not in OF_TRANSFORM}
                        for o in changes}
    table = getattr(dls, 'table', None)
    if table is None: return found
    splits = table['split'].value_counts().to_dict()
    return {**found, 'table': {'rows': len(table), **splits, 'record': table.attrs.get('record')}}


def body_name(
    model, # A recognizer, or any network
)->str:
    "As timm knows it, otherwise of its class"
    body = getattr(get_model(model), 'body', model)
    return (getattr(body, 'pretrained_cfg', None) or {}).get('architecture') or type(body).__name__


def _head(learn, model):
    "What tells identities apart in this fit: of a callback, `MarginTuning` say, or of the model"
    own = (getattr(cb, 'margin', None) for cb in learn.cbs)
    return next((o for o in own if isinstance(o, nn.Module)), getattr(model, 'head', None))


def highest_rates(
    learn, # `Learner` in a fit
)->list: # For each parameter group
    "The highest learning rate that a fit comes to, scheduled or constant"
    rates = [h['lr'] for h in learn.opt.hypers]
    scheduled = getattr(getattr(learn, 'param_scheduler', None), 'scheds', {}).get('lr')
    if scheduled:
        all_along = [np.broadcast_to(scheduled(pct), len(rates)) for pct in np.linspace(0, 1, 101)]
        rates = np.max(all_along, axis=0)
    return [float(v) for v in rates]


def described(
    o,       # A callback, a module, a schedule or a function
    depth=2, # How far modules within modules are described
)->dict:
    "How something was made, as far as its plain attributes tell"
    if not hasattr(o, '__dict__') or hasattr(o, '__code__'): return {'name': getattr(o, '__name__', str(o))}
    found = {'name': type(o).__name__}
    own = getattr(o, 'level_weights', None) is not None # In place of those of its loss
    for k,v in {**vars(o), **vars(o).get('_modules', {})}.items():
        if k.startswith('_') or k in STATE: continue
        if isinstance(v, (bool, int, float, str)): found[k] = v
        elif isinstance(v, Path): found[k] = v.name
        elif isinstance(v, (tuple, list)) and _few_and_plain(v): found[k] = list(v)
        elif isinstance(v, dict) and _few_and_plain(v.values()): found[k] = v
        elif depth and (isinstance(v, nn.Module) or callable(v)): found[k] = described(v, depth - 1)
        if own and k == 'qsd': found[k].pop('level_weights', None)
    return found


def _few_and_plain(values): return 0 < len(values) <= 20 and all(isinstance(o, (int, float, str)) for o in values)
