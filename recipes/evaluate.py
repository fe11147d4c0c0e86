"""Any model on any table: search, pairs, templates, and what rejecting by quality is worth; every figure with the protocol that it was made by.

    python recipes/evaluate.py --learner runs/reid-.../fine-tuned_with_QSD.pkl --data market1501/images.csv --rerank
    python recipes/evaluate.py --weights qsd.pth --arch agw_resnet50 --height 256 --width 128 --data market1501/images.csv
    python recipes/evaluate.py --exported deployed/model.onnx --data lfw/images.csv --flip
    python recipes/evaluate.py --embeddings mine.npz --data images.csv     # arrays `path` (n,) and `emb` (n, nf), of any other program
    python recipes/evaluate.py --learner FILE.pkl --data 'viper/split_*.csv'     # each of the splits, their mean and spread

What is judged follows from what is there: queries and gallery in the table; `pairs.csv`, `templates.csv` with `template_pairs.csv`, `gallery.csv` and
`probe.csv` beside it. The folder of the run gets `results.json` (figures, protocol, record of the table, content of the model file), `results.csv`,
`per_query.csv`, `per_pair.csv` and the pictures. A learner is a pickle: open your own only.
"""
import glob
import json
import warnings
from contextlib import suppress
from types import SimpleNamespace

from fastcore.script import call_parse

from qsd_fastai.all import *
from qsd_fastai.evaluation.roc import far_of
from qsd_fastai.files import file_hash
from qsd_fastai.runs.tables import hardest_table, pairs_table

stats = {'imagenet': imagenet_stats, 'half': face_stats}


# 1. the model: whatever it is, a function from a table to embeddings, not of unit length where it can be helped
def open_model(o):
    "`(embed, record)`: what embeds a table, and what it is"
    given = [k for k in ('learner', 'weights', 'exported', 'embeddings') if getattr(o, k)]
    if len(given) != 1: raise ValueError('Name one model: --learner FILE, --weights FILE --arch NAME, --exported FILE or --embeddings FILE.')
    file = Path(getattr(o, given[0]))
    if not file.is_file(): raise FileNotFoundError(f'There is no file {file} (--{given[0]}).')
    record = {'kind': given[0], 'file': file.name, 'sha256': file_hash(file)}
    if given[0] == 'embeddings':
        if o.flip: raise ValueError('--flip is for models: these embeddings are made already.')
        return partial(read_embeddings, file), record
    return partial({'learner': of_learner, 'weights': of_weights, 'exported': of_exported}[given[0]], file=file, o=o, record=record), record


def of_learner(table, file, o, record):
    try: learn = load_learner(file, cpu=not torch.cuda.is_available())
    except Exception as e: raise ValueError(f'{file} is not a learner of `learn.export` that can be loaded here ({type(e).__name__}: {e}).') from e
    return learn.embed(table, bs=o.bs, flip=o.flip)


def of_weights(table, file, o, record):
    if not o.arch: raise ValueError('--weights needs --arch, the body they belong to: resnet50, agw_resnet50, iresnet50, ...')
    if o.stats not in ('', *stats): raise ValueError(f'--stats {o.stats} is unknown: use {" or ".join(stats)}.')
    model = Recognizer(o.arch, 1, last_stride=o.last_stride)
    load_reference(model, file, head=False)
    wanted = getattr(model.body, 'preprocess', None)  # bodies for faces say what pictures they want
    size = (o.height, o.width) if o.height and o.width else getattr(wanted, 'size', None)
    if not size: raise ValueError(f'--weights needs --height and --width: {o.arch} does not say what it was made for.')
    mean,std = stats[o.stats] if o.stats else wanted.stats if wanted else imagenet_stats
    record |= {'arch': o.arch, 'size': list(size), 'last_stride': o.last_stride, 'mean': list(mean), 'std': list(std)}
    one = table.assign(split='train', identity='?')  # transforms are all that is wanted of the loaders
    dls = recognition_dataloaders(one, table.attrs['root'], size, n_ids=1, n_imgs=1, stats=(mean, std), num_workers=o.workers)
    return Learner(dls, model.to(dls.device), loss_func=RecognitionLoss()).embed(table, bs=o.bs, flip=o.flip)


