"Adam in one kernel: what fastai's `Adam` computes, without a Python step a parameter"
from collections import defaultdict

import torch
from fastai.optimizer import OptimWrapper, set_item_pg
from fastcore.foundation import L

__all__ = ['FusedAdam', 'fused_adam']


class FusedAdam(OptimWrapper):
    """PyTorch's fused Adam or AdamW under fastai's names and rules, for `Learner(opt_func=...)`.

    Parameters that the learner marks (`do_wd` False: biases and weights of norms, unless `wd_bn_bias=True`) do not
    decay: each of fastai's groups is two of PyTorch's, and only the first of them has `wd`. A group's frozen parameters
    have no gradient and stay. As in fastai, a state that is cleared begins anew."""
    def __init__(self,
        params,                # Lists of parameters, a list a group, or one list
        lr:float=1e-3,         # Rate of all groups
        mom:float=.9,          # Share that the average of gradients keeps
        sqr_mom:float=.99,     # Share that the average of squares keeps
        eps:float=1e-5,        # Added to the root of squares
        wd:float=.01,          # Decay
        decouple_wd:bool=True, # Of the weights themselves (AdamW), or as a part of the gradient (L2)?
    ):
        params = L(params)
        outer = [list(o) for o in params] if isinstance(params[0], (L, list)) else [list(params)]
        kind = torch.optim.AdamW if decouple_wd else torch.optim.Adam
        groups = [{'params': o} for group in outer for o in (group, [])]
        for still in groups[1::2]: still['weight_decay'] = 0.
        super().__init__(opt=kind(groups, lr=lr, betas=(mom, sqr_mom), eps=eps, weight_decay=wd, fused=True))
        self.arranged = False

    def _arrange(self):
        "Put what does not decay where it belongs: the learner marks it once the optimizer is there, before it is used"
        if self.arranged: return
        self.arranged = True
        for decayed,still in self._pairs():
            marked = [p for p in decayed['params'] if not self.state[p].get('do_wd', True)]
            if not marked: continue
            own = {id(p) for p in marked}
            decayed['params'] = [p for p in decayed['params'] if id(p) not in own]
            still['params'] = still['params'] + marked

    def _pairs(self): return list(zip(self.opt.param_groups[::2], self.opt.param_groups[1::2]))

    @property
    def param_lists(self): return [a['params'] + b['params'] for a,b in self._pairs()]

    @property
    def hypers(self): return super().hypers[::2]

    def _set_hyper(self, k, v):
        for value,pair in zip(v, self._pairs()):
            for group in pair[:1] if k == 'wd' else pair: set_item_pg(group, self.bwd_map[k], value)

    def step(self,
        closure=None, # As PyTorch's optimizers take it
    ):
        "One step of all parameters that have a gradient"
        self._arrange()
        return self.opt.step(closure)

    def clear_state(self):
        kept = {p: {k: v for k,v in o.items() if k in ('do_wd', 'force_train')} for p,o in self.state.items()}
        self.opt.state,self.state = defaultdict(dict),defaultdict(dict, kept)

    def state_dict(self):
        "Of PyTorch's optimizer"
        self._arrange()
        return self.opt.state_dict()

    def load_state_dict(self,
        state:dict, # Of `state_dict`
    ):
        "Go on from there"
        self._arrange()
        self.opt.load_state_dict(state)


def fused_adam(
    params,   # As `Learner` gives them to an `opt_func`
    lr,       # Rate of all groups
    **kwargs, # For `FusedAdam`: `mom`, `sqr_mom`, `eps`, `wd`, `decouple_wd`
)->FusedAdam:
    "fastai's `Adam` in one kernel: the same steps to rounding, under any device that PyTorch fuses Adam for"
    return FusedAdam(params, lr, **kwargs)
