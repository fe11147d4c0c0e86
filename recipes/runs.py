"""What runs have left, read back without an account: a row a run, and the table of `compare.py` for each group.

    python recipes/runs.py runs
    python recipes/runs.py runs/compare-... --out all.csv

It reads W&B runs that were kept offline, by W&B's own reader. `wandb leet runs/reid-.../wandb` shows their curves in
the terminal, and `wandb leet inspect --summary FOLDER` one run in short.
"""
from fastcore.script import call_parse

from qsd_fastai.all import *

USUAL = 'mAP','rank1','pairs_accuracy'


@call_parse
@in_one_line
def main(
    folder:str,         # Of a recipe, of a comparison, or one with many of them
    out:str='',         # A CSV for the table of runs
    figures:str='',     # Which to print, commas between; mAP, rank1, pairs_accuracy by default. All are in the CSV
):
    "List the runs of a folder, and compare the arms of each group"
    found = runs_frame(offline_runs(folder))
    known = list(found.columns[found.columns.get_loc('epochs') + 1:])
    wanted = [key_of(o.strip()) for o in figures.split(',')] if figures else [o for o in USUAL if o in known]
    if lack := [o for o in wanted if o not in known]:
        raise ValueError(f'--figures is {lack[0]!r}, which no run here has. There are {", ".join(known) or "none"}.')
    if out: save_frame(found, out, index=False)
    shown = found[['run', 'job', 'seed', 'state', 'epochs']].assign(**{o: (100*found[o]).round(1) for o in wanted})
    shown = shown.astype({'seed': 'Int64', 'epochs': 'Int64'}).astype(object) # A comparison has neither
    print(f'{len(found)} runs in {folder}, figures in %\n\n{shown.fillna("").to_string(index=False)}')
    for group,of in found[found['state'] == 'finished'].groupby('group', sort=False):
        results = of[of['job'].isin(['train', 'fine-tune'])]
        results = results[['arm', 'seed', *(o for o in wanted if results[o].notna().all())]]
        if results.shape[1] < 3 or len(results) < 2 or results.duplicated(['arm', 'seed']).any(): continue
        reference = reference_of(results['arm'].tolist())
        gains = arm_gains(results, reference, some_seeds=True)
        print(f'\n{group}: {comparison_text(results, gains, reference)}')
    return found
