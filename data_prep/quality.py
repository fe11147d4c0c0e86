"""Quality labels of the pictures of a table, from how well a model recognises each of them (SDD-FIQA, CVPR 2021).

    python data_prep/quality.py images.csv --learner runs/reid-.../baseline.pkl
    python data_prep/quality.py images.csv --weights agw_market1501.pth --arch agw_resnet50 --height 256 --width 128
    python data_prep/quality.py images.csv --labels quality_labels.txt      # of others, joined by path
    python data_prep/quality.py images.csv --labels magface.txt --scale minmax # of another scale than 0 to 100

Training pictures are compared with each other, held-out ones with each other. The labels go into the column `quality`
of the table and, as `path<tab>quality`, into `quality.txt` beside it, the form that SDD-FIQA publishes and QSD reads;
`quality.png` shows how they are distributed, `quality_sheet.png` the worst and best pictures. A stopped run goes on
where it was: embeddings are kept a block at a time until the labels stand. `torchrun --nproc_per_node 4` and
`accelerate launch` in place of `python` embed and compare in several processes, to the same labels.
"""
import hashlib
import json
import shutil
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from common.command import in_a_line
from fastai.learner import load_learner
from fastcore.script import call_parse
from fastprogress.fastprogress import progress_bar

from qsd_fastai.data.labels import join_quality
from qsd_fastai.data.loaders import picture_files
from qsd_fastai.data.table import read_table, write_table
from qsd_fastai.distributed import gather_objects, processes, together
from qsd_fastai.files import file_hash, in_one_move, save_whole
from qsd_fastai.judging.models import learner_around, open_weights
from qsd_fastai.plots.pictures import sheet_figure
from qsd_fastai.plots.quality import quality_histogram_figure
from qsd_fastai.quality import comparable, similarity_quality


def embed_in_blocks(
    learn,          # A learner with `embed`
    table,          # Of pictures
    kept,           # Folder of the blocks
    block:int=4096, # Pictures a block
)->list: # Of files, in the order of the table
    """Embeddings of a table, each block kept in a file as soon as it is there; blocks that are there already stay

    Several processes take blocks in turn, and get the files of all."""
    starts,(rank, world) = range(0, len(table), block),processes()
    files = [Path(kept)/f'{lo:09d}.pt' for lo in starts]
    for lo,file in progress_bar(list(zip(starts, files))[rank::world]):
        if file.is_file(): continue
        with learn.no_bar(): save_whole(learn.embed(table.iloc[lo:lo + block], alone=True).clone(), file)
    gather_objects(None) # Until all are there
    return files


def read_blocks(
    files, # Of `embed_in_blocks`
    rows,  # Numbers of rows of the table, ascending
): # Iterator of `(some, nf)`
    "Their embeddings, a block at a time"
    rows,start,done = torch.as_tensor(rows),0,0
    for file in files:
        part = torch.load(file, weights_only=True)
        here = rows[done:torch.searchsorted(rows, start + len(part))] - start
        yield part[here]
        start,done = start + len(part),done + len(here)


def label_table(
    table,    # With `identity` and `split`
    files,    # Of `embed_in_blocks`
    **kwargs, # For `similarity_quality`
)->pd.Series: # 0 to 100, NaN = unknown
    """Labels of the training pictures among themselves, and of the held-out ones among themselves

    Held-out ones that nobody can be compared with stay unknown. What is compared lies in a file beside the blocks, for
    it may be more than a memory takes."""
    quality = pd.Series(np.nan, index=table.index, dtype='float32')
    for held_out in (False, True):
        rows = np.flatnonzero((table['split'] != 'train') == held_out)
        if not len(rows): continue
        who = table['identity'].iloc[rows].to_numpy()
        if held_out and not comparable(np.unique(who, return_counts=True)[1], kwargs.get('min_imgs', 2)): continue
        lies = files[0].with_name('held_out.f32' if held_out else 'train.f32')
        quality.iloc[rows] = similarity_quality(read_blocks(files, rows), who, file=lies, **kwargs)
    return quality


def report(
    table,    # With the column `quality`
    folder,   # Where the figures go
    n:int=10, # Worst and best pictures on the sheet
):
    "Print coverage and spread, and draw the histogram and the sheet"
    known = table['quality'].dropna()
    within = table.groupby('identity')['quality'].std().dropna()
    alone = int((table.groupby('identity')['quality'].count() == 0).sum())
    part = len(known)/len(table)
    print(f'{len(known):,} of {len(table):,} pictures labelled ({part:.1%}); identities without a label: {alone:,}')
    print('quality:  ' + '  '.join(f'{p} % {known.quantile(p/100):.1f}' for p in (0, 5, 25, 50, 75, 95, 100)))
    print(f'standard deviation: {known.std():.1f} over all, {within.mean():.1f} within an identity on average')
    quality_histogram_figure(table['quality'], 'Quality of the pictures').savefig(folder/'quality.png', dpi=150)
    order,files = known.sort_values(kind='stable').index, picture_files(table)
    rows = [order[:n], order[-n:][::-1]]
    pictures,labels = [files[r].tolist() for r in rows], [table.loc[r, 'quality'].tolist() for r in rows]
    sheet_figure(pictures, labels, ['worst', 'best']).savefig(folder/'quality_sheet.png', dpi=150)


