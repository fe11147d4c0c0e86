"Judging pairs: do two pictures show one person? By quality, and with the worst pictures rejected"
from functools import partial

from ..columns import complete_table
from ..data.loaders import picture_files
from ..evaluation.metrics import VerificationJudge, hardest_pairs
from ..evaluation.rejection import error_vs_reject
from ..evaluation.roc import far_of, roc_points
from ..evaluation.store import EmbeddingStore
from ..evaluation.verification import contiguous_folds, pair_folds, verification_by_quality
from ..plots.pictures import hardest_pairs_figure
from ..plots.quality import map_by_quality_figure
from ..runs.curves import curve_figures, curve_frames
from ..runs.wandb_tables import pairs_table
from .judgement import Judgement

__all__ = ['judge_pairs', 'rates_reached']


def judge_pairs(
    table,                        # Of pictures
    emb,                          # `(n, nf)` embeddings of its `rows`
    rows,                         # `(n,)` numbers of rows
    pairs,                        # Of `read_pairs`
    known=(),                     # Columns of quality to reject by; the first one cuts worst, middle, best
    far=(1e-1, 1e-2, 1e-3, 1e-4), # False acceptance rates
    far_rule:str='below',         # Of `tar_at_far`
    folds:int=0,                  # Contiguous folds in place of those of the pairs
    thresholds:str='grid',        # `'grid'` (published) or `'exact'`
    unit:str='picture',           # What is rejected: `'picture'`, with all its pairs, or `'pair'`
    reject_far:float=0.,          # False match rate of the rejection curve; .001, or what the pairs can show, when 0
    reject_threshold:str='fixed', # `'fixed'` at the start, or `'refixed'` on what is kept
    hardest:int=8,                # Pairs of each kind to look at; 0 shows none
)->Judgement:
    "Accuracy over folds, TAR at FAR, area, equal error rate; thirds by the first known quality"
    table = complete_table(table)
    store = EmbeddingStore.of_table(table, emb, rows, table[known[0]] if known else None)
    cut = contiguous_folds(len(pairs), folds) if folds else pair_folds(pairs)
    result,thirds = VerificationJudge(store, pairs, folds=cut, thresholds=thresholds).found(strict=True)
    tar,per_pair = result.tar_at_far(far, far_rule),result.per_pair
    figures = {'accuracy': result.accuracy, 'accuracy std': result.accuracy_std, 'auc': result.auc, 'eer': result.eer,
               **{f'tar@{k:g}': float(v) for k,v in tar['tar'].items()}}
    paths = table['path'].to_numpy()
    curves = {'roc': {'pairs': roc_points(per_pair['score'], per_pair['same'])}}
    plots,groups,frames,rejection,tables = {},{},{},None,{}
    if hardest:
        hard = hardest_pairs(per_pair, hardest)
        plots['hardest_pairs'] = hardest_pairs_figure(hard, picture_files(table).to_numpy(), of=per_pair['same'])
        tables['hardest_pairs'] = partial(pairs_table, hard)
        frames['hardest_pairs'] = hard.assign(path1=paths[hard['row1']], path2=paths[hard['row2']])
    if known:
        figures |= {f'accuracy {o}': float(thirds.loc[o, 'accuracy']) for o in ('worst', 'middle', 'best')}
        for c in known:
            of = verification_by_quality(per_pair, *(table[c].to_numpy()[per_pair[k]] for k in ('row1', 'row2')))
            title = f'accuracy by {c.replace("_", " ")} of the worse picture'
            plots[f'accuracy_by_{c}'] = map_by_quality_figure(of, 'accuracy', title)
            groups[f'pairs_by_{c}'] = of
        compared = [per_pair[k] for k in ('score', 'same', 'row1', 'row2')]
        qualities = {c.replace('_', ' '): table[c] for c in known}
        at = reject_far or far_of(per_pair['same'])
        rejection = error_vs_reject(*compared, qualities, unit, at, reject_threshold)
        curves['error_vs_reject'] = rejection
        figures |= {f'FNMR rejecting: {k}': float(v) for k,v in rejection.areas['partial'].items()}
    protocol = {'pairs': len(pairs), 'same': int(per_pair['same'].sum()), 'folds': len(result.thresholds),
                'folds_asked_for': bool(folds), 'thresholds': thresholds,
                'distance': 'squared Euclidean of unit embeddings',
                'fold_thresholds': result.thresholds.tolist(), 'far': rates_reached(tar), 'far_rule': far_rule,
                'rejection': rejection and f'{rejection.what}, unit {unit}, {rejection.how}'}
    frames |= {k: o.reset_index() for k,o in groups.items()} | curve_frames(curves)
    of = dict.fromkeys(curves, f'{len(pairs):,} pairs')
    plots = {**curve_figures(curves, of), **plots}
    frame = per_pair.assign(path1=paths[per_pair['row1']], path2=paths[per_pair['row2']]).drop(columns=['row1', 'row2'])
    return Judgement(figures, protocol, {'per_pair': frame, **frames}, plots, tables, curves, groups, of)


def rates_reached(
    tar, # Of `tar_at_far`
)->dict:
    "The threshold of each false acceptance rate, and how many false pairs it accepts, for the protocol"
    return {f'{o.Index:g}': {'threshold': o.threshold, 'false_accepts': o.false_accepts} for o in tar.itertuples()}
