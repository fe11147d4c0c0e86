"Pictures side by side: a batch, ranked lists, the hardest queries and pairs"
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

from ..data.pictures import open_picture
from ..shown import cut_to
from .style import letters, right, signed, wrong

__all__ = ['captioned_figure', 'hardest_figure', 'hardest_pairs_figure', 'picture_array', 'quality_text',
           'ranked_lists_figure', 'sheet_figure', 'shortened', 'tiles_figure']


def picture_array(
    o,        # Anything that `open_picture` takes
    most=400, # Longest side of one from a file, pixels
)->np.ndarray: # `(height, width, 3)`
    "Anything that `open_picture` takes as an RGB array; a file no larger than a figure can show"
    img = open_picture(o, 4*most**2)  # a large JPEG is decoded small
    if not isinstance(o, (Image.Image, np.ndarray)): img.thumbnail((most, most))
    return np.asarray(img)


def _room(height, shape): return int(height*shape[1]/shape[0]*72/(.58*letters))


def tiles_figure(
    rows,           # Of `(picture, caption, color)`; a color of `None` frames nothing
    height=1.5,     # Of a picture, inches at most
    gap_after=None, # Pictures of a row from one wider gap to the next
    figure=Figure,  # As in `ranked_lists_figure`
)->Figure:
    """A figure of rows of `(picture, caption, color)`: each picture `height` inches high at most, under its caption.

    Where there is a color, framed and captioned in it. After each `gap_after` pictures of a row there is a wider gap.
    All stand in one axes, in inches from the upper left corner: an axes each would take most of the time of a run's
    pictures."""
    rows = [[(picture_array(picture), caption, color) for picture,caption,color in row] for row in rows]
    first = next((o for row in rows for o in row), None)
    if first is None:
        fig = figure(figsize=(3.2, 1))
        fig.text(.5, .5, 'nothing to show', ha='center', va='center')
        return fig
    width,edge,gap,line = height*first[0].shape[1]/first[0].shape[0],.1,.12,1.3*letters/72
    def left(j): return edge + j*(width + gap) + (j//gap_after*2*gap if gap_after else 0)
    tops,end = [],edge
    for row in rows:
        tops.append(end + .06 + line*max((o[1].count('\n') + 1 if o[1] else 0 for o in row), default=0))
        end = tops[-1] + height + .08
    size = max(left(max(map(len, rows)) - 1) + width + edge, 3.2), end + edge
    fig = figure(figsize=size)
    ax = fig.add_axes((0, 0, 1, 1))
    for row,top in zip(rows, tops):
        for j,(array,caption,color) in enumerate(row):
            scale = min(width/array.shape[1], height/array.shape[0])
            x,y,w,h = left(j), top, array.shape[1]*scale, array.shape[0]*scale
            ax.imshow(array, extent=(x, x + w, y + h, y), aspect='auto')
            ax.text(x, top - .04, caption, fontsize=letters, va='bottom', color=color or 'black')
            if color: ax.add_patch(Rectangle((x, y), w, h, fill=False, edgecolor=color, linewidth=3))
    ax.set(xlim=(0, size[0]), ylim=(size[1], 0))
    ax.set_axis_off()
    return fig


def quality_text(
    quality, # 0 to 100, NaN or None where it is not known
)->str:
    "As captions have it"
    return 'quality ?' if quality is None or np.isnan(quality) else f'quality {quality:.0f}'


def sheet_figure(
    pictures,         # Rows of pictures (files, PIL images or arrays), an identity a row, say
    qualities=None,   # Rows of numbers, 0 to 100, NaN = unknown
    names=None,       # A name for each row
    height:float=1.5, # Of a picture, inches
)->Figure:
    "Pictures in rows, each with its quality: a batch, or identities side by side"
    first = next((o for row in pictures for o in row), None) if names is not None else None
    room = 0 if first is None else _room(height, picture_array(first).shape)
    def said(i, j):
        lines = [quality_text(qualities[i][j])] if qualities is not None else []
        return '\n'.join([cut_to(str(names[i]), room), *lines] if names is not None and j == 0 else lines)
    return tiles_figure([[(o, said(i, j), None) for j,o in enumerate(row)] for i,row in enumerate(pictures)], height)


def captioned_figure(
    pictures,         # `(n,)` pictures
    captions,         # `(n,)` lines over each
    columns:int=6,    # Side by side
    height:float=1.5, # Of a picture, inches
    figure=Figure,    # As in `ranked_lists_figure`
)->Figure:
    "Pictures with what is said of each"
    tiles = [(o, said, None) for o,said in zip(pictures, captions)]
    return tiles_figure([tiles[i:i + columns] for i in range(0, len(tiles), columns)], height, figure=figure)


def shortened(
    name:str,         # Of an identity
    picture,          # Over which it stands
    height:float=1.5, # Of the picture, inches
)->str:
    "A name that ends where the picture does"
    return cut_to(str(name), _room(height, picture_array(picture).shape))


def ranked_lists_figure(
    queries,          # `(n,)` pictures
    galleries,        # `(n, top)` pictures, best first
    correct=None,     # `(n, top)` bool, the query's identity? Nobody knows when not given
    titles=None,      # `(n,)` a line over each query, its quality and AP say
    captions=None,    # `(n, top)` a line over each answer, under its rank
    height:float=1.5, # Of a picture, inches
    figure=Figure,    # What makes it; `plt.figure` shows it too, where figures are shown
    first=None,       # `(n,)` `(rank, picture)` of the first right answer where it is further down, or `None`
)->Figure:
    "Each query and what the gallery answered, right in green and wrong in red"
    def answer(i, j, picture):
        word,color = ('', None) if correct is None else (' right', right) if correct[i][j] else (' wrong', wrong)
        said = f'{j + 1}{word}' if captions is None else f'{j + 1}{word}\n{captions[i][j]}'
        return picture, said, color
    rows = [[(query, titles[i] if titles is not None else 'query', None),
             *(answer(i, j, o) for j,o in enumerate(galleries[i]))] for i,query in enumerate(queries)]
    for row,found in zip(rows, first or ()):
        if found is not None: row.append((found[1], f'{found[0]} right', right))
    return tiles_figure(rows, height, figure=figure)


def hardest_figure(
    hard:pd.DataFrame, # Of `hardest_queries`
    files,             # The picture of each row of the table
    n:int=0,           # Queries in all, for a line above; 0 says nothing
)->Figure:
    "`ranked_lists_figure` of the hardest queries"
    titles = [f'query, AP {o.ap:.2f}\n{quality_text(o.quality)}' for o in hard.itertuples()]
    galleries = [[files[r] for r in o] for o in hard['gallery']]
    first = [None if any(o.correct) else (o.first_rank, files[o.answer]) for o in hard.itertuples()]
    fig = ranked_lists_figure([files[r] for r in hard['row']], galleries, list(hard['correct']), titles, first=first)
    return signed(fig, f'the hardest {len(hard):,} of {n:,} queries' if n else '')


def hardest_pairs_figure(
    hard:pd.DataFrame, # Of `hardest_pairs`
    files,             # The picture of each row of the table
    columns:int=4,     # Pairs side by side
    height:float=1.5,  # Of a picture, inches
    of=(),             # Whether each pair in all is of one person, for a line above; nothing when not given
)->Figure:
    """Pairs of one person that look least alike, then pairs of two people that look most alike.

    Each with its score and, where any are known, qualities, in the color of its verdict."""
    kinds = [list(o.itertuples()) for _,o in hard.groupby('same', sort=False)]
    rows = [o[i:i + columns] for o in kinds for i in range(0, len(o), columns)]
    known = hard[['quality1', 'quality2']].notna().any(axis=None)
    def pair(o):
        color,said = right if o.correct else wrong, f'{"one person" if o.same else "two people"}, {o.score:.2f}'
        one,two = (quality_text(o.quality1), quality_text(o.quality2)) if known else ('', '')
        return (files[o.row1], f'{said}\n{one}'.strip(), color), (files[o.row2], two, color)
    fig = tiles_figure([[tile for o in row for tile in pair(o)] for row in rows], height, gap_after=2)
    if not len(of): return fig
    (one,two),(ones,twos) = ((int(o.sum()), int((~o).sum())) for o in (hard['same'].astype(bool), np.asarray(of, bool)))
    return signed(fig, f'the hardest {one:,} of {ones:,} pairs of one person, {two:,} of {twos:,} of two people')
