"Judging a search: queries against the gallery, re-ranked and expanded too, by quality, with the worst rejected"
from functools import partial

import numpy as np
import torch

from ..columns import complete_table
from ..data.down_sampled import lowered, rate_of
from ..data.loaders import picture_files
from ..data.pictures import open_picture
from ..distributed import together
from ..evaluation.maps import flat_map
from ..evaluation.metrics import RetrievalJudge, hardest_queries
from ..evaluation.open_set import open_set_rates
from ..evaluation.rejection import retrieval_vs_reject
from ..evaluation.reranking import expand_queries, k_reciprocal
from ..evaluation.retrieval import by_quality, evaluate_distances, evaluate_retrieval
from ..evaluation.single_shot import single_shot_cmc
from ..evaluation.store import EmbeddingStore
from ..evaluation.templates import pool_templates
from ..plots.maps import embedding_map_figure
from ..plots.pictures import hardest_figure
from ..plots.quality import map_by_quality_figure
from ..runs.curves import curve_figures, curve_frames
from ..runs.wandb_tables import hardest_table
from .judgement import Judgement

__all__ = ['judge_held_out', 'judge_search']


def judge_search(
    table,                    # Of pictures
    emb,                      # `(n, nf)` embeddings of its `rows`
    rows=None,                # `(n,)` numbers of rows; all when not given. Training pictures are passed over
    known=(),                 # Columns of quality to reject by; the first one cuts worst, middle, best
    figures=('rank1', 'rank5', 'rank10', 'mAP', 'mINP'), # Which to report, ranks of any number
    euclidean:bool=False,     # By squared Euclidean distance of the embeddings as they are, instead of cosine?
    cameras:bool=True,        # Take out what the query's own camera saw of the same person?
    expand:int=0,             # Search with queries averaged with so many nearest gallery pictures, too
    alpha:float=0.,           # Of the expansion: weights cosine**alpha
    rerank=None,              # `(k1, k2, share)` of k-reciprocal re-ranking, too
    draws:int=0,              # Where the record asks for a single gallery shot: drawings; 0 is their exact expectation
    reject_figure:str='mAP',  # Of queries kept: mAP, rank1, mINP; none when empty
    hardest:int=8,            # Queries to look at; 0 shows none
    mapped:int=1000,          # Pictures in the map of embeddings, drawn at random from more; 0 makes none
)->Judgement:
    """CMC, mAP and mINP, for each way to search that is asked for; thirds by the first known quality

    Where the table's record asks for an open set, TPIR at its FPIRs and rank, too."""
    table,rows = complete_table(table), range(len(table)) if rows is None else rows
    record = table.attrs.get('record') or {}
    held = (table['split'] != 'train').to_numpy()[rows]
    quality = table[known[0]] if known else None
    store = EmbeddingStore.of_table(table, emb[held], np.asarray(rows)[held], quality)
    most = max([50, *(int(k[4:]) for k in figures if k.startswith('rank'))])
    options = dict(normalize=not euclidean, exclude_same_camera=cameras, max_rank=most)
    result,thirds = RetrievalJudge(store, **options).found(strict=True)
    emb,ids,_,scene = store.gathered()
    query,camera = scene[:,2] == 1,scene[:,1].numpy()
    who = ids[query], ids[~query], camera[query], camera[~query]

    results = {'': result}
    if expand:
        asked = expand_queries(emb[query], emb[~query], expand, alpha)
        results[' expanded'] = evaluate_retrieval(asked, emb[~query], *who, **options)
    if rerank:
        distances = k_reciprocal(emb[query], emb[~query], *rerank, options['normalize'])
        results[' re-ranked'] = evaluate_distances(distances, *who, most, exclude_same_camera=cameras)
    per_query = table.iloc[scene[query, 0]][['path', 'identity', 'camera', *known]].reset_index(drop=True)
    reported,cmc = {},{}
    for end,found in results.items():
        reported |= {f'{k}{end}': _figure(found, k) for k in figures}
        cmc[end.strip() or 'plain'] = found.cmc
        per_query = per_query.join(found.per_query.drop(columns='query').add_suffix(end))
    unmated = ~np.isin(who[0], who[1])
    if (asked := record.get('open_set')) and unmated.any() and not unmated.all():
        open_set = _open_set(asked, emb[query], emb[~query], *who[:2], not euclidean)
        reported |= {f'tpir{asked["rank"]}@{o.asked:g}': float(o.tpir) for o in open_set.rates.itertuples()}
    if record.get('single_gallery_shot'):
        seen = who[2:] if cameras else (None, None)
        asked = emb[query],emb[~query],*who[:2],*seen
        single = single_shot_cmc(*asked, n_draws=draws or None, max_rank=most, normalize=not euclidean)
        cmc['single gallery shot'] = single
        reported |= {f'{k} single gallery shot': _rank(single, k) for k in figures if k.startswith('rank')}

    curves,groups,tables,rejection = {'cmc': cmc},{},{},None
    frames,plots = {'per_query': per_query},{}
    n_asked = result.n_queries - result.n_unanswerable
    of = f'{n_asked:,} queries, {int((~query).sum()):,} pictures'
    if hardest:
        hard = hardest_queries(store, hardest)
        plots['hardest_queries'] = hardest_figure(hard, picture_files(table).to_numpy(), n_asked)
        tables['hardest_queries'] = partial(hardest_table, hard)
        frames['hardest_queries'] = hard.assign(**{c: table['path'].to_numpy()[hard[c]] for c in ('row', 'answer')},
                                                gallery=[' '.join(table['path'].iloc[o]) for o in hard['gallery']],
                                                correct=[' '.join('01'[int(k)] for k in o) for o in hard['correct']])
    if known:
        for third in ('worst', 'middle', 'best'):
            reported |= {f'{c} {third}': float(thirds.loc[third, c]) for c in ('rank1', 'mAP')}
        for c in known:
            groups[f'search_by_{c}'] = by_quality(result.per_query, per_query[c])
            for k in ('mAP', 'rank1'):
                figure = map_by_quality_figure(groups[f'search_by_{c}'], k, f'{k} by {_said(c)}')
                plots[f'{k.lower()}_by_{c}'] = figure
        frames |= {k: o.reset_index() for k,o in groups.items()}
    if known and reject_figure:
        rejection = retrieval_vs_reject(result.per_query, {_said(c): per_query[c] for c in known}, reject_figure)
        curves['search_vs_reject'] = rejection
        reported |= {f'{rejection.what} rejecting: {k}': float(v) for k,v in rejection.areas['partial'].items()}
    if mapped: plots['embedding_map'],frames['embedding_map'] = _map(table, store, known, mapped)
    of = dict.fromkeys(curves, of)
    plots = {**curve_figures(curves, of), **plots}
    frames |= curve_frames(curves)
    protocol = {'distance': 'squared Euclidean' if euclidean else 'cosine', 'same_camera_excluded': cameras,
                'queries': result.n_queries, 'gallery': int((~query).sum()),
                'unanswerable_left_out': result.n_unanswerable, 'thirds_by': known[0] if known else None,
                'expand': [expand, alpha] if expand else None,
                'rerank': list(rerank) if rerank else None,
                'single_gallery_shot': (draws or 'exact') if 'single gallery shot' in cmc else None,
                'open_set': record.get('open_set'),
                'rejection': rejection and f'{rejection.what}, unit query, {rejection.how}'}
    return Judgement(reported, protocol, frames, plots, tables, curves, groups, of)


