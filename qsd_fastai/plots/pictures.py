"Pictures side by side: a batch, ranked lists, the hardest queries and pairs"
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ..data.pictures import open_picture
from .style import letters, right, wrong

__all__ = ['hardest_figure', 'hardest_pairs_figure', 'ranked_lists_figure', 'sheet_figure']


def _picture(o, most=400):
    "Anything that `open_picture` takes as an RGB array; a file no larger than a figure can show"
    img = open_picture(o, 4*most**2)  # a large JPEG is decoded small
    if not isinstance(o, (Image.Image, np.ndarray)): img.thumbnail((most, most))
    return np.asarray(img)


def _grid(rows, height=1.5, title_room=.42, gap_after=None):
    """A figure of empty axes for rows of pictures, `height` inches each, and the width of a picture in letters.

    `gap_after` so many columns there is a narrow empty one."""
    first = next((o for row in rows for o in row), None)
    if first is None:
        fig = Figure(figsize=(3.2, 1))
        fig.text(.5, .5, 'nothing to show', ha='center', va='center')
        return fig, None, 0
    shape,n_cols = _picture(first).shape, max(map(len, rows))
    width = height*shape[1]/shape[0]
    widths = [1]*n_cols if gap_after is None else ([*[1]*gap_after, .2]*(-(-n_cols//gap_after)))[:-1]
    size = max(sum(widths)*width + len(widths)*.12 + .2, 3.2), len(rows)*(height + title_room) + .3
    fig = Figure(figsize=size, layout='constrained')
    axes = fig.subplots(len(rows), len(widths), squeeze=False, gridspec_kw={'width_ratios': widths})
    for ax in axes.flat: ax.set_axis_off()
    return fig, axes, int(width*72/(.58*letters))


def _show(ax, picture, caption, color=None):
    "A picture under its caption; where there is a color, framed and captioned in it"
    array = _picture(picture)
    ax.imshow(array)
    title = ax.set_title(caption, fontsize=letters, loc='left')
    if color is None: return
    height,width = array.shape[:2]
    ax.add_patch(Rectangle((-.5, -.5), width, height, fill=False, edgecolor=color, linewidth=3))
    title.set_color(color)


def _text(quality): return 'quality ?' if quality is None or np.isnan(quality) else f'quality {quality:.0f}'


def _short(text, n): return text if len(text) <= n else text[:max(n - 1, 1)] + '…'


def sheet_figure(
    pictures,         # Rows of pictures (files, PIL images or arrays), an identity a row, say
    qualities=None,   # Rows of numbers, 0 to 100, NaN = unknown
    names=None,       # A name for each row
    height:float=1.5, # Of a picture, inches
)->Figure:
    "Pictures in rows, each with its quality: a batch, or identities side by side"
    fig,axes,room = _grid(pictures, height)
    for i,row in enumerate(pictures):
        for j,picture in enumerate(row):
            lines = [_text(qualities[i][j])] if qualities is not None else []
            if names is not None and j == 0: lines = [_short(str(names[i]), room), *lines]
            _show(axes[i,j], picture, '\n'.join(lines))
    return fig


def ranked_lists_figure(
    queries,          # `(n,)` pictures
    galleries,        # `(n, top)` pictures, best first
    correct,          # `(n, top)` bool, the query's identity?
    titles=None,      # `(n,)` a line over each query, its quality and AP say
    height:float=1.5, # Of a picture, inches
)->Figure:
    "Each query and what the gallery answered, right in green and wrong in red"
    fig,axes,_ = _grid([[query, *gallery] for query,gallery in zip(queries, galleries)], height)
    for i,query in enumerate(queries):
        _show(axes[i,0], query, titles[i] if titles is not None else 'query')
        for j,(picture,ok) in enumerate(zip(galleries[i], correct[i]), 1):
            word,color = ('right', right) if ok else ('wrong', wrong)
            _show(axes[i,j], picture, f'{j} {word}', color)
    return fig


def hardest_figure(
    hard:pd.DataFrame, # Of `hardest_queries`
    files,             # The picture of each row of the table
)->Figure:
    "`ranked_lists_figure` of the hardest queries"
    titles = [f'query, AP {o.ap:.2f}\n{_text(o.quality)}' for o in hard.itertuples()]
    galleries = [[files[r] for r in o] for o in hard['gallery']]
    return ranked_lists_figure([files[r] for r in hard['row']], galleries, list(hard['correct']), titles)


def hardest_pairs_figure(
    hard:pd.DataFrame, # Of `hardest_pairs`
    files,             # The picture of each row of the table
    columns:int=4,     # Pairs side by side
    height:float=1.5,  # Of a picture, inches
)->Figure:
    """Pairs of one person that look least alike, then pairs of two people that look most alike.

    Each with its score and qualities, in the color of its verdict."""
    kinds = [list(o.itertuples()) for _,o in hard.groupby('same', sort=False)]
    rows = [o[i:i + columns] for o in kinds for i in range(0, len(o), columns)]
    fig,axes,_ = _grid([[files[r] for o in row for r in (o.row1, o.row2)] for row in rows], height, gap_after=2)
    for line,row in zip(axes if axes is not None else (), rows):
        for k,o in enumerate(row):
            color = right if o.correct else wrong
            said = f'{"one person" if o.same else "two people"}, {o.score:.2f}\n{_text(o.quality1)}'
            for ax,r,text in zip(line[3*k:], (o.row1, o.row2), (said, _text(o.quality2))):
                _show(ax, files[r], text, color)
    return fig
