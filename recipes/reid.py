"""Person re-identification with quality self-distillation, beside its own baseline.

    python recipes/reid.py                                  # generated people, minutes on a CPU
    python data_prep/market1501.py ~/data/Market-1501-v15.09.15
    python recipes/reid.py --data ~/data/Market-1501-v15.09.15/images.csv --arch resnet50 --pretrained --last-stride 1 \\
        --height 256 --width 128 --erase .5 --epochs 60 --lr 3.5e-4 --tune-epochs 20 --tune-lr 3.5e-5 --workers 8
    python recipes/reid.py --data ~/data/Market-1501-v15.09.15/images.csv --preset paper --pretrained --workers 8

A baseline is trained and labels the quality of its own training pictures. Then it is fine-tuned from the same weights, with the same batches
and the same number of steps, once for each of `--arms`: without QSD, with it, and the controls. All are judged on identities that none of
them was trained on, overall and on the worst and best third of queries by quality (`true_quality` where the table has it, else the baseline's
own labels). `--weight 0` makes QSD the baseline's loss again; `--shuffle-quality` keeps the pairs and loses the quality.
`--preset paper` is the published schedule: AGW for 120 epochs, then QSD with partners for 90 at a hundredth of the rate.
"""
from inspect import signature
from types import SimpleNamespace

from fastcore.script import call_parse

from qsd_fastai.all import *

paper = {'arch': 'agw_resnet50', 'height': 256, 'width': 128, 'n_ids': 16, 'n_imgs': 4, 'erase': .5, 'epochs': 120, 'lr': 3.5e-4,
         'tune_epochs': 90, 'tune_lr': 3.5e-6, 'weight': 1., 'pairs': 'partner'}
arm_names = {'without': 'fine-tuned without QSD', 'with': 'fine-tuned with QSD', 'shuffled': 'with QSD, quality shuffled',
             'true': 'with QSD, true quality', 'partner': 'with QSD, partners', 'joint': 'with QSD, partners in one forward'}


