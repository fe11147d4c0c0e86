"""Person re-identification with quality self-distillation, beside its own baseline.

    python recipes/reid.py                                  # generated people, minutes on a CPU
    python data_prep/market1501.py ~/data/Market-1501-v15.09.15
    python recipes/reid.py --data ~/data/Market-1501-v15.09.15/images.csv --arch resnet50 --pretrained --last_stride 1 \\
        --height 256 --width 128 --epochs 60 --lr 3.5e-4 --tune_epochs 20 --tune_lr 3.5e-5 --workers 8

A baseline is trained and labels the quality of its own training pictures. Then it is fine-tuned twice from the same weights, with the
same batches and the same number of steps: without QSD, and with it. All three are judged on identities that none of them was trained on,
overall and on the worst and best third of queries by quality (`true_quality` where the table has it, else the baseline's own labels).
`--weight 0` makes the second fine-tuning the first one again; `--shuffle_quality` is the control that keeps the pairs and loses the quality.
"""
from fastcore.script import call_parse

from qsd_fastai.all import *


@call_parse
def main(
    data:str=None,            # The table, images.csv of a data_prep script; generated people when not given
    out:str=None,             # Folder of the run: weights, labels, figures, results, W&B files; a new one under runs when not given
    arch:str='resnet10t',     # A timm model
    pretrained:bool=False,    # Start the baseline from published weights
    last_stride:int=None,     # 1 keeps the last stage of a ResNet at twice the resolution
    height:int=128,           # Of the network's input, pixels
    width:int=64,             # Of the network's input, pixels
    n_ids:int=16,             # Identities a batch
    n_imgs:int=4,             # Pictures of each
    epochs:int=24,            # Of the baseline
    lr:float=1e-3,            # Highest rate of the baseline's one-cycle
    tune_epochs:int=8,        # Of each fine-tuning
    tune_lr:float=3e-4,       # Highest rate of the fine-tunings' one-cycle
    weight:float=1.,          # Of QSD; 0 is the baseline's loss
    shuffle_quality:bool=False, # Control: deal the quality labels out at random
    seed:int=0,               # Of weights, batches and augmentation
    workers:int=0,            # Loading processes; 0 loads in this one
    resume:bool=False,        # Go on with the newest run that was stopped, or with that in --out
):
    "Train a baseline, label quality with it, fine-tune with and without QSD, judge all three"
    args = {k: v for k,v in locals().items() if k not in ('out', 'resume')}
    out,run_id = run_folder('reid', out, args, resume)
    table = read_table(data) if data else generate_people(out.parent/'people')
    print(describe_table(table))

    def train(stage, table, epochs, lr, start=None, cbs=()):
        "One fit, tracked and resumable, from the weights of `start` where given"
        print(f'\n== {stage}: {epochs} epochs')
        set_seed(seed, reproducible=True)
        dls = recognition_dataloaders(table, size=(height, width), n_ids=n_ids, n_imgs=n_imgs, seed=seed, num_workers=workers)
        learn = recognition_learner(dls, arch, pretrained=pretrained and start is None, last_stride=last_stride, path=out,
                                    metrics=Retrieval('rank1', 'mAP', 'mINP'))
        if start is not None: learn.model.load_state_dict(start.model.state_dict())
        name = stage.replace(' ', '_')
        run = start_run(name=f'{out.name} {stage}', group=out.name, dir=out, id=f'{run_id}-{name}', config={**args, 'stage': stage})
        learn.fit_one_cycle(epochs, lr, cbs=[*cbs, SaveState(out/f'{name}.state', resume), TrackRun()])
        learn.export(f'{name}.pkl')
        return learn, run

    def judge(learn, run, query_quality):
        "Figures over the held-out identities, overall and by quality, into a row and into W&B"
        held = table[table['split'] != 'train']
        query = (held['split'] == 'query').to_numpy()
        emb,ids,cameras = learn.embed(held), held['identity'].to_numpy(), held['camera'].to_numpy()
        result = evaluate_retrieval(emb[query], emb[~query], ids[query], ids[~query], cameras[query], cameras[~query])
        thirds = by_quality(result.per_query, query_quality)
        row = {'rank1': result.rank1, 'mAP': result.mAP, 'mINP': result.mINP,
               **{f'{figure}_{third}': thirds.loc[third, figure] for third in ('worst', 'best') for figure in ('rank1', 'mAP')}}
        run.summary.update({f'final/{k}': v for k,v in row.items()})
        finish_run(run)
        return row

    # 1. the baseline, and quality as it sees it
    baseline,run = train('baseline', table, epochs, lr)
    quality = pd.Series(float('nan'), index=table.index)
    for held in (False, True):  # the training pictures for training, the others for judging
        rows = (table['split'] != 'train') == held
        quality[rows] = similarity_quality(baseline.embed(table[rows]), table.loc[rows, 'identity'], seed=seed)
    train_rows,query_rows = table['split'] == 'train', table['split'] == 'query'
    judged_by = 'true_quality' if 'true_quality' in table else 'quality'
    query_quality = (table if judged_by == 'true_quality' else pd.DataFrame({'quality': quality})).loc[query_rows, judged_by]
    run.config.update({'judged_by': judged_by})
    if 'true_quality' in table:
        correlation = table.loc[train_rows, 'true_quality'].rank().corr(quality[train_rows].rank())
        print(f'Rank correlation of the computed quality with true_quality, {train_rows.sum():,} training pictures: {correlation:.3f}')
        run.summary['quality_rank_correlation'] = correlation
        quality_agreement(quality[train_rows], table.loc[train_rows, 'true_quality'], correlation).savefig(out/'quality_agreement.png', dpi=150)
    results = {'baseline': judge(baseline, run, query_quality)}

    # 2. the same steps from there, without and with the method
    labelled = table.assign(quality=quality.where(train_rows))
    labelled.attrs = table.attrs
    write_table(labelled, out/'labelled'/'images.csv')
    if shuffle_quality: labelled.loc[train_rows, 'quality'] = labelled.loc[train_rows, 'quality'].sample(frac=1, random_state=seed).to_numpy()
    learn,run = train('without QSD', labelled, tune_epochs, tune_lr, baseline)
    results['fine-tuned without QSD'] = judge(learn, run, query_quality)
    learn,run = train('with QSD', labelled, tune_epochs, tune_lr, baseline, [QualityDistillation(weight)])
    results['fine-tuned with QSD'] = judge(learn, run, query_quality)

    # 3. what came out
    table_of_results = pd.DataFrame(results).T
    table_of_results.to_csv(out/'results.csv')
    quality_histogram(quality[train_rows]).savefig(out/'quality.png', dpi=150)
    learn.validate()
    hardest_figure(hardest_queries(learn.metrics[0].store, 8), picture_files(table)).savefig(out/'hardest_queries.png', dpi=150)
    print(f'\nHeld-out identities, {query_rows.sum():,} queries; worst and best third by {judged_by}; %\n')
    print((100*table_of_results).round(1).to_string())
    print(f'\nEverything of this run is in {out}')


