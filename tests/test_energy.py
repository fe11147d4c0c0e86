"Energy maps are of what was taught: of the levels with a weight, and of pairs of two pictures alone"
import pytest
from fastai.torch_core import set_seed

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.judging.energy import taught_energies
from qsd_fastai.learner import recognition_learner

pytestmark = pytest.mark.usefixtures('one_thread')


@pytest.fixture(scope='module')
def learn(labelled_people):
    set_seed(0)
    dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=3, num_workers=0, device='cpu')
    return recognition_learner(dls, 'test_resnet')


def shown(learn, **settings):
    "Levels of the maps beside each picture, or `None` without a figure"
    figure = taught_energies(learn, QualityDistillation(**settings))
    if figure is None: return None
    titles = [o.get_title() for o in figure.axes if o.get_title()]
    half = titles.index('student')
    assert titles[1:half] == titles[half + 1:]
    return titles[1:half]


def half(pct): return .5


def test_levels_that_are_taught_are_shown(learn):
    whole = ['level1', 'level2', 'level3']
    assert shown(learn) == shown(learn, pairs='partner') == whole
    assert shown(learn, level_weights={'level2': 1., 'emb': 1.}) == ['level2']
    assert shown(learn, level_weights=(1., 0., half, 1., .1)) == ['level1', 'level3']
    assert shown(learn, weight=half) == whole


def test_where_no_map_teaches_another_picture_nothing_is_shown(learn):
    assert shown(learn, weight=0.) is None
    assert shown(learn, level_weights={'emb': 1.}) is None
    assert shown(learn, level_weights=(0., 0., 0., 1., 1.)) is None
    for settings in ({}, {'level_weights': {'level1': 1.}}, {'level_weights': (1.,)*5}):
        assert shown(learn, preset='copies', balance=False, **settings) is None
