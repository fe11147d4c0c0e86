"Arms of an experiment over several seeds: means, spreads, and what each arm gains over another one of the same seed"
import numpy as np
import pandas as pd
from scipy import stats

from ..terminal import for_terminal
from .intervals import mean_interval

__all__ = ['arm_gains', 'arm_means', 'comparison_text', 'gains_table', 'halved_arms']


def _text(mean, spread, digits, sign=''):
    "One seed has no spread"
    return f'{100*mean:{sign}.{digits}f}' + ('' if np.isnan(spread) else f' ± {100*spread:.{digits}f}')


def arm_means(
    results:pd.DataFrame, # A row an arm and seed: columns `arm`, `seed`, and figures from 0 to 1
    digits:int=1,         # After the point
)->pd.DataFrame: # A row an arm, a column a figure: text, in %
    "Mean ± standard deviation over seeds, in %; the figure alone of one seed"
    figures = [c for c in results.columns if c not in ('arm', 'seed')]
    by_arm = results.groupby('arm', sort=False)[figures]
    mean,spread = by_arm.mean(), by_arm.std()
    texts = {c: [_text(m, s, digits) for m,s in zip(mean[c], spread[c])] for c in figures}
    return pd.DataFrame(texts, index=mean.index)


def arm_gains(
    results:pd.DataFrame, # As in `arm_means`
    reference:str,        # The arm that the others are compared with
    some_seeds:bool=False,# May an arm lack seeds that the reference has, as after a screening?
)->pd.DataFrame: # A row an arm and figure: `mean`, `error`, `low`, `high`, `p`, `positive`, `seeds`
    """What each arm has more than the reference *of the same seed*: paired, so that what a seed does to both goes out.

    `error` is the standard error of the mean, `low` and `high` are the ends of Student's 95 % interval, `p` is that of
    the two-sided permutation test that turns the sign of each seed's difference (exact up to 12 seeds; n seeds cannot
    show less than 2/2^n). All are NaN for one seed. ValueError when an arm lacks a seed that the reference has, or has
    it twice."""
    figures = [c for c in results.columns if c not in ('arm', 'seed')]
    if reference not in set(results['arm']):
        raise ValueError(f'reference is {reference!r}, none of the arms. Use {" or ".join(results["arm"].unique())}.')
    if results.duplicated(['arm', 'seed']).any():
        raise ValueError('An arm has a seed twice. Give one row an arm and seed.')
    base = results[results['arm'] == reference].set_index('seed')[figures]
    rows = []
    for arm,group in results.groupby('arm', sort=False):
        if arm == reference: continue
        own = group.set_index('seed')[figures]
        gain = own - (base.loc[base.index.isin(own.index)] if some_seeds else base)
        if gain.empty or not all(gain.index.isin(o.index).all() for o in (own, base)):
            raise ValueError(f'{arm!r} and {reference!r} were not run with the same seeds. Run what is missing.')
        if gain.isna().any(axis=None):
            (seed,c),*_ = ((s, c) for c in figures for s in gain.index if np.isnan(gain.loc[s, c]))
            raise ValueError(f'{c} of {arm!r} or {reference!r} is NaN with seed {seed}. Leave the figure or seed out.')
        n = len(gain)
        for c in figures:
            rows.append({'arm': arm, 'figure': c, 'mean': gain[c].mean(), **_spread(gain[c].to_numpy()),
                         'positive': int((gain[c] > 0).sum()), 'seeds': n})
    return pd.DataFrame(rows)


def _spread(gain):
    "How sure the mean of paired differences is"
    n = len(gain)
    if n < 2: return dict.fromkeys(('error', 'low', 'high', 'p'), np.nan)
    low,high = mean_interval(gain)
    test = stats.permutation_test((gain,), np.mean, permutation_type='samples', n_resamples=2**12, rng=0)
    return {'error': stats.sem(gain), 'low': low, 'high': high, 'p': test.pvalue}


