"""The published schedule for persons: AGW for 120 epochs, then QSD with partners for 90 at a hundredth of the rate
(Ou et al., IEEE TMM 2024).

    python data_prep/market1501.py ~/data/Market-1501-v15.09.15
    python recipes/reid_agw.py --data ~/data/Market-1501-v15.09.15/images.csv --pretrained --workers 8

The baseline, 120 epochs, is AGW's ResNet-50 with non-local blocks (Ye et al., TPAMI 2021): weighted regularised
triplets, centers with a rate of their own, Adam with L2 decay on every parameter, a warm-up of ten epochs and two
steps. It labels the quality of its training pictures, and is then fine-tuned for 90 epochs, once for each of
`--arms`. In the published one each picture has a partner from its identity, which passes through the network by
itself. Without `--data` the generated people are used, which are much too few for it. It is days on a CPU, hours on a
GPU.
"""
from fastcore.script import call_parse

from qsd_fastai.all import *


@call_parse
@in_one_line
def main(
    data:str=None,            # The table, images.csv of a data_prep script; generated people when not given
    out:str=None,             # Folder of the run: weights, labels, figures, W&B files; a new one under runs by default
    pretrained:bool=False,    # Start the baseline from ImageNet's weights, as published
    height:int=256,           # Of the network's input, pixels
    width:int=128,            # Of the network's input, pixels
    n_ids:int=16,             # Identities a batch
    n_imgs:int=4,             # Pictures of each
    erase:float=.5,           # Chance that a rectangle of a training picture is erased
    epochs:int=120,           # Of the baseline
    lr:float=3.5e-4,          # Of the baseline, after the warm-up
    tune_epochs:int=90,       # Of each fine-tuning
    tune_lr:float=3.5e-6,     # Of the fine-tunings, after the warm-up
    weight:float=1.,          # Of QSD; 0 is the baseline's loss
    pairs:str='partner',      # partner: one for each picture, as published; batch: all pairs of one identity in a batch
    arms:str='without,with',  # Fine-tunings of `qsd_fastai.arms`: without, with, shuffled, copies, copies-gap, ...
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
    "Train AGW, label quality with it, fine-tune without and with QSD as published, judge all of them"
    run = Run('reid_agw', locals())
    table = run.of_table(read_table(data) if data else generate_people('runs/people'))
    chosen = {arm: arm.method(weight, pairs) for arm in chosen_arms(arms, table, shuffle_quality)}
    by = 'true_quality' if 'true_quality' in table else 'quality'
    labelled = table.assign(quality=float('nan'))

    def learner(table, method=None):
        dls = recognition_dataloaders(table, size=(height, width), n_ids=n_ids, n_imgs=n_imgs, erase=erase, seed=seed,
                                      num_workers=workers, keep=keep, **added_by(method))
        loss = RecognitionLoss(triplet=WeightedRegularizedTriplet(), center=CenterLoss(dls.c, 2048))
        metrics,opt_func = Retrieval('rank1', 'mAP', 'mINP'),partial(Adam, decouple_wd=False)
        learn = recognition_learner(dls, 'agw_resnet50', loss=loss, metrics=metrics, pretrained=pretrained,
                                    path=run.out, opt_func=opt_func, wd_bn_bias=True)
        return learn.to_fast(compiled) if fast or compiled else learn

    def fit(learn, epochs, lr, steps, cbs):
        schedule = ParamScheduler({'lr': warmup_multistep(lr, epochs, steps=steps)})
        learn.fit(epochs, lr, wd=5e-4, cbs=[CenterUpdate(), schedule, *cbs])

    def judge(learn): return judge_held_out(learn, labelled, ('rank1', 'mAP', 'mINP'), by, degraded=degraded)

    print(describe_table(table))
    rehearse(learner, judge, labelled, chosen.values())

    with run.stage('baseline', epochs) as stage:
        baseline = learner(labelled)
        fit(baseline, epochs, lr, (40, 70), stage.cbs())
        labelled = label_table(table, baseline, seed)
        run.show_quality(labelled)
        stage.done(baseline, judge(baseline))

    weights = {k: v for k,v in baseline.model.state_dict().items() if not k.startswith('center.')}
    for arm,method in chosen.items():
        with run.stage(arm.title, tune_epochs) as stage:
            learn = learner(arm.table(labelled, seed), method)
            learn.model.load_state_dict(weights)
            fit(learn, tune_epochs, tune_lr, (50, 90), stage.cbs(method))
            stage.done(learn, judge(learn))

    return run.finish(f'Held-out identities, in %; worst and best third of the queries by {by}')
