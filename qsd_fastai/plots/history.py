"How a training went: its loss and what was validated, epoch by epoch"
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from .style import bare, look, set_title

__all__ = ['history_figure']


def history_figure(
    epochs:pd.DataFrame, # A row an epoch: `epoch`, `mean/smooth_loss`, `valid/...`, as `TrackRun` keeps them
)->Figure:
    """The loss on the left, what was validated on the right, a line each and a mark an epoch

    The loss of validation is shown where nothing else was validated; beside figures it is one of them, turned round."""
    figures = {k: k.removeprefix('valid/') for k in epochs if k.startswith('valid/') and k != 'valid/loss'}
    losses = {'mean/smooth_loss': 'training', **({} if figures else {'valid/loss': 'validation'})}
    parts = [('Loss', losses), ('Validation', figures)]
    parts = [(what, {k: o for k,o in named.items() if k in epochs}) for what,named in parts]
    parts = [(what, named) for what,named in parts if named]
    n = max((len(named) for _,named in parts), default=0)
    fig = Figure(figsize=(4.4*max(len(parts), 1), 3 + .17*n), layout='constrained')
    fig.get_layout_engine().set(w_pad=.15, h_pad=.08) # A line above everything moves the ticks once more
    said = f'{len(epochs):,} epoch{"s"*(len(epochs) > 1)}'
    for ax,(what,named) in zip(fig.subplots(1, len(parts), squeeze=False)[0] if parts else (), parts):
        for i,(k,name) in enumerate(named.items()):
            shape = dict(marker='os^DvP'[i % 6], markersize=4, markevery=max(1, len(epochs)//20))
            label = f'{name}: {epochs[k].iloc[-1]:.3g} at the end'
            ax.plot(epochs['epoch'], epochs[k], label=label, **shape, **look(i))
        bare(ax)
        ax.grid(True, color='#e6e6e6', linewidth=.7)
        ax.tick_params(labelsize=8)
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.set(xlabel='epoch', ylabel='loss' if named.keys() & losses else 'share, 0 to 1')
        set_title(ax, f'{what}, {said}', 9)
        ax.legend(fontsize=7.5, frameon=False, handlelength=3, loc='upper left', bbox_to_anchor=(0, -.18))
    return fig
