"The pictures people look at, each a function of plain data that returns a matplotlib figure."
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from PIL import Image

from .data.sources import open_picture, upright

__all__ = ['hardest_figure', 'hardest_pairs_figure', 'paired_gains', 'picture_sheet', 'quality_agreement', 'quality_histogram', 'ranked_lists']

right,wrong,ink,soft = '#1b7f4b', '#c0392b', '#2f5d8a', '#9db4cc'
letters = 7  # points, of the captions of pictures


def _picture(o, most=400):
    "A file, a PIL image or an array as an RGB array; a file no larger than a figure can show"
    if not isinstance(o, (Image.Image, np.ndarray)):
        with open_picture(o) as img:
            img.draft('RGB', (most, most))  # a large JPEG is decoded small
            o = upright(img).convert('RGB')
        o.thumbnail((most, most))
    o = np.asarray(o.convert('RGB') if isinstance(o, Image.Image) else o)
    return o if o.ndim == 3 else o[..., None].repeat(3, 2)


def _grid(rows, height=1.5, title_room=.42, gap_after=None):
    """A figure of empty axes for rows of pictures, `height` inches each, and what fits the width of a picture in letters.

    `gap_after` so many columns there is a narrow empty one."""
    first = next((o for row in rows for o in row), None)
    if first is None:
        fig = Figure(figsize=(3.2, 1))
        fig.text(.5, .5, 'nothing to show', ha='center', va='center')
        return fig, None, 0
    shape,n_cols = _picture(first).shape, max(map(len, rows))
    width = height*shape[1]/shape[0]
    widths = [1]*n_cols if gap_after is None else ([*[1]*gap_after, .2]*(-(-n_cols//gap_after)))[:-1]
    fig = Figure(figsize=(max(sum(widths)*width + len(widths)*.12 + .2, 3.2), len(rows)*(height + title_room) + .3), layout='constrained')
    axes = fig.subplots(len(rows), len(widths), squeeze=False, gridspec_kw={'width_ratios': widths})
    for ax in axes.flat: ax.set_axis_off()
    return fig, axes, int(width*72/(.58*letters))


def _text(quality): return 'quality ?' if quality is None or np.isnan(quality) else f'quality {quality:.0f}'


def _short(text, n): return text if len(text) <= n else text[:max(n - 1, 1)] + '…'


def picture_sheet(
    pictures,      # Rows of pictures (files, PIL images or arrays), an identity a row, say
    qualities=None,# Rows of numbers, 0 to 100, NaN = unknown
    names=None,    # A name for each row
    height:float=1.5, # Of a picture, inches
)->Figure:
    "Pictures in rows, each with its quality: a batch, or identities side by side"
    fig,axes,room = _grid(pictures, height)
    for i,row in enumerate(pictures):
        for j,picture in enumerate(row):
            axes[i,j].imshow(_picture(picture))
            lines = [_text(qualities[i][j])] if qualities is not None else []
            if names is not None and j == 0: lines = [_short(str(names[i]), room), *lines]
            axes[i,j].set_title('\n'.join(lines), fontsize=letters, loc='left')
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
    unknown = len(quality) - len(known)
    note = f'{len(known):,} known' + (f', {unknown:,} unknown' if unknown else '')
    ax.set(xlabel='quality (0 to 100, higher is better)', ylabel='pictures', xlim=(0, 100), title=f'{title}\n{note}')
    ax.title.set_fontsize(10)
    ax.yaxis.set_major_locator(MaxNLocator(integer=True))
    _plain(ax)
    if not len(known):
        ax.set_ylim(0, 1)
        return fig
    counts = ax.hist(known, bins=np.linspace(0, 100, 41), color=soft, edgecolor=ink, linewidth=.6)[0]
    ax.set_ylim(0, 1.2*counts.max())  # room for the label
    median = np.median(known)
    ax.axvline(median, color=wrong, linewidth=1.2)
    ax.annotate(f'median {median:.0f}', (median, 1), xycoords=('data', 'axes fraction'), xytext=(-4 if median > 50 else 4, -10),
                textcoords='offset points', ha='right' if median > 50 else 'left', color=wrong, fontsize=8)
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
    fig,axes,_ = _grid([[query, *gallery] for query,gallery in zip(queries, galleries)], height)
    for i,query in enumerate(queries):
        axes[i,0].imshow(_picture(query))
        axes[i,0].set_title(titles[i] if titles is not None else 'query', fontsize=letters, loc='left')
        for j,(picture,ok) in enumerate(zip(galleries[i], correct[i]), 1):
            ax,array = axes[i,j],_picture(picture)
            ax.imshow(array)
            ax.add_patch(_frame(array.shape, right if ok else wrong))
            ax.set_title(f'{j} {"right" if ok else "wrong"}', fontsize=letters, loc='left', color=right if ok else wrong)
    return fig


def hardest_figure(
    hard:pd.DataFrame, # Of `hardest_queries`
    files,             # The picture of each row of the table
):
    "`ranked_lists` of the hardest queries"
    titles = [f'query, AP {o.ap:.2f}\n{_text(o.quality)}' for o in hard.itertuples()]
    return ranked_lists([files[r] for r in hard['row']], [[files[r] for r in o] for o in hard['gallery']], list(hard['correct']), titles)


def hardest_pairs_figure(
    hard:pd.DataFrame, # Of `hardest_pairs`
    files,             # The picture of each row of the table
    columns:int=4,     # Pairs side by side
    height:float=1.5,  # Of a picture, inches
)->Figure:
    "Pairs of one person that look least alike, then pairs of two people that look most alike, each with score and quality, framed by its verdict"
    kinds = [list(o.itertuples()) for _,o in hard.groupby('same', sort=False)]
    rows = [o[i:i + columns] for o in kinds for i in range(0, len(o), columns)]
    fig,axes,_ = _grid([[files[r] for o in row for r in (o.row1, o.row2)] for row in rows], height, gap_after=2)
    for line,row in zip(axes if axes is not None else (), rows):
        for k,o in enumerate(row):
            color = right if o.correct else wrong
            said = f'{"one person" if o.same else "two people"}, {o.score:.2f}\n{_text(o.quality1)}'
            for ax,r,text in zip(line[3*k:], (o.row1, o.row2), (said, _text(o.quality2))):
                array = _picture(files[r])
                ax.imshow(array)
                ax.add_patch(_frame(array.shape, color))
                ax.set_title(text, fontsize=letters, loc='left', color=color)
    return fig


def paired_gains(
    gains,         # Of `arm_gains`: `arm, figure, mean, error`
    reference:str, # What the gains are over
)->Figure:
    "What each arm gains in each figure, in points, with two standard errors on each side; a bar across 0 is no evidence"
    figures,arms = gains['figure'].unique(), gains['arm'].unique()
    fig = Figure(figsize=(1.1*len(figures) + 2.5, 3.4), layout='constrained')
    ax = fig.subplots()
    for k,arm in enumerate(arms):
        of_arm = gains[gains['arm'] == arm].set_index('figure').loc[figures]
        at = np.arange(len(figures)) + .7*((k + .5)/len(arms) - .5)
        ax.errorbar(at, 100*of_arm['mean'], yerr=200*of_arm['error'].fillna(0), fmt='o', markersize=4, capsize=2, label=arm)
    ax.axhline(0, color='black', linewidth=.8)
    ax.set_xticks(np.arange(len(figures)), figures)
    ax.set(ylabel='gain, points', title=f'over "{reference}", same seed; bars: 2 standard errors')
    ax.legend(fontsize=7, loc='upper left', bbox_to_anchor=(1, 1), frameon=False)
    _plain(ax)
    return fig


def _frame(shape, color):
    return Rectangle((-.5, -.5), shape[1], shape[0], fill=False, edgecolor=color, linewidth=3)


def _plain(ax): ax.spines[['top', 'right']].set_visible(False)
