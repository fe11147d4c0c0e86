"Pictures down-sampled by 2, 3 or 4, as the sets of several resolutions (MLR) are made"
import zlib

import numpy as np
from PIL import Image

__all__ = ['RATES', 'lowered', 'rate_of']

RATES = 2, 3, 4


def rate_of(
    path:str,   # Of a picture, as its table has it
    seed:int=0, # Of the drawing
)->int: # One of `RATES`, each equally likely
    "By how much a picture is down-sampled, whatever else is in its table"
    return int(np.random.default_rng([seed, zlib.crc32(path.encode())]).choice(RATES))


def lowered(
    img:Image.Image, # Picture
    rate:int,        # That its sides are divided by
)->Image.Image: # A smaller one
    "A picture down-sampled (bicubic)"
    return img.resize(tuple(max(1, round(s/rate)) for s in img.size), Image.BICUBIC)
