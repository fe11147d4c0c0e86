"One picture made worse: the more, the greater the severity, by what is stated, and the same from the same generator"
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image

from qsd_fastai.data.degradations import DEGRADATIONS, degrade, degrade_random


def textured(height, width, mode='RGB'):
    "A picture with structure of several sizes"
    y,x = np.mgrid[:height, :width]/min(height, width)
    rng = np.random.default_rng(0)
    layers = [127 + 70*np.sin(9*x + 4*y + k) + 35*np.sin(40*x - 30*y + k) + rng.normal(0, 6, x.shape) for k in range(3)]
    return Image.fromarray(np.clip(np.stack(layers, 2), 0, 255).astype(np.uint8)).convert(mode)


def distance(a, b): return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()


@pytest.mark.parametrize('kind', DEGRADATIONS)
@pytest.mark.parametrize(('height', 'width', 'mode'), [(128, 64, 'RGB'), (160, 160, 'RGB'), (112, 112, 'L'),
                                                       (33, 17, 'RGB')])
def test_same_size_and_mode_and_worse_with_severity(kind, height, width, mode):
    img = textured(height, width, mode)
    before = np.asarray(img).copy()
    losses = []
    for severity in (0, .1, .35, .7, 1):
        out = degrade(img, kind, severity, np.random.default_rng(3))
        assert out.size == img.size
        assert out.mode == mode
        losses.append(distance(out, img))
    assert losses[0] == 0
    assert all(later >= earlier - 1e-9 for earlier,later in pairwise(losses)), losses
    assert losses[-1] > 12
    assert losses[-1] > 1.4*losses[1]
    assert (np.asarray(img) == before).all()


@pytest.mark.parametrize('kind', DEGRADATIONS)
def test_same_generator_same_pixels(kind):
    img = textured(96, 48)
    first,second = (degrade(img, kind, .6, np.random.default_rng(1)) for _ in range(2))
    assert distance(first, second) == 0


@pytest.mark.parametrize('kind', ['low_resolution', 'blur'])
def test_strength_follows_the_size(kind):
    "A large and a small copy of one scene look alike after degradation: shrunk to one size they nearly agree"
    large,small = textured(256, 128), textured(256, 128).resize((64, 128), Image.BOX)
    a,b = (degrade(img, kind, .7, np.random.default_rng(0)).resize((32, 64), Image.BOX) for img in (large, small))
    assert distance(a, b) < .35*distance(a, small.resize((32, 64), Image.BOX))


def test_low_resolution_goes_down_to_four_pixels():
    img = textured(128, 128)
    want = img.resize((4, 4), Image.BOX).resize((128, 128), Image.BICUBIC)
    assert distance(degrade(img, 'low_resolution', 1., np.random.default_rng(0)), want) == 0


@pytest.mark.parametrize('severity', [.2, .5, 1.])
def test_occlusion_covers_the_stated_share_and_grows(severity):
    img = textured(128, 64)
    changed = (np.asarray(degrade(img, 'occlusion', severity, np.random.default_rng(7))) != np.asarray(img)).any(2)
    assert changed.mean() == pytest.approx(.56*severity**.85, abs=.02)
    less = (np.asarray(degrade(img, 'occlusion', severity/2, np.random.default_rng(7))) != np.asarray(img)).any(2)
    assert (less & ~changed).sum() < 20


def test_noise_has_the_stated_spread_and_darkness_the_stated_gain():
    grey = Image.new('RGB', (200, 200), (128, 128, 128))
    noisy = np.asarray(degrade(grey, 'noise', .4, np.random.default_rng(0)), dtype=float)
    assert noisy.std() == pytest.approx(200*.4**2, rel=.05)
    dark = np.asarray(degrade(grey, 'darkness', .5, np.random.default_rng(0)), dtype=float)
    assert dark.mean() == pytest.approx(128*.04**.5**.8, rel=.03)


def test_refusals_name_the_argument():
    img,rng = textured(32, 32), np.random.default_rng(0)
    with pytest.raises(ValueError, match=r'fog.*low_resolution'): degrade(img, 'fog', .5, rng)
    for bad in (-.1, 1.1, float('nan')):
        with pytest.raises(ValueError, match='severity'): degrade(img, 'blur', bad, rng)
    with pytest.raises(ValueError, match='RGBA'): degrade(img.convert('RGBA'), 'blur', .5, rng)


def test_random_degradation_reports_what_it_did():
    img,rng = textured(64, 32), np.random.default_rng(0)
    done = [degrade_random(img, rng) for _ in range(600)]
    severities = np.array([severity for _,_,severity in done])
    assert (severities < .15).mean() == pytest.approx(.4, abs=.06)
    assert severities.max() > .95
    assert {kind for _,kind,_ in done} == {'none', *DEGRADATIONS}
    for _,kind,severity in done: assert (kind == 'none') == (severity == 0)
    assert all(distance(out, img) == 0 for out,kind,_ in done if kind == 'none')
    assert {kind for _,kind,_ in (degrade_random(img, rng, kinds=('blur',), clean=0) for _ in range(9))} == {'blur'}