def judge_held_out(
    learn,             # `Learner`
    table,             # Of all pictures
    figures:tuple,     # Which to report, as in `judge_search`
    by:str='',         # Column of quality that cuts worst, middle, best, where any of the queries has it
    cameras:bool=True, # Take out what the query's own camera saw of the same person?
    flip:bool=False,   # Judge the sum of the embeddings of picture and mirror image?
    degraded:bool=False, # Search with every query down-sampled by 2, 3 or 4 as well?
)->Judgement: # Empty where the table has no queries
    "The held-out identities of a table, as a training recipe judges them"
    table = complete_table(table)
    held = table[table['split'] != 'train']
    asked = held['split'] == 'query'
    if not asked.any(): return Judgement({}, {})
    known = [by] if by and held.loc[asked, by].notna().any() else []
    mapped = 1000 if getattr(learn, 'sees', True) else 0
    emb = learn.embed(held, flip=flip)
    with together(): found = judge_search(held, emb, None, known, figures, cameras=cameras, mapped=mapped)
    found.figures = {k: v for k,v in found.figures.items() if ' rejecting: ' not in k} # Its curve says enough
    return _with_degraded(found, learn, held, emb, figures, cameras, flip) if degraded else found


def _with_degraded(found, learn, held, emb, figures, cameras, flip):
    "The same queries down-sampled, as the field's sets of several resolutions (MLR) are, in the gallery as it is"
    asked = (held['split'] == 'query').to_numpy()
    queries,gallery,parts = held[asked], held[~asked], []
    files = list(zip(picture_files(queries), queries['path']))
    for i in range(0, len(files), 512): # Opened a few at a time
        low = [lowered(open_picture(file), rate_of(path)) for file,path in files[i:i + 512]]
        parts.append(learn.embed(low, flip=flip))
    who = [o[c].to_numpy() for c in ('identity', 'camera') for o in (queries, gallery)]
    most = max(50, *(int(k[4:]) for k in figures if k.startswith('rank')))
    with together():
        result = evaluate_retrieval(torch.cat(parts), emb[~asked], *who, max_rank=most, exclude_same_camera=cameras)
    degraded = {f'{k} degraded': _figure(result, k) for k in figures}
    plain = {k: found.figures.pop(k) for k in figures}
    found.figures = plain | degraded | found.figures # Side by side
    found.frames['per_query_degraded'] = queries[['path', 'identity', 'camera']].reset_index(drop=True).join(
        result.per_query.drop(columns='query'))
    found.protocol['degraded'] = 'queries down-sampled by 2, 3 or 4'
    return found


