"Where a method helped: the gain of each query over the run without it, and the pictures that gained and lost most"
import numpy as np
from matplotlib.figure import Figure

from .pictures import quality_text, tiles_figure
from .style import legend_below, look, new_figure, right, set_title, signed, wrong

__all__ = ['gained_and_lost_figure', 'query_gains_figure']


def query_gains_figure(
    gains:dict,      # Arm -> `(n,)` gain in AP of each query, -1 to 1
    reference:str,   # What the gains are over
    title:str='Gain of each query', # What is judged
    looks:dict=None, # Arm -> number of its color and line; counted when not given
)->Figure:
    "Queries from the one that gained most to the one that lost most, a line an arm; below 0 an arm answers worse"
    fig,ax = new_figure(len(gains), width=5.2)
    n = 0
    for i,(arm,gain) in enumerate(gains.items()):
        gain = np.sort(np.asarray(gain, dtype=float))[::-1]
        n,up,down = len(gain),int((gain > 1e-9).sum()),int((gain < -1e-9).sum())
        label = f'{arm}: {100*gain.mean():+.1f}, {up:,} better, {down:,} worse'
        ax.plot(np.arange(1, n + 1), 100*gain, label=label, **look(i if looks is None else looks[arm]))
    ax.axhline(0, color='black', linewidth=.8)
    ax.set(xlabel='queries, the one that gained most first', ylabel='gain in AP, points', xlim=(1, max(n, 2)))
    set_title(ax, f'{title} over "{reference}"\n{n:,} queries; the mean in the legend', 9)
    legend_below(fig, ax)
    return fig


def gained_and_lost_figure(
    gains,   # A row a query: `row`, `ap`, `reference_ap`, `quality`
    files,   # The picture of each row of the table
    n:int=8, # Of each kind
)->Figure:
    "The queries that gained most, then those that lost most, each with its AP before and after"
    ordered = gains.assign(gain=gains['ap'] - gains['reference_ap']).sort_values('gain', kind='stable')
    gained,lost = ordered[ordered['gain'] > 1e-9][::-1],ordered[ordered['gain'] < -1e-9]
    up,down = gained.head(n),lost.head(n)
    def tile(o, color): return files[o.row], f'AP {o.reference_ap:.2f} → {o.ap:.2f}\n{quality_text(o.quality)}', color
    rows = [[tile(o, color) for o in some.itertuples()] for some,color in ((up, right), (down, wrong))]
    said = f'{len(up)} of {len(gained):,} that gained, {len(down)} of {len(lost):,} that lost'
    return signed(tiles_figure([row for row in rows if row]), f'{len(gains):,} queries: {said}')
