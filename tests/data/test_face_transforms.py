"Changes to training faces, against plain loops and PIL"
import io
import random

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from fastai.data.transforms import IntToFloatTensor, Normalize
from fastai.vision.core import TensorImage
from PIL import Image

from qsd_fastai.data.loaders import recognition_block, recognition_dataloaders
from qsd_fastai.data.transforms import CropFlip, FaceAugment, erasing_rectangle, jitter_light, keep_rectangle, lower_resolution, recompress

DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'


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
        assert torch.equal(b, wanted) and .15 < h*w/(32*28) <= 1


def test_low_resolution_loses_detail_not_brightness(faces):
    out = lower_resolution(faces, (.25, .25))
    assert out.shape == faces.shape and out.device == faces.device and out.min() >= 0 and out.max() <= 1
    def detail(x): return (x[..., 1:] - x[..., :-1]).abs().mean()
    assert detail(out) < .7*detail(faces) and (out.mean() - faces.mean()).abs() < .01
    assert torch.allclose(lower_resolution(faces, (1., 1.)), faces.as_subclass(torch.Tensor), atol=1e-5)
    # All ways of interpolating are drawn: as many results as there are pairs of them.
    same = lower_resolution(faces[:1].expand(200, -1, -1, -1), (.5, .5))
    assert len({o.cpu().numpy().round(4).tobytes() for o in same}) >= 9


def test_recompressed_as_pil_does(faces):
    out = recompress(faces[:8], (30, 30))
    for a,b in zip(faces[:8], out):
        pixels,file = (a*255).round().byte().permute(1, 2, 0).cpu().numpy(), io.BytesIO()
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, 'JPEG', quality=30)
        wanted = np.asarray(Image.open(file).convert('RGB'), float)
        assert np.abs(b.permute(1, 2, 0).cpu().numpy()*255 - wanted).mean() < .01
    assert out.device == faces.device and out.dtype == faces.dtype
    worse,better = ((recompress(faces[:40], (q, q)) - faces[:40]).abs().mean() for q in (10, 90))
    assert worse > 1.5*better > 0


def test_light_is_scaled_blended_and_bounded(faces):
    assert torch.allclose(jitter_light(faces, 0, 0, 0), faces, atol=1e-6)
    dim = faces*.6 + .05
    ratio = jitter_light(dim, .4, 0, 0)/dim
    assert torch.allclose(ratio, ratio[:, :1, :1, :1].expand_as(ratio), atol=1e-4) and ratio.min() > .59 and ratio.max() < 1.41 and ratio.std() > .1
    grey = dim.mean(1, keepdim=True).expand_as(dim)
    assert torch.allclose(jitter_light(grey, 0, 0, .5), grey, atol=1e-4)  # nothing to saturate
    weights = torch.tensor([.299, .587, .114], device=dim.device)[:, None, None]
    a,b = ((o*weights).sum(1).mean((1, 2)) for o in (dim, jitter_light(dim, 0, .2, .2)))
    assert torch.allclose(a, b, atol=.02)  # contrast and saturation leave the brightness
    out = jitter_light(faces)
    assert out.min() >= 0 and out.max() <= 1 and type(FaceAugment(0, 0, 0, 1)(faces, split_idx=0)) is TensorImage


@pytest.mark.parametrize('kind', ['low_res', 'jpeg', 'crop', 'photometric'])
def test_each_change_has_its_chance(faces, kind):
    chances = dict.fromkeys(('low_res', 'jpeg', 'crop', 'photometric'), 0)
    before = faces.clone()
    changed = (FaceAugment(**{**chances, kind: .3})(faces, split_idx=0) != faces).flatten(1).any(1).float().mean()
    assert .18 < changed < .42 and torch.equal(faces, before)
    assert torch.equal(FaceAugment(**chances)(faces, split_idx=0), faces)
    augment = FaceAugment(1, 1, 1, 1)
    assert torch.equal(augment(faces, split_idx=1), faces)
    torch.manual_seed(5)
    random.seed(5)
    first = augment(faces[:5], split_idx=0)
    torch.manual_seed(5)
    random.seed(5)
    assert torch.equal(first, augment(faces[:5], split_idx=0)) and first.shape == faces[:5].shape


@pytest.mark.parametrize(('name', 'value'), [('low_res', 1.1), ('jpeg', -.1), ('crop_area', (.5, .2)), ('jpeg_quality', (0, 50)),
                                             ('low_res_part', (.2, 1.2))])
def test_refusals_name_the_argument(name, value):
    with pytest.raises(ValueError, match=name): FaceAugment(**{name: value})


def test_blocks_take_it(make_table):
    table = make_table([3, 3, 3], size=(20, 16))
    def names(augment): return [type(o) for o in recognition_block((20, 16), augment, erase=0).batch_tfms if type(o) is not IntToFloatTensor]
    assert names(True) == [CropFlip, Normalize] and names(False) == [Normalize] and names('face') == [CropFlip, FaceAugment, Normalize]
    assert names([FaceAugment(low_res=0)]) == [FaceAugment, Normalize] and recognition_block((20, 16), 'face').batch_tfms
    with pytest.raises(ValueError, match="augment='faces'"): recognition_block((20, 16), 'faces')
    dls = recognition_dataloaders(table, size=(20, 16), n_ids=3, n_imgs=2, augment=[FaceAugment(0, 0, 1, 0)], erase=0, stats=None, num_workers=0,
                                  device='cpu', seed=0)
    assert (dls.train.one_batch()[0] == 0).float().mean() > .1 and (dls.valid.one_batch()[0] == 0).float().mean() < .05
