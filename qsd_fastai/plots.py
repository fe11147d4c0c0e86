"The pictures people look at, each a function of plain data that returns a matplotlib figure."
from textwrap import shorten

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from PIL import Image

__all__ = ['picture_sheet', 'quality_agreement', 'quality_histogram', 'ranked_lists']

right,wrong,ink,soft = '#1b7f4b', '#c0392b', '#2f5d8a', '#9db4cc'


def _picture(o):
    "A file, a PIL image or an array as an array"
    return np.asarray(o if isinstance(o, (Image.Image, np.ndarray)) else Image.open(o).convert('RGB'))


def _grid(n_rows, n_cols, shape, height=1.5, title_room=.42):
    "A figure of empty axes for pictures of `shape` (height, width, ...), `height` inches each"
    width = height*shape[1]/shape[0]
    fig = Figure(figsize=(max(n_cols*(width + .12) + .2, 3.2), n_rows*(height + title_room) + .3), layout='constrained')
    axes = fig.subplots(n_rows, n_cols, squeeze=False)
    for ax in axes.flat: ax.set_axis_off()
    return fig, axes


def _text(quality): return 'quality ?' if quality is None or np.isnan(quality) else f'quality {quality:.0f}'


def picture_sheet(
    pictures,      # Rows of pictures (files, PIL images or arrays), an identity a row, say
    qualities=None,# Rows of numbers, 0 to 100, NaN = unknown
    names=None,    # A name for each row
    height:float=1.5, # Of a picture, inches
)->Figure:
    "Pictures in rows, each with its quality: a batch, or identities side by side"
    fig,axes = _grid(len(pictures), max(map(len, pictures)), _picture(pictures[0][0]).shape, height)
    for i,row in enumerate(pictures):
        for j,picture in enumerate(row):
            axes[i,j].imshow(_picture(picture))
            title = _text(qualities[i][j]) if qualities is not None else ''
            if names is not None and j == 0: title = shorten(str(names[i]), 14, placeholder='…') + '\n' + title
            axes[i,j].set_title(title, fontsize=7, loc='left')
    return fig


def quality_histogram(
    quality,       # `(n,)`, 0 to 100, NaN = unknown
    title:str='Quality of the training pictures',
)->Figure:
    "How quality is distributed, and how much of it is known"
    quality = np.asarray(quality, dtype=float)
    known = quality[~np.isnan(quality)]
    fig = Figure(figsize=(5, 3), layout='constrained')
    ax = fig.subplots()
    ax.hist(known, bins=np.linspace(0, 100, 41), color=soft, edgecolor=ink, linewidth=.6)
    if len(known):
        ax.axvline(np.median(known), color=wrong, linewidth=1.2)
        ax.annotate(f'median {np.median(known):.0f}', (np.median(known), 1), xycoords=('data', 'axes fraction'), xytext=(4, -10),
                    textcoords='offset points', color=wrong, fontsize=8)
    unknown = len(quality) - len(known)
    ax.set(xlabel='quality (0 to 100, higher is better)', ylabel='pictures', xlim=(0, 100), title=title)
    note = f'{len(known):,} known' + (f', {unknown:,} unknown' if unknown else '')
    ax.text(.99, .97, note, transform=ax.transAxes, ha='right', va='top', fontsize=8)
    _plain(ax)
    return fig


def quality_agreement(
    quality,        # `(n,)` computed labels, 0 to 100
    true_quality,   # `(n,)` known quality, 0 to 100
    correlation:float, # Their rank correlation, -1 to 1
)->Figure:
    "Computed quality against known quality, a point a picture"
    fig = Figure(figsize=(4, 3.6), layout='constrained')
    ax = fig.subplots()
    ax.scatter(true_quality, quality, s=5, color=ink, alpha=.35, linewidths=0)
    ax.set(xlabel='true quality', ylabel='computed quality', xlim=(-2, 102), ylim=(-2, 102), title=f'rank correlation {correlation:.2f}')
    _plain(ax)
    return fig


def ranked_lists(
    queries,        # `(n,)` pictures
    galleries,      # `(n, top)` pictures, best first
    correct,        # `(n, top)` bool, the query's identity?
    titles=None,    # `(n,)` a line over each query, its quality and AP say
    height:float=1.5, # Of a picture, inches
)->Figure:
    "Each query and what the gallery answered, right in green and wrong in red"
    fig,axes = _grid(len(queries), 1 + max(map(len, galleries)), _picture(queries[0]).shape, height)
    for i,query in enumerate(queries):
        axes[i,0].imshow(_picture(query))
        axes[i,0].set_title(titles[i] if titles is not None else 'query', fontsize=7, loc='left')
        for j,(picture,ok) in enumerate(zip(galleries[i], correct[i]), 1):
            ax,array = axes[i,j],_picture(picture)
            ax.imshow(array)
            ax.add_patch(_frame(array.shape, right if ok else wrong))
            ax.set_title(f'{j} {"right" if ok else "wrong"}', fontsize=7, loc='left', color=right if ok else wrong)
    return fig


def _frame(shape, color):
    return Rectangle((-.5, -.5), shape[1], shape[0], fill=False, edgecolor=color, linewidth=3)


def _plain(ax): ax.spines[['top', 'right']].set_visible(False)
