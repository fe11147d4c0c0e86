"Pixels of any kind as RGB of 8 bits a channel: of a Pillow picture in any mode, of an array, of a tensor"
import numpy as np
from PIL import ExifTags, Image

__all__ = ['array_picture', 'is_array', 'rgb_of', 'turn_of']

# by orientation: what stands in EXIF -> what turns the picture upright
TURNS = dict(zip(range(2, 9), (
    Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_270, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_90)))
BITS,KIND,SIGN = 258, 262, 339 # Tags of TIFF: bits of a pixel; 0 where white is 0; whether they are signed


def turn_of(
    img, # PIL picture
): # One of `Image.Transpose`, or None
    "What turns a picture upright as its EXIF tag says; where EXIF is damaged so that none is found, it stays as stored"
    try: return TURNS.get(img.getexif().get(ExifTags.Base.Orientation))
    except Exception: return None  # a parser of broken bytes may raise anything


def rgb_of(
    img, # PIL picture of any mode, decoded
)->Image.Image: # RGB; another object
    """The colours as stored, without alpha.

    Deep grey is scaled: 16 bits, 12 bits of TIFF, and 32 bits that hold what 16 can. ValueError where black and white
    are not known: floats, and numbers outside of these."""
    mode = img.mode
    if mode == 'F': raise ValueError('it holds floats, whose black and white nobody knows: save it with 8 or 16 bits.')
    if mode == 'I' or mode.startswith('I;16'):
        tags,deep = getattr(img, 'tag_v2', None) or {},_of_deep(np.asarray(img), _top(img))
        img = Image.fromarray(255 - deep if tags.get(KIND) == 0 else deep) # Which Pillow turns of 8 bits alone
    if mode == 'LAB': img = _of_lab(img)
    # premultiplied colours are divided by alpha; a palette whose entries have an alpha each loses it without a warning
    if mode in ('La', 'RGBa'): img = img.convert({'La': 'LA', 'RGBa': 'RGBA'}[mode])
    if mode in ('P', 'PA'): img = img.convert('RGBA')
    return img.convert('RGB')


def _top(img):
    "What is white in a picture of more than 8 bits"
    tags = getattr(img, 'tag_v2', None) or {}
    bits,sign = (o[0] if isinstance(o := tags.get(k), tuple) and o else o for k in (BITS, SIGN))
    if bits == 16 and sign == 2:
        raise ValueError('its 16 bits are signed, and nobody knows their white: save it with 8 or 16 bits, unsigned.')
    return 4095 if bits == 12 else 65535


def _of_deep(values, top=65535):
    low,high = int(values.min()), int(values.max())
    if low < 0 or high > top:
        raise ValueError(f'its values reach from {low} to {high}, outside 0 to {top}: save it with 8 or 16 bits.')
    if 0 < high < (top + 1)//16:
        raise ValueError(f'it has more than 8 bits a pixel and none above {high}, of {top}, so that it would be black: '
                         'save it with 8 bits, its white at 255.')
    return ((values.astype(np.uint32)*255 + top//2)//top).astype(np.uint8)


def _of_lab(img):
    from PIL import ImageCms
    return ImageCms.profileToProfile(img, ImageCms.createProfile('LAB'), ImageCms.createProfile('sRGB'),
                                     outputMode='RGB')


def is_array(
    o, # Anything
)->bool:
    "A numpy array or a tensor? Without importing torch"
    return isinstance(o, np.ndarray) or (hasattr(o, 'detach') and hasattr(o, 'shape'))


def array_picture(
    o, # Uint8, uint16 or bool, `(h, w)` or `(h, w, c)` of 1, 3 (RGB) or 4 channels; of a tensor also `(c, h, w)`
)->Image.Image: # RGB
    "An array as a picture, alpha left out; ValueError for every other one, floats among them"
    kind = f'{str(o.dtype).removeprefix("torch.")} {tuple(o.shape)}'
    remedy = 'give uint8 (h, w, 3) in RGB, of floats in 0 to 1 (255*x).round() as uint8'
    if str(o.dtype).removeprefix('torch.') not in ('uint8', 'uint16', '>u2', 'bool'):
        raise ValueError(f'it is {kind}: {remedy}.')
    tensor = not isinstance(o, np.ndarray)
    a = o.detach().cpu().numpy() if tensor else o
    if tensor and a.ndim == 3 and a.shape[0] in (1, 3, 4):
        if a.shape[2] in (1, 3, 4): raise ValueError(f'it is {kind}, with channels first or last: {remedy}.')
        a = np.moveaxis(a, 0, 2)
    if a.ndim == 3 and a.shape[2] == 1: a = a[..., 0]
    if not (a.size and (a.ndim == 2 or (a.ndim == 3 and a.shape[2] in (3, 4)))):
        raise ValueError(f'it is {kind}: {remedy}.')
    if a.dtype == bool: a = a*np.uint8(255)
    if a.dtype.itemsize == 2: a = _of_deep(a)
    return Image.fromarray(np.ascontiguousarray(a[..., :3] if a.ndim == 3 else a)).convert('RGB')
