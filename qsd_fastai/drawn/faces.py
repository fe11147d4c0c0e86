"Generated faces: a small set for face recognition with pairs, drawn, with the true quality of every picture"
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image, ImageFilter

from ..data.pairs import write_pairs
from .face import draw_face
from .face_traits import face_look_alike, random_face_traits
from .face_view import random_view
from .sets import refuse_small, rng_of, write_generated

__all__ = ['draw_face_picture', 'drawn_pairs', 'generate_faces']

_VERSION = 1 # Of the drawing: another number is another data set
_STREAM = 16 # People use seeds (seed, 1 to 4, ...): no picture of one set shares its source with the other


def _background(size, rng):
    "A wall or a place far behind, out of focus"
    shape,spread = rng.integers(2, 7, 2), rng.uniform(4, 40)
    coarse = rng.uniform(60, 215) + rng.normal(0, 14, 3) + rng.normal(0, spread, (*shape, 1))
    coarse = coarse + rng.normal(0, .3*spread, (*shape, 3))
    img = Image.fromarray(np.clip(coarse, 0, 255).astype(np.uint8)).resize(size[::-1], Image.BICUBIC)
    return np.ascontiguousarray(np.asarray(img, np.float32).transpose(2, 0, 1))/255


def _expose(pixels, rng):
    "What the camera does to the light: contrast, brightness, a little blur and grain"
    gamma,lift = rng.uniform(.75, 1.25), rng.uniform(0, .06)
    curve = [round(255*(lift + (1 - lift)*(k/255)**gamma)) for k in range(256)]
    pixels = (np.clip(pixels, 0, 1)*255 + .5).astype(np.uint8).transpose(1, 2, 0)
    img = Image.fromarray(np.ascontiguousarray(pixels)).point(curve*3)
    if rng.random() < .5: img = img.filter(ImageFilter.BoxBlur(rng.uniform(.2, .8)*min(img.size)/112))
    grain = (rng.random((img.height, img.width, 1), np.float32) - .5)*float(rng.uniform(3, 17)) + .5
    return Image.fromarray(np.clip(np.asarray(img) + grain, 0, 255).astype(np.uint8))


def draw_face_picture(
    traits,                  # Who, `FaceTraits`
    size:tuple[int, int],    # `(height, width)`, pixels
    rng:np.random.Generator, # Source of all that differs between two pictures of one face
    pose:float=1.,           # How far heads turn, as in `random_view`
    jitter:float=1.,         # How far the alignment is off, as in `random_view`
)->Image.Image: # RGB
    "One aligned picture of a face, before any degradation"
    view,background = random_view(rng, pose, jitter), _background(size, rng)
    grain = rng.random(size, np.float32)
    return _expose(draw_face(traits, view, size, background, grain), rng)


def _identity(seed, i, first, look_alikes):
    "Traits of identity `i`; some resemble the one before them, of the same part of the data set (from `first` on)"
    rng = rng_of(seed, _STREAM + 2, i)
    if i > first and rng.random() < look_alikes: return face_look_alike(_identity(seed, i - 1, first, look_alikes), rng)
    return random_face_traits(rng)


def _draw(i, k, seed, size, pose, jitter, first, look_alikes):
    "Picture `k` of identity `i`"
    rng = rng_of(seed, _STREAM + 3, i, k)
    traits = _identity(seed, i, 0 if i < first else first, look_alikes)
    return draw_face_picture(traits, size, rng, pose, jitter), rng


