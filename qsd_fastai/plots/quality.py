"Quality in figures: how it is distributed, whether it agrees, and what it is worth"
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import colors, hatches, ink, legend_below, named, new_figure, percent, set_title, soft, wrong

__all__ = ['map_by_quality_figure', 'quality_agreement_figure', 'quality_histogram_figure']


def quality_histogram_figure(
    quality,                                      # `(n,)`, 0 to 100, NaN = unknown
    title:str='Quality of the training pictures', # Whose quality it is
)->Figure:
    "How quality is distributed, and how much of it is known"
    quality = np.asarray(quality, dtype=float)
    known = quality[~np.isnan(quality)]
    fig,ax = new_figure(width=5, height=3, grid=False)
    unknown = len(quality) - len(known)
    note = f'{len(known):,} known' + (f', {unknown:,} unknown' if unknown else '')
    ax.set(xlabel='quality (0 to 100, higher is better)', ylabel='pictures', xlim=(0, 100))
    set_title(ax, f'{title}\n{note}')
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    if not len(known):
        ax.set_ylim(0, 1)
        return fig
    counts = ax.hist(known, bins=np.linspace(0, 100, 41), color=soft, edgecolor=ink, linewidth=.6)[0]
    ax.set_ylim(0, 1.2*counts.max())  # room for the label
    median = np.median(known)
    ax.axvline(median, color=wrong, linewidth=1.2)
    away,side = (-4, 'right') if median > 50 else (4, 'left')  # of the line, where there is more room
    ax.annotate(f'median {median:.0f}', (median, 1), (away, -10), xycoords=('data', 'axes fraction'),
                textcoords='offset points', ha=side, color=wrong, fontsize=8)
    return fig


def quality_agreement_figure(
    quality,           # `(n,)` computed labels, 0 to 100
    true_quality,      # `(n,)` known quality, 0 to 100
    correlation:float, # Their rank correlation, -1 to 1
)->Figure:
    "Computed quality against known quality, a point a picture"
    fig,ax = new_figure(width=4, height=3.6, grid=False)
    ax.scatter(true_quality, quality, s=5, color=ink, alpha=.35, linewidths=0)
    ax.set(xlabel='true quality', ylabel='computed quality', xlim=(-2, 102), ylim=(-2, 102))
    set_title(ax, f'rank correlation {correlation:.2f}')
    return fig


def map_by_quality_figure(
    groups:pd.DataFrame|dict, # Of `by_quality` or `verification_by_quality`; or name -> such, to compare
    figure:str='mAP',         # The column shown
    title:str=None,           # What is judged, when not given
)->Figure:
    """A figure in groups of rising quality, a bar each, with how many there are and what quality they have

    Lines are 95 % intervals, where the groups have `<figure> low` and `<figure> high`."""
    groups = named(groups)
    first = next(iter(groups.values()))
    room = max(1.05, .375*len(groups)) # Inches of a group: the number above a bar is about .28 wide
    fig,ax = new_figure(len(groups) if '' not in groups else 0, width=max(3.6, 1.2 + room*len(first)))
    width = .8/len(groups)
    for i,(name,of) in enumerate(groups.items()):
        at = np.arange(len(first)) + width*(i + .5) - .4
        value = of[figure].reindex(first.index).to_numpy(dtype=float)
        # told apart in print as well
        hatch = hatches[i % len(hatches)] if len(groups) > 1 else ''
        ax.bar(at, value, width*.94, color=colors[i % len(colors)], label=name, hatch=hatch, edgecolor='white',
               linewidth=0)
        ends = _ends(of, figure).reindex(first.index).to_numpy(dtype=float)
        away = np.abs(ends - value[:, None]).T
        ax.errorbar(at, value, np.nan_to_num(away), fmt='none', ecolor='#222222', elinewidth=.8, capsize=2)
        for x,y,top in zip(at, value, ends[:, 1]):
            text,y = ('?', 0) if np.isnan(y) else (f'{100*y:.1f}', y if np.isnan(top) else top)
            ax.annotate(text, (x, y), (0, 2), textcoords='offset points', ha='center', fontsize=7)
    count = next(c for c in first if c.startswith('n_'))
    ticks = [f'{o.Index}\n{_range(o)}\n{getattr(o, count):,} {count[2:]}' for o in first.itertuples()]
    ax.set_xticks(np.arange(len(first)), ticks)
    top = max((np.nanmax([o[figure].max(), _ends(o, figure).max(axis=None)]) for o in groups.values()), default=1)
    ax.set(ylabel=figure, ylim=(0, 1.12*top if top > 0 else 1))
    ax.grid(False, axis='x')
    ax.yaxis.set_major_formatter(percent)
    lines = '; lines: 95 % intervals' if _ends(next(iter(groups.values())), figure).notna().any(axis=None) else ''
    set_title(ax, (title or f'{figure} by quality') + lines)
    if '' not in groups: legend_below(fig, ax)
    return fig


def _ends(of, figure):
    "The ends of the interval of each group, NaN where it has none"
    return of.reindex(columns=[f'{figure} low', f'{figure} high'])


def _range(o):
    return 'quality ?' if np.isnan(o.quality_from) else f'quality {o.quality_from:.0f} to {o.quality_to:.0f}'
