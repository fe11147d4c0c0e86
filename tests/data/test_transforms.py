"Changes to training pictures, of persons and of faces, against the published ones, plain loops and PIL"
import io
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.vision.core import PILImage, TensorImage, imagenet_stats
from fasttransform import Pipeline
from PIL import Image

from qsd_fastai.data.loaders import recognition_block, recognition_dataloaders
from qsd_fastai.data.transforms import (
    CropFlip,
    FaceAugment,
    RandomErasing,
    Squish,
    erasing_rectangle,
    jitter_light,
    keep_rectangle,
    lower_resolution,
    recompress,
)

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


@pytest.mark.parametrize('tag', 'abc')
def test_erasing_golden(golden, tag):
    d = golden('random_erasing')
    (height, width),p = d[f'hw_{tag}'].tolist(), float(d[f'prob_{tag}'])
    area,aspect = (float(d['sl']), float(d['sh'])), float(d['r1'])
    found = [erasing_rectangle(height, width, p, area, aspect, random.Random(s)) for s in d['seeds'].tolist()]
    assert [o or (-1,)*4 for o in found] == [tuple(o) for o in d[f'rect_{tag}'].tolist()]
    np.testing.assert_array_equal(RandomErasing().fill, d['fill'])


def test_erasing_draws_as_published():
    "The golden rectangles again, through the transform and Python's own generator"
    x = TensorImage(torch.full((1, 3, 64, 32), 9.))
    for seed in range(5):
        random.seed(seed)
        out = RandomErasing(1.)(x, split_idx=0)
        top,left,h,w = erasing_rectangle(64, 32, 1., rng=random.Random(seed))
        wanted = x.clone()
        wanted[0, :, top:top + h, left:left + w] = torch.tensor([.485, .456, .406])[:, None, None]
        assert torch.equal(out, wanted)
        assert (x == 9).all()


def test_erasing_a_batch():
    random.seed(0)
    x = TensorImage(torch.full((200, 3, 32, 16), 9.))
    out = RandomErasing(.5)(x, split_idx=0)
    erased = out != 9
    share = erased[:, 0].float().mean((1, 2))
    assert .4 < (share > 0).float().mean() < .6
    assert share[share > 0].min() > .01
    assert share.max() < .45
    assert torch.equal(erased[:, 0], erased[:, 1])
    assert len({tuple(o.nonzero()[0].tolist()) for o in erased[:, 0] if o.any()}) > 40
    for o in erased[:, 0]:  # a rectangle: as many as rows times columns
        assert o.sum() == o.any(0).sum()*o.any(1).sum()
    assert type(out) is TensorImage
    assert torch.equal(RandomErasing(1.)(x, split_idx=1), x)
    assert torch.equal(RandomErasing(0.)(x, split_idx=0), x)


def test_erasing_gives_up_on_what_does_not_fit():
    assert erasing_rectangle(100, 1, 1., area=(.9, .95), aspect=.9, rng=random.Random(0)) is None


@pytest.mark.parametrize('i', range(3))
def test_evaluation_picture_golden(golden, i):
    d = golden('eval_transform')
    img = PILImage.create(d[f'image{i}'])
    small = Squish(d['size'].tolist())(img)
    np.testing.assert_array_equal(np.asarray(small), d[f'resized_u8_{i}'])
    assert isinstance(small, PILImage)
    assert img.shape == d[f'image{i}'].shape[:2]
    x = TensorImage(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float()/255)
    out = Pipeline([CropFlip(), Normalize.from_stats(*imagenet_stats, cuda=False), RandomErasing(1.)], split_idx=1)(x)
    np.testing.assert_allclose(out[0].numpy(), d[f'out{i}'], atol=1e-6)


def test_squish_leaves_a_picture_of_that_size_alone():
    img = PILImage.create(np.zeros((32, 16, 3), np.uint8))
    assert Squish((32, 16))(img) is img
    assert Squish((16, 32))(img).size == (32, 16)


@pytest.mark.parametrize('p', [0., .5, 1.])
def test_crop_flip_naive(p):
    rng = torch.Generator().manual_seed(0)
    x = TensorImage(torch.rand(60, 3, 6, 5, generator=rng) + 1)
    torch.manual_seed(3)
    out = CropFlip(2, p)(x, split_idx=0)
    assert out.shape == x.shape
    assert type(out) is TensorImage
    assert out.is_contiguous()
    shifts,flips = set(), 0
    for before,after in zip(x, out):
        found = []
        for flip in (False, True):
            padded = torch.zeros(3, 10, 9)
            padded[:, 2:8, 2:7] = before.flip(2) if flip else before
            found += [(top, left, flip) for top in range(5) for left in range(5)
                      if torch.equal(padded[:, top:top + 6, left:left + 5], after)]
        (top, left, flip), = found
        shifts.add((top, left))
        flips += flip
    assert len(shifts) > 15
    assert {o for s in shifts for o in s} == set(range(5))
    assert flips == 60*p or (p == .5 and 15 < flips < 45)
    assert torch.equal(CropFlip(2, p)(x, split_idx=1), x)
    assert torch.equal(CropFlip(0, 0.)(x, split_idx=0), x)


def test_each_picture_of_a_batch_its_own():
    torch.manual_seed(0)
    x = TensorImage(torch.rand(1, 3, 16, 8).expand(16, -1, -1, -1))
    out = CropFlip()(x, split_idx=0)
    assert len({o.numpy().tobytes() for o in out}) > 10


@pytest.fixture
def faces():
    "Smooth pictures with detail, so that every change shows"
    torch.manual_seed(0)
    random.seed(0)
    x = F.interpolate(torch.rand(200, 3, 6, 6), (32, 28), mode='bilinear') + .1*torch.rand(200, 3, 32, 28)
    return TensorImage((x/1.1).to(DEVICE))


