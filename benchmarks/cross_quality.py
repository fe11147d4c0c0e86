"""What helps faces of mixed quality: weights fine-tuned on pictures and degraded copies, judged across quality.

    python benchmarks/cross_quality.py aligned/images.csv mobilefacenet.pt --seeds 5 --out cross_quality

The table has its pairs beside it and everybody in them held out (`data_prep/pairs.py --hold-out 2`, `align.py`). Each
arm of `qsd_fastai.arms` starts from the weights with a head at the mean of each identity, and sees the same batches:
pictures, and a degraded copy of each. Each held-out picture has one degraded twin (28, 20, 14 or 10 pixels, blur, JPEG,
in turn); pairs are judged clean, one side degraded (both ways) and both. Accuracy at the threshold of the other folds,
and the area under the ROC. A run that was stopped goes on; every run's scores are kept.
"""
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelFitException
from fastai.callback.schedule import ParamScheduler, combined_cos
from fastai.torch_core import set_seed
from fastai.vision.core import imagenet_stats
from fastcore.script import call_parse

from qsd_fastai.arms import added_by, chosen_arms
from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.degradations import degrade, shrink
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.pictures import open_picture
from qsd_fastai.data.splits import enough_pictures
from qsd_fastai.data.table import read_table
from qsd_fastai.data.transforms import CropFlip
from qsd_fastai.evaluation.comparison import arm_gains, arm_means, gains_table
from qsd_fastai.evaluation.verification import evaluate_verification
from qsd_fastai.files import save_figure, save_frame
from qsd_fastai.learner import imprint_head, recognition_learner
from qsd_fastai.models.bodies.by_name import make_body
from qsd_fastai.models.heads.by_name import make_head
from qsd_fastai.plots.curves import gains_figure
from qsd_fastai.terminal import for_terminal

WAYS = ('shrink', 28), ('shrink', 20), ('shrink', 14), ('shrink', 10), ('blur', .7), ('jpeg', .9)
COPIES = DegradedCopies(severity=(.1, .7))


class Steps(Callback):
    "Ends a fit after so many steps"
    def __init__(self, n): self.n = n
    def before_batch(self):
        if self.training and self.learn.train_iter >= self.n: raise CancelFitException


def twins(table, pairs):
    "The pictures of the pairs, clean and degraded, uint8 `(n, height, width, 3)`, and where each path is"
    paths = sorted({*pairs['path1'], *pairs['path2']})
    clean,bad = [],[]
    for i,path in enumerate(paths):
        img,(kind,amount) = open_picture(Path(table.attrs['root'])/path),WAYS[i % len(WAYS)]
        rng = np.random.default_rng([1, i])
        clean.append(np.asarray(img))
        bad.append(np.asarray(shrink(img, amount) if kind == 'shrink' else degrade(img, kind, amount, rng)))
    return np.stack(clean), np.stack(bad), {p: i for i,p in enumerate(paths)}


@torch.no_grad()
def embed(learn, pictures):
    "Unit embeddings of uint8 pictures, normalised as the loaders do"
    mean,std = (torch.tensor(o).view(1, 3, 1, 1) for o in imagenet_stats)
    out,model = [],learn.model.eval()
    for part in torch.from_numpy(pictures).split(128):
        x = (part.permute(0, 3, 1, 2).float()/255 - mean)/std
        out.append(F.normalize(model(x.to(memory_format=torch.channels_last)).float()))
    return torch.cat(out)


