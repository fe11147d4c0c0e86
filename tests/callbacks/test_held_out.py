"`valid_loss` against the figures of the search, the callbacks that watch it, and the loss of each picture"
import copy

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.tracker import EarlyStoppingCallback, ReduceLROnPlateau, SaveModelCallback
from fastai.data.block import DataBlock
from fastai.interpret import Interpretation
from fastai.learner import load_learner
from fastai.torch_core import set_seed
from fastai.vision.data import ImageBlock

from qsd_fastai.callbacks.held_out import HeldOutLoss, ranking_losses
from qsd_fastai.data.blocks import IdentityBlock
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.transforms import Squish
from qsd_fastai.evaluation.metrics import Retrieval, Verification
from qsd_fastai.evaluation.retrieval import evaluate_retrieval
from qsd_fastai.evaluation.scores import all_pairs
from qsd_fastai.learner import recognition_learner

pytestmark = pytest.mark.usefixtures('one_thread')


def make(table, metrics=None, path=None, bs=5):
    set_seed(0)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, bs=bs, seed=0, num_workers=0, device='cpu')
    learn = recognition_learner(dls, 'test_resnet', metrics=metrics, path=path)
    learn.remove_cb(learn.progress)
    return learn


def fit(learn, n, lr=3e-3, **kwargs):
    with learn.no_logging(): learn.fit(n, lr, **kwargs)
    return np.array([list(o) for o in learn.recorder.values], dtype=float)


@pytest.mark.parametrize('bs', [5, 64])
def test_it_is_one_less_mean_average_precision(labelled_people, bs):
    learn = make(labelled_people, Retrieval('rank1', 'mAP'), bs=bs)
    values = fit(learn, 2)
    assert np.allclose(values[:, 1], 1 - values[:, 3])
    assert learn.recorder.metric_names[2] == 'valid_loss'
    loss,_,mAP = learn.validate()
    assert loss == pytest.approx(1 - mAP)


def test_pairs_where_there_is_no_search(labelled_people):
    held = labelled_people[labelled_people['split'] != 'train']
    pairs,paths = all_pairs(held['identity']), held['path'].to_numpy()
    listed = pd.DataFrame({'path1': paths[pairs['first']], 'path2': paths[pairs['second']],
                           'same': pairs['same'].to_numpy(), 'fold': np.arange(len(pairs)) % 10})
    learn = make(labelled_people, Verification('auc', pairs=listed))
    values = fit(learn, 1)
    assert values[0, 1] == pytest.approx(1 - values[0, 2])


def test_what_cannot_be_judged_is_told_before_an_epoch_is_trained(labelled_people):
    items = list(labelled_people.itertuples())
    def picture(o): return f'{labelled_people.attrs["root"]}/{o.path}'
    def who(o): return o.identity
    block = DataBlock((ImageBlock, IdentityBlock), get_x=picture, get_y=who, item_tfms=Squish((32, 16)))
    dls = block.dataloaders(items, bs=8, num_workers=0, device='cpu')
    learn = recognition_learner(dls, 'test_resnet', metrics=Retrieval('mAP'))
    with pytest.raises(ValueError, match='Judging needs the targets'): fit(learn, 1)
    assert not learn.recorder.losses
    learn = recognition_learner(dls, 'test_resnet', metrics=lambda emb, ids: emb.norm(dim=1).mean())
    assert fit(learn, 1).shape == (1, 3)


@pytest.mark.parametrize('watch', [SaveModelCallback, EarlyStoppingCallback, ReduceLROnPlateau])
def test_a_default_monitor_without_a_metric_warns(labelled_people, watch, tmp_path):
    learn = make(labelled_people, path=tmp_path)
    with pytest.warns(UserWarning, match="watches valid_loss.*monitor='mAP'"): values = fit(learn, 1, cbs=watch())
    assert np.isfinite(values[0, 1])


@pytest.mark.filterwarnings('error:.*valid_loss')
def test_the_default_monitor_keeps_the_best_model(labelled_people, tmp_path):
    learn,keep = make(labelled_people, Retrieval('mAP'), path=tmp_path), SaveModelCallback()
    best = fit(learn, 4, 3e-2, cbs=keep)[:, 2].max()
    assert keep.best == pytest.approx(1 - best)
    assert learn.validate()[1] == pytest.approx(best)


@pytest.mark.parametrize('on', ['learner', 'validation', 'class'])
def test_validate_wakes_no_callback_that_compares_epochs(labelled_people, tmp_path, capsys, on):
    "It would call any model better than none, by a figure that is not there yet, and save it over the best"
    learn,kept = make(labelled_people, Retrieval('mAP'), path=tmp_path),tmp_path/'models'/'model.pth'
    keep = SaveModelCallback(monitor='mAP')
    fit(learn, 1, cbs=keep)
    before,best,said = kept.read_bytes(),keep.best,capsys.readouterr().out
    assert 'Better model found' in said
    if on == 'learner': learn.add_cbs([keep, ReduceLROnPlateau(), EarlyStoppingCallback()])
    for p in learn.model.parameters(): p.data.mul_(1.1)
    learn.validate(cbs={'learner': None, 'validation': keep, 'class': SaveModelCallback}[on])
    assert 'Better' not in capsys.readouterr().out
    assert kept.read_bytes() == before
    assert keep.best == best
    assert (keep in learn.cbs) == (on == 'learner')
    if on == 'learner': assert len(learn.cbs.filter(lambda o: o.learn is not learn)) == 0


def test_losses_of_queries_are_their_own(labelled_people):
    learn = make(labelled_people, Retrieval('mAP'))
    emb,(ids, _, scene),losses = learn.get_preds(with_loss=True)
    query = scene[:, 2] == 1
    sides = (o[of] for o in (emb, ids, scene[:, 1]) for of in (query, ~query))
    ap = evaluate_retrieval(*sides).per_query['ap']
    assert np.allclose(losses[query], 1 - ap)
    assert not losses[~query].any()
    assert len(set(losses[query].tolist())) > 2
    assert losses[query].mean() == pytest.approx(learn.validate()[0], abs=1e-6)
    top,rows = Interpretation.from_learner(learn).top_losses(3)
    assert torch.equal(top, losses.topk(3).values)
    assert query[rows].all()


def test_without_roles_each_picture_searches_the_others():
    emb = torch.nn.functional.normalize(torch.randn(9, 4, generator=torch.Generator().manual_seed(0)))
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2, 3])
    losses = ranking_losses(emb, ids)
    for i in range(9):
        order = [j for j in (emb@emb[i]).argsort(descending=True).tolist() if j != i]
        right = [k for k,j in enumerate(order, 1) if ids[j] == ids[i]]
        expected = 1 - np.mean([n/k for n,k in enumerate(right, 1)]) if right else 0.
        assert losses[i] == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match='No query can be answered'): ranking_losses(emb[:3], torch.arange(3))


def test_it_travels_with_the_learner(labelled_people, tmp_path):
    learn = make(labelled_people, Retrieval('mAP'), path=tmp_path)
    assert type(copy.deepcopy(learn.recorder.loss)) is HeldOutLoss
    learn.export('a.pkl')
    again = load_learner(tmp_path/'a.pkl')
    dl = learn.dls.valid
    loss,mAP = again.validate(dl=dl)
    assert loss == pytest.approx(1 - mAP)
