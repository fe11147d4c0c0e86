"What stays with a generated face from picture to picture: shape, skin, hair, features, marks, beard, glasses"
from dataclasses import dataclass, fields, replace

import numpy as np

__all__ = ['FaceTraits', 'face_look_alike', 'random_face_traits']

SKIN = ((246, 212, 190), (232, 188, 158), (214, 164, 130), (188, 134, 100), (150, 102, 74), (112, 74, 54), (84, 56, 42))
HAIR = ((26, 22, 22), (44, 32, 26), (78, 54, 36), (116, 82, 50), (190, 152, 92), (150, 74, 36), (150, 148, 146),
        (214, 212, 208))
IRIS = ((72, 46, 30), (92, 62, 38), (56, 40, 32), (112, 100, 60), (84, 116, 84), (92, 128, 160), (128, 142, 152))
FRAME = ((24, 24, 26), (70, 44, 30), (120, 120, 126), (170, 140, 70), (120, 30, 40), (40, 56, 96))
# a word that stands several times is that much more common
STYLE = ('short', 'short', 'fringe', 'parted', 'receding', 'buzz', 'bald', 'curly', 'long', 'long', 'parted long',
         'fringe long')
BEARD = ('none', 'none', 'none', 'none', 'stubble', 'full', 'moustache', 'goatee')
GLASSES = ('none', 'none', 'none', 'round', 'square')


@dataclass(frozen=True)
class FaceTraits:
    "The lasting traits of one face; lengths are in half widths of an average head, colours are RGB, 0 to 255"
    width: float                # Of the whole head, 1 = average
    length: float               # Of the face below the eyes, 1 = average
    jaw: float                  # Half width of the jaw
    chin: float                 # Half width of the chin
    cheek: float                # How far the cheekbones stand out, 0 to 1
    forehead: float             # Height of the hairline over the eyes
    skin: tuple[int, int, int]
    ruddy: float                # Redness of cheeks and nose, 0 to 1
    style: str                  # Of the hair, one of `STYLE`
    hair: tuple[int, int, int]
    volume: float               # How far the hair stands off
    brow_height: float          # Over the eyes
    brow_thick: float
    brow_tilt: float            # Positive: the outer end is higher
    brow_arch: float
    eye_gap: float              # Half the distance of the pupils
    eye_width: float            # Half width of an eye
    eye_open: float             # Half height of an eye
    eye_tilt: float             # Positive: the outer corner is higher
    iris: tuple[int, int, int]
    nose_length: float          # From the eyes to the tip
    nose_width: float           # Half width at the wings
    nose_bridge: float          # Half width of the bridge
    nose_out: float             # How far the tip stands out
    mouth_height: float         # From the tip of the nose to the line of the lips
    mouth_width: float          # Half width
    lip_upper: float            # Thickness
    lip_lower: float            # Thickness
    lip_red: float              # How different from the skin, 0 to 1
    ears: float                 # Size, 1 = average
    marks: tuple[tuple[float, float, float], ...] # Moles: (x, y, radius)
    freckles: int               # Which pattern; 0: none
    beard: str                  # One of `BEARD`
    glasses: str                # One of `GLASSES`
    frame: tuple[int, int, int] # Colour of the glasses


def random_face_traits(
    rng:np.random.Generator, # Source of all randomness
)->FaceTraits: # A new identity
    "Draw the traits of a face from the common stock"
    def one(stock): return stock[rng.integers(len(stock))]
    def tint(stock): return tuple(int(c) for c in np.clip(np.array(one(stock)) + rng.normal(0, 5, 3), 8, 250))
    def between(lo, hi): return float(rng.uniform(lo, hi))
    def mark(): return between(-.7, .7), between(.1, 1.15), between(.025, .05)
    def marks(): return tuple(mark() for _ in range(rng.choice(4, p=(.55, .25, .15, .05))))
    def freckles(): return int(rng.integers(1, 1 << 16))*int(rng.random() < .12)
    # between two neighbours of the stock, so that nobody is told from others by one of seven tones
    a,b,t = rng.integers(len(SKIN) - 1), rng.random(), rng.normal(0, 4, 3)
    skin = tuple(int(np.clip(p + (q - p)*b + o, 8, 250)) for p,q,o in zip(SKIN[a], SKIN[a + 1], t))
    return FaceTraits(
        width=between(.9, 1.08), length=between(.88, 1.14), jaw=between(.62, .86), chin=between(.26, .46),
        cheek=between(0, 1), forehead=between(.62, .92), skin=skin, ruddy=between(0, 1),
        style=one(STYLE), hair=tint(HAIR), volume=between(.06, .22),
        brow_height=between(.24, .38), brow_thick=between(.03, .085), brow_tilt=between(-.05, .1),
        brow_arch=between(0, .09), eye_gap=between(.37, .48), eye_width=between(.165, .225),
        eye_open=between(.06, .12), eye_tilt=between(-.03, .06), iris=tint(IRIS),
        nose_length=between(.42, .62), nose_width=between(.15, .27), nose_bridge=between(.07, .12),
        nose_out=between(.2, .36), mouth_height=between(.27, .4), mouth_width=between(.27, .43),
        lip_upper=between(.03, .1), lip_lower=between(.05, .13), lip_red=between(.1, .9),
        ears=between(.8, 1.25), marks=marks(), freckles=freckles(),
        beard=one(BEARD), glasses=one(GLASSES), frame=tint(FRAME))


def face_look_alike(
    traits:FaceTraits,       # Identity to resemble
    rng:np.random.Generator, # Source of all randomness
    n_changes:int=12,        # Traits drawn anew
)->FaceTraits: # Another identity
    "Another identity that shares two thirds of its traits with a given one, as siblings do: colours and hair too"
    fresh = random_face_traits(rng)
    family = [f.name for f in fields(FaceTraits) if f.name not in ('marks', 'freckles', 'frame')]
    names = rng.choice(family, n_changes, replace=False)
    # marks are no family matter
    return replace(traits, **{name: getattr(fresh, name) for name in (*names, 'marks', 'freckles')})
