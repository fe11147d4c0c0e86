"Many fine-tunings by one process or several that share a folder, and the table of what is there"
import sys
import traceback
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from qsd_fastai.evaluation.comparison import arm_gains, arm_means, comparison_text
from qsd_fastai.evaluation.intervals import crossed_interval
from qsd_fastai.files import save_figure, save_frame
from qsd_fastai.plots.curves import gains_figure
from qsd_fastai.runs.lock import hold, release
from qsd_fastai.terminal import for_terminal

from .arms import named_arms

__all__ = ['compare', 'numbers']

AS_THEY_ARE,SAID = 'the weights as they are',('at', 'steps', 's a step', 'MB')


def numbers(
    text:str, # A count, or numbers with commas between; 5..16 is a range, its end included
)->list:
    "The seeds that a command line names"
    try:
        if '..' not in text: return [int(o) for o in text.split(',') if o] if ',' in text else list(range(int(text)))
        first,last = map(int, text.split('..'))
    except ValueError: raise ValueError(f'--seeds {text}: give how many, or numbers with commas, or 5..16.') from None
    return list(range(first, last + 1))


def _steps_of(
    text:str,  # Numbers with commas between, or nothing
    steps:int, # Of the whole fine-tuning
)->list:
    "The steps at which a run is judged; ValueError for one behind its end"
    found = [int(o) for o in text.split(',') if o]
    if any(not 0 < o <= steps for o in found): raise ValueError(f'--eval-at {text}: give steps from 1 to {steps}.')
    return found


def _done(out): return sorted((out/'runs').glob('*/results.csv'))


def _taken(folder):
    "Is it ours to run? Not where another process is at it, or was"
    folder.mkdir(parents=True, exist_ok=True)
    try: hold(folder)
    except FileExistsError: return False
    if not (folder/'results.csv').is_file(): return True
    release(folder)
    return False


def _run_all(
    tuning,     # `Tuning`
    arms:list,  # Of `Arm`
    seeds:list, # Of int
    steps:int,  # Of each fine-tuning; 0: only the weights as they are
    at=(),      # Steps at which a run is judged too
)->int: # How many failed
    """All arms of a seed, then all of the next; a folder each, so that who stops goes on and who joins helps

    One that fails is told, and the others are run."""
    def start():
        figures,cases = tuning.judge(tuning.learner(None).model)
        return [{'arm': AS_THEY_ARE, 'seed': 0, 'steps': 0, 'at': 0, 's a step': 0., 'MB': 0., **figures}], cases
    def fine_tuned(seed, arm):
        _,rows,cases = tuning.tuned(arm, seed, steps, at)
        return [{'arm': arm.title, 'seed': seed, 'steps': steps, **o} for o in rows], cases

    todo = [('start', start, ())]
    if steps: todo += [(f'{seed}-{arm.key}-{steps}', fine_tuned, (seed, arm)) for seed,arm in product(seeds, arms)]
    failed = 0
    for name,run,what in todo:
        folder = tuning.out/'runs'/name
        if (folder/'results.csv').is_file() or not _taken(folder): continue
        try:
            rows,cases = run(*what)
            np.savez_compressed(folder/'cases.npz', **cases)
            save_frame(pd.DataFrame(rows), folder/'results.csv', index=False)
            said = ", ".join(f"{k} {100*v:.2f}" for k,v in rows[-1].items() if k not in SAID and isinstance(v, float))
            print(f'{name}: {said} ({rows[-1]["s a step"]:.3f} s a step)', flush=True)
        except Exception:
            failed += 1
            print(f'{name} failed:\n{traceback.format_exc()}', flush=True)
        finally: release(folder)
    return failed


