"The curves people look at: ROC, DET, CMC, error against rejection, gains of arms"

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .style import chance, ideal, legend_below, look, named, new_figure, percent, set_title, signed

__all__ = ['cmc_figure', 'det_figure', 'error_vs_reject_figure', 'gains_figure', 'roc_figure']


def gains_figure(
    gains,         # Of `arm_gains`
    reference:str, # What the gains are over
    of:str='',     # What was compared, above everything
    looks:dict=None, # Arm -> number of its color; counted when not given
)->Figure:
    "What each arm gains in each figure, in points, with its 95 % interval; a bar across 0 is no evidence"
    figures,arms = gains['figure'].unique(), gains['arm'].unique()
    width = 1.1*len(figures) + 2.5
    fig,ax = new_figure(width=width, grid=False)
    for k,arm in enumerate(arms):
        of_arm = gains[gains['arm'] == arm].set_index('figure').loc[figures]
        at = np.arange(len(figures)) + .7*((k + .5)/len(arms) - .5)
        half = 100*(of_arm['high'] - of_arm['mean']).fillna(0)
        label = f'{arm}, n = {of_arm["seeds"].iloc[0]}'
        number = k if looks is None else looks[arm]
        ax.errorbar(at, 100*of_arm['mean'], yerr=half, fmt='os^DvP'[number % 6], markersize=4, capsize=2, label=label,
                    color=look(number)['color'])
    ax.axhline(0, color='black', linewidth=.8)
    aslant = dict(rotation=30, ha='right', rotation_mode='anchor') if max(map(len, figures)) > 11 else {}
    ax.set_xticks(np.arange(len(figures)), figures, **aslant)
    ax.set_ylabel('gain, points')
    set_title(ax, f'over "{reference}", same seed; bars: 95 % intervals', loc='left')
    ax.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
    return signed(fig, of)


def _log(axis):
    axis.set_major_locator(LogLocator(numticks=12))
    axis.set_major_formatter(percent)
    axis.set_minor_formatter(NullFormatter())


def _lowest(curves, least):
    "`least`, or the lowest rate above 0 that any curve has; a perfect one has none but 1"
    if least is not None: return least
    found = [x for o in curves.values() for x in o.far[(o.far > 0) & (o.far < 1)][:1]]
    return min(found, default=1e-4)


def _steps(x, y, lowest):
    "A curve from `lowest` on, which begins with what is accepted at no false pair: that has no place on the axis"
    x,y = np.asarray(x), np.asarray(y)
    return np.r_[lowest, x[x > lowest]], np.r_[y[x <= lowest][-1], y[x > lowest]]


def roc_figure(
    curves,                        # `RocPoints`, or name -> `RocPoints`
    least=None,                    # The lowest FAR shown; the lowest measured when not given
    title:str='Verification: ROC', # What is judged
)->Figure:
    "True pairs accepted over false pairs accepted, the latter on a logarithmic axis: what matters lies at its left"
    curves = named(curves)
    fig,ax = new_figure(len(curves) if '' not in curves else 0)
    lowest = _lowest(curves, least)
    for i,(name,points) in enumerate(curves.items()):
        ax.plot(*_steps(points.far, points.tar, lowest), label=name, **look(i))
    ax.set(xscale='log', xlim=(lowest, 1), xlabel='false pairs accepted (FAR)')
    ax.set(ylim=(0, 1.01), ylabel='true pairs accepted (TAR)')
    _log(ax.xaxis)
    ax.yaxis.set_major_formatter(percent)
    _narrow(ax)
    set_title(ax, title)
    if '' not in curves: legend_below(fig, ax)
    return fig