@call_parse
def main(
    data:str=None,            # The table, images.csv of a data_prep script; generated people when not given
    out:str=None,             # Folder of the run: weights, labels, figures, results, W&B files; a new one under runs when not given
    preset:str='',            # paper: the published model, loss and schedule
    arch:str='regnetx_002',   # A timm model, or agw_resnet50
    pretrained:bool=False,    # Start the baseline from published weights
    last_stride:int=None,     # 1 keeps the last stage of a ResNet at twice the resolution
    height:int=96,            # Of the network's input, pixels
    width:int=48,             # Of the network's input, pixels
    n_ids:int=16,             # Identities a batch
    n_imgs:int=4,             # Pictures of each
    erase:float=0.,           # Chance that a rectangle of a training picture is erased; .5 as published suits long runs
    epochs:int=24,            # Of the baseline
    lr:float=1e-2,            # Highest rate of the baseline
    tune_epochs:int=10,       # Of each fine-tuning
    tune_lr:float=2e-3,       # Highest rate of the fine-tunings
    weight:float=1.,          # Of QSD; 0 is the baseline's loss
    pairs:str='batch',        # batch: all pairs of one identity in a batch; partner: a partner for each picture, as published
    arms:str='without,with',  # Which fine-tunings: without, with, shuffled (labels dealt out at random), true (known quality), partner, joint
    shuffle_quality:bool=False, # The same as shuffled in place of with
    seed:int=0,               # Of weights, batches and augmentation
    group:str='',             # Of the runs in W&B; the name of the folder when not given
    workers:int=0,            # Loading processes; 0 loads in this one
    resume:bool=False,        # Go on with the newest run that was stopped, or with that in --out
):
    "Train a baseline, label quality with it, fine-tune without and with QSD, judge all of them"
    args = {k: v for k,v in locals().items() if k not in ('out', 'resume')}
    if preset not in ('', 'paper'): raise SystemExit(f"--preset {preset} is unknown: it is paper, or not given")
    if preset: args.update({k: v for k,v in paper.items() if args[k] == signature(main).parameters[k].default})
    o = SimpleNamespace(**args)
    arms = ['shuffled' if a == 'with' and o.shuffle_quality else a for a in o.arms.split(',')]
    if unknown := set(arms) - set(arm_names): raise SystemExit(f'--arms: {", ".join(unknown)} is unknown. Use {", ".join(arm_names)}.')
    table = read_table(data) if data else generate_people('runs/people')
    if 'true' in arms and 'true_quality' not in table: raise SystemExit('--arms true needs a table with the column true_quality.')
    out,run_id = run_folder('reid', out, args, resume)
    print(describe_table(table))
    train_rows,query_rows = table['split'] == 'train', table['split'] == 'query'
    judged_by = 'true_quality' if 'true_quality' in table else 'quality'

    def train(stage, table, epochs, lr, steps, start=None, qsd=None):
        "One fit, tracked and resumable, from the weights of `start` where given"
        print(f'\n== {stage}: {epochs} epochs')
        set_seed(seed, reproducible=True)
        dls = recognition_dataloaders(table, size=(o.height, o.width), n_ids=o.n_ids, n_imgs=o.n_imgs, erase=o.erase, seed=seed,
                                      num_workers=workers, partners=bool(qsd) and qsd.pairs == 'partner')
        by_third = ['mAP_worst', 'mAP_best'] if table.loc[query_rows, judged_by].notna().any() else []
        loss,opt,cbs = RecognitionLoss(), Adam, []
        if preset: # soft-margin weighted triplets, learned centers, Adam with L2 decay, steps after a warm-up
            loss = RecognitionLoss(triplet=WeightedRegularizedTriplet(), center=CenterLoss(dls.c, 2048))
            opt,cbs = partial(Adam, decouple_wd=False), [CenterUpdate(), ParamScheduler({'lr': warmup_multistep(lr, epochs, steps=steps)})]
        learn = recognition_learner(dls, o.arch, pretrained=pretrained and start is None, last_stride=last_stride, path=out, loss=loss,
                                    metrics=Retrieval('rank1', 'mAP', 'mINP', *by_third, quality=table[judged_by]),
                                    opt_func=opt, wd_bn_bias=bool(preset))
        if start is not None: learn.model.load_state_dict({k: v for k,v in start.model.state_dict().items() if not k.startswith('center.')})
        name = stage.replace(',', '').replace(' ', '_')
        run = start_run(name=f'{out.name} {stage}', group=group or out.name, dir=out, id=f'{run_id}-{name}', config={**args, 'stage': stage})
        cbs += [SaveState(out/f'{name}.state', resume), TrackRun()]
        if qsd: cbs.append(qsd)
        with resumable(out):
            if preset: learn.fit(epochs, lr, wd=5e-4, cbs=cbs)
            else: learn.fit_one_cycle(epochs, lr, cbs=cbs)
        learn.export(f'{name}.pkl')
        return learn, run

    def judge(learn, run, quality):
        "Figures over the held-out identities, overall and by quality, into a row and into W&B"
        held = table[~train_rows]
        query = query_rows[~train_rows].to_numpy(copy=True)
        emb,ids,cameras = learn.embed(held), held['identity'].to_numpy(), held['camera'].to_numpy()
        result = evaluate_retrieval(emb[query], emb[~query], ids[query], ids[~query], cameras[query], cameras[~query])
        thirds = by_quality(result.per_query, quality[query_rows])
        row = {'rank1': result.rank1, 'mAP': result.mAP, 'mINP': result.mINP,
               **{f'{figure} {third}': thirds.loc[third, figure] for third in ('worst', 'best') for figure in ('rank1', 'mAP')}}
        run.summary.update({f'final/{k}': v for k,v in row.items()})
        finish_run(run)
        return row

    # 1. the baseline, and quality as it sees it: training pictures among themselves, held-out ones among themselves
    baseline,run = train('baseline', table.assign(quality=float('nan')), o.epochs, o.lr, (40, 70))
    labelled = table.assign(quality=float('nan'))
    for rows in (train_rows, ~train_rows):
        labelled.loc[rows, 'quality'] = similarity_quality(baseline.embed(table[rows]), table.loc[rows, 'identity'], seed=seed)
    write_table(labelled, out/'labelled'/'images.csv')
    computed = labelled.loc[train_rows, 'quality']
    quality_histogram_figure(computed).savefig(out/'quality.png', dpi=150)
    if 'true_quality' in table:
        known = table.loc[train_rows, 'true_quality']
        correlation = known.rank().corr(computed.rank())
        print(f'\nRank correlation of the computed quality with true_quality over {len(known):,} training pictures: {correlation:.2f}')
        run.summary['quality_rank_correlation'] = correlation
        quality_agreement_figure(computed, known, correlation).savefig(out/'quality_agreement.png', dpi=150)
    results = {'baseline': judge(baseline, run, labelled[judged_by])}

    # 2. the same steps from there, without the method, with it, and with the controls
    for arm in arms:
        taught = labelled.copy()
        if arm == 'shuffled': taught.loc[train_rows, 'quality'] = computed.sample(frac=1, random_state=seed).to_numpy()
        if arm == 'true': taught['quality'] = table['true_quality']
        pairs = 'partner' if arm in ('partner', 'joint') else o.pairs
        qsd = None if arm == 'without' else QualityDistillation(o.weight, pairs=pairs, forward='joint' if arm == 'joint' else 'separate')
        learn,run = train(arm_names[arm], taught, o.tune_epochs, o.tune_lr, (50, 90), baseline, qsd)
        results[arm_names[arm]] = judge(learn, run, labelled[judged_by])

    # 3. what came out
    learn.validate()
    hardest_figure(hardest_queries(learn.metrics[0].store, 8), picture_files(table)).savefig(out/'hardest_queries.png', dpi=150)
    results = pd.DataFrame(results).T
    results.to_csv(out/'results.csv')
    print(f'\nHeld-out identities, {query_rows.sum():,} queries, in %; worst and best third of the queries by {judged_by}\n')
    print((100*results).round(1).to_string())
    print(f'\nEverything of this run is in {out}')
    return results
