"How far a figure of few queries or pairs is known: 95 % intervals"
import numpy as np
from scipy import stats

__all__ = ['mean_interval', 'share_interval', 'with_ends']


def mean_interval(
    values, # `(n,)`
)->tuple: # `(low, high)`; NaN for fewer than two values
    "Student's 95 % interval of a mean"
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2: return np.nan, np.nan
    half = stats.t.ppf(.975, n - 1)*stats.sem(values)
    return values.mean() - half, values.mean() + half


def share_interval(
    right, # `(n,)` bool
)->tuple: # `(low, high)`, 0 to 1; NaN for none
    "Wilson's 95 % interval of a share, which also holds where all or none are right"
    right = np.asarray(right, dtype=bool)
    if not len(right): return np.nan, np.nan
    found = stats.binomtest(int(right.sum()), len(right)).proportion_ci(method='wilson')
    return float(found.low), float(found.high)


def with_ends(
    name:str,       # Of a figure
    interval:tuple, # `(low, high)`
)->dict: # `name low` and `name high`
    "An interval as two columns beside that of its figure"
    return dict(zip((f'{name} low', f'{name} high'), interval))
