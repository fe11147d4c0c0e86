"""Does quality help? The same fine-tuning without QSD, with shuffled quality, with QSD, and with the true quality where it is known.

    python recipes/compare.py                               # generated people, 5 seeds
    python recipes/compare.py --seeds 3 -- --data ~/data/Market-1501-v15.09.15/images.csv --height 128 --width 64
    python recipes/compare.py --recipe face --seeds 3 -- --data lfw/images.csv --arch mobilefacenet --weights mobilefacenet.pt --epochs 0

What stands behind `--` goes to the recipe that does the runs, `reid.py` or `face.py`. For each seed a baseline is trained and labels the pictures;
each arm goes on from its weights with the same batches and the same number of steps. The gain of an arm is what it has more than the one
without QSD *of the same seed*; believe it when it is several standard errors from 0 and from the gain of shuffled quality.
"""
import sys
from importlib import import_module

import wandb
from fastcore.script import anno_parser, call_parse

from qsd_fastai.all import *

cut = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
sys.argv,behind = sys.argv[:cut], sys.argv[cut + 1:]


@call_parse
def main(
    seeds:int=5,    # How many, counted from 0
    recipe:str='reid', # Reid or face
    out:str=None,   # Folder of the comparison; a new one under runs when not given
    arms:str='',    # The first is what the others are compared with; without, shuffled, with, and true where it is known, when not given
    resume:bool=False, # Go on with the newest comparison that was stopped, or with that in --out
):
    "Run every arm over several seeds, and print means, spreads and paired differences"
    if recipe not in ('reid', 'face'): raise SystemExit(f'--recipe {recipe} is unknown: it is reid or face')
    recipe = import_module(recipe)
    parser = anno_parser(recipe.main)
    given = {k: v for k,v in vars(parser.parse_args(behind)).items() if v != parser.get_default(k)}
    if own := {'out', 'seed', 'arms', 'group', 'resume'} & set(given): raise SystemExit(f'{", ".join(own)}: before the --, not behind it')
    out,run_id = run_folder('compare', out, {'recipe': recipe.__name__, 'seeds': seeds, 'arms': arms, **given}, resume)
    if not arms:
        data = given.get('data') or ''
        known = not data or (data.endswith(('.csv', '.parquet')) and 'true_quality' in read_table(data, check=False))
        arms = 'without,shuffled,with' + (',true' if known else '')
    parts = []
    for seed in range(seeds):
        folder = out/f'seed{seed}'
        if not (folder/'results.csv').is_file():
            print(f'\n==== seed {seed}')
            recipe.main(**given, arms=arms, seed=seed, out=folder, group=out.name, resume=(folder/'run.json').is_file())
        parts.append(pd.read_csv(folder/'results.csv', index_col=0).rename_axis('arm').reset_index().assign(seed=seed))
    results = pd.concat(parts)
    results.to_csv(out/'results.csv', index=False)

    reference = recipe.arm_names[arms.split(',')[0]]
    gains = arm_gains(results, reference)
    gains.to_csv(out/'gains.csv', index=False)
    print(f'\n{seeds} seeds, in %: mean ± standard deviation\n\n{arm_means(results).to_string()}')
    text = [f'{100*g.mean:+.2f} ± {100*g.error:.2f} ({g.positive}/{g.seeds})' for g in gains.itertuples(index=False)]
    shown = gains.assign(text=text).pivot(index='arm', columns='figure', values='text')
    shown = shown.loc[gains['arm'].unique(), gains['figure'].unique()].rename_axis(index=None, columns=None)
    print(f'\nGain over "{reference}" of the same seed, in points: mean ± standard error (seeds in which it is positive)\n\n{shown.to_string()}')
    figure = gains_figure(gains[gains['figure'].isin(gains['figure'].unique()[:8])], reference)  # as many as can be read
    figure.savefig(out/'gains.png', dpi=150)
    run = start_run(name=out.name, group=out.name, dir=out, id=f'{run_id}-summary', config={'seeds': seeds, 'arms': arms, **given})
    run.log({'results': wandb.Table(dataframe=results), 'gains': wandb.Table(dataframe=gains), 'gains_plot': figure_image(figure)})
    finish_run(run)
    print(f'\nEverything of this comparison is in {out}')
