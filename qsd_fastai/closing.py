"What closes a run: the curves of all arms in one, figures by quality, and what each query gained"
from pathlib import Path

import pandas as pd

from .arms import ARMS
from .data.loaders import picture_files
from .data.table import read_table
from .judging.seeds import mean_curves, mean_groups
from .plots.gains import gained_and_lost_figure, query_gains_figure
from .plots.quality import map_by_quality_figure
from .plots.style import signed
from .runs.curves import all_in_one, curve_charts, curve_figures, curve_frames
from .runs.folder import read_run, stage_file, stage_run

__all__ = ['Closing', 'closing_of_seeds', 'evaluations_of', 'files_by_path', 'reference_of']


def reference_of(
    titles:list, # Of stages, the baseline first
)->str:
    "The stage that the arms are compared with: the fine-tuning without QSD, else the first one"
    return ARMS['without'].title if ARMS['without'].title in titles else titles[0]


def evaluations_of(
    folders, # Of runs of a recipe
)->list:
    "What W&B calls the evaluations of their stages; nothing of a folder that says no run"
    found = [read_run(o) for o in (Path(folder)/'run.json' for folder in folders) if o.is_file()]
    return [f'{stage_run(o["id"], title)}-evaluation' for o in found for title in o['stages']]


def files_by_path(
    table,     # Of pictures; None: the one in the file
    file=None, # That a recipe has drawn where it was given none
): # Picture files by path, a Series; None where there is no table
    "Where the pictures of a run are"
    if table is None:
        if file is None or not Path(file).is_file(): return None
        table = read_table(file, check=False)
    return pd.Series(picture_files(table).to_numpy(), table['path'])


def closing_of_seeds(
    folders,       # Of the runs of some seeds, `seed0`, say
    reference:str, # The arm that gains are over
    of:str='',     # What was compared, above the figures
    looks:dict=None, # Arm -> number of its color and line; counted when not given
    files=None,    # Picture files by path, a Series: those that gained and lost most are shown
)->tuple: # `(frames, figures, charts)` by name, as `log_closing` takes them
    """Curves of all arms and figures by quality, means of the seeds, and what each query gained

    What the folders have not kept is left out."""
    curves,said = mean_curves(folders)
    figures,frames = curve_figures(curves, said), curve_frames(curves)
    seeds = f'mean of {len(folders)} seed{"s"*(len(folders) > 1)}'
    for name,groups in mean_groups(folders).items():
        figures |= _by_quality(name, groups, f', {seeds}')
        frames[name] = _joined(groups)
    figures = {k: signed(o, of) for k,o in figures.items()}
    charts = curve_charts(curves, said)
    kept = [o for o in (Path(folder)/'all_query_gains.csv' for folder in folders) if o.is_file()]
    if not kept: return frames, figures, charts
    mean = pd.concat(map(pd.read_csv, kept)).groupby('path', sort=False).mean()
    others = [o for o in mean if o not in ('quality', reference)]
    if reference not in mean or not others: return frames, figures, charts
    frames['query_gains'] = table = mean.reset_index()
    figure = query_gains_figure({o: mean[o] - mean[reference] for o in others}, reference,
                                f'Gain of each query, {seeds}', looks)
    figures['query_gains'] = signed(figure, of)
    if files is None or not table['path'].isin(files.index).all(): return frames, figures, charts
    for title in others:
        if title == 'baseline': continue # It has not been fine-tuned
        said = f'Gained and lost most, {seeds}: {title}, over "{reference}"; {of}'
        figures[_gained_name(title)] = signed(_gained_and_lost(table, title, reference, files), said)
    return frames, figures, charts


def _gained_name(title): return f'gained_and_lost_{stage_file(title)}'


def _gained_and_lost(table, title, reference, files):
    rows = pd.DataFrame({'row': table['path'], 'ap': table[title], 'reference_ap': table[reference],
                         'quality': table['quality']})
    return gained_and_lost_figure(rows, files)


def _by_quality(name, groups, end=''):
    "A bar figure of each figure that is there"
    first,what = next(iter(groups.values())),name.replace('_', ' ')
    return {f'{figure.lower()}_{name}': map_by_quality_figure(groups, figure, f'{figure}, {what}{end}')
            for figure in ('rank1', 'mAP', 'accuracy') if figure in first}


def _joined(groups):
    return pd.concat([o.reset_index().assign(arm=arm) for arm,o in groups.items()], ignore_index=True)


class Closing:
    "All stages of a run side by side: `figures`, `notes` on them, `frames`, `curves` and what these are `of`, by name"
    def __init__(self,
        judged:dict, # Stage -> its `Judgement`
        files,       # Picture files by path, a Series
    ):
        self.judged,self.files,self.notes = judged,files,{}
        self.curves = all_in_one({title: o.curves for title,o in judged.items()})
        self.of = {name: f'{said}, all arms' for name,said in next(iter(judged.values())).of.items()}
        self.figures = curve_figures(self.curves, self.of)
        self.frames = curve_frames(self.curves)
        for name in next(iter(judged.values())).groups:
            groups = {title: o.groups[name] for title,o in judged.items() if name in o.groups}
            self.figures |= _by_quality(name, groups)
            self.frames[name] = _joined(groups)
        self._gains()

    def _gains(self):
        reference = reference_of(list(self.judged))
        found = {title: o.frames.get('per_query') for title,o in self.judged.items()}
        base = found[reference]
        if base is None or len(self.judged) < 2: return
        answerable = base['answerable'].astype(bool)
        quality = next((base[c] for c in ('true_quality', 'quality') if c in base), pd.Series(float('nan'), base.index))
        table = pd.DataFrame({'path': base['path'], 'quality': quality, reference: base['ap']})
        others = [title for title in found if title != reference and found[title] is not None]
        for title in others: table[title] = found[title]['ap']
        table = table[answerable].reset_index(drop=True)
        self.frames['query_gains'] = table
        gains = {title: table[title] - table[reference] for title in others}
        looks = {o: i for i,o in enumerate(self.judged)}
        self.figures['query_gains'] = query_gains_figure(gains, reference, looks=looks)
        for title in others:
            if title == next(iter(self.judged)): continue # The baseline has not been fine-tuned
            name = _gained_name(title)
            self.figures[name] = _gained_and_lost(table, title, reference, self.files)
            self.notes[name] = f'Gained and lost most: {title}, over "{reference}"'
