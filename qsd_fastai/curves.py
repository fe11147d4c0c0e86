"The curves people look at: ROC, DET, CMC, error against rejection, figures by quality; each of plain data, returning a matplotlib figure."
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

__all__ = ['cmc_figure', 'det_figure', 'error_vs_reject_figure', 'map_by_quality_figure', 'roc_figure']

colors = ['#2f5d8a', '#d9822b', '#1b7f4b', '#8e4585', '#c0392b', '#5b6770']  # told apart in print and by most eyes, with the line styles
styles = ['-', (0, (5, 1.5)), '-.', (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]
chance,best = '#9a9a9a', '#222222'


def _figure(legend_lines, width=4.6, height=3.4):
    "A figure of one axes, with room under it for a legend of so many lines"
    fig = Figure(figsize=(width, height + .19*legend_lines), layout='constrained')
    ax = fig.subplots()
    ax.spines[['top', 'right']].set_visible(False)
    ax.grid(True, which='major', color='#e6e6e6', linewidth=.7)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)
    return fig, ax


def _look(i): return dict(color=colors[i % len(colors)], linestyle=styles[i % len(styles)], linewidth=1.5)


def _legend(fig, ax, **kwargs):
    "Under the axes, so that no curve is covered"
    fig.legend(*ax.get_legend_handles_labels(), loc='outside lower left', fontsize=7.5, frameon=False, handlelength=2.6, **kwargs)


def _title(ax, text): ax.set_title(text, fontsize=10)


def _percent(x, _=None): return f'{100*x:.10g} %'  # 0.0001 % rather than 0 %


def _log(axis):
    axis.set_major_locator(LogLocator(numticks=12))
    axis.set_major_formatter(FuncFormatter(_percent))
    axis.set_minor_formatter(NullFormatter())


def _named(curves): return curves if isinstance(curves, dict) else {'': curves}


def _lowest(curves, least):
    "`least`, or the lowest rate above 0 that any curve has; a perfect one has none but 1"
    if least is not None: return least
    found = [x for o in curves.values() for x in o.far[(o.far > 0) & (o.far < 1)][:1]]
    return min(found, default=1e-4)


def _steps(x, y, lowest):
    "A curve from `lowest` on: what is accepted at no false pair at all has no place on a logarithmic axis and starts there"
    x, y = np.asarray(x), np.asarray(y)
    return np.r_[lowest, x[x > lowest]], np.r_[y[x <= lowest][-1], y[x > lowest]]


def roc_figure(
    curves,     # `RocPoints`, or name -> `RocPoints`
    least=None, # The lowest FAR shown; the lowest measured when not given
    title:str='Verification: ROC',
)->Figure:
    "True pairs accepted over false pairs accepted, the latter on a logarithmic axis: what matters lies at its left"
    curves = _named(curves)
    fig,ax = _figure(len(curves) if '' not in curves else 0)
    lowest = _lowest(curves, least)
    for i,(name,points) in enumerate(curves.items()): ax.plot(*_steps(points.far, points.tar, lowest), label=name, **_look(i))
    ax.set(xscale='log', xlim=(lowest, 1), ylim=(0, 1.01), xlabel='false pairs accepted (FAR)', ylabel='true pairs accepted (TAR)')
    _log(ax.xaxis)
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    _narrow(ax)
    _title(ax, title)
    if '' not in curves: _legend(fig, ax)
    return fig


def det_figure(
    curves,     # `RocPoints`, or name -> `RocPoints`
    least=None, # The lowest rate shown; the lowest FAR measured when not given
    title:str='Verification: DET',
)->Figure:
    "True pairs refused over false pairs accepted, both on logarithmic axes; where a curve meets the diagonal lies the equal error rate"
    curves = _named(curves)
    fig,ax = _figure(len(curves) if '' not in curves else 0)
    lowest = _lowest(curves, least)
    low = min((o.frr[o.frr > 1e-12].min(initial=.5) for o in curves.values()), default=.5)
    for i,(name,points) in enumerate(curves.items()):
        x,y = _steps(points.far, points.frr, lowest)
        ax.plot(x, y.clip(.8*low), label=name, **_look(i))  # none refused has no place on the axis: drawn along its lower edge
    ax.plot([1e-12, 1], [1e-12, 1], color=chance, linewidth=.8, linestyle=':')
    ax.set(xscale='log', yscale='log', xlim=(lowest, 1), ylim=(.75*low, 1.2), xlabel='false pairs accepted (FAR)',
           ylabel='true pairs refused (FRR)')
    _log(ax.xaxis)
    _log(ax.yaxis)
    _narrow(ax)
    _title(ax, title)
    if '' not in curves: _legend(fig, ax)
    return fig


def _narrow(ax):
    "Many decades: their labels stand aslant, so that they do not run into each other"
    for label in ax.get_xticklabels(): label.set(rotation=30, ha='right', rotation_mode='anchor')


