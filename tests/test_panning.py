"Panning: a known shift is found, no shift is none, and what it does is exported with the model"
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.embedder import Embedder
from qsd_fastai.export import export_embedder
from qsd_fastai.learner import recognition_learner
from qsd_fastai.panning import Panning, fit_panning, pan_model


def draw(n, nf=6): return F.normalize(torch.randn(n, nf, generator=torch.Generator().manual_seed(n)))


def test_a_shift_of_everybody_is_taken_back():
    good = draw(500)
    bad = F.normalize(good + .8*F.one_hot(torch.tensor(2), 6))
    test = draw(300)
    moved = F.normalize(test + .8*F.one_hot(torch.tensor(2), 6))
    panning = fit_panning(bad, good, 1e-3)
    def off(x): return (1 - (F.normalize(x)*test).sum(1)).mean()

    assert off(panning(moved)) < .2*off(moved)
    # the length is kept, and says what it said
    torch.testing.assert_close(panning(3*moved).norm(dim=1), torch.full((300,), 3.))


def test_ridge_by_hand():
    rng = np.random.default_rng(0)
    bad,good = (rng.normal(size=(40, 3)) for _ in range(2))
    x,y = (o/np.linalg.norm(o, axis=1, keepdims=True) for o in (bad, good))
    centred = x - x.mean(0)
    pull = .5*np.diag(centred.T@centred).mean()
    # the same as least squares with rows that pull each weight to 0
    rows = np.vstack([centred, np.sqrt(pull)*np.eye(3)])
    wanted = np.linalg.lstsq(rows, np.vstack([(y - x) - (y - x).mean(0), np.zeros((3, 3))]), rcond=None)[0]
    panning = fit_panning(torch.from_numpy(bad), torch.from_numpy(good), .5)
    np.testing.assert_allclose(panning.weight, wanted, atol=1e-6)
    np.testing.assert_allclose(panning.bias, (y - x).mean(0) - x.mean(0)@wanted, atol=1e-6)


def test_where_nothing_moves_nothing_is_shifted():
    good = draw(50)
    torch.testing.assert_close(fit_panning(good, good)(2*good), 2*good)
    torch.testing.assert_close(Panning(6)(2*good), 2*good)


@pytest.mark.parametrize('bad, good, ridge, said', [
    (torch.rand(3, 2), torch.rand(2, 2), 1., r'bad is \(3, 2\)'), (torch.rand(3), torch.rand(3), 1., r'bad is \(3,\)'),
    (torch.rand(3, 2), torch.rand(3, 2), 0., 'ridge is 0'),
    (torch.tensor([[1., float('nan')]]), torch.rand(1, 2), 1., 'bad row 0 holds NaN')])
def test_errors(bad, good, ridge, said):
    with pytest.raises(ValueError, match=said): fit_panning(bad, good, ridge)


def test_a_model_is_panned_and_exported(make_table, tmp_path):
    table = make_table([4]*6, size=(32, 16))
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=3, n_imgs=2, num_workers=0, augment=False, erase=0)
    torch.manual_seed(0)
    learn = recognition_learner(dls, 'test_resnet', path=tmp_path)
    copies = DegradedCopies(('low_resolution',), (.6, .6))
    before = learn.embed(table)
    panning = pan_model(learn, copies)
    assert isinstance(learn.model.neck, nn.Sequential)
    assert panning.weight.abs().max() > 0
    torch.testing.assert_close(learn.embed(table), panning(before), atol=1e-5, rtol=1e-4)
    # pictures and copies lie nearer to each other
    x,*_ = copies(dls.train.new(shuffle=False, bs=24).one_batch(), split_idx=0)
    with torch.no_grad(): emb = learn.model.eval()(x.as_subclass(torch.Tensor)).chunk(2)
    learn.model.neck = learn.model.neck[0]
    with torch.no_grad(): plain = learn.model(x.as_subclass(torch.Tensor)).chunk(2)
    assert F.cosine_similarity(*emb).mean() > F.cosine_similarity(*plain).mean()
    learn.model.neck = nn.Sequential(learn.model.neck, panning)
    export_embedder(learn, tmp_path/'m.pt2', table)
    _,found = Embedder(tmp_path/'m.pt2').embed(table)
    np.testing.assert_allclose(found, F.normalize(learn.embed(table)), atol=1e-5)
