"Queries of a recipe brought down to fewer pixels, against a table that degrade.py has written"
import pytest
from common.mlr import with_low_resolution
from fastai.torch_core import set_seed

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.judging.search import judge_held_out
from qsd_fastai.learner import recognition_learner


def test_a_search_with_down_sampled_queries_is_that_of_their_table(tmp_path, labelled_people, on_cpu):
    "As `degrade.py --protocol mlr` writes it; the gallery and the plain figures stay"
    set_seed(0)
    dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=2, num_workers=0)
    learn = recognition_learner(dls, 'test_resnet')
    with learn.no_bar():
        plain = judge_held_out(learn, labelled_people, ('rank1', 'mAP'), 'quality')
        found = judge_held_out(learn, labelled_people, ('rank1', 'mAP'), 'quality', degraded=True)
        low = with_low_resolution(labelled_people, (labelled_people['split'] == 'query').to_numpy(), tmp_path/'low')
        written = judge_held_out(learn, low, ('rank1', 'mAP'))
    assert list(found.figures)[:4] == ['rank1', 'mAP', 'rank1 degraded', 'mAP degraded']
    assert {k: v for k,v in found.figures.items() if 'degraded' not in k} == plain.figures
    for k in ('rank1', 'mAP'): assert found.figures[f'{k} degraded'] == pytest.approx(written.figures[k], abs=1e-6)
    assert found.figures['mAP degraded'] != plain.figures['mAP']
    ap = found.frames['per_query_degraded']['ap']
    assert ap.mean() == pytest.approx(found.figures['mAP degraded'])
    assert 'degraded' in found.protocol
