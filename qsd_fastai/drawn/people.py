"Generated people: a small set for person re-identification, drawn, with the true quality of every picture"
import math
from functools import partial

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from .person import draw_person
from .person_traits import look_alike, random_traits
from .scenes import HIGH, WIDE, scene_camera
from .sets import refuse_small, rng_of, write_generated

__all__ = ['draw_picture', 'generate_people']

_PERSON = 200 # How tall a person is in a painted scene, pixels of the scene
_VERSION = 1 # Of the drawing: another number is another data set


def draw_picture(
    traits,                  # Who
    camera:dict,             # Where, of `scene_camera`
    size:tuple[int, int],    # `(height, width)`, pixels
    rng:np.random.Generator, # Source of all that differs between two pictures of one person at one camera
)->Image.Image: # RGB
    "One detection of one person at one camera, before any degradation"
    h,w = size
    # what the detector cut out: never quite the person
    unit = h*.9*rng.uniform(.86, 1.12)/1.02
    x = w*(.5 + rng.normal(0, .06))
    y = h*.955 + .5*(unit - .9*h) + h*rng.normal(0, .022)
    zoom = unit/_PERSON
    left = rng.uniform(0, WIDE - w/zoom - 1)
    top = (HIGH - 40 - y/zoom) + rng.uniform(-25, 25)
    top = max(0., min(top, HIGH - h/zoom))
    box = left, top, min(WIDE, left + w/zoom), min(HIGH, top + h/zoom)
    img = camera['scene'].resize((w, h), Image.BILINEAR, box=box)
    pixels = np.asarray(img, dtype=np.float32)*rng.uniform(.85, 1.12)
    yy,xx = np.mgrid[:h, :w].astype(np.float32)
    # people at one camera mostly follow its path, in one direction or the other
    yaw = camera['heading'] + 180*rng.integers(2) + rng.normal(0, 28)
    pitch,light = camera['pitch'], camera['light']
    def put(pixels, who, x, y, unit, yaw):
        reach,deep = light*.12*unit, (.03 + .08*math.sin(pitch))*unit
        shadow = np.exp(-(((xx - x + reach)/(.15*unit))**2 + ((yy - y)/deep)**2))[..., None]
        phase = rng.uniform(0, 2*math.pi)
        colour,cover = draw_person(who, size, (x, y), unit, yaw, pitch, phase, rng, light)
        return pixels*(1 - .5*shadow)*(1 - cover) + colour
    if rng.random() < .18:
        side = rng.choice((-1, 1))
        pixels = put(pixels, random_traits(rng), w/2 + side*w*rng.uniform(.42, .62), y - h*rng.uniform(.02, .1),
                     unit*rng.uniform(.8, .95), rng.uniform(0, 360))
    pixels = put(pixels, traits, x, y, unit, yaw)
    return _expose(pixels, camera, rng, (xx/w, yy/h))


def _expose(pixels, camera, rng, place):
    "What the lens, the light and the sensor of the camera do to the scene"
    tilt = rng.normal(0, .1, 2)
    fall = (1 + tilt[0]*(place[0] - .5) + tilt[1]*(place[1] - .5))[..., None]
    pixels = pixels/255*fall*math.exp(rng.normal(0, .13))
    grey = pixels.mean(2, keepdims=True)
    pixels = (grey + (pixels - grey)*camera['saturation'])*camera['gain']*(1 + rng.normal(0, .025, 3))
    pixels = np.clip((pixels - .45)*camera['contrast'] + .45, 0, 1)**camera['gamma']
    blur = ImageFilter.GaussianBlur(camera['soft']*rng.uniform(.5, 1.5))
    img = Image.fromarray((pixels*255).astype(np.uint8)).filter(blur)
    pixels = np.asarray(img) + rng.normal(0, camera['noise'], (img.height, img.width, 1))
    return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def _identity(seed, i, first, look_alikes):
    "Traits of identity `i`; some resemble the one before them, of the same part of the data set (from `first` on)"
    rng = rng_of(seed, 2, i)
    if i > first and rng.random() < look_alikes: return look_alike(_identity(seed, i - 1, first, look_alikes), rng)
    return random_traits(rng)


