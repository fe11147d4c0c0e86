"Judging templates, several pictures of one person as one (IJB-B, IJB-C): one to one, and one to many"
from pathlib import Path

import pandas as pd

from ..choices import one_of
from ..columns import complete_table
from ..data.templates import read_searches, read_template_pairs, read_templates
from ..evaluation.roc import roc_points, tar_at_far
from ..evaluation.templates import evaluate_identification, pool_templates, template_scores
from ..runs.curves import curve_figures, curve_frames
from .judgement import Judgement
from .pairs import rates_reached

__all__ = ['has_templates', 'judge_templates']


def has_templates(
    folder, # Of a table
)->bool:
    "Are there templates and pairs of them beside a table?"
    return all((Path(folder)/f'{name}.csv').is_file() for name in ('templates', 'template_pairs'))


def judge_templates(
    table,                        # Of pictures
    emb,                          # `(n, nf)` embeddings of its `rows`
    rows,                         # `(n,)` numbers of rows
    folder,                       # Where the lists are
    far=(1e-1, 1e-2, 1e-3, 1e-4), # False acceptance rates
    far_rule:str='below',         # Of `tar_at_far`
    ranks:tuple=(1, 5, 10),       # Of the search
    pool:str='mean',              # `'mean'` of directions, or `'norm'`: with their lengths
    media_norm:bool=False,        # Take each medium of a template to unit length?
    weigh:str='',                 # Column of the table that weighs the pictures of a template
)->Judgement:
    "TAR at FAR over pairs of templates; rank and identification rates where `gallery.csv` and `probe.csv` are there"
    folder = Path(folder)
    table = complete_table(table)
    templates = read_templates(folder/'templates.csv', table)
    place = pd.Index(table['path'].to_numpy()[rows]).get_indexer(templates['path'])
    if weigh: one_of('weigh', weigh, *table)
    weights = table[weigh].to_numpy()[rows][place] if weigh else None
    pooled = pool_templates(emb[place], templates['template'], templates['media'], pool, media_norm, weights)
    pairs = read_template_pairs(folder/'template_pairs.csv', templates)
    scores = template_scores(pooled, pairs['template1'], pairs['template2'])
    tar,points = tar_at_far(scores, pairs['same'], far, far_rule),roc_points(scores, pairs['same'])
    figures = {f'template tar@{k:g}': float(v) for k,v in tar['tar'].items()}
    curves = {'template_roc': {'templates': points}}
    of = dict.fromkeys(curves, f'{len(pairs):,} pairs of templates')
    plots = curve_figures(curves, of)
    lists = [folder/f'{name}.csv' for name in ('gallery', 'probe')]
    if all(file.is_file() for file in lists):
        gallery,probe = map(read_searches, lists)
        galleries = {k: (pooled.emb[pooled.rows(of['template'])], of['identity']) for k,of in gallery.groupby('list')}
        asked = pooled.emb[pooled.rows(probe['template'])]
        found = evaluate_identification(asked, probe['identity'], galleries, ranks).figures.loc['mean']
        figures |= {f'template {k}': float(v) for k,v in found.items() if not k.startswith('n_')}
    protocol = {'templates': len(pooled.template), 'pairs': len(pairs), 'pool': pool, 'media_norm': media_norm,
                'weigh': weigh or None, 'far': rates_reached(tar), 'far_rule': far_rule}
    return Judgement(figures, protocol, curve_frames(curves), plots, curves=curves, of=of)