def error_vs_reject_figure(
    result,          # `RejectionResult`
    to:float=None,   # The largest share rejected that is shown; as far as every curve goes when not given
    title:str=None,  # What is judged, when not given
)->Figure:
    "Error (or a figure) over the share rejected, a curve a quality, with chance and the ideal; the partial area of each in the legend"
    curves = result.curves.loc[:result.whole_to if to is None else to]
    fig,ax = _figure(curves.shape[1], height=3.6)
    fixed = {'random': dict(color=chance, linestyle='-', linewidth=1.2), 'ideal': dict(color=best, linestyle=':', linewidth=1.2)}
    for i,name in enumerate(curves):
        partial = result.areas.loc[name, 'partial']
        ax.plot(curves.index, curves[name], label=f'{name}: {_rate(partial)}', **(fixed.get(name) or _look(i)))
    ax.axvspan(0, result.area, color='#f3f0e6', zorder=.5, linewidth=0)
    units = {'query': 'queries'}.get(result.unit, f'{result.unit}s')
    ax.set(xlim=(0, max(curves.index[-1], .01)), xlabel=f'{units} rejected, lowest quality first', ylabel=result.what)
    if result.better == 'lower': ax.set_ylim(0, None)
    ax.xaxis.set_major_formatter(FuncFormatter(_percent))
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    note = f'{result.n_units:,} {units}' + (f', {result.n_left_out:,} more left out' if result.n_left_out else '')
    _title(ax, f'{title or "What rejection is worth"}\n{note}; {result.rule}')
    ax.title.set_fontsize(9)
    _legend(fig, ax, title=f'mean over the first {_percent(result.area)} rejected (shaded), {result.better} is better', title_fontsize=7.5,
            alignment='left')
    return fig


def _rate(x): return 'not defined' if np.isnan(x) else f'{100*x:.2f} %'


def cmc_figure(
    cmc,           # `(ranks,)` shares from rank 1 on, or name -> shares
    ranks:int=20,  # Shown
    title:str='Retrieval: CMC',
)->Figure:
    "Share of queries with a right picture among the first 1, 2, ..."
    cmc = _named(cmc)
    fig,ax = _figure(len(cmc) if '' not in cmc else 0)
    low = 1
    for i,(name,shares) in enumerate(cmc.items()):
        shares = np.asarray(shares)[:ranks]
        low = min(low, shares.min())
        label = f'{name}: rank 1 {_rate(shares[0])}' if name else ''
        ax.plot(np.arange(1, len(shares) + 1), shares, marker='o', markersize=3, label=label, **_look(i))
    ax.set(xlabel='rank', ylabel='queries found', xlim=(.5, ranks + .5), ylim=(max(0, low - .1*(1.1 - low)), 1 + .02*(1.1 - low)))
    ax.set_xticks([r for r in (1, 5, 10, 15, 20, 30, 40, 50) if r <= ranks])
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    _title(ax, title)
    if '' not in cmc: _legend(fig, ax)
    return fig


def map_by_quality_figure(
    groups:pd.DataFrame|dict, # Of `by_quality` or `verification_by_quality`; or name -> such, to compare
    figure:str='mAP',         # The column shown
    title:str=None,           # What is judged, when not given
)->Figure:
    "A figure in groups of rising quality, a bar each, with how many there are and what quality they have"
    groups = _named(groups)
    first = next(iter(groups.values()))
    fig,ax = _figure(len(groups) if '' not in groups else 0, width=max(3.6, 1.2 + 1.05*len(first)))
    width = .8/len(groups)
    for i,(name,of) in enumerate(groups.items()):
        at = np.arange(len(first)) + width*(i + .5) - .4
        value = of[figure].reindex(first.index).to_numpy(dtype=float)
        ax.bar(at, value, width*.94, color=colors[i % len(colors)], label=name)
        for x,y in zip(at, value):
            text,y = ('?', 0) if np.isnan(y) else (f'{100*y:.1f}', y)
            ax.annotate(text, (x, y), (0, 2), textcoords='offset points', ha='center', fontsize=7)
    count = next(c for c in first if c.startswith('n_'))
    ax.set_xticks(np.arange(len(first)), [f'{o.Index}\n{_range(o)}\n{getattr(o, count):,} {count[2:]}' for o in first.itertuples()])
    top = max((o[figure].max() for o in groups.values()), default=1)
    ax.set(ylabel=figure, ylim=(0, 1.12*top if top > 0 else 1))
    ax.grid(False, axis='x')
    ax.yaxis.set_major_formatter(FuncFormatter(_percent))
    _title(ax, title or f'{figure} by quality')
    if '' not in groups: _legend(fig, ax)
    return fig


def _range(o): return 'quality ?' if np.isnan(o.quality_from) else f'quality {o.quality_from:.0f} to {o.quality_to:.0f}'
