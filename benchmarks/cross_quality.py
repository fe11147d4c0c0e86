"""What helps faces of mixed quality: weights fine-tuned on pictures and degraded copies, judged across quality.

    python benchmarks/cross_quality.py aligned/images.csv mobilefacenet.pt --seeds 5 --out cross_quality
    python benchmarks/cross_quality.py aligned/images.csv mobilefacenet.pt --seeds 5..16 --steps 300 \\
        --eval-at 60,120,180,240 --arms copies,copies-gap,copies-shuffled,copies-reversed,octuplet,adaface,panning

The table has its pairs beside it and everybody in them held out (`data_prep/pairs.py --hold-out 2`, `align.py`). Each
arm of `qsd_fastai.arms` starts from the weights with a head at the mean of each identity, and with the same seed sees
the same 32 pictures a step. Arms called copies, octuplet and adaface see a degraded copy of each as well, 64 in all;
published and partner see a partner of each, another picture of the same person; without, with, shuffled and reversed
see the 32 alone. Labels of quality, for arms that need them, are those of the weights as they are (SDD-FIQA).
`panning` trains nothing: a shift of embeddings is fitted behind the weights as they are.

Each held-out picture has one degraded twin (28, 20, 14 or 10 pixels, blur, JPEG, in turn); pairs are judged clean, one
side degraded (both ways) and both. Accuracy at the threshold of the other folds, and the area under the ROC.
`--eval-at` judges along a run too: the rate falls by one schedule over all steps, so that a figure at step 60 of 300 is
not that of a run of 60; a curve that is flat at its end and runs of two lengths that end alike say that it is over.

Pictures are decoded once and stay where the network is. A run that was stopped goes on, and processes started with the
same `--out` share the work: each takes what nobody has begun. `--table` only prints what is there.
"""
from pathlib import Path

import numpy as np
import torch
from fastai.vision.core import imagenet_stats
from fastcore.script import call_parse
from tuning.fit import Tuning
from tuning.memory import as_pixels, unit_embeddings
from tuning.runs import compare

from qsd_fastai.commands import in_one_line
from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.degradations import degrade, shrink
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.pictures import open_picture
from qsd_fastai.data.splits import enough_pictures
from qsd_fastai.data.table import read_table
from qsd_fastai.data.transforms import CropFlip
from qsd_fastai.evaluation.verification import evaluate_verification
from qsd_fastai.models.bodies.by_name import make_body
from qsd_fastai.models.heads.by_name import make_head

WAYS = ('shrink', 28), ('shrink', 20), ('shrink', 14), ('shrink', 10), ('blur', .7), ('jpeg', .9)


def twins(root, pairs):
    "The pictures of the pairs, clean and degraded, uint8 `(n, 3, height, width)`, and where each path is"
    paths = sorted({*pairs['path1'], *pairs['path2']})
    clean,bad = [],[]
    for i,path in enumerate(paths):
        img,(kind,amount) = open_picture(Path(root)/path),WAYS[i % len(WAYS)]
        rng = np.random.default_rng([1, i])
        clean.append(img)
        bad.append(shrink(img, amount) if kind == 'shrink' else degrade(img, kind, amount, rng))
    return as_pixels(clean), as_pixels(bad), {p: i for i,p in enumerate(paths)}


def judge_of(root, pairs, device):
    "What judges a model: accuracy and area under the curve: clean, one side degraded, both; which pairs are right"
    clean,bad,at = twins(root, pairs)
    clean,bad = clean.to(device),bad.to(device)
    first,second = (torch.from_numpy(pairs[c].map(at).to_numpy(copy=True)).to(device) for c in ('path1', 'path2'))

    def judge(model):
        good,worse = (unit_embeddings(model, o, imagenet_stats) for o in (clean, bad))
        sides = {'one degraded': (torch.cat([good[first], worse[first]]), torch.cat([worse[second], good[second]])),
                 'both degraded': (worse[first], worse[second]), 'clean': (good[first], good[second])}
        row,cases = {},{}
        for name,(a, b) in sides.items():
            same,fold = (np.tile(pairs[c], len(a)//len(pairs)) for c in ('same', 'fold'))
            result = evaluate_verification(a, b, same, fold, thresholds='exact')
            row |= {name: result.accuracy, f'AUC {name}': result.auc}
            cases[name] = result.per_pair['correct'].to_numpy().reshape(-1, len(pairs)).mean(0)
        return row, cases
    return judge


@call_parse
@in_one_line
def main(
    data:str,          # The aligned table, 112x112, with `pairs.csv` beside it
    weights:str,       # Of MobileFaceNet
    arms:str='copies,copies-gap,copies-free,copies-shuffled,octuplet', # The first is the reference
    seeds:str='5',     # How many, or their numbers with commas between, or 5..16
    steps:int=60,      # Of each fine-tuning; 0: only the weights as they are
    eval_at:str='',    # Steps at which a run is judged as well, with commas between
    lr:float=1e-3,     # Highest rate
    device:str='',     # cuda or cpu; a GPU where there is one
    out:str='cross_quality', # Folder of the results
    table:bool=False,  # Only print the table of what is there
):
    "A folder a run; means, and paired gains over the first arm"
    def tuning(device):
        whole = read_table(data, check=False)
        pairs = read_pairs(Path(data).with_name('pairs.csv'), whole[whole['split'] != 'train'])
        return Tuning(enough_pictures(whole, 2, 0, 0), lambda: make_body('mobilefacenet', weights, size=(112, 112)),
                      make_head('arcface', 32.), lambda head, *o: head.imprint(*o),
                      judge_of(whole.attrs['root'], pairs, device), DegradedCopies(severity=(.1, .7)), Path(out),
                      (112, 112), {'n_ids': 16, 'n_imgs': 2, 'augment': [CropFlip(0)]}, lr, device)
    compare(tuning, out, arms, seeds, steps, eval_at, device, table)
