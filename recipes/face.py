"""Face recognition with quality self-distillation, beside its own baseline.

    python recipes/face.py                                  # drawn faces, minutes on a CPU
    python data_prep/records.py ms1m --out ms1m/faces
    python data_prep/bins.py bins --out sets                # a folder with lfw.bin, agedb_30.bin, ...
    python recipes/face.py --data ms1m/faces/images.csv --sets sets/lfw/pairs.csv,sets/agedb_30/pairs.csv \\
        --arch iresnet50 --size 112 --by picture --pairs partner --n-ids 128 --n-imgs 1 --augment face --epochs 20 \\
        --lr .1 --tune-epochs 4 --workers 8 --arms without,with
    python recipes/face.py --data lfw/images.csv --arch mobilefacenet --weights mobilefacenet.pt --size 112 \\
        --epochs 0 --degraded

A baseline is trained with a margin head, or taken from `--weights` (`--epochs 0`: its head then starts at the mean of
each identity), and labels the quality of the pictures. Then it is fine-tuned from the same weights, with the same
batches and the same number of steps, once for each of `--arms`: without QSD, with it, by the Octuplet loss on degraded
copies, which has helped most (docs/results.md), and the controls. QSD sees the last three stages, the embedding, and
the cosines before the margin. What the paper does not tell about faces (body, levels, weights, schedule) is this
project's choice.

Judged are the pairs beside the table and those of `--sets`, as they are and, with `--degraded`, brought down to 28,
20 and 14 pixels, blurred and compressed: both pictures of a pair, or one of them (crossed). Search is judged where the
table has queries. Folders, record files and .bin sets become tables by the scripts of `data_prep`. For another model,
loss or schedule, copy this page and edit it.
"""
from fastcore.script import call_parse

from qsd_fastai.all import *


@call_parse
@in_one_line
def main(
    data:str=None,            # The table, images.csv of a data_prep script; drawn faces when not given
    sets:str='',              # More pairs.csv to judge, commas between, a table beside each; that of --data is too
    out:str=None,             # Folder of the run: weights, labels, figures, W&B files; a new one under runs by default
    arch:str='regnetx_002',   # mobilefacenet, iresnet18/34/50/100, or a timm model
    weights:str='',           # A file of weights that the baseline starts from
    head:str='arcface',       # arcface, cosface, adaface, magface, curricularface, subcenter, linear
    scale:float=32.,          # s of the margin head; 64 suits very many identities
    rate:float=1.,            # Below 1: share of very many identities that a step compares with (Partial FC)
    size:int=64,              # Of the network's input, pixels; 112 for real faces
    by:str='identity',        # What batches are dealt by: identity, or picture (each once an epoch) for very many faces
    n_ids:int=16,             # Identities a batch
    n_imgs:int=4,             # Pictures of each
    min_imgs:int=2,           # Training identities with fewer pictures are left out
    max_imgs:int=0,           # Of each training identity at most so many pictures, drawn by --seed; 0: all
    augment:str='flip',       # flip: mirror; face: low resolution, JPEG, crops, light too; shift: as for persons
    epochs:int=16,            # Of the baseline; 0 takes --weights as they are
    lr:float=5e-3,            # Highest rate of the baseline
    tune_epochs:int=6,        # Of each fine-tuning
    tune_lr:float=1e-3,       # Highest rate of the fine-tunings
    weight:float=1.,          # Of QSD; 0 is the baseline's loss
    pairs:str='batch',        # batch: all pairs of one identity in a batch; partner: one for each picture, as published
    map_norm:str='none',      # Of QSD's maps: none as published, l2 makes them independent of scale
    arms:str='without,with,octuplet', # Fine-tunings, of `qsd_fastai.arms`: shuffled, copies, copies-gap, ... too
    shuffle_quality:bool=False, # The same as shuffled in place of with
    degraded:bool=False,      # Judge degraded copies of the first set of pairs as well
    far:float=1e-2,           # False acceptance rate at which true acceptance is stated
    flip:bool=False,          # Judge the sum of the embeddings of picture and mirror image
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
    "Train or take a baseline, label quality with it, fine-tune by each of --arms, judge all of them"
    run = Run('face', locals())
    changes = {'flip': [CropFlip(0)], 'face': [CropFlip(0), FaceAugment(jpeg=.2)], 'shift': True}
    changed = changes[one_of('--augment', augment, *changes)]
    table = run.of_table(enough_pictures(read_table(data) if data else generate_faces('runs/faces'),
                                         min_imgs, max_imgs, seed))
    chosen = {arm: arm.method(weight, pairs, map_norm=map_norm) for arm in chosen_arms(arms, table, shuffle_quality)}
    judged = PairSets(table, sets, far, flip).check(degraded)
    judged_by = 'true_quality' if 'true_quality' in table else 'quality'
    labelled = table.assign(quality=float('nan'))

    def learner(table, method=None):
        body = make_body(arch, weights or False, size=(size, size))
        dls = recognition_dataloaders(table, size=(size, size), n_ids=n_ids, n_imgs=n_imgs, by=by, seed=seed,
                                      augment=changed, erase=0, stats=stats_of(body), num_workers=workers, keep=keep,
                                      **added_by(method))
        learn = recognition_learner(dls, body, make_head(head, scale, rate), metrics=judged.metrics(), path=run.out)
        learn.model.to(dls.device, memory_format=torch.channels_last) # Depthwise convolutions take half the time
        return learn.to_fast(compiled) if fast or compiled else learn

    def judge(learn):
        found = judge_held_out(learn, labelled, ('rank1', 'rank5', 'rank20', 'mAP'), judged_by, False, flip)
        return judged.judge(learn, seed, labelled), found

    print(describe_table(table))
    if degraded: judged.degrade(run.out/'degraded')
    rehearse(learner, judge, labelled, chosen.values())

    with run.stage('baseline', epochs) as stage:
        baseline = learner(labelled)
        if weights: imprint_head(baseline, table)
        if epochs: baseline.fit_one_cycle(epochs, lr, cbs=stage.cbs())
        labelled = label_table(table, baseline, seed)
        run.show_quality(labelled)
        stage.done(baseline, *judge(baseline))

    for arm,method in chosen.items():
        with run.stage(arm.title, tune_epochs) as stage:
            learn = learner(arm.table(labelled, seed), method)
            learn.model.load_state_dict(baseline.model.state_dict())
            learn.fit_one_cycle(tune_epochs, tune_lr, cbs=stage.cbs(method))
            stage.done(learn, *judge(learn))

    return run.finish(f'In %; tar: true pairs accepted where {far:g} of false ones are. Nobody judged was trained on')
