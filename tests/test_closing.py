"What closes a run says of each figure what it is of, and how many"
import numpy as np
import pandas as pd

from qsd_fastai.closing import Closing
from qsd_fastai.evaluation.roc import roc_points
from qsd_fastai.judging.judgement import Judgement
from qsd_fastai.plots.style import said_of
from qsd_fastai.runs.curves import line_name


def judged(sets):
    rng,same = np.random.default_rng(0),np.arange(60) % 2
    rocs = {name: roc_points(rng.random(60) + same, same) for name in sets}
    frames = {'per_query': pd.DataFrame({'path': list('ab'), 'ap': rng.random(2), 'answerable': True})}
    of = {'cmc': '2 queries', 'roc': '60 pairs', **{line_name('roc', name): f'{name} (60)' for name in sets}}
    return Judgement({}, {}, frames, curves={'roc': rocs, 'cmc': {'plain': np.array([.5, 1.])}}, of=of)


def test_what_a_figure_is_of():
    assert said_of('resnet50', 'people', 'run one') == 'resnet50, table people, run one'
    assert said_of(None, '', 'run one') == 'run one'


def titles(*sets):
    found = Closing({'baseline': judged(sets)}, pd.Series(dtype=object))
    return {name: figure.axes[0].get_title().replace('\n', ' ') for name,figure in found.figures.items()}


def test_titles_name_set_and_number():
    found = titles('pairs', 'pairs blur 0.7')
    assert found['det_pairs_blur_0.7'] == 'Verification: DET, pairs blur 0.7 (60), all arms'
    assert found['roc_pairs'] == 'Verification: ROC, pairs (60), all arms'
    assert found['cmc'] == 'Retrieval: CMC, 2 queries, all arms'
    assert titles('pairs')['roc'] == 'Verification: ROC, 60 pairs, all arms'
