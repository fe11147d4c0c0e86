"Curves of a judgement, of one model or of several in one: as figures, as frames for files, as charts of W&B"
from dataclasses import replace

import numpy as np
import pandas as pd

from ..evaluation.rejection import RejectionResult
from ..evaluation.roc import RocPoints
from ..plots.curves import cmc_figure, det_figure, error_vs_reject_figure, roc_figure
from .wandb_run import wandb

__all__ = ['all_in_one', 'curve_charts', 'curve_figures', 'curve_frames', 'line_name']


def all_in_one(
    by_arm:dict, # Arm -> curves of its judgement, by name
)->dict: # Name -> the curve of each arm
    """The same curve of several models; of a rejection the first quality, of several sets of pairs a name each

    A curve is a `RejectionResult`, or line -> shares of a CMC, or line -> `RocPoints`."""
    found = {}
    for name,curve in next(iter(by_arm.values()), {}).items():
        of_arms = {arm: o[name] for arm,o in by_arm.items() if name in o}
        if isinstance(curve, RejectionResult): found[name] = _rejections(of_arms)
        else:
            for line in curve:
                own = name if len(curve) == 1 else line_name(name, line)
                found[own] = {arm: o[line] for arm,o in of_arms.items() if line in o}
    return found


def line_name(
    curve:str, # Name of a curve of several lines
    line:str,  # One of them
)->str:
    "The name of a line where it stands alone"
    return f'{curve}_{line.replace(" ", "_")}'


def _rejections(of_arms):
    first = next(iter(of_arms.values()))
    by = first.curves.columns[0]
    curves = pd.DataFrame({arm: o.curves[by] for arm,o in of_arms.items()})
    areas = pd.DataFrame({arm: o.areas.loc[by] for arm,o in of_arms.items()}).T
    return replace(first, curves=curves, areas=areas, rule=f'by {by}; {first.rule}',
                   whole_to=min(o.whole_to for o in of_arms.values()))


def _kind(curve):
    if isinstance(curve, RejectionResult): return 'rejection'
    return 'roc' if isinstance(next(iter(curve.values())), RocPoints) else 'cmc'


def _end(said): return f', {said}' if said else ''


def _det(name): return name.replace('roc', 'det', 1) if 'roc' in name else f'{name}_det'


def curve_figures(
    curves:dict, # Of a judgement, or of `all_in_one`
    of:dict,     # Name -> what that curve is of, for the titles
)->dict: # Name -> matplotlib figure
    "CMC, ROC and DET, error against rejection"
    figures = {}
    for name,curve in curves.items():
        kind,end = _kind(curve),_end(of.get(name))
        if kind != 'rejection' and len(curve) == 1: curve, = curve.values() # Goes without a legend
        if kind == 'rejection': figures[name] = error_vs_reject_figure(curve) # Which says how many
        elif kind == 'cmc': figures[name] = cmc_figure(curve, title=f'Retrieval: CMC{end}')
        else:
            figures[name] = roc_figure(curve, title=f'Verification: ROC{end}')
            figures[_det(name)] = det_figure(curve, title=f'Verification: DET{end}')
    return figures


def curve_frames(
    curves:dict, # As for `curve_figures`
    most:int=2000, # Points of a line; those between are left out
)->dict: # Name -> DataFrame
    "What the figures are drawn from: a row a point, `line` where there are several"
    return {name: _frame(curve, most) for name,curve in curves.items()}


def _frame(curve, most):
    kind = _kind(curve)
    if kind == 'rejection': return curve.curves.reset_index()
    if kind == 'cmc':
        parts = {k: pd.DataFrame({'rank': np.arange(1, len(o) + 1), 'found': o}) for k,o in curve.items()}
    else:
        parts = {k: pd.DataFrame({'far': o.far[at], 'tar': o.tar[at], 'threshold': o.threshold[at]})
                 for k,o in curve.items() for at in [_some(o.far, most)]}
    return pd.concat([o.assign(line=k)[['line', *o]] for k,o in parts.items()], ignore_index=True)


def _some(far, most):
    "Places of at most so many points, evenly over the logarithm of the rate: what matters lies at its left"
    if len(far) <= most: return np.arange(len(far))
    lowest = far[far > 0][0]
    wanted = np.geomspace(lowest, 1, most - 1)
    return np.unique(np.r_[0, np.searchsorted(far, wanted).clip(max=len(far) - 1)])


def curve_charts(
    curves:dict,   # As for `curve_figures`
    of:dict,       # As for `curve_figures`
    most:int=150,  # Points of a line
)->dict: # Name -> chart of W&B
    "The same as `wandb.plot`, to be pointed at, where W&B is; rates on logarithmic axes are given as powers of ten"
    if wandb is None: return {}
    charts = {}
    for name,curve in curves.items():
        frame,kind,end = _frame(curve, most),_kind(curve),_end(of.get(name))
        if kind == 'rejection':
            some = frame.loc[frame['rejected'] <= curve.whole_to]
            lines = {k: (some['rejected'], some[k]) for k in some.columns[1:]}
            charts[name] = _chart(lines, f'{curve.what} of what is kept{end}', f'{curve.unit}: share rejected')
            continue
        by_line = {k: o[o['far'] > 0] if kind == 'roc' else o for k,o in frame.groupby('line', sort=False)}
        if kind == 'cmc':
            lines = {k: (o['rank'], o['found']) for k,o in by_line.items()}
            charts[name] = _chart(lines, f'Retrieval: CMC{end}', 'rank')
            continue
        lines = {k: (np.log10(o['far']), o['tar']) for k,o in by_line.items()}
        charts[name] = _chart(lines, f'Verification: ROC, true pairs accepted{end}', 'log10 of false pairs accepted')
        lines = {k: (np.log10(o['far']), np.log10((1 - o['tar']).clip(lower=1e-6))) for k,o in by_line.items()}
        charts[_det(name)] = _chart(lines, f'Verification: DET, log10 of true pairs refused{end}',
                                    'log10 of false pairs accepted')
    return charts


def _chart(lines, title, xname):
    xs,ys = ([list(map(float, o[k])) for o in lines.values()] for k in (0, 1))
    return wandb.plot.line_series(xs=xs, ys=ys, keys=list(lines), title=title, xname=xname)
