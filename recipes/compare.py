"""Does quality help? The same fine-tuning without QSD, with shuffled quality, with QSD, by the Octuplet loss, and with
the true quality where it is known.

    python recipes/compare.py                               # generated people, 5 seeds
    python recipes/compare.py --seeds 3 -- --data market1501/images.csv --height 128 --width 64
    python recipes/compare.py --recipe face --seeds 3 -- --data lfw/images.csv --arch mobilefacenet \\
        --weights mobilefacenet.pt --size 112 --epochs 0

What stands behind `--` goes to the recipe that does the runs. For each seed a baseline is trained and labels the
pictures; each arm goes on from its weights with the same batches and the same number of steps. The gain of an arm is
what it has more than the one without QSD *of the same seed*; believe it when its 95 % interval is far from 0 and from
the gain of shuffled quality.

Many arms are screened first (`--budget`), by successive halving: every arm is run on a seed, the better half on the
next ones, and so on. What was chosen so is confirmed on seeds that it was not chosen by, and on another set:

    python recipes/compare.py --arms without,mine.csv,copies,copies-gap --budget 24 --by mAP     # seeds 0, 1, ...
    python recipes/compare.py --arms copies,copies-gap,copies-shuffled --seeds 8 --first 100     # fresh seeds
"""
import sys
from importlib import import_module

from fastcore.script import anno_parser, call_parse

from qsd_fastai.all import *

cut = sys.argv.index('--') if '--' in sys.argv else len(sys.argv)
sys.argv,behind = sys.argv[:cut],sys.argv[cut + 1:]


@call_parse
@in_one_line
def main(
    seeds:int=5,       # How many
    first:int=0,       # The first of them
    recipe:str='reid', # reid, reid_agw or face
    out:str=None,      # Folder of the comparison; a new one under runs when not given
    arms:str='',       # The first is the reference; without, shuffled, with, octuplet, true by default; or a .csv
    budget:int=0,      # Screen the arms with so many fine-tunings, in place of --seeds of each
    by:str='',         # The figure they are screened by; mAP, or the first, when not given
    resume:bool=False, # Go on with the newest comparison of these options, or with that in --out; --seeds may differ
):
    "Run every arm over several seeds, and print means, spreads and paired differences"
    if seeds < 1 or first < 0: raise ValueError(f'--seeds {seeds} --first {first}: give 1 or more, and 0 or more.')
    if by and not budget: raise ValueError('--by is the figure to screen by. Give --budget with it.')
    page = import_module(one_of('--recipe', recipe, 'reid', 'reid_agw', 'face'))
    parser = anno_parser(page.main)
    given = {k: v for k,v in vars(parser.parse_args(behind)).items() if v != parser.get_default(k)}
    if own := {'out', 'seed', 'arms', 'group', 'resume'} & set(given):
        raise ValueError(f'--{", --".join(sorted(own))} stands behind the --. Put it before.')
    table = read_table(given['data'], check=False) if 'data' in given else None
    arms = arms or 'without,shuffled,with,octuplet' + (',true' if table is None or 'true_quality' in table else '')
    chosen = chosen_arms(arms)
    content = None if table is None else table_content(table)
    options = {'recipe': recipe, 'seeds': seeds, 'first': first, 'budget': budget, 'compared': arms, **given}
    if tables := settings_of(arms): options['settings'] = tables
    out,run_id = run_folder('compare', out, options, resume, content)

    def run(seed, arms):
        folder,titles = out/f'seed{seed}',['baseline', *(o.title for o in arms)]
        if not (folder/'results.csv').is_file():
            print(f'\n==== seed {seed}')
            page.main(**given, arms=','.join(o.asked for o in arms), seed=seed, out=folder, group=out.name,
                      resume=(folder/'run.json').is_file())
        results = from_first(lambda: read_results(folder/'results.csv', titles)) # Which alone has written them
        return results.rename_axis('arm').reset_index().assign(seed=seed)

    if budget: results = halved_arms(run, chosen, budget, first, by)
    else: results = pd.concat([run(seed, chosen) for seed in range(first, first + seeds)])
    first_goes_on()
    save_frame(results, out/'results.csv', index=False)

    reference = chosen[0].title
    gains = arm_gains(results, reference, some_seeds=budget > 0)
    save_frame(gains, out/'gains.csv', index=False)
    print(f'\n{comparison_text(results, gains, reference)}')
    read = [o for o in gains['figure'].unique() if not o.endswith(' middle')] # As many as can be read
    made = 'faces' if recipe == 'face' else 'people' # Where no table is given
    root = made if table is None else Path(table.attrs['root']).name
    of = said_of(given.get('arch', parser.get_default('arch')), root, f'{recipe}.py, comparison {out.name}')
    folders = [out/f'seed{o}' for o in results['seed'].unique()]
    looks = {o: i for i,o in enumerate(results['arm'].unique())}
    files = files_by_path(table, Path('runs')/made/'images.csv')
    frames,figures,charts = closing_of_seeds(folders, reference, of, looks, files)
    figures['gains'] = gains_figure(gains[gains['figure'].isin(read[:8])], reference, of, looks)
    for k,figure in figures.items(): save_figure(figure, out/f'{k}.png')
    for k,frame in frames.items(): save_frame(frame, out/f'{k}.csv', index=False)
    known = {**without_folders(options), 'stage': 'comparison', 'reference': reference}
    run = start_run(name=out.name, group=out.name, dir=out, id=f'{run_id}-summary', job_type='compare', config=known,
                    tracked=not given.get('no_wandb'))
    uses(run, *evaluations_of(folders))
    log_closing(run, {'results': results, 'gains': gains, **frames}, figures, charts)
    finish_run(run)
    print(f'\nEverything of this comparison is in {out}')
