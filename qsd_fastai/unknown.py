"""What nobody knows, and how it is kept: a quality is NaN, a camera is empty, and neither is ever given a middle value.

Tables keep it so (`data.table`), batches too (`data.blocks`). It is dropped where it would count: pairs of unknown
quality teach nothing (`distillation.select_pairs`), and a picture from an unknown camera is never taken out as seen by
the query's own (`evaluation.same_camera`)."""
import numpy as np

from .tensors import plain_vector

__all__ = ['EMPTY', 'check_quality']

# what counts as unknown in a column of numbers; never in a column of text
EMPTY = ['', 'nan', 'NaN', 'NA', 'N/A', 'null', 'None']


def check_quality(
    quality,            # `(n,)`, 0 to 100, NaN = unknown
    name:str='quality', # Of the argument, for the message
)->np.ndarray: # `(n,)` float64
    "Quality as a flat array; `ValueError` naming the first row that is outside 0 to 100"
    quality = plain_vector(quality).astype(float)
    bad = (quality < 0) | (quality > 100)
    if bad.any():
        row = bad.argmax()
        raise ValueError(f'{name} row {row} is {quality[row]:g}. It runs from 0 to 100, NaN where unknown.')
    return quality
