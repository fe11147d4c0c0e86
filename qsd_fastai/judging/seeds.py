"Curves and thirds of the same arms over several seeds: means, from what the run of each seed has kept"
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation.intervals import mean_interval, with_ends
from ..evaluation.rejection import RejectionResult, rejection_of
from ..evaluation.roc import RocPoints
from ..runs.folder import read_run

__all__ = ['curve_notes', 'mean_curves', 'mean_groups']


def curve_notes(
    curves:dict, # Of `all_in_one`
    of:dict,     # Name -> what that curve is of
)->dict: # Name -> what the file of a curve does not hold, as JSON can: `of`, and the rules of a rejection
    "What `mean_curves` must know beside the files `all_*.csv` of a run"
    notes = {}
    for name,curve in curves.items():
        notes[name] = {'of': of.get(name, '')}
        if isinstance(curve, RejectionResult):
            known = asdict(curve)
            notes[name]['rejection'] = {k: known[k] for k in known if k not in ('curves', 'areas', 'whole_to')}
    return notes


def mean_curves(
    folders, # Of the runs of some seeds, with `run.json` and `all_*.csv`
)->tuple: # `(curves, of)` as `curve_figures` takes them; of folders without curves none
    """The mean over seeds of each curve that all of them have, of arms that all of them have.

    Shares of a CMC are means at each rank, true pairs accepted are means at each rate of false ones (vertical
    averaging: Fawcett, Pattern Recognition Letters 2006), where a seed counts what it accepts without exceeding the
    rate; a mean has no threshold. Errors against rejection are means at each share rejected."""
    kept = [(Path(o), read_run(Path(o)/'run.json')['curves']) for o in folders if (Path(o)/'run.json').is_file()]
    names = [name for name in (kept[0][1] if kept else ()) if all(name in notes for _,notes in kept)]
    curves,of,n = {},{},len(kept)
    mean = f'mean of {n} seed{"s"*(n > 1)}'
    for name in names:
        files = [folder/f'all_{name}.csv' for folder,_ in kept]
        note = kept[0][1][name]
        frames = [pd.read_csv(o) for o in files if o.is_file()]
        if len(frames) < len(kept): continue
        if 'rejection' in note: curve = _mean_rejection(frames, note['rejection'], mean)
        else: curve = _mean_lines(frames)
        if curve is None: continue
        curves[name],of[name] = curve,', '.join(filter(None, (note['of'], mean)))
    return curves, of


def _mean_rejection(frames, rules, mean):
    frames = [o.set_index('rejected') for o in frames]
    arms = [arm for arm in frames[0] if all(arm in o for o in frames)]
    if not arms: return None
    rules = {**rules, 'rule': f'{rules["rule"]}; {mean}'}
    return rejection_of(sum(o[arms] for o in frames)/len(frames), **rules)


def _mean_lines(frames):
    by_line = [dict(list(o.groupby('line', sort=False))) for o in frames]
    lines = [line for line in by_line[0] if all(line in o for o in by_line)]
    mean = _mean_shares if 'rank' in frames[0] else _mean_roc
    return {line: mean([o[line] for o in by_line]) for line in lines} or None


def _mean_shares(seeds):
    ranks = min(map(len, seeds))
    return np.mean([o['found'].to_numpy()[:ranks] for o in seeds], axis=0)


def _mean_roc(seeds):
    rates = np.unique(np.concatenate([o['far'] for o in seeds]))
    reached = [o['tar'].to_numpy()[np.searchsorted(o['far'], rates, side='right') - 1] for o in seeds]
    far,tar = np.r_[0, rates],np.r_[0, np.mean(reached, axis=0)]
    return RocPoints(far, tar, np.full(len(far), np.nan))


def mean_groups(
    folders, # Of the runs of some seeds, with `all_*_by_*.csv`
)->dict: # Name -> arm -> frame, as `map_by_quality_figure` takes them
    """The mean over seeds of figures by quality, of arms that all of them have; 95 % intervals are those over the seeds

    Where labels that differ from seed to seed part the groups, a group reaches from the lowest to the highest."""
    folders = [Path(o) for o in folders]
    names = sorted(o.stem for o in folders[0].glob('all_*_by_*.csv')) if folders else []
    found = {}
    for name in names:
        files = [folder/f'{name}.csv' for folder in folders]
        if not all(o.is_file() for o in files): continue
        frames = [pd.read_csv(o) for o in files]
        if not all({'group', 'arm'} <= {*o} for o in frames): continue
        arms = [arm for arm in frames[0]['arm'].unique() if all((o['arm'] == arm).any() for o in frames)]
        own = {arm: [o[o['arm'] == arm].set_index('group') for o in frames] for arm in arms}
        if own: found[name.removeprefix('all_')] = {arm: _mean_group(o) for arm,o in own.items()}
    return found


def _mean_group(seeds):
    rows = {}
    for group in [o for o in seeds[0].index if all(o in seed.index for seed in seeds)]:
        of = pd.DataFrame([seed.loc[group] for seed in seeds])
        count = next(c for c in of if c.startswith('n_'))
        known = count,'quality_from','quality_to','arm'
        figures = [c for c in of if c not in known and not c.endswith((' low', ' high'))]
        rows[group] = {count: round(of[count].mean()), 'quality_from': of['quality_from'].min(),
                       'quality_to': of['quality_to'].max()}
        for c in figures: rows[group] |= {c: of[c].mean(), **with_ends(c, mean_interval(of[c]))}
    return pd.DataFrame.from_dict(rows, orient='index').rename_axis('group')
