"What a key says of itself"
import pytest

from qsd_fastai.runs.keys import key_of, kind_of, under


def test_kinds():
    kinds = [kind_of(o) for o in ('epoch', 'train/loss', 'final/tar@1e-2', 'plots/a/b', 'tables/x', 'histograms/q')]
    assert kinds == ['number', 'number', 'number', 'picture', 'table', 'histogram']
    assert under('plots', {'roc': 1, 'cmc': 2}) == {'plots/roc': 1, 'plots/cmc': 2}
    assert under('charts', {'roc_blur_0.7': 1}) == {'charts/roc_blur_0_7': 1} # A dot would be a step into it
    assert under('final', {'tar@0.01': 1, 'mAP worst': 2}) == {'final/tar@0.01': 1, 'final/mAP_worst': 2}
    assert under('final', {'mAP rejecting: true quality': 1}) == {'final/mAP_rejecting_true_quality': 1}
    for key in ('roc', 'train', 'plot/roc', ''):
        with pytest.raises(ValueError, match='is no key of a run'): kind_of(key)
    with pytest.raises(ValueError, match="'pictures/roc' is no key"): under('pictures', {'roc': 1})


def test_a_figure_has_one_key():
    assert [key_of(o) for o in ('mAP worst', 'agedb_30 accuracy', 'mAP rejecting: true quality')] == \
        ['mAP_worst', 'agedb_30_accuracy', 'mAP_rejecting_true_quality']