def of_exported(table, file, o, record):
    embedder,files,parts = Embedder(file, 'cuda' if torch.cuda.is_available() and file.suffix == '.pt2' else 'cpu'), picture_files(table).tolist(), []
    record |= {'flip_inside': embedder.spec.flip, 'normalized': embedder.spec.normalized}
    for lo in progress_bar(range(0, len(files), 16*o.bs), leave=False): parts.append(embedder.embed(files[lo:lo + 16*o.bs], o.bs, flip=o.flip)[1])
    return torch.from_numpy(np.concatenate(parts))


# 2. what there is to judge; each part gives figures, the protocol they were made by, frames for .csv, and pictures
def judge_search(table, emb, rows, o, known):
    "Queries against the gallery: plain, with expanded queries, re-ranked, by quality, with the queries of lowest quality rejected"
    held = (table['split'] != 'train').to_numpy()[rows]
    store = EmbeddingStore.of_table(table, emb[held], rows[held], table[known[0]] if known else None)
    options = dict(normalize=not o.euclidean, exclude_same_camera=not o.no_cameras, max_rank=50)
    result,thirds = RetrievalJudge(store, **options).found(strict=True)
    emb,ids,_,scene = store.gathered()
    query,camera = scene[:,2] == 1, scene[:,1].numpy()
    who = ids[query], ids[~query], camera[query], camera[~query]
    results = {'plain': result}
    if o.expand: results['expanded'] = evaluate_retrieval(expand_queries(emb[query], emb[~query], o.expand, o.alpha), emb[~query], *who, **options)
    if o.rerank:
        distances = k_reciprocal(emb[query], emb[~query], o.k1, o.k2, o.share, options['normalize'])
        results['re-ranked'] = evaluate_distances(distances, *who, exclude_same_camera=not o.no_cameras)
    figures,cmc = {}, {}
    per_query = table.iloc[scene[query, 0]][['path', 'identity', 'camera', *known]].reset_index(drop=True)
    for name,found in results.items():
        end = '' if name == 'plain' else f' {name}'
        rates = {f'rank{k}': found.cmc[min(k, len(found.cmc)) - 1] for k in (1, 5, 10)}
        figures |= {f'{k}{end}': float(v) for k,v in {**rates, 'mAP': found.mAP, 'mINP': found.mINP}.items()}
        cmc[name] = found.cmc
        per_query = per_query.join(found.per_query.drop(columns='query').add_suffix(end))
    if (table.attrs.get('record') or {}).get('single_gallery_shot'):
        cameras = (None, None) if o.no_cameras else who[2:]
        cmc['single gallery shot'] = single_shot_cmc(emb[query], emb[~query], *who[:2], *cameras, n_draws=o.draws or None, normalize=not o.euclidean)
        single = cmc['single gallery shot']
        figures |= {f'rank{k} single gallery shot': float(single[min(k, len(single)) - 1]) for k in (1, 5, 10)}
    plots,tables = {'cmc': cmc_figure(cmc if len(cmc) > 1 else result.cmc)}, {}
    if o.hardest:
        hard = hardest_queries(store, o.hardest)
        plots['hardest_queries'],tables['hardest_queries_table'] = hardest_figure(hard, picture_files(table).to_numpy()), partial(hardest_table, hard)
    if known:
        figures |= {f'{c} {third}': float(thirds.loc[third, c]) for third in ('worst', 'best') for c in ('rank1', 'mAP')}
        bins = {c: by_quality(result.per_query, per_query[c]) for c in known}
        plots |= {f'map_by_{c}': map_by_quality_figure(of, title=f'mAP by {c.replace("_", " ")}') for c,of in bins.items()}
        rejection = retrieval_vs_reject(result.per_query, {c.replace('_', ' '): per_query[c] for c in known}, o.reject_figure)
        plots['search_vs_reject'] = error_vs_reject_figure(rejection)
        figures |= {f'{rejection.what} rejecting: {k}': float(v) for k,v in rejection.areas['partial'].items()}
    protocol = {'distance': 'squared Euclidean' if o.euclidean else 'cosine', 'same_camera_excluded': not o.no_cameras, 'queries': result.n_queries,
                'gallery': int((~query).sum()), 'unanswerable_left_out': result.n_unanswerable, 'thirds_by': known[0] if known else None,
                'expand': [o.expand, o.alpha] if o.expand else None, 'rerank': [o.k1, o.k2, o.share] if o.rerank else None,
                'single_gallery_shot': (o.draws or 'exact') if 'single gallery shot' in cmc else None,
                'rejection': f'{rejection.what}, unit query, mean over the first {rejection.area:.0%}; {rejection.rule}' if known else None}
    return SimpleNamespace(figures=figures, protocol=protocol, frames={'per_query': per_query}, plots=plots, tables=tables)