def drawn_pairs(
    table:pd.DataFrame, # Path, identity, split; the pictures of `query` and `gallery` are compared
    each:int=12,        # Pairs of one person, and as many of two, that an identity gives at most
    n_folds:int=10,     # Each identity is in one fold only; fewer where a fold would have less than two identities
    seed:int=0,         # Same seed, same pairs
)->pd.DataFrame: # Path1, path2, same, fold; half of the pairs show one person
    "Verification pairs of held-out identities, folds by identity; ValueError where fewer than two have two pictures"
    held = table[table['split'] != 'train']
    held = held[held.groupby('identity')['path'].transform('size') > 1].sort_values(['identity', 'path'])
    if held['identity'].nunique() < 2:
        raise ValueError('Fewer than two held-out identities have two pictures. There is nobody to compare with.')
    rng,rows = np.random.default_rng([seed, 5]), []
    people = rng.permutation(held['identity'].unique().astype(object))
    n_folds = min(n_folds, len(people)//2)
    for fold in range(n_folds):
        inside = held[held['identity'].isin(people[fold::n_folds])]
        paths = inside['path'].to_numpy(object)
        who = pd.factorize(inside['identity'])[0]
        first,second = np.triu_indices(len(who), 1)
        order = rng.permutation(len(first))
        first,second = first[order], second[order]
        same = who[first] == who[second]
        genuine,impostor = np.flatnonzero(same), np.flatnonzero(~same)
        of = who[first[genuine]]
        genuine = genuine[pd.Series(of).groupby(of).cumcount() < each][:len(impostor)]
        chosen = np.concatenate([genuine, impostor[:len(genuine)]])
        one,other = paths[first[chosen]], paths[second[chosen]]
        rows.append(pd.DataFrame({'path1': one, 'path2': other, 'same': same[chosen], 'fold': fold}))
    return pd.concat(rows, ignore_index=True)


def _write_pairs(table, folder, each, n_folds, seed):
    if not (table['split'] != 'train').any(): return
    write_pairs(drawn_pairs(table, each, n_folds, seed), folder/'pairs.csv', table)


def generate_faces(
    folder,                          # Where `images.csv`, `images.json`, `pairs.csv` and `images/` go; made if missing
    n_train:int=120,                 # Identities to train on
    n_test:int=60,                   # Other identities, to be verified and retrieved; 0 or at least 2
    n_imgs:int=12,                   # Pictures of each training identity
    n_test_imgs:int=8,               # Pictures of each test identity, two of them queries; at least 4
    size:tuple[int, int]=(112, 112), # `(height, width)`, pixels
    look_alikes:float=.35,           # Share of identities with two thirds of their traits from another one, 0 to 1
    pose:float=1.,                   # How far heads turn, as in `random_view`, 0 to 2
    jitter:float=1.,                 # How far the alignment is off, as in `random_view`
    pairs_each:int=12,               # Pairs of one person, and as many of two, that a test identity gives at most
    n_folds:int=10,                  # Of the pairs
    seed:int=0,                      # Same seed, same pictures
    workers:int=0,                   # Processes that draw; 0: this one
    progress:bool=True,              # Show a bar
)->pd.DataFrame: # Path, identity, camera (unknown), split, quality (unknown), true_quality 0 to 100, degradation
    """Write a set of drawn, roughly aligned faces with pairs, and return its table; that of an existing set as it is.

    `true_quality` is that of the degradation alone: how far a head turns does not lower it.
    ValueError if the folder holds another table, or an argument is out of range."""
    refuse_small(('n_train', n_train, 1), ('n_test', n_test, 0), ('n_imgs', n_imgs, 2), ('n_test_imgs', n_test_imgs, 4),
                 ('size', min(size), 32), ('pose', pose, 0), ('jitter', jitter, 0), ('pairs_each', pairs_each, 1),
                 ('n_folds', n_folds, 1), ('seed', seed, 0), ('workers', workers, 0))
    if n_test == 1: raise ValueError('n_test=1 leaves nobody to compare with. Use 0, or 2 or more.')
    if pose > 2: raise ValueError(f'pose={pose} turns faces away. Use 2 or less.')
    if not 0 <= look_alikes <= 1:
        raise ValueError(f'look_alikes={look_alikes} is out of range. Use a share from 0 to 1.')
    if not 2/3 <= size[0]/size[1] <= 1.5:
        raise ValueError(f'size={tuple(size)} is too narrow for a face. It is (height, width).')
    folder = Path(folder)
    record = {'source': 'generate_faces', 'version': _VERSION, 'n_train': n_train, 'n_test': n_test, 'n_imgs': n_imgs,
              'n_test_imgs': n_test_imgs, 'size': list(size), 'look_alikes': look_alikes, 'pose': pose,
              'jitter': jitter, 'pairs_each': pairs_each, 'n_folds': n_folds, 'seed': seed}
    rows = [(i, k) for i in range(n_train + n_test) for k in range(n_imgs if i < n_train else n_test_imgs)]
    table = pd.DataFrame({'path': [f'images/{i:05d}_{k:03d}.jpg' for i,k in rows],
                          'identity': [f'f{i:05d}' for i,_ in rows], 'camera': '',
                          'split': ['train' if i < n_train else 'query' if k < 2 else 'gallery' for i,k in rows]})
    draw = partial(_draw, seed=seed, size=tuple(size), pose=pose, jitter=jitter, first=n_train, look_alikes=look_alikes)
    finish = partial(_write_pairs, folder=folder, each=pairs_each, n_folds=n_folds, seed=seed)
    return write_generated(folder, table, draw, rows, record, finish, workers, progress)