def judged(learn, pairs, clean, bad, at):
    "Accuracy and area under the curve of the pairs: clean, one side degraded, both"
    first,second = (pairs[c].map(at).to_numpy() for c in ('path1', 'path2'))
    good,worse = embed(learn, clean),embed(learn, bad)
    sides = {'one degraded': (torch.cat([good[first], worse[first]]), torch.cat([worse[second], good[second]])),
             'both degraded': (worse[first], worse[second]), 'clean': (good[first], good[second])}
    row = {}
    for name,(a, b) in sides.items():
        same,fold = (np.tile(pairs[c], len(a)//len(pairs)) for c in ('same', 'fold'))
        result = evaluate_verification(a, b, same, fold, thresholds='exact')
        row |= {name: result.accuracy, f'AUC {name}': result.auc}
    return row


def tuned(table, weights, arm, seed, steps, lr, start):
    "The learner after its fine-tuning, and seconds a step; `start` keeps the head that all begin with"
    set_seed(seed)
    body = make_body('mobilefacenet', weights, size=(112, 112))
    method = arm.method()
    copies = COPIES if added_by(method)['copies'] else False
    dls = recognition_dataloaders(table, size=(112, 112), n_ids=16, n_imgs=2, seed=seed, augment=[CropFlip(0)], erase=0,
                                  num_workers=0, copies=copies, device='cpu')
    learn = recognition_learner(dls, body, make_head('arcface', 32.))
    learn.model.to(memory_format=torch.channels_last)
    if not start:
        imprint_head(learn, table)
        start.update(learn.model.head.state_dict())
    learn.model.head.load_state_dict(start)
    if not steps: return learn, 0.
    set_seed(seed)
    epochs = max(1, -(-steps//len(dls.train)))
    curve,share = combined_cos(.25, 1/25, 1., 1e-2),epochs*len(dls.train)/steps
    schedule = ParamScheduler({'lr': lambda pct: lr*float(curve(min(1., pct*share)))})
    dls.valid.n,begun = 0,time.perf_counter()
    with learn.no_bar(), learn.no_logging():
        learn.fit(epochs, lr, cbs=[Steps(steps), *([method] if method else []), schedule])
    return learn, (time.perf_counter() - begun)/steps


@call_parse
def main(
    data:str,          # The aligned table, 112x112, with `pairs.csv` beside it
    weights:str,       # Of MobileFaceNet
    arms:str='copies,copies-gap,copies-free,copies-shuffled,octuplet', # The first is the reference
    seeds:str='5',     # How many, or their numbers with commas between
    steps:int=60,      # Of each fine-tuning: 32 pictures and 32 copies each
    lr:float=1e-3,     # Highest rate
    out:str='cross_quality', # Folder of the results
):
    "A row an arm and seed in results.csv; means, and paired gains over the first arm"
    table = read_table(data, check=False)
    pairs = read_pairs(Path(data).with_name('pairs.csv'), table[table['split'] != 'train'])
    pictures,table = twins(table, pairs),enough_pictures(table, 2, 0, 0)
    chosen,start,file = chosen_arms(arms),{},Path(out)/'results.csv'
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = pd.read_csv(file).to_dict('records') if file.is_file() else []
    def keep(title, seed, steps, took, row):
        rows.append({'arm': title, 'seed': seed, 'steps': steps, 's a step': took, **row})
        save_frame(pd.DataFrame(rows), file, index=False)
        print(f'{title}, seed {seed}: {", ".join(f"{k} {100*v:.2f}" for k,v in row.items())}', flush=True)

    if not any(r['steps'] == 0 for r in rows):
        learn,_ = tuned(table, weights, chosen[0], 0, 0, lr, start)
        keep('the weights as they are', 0, 0, 0., judged(learn, pairs, *pictures))
    numbers = [int(o) for o in seeds.split(',')] if ',' in seeds else range(int(seeds))
    for seed,arm in product(numbers, chosen):
        if any((r['arm'], r['seed'], r['steps']) == (arm.title, seed, steps) for r in rows): continue
        learn,took = tuned(table, weights, arm, seed, steps, lr, start)
        keep(arm.title, seed, steps, took, judged(learn, pairs, *pictures))
    found = pd.DataFrame(rows)
    found = found[(found['steps'] == steps) & found['arm'].isin([o.title for o in chosen])]
    found = found[found['seed'].isin(numbers)].drop(columns=['steps', 's a step'])
    print(f'\n{for_terminal(arm_means(found))}')
    if len(chosen) == 1: return
    print(f'\nOver "{chosen[0].title}": mean ± half the 95 % interval (positive seeds)')
    gains = arm_gains(found, chosen[0].title)
    print(f'\n{for_terminal(gains_table(gains))}')
    shown = gains[~gains['figure'].str.startswith('AUC')]
    save_figure(gains_figure(shown, chosen[0].title), file.with_name('gains.png'))
