"""Any model on any table: search, pairs, templates, what rejecting by quality is worth; every figure with the
protocol it was made by.

    python recipes/evaluate.py --learner runs/reid-.../fine-tuned_with_QSD.pkl --data market/images.csv --rerank
    python recipes/evaluate.py --weights qsd.pth --arch agw_resnet50 --height 256 --width 128 --data market/images.csv
    python recipes/evaluate.py --exported deployed/model.onnx --data lfw/images.csv --flip
    python recipes/evaluate.py --embeddings mine.npz --data images.csv           # arrays `path` (n,) and `emb` (n, nf)
    python recipes/evaluate.py --learner FILE.pkl --data 'viper/split_*.csv' # each of the splits, mean and spread

What is judged follows from what is there: queries and gallery in the table; `pairs.csv`, `templates.csv` with
`template_pairs.csv`, `gallery.csv` and `probe.csv` beside it. The folder of the run gets `results.json` (figures,
protocol, record of the table, content of the model file), `results.csv`, `per_query.csv`, `per_pair.csv` and the
pictures. A learner is a pickle: open your own only.
"""
import json

from fastcore.script import call_parse

from qsd_fastai.all import *


@call_parse
@in_one_line
def main(
    data:str='',             # The table, images.csv of a data_prep script; a pattern in quotes judges each
    learner:str='',          # A learner saved by learn.export, as recipes leave it
    weights:str='',          # A checkpoint: of this project, AGW, QSD, FastReID, Torchreid, arcface_torch, AdaFace
    exported:str='',         # A model of recipes/export.py, .onnx or .pt2
    embeddings:str='',       # Embeddings made elsewhere, .npz
    arch:str='',             # With --weights: a timm model, or one of our own
    height:int=0,            # With --weights: of the network's input, pixels; bodies for faces know theirs
    width:int=0,             # With --weights: of the network's input, pixels
    last_stride:int=None,    # With --weights: of a ResNet, 1 or 2; that of their project when not given
    channels:str='',         # With --weights: what they were trained on, rgb or bgr; as their card says when not given
    stats:str='',            # With --weights: what normalises pixels: imagenet; half, to -1 to 1; what the body says
    out:str=None,            # Folder of the run; a new one under runs when not given
    save_embeddings:str='',  # Where to keep the embeddings, .npz
    flip:bool=False,         # Add the embedding of the mirror image? Usual for faces
    precision:str='float32', # What embeddings are kept in: float32, float16
    no_cameras:bool=False,   # Judge a search without taking out what the query's own camera saw of the same person
    euclidean:bool=False,    # Search by Euclidean distance of the embeddings as they are, instead of cosine
    ranks:str='1,5,10',      # Of a search: published of TinyFace are 1,5,20
    rerank:bool=False,       # Search re-ranked by k-reciprocal neighbours, too
    k1:int=20,               # Of re-ranking: neighbours that may be reciprocal
    k2:int=6,                # Of re-ranking: neighbours that are averaged
    share:float=.3,          # Of re-ranking: share of the original distance, lambda in publications
    expand:int=0,            # Search with queries averaged with so many nearest gallery pictures, too
    alpha:float=0.,          # Of the expansion: weights cosine**alpha
    draws:int=0,             # Where the record asks for a single gallery shot: drawings; 0 is their exact expectation
    sets:str='',             # Pairs of its pictures to judge, a pairs.csv; that beside the table when not given
    folds:int=0,             # Contiguous folds of the pairs instead of their own
    thresholds:str='grid',   # Of verification: grid (published), exact
    far:str='1e-1,1e-2,1e-3,1e-4', # False acceptance rates
    far_rule:str='below',    # TAR at the lowest threshold within the rate: below; interpolated; nearest: as IJB's
    pool:str='mean',         # Pictures of a template: mean of directions, or norm: with their lengths
    media_norm:bool=False,   # Take each medium of a template to unit length?
    weigh:str='',            # Column of the table that weighs the pictures of a template: detector_score, quality
    qualities:str='true_quality,quality,feature_norm', # Columns to reject by; the first cuts worst, middle, best
    reject_figure:str='mAP', # Of queries kept: mAP, rank1, mINP
    unit:str='picture',      # What is rejected of pairs: picture (with all its pairs), pair
    reject_far:float=0.,     # False match rate of the rejection curve; .001, or what so many pairs can show
    reject_threshold:str='fixed', # Fixed at the start, or refixed on what is kept
    hardest:int=8,           # Queries, and pairs of each kind, to look at; 0 shows none
    bs:int=64,               # Pictures a batch
    workers:int=0,           # With --weights: loading processes
    wandb:bool=False,        # Log figures and pictures to W&B?
    group:str='',            # Of the run in W&B
):
    "Judge a model, and write down how"
    args = locals().copy()
    rates,ranks = rates_of(far),ranks_of(ranks)
    one_of('--precision', precision, 'float32', 'float16')
    judged = tables_to_judge(data, sets, pictures=not embeddings)
    check_choices(judged[0].table, far_rule, thresholds, unit, reject_threshold, reject_figure, pool, weigh, qualities)
    pictures = pictures_of(judged)
    hardest = hardest_shown(pictures, hardest)
    embed,model = open_model(learner, weights, exported, embeddings, bs, flip, arch=arch, size=(height, width),
                             last_stride=last_stride, stats=stats, channels=channels, workers=workers)

    def judge(one, emb):
        "All that there is for one table"
        table,rows,parts = one.table,one.rows,{}
        known = one.qualities(qualities, emb)
        figures = [*(f'rank{k}' for k in ranks), 'mAP', 'mINP']
        if one.searched:
            parts['search'] = judge_search(table, emb, rows, known, figures, euclidean=euclidean,
                                           cameras=not no_cameras, expand=expand, alpha=alpha,
                                           rerank=(k1, k2, share) if rerank else None, draws=draws,
                                           reject_figure=reject_figure, hardest=hardest)
        if one.pairs is not None:
            parts['pairs'] = judge_pairs(table, emb, rows, one.pairs, known, rates, far_rule, folds, thresholds, unit,
                                         reject_far, reject_threshold, hardest)
        if one.templates:
            parts['templates'] = judge_templates(table, emb, rows, one.templates, rates, far_rule, ranks, pool,
                                                 media_norm, weigh)
        return merged(parts)

    out,_ = run_folder('evaluate', out, args, None)
    with run_or_nothing(out):
        emb = embed(pictures).to(getattr(torch, precision))
        if save_embeddings: from_first(lambda: write_embeddings(save_embeddings, pictures, emb, model))
        index,results = pd.Index(pictures['path']), {}
        for one in judged:
            with together(): of = judge(one, emb[index.get_indexer(one.table['path'].iloc[one.rows])])
            to = out if len(judged) == 1 else out/one.file.stem
            inside = model.get('flip_inside', False)
            found = one.write(to, of, model, flip=bool(flip or inside), flip_inside=inside, precision=precision)
            results[one.file.stem] = of.figures
            name = f'{out.name} {one.file.stem}'
            if wandb: track_judgement(found, of, one.table, to, out, group, name=name)
        first_goes_on() # Of several processes, which have embedded and searched together
        results = pd.DataFrame(results).T.rename_axis('table')
        save_frame(results.assign(model=model['file'], sha256=model['sha256'][:12]), out/'results.csv')
        shown = results.T
        if len(judged) > 1:
            shown = pd.DataFrame({'mean': results.mean(), 'std': results.std()})
            save_frame(shown, out/'mean.csv')
            found |= {'figures': shown.to_dict('index'), 'data': [str(one.file) for one in judged]}
            save_text(json.dumps(found, indent=1, default=str), out/'results.json')
    print(f'\n{model["file"]} on {data}, in %\n\n{for_terminal((100*shown).round(2))}')
    print(f'\nEverything is in {out}; how it was judged in results.json')
