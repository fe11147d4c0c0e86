"Schedules in closed form: a function of how much of a training is done"
from bisect import bisect_right
from collections.abc import Callable, Sequence

from .choices import one_of

__all__ = ['multistep_factor', 'warmup_multistep']


def multistep_factor(
    epoch:int,                    # Counted from 1 in training; 0 gives what an optimizer starts with
    steps:Sequence[int]=(40, 70), # Epochs at whose beginning the rate falls
    gamma:float=.1,               # By this factor
    warmup:int=10,                # Epochs of warm-up; 0 = none
    factor:float=.01,             # Where the warm-up starts
    method:str='linear',          # 'linear', or 'constant': `factor` throughout
)->float:
    "Rate of an epoch relative to the full one (warm-up of Goyal et al., 2017; AGW's numbers)"
    one_of('method', method, 'linear', 'constant')
    if list(steps) != sorted(steps): raise ValueError(f'steps are {tuple(steps)}. They must grow.')
    done = epoch/warmup if warmup else 1.
    start = 1. if epoch >= warmup else factor*(1 - done) + done if method == 'linear' else factor
    return start*gamma**bisect_right(list(steps), epoch)


def warmup_multistep(
    lr,         # Full rate: a number, or an array with one for each parameter group
    epochs:int, # Of the whole training
    **kwargs,   # For `multistep_factor`
)->Callable:
    "For `ParamScheduler({'lr': warmup_multistep(3.5e-4, 120)})`: the rate of each epoch, constant within it"
    multistep_factor(0, **kwargs)
    # pct_train is a running sum of 1/batches: the small number keeps an epoch's first batch out of the one before
    return lambda pct: lr*multistep_factor(min(int(pct*epochs + 1e-6) + 1, epochs), **kwargs)
