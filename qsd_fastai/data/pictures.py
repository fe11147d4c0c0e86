"A picture opened, wherever it lies, and turned upright as its EXIF tag says"
import io
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from .bins import BinError, BinPictures
from .sources import read_record, split_address

__all__ = ['open_picture', 'picture_bytes', 'upright']


def open_picture(
    path, # Of a picture, or an address inside a record file
)->Image.Image:
    "`Image.open` for either"
    return Image.open(path if split_address(path)[1] is None else io.BytesIO(picture_bytes(path)))


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


def upright(
    img, # PIL image
): # The image, turned if its EXIF tag says so; the same object if not
    "A picture as it was meant to be seen: cameras store it as the sensor lay, with a tag"
    return ImageOps.exif_transpose(img) if img.getexif().get(ExifTags.Base.Orientation, 1) != 1 else img
