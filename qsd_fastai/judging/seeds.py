"Curves of the same arms over several seeds: the mean of each, from what the run of each seed has kept"
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from ..evaluation.rejection import RejectionResult, rejection_of
from ..evaluation.roc import RocPoints
from ..runs.folder import read_run

__all__ = ['curve_notes', 'mean_curves']


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
