"A learner of a tiny set of people, trained for a moment"
import pytest
from fastai.torch_core import set_seed

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.learner import recognition_learner


@pytest.fixture(scope='session')
def make_learner(labelled_people):
    "A function: a learner that is not trained, without bars"
    def make(arch='test_resnet', metrics=None, table=labelled_people, path=None, **kwargs):
        set_seed(0)
        dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, seed=0, num_workers=0, device='cpu')
        learn = recognition_learner(dls, arch, metrics=Retrieval() if metrics is None else metrics, path=path, **kwargs)
        learn.remove_cb(learn.progress)
        return learn
    return make


@pytest.fixture(scope='module')
def trained(make_learner, tmp_path_factory, one_thread):
    learn = make_learner(path=tmp_path_factory.mktemp('learner'))
    with learn.no_logging(): learn.fit_one_cycle(3, 1e-2)
    return learn


@pytest.fixture
def no_gallery(trained):
    "The learner without a gallery, before and after"
    trained.gallery = None
    yield trained
    trained.gallery = None
