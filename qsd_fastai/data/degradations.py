"""Ways in which a camera makes a picture worse, each with one severity from 0 to 1.

The strengths were set by experiment, so that a severity means the same for every kind: a small network, trained on
generated people with all of these, loses a tenth of its mean average precision at severity 0.6, a quarter at 0.8 and
half at 1 (clean gallery)."""
import io

import numpy as np
from PIL import Image, ImageFilter

__all__ = ['DEGRADATIONS', 'SIDE', 'degrade', 'degrade_random', 'shrink']

DEGRADATIONS = ('low_resolution', 'blur', 'noise', 'jpeg', 'darkness', 'occlusion')

# strengths are stated for a picture of this geometric mean side (128 x 64) and grow with the picture
SIDE = 90.5


def _as_array(
    img:Image.Image, # Any mode
)->np.ndarray: # Float32, (height, width) or (height, width, channels)
    "The pixels as float"
    return np.asarray(img, dtype=np.float32)


def _as_image(
    pixels:np.ndarray, # Float, nominally 0 to 255
    img:Image.Image,   # Picture that gives the mode
)->Image.Image: # Same size and mode as `img`
    "Rounded and clipped pixels as a picture"
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _shrunk(
    img:Image.Image, # Picture
    side:float,      # Geometric mean side to shrink to, pixels
)->Image.Image: # Smaller picture of the same shape
    "The picture at a smaller size, averaging what is lost"
    ratio = min(1., side/(img.width*img.height)**.5)
    return img.resize((max(1, round(img.width*ratio)), max(1, round(img.height*ratio))), Image.BOX)


def _low_resolution(img, severity, rng, scale):
    "A far person or face: shrunk to as little as 4 x 4 pixels' worth and enlarged again"
    side = SIDE*scale
    return _shrunk(img, side*min(1., 4/side)**severity**.6).resize(img.size, Image.BICUBIC)


def _blur(img, severity, rng, scale):
    "Out of focus: a Gaussian whose width grows with the picture"
    return img.filter(ImageFilter.GaussianBlur(10*scale*severity**1.6))


def _noise(img, severity, rng, scale):
    "Sensor gain: grain of the same apparent size in small and large pictures, mostly in the brightness"
    width,height = (max(1, round(n/max(scale, 1))) for n in img.size)
    n = len(img.getbands())
    grain = np.repeat(rng.normal(size=(height, width, 1)), n, 2)*.8 + rng.normal(size=(height, width, n))*.6
    if (width, height) != img.size:
        bands = (Image.fromarray(g.astype(np.float32)) for g in np.moveaxis(grain, 2, 0))
        grain = np.stack([np.asarray(g.resize(img.size, Image.NEAREST)) for g in bands], 2)
    pixels = _as_array(img)
    return _as_image(pixels + 200*severity**2*grain.reshape(pixels.shape), img)


def _jpeg(img, severity, rng, scale):
    "A starved video stream: the encoder lowers its quality and, further down, the size of its picture"
    file = io.BytesIO()
    small = _shrunk(img, SIDE*scale/(2**severity**6*max(scale, 1.)**severity))
    small.save(file, 'JPEG', quality=round(5 + 85*(1 - severity)**2.2))
    return Image.open(file).convert(img.mode).resize(img.size, Image.BICUBIC)


def _darkness(img, severity, rng, scale):
    "Night: fewer and fewer of the 256 levels remain, under a noise that stays"
    pixels = _as_array(img)
    return _as_image(pixels*.04**severity**.8 + 2.5*severity*rng.normal(size=pixels.shape), img)


def _occlusion(img, severity, rng, scale):
    "Something in front: a soft-shaded object enters from one side and covers up to a good half"
    pixels = _as_array(img)
    height,width = pixels.shape[:2]
    side = rng.integers(3)
    slope,tone = rng.uniform(-.25, .25), rng.uniform(40, 170)
    colour = tone + rng.normal(0, 18, size=pixels.shape[2:])
    y,x = np.meshgrid((np.arange(height) + .5)/height, (np.arange(width) + .5)/width, indexing='ij')
    depth,along = ((x, y), (1 - x, y), (1 - y, x))[side]
    depth = depth + slope*(along - .5)
    # the quantile makes the covered share exact for any shape of edge, and the covered sets nested as severity grows
    covered = depth <= np.quantile(depth, .56*severity**.85)
    shade = .75 + .4*along + rng.normal(size=along.shape)*.03
    shape = shade.shape + (1,)*(pixels.ndim - 2)
    return _as_image(np.where(covered.reshape(shape), shade.reshape(shape)*colour, pixels), img)


_WAYS = dict(zip(DEGRADATIONS, (_low_resolution, _blur, _noise, _jpeg, _darkness, _occlusion)))


def degrade(
    img:Image.Image,         # Picture, mode RGB or L
    kind:str,                # One of `DEGRADATIONS`
    severity:float,          # 0 (pixels unchanged) to 1 (hardly anything left); comparable between kinds
    rng:np.random.Generator, # Source of the randomness of noise, darkness and occlusion
)->Image.Image: # Worse picture of the same size and mode
    "Make a picture worse in one way; strength follows the size of the picture. ValueError names a wrong argument"
    if kind not in _WAYS: raise ValueError(f'kind={kind!r} is no degradation. Use one of {", ".join(DEGRADATIONS)}.')
    if not 0 <= severity <= 1: raise ValueError(f'severity={severity!r} is out of range. Use a number from 0 to 1.')
    if img.mode not in ('RGB', 'L'): raise ValueError(f'img has mode {img.mode!r}. Use img.convert("RGB").')
    if severity == 0: return img.copy()
    return _WAYS[kind](img, float(severity), rng, (img.width*img.height)**.5/SIDE)


def degrade_random(
    img:Image.Image,                    # Picture, mode RGB or L
    rng:np.random.Generator,            # Source of all randomness
    kinds:tuple[str, ...]=DEGRADATIONS, # Kinds to draw from, equally likely
    clean:float=.4,                     # Share of pictures left nearly clean, 0 to 1
    nearly:float=.15,                   # Severity that is nearly clean; the rest is drawn evenly from there to 1
)->tuple[Image.Image, str, float]: # Picture, kind ('none' if untouched), severity 0 to 1
    "Make a picture worse in a random way by a random amount"
    kind = kinds[rng.integers(len(kinds))]
    severity = rng.uniform(0, nearly) if rng.random() < clean else rng.uniform(nearly, 1)
    if severity < nearly/3: return img.copy(), 'none', 0.
    return degrade(img, kind, severity, rng), kind, float(severity)


def shrink(
    img:Image.Image, # Picture, mode RGB or L
    side:int,        # Pixels that are left of its shorter side
)->Image.Image: # Same size and mode, with the detail of the small one
    """A picture taken from so far that its shorter side had `side` pixels: averaged down, and enlarged again (bicubic).

    Unchanged if it has no more pixels than that. ValueError if `side` is below 1."""
    if not side >= 1: raise ValueError(f'side={side!r} leaves no picture. Use 1 pixel or more.')
    least = min(img.size)
    if side >= least: return img.copy()
    small = tuple(max(1, round(s*side/least)) for s in img.size)
    return img.resize(small, Image.BOX).resize(img.size, Image.BICUBIC)