def _saved_learner(learner, weights, arch, table, size, last_stride):
    "The learner in a file, or one made around weights"
    if learner:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*insecure pickle')  # said in the help instead
            return load_learner(learner)
    if not (weights and arch):
        raise ValueError('Nothing is said of what recognises the pictures. '
                         'Pass --learner FILE.pkl, or --weights FILE and --arch NAME.')
    return learner_around(*open_weights(weights, arch, size, last_stride), table)


def _labels_of_model(pictures, learner, weights, arch, size, last_stride, folder, options):
    "The table with labels, and the folder of its embeddings, to be removed when the labels stand"
    model = Path(learner or weights)
    if (learner or weights) and not model.is_file(): raise FileNotFoundError(f'There is no model file {model}.')
    learn = _saved_learner(learner, weights, arch, pictures, size, last_stride)
    key = json.dumps([str(model.absolute()), model.stat().st_mtime_ns, arch, *size, pictures['path'].tolist()])
    kept = folder/f'embeddings-{hashlib.sha256(key.encode()).hexdigest()[:12]}'
    if kept.is_dir(): print(f'Going on with the embeddings in {kept}')
    files = embed_in_blocks(learn, pictures, kept)
    with together(): quality = label_table(pictures, files, **options)
    if processes()[0]: return None,None
    labelled = pictures.assign(quality=quality)
    labelled.attrs = dict(pictures.attrs)
    return labelled, kept


def _is_labelled(target, asked):
    "Were the labels at `target` made as `asked` says?"
    if not (target.is_file() and target.with_name('quality.txt').is_file()): return False
    had = (read_table(target, check=False).attrs.get('record') or {}).get('quality') or {}
    return {k: had.get(k) for k in asked} == asked


@call_parse
@in_a_line
def main(
    table:str,            # The table, images.csv or .parquet
    learner:str='',       # A learner saved by `learn.export`; it is a pickle: open your own only
    weights:str='',       # Or a file of weights (a state dict, AGW, QSD, FastReID, ...), read without running anything
    arch:str='',          # The body that --weights are of
    height:int=256,       # Input of that body, pixels
    width:int=128,        # Input of that body, pixels
    last_stride:int=None, # Of a timm ResNet that --weights are of
    mode:str='sampled',   # sampled: the published draws; exact: all pairs, no chance
    rounds:int=12,        # Of sampled
    signed:bool=False,    # Give a picture under a wrong name a low label, not a high one
    scaling:str='minmax', # minmax: the extremes become 0 and 100; robust: the 1st and 99th percentile
    min_imgs:int=2,       # Identities with fewer pictures get no label
    seed:int=0,           # Of the draws
    out:str='',           # Folder for another copy of the table; the table itself is filled in when not given
    labels:str='',        # Or a file of labels: lines of `path score` as SDD-FIQA has them, or a .csv with path,quality
    labels_root:str='',   # What the paths in --labels start with; found out when not given
    scale:str='',         # Of --labels that are not of 0 to 100: unit (0 to 1, times 100), minmax, keep (they are)
    min_coverage:float=.9, # With --labels: least part of the training pictures that must get one, 0 to 1
    force:bool=False,     # Write over labels that the table has
):
    "Label the quality of the pictures of a table"
    path = Path(table)
    target = Path(out)/path.name if out else path
    pictures = read_table(path)
    options = {'mode': mode, 'rounds': rounds, 'signed': signed, 'scaling': scaling, 'min_imgs': min_imgs, 'seed': seed}
    source = Path(labels or learner or weights)
    of_labels = {'labels': source.name, 'labels_root': labels_root, 'min_coverage': min_coverage}
    if scale: of_labels['scale'] = scale
    asked = of_labels if labels else {'model': source.name, 'arch': arch, **options}
    if source.is_file(): asked['content'] = file_hash(source)
    if not force and _is_labelled(target, asked):
        return print(f'{target} has these labels already, made in the same way: nothing to do.')
    if pictures['quality'].notna().any() and not out and not force:
        raise ValueError(f'{path} has labels already. Write over them by --force, or keep them and name --out DIR.')
    record = pictures.attrs.get('record') or {}
    if scale and not labels: raise ValueError(f'--scale is {scale!r}, and is of --labels. Leave it out.')
    if labels:
        if learner or weights:
            raise ValueError('--labels are there already. Pass them, or a model to make others, not both.')
        labelled,kept = join_quality(pictures, labels, min_coverage, labels_root or None, scale), None
        asked['coverage'] = labelled.attrs.pop('coverage')
    else:
        size = height,width
        labelled,kept = _labels_of_model(pictures, learner, weights, arch, size, last_stride, target.parent, options)
    if labelled is None: return None
    labelled = write_table(labelled, target, {**record, 'quality': asked})
    lines = [f'{p}\t{q:.6f}' for p,q in zip(labelled['path'], labelled['quality']) if q == q]
    with in_one_move(target.with_name('quality.txt')) as part:
        part.write_text('\n'.join(lines) + '\n', encoding='utf-8')
    report(labelled, target.parent)
    if kept: shutil.rmtree(kept)
    print(f'Written: {target} and quality.txt, quality.png, quality_sheet.png beside it')
