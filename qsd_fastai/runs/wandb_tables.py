"What a W&B run shows beside numbers: figures as pictures, the hardest queries and pairs as tables"
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg

from ..data.pictures import open_picture
from ..data.sources import split_address
from .keys import under
from .wandb_run import kept_beside, wandb

__all__ = ['figure_image', 'figure_images', 'hardest_table', 'log_closing', 'pairs_table', 'table_picture']


def hardest_table(
    hard,  # Of `hardest_queries`
    files, # The picture of each row of the table
    paths, # Its path in the table
)->'wandb.Table':
    "The hardest queries as a W&B table: the query, what is known about it, and its ranked gallery"
    top = max(map(len, hard['gallery']))
    ranks = [f'rank{k + 1}' for k in range(top)]
    table = wandb.Table(columns=['query', 'path', 'quality', 'ap', 'first_rank', 'first_right', *ranks])
    for o in hard.itertuples():
        judged = _known(o.quality),float(o.ap),int(o.first_rank)
        answers = [table_picture(files[r], 'right' if ok else 'wrong') for r,ok in zip(o.gallery, o.correct)]
        lacking = [None]*(top - len(answers))
        first = table_picture(files[o.answer], f'rank {o.first_rank}')
        table.add_data(table_picture(files[o.row]), paths[o.row], *judged, first, *answers, *lacking)
    return table


def pairs_table(
    hard,  # Of `hardest_pairs`
    files, # The picture of each row of the table
    paths, # Its path in the table
)->'wandb.Table':
    "The hardest pairs as a W&B table: both pictures, and what is known about them"
    names = ['picture1', 'picture2', 'same', 'score', 'threshold', 'correct', 'quality', 'path1', 'path2']
    table = wandb.Table(columns=names)
    for o in hard.itertuples():
        pictures = table_picture(files[o.row1]),table_picture(files[o.row2])
        threshold = 1 - float(o.threshold)/2  # a cosine, as the score is
        judged = bool(o.same),float(o.score),threshold,bool(o.correct),_known(o.quality)
        table.add_data(*pictures, *judged, paths[o.row1], paths[o.row2])
    return table


def _known(quality): return None if np.isnan(quality) else float(quality)


def table_picture(
    file,         # A picture
    caption=None, # Shown below it
    most=256,     # Longest side that is kept, pixels
)->'wandb.Image':
    "A picture for a W&B table, a large one as a small copy"
    img = open_picture(file, 4*most**2)
    shown = split_address(file)[1] is None and str(file).lower().endswith(('.jpg', '.jpeg', '.png', '.webp'))
    if shown and max(img.size) <= most: return wandb.Image(str(file), caption=caption)
    img.thumbnail((most, most))
    return wandb.Image(img, caption=caption, file_type='jpg')


def figure_image(
    fig, # Matplotlib figure
)->'wandb.Image':
    "A figure as a picture for W&B"
    fig.set_dpi(110)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return wandb.Image(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def figure_images(
    figures:dict, # Name -> matplotlib figure
)->dict: # To be logged
    "Figures as pictures for W&B, under their keys"
    return under('plots', {k: figure_image(v) for k,v in figures.items()})


def log_closing(
    run,          # Of W&B
    frames:dict,  # Name -> DataFrame
    figures:dict, # Name -> matplotlib figure
    charts=None,  # Name -> chart of `wandb.plot`
):
    "Frames as tables, figures as pictures, and charts, at the end of a comparison"
    if run.disabled: return
    tables = {k: wandb.Table(dataframe=v) for k,v in frames.items()}
    pictures = figure_images(figures) | under('charts', charts or {})
    with kept_beside(run): run.log({**under('tables', tables), **pictures})