def judge_pairs(table, emb, rows, pairs, o, known):
    "Pairs: accuracy over folds, TAR at FAR, by quality, with the pictures of lowest quality rejected"
    store = EmbeddingStore.of_table(table, emb, rows, table[known[0]] if known else None)
    folds = contiguous_folds(len(pairs), o.folds) if o.folds else pair_folds(pairs)
    result,thirds = VerificationJudge(store, pairs, folds=folds, thresholds=o.thresholds).found(strict=True)
    rates = [float(v) for v in o.far.split(',')]
    tar,per_pair = result.tar_at_far(rates), result.per_pair
    figures = {'accuracy': result.accuracy, 'accuracy std': result.accuracy_std, 'auc': result.auc, 'eer': result.eer,
               **{f'tar@{k:g}': float(v) for k,v in tar['tar'].items()}}
    points,rejection,tables = roc_points(per_pair['score'], per_pair['same']), None, {}
    plots = {'roc': roc_figure(points), 'det': det_figure(points)}
    if o.hardest:
        hard = hardest_pairs(per_pair, o.hardest)
        plots['hardest_pairs'],tables['hardest_pairs_table'] = hardest_pairs_figure(hard, picture_files(table).to_numpy()), partial(pairs_table, hard)
    if known:
        figures |= {f'accuracy {third}': float(thirds.loc[third, 'accuracy']) for third in ('worst', 'best')}
        for c in known:
            of = verification_by_quality(per_pair, *(table[c].to_numpy()[per_pair[k]] for k in ('row1', 'row2')))
            plots[f'accuracy_by_{c}'] = map_by_quality_figure(of, 'accuracy', f'accuracy by {c.replace("_", " ")} of the worse picture')
        far = o.reject_far or far_of(per_pair['same'])
        rejection = error_vs_reject(per_pair['score'], per_pair['same'], per_pair['row1'], per_pair['row2'],
                                    {c.replace('_', ' '): table[c] for c in known}, o.unit, far, o.reject_threshold)
        plots['error_vs_reject'] = error_vs_reject_figure(rejection)
        figures |= {f'FNMR rejecting: {k}': float(v) for k,v in rejection.areas['partial'].items()}
    protocol = {'pairs': len(pairs), 'same': int(per_pair['same'].sum()), 'folds': len(result.thresholds), 'folds_asked_for': bool(o.folds),
                'thresholds': o.thresholds, 'distance': 'squared Euclidean of unit embeddings', 'fold_thresholds': result.thresholds.tolist(),
                'far': {f'{k:g}': {'threshold': v.threshold, 'false_accepts': v.false_accepts} for k,v in zip(tar.index, tar.itertuples())},
                'interpolated': False,
                'rejection': f'{rejection.what}, unit {o.unit}, mean over the first {rejection.area:.0%}; {rejection.rule}' if rejection else None}
    paths = table['path'].to_numpy()
    frame = per_pair.assign(path1=paths[per_pair['row1']], path2=paths[per_pair['row2']]).drop(columns=['row1', 'row2'])
    return SimpleNamespace(figures=figures, protocol=protocol, frames={'per_pair': frame}, plots=plots, tables=tables)