def det_figure(
    curves,                        # `RocPoints`, or name -> `RocPoints`
    least=None,                    # The lowest FAR shown; the lowest measured when not given
    title:str='Verification: DET', # What is judged
)->Figure:
    "True pairs refused over false pairs accepted, on logarithmic axes; the equal error rate lies on the diagonal"
    curves = named(curves)
    fig,ax = new_figure(len(curves) if '' not in curves else 0)
    lowest = _lowest(curves, least)
    low = min((o.frr[o.frr > 1e-12].min(initial=.5) for o in curves.values()), default=.5)
    for i,(name,points) in enumerate(curves.items()):
        x,y = _steps(points.far, points.frr, lowest)
        # none refused has no place on the axis: drawn along its lower edge
        ax.plot(x, y.clip(.8*low), label=name, **look(i))
    ax.plot([1e-12, 1], [1e-12, 1], color=chance, linewidth=.8, linestyle=':')
    ax.set(xscale='log', xlim=(lowest, 1), xlabel='false pairs accepted (FAR)')
    ax.set(yscale='log', ylim=(.75*low, 1.2), ylabel='true pairs refused (FRR)')
    _log(ax.xaxis)
    _log(ax.yaxis)
    _narrow(ax)
    set_title(ax, title)
    if '' not in curves: legend_below(fig, ax)
    return fig


def _narrow(ax):
    "Many decades: their labels stand aslant, so that they do not run into each other"
    for label in ax.get_xticklabels(): label.set(rotation=30, ha='right', rotation_mode='anchor')


def error_vs_reject_figure(
    result,         # `RejectionResult`
    to:float=None,  # The largest share rejected that is shown; as far as every curve goes when not given
    title:str=None, # What is judged, when not given
)->Figure:
    """Error (or a figure) over the share rejected, a curve a quality, with chance and the ideal.

    The legend has the partial area of each."""
    curves = result.curves.loc[:result.whole_to if to is None else to]
    fig,ax = new_figure(curves.shape[1], height=3.6)
    fixed = {'random': dict(color=chance, linestyle='-', linewidth=1.2),
             'ideal': dict(color=ideal, linestyle=':', linewidth=1.2)}
    for i,name in enumerate(curves):
        partial = result.areas.loc[name, 'partial']
        ax.plot(curves.index, curves[name], label=f'{name}: {_rate(partial)}', **(fixed.get(name) or look(i)))
    ax.axvspan(0, result.area, color='#f3f0e6', zorder=.5, linewidth=0)
    units = {'query': 'queries'}.get(result.unit, f'{result.unit}s')
    ax.set(xlim=(0, max(curves.index[-1], .01)), xlabel=f'{units} rejected, lowest quality first', ylabel=result.what)
    if result.better == 'lower': ax.set_ylim(0, None)
    ax.xaxis.set_major_formatter(percent)
    ax.yaxis.set_major_formatter(percent)
    note = f'{result.n_units:,} {units}' + (f', {result.n_left_out:,} more left out' if result.n_left_out else '')
    set_title(ax, f'{title or "What rejection is worth"}\n{note}; {result.rule}', 9)
    area = f'mean over the first {percent(result.area)} rejected (shaded), {result.better} is better'
    legend_below(fig, ax, title=area, title_fontsize=7.5, alignment='left')
    return fig


def _rate(x): return 'not defined' if np.isnan(x) else f'{100*x:.2f} %'


def cmc_figure(
    cmc,                        # `(ranks,)` shares from rank 1 on, or name -> shares
    ranks:int=20,               # Shown
    title:str='Retrieval: CMC', # What is judged
)->Figure:
    "Share of queries with a right picture among the first 1, 2, ..."
    cmc = named(cmc)
    fig,ax = new_figure(len(cmc) if '' not in cmc else 0)
    low = 1
    for i,(name,shares) in enumerate(cmc.items()):
        shares = np.asarray(shares)[:ranks]
        low = min(low, shares.min())
        label = f'{name}: rank 1 {_rate(shares[0])}' if name else ''
        ax.plot(np.arange(1, len(shares) + 1), shares, marker='o', markersize=3, label=label, **look(i))
    room = 1.1 - low
    ax.set(xlabel='rank', xlim=(.5, ranks + .5), ylabel='queries found', ylim=(max(0, low - .1*room), 1 + .02*room))
    ax.set_xticks([r for r in (1, 5, 10, 15, 20, 30, 40, 50) if r <= ranks])
    ax.yaxis.set_major_formatter(percent)
    set_title(ax, title)
    if '' not in cmc: legend_below(fig, ax)
    return fig