def _map(table, store, known, most):
    "The map of embeddings, as a figure and as a frame"
    emb,_,_,scene = store.gathered()
    rows = scene[:, 0].numpy()
    if len(rows) > most: rows = np.sort(np.random.default_rng(0).choice(len(rows), most, replace=False))
    else: rows = np.arange(len(rows))
    pictures = table.iloc[scene[rows, 0].numpy()]
    quality,by = (pictures[known[0]], f' by {_said(known[0])}') if known else (pictures['quality'], '')
    places = flat_map(emb[rows])
    figure = embedding_map_figure(places, quality, pictures['identity'], f'Embeddings of those searched for{by}, t-SNE')
    frame = pictures[['path', 'identity', 'split']].assign(x=places[:, 0], y=places[:, 1], quality=quality)
    return figure,frame


def _open_set(asked, q, g, q_ids, g_ids, normalize):
    "`open_set_rates` as the record asks for them: among pictures, or among the mean of the pictures of each person"
    if asked.get('gallery') == 'mean of a person':
        pooled = pool_templates(g, g_ids)
        g,g_ids = pooled.emb,pooled.template
    return open_set_rates(q, g, q_ids, g_ids, fpir=asked['fpir'], rank=asked['rank'], normalize=normalize)


def _rank(cmc, name): return float(cmc[min(int(name.removeprefix('rank')), len(cmc)) - 1])


def _figure(result, name): return _rank(result.cmc, name) if name.startswith('rank') else float(getattr(result, name))


def _said(column): return column.replace('_', ' ')
