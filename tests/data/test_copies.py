"Degraded copies of a batch: as `degrade` makes them one by one, of known quality, in training only"
import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.vision.core import TensorImage
from PIL import Image

from qsd_fastai.data.blocks import TensorQuality
from qsd_fastai.data.copies import DegradedCopies, degrade_batch
from qsd_fastai.data.degradations import DEGRADATIONS, degrade
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.transforms import CropFlip
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.learner import recognition_learner


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    table = generate_faces(tmp_path_factory.mktemp('faces'), n_train=4, n_test=2, size=(64, 64), progress=False)
    return [Image.open(f'{table.attrs["root"]}/{p}').convert('RGB') for p in table['path'][:6]]


def batch_of(pictures): return torch.stack([torch.from_numpy(np.array(o)).permute(2, 0, 1)/255 for o in pictures])


def pixels(x): return (x*255).round().permute(0, 2, 3, 1).numpy()


@pytest.mark.parametrize('severity', [.2, .5, .8, 1.])
@pytest.mark.parametrize('kind', ['low_resolution', 'blur', 'jpeg'])
@pytest.mark.parametrize('size', [(64, 64), (96, 48), (112, 112)])
def test_what_draws_nothing_is_that_of_degrade(faces, kind, severity, size):
    some = [o.resize(size[::-1]) for o in faces]
    ours = pixels(degrade_batch(batch_of(some), kind, torch.full((len(some),), severity)))
    theirs = np.stack([np.asarray(degrade(o, kind, severity, np.random.default_rng(0)), np.float32) for o in some])
    changed = np.abs(theirs - pixels(batch_of(some))).mean()
    # PIL rounds to whole pixels between two steps, and its Gaussian is three boxes
    assert np.abs(ours - theirs).mean() < max(.15*changed, 1.)


@pytest.mark.parametrize('severity', [.3, .7, 1.])
@pytest.mark.parametrize('kind', ['noise', 'darkness', 'occlusion'])
def test_what_draws_has_the_same_strength(faces, kind, severity):
    torch.manual_seed(0) # Whatever ran before
    rng,some = np.random.default_rng(0),[faces[0]]*24
    ours = pixels(degrade_batch(batch_of(some), kind, torch.full((24,), severity)))
    theirs = np.stack([np.asarray(degrade(o, kind, severity, rng), np.float32) for o in some])
    clean = pixels(batch_of(some))
    def strength(x): return np.abs(x - clean).mean(), x.std(), x.mean()

    np.testing.assert_allclose(strength(ours), strength(theirs), rtol=.15, atol=1.)
    # each picture has a draw of its own
    assert not np.array_equal(ours[0], ours[1])


@pytest.mark.parametrize('kind', DEGRADATIONS)
def test_severity_0_and_no_picture_change_nothing(faces, kind):
    x = batch_of(faces)
    found = degrade_batch(x, kind, torch.zeros(len(x)))
    torch.testing.assert_close(found, x, atol=2e-3, rtol=0)
    assert degrade_batch(x[:0], kind, torch.zeros(0)).shape == x[:0].shape


def test_a_batch_is_doubled_and_its_quality_known(faces):
    x,q = TensorImage(batch_of(faces[:4])),TensorQuality(torch.tensor([80., float('nan'), 0., 100.]))
    ids = torch.arange(4)
    torch.manual_seed(0)
    found,who,quality = DegradedCopies(severity=(.25, .25))((x, ids, q), split_idx=0)
    assert found.shape == (8, 3, 64, 64)
    assert torch.equal(found[:4], x)
    assert all(not torch.equal(a, b) for a,b in zip(found[:4], found[4:]))
    assert who.tolist() == [0, 1, 2, 3]*2
    assert quality.tolist() == [80., 100., 0., 100., 60., 75., 0., 75.]
    assert isinstance(quality, TensorQuality)


def test_kinds_and_severities_are_drawn_evenly():
    x = torch.full((600, 3, 8, 8), .5)
    x[:, :, ::2] = .9
    torch.manual_seed(0)
    add = DegradedCopies(('darkness', 'low_resolution'), (.2, .6))
    made = add((x, TensorQuality(torch.full((600,), 100.))), split_idx=0)
    severity = 1 - made[1][600:]/100
    assert severity.min() >= .2 - 1e-6
    assert severity.max() <= .6 + 1e-6
    assert abs(severity.mean() - .4) < .02
    dark = made[0][600:].mean((1, 2, 3)) < .6
    assert abs(dark.float().mean() - .5) < .06


@pytest.mark.parametrize('wrong, said', [
    ({'kinds': ('fog',)}, "kind is 'fog'"), ({'kinds': ()}, 'kinds is empty'), ({'severity': (.5, .2)}, 'out of range'),
    ({'severity': (0, 2)}, 'out of range')])
def test_errors(wrong, said):
    with pytest.raises(ValueError, match=said): DegradedCopies(**wrong)


def test_a_batch_without_quality_is_told():
    with pytest.raises(ValueError, match='QualityBlock'):
        DegradedCopies()((torch.rand(2, 3, 8, 8), torch.arange(2)), split_idx=0)


def loaders(table, **kwargs):
    return recognition_dataloaders(table, size=(32, 16), n_ids=3, n_imgs=2, num_workers=0, seed=0, erase=0, **kwargs)


def test_loaders_add_copies_to_training_alone(make_table):
    table = make_table([4]*6)
    dls = loaders(table, copies=True, augment=[CropFlip(0)])
    x,ids,quality,scene = dls.train.one_batch()
    assert len(x) == len(ids) == len(quality) == len(scene) == 12
    assert torch.equal(ids[:6], ids[6:])
    assert torch.equal(scene[:6], scene[6:])
    assert (quality[6:] <= quality[:6].nan_to_num(100.)).all()
    assert not quality.isnan().any()
    assert len(dls.valid.one_batch()[0]) == 6
    # the first halves are the batches of the same seed without
    plain = loaders(table, augment=[CropFlip(0)])
    assert torch.equal(plain.train.one_batch()[1], ids[:6])
    with pytest.raises(ValueError, match='partners and copies'): loaders(table, copies=True, partners=True)


def test_a_fit_and_what_is_judged(make_table, tmp_path):
    table = make_table([4]*6)
    dls = loaders(table, copies=DegradedCopies(('blur', 'darkness')))
    cb = QualityDistillation('auto', pairs='copies', stop=0.)
    learn = recognition_learner(dls, 'test_resnet', path=tmp_path, cbs=cb)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-3)
    assert learn.loss_terms.epochs[0]['qsd'] > 0
    assert learn.loss_terms.epochs[0]['qsd_pairs'] > .5
    assert learn.embed(table).shape[0] == len(table)
    assert len(learn.embed(dls.train)) == 24


def test_pictures_are_shown_above_their_copies(make_table):
    dls = loaders(make_table([4]*6), copies=True)
    dls.show_batch(max_n=12)
    titles = [ax.get_title().split('\n') for ax in plt.gcf().axes if ax.get_title()]
    plt.close('all')
    who,quality = zip(*[(o[0], int(o[1].removeprefix('quality '))) for o in titles])
    # two pictures a row, and their copies in the row below
    for k in (0, 1, 4, 5):
        assert who[k] == who[k + 2]
        assert quality[k] > quality[k + 2] or quality[k] == 0
