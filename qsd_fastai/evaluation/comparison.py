"Arms of an experiment over several seeds: means, spreads, and what each arm gains over another one of the same seed"
import numpy as np
import pandas as pd

__all__ = ['arm_gains', 'arm_means', 'gains_table']


def _text(mean, spread, digits, sign=''): return f'{100*mean:{sign}.{digits}f} ± {100*spread:.{digits}f}'


def arm_means(
    results:pd.DataFrame, # A row an arm and seed: columns `arm`, `seed`, and figures from 0 to 1
    digits:int=1,         # After the point
)->pd.DataFrame: # A row an arm, a column a figure: text, in %
    "Mean ± standard deviation over seeds, in %"
    figures = [c for c in results.columns if c not in ('arm', 'seed')]
    by_arm = results.groupby('arm', sort=False)[figures]
    mean,spread = by_arm.mean(), by_arm.std().fillna(0)
    texts = {c: [_text(m, s, digits) for m,s in zip(mean[c], spread[c])] for c in figures}
    return pd.DataFrame(texts, index=mean.index)


def arm_gains(
    results:pd.DataFrame, # As in `arm_means`
    reference:str,        # The arm that the others are compared with
)->pd.DataFrame: # A row an arm and figure: `mean`, `error` (standard error of the mean), `positive`, `seeds`
    """What each arm has more than the reference *of the same seed*: paired, so that what a seed does to both goes out.

    ValueError when an arm lacks a seed that the reference has, or has it twice."""
    figures = [c for c in results.columns if c not in ('arm', 'seed')]
    if reference not in set(results['arm']):
        raise ValueError(f'reference is {reference!r}, none of the arms. Use {" or ".join(results["arm"].unique())}.')
    if results.duplicated(['arm', 'seed']).any():
        raise ValueError('An arm has a seed twice. Give one row an arm and seed.')
    base = results[results['arm'] == reference].set_index('seed')[figures]
    rows = []
    for arm,group in results.groupby('arm', sort=False):
        if arm == reference: continue
        gain = group.set_index('seed')[figures] - base
        if gain.isna().any(axis=None):
            raise ValueError(f'{arm!r} and {reference!r} were not run with the same seeds. Run what is missing.')
        n = len(gain)
        for c in figures:
            error = gain[c].std()/np.sqrt(n) if n > 1 else np.nan
            rows.append({'arm': arm, 'figure': c, 'mean': gain[c].mean(), 'error': error,
                         'positive': int((gain[c] > 0).sum()), 'seeds': n})
    return pd.DataFrame(rows)


def gains_table(
    gains:pd.DataFrame, # Of `arm_gains`
)->pd.DataFrame: # A row an arm, a column a figure: text, in points
    "Mean ± standard error of each gain, and in how many of the seeds it is positive"
    text = [f'{_text(g.mean, g.error, 2, "+")} ({g.positive}/{g.seeds})' for g in gains.itertuples(index=False)]
    shown = gains.assign(text=text).pivot(index='arm', columns='figure', values='text')
    return shown.loc[gains['arm'].unique(), gains['figure'].unique()].rename_axis(index=None, columns=None)
