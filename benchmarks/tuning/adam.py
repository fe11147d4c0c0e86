"fastai's Adam for small networks on a GPU, where hundreds of small kernels a step wait for the CPU"
from functools import partial

import torch
from fastai.optimizer import Optimizer, adam_step, average_grad, average_sqr_grad, debias, step_stat, weight_decay

__all__ = ['GroupedAdam', 'grouped_adam']


class GroupedAdam(Optimizer):
    "The same sums, for all parameters of a group and age at once"
    def step(self, closure=None):
        groups = {}
        for p,_,state,hyper in self.all_params(with_grad=True):
            if 'sqr_avg' not in state: state |= {'grad_avg': torch.zeros_like(p), 'sqr_avg': torch.zeros_like(p)}
            state['step'] = state.get('step', 0) + 1
            self.state[p] = state
            key = id(hyper),state['step'],state.get('do_wd', True)
            groups.setdefault(key, (hyper, []))[1].append((p.data, p.grad.data, state['grad_avg'], state['sqr_avg']))
        for (_, step, decays),(hyper, found) in groups.items(): _move(*map(list, zip(*found)), step, decays, **hyper)


def _move(params, grads, averages, squares, step, decays, lr, mom, sqr_mom, eps, wd, **kwargs):
    if decays and wd: torch._foreach_mul_(params, 1 - lr*wd)
    torch._foreach_mul_(averages, mom)
    torch._foreach_add_(averages, grads, alpha=1 - mom)
    torch._foreach_mul_(squares, sqr_mom)
    torch._foreach_addcmul_(squares, grads, grads, value=1 - sqr_mom)
    below = torch._foreach_div(squares, debias(sqr_mom, 1 - sqr_mom, step))
    torch._foreach_sqrt_(below)
    torch._foreach_add_(below, eps)
    torch._foreach_addcdiv_(params, averages, below, value=-lr/debias(mom, 1 - mom, step))


def grouped_adam(
    params,   # As fastai gives them
    lr,       # Rate
    mom=.9,   # Share of the old in the mean of gradients
    sqr_mom=.99, # And in that of their squares
    eps=1e-5, # Below the fraction
    wd=.01,   # Weight decay, apart from the gradient
):
    "As fastai's `Adam`"
    cbs = [weight_decay, partial(average_grad, dampening=True), average_sqr_grad, step_stat, adam_step]
    return GroupedAdam(params, cbs, lr=lr, mom=mom, sqr_mom=sqr_mom, eps=eps, wd=wd)
