"""Person re-identification with quality self-distillation, beside its own baseline.

    python recipes/reid.py                                  # generated people, minutes on a CPU
    python data_prep/market1501.py ~/data/Market-1501-v15.09.15
    python recipes/reid.py --data ~/data/Market-1501-v15.09.15/images.csv --arch resnet50 --pretrained \\
        --last-stride 1 --height 256 --width 128 --erase .5 --epochs 60 --lr 3.5e-4 --tune-epochs 20 --tune-lr 3.5e-5 \\
        --workers 8

A baseline is trained and labels the quality of its own training pictures. Then it is fine-tuned from the same
weights, with the same batches and the same number of steps, once for each of `--arms`: without QSD, with it, by the
Octuplet loss on degraded copies, which has helped most (docs/results.md), and the controls. All are judged on
identities that none of them was trained on, overall and on the worst and best third of queries by `true_quality` or,
where the table has none, by the baseline's labels. `--weight 0` is the baseline's loss; `--shuffle-quality` keeps
the pairs and loses the quality; `reid_agw.py` has the published schedule. For another model edit a copy of this.
"""
from fastcore.script import call_parse

from qsd_fastai.all import *


@call_parse
@in_one_line
def main(
    data:str=None,            # The table, images.csv of a data_prep script; generated people when not given
    out:str=None,             # Folder of the run: weights, labels, figures, W&B files; a new one under runs by default
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
    pairs:str='batch',        # batch: all pairs of one identity in a batch; partner: one for each picture, as published
    arms:str='without,with,octuplet', # Fine-tunings, of `qsd_fastai.arms`: shuffled, copies, copies-gap, ... too
    shuffle_quality:bool=False, # The same as shuffled in place of with
    degraded:bool=False,      # Judge a search with every query down-sampled by 2, 3 or 4 as well
    seed:int=0,               # Of weights, batches and augmentation
    group:str='',             # Of the runs in W&B; the name of the folder when not given
    no_wandb:bool=False,      # Leave W&B out: all figures are in the folder as well
    workers:int=0,            # Loading processes; 0 loads in this one
    keep:str='auto',          # Decoded pictures: auto, memory, device, file (in a folder kept beside the table), no
    fast:bool=False,          # Channels last, Adam in one kernel and, on a GPU, bfloat16?
    compiled:bool=False,      # The same, and torch.compile?
    sync_bn:bool=False,       # With several processes: batch norm over the batches of all?
    resume:bool=False,        # Go on with the newest run of these options, or with that in --out
):
    "Train a baseline, label quality with it, fine-tune by each of --arms, judge all of them"
    run = Run('reid', locals())
    table = run.of_table(read_table(data) if data else generate_people('runs/people'))
    chosen = {arm: arm.method(weight, pairs) for arm in chosen_arms(arms, table, shuffle_quality)}
    by = 'true_quality' if 'true_quality' in table else 'quality'
    labelled = table.assign(quality=float('nan'))

    def learner(table, method=None):
        dls = recognition_dataloaders(table, size=(height, width), n_ids=n_ids, n_imgs=n_imgs, erase=erase, seed=seed,
                                      num_workers=workers, keep=keep, **added_by(method))
        known = table.loc[table['split'] == 'query', by].notna().any()
        thirds = ['mAP_worst', 'mAP_middle', 'mAP_best'] if known else []
        metrics = Retrieval('rank1', 'mAP', 'mINP', *thirds, quality=table[by])
        learn = recognition_learner(dls, arch, metrics=metrics, pretrained=pretrained, last_stride=last_stride,
                                    path=run.out)
        return learn.to_fast(compiled) if fast or compiled else learn

    def judge(learn): return judge_held_out(learn, labelled, ('rank1', 'mAP', 'mINP'), by, degraded=degraded)

    print(describe_table(table))
    rehearse(learner, judge, labelled, chosen.values())

    with run.stage('baseline', epochs) as stage:
        baseline = learner(labelled)
        baseline.fit_one_cycle(epochs, lr, cbs=stage.cbs())
        labelled = label_table(table, baseline, seed)
        run.show_quality(labelled)
        stage.done(baseline, judge(baseline))

    for arm,method in chosen.items():
        with run.stage(arm.title, tune_epochs) as stage:
            learn = learner(arm.table(labelled, seed), method)
            learn.model.load_state_dict(baseline.model.state_dict())
            learn.fit_one_cycle(tune_epochs, tune_lr, cbs=stage.cbs(method))
            stage.done(learn, judge(learn))

    return run.finish(f'Held-out identities, in %; worst and best third of the queries by {by}')
