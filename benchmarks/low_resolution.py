"""What helps people of several resolutions (MLR): public OSNet weights fine-tuned on half of the people, and searched.

    python benchmarks/low_resolution.py market1501/images.csv osnet_x0_25_msmt17.onnx --seeds 5 --out low_resolution

The table is split by identity: half of the people are trained on, the others are queries, one of a person and camera,
and gallery. Judged are the search with queries as they are and with queries down-sampled by 2, 3 or 4
(as `data_prep/degrade.py --protocol mlr` does, the same draws), from other cameras, in a gallery as it is. Each arm of
`qsd_fastai.arms` starts from the weights with a linear head at the mean of each identity, is trained by cross entropy
and triplets, and with the same seed sees the same 64 pictures a step, 16 people with 4 each; which arms see a copy or a
partner of each beside them is said in `cross_quality.py`, as are the options. Copies have as few pixels as the
queries: the severities are those of down-sampling by 2 to 4.
"""
import math
from copy import deepcopy
from pathlib import Path

import torch
from fastai.vision.core import imagenet_stats
from fastcore.script import call_parse
from tuning.fit import Tuning
from tuning.memory import decoded, unit_embeddings
from tuning.osnet import osnet_of_onnx, unfold_norms
from tuning.runs import compare

from qsd_fastai.commands import in_one_line
from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.down_sampled import RATES, lowered, rate_of
from qsd_fastai.data.loaders import picture_files
from qsd_fastai.data.pictures import open_picture
from qsd_fastai.data.splits import split_identities
from qsd_fastai.data.table import read_table
from qsd_fastai.evaluation.retrieval import evaluate_retrieval
from qsd_fastai.models.heads.by_name import make_head

LOGIT = 16 # Of a picture to its own identity at the start


def severities(own, size):
    "What `degrade` must be asked for so that a picture of `own` pixels, shown at `size`, loses what the queries lose"
    shown,there = math.sqrt(size[0]*size[1]),math.sqrt(own[0]*own[1])
    return tuple((math.log(rate*shown/there)/math.log(shown/4))**(1/.6) for rate in (RATES[0], RATES[-1]))


def judge_of(table, size, device):
    "What judges a model: mAP and rank 1 of queries as they are, and down-sampled; average precision of each"
    query,gallery = (table[table['split'] == o] for o in ('query', 'gallery'))
    files = picture_files(query, table.attrs['root'])
    low = [lowered(open_picture(file), rate_of(path)) for file,path in zip(files, query['path'])]
    pixels = [decoded(o, size) for o in (files, low, picture_files(gallery, table.attrs['root']))]
    clean,low,shown = (o.to(device) for o in pixels)
    who = [o[c].to_numpy() for c in ('identity', 'camera') for o in (query, gallery)]

    def judge(model):
        found,row,cases = unit_embeddings(model, shown, imagenet_stats),{},{}
        for name,pictures in (('low', low), ('clean', clean)):
            result = evaluate_retrieval(unit_embeddings(model, pictures, imagenet_stats), found, *who)
            row |= {f'mAP {name}': result.mAP, f'rank1 {name}': result.rank1}
            cases[f'mAP {name}'] = result.per_query['ap'].dropna().to_numpy()
        return row, cases
    return judge


@torch.no_grad()
def imprint(head, emb, ids):
    "Start each identity at the mean of its pictures, so that their own logits are about `LOGIT`"
    mean = torch.zeros_like(head.weight).index_add_(0, ids.as_subclass(torch.Tensor), emb)
    head.weight.copy_(LOGIT*torch.nn.functional.normalize(mean)/imprint.length)


def unfolded(weights, table, size, device):
    "The network, its norms measured on the training pictures; and how long an embedding is"
    files = picture_files(table[table['split'] == 'train'], table.attrs['root'])
    pixels = decoded(files[::4], size)
    mean,std = (torch.tensor(o, device=device).view(1, 3, 1, 1) for o in imagenet_stats)
    batches = [(o.to(device).float()/255 - mean)/std for o in pixels.split(64)]
    body = unfold_norms(osnet_of_onnx(weights).to(device), batches)
    with torch.no_grad(): imprint.length = body(batches[0]).norm(dim=1).mean().item()
    return body


@call_parse
@in_one_line
def main(
    data:str,          # The table of Market-1501's training half, as published or smaller
    weights:str,       # Of OSNet x0.25, ONNX
    arms:str='copies,copies-gap,copies-free,copies-shuffled,octuplet', # The first is the reference
    seeds:str='5',     # How many, or their numbers with commas between, or 5..16
    steps:int=200,     # Of each fine-tuning; 0: only the weights as they are
    eval_at:str='',    # Steps at which a run is judged as well, with commas between
    lr:float=1e-3,     # Highest rate
    size:str='256x128', # Of the network's input, height x width; the pictures have 128x64
    few:int=0,         # Of each split only the first so many identities, to try it out; 0: all
    device:str='',     # cuda or cpu; a GPU where there is one
    out:str='low_resolution', # Folder of the results
    table:bool=False,  # Only print the table of what is there
):
    "A folder a run; means, and paired gains over the first arm"
    size = tuple(int(o) for o in size.split('x'))
    def tuning(device):
        whole = split_identities(read_table(data, check=False))
        if few:
            train = whole['split'] == 'train'
            some = {*sorted(set(whole.loc[train, 'identity']))[:few], *sorted(set(whole.loc[~train, 'identity']))[:few]}
            whole = whole[whole['identity'].isin(some)].reset_index(drop=True)
        body = unfolded(weights, whole, size, device)
        copies = DegradedCopies(('low_resolution',), severities((128, 64), size))
        batch = {'n_ids': min(16, few or 16), 'n_imgs': 4, 'augment': True}
        return Tuning(whole, lambda: deepcopy(body), make_head('linear'), imprint, judge_of(whole, size, device),
                      copies, Path(out), size, batch, lr, device)
    compare(tuning, out, arms, seeds, steps, eval_at, device, table, ('rank1',))
