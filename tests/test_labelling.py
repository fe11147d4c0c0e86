"Labels by networks that have not seen the pictures, and labels that follow the network"
import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastai.callback.core import Callback, CancelFitException

from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.labelling import OnlineQuality, cross_fit_folds, cross_fitted_labels
from qsd_fastai.learner import recognition_learner
from qsd_fastai.quality import similarity_quality

pytestmark = pytest.mark.usefixtures('on_cpu')


@pytest.mark.parametrize('k', [2, 3, 5])
def test_folds_are_equal_and_by_identity_or_picture(k):
    ids = np.random.default_rng(0).permutation(np.arange(240) % 30)
    fold = cross_fit_folds(ids, k)
    assert all(len(set(fold[ids == i])) == 1 for i in range(30))
    assert np.ptp(np.bincount(pd.Series(fold).groupby(ids).first())) <= 1
    fold = cross_fit_folds(ids, k, 'picture', seed=1)
    assert np.ptp(np.bincount(fold)) <= 1
    assert all(np.ptp(np.bincount(fold[ids == i], minlength=k)) <= 1 for i in range(30))
    assert not np.array_equal(fold, cross_fit_folds(ids, k, 'picture', seed=2))
    np.testing.assert_array_equal(fold, cross_fit_folds(ids, k, 'picture', seed=1))


@pytest.mark.parametrize('kwargs, said', [({'k': 1}, 'k is 1'), ({'k': 5}, 'k is 5 for 4 to deal by identity'),
                                          ({'by': 'camera'}, "by is 'camera'")])
def test_folds_that_cannot_be_made(kwargs, said):
    with pytest.raises(ValueError, match=said): cross_fit_folds([0, 1, 2, 3]*3, **kwargs)


class Known:
    "Embeds pictures it was not trained on by noise about their identity, the others all alike"
    def __init__(self, table, seen): self.trained,self.seen = set(table.loc[table['split'] == 'train', 'path']),seen

    def embed(self, table):
        self.seen.append((self.trained, set(table['path'])))
        rng = np.random.default_rng(len(self.seen))
        who = table['identity'].astype('category').cat.codes.to_numpy()
        return torch.from_numpy(np.eye(8)[who % 8] + .3*rng.normal(size=(len(table), 8))).float()


@pytest.mark.parametrize('by', ['identity', 'picture'])
def test_no_picture_is_labelled_by_a_network_that_was_trained_on_it(make_table, by):
    table,seen = make_table([4]*6),[]
    out = cross_fitted_labels(table, lambda t: Known(t, seen), 3, by)
    train = table['split'] == 'train'
    assert len(seen) == 3
    labelled = [embedded - trained for trained,embedded in seen]
    # each training picture has its turn, in one fold
    assert sorted(p for some in labelled for p in some) == sorted(table.loc[train, 'path'])
    assert all((len(trained), len(some)) == (16, 8) for (trained,_),some in zip(seen, labelled))
    if by == 'identity': assert all(not trained & embedded for trained,embedded in seen)
    assert out.loc[train, 'quality'].between(0, 100).all()
    assert out.loc[~train, 'quality'].isna().all()
    assert out.attrs['root'] == table.attrs['root']


def test_folds_with_nothing_to_compare_are_told(make_table):
    with pytest.raises(ValueError, match='no two pictures of an identity'):
        cross_fitted_labels(make_table([1]*4), lambda t: Known(t, []), 2)


class Look(Callback):
    "What each batch was told and embedded as"
    order,run_valid = QualityDistillation.order + 1,False
    def __init__(self): self.found = []
    def after_loss(self):
        ids,quality,scene = self.yb
        self.found.append((self.epoch, scene[:, 0].tolist(), quality.tolist(), self.pred.emb.detach().clone()))


def learner(table, folder, *cbs):
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=3, n_imgs=2, num_workers=0, seed=0, erase=0,
                                  augment=False)
    torch.manual_seed(0)
    return recognition_learner(dls, 'test_resnet', path=folder, cbs=cbs)


def fit(learn, n=3, cbs=()):
    torch.manual_seed(0)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-2, cbs=list(cbs))
    return learn


def test_labels_follow_the_moving_average(make_table, tmp_path):
    table,look = make_table([4]*6),Look()
    fit(learner(table, tmp_path, OnlineQuality(.25), look))
    average,quality = {},np.array(table['quality'])
    for epoch in range(3):
        for _,rows,told,emb in [o for o in look.found if o[0] == epoch]:
            np.testing.assert_allclose(told, quality[rows], rtol=1e-5)
            for i,unit in zip(rows, F.normalize(emb)):
                average[i] = .25*average[i] + .75*unit if i in average else unit
        rows = sorted(average)
        quality[rows] = similarity_quality(torch.stack([average[i] for i in rows]), table['identity'].iloc[rows])
    assert len(average) == 24


def test_a_resumed_fit_goes_on_with_the_labels(make_table, tmp_path):
    class StopAfter(Callback):
        order = SaveState.order + 1
        def after_epoch(self):
            if self.epoch == 1: raise CancelFitException

    table = make_table([4]*6)
    def make(): return learner(table, tmp_path, OnlineQuality(), QualityDistillation(3.))
    whole = fit(make())
    fit(make(), cbs=[SaveState(tmp_path/'s'), StopAfter()])
    resumed = fit(make(), cbs=[SaveState(tmp_path/'s', resume=True)])
    for (k, a),b in zip(resumed.model.state_dict().items(), whole.model.state_dict().values()):
        assert not isinstance(a, torch.Tensor) or torch.equal(a, b), k


def test_what_it_needs_is_told(make_table, tmp_path):
    with pytest.raises(ValueError, match='momentum is 1'): OnlineQuality(1.)
    table = make_table([4]*6)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=3, n_imgs=2, num_workers=0, copies=True)
    with pytest.raises(ValueError, match='Leave copies out'):
        fit(recognition_learner(dls, 'test_resnet', path=tmp_path, cbs=OnlineQuality()))
