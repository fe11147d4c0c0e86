"What a judgement says: figures, the protocol they were made by, frames for files, and pictures"
from dataclasses import dataclass, field
from pathlib import Path

from ..choices import one_of
from ..data.loaders import picture_files
from ..private import without_folders
from ..runs.curves import curve_charts
from ..runs.keys import under
from ..runs.wandb_run import finish_run, kept_beside, log_files, start_run, uses
from ..runs.wandb_tables import figure_images

__all__ = ['Judgement', 'check_choices', 'merged', 'ranks_of', 'rates_of', 'track_judgement']

KNOWN = 'true_quality','quality','feature_norm' # Columns to reject by that tables may have, or not


@dataclass
class Judgement:
    "One part of it: search, pairs or templates"
    figures:dict                               # Name -> number
    protocol:dict                              # Every switch that it was made by, for JSON
    frames:dict = field(default_factory=dict)  # Name -> DataFrame, a row a query or pair
    plots:dict = field(default_factory=dict)   # Name -> matplotlib figure
    tables:dict = field(default_factory=dict)  # Name -> function of files and paths that makes a W&B table
    curves:dict = field(default_factory=dict)  # Name -> what `runs.curves` draws, of one model or of several
    groups:dict = field(default_factory=dict)  # Name -> frame of `by_quality` or `verification_by_quality`
    of:dict = field(default_factory=dict)      # Name of a curve -> how many queries or pairs it is of, in words


def merged(
    parts:dict, # Name -> `Judgement`
)->Judgement:
    "All parts as one; the protocol of each under its name"
    whole = Judgement({}, {k: o.protocol for k,o in parts.items()})
    for o in parts.values():
        for part in ('figures', 'frames', 'plots', 'tables', 'curves', 'groups', 'of'):
            getattr(whole, part).update(getattr(o, part))
    return whole


def track_judgement(
    found,    # `figures`, and what they were made by: `protocol`, `data`, `model`
    judged,   # `Judgement`
    table,    # Of pictures
    folder,   # Where its files are
    dir,      # Of the run
    group='', # Of the run in W&B; the name of its folder when not given
    **kwargs, # For `start_run`: `name`
):
    "A W&B run of a model that was judged: figures as its summary, pictures, tables"
    config = {'protocol': found['protocol'], 'data': without_folders(found['data']), 'model': found['model']}
    run = start_run(config=config, dir=dir, group=group or Path(dir).name, job_type='evaluate', **kwargs)
    uses(run, *filter(None, [found['model'].get('artifact')]))
    run.summary.update(under('final', found['figures']))
    if run.disabled: return finish_run(run)
    shown = picture_files(table).to_numpy(),table['path'].to_numpy()
    pictures,charts = figure_images(judged.plots),under('charts', curve_charts(judged.curves, judged.of))
    made = under('tables', {k: make(*shown) for k,make in judged.tables.items()})
    with kept_beside(run): run.log({**pictures, **charts, **made})
    files = [Path(folder)/'results.json', *(Path(folder)/f'{k}.csv' for k in judged.frames)]
    log_files(run, 'evaluation', 'evaluation', files, found['figures'])
    finish_run(run)


def rates_of(
    text:str, # Of a command line, with commas between
)->tuple: # Of floats
    "False acceptance rates; `ValueError` naming what is none"
    rates = []
    for part in text.split(','):
        try: rates.append(float(part))
        except ValueError: rates.append(0.)
        if not 0 < rates[-1] <= 1:
            raise ValueError(f'--far {part} is no rate. Give numbers above 0, and 1 at most, with commas between.')
    return tuple(rates)


def ranks_of(
    text:str, # Of a command line, with commas between
)->tuple: # Of whole numbers
    "Ranks of a search; `ValueError` naming what is none"
    for part in text.split(','):
        if not part.strip().isdecimal() or int(part) < 1:
            raise ValueError(f'--ranks {part} is no rank. Give whole numbers from 1, with commas between.')
    return tuple(int(part) for part in text.split(','))


def check_choices(
    table,                # Of pictures
    far_rule:str,         # Of `judge_pairs` and `judge_templates`
    thresholds:str,       # Of `judge_pairs`
    unit:str,             # Of `judge_pairs`
    reject_threshold:str, # Of `judge_pairs`
    reject_figure:str,    # Of `judge_search`
    pool:str,             # Of `judge_templates`
    weigh:str,            # Of `judge_templates`
    qualities:str='quality', # Columns to reject by, with commas between
):
    "Refuse what the judges would refuse only when everything has been embedded"
    one_of('--far-rule', far_rule, 'below', 'interpolated', 'nearest')
    one_of('--thresholds', thresholds, 'grid', 'exact')
    one_of('--unit', unit, 'picture', 'pair')
    one_of('--reject-threshold', reject_threshold, 'fixed', 'refixed')
    one_of('--reject-figure', reject_figure, 'mAP', 'rank1', 'mINP')
    one_of('--pool', pool, 'mean', 'norm')
    if weigh: one_of('--weigh', weigh, *table)
    for c in qualities.split(','):
        if c not in KNOWN: one_of('--qualities', c, *table, *KNOWN)
