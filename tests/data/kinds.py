"One picture in every kind of file, and what is broken"
import io
import struct
import zlib

import numpy as np
from PIL import Image, features


def drawn(height=112, width=112):
    "Smooth colours, uint8: another mean in each channel and each quarter"
    y,x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing='ij')
    return np.round(255*np.stack([.1 + .8*x, .2 + .5*y, .9 - .4*x*y], 2)).astype(np.uint8)


COLOURS = drawn()
GREY = COLOURS[..., 0]


def saved(pixels, kind, mode=None, **options):
    "The bytes of a file of these pixels, an array or a picture"
    img = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    file = io.BytesIO()
    (img.convert(mode) if mode else img).save(file, kind, **options)
    return file.getvalue()


def png16(pixels):
    "A PNG of 16 bits a channel, `(h, w)` or `(h, w, 3 or 4)`, which Pillow does not write in colour"
    kind = {1: 0, 3: 2, 4: 6}[1 if pixels.ndim == 2 else pixels.shape[2]]
    lines = b''.join(b'\0' + row.astype('>u2').tobytes() for row in pixels)
    def chunk(name, data):
        return struct.pack('>I', len(data)) + name + data + struct.pack('>I', zlib.crc32(name + data))
    head = struct.pack('>IIBBBBB', pixels.shape[1], pixels.shape[0], 16, kind, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', head) + chunk(b'IDAT', zlib.compress(lines)) + chunk(b'IEND', b'')


def with_exif(jpeg, payload):
    part = b'Exif\0\0' + payload
    return jpeg[:2] + b'\xff\xe1' + struct.pack('>H', len(part) + 2) + part + jpeg[2:]


def tag(number, kind, count, value): return struct.pack('<HHI', number, kind, count) + value.ljust(4, b'\0')


def ifd(*tags): return b'II*\0\x08\0\0\0' + struct.pack('<H', len(tags)) + b''.join(tags) + b'\0'*4


def oriented(n):
    exif = Image.Exif()
    exif[0x0112] = n
    return exif


TURNED = tag(274, 3, 1, struct.pack('<H', 6))
DAMAGED = {
    'no header': b'abcdefgh', 'nothing': b'', 'unit as text': ifd(TURNED, tag(296, 2, 4, b'abc')),
    'resolution as text': ifd(TURNED, tag(282, 2, 4, b'abc')),
    'folder as float': ifd(TURNED, tag(330, 11, 1, b'\0\0\x80?')),
    'orientation as text': ifd(tag(274, 2, 4, b'abc')), 'orientation of 99': ifd(tag(274, 3, 1, b'\x63\0')),
    'cut off': ifd(TURNED)[:14],
    'points outside': ifd(TURNED, tag(34665, 4, 1, b'\xff\xff\xff\x7f')),
    'points to itself': ifd(tag(34665, 4, 1, b'\x08\0\0\0'))}


def kinds():
    "name -> `(suffix, bytes, pixels or None where they are near COLOURS, or a part of what a refusal says)`"
    jpeg,grey = saved(COLOURS, 'JPEG', quality=98, subsampling=0), np.repeat(GREY[..., None], 3, 2)
    black = np.where(GREY > 100, 255, 0).astype(np.uint8)
    one_bit,alpha = Image.fromarray(black).convert('1'), np.dstack([COLOURS, GREY])
    palette = Image.fromarray(COLOURS).quantize(64)
    seen = np.asarray(palette.convert('RGB'))
    deep = GREY.astype(np.uint16)*257
    big = Image.frombytes('I;16B', (112, 112), deep.astype('>u2').tobytes())
    two = [Image.fromarray(o) for o in (COLOURS, 255 - COLOURS)]
    more = {'save_all': True, 'append_images': two[1:]}
    out = {
        'JPEG': ('jpg', jpeg, None), 'JPEG, grey': ('jfif', saved(GREY, 'JPEG', quality=98), None),
        'JPEG, CMYK': ('jpg', saved(COLOURS, 'JPEG', 'CMYK', quality=98, subsampling=0), None),
        'PNG': ('png', saved(COLOURS, 'PNG'), COLOURS), 'PNG, alpha': ('png', saved(alpha, 'PNG'), COLOURS),
        'PNG, grey': ('png', saved(GREY, 'PNG'), grey),
        'PNG, grey and alpha': ('png', saved(np.dstack([GREY, GREY]), 'PNG'), grey),
        'PNG, palette': ('png', saved(palette, 'PNG'), seen),
        'PNG, palette and alpha': ('png', saved(palette, 'PNG', transparency=bytes(range(64))), seen),
        'PNG, palette with a colour left out': ('png', saved(palette, 'PNG', transparency=3), seen),
        'PNG, grey with one left out': ('png', saved(GREY, 'PNG', transparency=100), grey),
        'PNG, 1 bit': ('png', saved(one_bit, 'PNG'), np.repeat(black[..., None], 3, 2)),
        'PNG, 16 bits': ('png', saved(deep, 'PNG'), grey), 'PNG, 16 bits by hand': ('png', png16(deep), grey),
        'PNG, 16 bits in colour': ('png', png16(COLOURS.astype(int)*257), COLOURS),
        'PNG, 16 bits and alpha': ('png', png16(alpha.astype(int)*257), COLOURS),
        'PNG, 16 bits, empty': ('png', saved(deep*0, 'PNG'), grey*0),
        'TIFF': ('tif', saved(COLOURS, 'TIFF'), COLOURS),
        'TIFF, packed': ('tiff', saved(COLOURS, 'TIFF', compression='tiff_lzw'), COLOURS),
        'TIFF, 16 bits': ('tif', saved(deep, 'TIFF'), grey),
        'TIFF, 16 bits, big end first': ('tif', saved(big, 'TIFF'), grey),
        'TIFF, 32 bits': ('tif', saved(deep.astype(np.int32), 'TIFF'), grey),
        'TIFF, CMYK': ('tif', saved(COLOURS, 'TIFF', 'CMYK'), COLOURS),
        'TIFF, several pages': ('tif', saved(two[0], 'TIFF', **more), COLOURS),
        'BMP': ('bmp', saved(COLOURS, 'BMP'), COLOURS), 'PPM': ('ppm', saved(COLOURS, 'PPM'), COLOURS),
        'PGM': ('pgm', saved(GREY, 'PPM'), grey), 'PGM, 16 bits': ('pgm', saved(deep.astype(np.int32), 'PPM'), grey),
        'PNM': ('pnm', saved(COLOURS, 'PPM'), COLOURS),
        'PBM': ('pbm', saved(one_bit, 'PPM'), np.repeat(black[..., None], 3, 2)),
        'GIF': ('gif', saved(palette, 'GIF'), seen), 'GIF, animated': ('gif', saved(palette, 'GIF', **more), seen),
        'PNG, animated': ('png', saved(two[0], 'PNG', **more), COLOURS),
        'MPO': ('jpg', saved(two[0], 'MPO', quality=98, **more), None),
        'float': ('tif', saved(GREY.astype(np.float32)/255, 'TIFF'), 'holds floats'),
        'float, all of it': ('tif', saved(GREY.astype(np.float32), 'TIFF'), 'holds floats'),
        '32 bits, more than 16': ('tif', saved(deep.astype(np.int32)*300, 'TIFF'), 'values reach from'),
        '32 bits, below zero': ('tif', saved(deep.astype(np.int32) - 30000, 'TIFF'), 'values reach from -'),
        '32 bits on the scale of 8': ('tif', saved(GREY.astype(np.int32), 'TIFF'), 'it would be black'),
        '16 bits on the scale of 8': ('png', saved(GREY.astype(np.uint16), 'PNG'), 'it would be black'),
        '16 bits on the scale of 12': ('png', saved(GREY.astype(np.uint16)*16, 'PNG'), 'it would be black'),
        'EPS': ('jpg', saved(COLOURS, 'EPS'), 'UnidentifiedImageError'),
        'text': ('jpg', b'no picture', 'UnidentifiedImageError'), 'empty': ('png', b'', 'UnidentifiedImageError')}
    if features.check('webp'):
        out |= {'WebP': ('webp', saved(COLOURS, 'WEBP', lossless=True), COLOURS),
                'WebP, animated': ('webp', saved(two[0], 'WEBP', lossless=True, **more), COLOURS)}
    if features.check('jpg_2000'): out['JPEG 2000'] = 'jp2', saved(COLOURS, 'JPEG2000'), COLOURS
    if features.check('littlecms2'):
        lab = Image.merge('LAB', [Image.fromarray(np.full((112, 112), v, np.uint8)) for v in (200, 128, 128)])
        out['TIFF, LAB'] = 'tif', saved(lab, 'TIFF'), np.full((112, 112, 3), 194, np.uint8)
    for n in range(1, 9):
        for suffix,kind in (('jpg', 'JPEG'), ('png', 'PNG'), ('tif', 'TIFF')):
            lying = saved(drawn(112, 96), kind, exif=oriented(n), **({'quality': 98} if kind == 'JPEG' else {}))
            out[f'{kind}, orientation {n}'] = suffix, lying, standing(drawn(112, 96), n)
    for k,payload in DAMAGED.items():
        wanted = standing(COLOURS, 6 if TURNED in payload and k != 'cut off' else 1)
        out[f'EXIF, {k}'] = 'jpg', with_exif(jpeg, payload), wanted
        for kind in ('PNG', *(['WEBP'] if 'WebP' in out else [])):
            more = {} if kind == 'PNG' else {'lossless': True}
            out[f'EXIF of {kind}, {k}'] = kind.lower(), saved(COLOURS, kind, exif=payload, **more), wanted
    for k in ('JPEG', 'PNG', 'TIFF', 'BMP', 'GIF', 'PPM', 'WebP', 'PNG, 16 bits'):
        if k in out: out[f'{k}, cut off'] = out[k][0], out[k][1][:len(out[k][1])//2], ''
    return out


def standing(pixels, n):
    "`pixels` turned as the public table of orientations says: where row 0 and column 0 belong"
    if n in (2, 3, 7, 8): pixels = pixels[:, ::-1]
    if n in (3, 4, 6, 7): pixels = pixels[::-1]
    return pixels if n < 5 else pixels.swapaxes(0, 1)
