"How far a figure of few queries or pairs is known: 95 % intervals"
import numpy as np
from scipy import stats

__all__ = ['crossed_interval', 'mean_interval', 'share_interval', 'with_ends']


def mean_interval(
    values, # `(n,)`
)->tuple: # `(low, high)`; NaN for fewer than two values
    "Student's 95 % interval of a mean"
    values = np.asarray(values, dtype=float)
    n = len(values)
    if n < 2: return np.nan, np.nan
    half = stats.t.ppf(.975, n - 1)*stats.sem(values)
    return values.mean() - half, values.mean() + half


def crossed_interval(
    gains, # `(seeds, cases)`: what each seed gains on each pair or query; no NaN
)->tuple: # `(low, high)`; NaN for fewer than two cases
    """The 95 % interval of the mean gain where other seeds *and* other pairs or queries might have been drawn

    Two-way random effects: squares between seeds, between cases and of what is left; degrees of freedom after Hillis
    (Statistics in Medicine, 2007), whose readers are our seeds. That of seeds alone (`mean_interval` of the rows'
    means) is for these cases and no others. One seed: over the cases, for this seed alone."""
    gains = np.asarray(gains, dtype=float)
    s,c = gains.shape
    if s < 2 or c < 2: return mean_interval(gains.mean(0))
    mean,rows,columns = gains.mean(), gains.mean(1), gains.mean(0)
    of_seeds,of_cases = c*rows.var(ddof=1), s*columns.var(ddof=1)
    rest = np.square(gains - rows[:, None] - columns + mean).sum()/((s - 1)*(c - 1))
    both = of_seeds + max(of_cases - rest, 0)
    if both == 0: return mean, mean
    freedom = np.inf if of_seeds == 0 else (both/of_seeds)**2*(s - 1)
    half = stats.t.ppf(.975, freedom)*np.sqrt(both/(s*c))
    return mean - half, mean + half


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
