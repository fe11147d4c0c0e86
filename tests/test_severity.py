"Labels from known severity: what is found where it is plain to see, and what the parts do by hand"
import numpy as np
import pytest
import torch
from PIL import Image

from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.degradations import degrade
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.learner import recognition_learner
from qsd_fastai.severity import describe_copies, severity_labels, severity_of


@pytest.fixture
def darkened(make_table):
    "Pictures that were darkened by known amounts, and a learner that was never trained"
    table,rng = make_table([4]*8, size=(32, 16)),np.random.default_rng(0)
    true = rng.choice([0, .8], len(table))
    for path,s in zip(table['path'], true):
        file = f'{table.attrs["root"]}/{path}'
        y,x = np.mgrid[:32, :16]/32
        plain = 150 + 60*np.sin(7*y + rng.uniform(0, 6)) + 40*np.cos(9*x + rng.uniform(0, 6))
        img = Image.fromarray(np.repeat(plain[..., None], 3, 2).astype(np.uint8))
        degrade(img, 'darkness', s, rng).save(file)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=3, n_imgs=2, num_workers=0, augment=False, erase=0)
    torch.manual_seed(0)
    return table, true, recognition_learner(dls, 'test_resnet')


def test_what_is_plain_to_see_is_found(darkened, monkeypatch):
    table,true,learn = darkened
    monkeypatch.setattr(learn.model.body, 'forward_intermediates', lambda x: (None, [x])) # Looks at pixels
    learn.model.train()
    made = severity_labels(table, learn, DegradedCopies(('darkness',), (0., 1.)))
    train = (table['split'] == 'train').to_numpy()
    assert made.loc[train, 'quality'].between(0, 100).all()
    assert made.loc[~train, 'quality'].isna().all()
    assert made['quality'][train & (true == 0)].min() > made['quality'][train & (true > 0)].max()
    assert learn.model.training
    again = severity_labels(table, learn, DegradedCopies(('darkness',), (0., 1.)))
    np.testing.assert_array_equal(again['quality'], made['quality'])


def test_pictures_are_described_as_they_are_and_copies_as_they_were_drawn(darkened):
    table,_,learn = darkened
    state = torch.get_rng_state()
    found = describe_copies(table, learn, DegradedCopies(('darkness', 'blur'), (0., 0.)), rounds=2)
    assert torch.equal(torch.get_rng_state(), state)
    n = len(table)
    assert found.copies.shape == (2*n, found.pictures.shape[1])
    assert set(found.kind) == {'darkness', 'blur'}
    # severity 0 changes nothing
    assert found.severity.max() == 0
    torch.testing.assert_close(found.copies, found.pictures.repeat(2, 1), atol=1e-4, rtol=1e-4)
    x = learn.dls.valid.new(bs=n).one_batch()[0].as_subclass(torch.Tensor)
    with torch.no_grad(): maps = learn.model.eval().body.forward_intermediates(x)[1]
    place = {p: i for i,p in enumerate(table['path'])}
    rows = [place[p] for p in learn.dls.table['path'][learn.dls.table['split'] != 'train']]
    first = maps[0].shape[1]
    want = torch.cat([maps[0].mean((2, 3)), maps[0].flatten(2).std(2, correction=0).clamp(min=1e-4).log()], 1)
    torch.testing.assert_close(found.pictures[rows, :2*first], want, atol=1e-4, rtol=1e-4)


def test_severity_is_read_by_ridge_regression():
    rng = np.random.default_rng(0)
    copies = torch.from_numpy(rng.normal(size=(200, 5))*[1, 2, 3, 4, 5] + 7)
    asked = torch.from_numpy(rng.normal(size=(9, 5)))
    severity = torch.from_numpy(rng.uniform(size=200))
    mean,std = copies.mean(0),copies.std(0)
    x = ((copies - mean)/std).numpy()
    pull = .5*np.diag(x.T@x).mean()
    wanted = np.linalg.lstsq(np.vstack([x, np.sqrt(pull)*np.eye(5)]),
                             np.r_[severity.numpy() - severity.numpy().mean(), np.zeros(5)], rcond=None)[0]
    wanted = ((asked - mean)/std).numpy()@wanted + severity.numpy().mean()
    np.testing.assert_allclose(severity_of(asked, copies, severity, .5), wanted, atol=1e-10)


def test_nobody_is_judged_by_copies_of_their_own_pictures(darkened, monkeypatch):
    table,_,learn = darkened
    seen = []
    def spy(pictures, copies, severity, ridge):
        seen.append((pictures, copies))
        return np.arange(len(pictures), dtype=float)
    monkeypatch.setattr('qsd_fastai.severity.severity_of', spy)
    severity_labels(table, learn, DegradedCopies(('darkness',), (0., 0.)), rounds=2, k=4)
    train = (table['split'] == 'train').sum()
    assert sum(len(p) for p,_ in seen) == train
    for pictures,copies in seen:
        assert len(copies) == 2*(train - len(pictures))
        # copies of severity 0 are their pictures
        assert torch.cdist(pictures.double(), copies.double()).min() > 1e-4


def test_errors(darkened):
    table,_,learn = darkened
    with pytest.raises(ValueError, match='rounds is 0'): describe_copies(table, learn, rounds=0)
    with pytest.raises(ValueError, match='k is 1'): severity_labels(table, learn, k=1)
    with pytest.raises(ValueError, match='ridge is 0'):
        severity_of(torch.rand(2, 2), torch.rand(4, 2), torch.rand(4), 0.)