def _draw(i, cam, k, seed, size, first, look_alikes):
    "Picture `k` of identity `i` at camera `cam`"
    rng = rng_of(seed, 3, i, k)
    traits = _identity(seed, i, 0 if i < first else first, look_alikes)
    return draw_picture(traits, scene_camera(seed, cam), size, rng), rng


def _name(i, cam, k): return f'images/{i:04d}_c{cam + 1}_{k:02d}.jpg'


def generate_people(
    folder,                         # Where `images.csv`, `images.json` and `images/` go; made if missing
    n_train:int=100,                # Identities to train on
    n_test:int=50,                  # Other identities, to be retrieved
    n_imgs:int=12,                  # Pictures of each training identity
    n_test_imgs:int=8,              # Pictures of each test identity, two of them queries; at least 4
    n_cameras:int=6,                # At least 2
    size:tuple[int, int]=(128, 64), # `(height, width)`, pixels
    look_alikes:float=.35,          # Share of identities that differ in three traits only from another one, 0 to 1
    seed:int=0,                     # Same seed, same pictures
    workers:int=0,                  # Processes that draw; 0: this one
    progress:bool=True,             # Show a bar
)->pd.DataFrame: # Path, identity, camera, split, quality (unknown), true_quality 0 to 100, degradation
    """Write a set of drawn pedestrians seen by several cameras, and return its table; that of an existing set as it is.

    ValueError if the folder holds another table, or an argument is out of range."""
    refuse_small(('n_train', n_train, 1), ('n_test', n_test, 0), ('n_imgs', n_imgs, 2), ('n_test_imgs', n_test_imgs, 4),
                 ('n_cameras', n_cameras, 2), ('size', min(size), 16), ('seed', seed, 0), ('workers', workers, 0))
    if not 0 <= look_alikes <= 1:
        raise ValueError(f'look_alikes={look_alikes} is out of range. Use a share from 0 to 1.')
    if size[1] > 1.5*size[0]:
        raise ValueError(f'size={tuple(size)} is too wide for a standing person. It is (height, width).')
    record = {'source': 'generate_people', 'version': _VERSION, 'n_train': n_train, 'n_test': n_test, 'n_imgs': n_imgs,
              'n_test_imgs': n_test_imgs, 'n_cameras': n_cameras, 'size': list(size), 'look_alikes': look_alikes,
              'seed': seed}
    rows,splits = _plan(n_train, n_test, n_imgs, n_test_imgs, n_cameras, seed)
    table = pd.DataFrame({'path': [_name(*r) for r in rows], 'identity': [f'p{i:04d}' for i,_,_ in rows],
                          'camera': [f'c{cam + 1}' for _,cam,_ in rows], 'split': splits})
    draw = partial(_draw, seed=seed, size=tuple(size), first=n_train, look_alikes=look_alikes)
    return write_generated(folder, table, draw, rows, record, workers=workers, progress=progress)


def _plan(n_train, n_test, n_imgs, n_test_imgs, n_cameras, seed):
    "Which picture shows whom, where, and in which split: ((identity, camera, number), ...) and the splits"
    rows,splits = [],[]
    for i in range(n_train + n_test):
        rng,n = rng_of(seed, 4, i), (n_imgs if i < n_train else n_test_imgs)
        cams = rng.permutation(n_cameras)[:min(n_cameras, max(2, n//2))]
        rows += [(i, int(cams[k % len(cams)]), k) for k in range(n)]
        # the first two pictures are of two cameras; the third or fourth answers each of them from the other one
        splits += ['train']*n if i < n_train else ['query']*2 + ['gallery']*(n - 2)
    return rows, splits