def _print_table(
    out:Path,     # Folder of the results
    arms:list,    # Of `Arm`; the first is the reference
    seeds:list,   # Of int
    steps:int,    # Of each fine-tuning
    behind=('AUC',), # Figures that begin so are not drawn
):
    "Means, and paired gains over the first arm, of the runs that are there; results.csv, gains.csv, gains.png"
    if not (done := _done(out)): return print('No run is there yet.')
    rows = pd.concat([pd.read_csv(o) for o in done], ignore_index=True)
    save_frame(rows, out/'results.csv', index=False)
    print(for_terminal(arm_means(rows[rows['steps'] == 0].drop(columns=list(SAID)))))
    titles = [o.title for o in arms]
    found = rows[(rows['steps'] == steps) & rows['arm'].isin(titles) & rows['seed'].isin(seeds)]
    if found.empty: return print('No run is there yet.')
    found = found.assign(arm=pd.Categorical(found['arm'], titles)).sort_values(['arm', 'seed']).astype({'arm': str})
    _print_curves(found)
    found = found[found['at'] == steps]
    spent = found.groupby('arm', sort=False)[['s a step', 'MB']].median()
    print(f'\nCost, medians:\n\n{for_terminal(spent.round(3).astype(str))}')
    found = found.drop(columns=list(SAID))
    known = found.loc[found['arm'] == titles[0], 'seed']
    found = found[found['seed'].isin(known)]
    if found['arm'].nunique() < 2: return print(f'\nAfter {steps} steps, in %\n\n{for_terminal(arm_means(found))}')
    gains = arm_gains(found, titles[0], some_seeds=True)
    print(f'\nAfter {steps} steps: {comparison_text(found, gains, titles[0])}')
    print(_over_both(out, arms, sorted(known.unique()), steps))
    save_frame(gains, out/'gains.csv', index=False)
    save_figure(gains_figure(gains[~gains['figure'].str.startswith(behind)], titles[0]), out/'gains.png')


def _cases(folder):
    "What the pairs or queries of a run add to its figures; None where nothing is kept of them"
    file = folder/'cases.npz'
    if not (folder/'results.csv').is_file() or not file.is_file(): return None
    with np.load(file, allow_pickle=False) as found: return dict(found)


def _over_both(out, arms, seeds, steps):
    "Gains over the first arm, intervals over seeds and pairs or queries at once; empty where nothing is kept of these"
    kept = {o: {seed: _cases(out/'runs'/f'{seed}-{o.key}-{steps}') for seed in seeds} for o in arms}
    base,rows = kept[arms[0]],{}
    for arm in arms[1:]:
        both = [seed for seed in seeds if base[seed] is not None and kept[arm][seed] is not None]
        for name in base[both[0]] if both else ():
            gains = np.stack([kept[arm][seed][name] - base[seed][name] for seed in both])
            low,high = crossed_interval(gains)
            text = f'{100*gains.mean():+.2f} ± {50*(high - low):.2f} ({len(both)} x {gains.shape[1]})'
            rows.setdefault(arm.title, {})[name] = text
    if not rows: return ''
    return (f'\nThe same with half the 95 % interval over seeds and pairs or queries at once (seeds x cases)\n\n'
            f'{for_terminal(pd.DataFrame.from_dict(rows, orient="index"))}')


def _print_curves(found):
    "Means over seeds along the runs, where they were judged more than once"
    if found['at'].nunique() < 2: return
    for figure in [c for c in found if c not in ('arm', 'seed', *SAID) and not c.startswith('AUC')]:
        table = found.pivot_table(index='arm', columns='at', values=figure, sort=False).sort_index(axis=1)*100
        print(f'\n{figure} after so many steps\n\n{for_terminal(table.round(2).astype(str).rename_axis(index=None))}')


def compare(
    make,        # Function of a device that makes the `Tuning`
    out,         # Folder of the results
    arms:str,    # As for `named_arms`; the first is the reference
    seeds:str,   # As for `numbers`
    steps:int,   # Of each fine-tuning; 0: only the weights as they are
    eval_at:str, # Steps at which a run is judged as well, with commas between
    device:str,  # cuda or cpu; empty: a GPU where there is one
    table:bool,  # Only print the table of what is there?
    behind=('AUC',), # Figures that begin so are not drawn
):
    "Run what is lacking, and print the table; the program ends with 1 where a run failed"
    chosen,seeds,at,out = named_arms(arms),numbers(seeds),_steps_of(eval_at, steps),Path(out)
    device = torch.device(device or ('cuda:0' if torch.cuda.is_available() else 'cpu'))
    failed = 0 if table else _run_all(make(device), chosen, seeds, steps, at)
    _print_table(out, chosen, seeds, steps, behind)
    sys.exit(failed > 0)
