"""How well quality labels agree with the truth: rank correlation of each kind with that of the two drawn sets.

    python benchmarks/labels.py --seeds 3                                    # learned from copies: minutes
    python benchmarks/labels.py --kinds severity,network,identity,picture    # those of trained networks, too: hours

Networks, batches and rates are those of `recipes/reid.py` and `recipes/face.py`; `--epochs` shortens their training.
Labels are of the training pictures. Today's are those by likeness, by the network that was trained on them. Each
kind gets a row in results.csv, and a run that was stopped goes on; a table with means over the seeds ends it."""
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.torch_core import set_seed
from fastcore.script import call_parse

from qsd_fastai.choices import one_of
from qsd_fastai.commands import in_one_line
from qsd_fastai.data.degradations import DEGRADATIONS
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.transforms import CropFlip
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.files import save_frame
from qsd_fastai.labelling import OnlineQuality, cross_fit_folds, cross_fitted_labels
from qsd_fastai.learner import recognition_learner
from qsd_fastai.models.heads.by_name import make_head
from qsd_fastai.quality import norm_quality, similarity_quality
from qsd_fastai.severity import describe_copies, severity_of

# what draws the set, options of the loaders, head, highest rate, epochs of the recipe
SETS = {'people': (generate_people, {'size': (96, 48)}, None, 1e-2, 24),
        'faces': (generate_faces, {'size': (64, 64), 'augment': [CropFlip(0)]}, 'arcface', 5e-3, 16)}


def learner(name, table, seed, *cbs):
    "An untrained learner, as the recipe of the set makes it"
    _,options,head,_,_ = SETS[name]
    set_seed(seed)
    dls = recognition_dataloaders(table, n_ids=16, n_imgs=4, erase=0, seed=seed, num_workers=0, **options)
    learn = recognition_learner(dls, 'regnetx_002', *([make_head(head, 32.)] if head else []), cbs=cbs)
    learn.model.to(memory_format=torch.channels_last)
    learn.dls.valid.n = 0 # Nobody is judged
    return learn


def trained(name, table, seed, epochs, *cbs):
    "The same, trained"
    learn = learner(name, table, seed, *cbs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs or SETS[name][4], SETS[name][3])
    return learn


def one_network(name, table, seed, epochs):
    "By a network that was trained on all pictures"
    online,train = OnlineQuality(seed=seed),table['split'] == 'train'
    learn,own = trained(name, table, seed, epochs, online),table[train]
    with learn.no_bar(): emb,mirrored = learn.embed(own),learn.embed(own, flip=True)
    who = own['identity']
    return {'likeness': similarity_quality(emb, who, seed=seed),
            'likeness, all pairs': similarity_quality(emb, who, mode='exact'),
            'likeness, with the mirror image': similarity_quality(mirrored, who, seed=seed),
            'length of the embedding': norm_quality(emb),
            'likeness, renewed each epoch': online.quality[train.to_numpy()].numpy()}


def cross_fitted(by):
    "By networks that were not trained on the pictures they label"
    def labels(name, table, seed, epochs):
        def fit(part): return trained(name, part, seed, epochs)
        found = cross_fitted_labels(table, fit, 2, by, seed)
        return {f'likeness, cross-fitted by {by}': found.loc[found['split'] == 'train', 'quality'].to_numpy()}
    return labels


def severity(name, table, seed, epochs):
    "By what copies of known severity taught, read through a network that nobody trained"
    learn,own = learner(name, table, seed),table[table['split'] == 'train']
    with learn.no_bar(): found = describe_copies(own, learn, seed=seed)
    fold,seen = cross_fit_folds(own['identity'], 2, seed=seed),own['degradation'].to_numpy()
    taught = np.tile(fold, len(found.kind)//len(fold))
    whole,without = 'severity, learned from copies','severity, from copies of other kinds than its own'
    read = {title: np.empty(len(own)) for title in (whole, without)}
    for asked,(title, out) in product([*DEGRADATIONS, 'none'], read.items()):
        for i in range(2):
            rows = (fold == i) & (seen == asked)
            by = (taught != i) & ((found.kind != asked) | (title == whole))
            out[rows] = -severity_of(found.pictures[rows], found.copies[by], found.severity[by])
    return read


KINDS = {'severity': severity, 'network': one_network, 'identity': cross_fitted('identity'),
         'picture': cross_fitted('picture')}


def as_table(
    rows, # Of results.csv
):
    "Markdown: a row a kind of labels and length of training; mean ± standard deviation (seeds) for each set"
    of = rows.groupby(['labels', 'epochs', 'set'], sort=False)['correlation'].agg(['mean', 'std', 'size']).reset_index()
    spread = [f' ± {s:.2f}' if n > 1 else '' for s,n in zip(of['std'], of['size'])]
    of['shown'] = [f'{m:.2f}{s} ({n})' for m,s,n in zip(of['mean'], spread, of['size'])]
    shown = of.pivot(index=['labels', 'epochs'], columns='set', values='shown').fillna('')
    shown = shown.reindex(rows[['labels', 'epochs']].drop_duplicates().itertuples(index=False, name=None))
    lines = ['| labels | epochs | ' + ' | '.join(shown.columns) + ' |', '|---'*(shown.shape[1] + 2) + '|']
    for (title, epochs),cells in zip(shown.index, shown.to_numpy()):
        lines.append(f'| {title} | {epochs or "none"} | ' + ' | '.join(cells) + ' |')
    return '\n'.join(lines)


@call_parse
@in_one_line
def main(
    seeds:str='3',       # How many, or their numbers with commas between
    sets:str='people,faces', # Which of the two
    kinds:str='severity', # Commas between: severity, minutes; network, identity, picture, which train: hours
    epochs:int=0,        # Of each training; 0: as many as the recipe of the set
    out:str='runs/labels', # Folder of sets and results
):
    "A row a set, seed and kind of labels in results.csv; means over the seeds"
    for o in sets.split(','): one_of('--sets', o, *SETS)
    for o in kinds.split(','): one_of('--kinds', o, *KINDS)
    torch.set_num_threads(1)
    file = Path(out)/'results.csv'
    rows = pd.read_csv(file).to_dict('records') if file.is_file() else []
    for seed in [int(o) for o in seeds.split(',')] if ',' in seeds else range(int(seeds)):
        for name in sets.split(','):
            table = SETS[name][0](Path(out)/name)
            true = table.loc[table['split'] == 'train', 'true_quality'].rank()
            for kind in kinds.split(','):
                long = 0 if kind == 'severity' else epochs or SETS[name][4]
                key = {'set': name, 'seed': seed, 'epochs': long, 'kind': kind}
                if any(key.items() <= r.items() for r in rows): continue
                for title,found in KINDS[kind](name, table, seed, epochs).items():
                    agreement = np.corrcoef(pd.Series(found).rank(), true)[0, 1]
                    rows.append({**key, 'labels': title, 'correlation': agreement})
                    print(f'{name}, seed {seed}: {title} {agreement:.3f}', flush=True)
                save_frame(pd.DataFrame(rows), file, index=False)
    print(f'\n{as_table(pd.DataFrame(rows))}')
