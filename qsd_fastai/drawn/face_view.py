"What differs between two pictures of one face: how it is turned, lit and cut out, and what it is doing"
import math
from dataclasses import dataclass

import numpy as np

__all__ = ['FaceView', 'random_view']


@dataclass
class FaceView:
    "What differs between two pictures of one face"
    yaw: float                        # Degrees, positive: turned to the right of the picture
    pitch: float                      # Degrees, positive: looks down
    roll: float                       # Degrees, positive: clockwise
    zoom: float                       # Size of the head, 1 = average
    shift: tuple[float, float]        # Of the whole head, in widths of the picture
    light: tuple[float, float, float] # Towards the light, length 1
    ambient: float                    # Brightness of the shade, 0 to 1
    tone: tuple[float, float, float]  # Colour and strength of the light
    smile: float                      # -1 to 1
    gape: float                       # How far the mouth is open, 0 to 1
    lids: float                       # How far the eyes are open, 1 = average
    brows: float                      # How far the brows are raised
    gaze: tuple[float, float]         # Of the irises
    glasses: bool                     # Are they worn, by somebody who has some?
    cloth: tuple[float, float, float] # Colour, 0 to 1


def random_view(
    rng:np.random.Generator, # Source of all randomness
    pose:float=1.,           # How far heads turn: 1 = yaw of 18 degrees and pitch of 9, standard deviations
    jitter:float=1.,         # How far the alignment is off: 1 = two hundredths of the width, standard deviation
)->FaceView:
    "Draw how a face is seen"
    yaw,pitch,roll = (float(np.clip(rng.normal(0, s), -2.4*s, 2.4*s)) for s in (18*pose, 9*pose, 4*pose))
    side,up = rng.uniform(-1, 1), rng.uniform(-.7, .25)
    front = rng.uniform(.45, 1.2)
    norm,warm = math.sqrt(side*side + up*up + front*front), rng.normal(0, .04)
    power = rng.uniform(.95, 1.4)
    smile = float(np.clip(rng.normal(.25, .4), -.45, 1))
    def floats(values): return tuple(float(v) for v in values)
    return FaceView(
        yaw, pitch, roll, zoom=float(1 + rng.normal(0, .025)*jitter), shift=floats(rng.normal(0, .018, 2)*jitter),
        light=floats(v/norm for v in (side, up, front)), ambient=float(rng.uniform(.3, .62)),
        tone=floats(power*(1 + k) for k in (warm, rng.normal(0, .015), -warm)), smile=smile,
        gape=float(max(0, rng.normal(-.25, .45)))*(.4 + .6*(smile > 0)),
        lids=float(rng.uniform(.7, 1.15) if rng.random() > .05 else .08), brows=float(rng.normal(0, .35)),
        gaze=floats(rng.normal(0, (.025, .012))), glasses=bool(rng.random() < .9),
        cloth=floats(rng.uniform(.08, .9)*(1 + rng.normal(0, .2, 3))))
