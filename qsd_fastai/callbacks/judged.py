"What the metrics of a fit have judged already, as curves and by quality: nothing is embedded anew"
from functools import partial

import numpy as np

from ..evaluation.rejection import error_vs_reject, retrieval_vs_reject
from ..evaluation.roc import far_of, roc_points
from ..plots.quality import map_by_quality_figure
from ..runs.curves import curve_charts, curve_figures

__all__ = ['judged_pairs', 'judged_search']


def judged_search(
    judge, # `RetrievalJudge` after a validation
): # A function without arguments that gives `(figures, charts)` by name; None where nothing was judged
    """CMC, and rank1 and mAP in thirds and with the worst queries rejected, where their quality is known

    What it needs is kept; it draws when it is called, and the next validation may be over by then."""
    if (found := judge.found()) is None: return None
    _,_,quality,scene = judge.store.gathered()
    asked = scene[:, 2] == 1
    return partial(_search, *found, quality[asked].numpy(), int((~asked).sum()))


def _search(result, thirds, quality, n_gallery):
    of = {'cmc': f'{result.n_queries - result.n_unanswerable:,} queries, {n_gallery:,} pictures'}
    curves,plots = {'cmc': {'plain': result.cmc}},{}
    if (result.per_query['answerable'] & ~np.isnan(quality)).any():
        curves['search_vs_reject'] = retrieval_vs_reject(result.per_query, quality)
        plots = {f'{k.lower()}_by_quality': map_by_quality_figure(thirds, k) for k in ('mAP', 'rank1')}
    return _drawn(curves, of, plots)


def judged_pairs(
    judge, # `VerificationJudge` after a validation
): # As of `judged_search`
    "ROC and DET, and accuracy in thirds and errors with the worst pictures rejected, where their quality is known"
    found = judge.found()
    return found and partial(_pairs, *found)


def _pairs(result, thirds):
    score,same,row1,row2,*both = (result.per_pair[c] for c in ('score', 'same', 'row1', 'row2', 'quality1', 'quality2'))
    curves = {'roc': {'pairs': roc_points(score, same)}}
    of = {'roc': f'{len(same):,} pairs'}
    quality = np.full(max(row1.max(), row2.max()) + 1, np.nan)
    quality[row1],quality[row2] = both
    try: curves['error_vs_reject'] = error_vs_reject(score, same, row1, row2, quality, far=far_of(same))
    except ValueError: return _drawn(curves, of, {}) # No known quality, or too few pairs
    by_quality = map_by_quality_figure(thirds, 'accuracy', 'accuracy by quality of the worse picture')
    return _drawn(curves, of, {'accuracy_by_quality': by_quality})


def _drawn(curves, of, plots): return {**curve_figures(curves, of), **plots}, curve_charts(curves, of)
