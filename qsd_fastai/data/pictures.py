"The one way a picture is opened: wherever it lies and whatever it is, it comes upright, RGB, 8 bits a channel"
import io
import os
import threading
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from .bins import BinError, BinPictures
from .pixels import array_picture, is_array, rgb_of, turn_of
from .sources import RecordError, read_record, split_address

__all__ = ['LARGE', 'PictureError', 'decoded', 'open_picture', 'picture_bytes']

# what Pillow decodes by itself; not EPS, say, for which it runs another program
FORMATS = ('JPEG', 'PNG', 'MPO', 'BMP', 'DIB', 'WEBP', 'TIFF', 'PPM', 'GIF', 'JPEG2000', 'AVIF')
LARGE = 2**25 # Pixels; a model looks at some ten thousand of them
MOST = 2**26  # Pixels that all threads decode at a time


class PictureError(OSError, ValueError):
    "A picture that cannot be read or taken; the message names it and the remedy, `why` is the reason alone"
    why = ''

    @classmethod
    def of(cls, name, why, remedy='Replace it, or leave it out.'):
        out = cls(f'Picture {name} cannot be read ({why}). {remedy}')
        out.why = why
        return out


class _Room:
    "Lets some pixels be decoded at a time, in all threads together; a picture of more goes alone"
    def __init__(self, most): self.most,self.taken,self.free = most, 0, threading.Condition()

    @contextmanager
    def of(self, n):
        n = min(n, self.most)
        with self.free:
            self.free.wait_for(lambda: self.taken + n <= self.most)
            self.taken += n
        try: yield
        finally:
            with self.free:
                self.taken -= n
                self.free.notify_all()


# memory that Pillow takes in blocks of more than 32 MB goes back to the system, in smaller ones it stays with a thread
if hasattr(Image.core, 'set_block_size'): Image.core.set_block_size(2**26)
ROOM = _Room(MOST)
if hasattr(os, 'register_at_fork'):  # threads that hold some of it are not in the child
    os.register_at_fork(after_in_child=lambda: ROOM.__init__(MOST))


@cache
def _formats():
    Image.init()
    return tuple(o for o in FORMATS if o in Image.OPEN)


def picture_bytes(
    path, # Of a picture, or an address inside a record file
)->bytes:
    "The encoded picture. FileNotFoundError, RecordError naming file and byte, or BinError naming file and number"
    file,offset = split_address(path)
    if offset is None: return Path(file).read_bytes()
    if file.endswith('.rec'): return read_record(file, offset)[1]
    pictures = BinPictures(file)
    if offset >= len(pictures):
        raise BinError(f'{file} has {len(pictures)} pictures, numbered from 0, and none of number {offset}.')
    return pictures[offset]


def _source(picture):
    "`(PIL picture that is not decoded, name)`"
    if isinstance(picture, Image.Image): return picture
    if isinstance(picture, (bytes, bytearray, memoryview)): return Image.open(io.BytesIO(picture), formats=_formats())
    if hasattr(picture, 'read'): return Image.open(picture, formats=_formats())
    if not isinstance(picture, (str, os.PathLike)):
        raise ValueError('it is none: give a file, its bytes, a PIL picture or an array.')
    if split_address(picture)[1] is not None:
        return Image.open(io.BytesIO(picture_bytes(picture)), formats=_formats())
    if not os.path.exists(picture): raise FileNotFoundError
    if not os.path.isfile(picture): raise ValueError('it is no file.')  # who opens a pipe waits for ever
    return Image.open(picture, formats=_formats())


def _name(picture):
    if isinstance(picture, (str, os.PathLike)): return str(picture)
    inner = getattr(picture, 'filename', None) or getattr(picture, 'name', None)
    return str(inner) if isinstance(inner, (str, os.PathLike)) else f'of type {type(picture).__name__}'


@contextmanager
def decoded(
    picture,          # File, address in a record file, bytes, open file, PIL picture, array or tensor
    at_most:int=None, # Pixels above which a JPEG is decoded at a half, a quarter, an eighth; None: as it is
    name='',          # For messages; that of the file when not given
):
    """`open_picture` for the length of a block, which counts among those that are decoded at a time.

    Pictures of all threads together have at most `MOST` pixels, a larger one is alone; blocks are not put into one
    another."""
    name = name or _name(picture)
    with _told(name): img = None if is_array(picture) else _source(picture)
    with ROOM.of(0 if img is None else img.width*img.height):
        try:
            with _told(name): out = array_picture(picture) if img is None else _decode(img, picture, at_most)
        finally:
            if isinstance(picture, (str, os.PathLike)): img.close() # Of several frames it stays open
        yield out


def _decode(img, picture, at_most):
    halved = 0
    while at_most and halved < 3 and img.width*img.height >> 2*halved > at_most: halved += 1
    given = img is picture
    if halved and not given: img.draft(None, (img.width >> halved, img.height >> halved))  # of a JPEG alone
    img.load()
    turn = turn_of(img)
    # what the caller has is left alone; of a file of ours the pixels are taken, not copied
    out = img._new(img.im) if img.mode == 'RGB' and not given else rgb_of(img)
    if turn is not None: out = out.transpose(turn)
    out.info = {}  # turned already, and whatever else the file said is of no use
    return out


@contextmanager
def _told(name):
    "Errors of decoders, which raise anything on broken bytes, as `PictureError` of `name`"
    try: yield
    except (PictureError, RecordError, BinError): raise
    except FileNotFoundError as e:
        remedy = 'Mend its name; `check_table(table)` lists what a table lacks.'
        raise FileNotFoundError(f'Picture {name} does not exist. {remedy}') from e
    except Image.DecompressionBombError as e:
        remedy = 'Make it smaller, or raise PIL.Image.MAX_IMAGE_PIXELS, half of this limit, if you trust it.'
        raise PictureError.of(name, str(e).removesuffix('.'), remedy) from e
    except UnidentifiedImageError as e:
        raise PictureError.of(name, 'UnidentifiedImageError: no picture of a kind that is read') from e
    except ValueError as e: raise PictureError.of(name, str(e).rstrip('.')) from e
    except Exception as e: raise PictureError.of(name, f'{type(e).__name__}: {" ".join(str(e).split())}') from e


def open_picture(
    picture,          # File, address in a record file, bytes, open file, PIL picture, array or tensor
    at_most:int=None, # Pixels above which a JPEG is decoded at a half, a quarter, an eighth; None: as it is
)->Image.Image: # RGB, upright
    """The picture as every part of the library sees it; an opened PIL picture stands as its file does.

    `rgb_of` says what becomes of each kind of pixels, `array_picture` of arrays. FileNotFoundError, RecordError or
    PictureError names what cannot be read, arrays of another kind among it."""
    with decoded(picture, at_most) as img: return img
