"Judging a model, and the W&B run of a judgement"
from .data.loaders import picture_files
from .runs.tables import figure_image
from .runs.wandb_run import finish_run, kept_beside, start_run

__all__ = ['track_judgement']


def track_judgement(
    found,  # `figures`, and what they were made by: `protocol`, `data`, `model`
    plots,  # Name -> matplotlib figure
    tables, # Name -> function of picture files and their paths that makes a W&B table
    table,  # Of pictures
    **kwargs, # For `start_run`: `name`, `group`, `dir`
):
    "A W&B run of a model that was judged: figures as its summary, pictures, tables"
    run = start_run(config={k: found[k] for k in ('protocol', 'data', 'model')}, **kwargs)
    run.summary.update(found['figures'])
    shown = picture_files(table).to_numpy(), table['path'].to_numpy()
    with kept_beside(run): run.log({**{k: figure_image(v) for k,v in plots.items()}, **{k: make(*shown) for k,make in tables.items()}})
    finish_run(run)