def gains_table(
    gains:pd.DataFrame, # Of `arm_gains`
)->pd.DataFrame: # A row an arm, a column a figure: text, in points
    "Mean ± half the 95 % interval of each gain, none of one seed, and in how many of the seeds it is positive"
    text = [f'{_text(g.mean, g.high - g.mean, 2, "+")} ({g.positive}/{g.seeds})' for g in gains.itertuples(index=False)]
    shown = gains.assign(text=text).pivot(index='arm', columns='figure', values='text')
    return shown.loc[gains['arm'].unique(), gains['figure'].unique()].rename_axis(index=None, columns=None)


def comparison_text(
    results:pd.DataFrame, # As in `arm_means`
    gains:pd.DataFrame,   # Of `arm_gains`
    reference:str,        # The arm that the others are compared with
)->str:
    """Means and gains as a terminal shows them

    Arms of fewer seeds, as after a screening, say of how many: their means are not beside those of all."""
    n,own = results['seed'].nunique(),results.groupby('arm', sort=False)['seed'].nunique()
    means = arm_means(results)
    if own.nunique() > 1: means.insert(0, 'seeds', own)
    spread,half = ((': mean ± standard deviation', 'mean ± half the 95 % interval (positive seeds)') if n > 1 else
                   ('', '(1/1 where positive)'))
    return (f'{n} seed{"s"*(n > 1)}, in %{spread}\n\n{for_terminal(means)}\n\n'
            f'Gain over "{reference}" of the same seed, in points\n{half}\n\n'
            f'{for_terminal(gains_table(gains))}{_tests(gains)}')


def _tests(gains):
    "p of each gain; nothing where no arm was run with two seeds"
    if gains['p'].isna().all(): return ''
    p = gains.pivot(index='arm', columns='figure', values='p').loc[gains['arm'].unique(), gains['figure'].unique()]
    text = p.map(lambda o: '' if np.isnan(o) else f'{o:.4f}').rename_axis(index=None, columns=None)
    return (f'\n\np of the permutation test that turns signs; {gains["seeds"].max()} seeds cannot show less than '
            f'{2/2**gains["seeds"].max():.2g}\n\n{for_terminal(text)}')


def halved_arms(
    run,         # Function of a seed and a list of arms: results as in `arm_means`
    arms:list,   # With a `title` each; the first is the reference, which stays
    budget:int,  # Fine-tunings in all, those of the reference too
    first:int=0, # First seed; every round has new ones
    by:str='',   # Figure that decides; mAP, or the first, when not given
)->pd.DataFrame: # Results of all rounds; arms that went out lack later seeds
    """Screening by successive halving (Jamieson and Talwalkar, AISTATS 2016): after each round the worse half goes out

    Rounds share the budget, so that fewer arms get more seeds. ValueError where it is not enough for a seed of each."""
    reference,*left = arms
    rounds = max(int(np.ceil(np.log2(max(len(left), 1)))), 1)
    if not left or budget < rounds*(len(left) + 1):
        raise ValueError(f'budget is {budget}, for {len(left)} arms and "{reference.title}" in {rounds} rounds. '
                         f'Give {rounds*(len(left) + 1)} or more, or fewer arms; two arms at least.')
    parts = []
    for k in range(rounds):
        for _ in range(budget//(rounds*(len(left) + 1))):
            parts.append(run(first + len(parts), [reference, *left]))
            _decides(parts[0], by) # A word that is none is told after the first seed, not after a round
        if k < rounds - 1: left = _better_half(pd.concat(parts), reference.title, left, by)
    return pd.concat(parts)


def _decides(results, by):
    "The figure that arms are screened by"
    figures = [c for c in results.columns if c not in ('arm', 'seed')]
    figure = by or ('mAP' if 'mAP' in figures else figures[0])
    if figure not in figures: raise ValueError(f'by is {figure!r}, none of the figures. Use {" or ".join(figures)}.')
    return figure


def _better_half(results, reference, arms, by):
    figure = _decides(results, by)
    gains = arm_gains(results, reference, some_seeds=True)
    gain = gains[gains['figure'] == figure].set_index('arm')['mean']
    kept = sorted(arms, key=lambda o: -gain[o.title])[:(len(arms) + 1)//2]
    print(f'\nScreened by {figure}: {", ".join(o.title for o in kept)} stay, '
          f'{", ".join(o.title for o in arms if o not in kept)} go out')
    return [o for o in arms if o in kept]