def judge_templates(table, emb, rows, folder, o):
    "Templates one to one and, where there are lists, one to many (IJB-B, IJB-C)"
    templates = read_templates(folder/'templates.csv', table)
    place = pd.Index(table['path'].to_numpy()[rows]).get_indexer(templates['path'])
    if o.weigh and o.weigh not in table: raise ValueError(f'--weigh {o.weigh} is no column of the table: it has {", ".join(table.columns)}.')
    weights = table[o.weigh].to_numpy()[rows][place] if o.weigh else None
    pooled = pool_templates(emb[place], templates['template'], templates['media'], o.pool, o.media_norm, weights)
    pairs = read_template_pairs(folder/'template_pairs.csv', templates)
    scores = template_scores(pooled, pairs['template1'], pairs['template2'])
    tar = tar_at_far(scores, pairs['same'], [float(v) for v in o.far.split(',')])
    figures = {f'template tar@{k:g}': float(v) for k,v in tar['tar'].items()}
    points = roc_points(scores, pairs['same'])
    plots = {'template_roc': roc_figure(points, title='Templates: ROC'), 'template_det': det_figure(points, title='Templates: DET')}
    if (folder/'gallery.csv').is_file() and (folder/'probe.csv').is_file():
        gallery,probe = (pd.read_csv(folder/f'{k}.csv', dtype={'identity': str}, keep_default_na=False) for k in ('gallery', 'probe'))
        galleries = {k: (pooled.emb[pooled.rows(of['template'])], of['identity']) for k,of in gallery.groupby('list')}
        found = evaluate_identification(pooled.emb[pooled.rows(probe['template'])], probe['identity'], galleries).figures
        figures |= {f'template {k}': float(v) for k,v in found.loc['mean'].items() if not k.startswith('n_')}
    protocol = {'templates': len(pooled.template), 'pairs': len(pairs), 'pool': o.pool, 'media_norm': o.media_norm, 'weigh': o.weigh or None,
                'far': {f'{k:g}': {'threshold': v.threshold, 'false_accepts': v.false_accepts} for k,v in zip(tar.index, tar.itertuples())},
                'interpolated': False}
    return SimpleNamespace(figures=figures, protocol=protocol, frames={}, plots=plots, tables={})


def judge(file, table, emb, rows, o, model):
    "All that there is for one table: `(results, pictures, frames, W&B tables)`"
    folder,split = Path(file).parent, table['split'].to_numpy()[rows]
    with suppress(ValueError): table['feature_norm'] = pd.Series(norm_quality(emb), index=table.index[rows])  # unless all are of one length
    known = [c for c in o.qualities.split(',') if c in table and table[c].iloc[rows].notna().any()]
    parts,pairs = {}, pairs_of(file, table, o)
    if {'query', 'gallery'} <= set(split): parts['search'] = judge_search(table, emb, rows, o, known)
    if pairs is not None: parts['pairs'] = judge_pairs(table, emb, rows, pairs, o, known)
    if has_templates(folder): parts['templates'] = judge_templates(table, emb, rows, folder, o)
    if not parts: raise ValueError(f"{file} has neither queries and a gallery nor pairs.csv or templates.csv beside it: there is nothing to judge.")
    merged = lambda what: {k: v for part in parts.values() for k,v in getattr(part, what).items()}
    inside = model.get('flip_inside', False)
    protocol = {'flip': bool(o.flip or inside), 'flip_inside': inside, 'precision': o.precision, **{k: part.protocol for k,part in parts.items()}}
    data = {'file': str(file), 'sha256': file_hash(file), 'pictures_embedded': len(rows), 'record': table.attrs.get('record')}
    return {'figures': merged('figures'), 'protocol': protocol, 'data': data, 'model': model}, *map(merged, ('plots', 'frames', 'tables'))