def test_a_rectangle_is_kept_where_it_was(faces):
    random.seed(3)
    out = keep_rectangle(faces)
    rng = random.Random(3)
    for a,b in zip(faces, out):
        top,left,h,w = erasing_rectangle(32, 28, 1., (.2, 1.), .75, rng) or (0, 0, 32, 28)
        wanted = torch.zeros_like(a)
        wanted[:, top:top + h, left:left + w] = a[:, top:top + h, left:left + w]
        assert torch.equal(b, wanted)
        assert .15 < h*w/(32*28) <= 1


def test_low_resolution_loses_detail_not_brightness(faces):
    out = lower_resolution(faces, (.25, .25))
    assert out.shape == faces.shape
    assert out.device == faces.device
    assert out.min() >= 0
    assert out.max() <= 1
    def detail(x): return (x[..., 1:] - x[..., :-1]).abs().mean()
    assert detail(out) < .7*detail(faces)
    assert (out.mean() - faces.mean()).abs() < .01
    assert torch.allclose(lower_resolution(faces, (1., 1.)), faces.as_subclass(torch.Tensor), atol=1e-5)
    # all ways of interpolating are drawn: as many results as there are pairs of them
    same = lower_resolution(faces[:1].expand(200, -1, -1, -1), (.5, .5))
    assert len({o.cpu().numpy().round(4).tobytes() for o in same}) >= 9


def test_recompressed_as_pil_does(faces):
    out = recompress(faces[:8], (30, 30))
    for a,b in zip(faces[:8], out):
        pixels,file = (a*255).round().byte().permute(1, 2, 0).cpu().numpy(), io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, 'JPEG', quality=30)
        wanted = np.asarray(Image.open(file).convert('RGB'), float)
        assert np.abs(b.permute(1, 2, 0).cpu().numpy()*255 - wanted).mean() < .01
    assert out.device == faces.device
    assert out.dtype == faces.dtype
    worse,better = ((recompress(faces[:40], (q, q)) - faces[:40]).abs().mean() for q in (10, 90))
    assert worse > 1.5*better > 0


def test_light_is_scaled_blended_and_bounded(faces):
    assert torch.allclose(jitter_light(faces, 0, 0, 0), faces, atol=1e-6)
    dim = faces*.6 + .05
    ratio = jitter_light(dim, .4, 0, 0)/dim
    assert torch.allclose(ratio, ratio[:, :1, :1, :1].expand_as(ratio), atol=1e-4)
    assert ratio.min() > .59
    assert ratio.max() < 1.41
    assert ratio.std() > .1
    grey = dim.mean(1, keepdim=True).expand_as(dim)
    assert torch.allclose(jitter_light(grey, 0, 0, .5), grey, atol=1e-4)  # nothing to saturate
    weights = torch.tensor([.299, .587, .114], device=dim.device)[:, None, None]
    a,b = ((o*weights).sum(1).mean((1, 2)) for o in (dim, jitter_light(dim, 0, .2, .2)))
    assert torch.allclose(a, b, atol=.02)  # contrast and saturation leave the brightness
    out = jitter_light(faces)
    assert out.min() >= 0
    assert out.max() <= 1
    assert type(FaceAugment(0, 0, 0, 1)(faces, split_idx=0)) is TensorImage


@pytest.mark.parametrize('kind', ['low_res', 'jpeg', 'crop', 'photometric'])
def test_each_change_has_its_chance(faces, kind):
    chances = dict.fromkeys(('low_res', 'jpeg', 'crop', 'photometric'), 0)
    before = faces.clone()
    changed = (FaceAugment(**{**chances, kind: .3})(faces, split_idx=0) != faces).flatten(1).any(1).float().mean()
    assert .18 < changed < .42
    assert torch.equal(faces, before)
    assert torch.equal(FaceAugment(**chances)(faces, split_idx=0), faces)
    augment = FaceAugment(1, 1, 1, 1)
    assert torch.equal(augment(faces, split_idx=1), faces)
    torch.manual_seed(5)
    random.seed(5)
    first = augment(faces[:5], split_idx=0)
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(first, augment(faces[:5], split_idx=0))
    assert first.shape == faces[:5].shape


@pytest.mark.parametrize(('name', 'value'), [('low_res', 1.1), ('jpeg', -.1), ('crop_area', (.5, .2)),
                                             ('jpeg_quality', (0, 50)), ('low_res_part', (.2, 1.2))])
def test_refusals_name_the_argument(name, value):
    with pytest.raises(ValueError, match=name): FaceAugment(**{name: value})


def test_blocks_take_it(make_table):
    table = make_table([3, 3, 3], size=(20, 16))
    def names(augment):
        kinds = [type(o) for o in recognition_block((20, 16), augment, erase=0).batch_tfms]
        return [o for o in kinds if o is not IntToFloatTensor]
    assert names(True) == [CropFlip, Normalize]
    assert names(False) == [Normalize]
    assert names('face') == [CropFlip, FaceAugment, Normalize]
    assert names([FaceAugment(low_res=0)]) == [FaceAugment, Normalize]
    assert recognition_block((20, 16), 'face').batch_tfms
    with pytest.raises(ValueError, match="augment='faces'"): recognition_block((20, 16), 'faces')
    dls = recognition_dataloaders(table, size=(20, 16), n_ids=3, n_imgs=2, augment=[FaceAugment(0, 0, 1, 0)], erase=0,
                                  stats=None, num_workers=0, device='cpu', seed=0)
    assert (dls.train.one_batch()[0] == 0).float().mean() > .1
    assert (dls.valid.one_batch()[0] == 0).float().mean() < .05
