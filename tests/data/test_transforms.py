"Changes to training pictures, against the published ones and against plain loops"
import random

import numpy as np
import pytest
import torch
from fastai.data.transforms import Normalize
from fastai.vision.core import PILImage, TensorImage, imagenet_stats
from fasttransform import Pipeline

from qsd_fastai.data.transforms import CropFlip, RandomErasing, Squish, erasing_rectangle


@pytest.mark.parametrize('tag', 'abc')
def test_erasing_golden(golden, tag):
    d = golden('random_erasing')
    (height, width),p = d[f'hw_{tag}'].tolist(), float(d[f'prob_{tag}'])
    found = [erasing_rectangle(height, width, p, (float(d['sl']), float(d['sh'])), float(d['r1']), random.Random(s)) for s in d['seeds'].tolist()]
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
        assert torch.equal(out, wanted) and (x == 9).all()


def test_erasing_a_batch():
    random.seed(0)
    x = TensorImage(torch.full((200, 3, 32, 16), 9.))
    out = RandomErasing(.5)(x, split_idx=0)
    erased = out != 9
    share = erased[:, 0].float().mean((1, 2))
    assert .4 < (share > 0).float().mean() < .6 and share[share > 0].min() > .01 and share.max() < .45
    assert torch.equal(erased[:, 0], erased[:, 1]) and len({tuple(o.nonzero()[0].tolist()) for o in erased[:, 0] if o.any()}) > 40
    for o in erased[:, 0]:  # a rectangle: as many as rows times columns
        assert o.sum() == o.any(0).sum()*o.any(1).sum()
    assert type(out) is TensorImage and torch.equal(RandomErasing(1.)(x, split_idx=1), x) and torch.equal(RandomErasing(0.)(x, split_idx=0), x)


def test_erasing_gives_up_on_what_does_not_fit():
    assert erasing_rectangle(100, 1, 1., area=(.9, .95), aspect=.9, rng=random.Random(0)) is None


@pytest.mark.parametrize('i', range(3))
def test_evaluation_picture_golden(golden, i):
    d = golden('eval_transform')
    img = PILImage.create(d[f'image{i}'])
    small = Squish(d['size'].tolist())(img)
    np.testing.assert_array_equal(np.asarray(small), d[f'resized_u8_{i}'])
    assert isinstance(small, PILImage) and img.shape == d[f'image{i}'].shape[:2]
    x = TensorImage(torch.from_numpy(np.array(small)).permute(2, 0, 1)[None].float()/255)
    out = Pipeline([CropFlip(), Normalize.from_stats(*imagenet_stats, cuda=False), RandomErasing(1.)], split_idx=1)(x)
    np.testing.assert_allclose(out[0].numpy(), d[f'out{i}'], atol=1e-6)


def test_squish_leaves_a_picture_of_that_size_alone():
    img = PILImage.create(np.zeros((32, 16, 3), np.uint8))
    assert Squish((32, 16))(img) is img and Squish((16, 32))(img).size == (32, 16)


@pytest.mark.parametrize('p', [0., .5, 1.])
def test_crop_flip_naive(p):
    rng = torch.Generator().manual_seed(0)
    x = TensorImage(torch.rand(60, 3, 6, 5, generator=rng) + 1)
    torch.manual_seed(3)
    out = CropFlip(2, p)(x, split_idx=0)
    assert out.shape == x.shape and type(out) is TensorImage and out.is_contiguous()
    shifts,flips = set(), 0
    for before,after in zip(x, out):
        found = []
        for flip in (False, True):
            padded = torch.zeros(3, 10, 9)
            padded[:, 2:8, 2:7] = before.flip(2) if flip else before
            found += [(top, left, flip) for top in range(5) for left in range(5) if torch.equal(padded[:, top:top + 6, left:left + 5], after)]
        (top, left, flip), = found
        shifts.add((top, left))
        flips += flip
    assert len(shifts) > 15 and {o for s in shifts for o in s} == set(range(5))
    assert flips == 60*p or (p == .5 and 15 < flips < 45)
    assert torch.equal(CropFlip(2, p)(x, split_idx=1), x)
    assert torch.equal(CropFlip(0, 0.)(x, split_idx=0), x)


def test_each_picture_of_a_batch_its_own():
    torch.manual_seed(0)
    x = TensorImage(torch.rand(1, 3, 16, 8).expand(16, -1, -1, -1))
    out = CropFlip()(x, split_idx=0)
    assert len({o.numpy().tobytes() for o in out}) > 10