def has_templates(folder): return (folder/'templates.csv').is_file() and (folder/'template_pairs.csv').is_file()


def pairs_of(file, table, o):
    at = Path(o.pairs) if o.pairs else Path(file).with_name('pairs.csv')
    return read_pairs(at, table) if o.pairs or at.is_file() else None


def wanted(file, table, o):
    "Which pictures have to be embedded: those of queries and gallery, of pairs and of templates"
    mask,pairs = (table['split'] != 'train').to_numpy(), pairs_of(file, table, o)
    if pairs is not None: mask = mask | table['path'].isin([*pairs['path1'], *pairs['path2']]).to_numpy()
    if has_templates(Path(file).parent): mask = mask | table['path'].isin(read_templates(Path(file).with_name('templates.csv'))['path']).to_numpy()
    return mask


# 3. all of it
def evaluate(o):
    "Every table that was asked for, embedded once, judged and written down; errors as they are"
    warnings.filterwarnings('ignore', message='.*(insecure pickle|queries have no gallery|have one picture|identities are in train)')
    if not o.data: raise ValueError('Name the table to judge on: --data images.csv, as a script of data_prep leaves it.')
    files = sorted(glob.glob(o.data)) if glob.has_magic(o.data) else [o.data]
    if not files: raise FileNotFoundError(f'No table matches {o.data}.')
    if o.precision not in ('float32', 'float16'): raise ValueError(f'--precision {o.precision} is unknown: float32 or float16.')
    embed,model = open_model(o)
    tables = [read_table(f, check=not o.embeddings) for f in files]
    try: check_table(tables[0])
    except FileNotFoundError as e:  # only where embeddings are given, else it was looked at above
        print(f'Note: {e}\nEmbeddings are judged without; the hardest queries and pairs are not shown.')
        o.hardest = 0
    if len({t.attrs['root'] for t in tables}) > 1: raise ValueError(f'{o.data}: the tables are not in one folder. Judge them one by one.')
    masks = [wanted(f, t, o) for f,t in zip(files, tables)]
    pictures = pd.concat([t[m] for t,m in zip(tables, masks)]).drop_duplicates('path', ignore_index=True)
    if not len(pictures): raise ValueError(f"{o.data} has only training pictures and no pairs.csv beside it: there is nothing to judge.")
    pictures.attrs = tables[0].attrs
    out,_ = run_folder('evaluate', o.out, vars(o))
    with run_or_nothing(out):
        emb = embed(pictures).to(getattr(torch, o.precision))
        if o.save_embeddings: write_embeddings(o.save_embeddings, pictures, emb, model)
        index,results = pd.Index(pictures['path']), {}
        for file,table,mask in zip(files, tables, masks):
            to = out if len(files) == 1 else out/Path(file).stem
            to.mkdir(exist_ok=True)
            rows = mask.nonzero()[0]
            found,plots,frames,made = judge(file, table, emb[index.get_indexer(table['path'].iloc[rows])], rows, o, model)
            (to/'results.json').write_text(json.dumps(found, indent=1, default=str), encoding='utf-8')
            for k,frame in frames.items(): frame.to_csv(to/f'{k}.csv', index=False)
            for k,figure in plots.items(): figure.savefig(to/f'{k}.png', dpi=150)
            results[Path(file).stem] = found['figures']
            if o.wandb:
                track_judgement(found, plots, made, table, name=f'{out.name} {Path(file).stem}', group=o.group or out.name, dir=out)
        results = pd.DataFrame(results).T.rename_axis('table')
        results.assign(model=model['file'], sha256=model['sha256'][:12]).to_csv(out/'results.csv')
        if len(files) > 1:
            spread = pd.DataFrame({'mean': results.mean(), 'std': results.std()})
            spread.to_csv(out/'mean.csv')
            found |= {'figures': spread.to_dict('index'), 'data': files}
            (out/'results.json').write_text(json.dumps(found, indent=1, default=str), encoding='utf-8')
    print(f'\n{model["file"]} on {o.data}, in %\n\n{(100*(results.T if len(files) == 1 else spread)).round(2).to_string()}')
    print(f'\nEverything is in {out}; how it was judged in results.json')


@call_parse
def main(
    data:str='',             # The table, images.csv of a data_prep script; a pattern in quotes, 'split_*.csv', judges each
    learner:str='',          # A learner saved by learn.export, as recipes leave it
    weights:str='',          # A checkpoint: of this project, AGW, QSD, FastReID, Torchreid, arcface_torch, AdaFace
    exported:str='',         # A model of recipes/export.py, .onnx or .pt2
    embeddings:str='',       # Embeddings made elsewhere, .npz
    arch:str='',             # With --weights: a timm model, or one of our own
    height:int=0,            # With --weights: of the network's input, pixels; bodies for faces know theirs
    width:int=0,             # With --weights: of the network's input, pixels
    last_stride:int=None,    # With --weights: 1 keeps the last stage of a ResNet at twice the resolution
    stats:str='',            # With --weights: what normalises pixels: imagenet; half, to -1 to 1; what the body or else ImageNet says when not given
    out:str=None,            # Folder of the run; a new one under runs when not given
    save_embeddings:str='',  # Where to keep the embeddings, .npz
    flip:bool=False,         # Add the embedding of the mirror image? Usual for faces
    precision:str='float32', # What embeddings are kept in: float32, float16
    no_cameras:bool=False,   # Judge a search without taking out what the query's own camera saw of the same person
    euclidean:bool=False,    # Search by Euclidean distance of the embeddings as they are, instead of cosine
    rerank:bool=False,       # Search re-ranked by k-reciprocal neighbours, too
    k1:int=20,               # Of re-ranking: neighbours that may be reciprocal
    k2:int=6,                # Of re-ranking: neighbours that are averaged
    share:float=.3,          # Of re-ranking: share of the original distance, lambda in publications
    expand:int=0,            # Search with queries averaged with so many nearest gallery pictures, too
    alpha:float=0.,          # Of the expansion: weights cosine**alpha
    draws:int=0,             # Where the record asks for a single gallery shot: drawings; 0 is their exact expectation
    pairs:str='',            # Pairs to verify; pairs.csv beside the table when there is one
    folds:int=0,             # Contiguous folds of the pairs instead of their own
    thresholds:str='grid',   # Of verification: grid (published), exact
    far:str='1e-1,1e-2,1e-3,1e-4', # False acceptance rates
    pool:str='mean',         # Pictures of a template: mean of directions, or norm: with their lengths
    media_norm:bool=False,   # Take each medium of a template to unit length?
    weigh:str='',            # Column of the table that weighs the pictures of a template: detector_score, quality
    qualities:str='true_quality,quality,feature_norm', # Columns to reject by, those that are there; the first cuts worst, middle, best
    reject_figure:str='mAP', # Of queries kept: mAP, rank1, mINP
    unit:str='picture',      # What is rejected of pairs: picture (with all its pairs), pair
    reject_far:float=0.,     # False match rate of the rejection curve; .001, or what so many pairs can show, when not given
    reject_threshold:str='fixed', # Fixed at the start, or refixed on what is kept
    hardest:int=8,           # Queries, and pairs of each kind, to look at; 0 shows none
    bs:int=64,               # Pictures a batch
    workers:int=0,           # With --weights: loading processes
    wandb:bool=False,        # Log figures and pictures to W&B?
    group:str='',            # Of the run in W&B
):
    "Judge a model, and write down how"
    try: evaluate(SimpleNamespace(**locals()))
    except (ValueError, OSError, ImportError) as e: raise SystemExit(' '.join(str(e).split())) from e
