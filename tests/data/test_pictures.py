"The one way a picture is opened: every kind of file by every reader, every kind of array, and what is too large"
import io
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from align import aligned_copy
from common.copies import with_copies
from common.pictures import _look, readable
from kinds import COLOURS, DAMAGED, GREY, drawn, kinds, oriented, png16, saved, with_exif
from pack import pack_records
from PIL import Image

from qsd_fastai.data import pictures
from qsd_fastai.data.alignment import FACE_TEMPLATE, align_face
from qsd_fastai.data.blocks import RecognitionImage
from qsd_fastai.data.degraded import degraded_copies
from qsd_fastai.data.folders import list_pictures
from qsd_fastai.data.loaders import TableRow, recognition_block
from qsd_fastai.data.pictures import PictureError, decoded, open_picture
from qsd_fastai.embedder import Embedder, EmbedderSpec
from qsd_fastai.plots.pictures import picture_array

ROOT = Path(__file__).parents[2]
KINDS = kinds()
OPENED = [k for k,o in KINDS.items() if not isinstance(o[2], str)]
REFUSED = [k for k,o in KINDS.items() if isinstance(o[2], str)]


def embedder(height=112, width=112):
    "One whose embedding is the prepared picture"
    out = object.__new__(Embedder)
    out.spec = EmbedderSpec(height, width, (0,)*3, (1,)*3, height*width*3)
    out._run = lambda x: x.reshape(len(x), -1).astype('float32')
    return out


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    "Every kind as a file"
    root = tmp_path_factory.mktemp('kinds')
    for i,k in enumerate(KINDS): (root/f'{i:03}.{KINDS[k][0]}').write_bytes(KINDS[k][1])
    return root


def file_of(folder, k): return folder/f'{[*KINDS].index(k):03}.{KINDS[k][0]}'


def table_of(folder, names):
    table = pd.DataFrame({'path': [file_of(folder, k).name for k in names], 'identity': 'a', 'camera': '',
                          'split': 'query', 'quality': np.nan})
    table.attrs['root'] = str(folder)
    return table


@pytest.mark.parametrize('k', OPENED)
def test_every_kind_shows_what_it_holds(folder, k):
    img = open_picture(file_of(folder, k))
    assert img.mode == 'RGB'
    pixels,wanted = np.asarray(img).astype(int), KINDS[k][2]
    if wanted is None: wanted = np.repeat(GREY[..., None], 3, 2) if 'grey' in k else COLOURS
    assert pixels.shape == wanted.shape
    assert np.abs(pixels - wanted).max() <= (4 if KINDS[k][1][:2] == b'\xff\xd8' else 0)


def test_every_reader_sees_the_same_pixels(folder, tmp_path):
    "The loader, the embedder however it is handed over, plots, degraded copies, and the doctor lists none"
    square = [k for k in OPENED if 'orientation' not in k or k.startswith('EXIF')]
    files,table = [file_of(folder, k) for k in square], table_of(folder, square)
    wanted = [np.asarray(open_picture(f)) for f in files]
    block = recognition_block((112, 112), augment=False, stats=None)
    loaded = block.datasets([TableRow(str(f), 'a', 1., [0, '', 'train']) for f in files])
    copies = degraded_copies(table, tmp_path/'copies', 'jpeg', 0, progress=False)
    see = embedder().prepare
    for k,f,pixels,copy,row in zip(square, files, wanted, copies['path'], loaded):
        held = io.BytesIO(f.read_bytes())
        with Image.open(f) as opened:
            seen = {'loader': row[0], 'create': RecognitionImage.create(f), 'plot': picture_array(f),
                    'embedder': see(f), 'its text': see(str(f)), 'bytes': see(f.read_bytes()), 'open file': see(held),
                    'opened': see(opened), 'opened and decoded': see(opened),
                    'created': see(RecognitionImage.create(f)),
                    'copied': RecognitionImage.create(opened.copy()), 'written': see(tmp_path/'copies'/copy)}
        assert all((np.asarray(o) == pixels).all() for o in seen.values()), \
            (k, [w for w,o in seen.items() if not (np.asarray(o) == pixels).all()])
    assert readable(table).attrs['unreadable'] == []


@pytest.mark.parametrize('k', [k for k in OPENED if 'orientation' in k])
def test_an_opened_picture_stands_as_its_file_does(folder, k):
    f = file_of(folder, k)
    see = embedder(*np.asarray(open_picture(f)).shape[:2]).prepare
    with Image.open(f) as opened:
        assert (see(opened) == see(f)).all()
        assert (see(opened.convert('RGB')) == see(f)).all()
    assert np.abs(see(f).astype(int) - (COLOURS if KINDS[k][2] is None else KINDS[k][2])).max() <= 4


def test_scripts_see_the_same_pixels(folder, tmp_path):
    "Points that lie on the template leave a picture of 112x112 as it is"
    pytest.importorskip('cv2')
    square = [k for k in OPENED if 'orientation' not in k or k.startswith('EXIF')]
    table,landmarks = table_of(folder, square), tmp_path/'points.txt'
    points = ' '.join(f'{v:.4f}' for v in FACE_TEMPLATE.reshape(-1))
    landmarks.write_text(''.join(f'{p} {points}\n' for p in table['path']))
    made = aligned_copy(table, tmp_path/'aligned', landmarks, suffix='.png', size=112)
    assert made.attrs['missing'] == []
    copies = with_copies(table, tmp_path/'copies', 0)
    for k,aligned,copy in zip(square, made['path'], copies['path']):
        pixels = np.asarray(open_picture(file_of(folder, k)))
        wanted = np.asarray(align_face(pixels, FACE_TEMPLATE.round(4), 112))
        assert (np.asarray(Image.open(tmp_path/'aligned'/aligned)) == wanted).all(), k
        near = np.asarray(Image.open(tmp_path/'copies'/copy)).astype(int) - pixels
        if '1 bit' not in k and k != 'PBM': assert np.abs(near).mean() < 3, k
    assert pack_records(table, tmp_path/'packed') == (len(square), 1)


@pytest.mark.parametrize('k', REFUSED)
def test_every_reader_refuses_the_same(folder, tmp_path, k):
    f,table = file_of(folder, k), table_of(folder, [k])
    with pytest.raises(PictureError) as e: open_picture(f)
    said = str(e.value)
    assert KINDS[k][2] in said
    assert said.startswith(f'Picture {f} cannot be read (')
    for read in (RecognitionImage.create, embedder().prepare, embedder().embed, picture_array):
        with pytest.raises(PictureError, match=re.escape(said)): read(f)
    why = e.value.why
    assert why in said
    assert _look(f)[0] == why
    with pytest.raises(ValueError, match=re.escape(why)): pack_records(table, tmp_path/'packed')
    with pytest.raises(ValueError, match=re.escape(why)): with_copies(table, tmp_path/'copies', 0)
    with pytest.raises(PictureError, match=re.escape(why)):
        degraded_copies(table, tmp_path/'degraded', 'jpeg', 0, progress=False)
    assert not list((tmp_path/'degraded').rglob('*.png'))


def test_what_is_no_picture_file(tmp_path):
    (tmp_path/'x.png').mkdir()
    os.mkfifo(tmp_path/'pipe.png')
    for name in ('x.png', 'pipe.png'):
        for read in (RecognitionImage.create, embedder().prepare):
            with pytest.raises(PictureError, match=rf'{name} cannot be read \(it is no file\)'): read(tmp_path/name)
    for read in (RecognitionImage.create, embedder().prepare):
        with pytest.raises(FileNotFoundError, match=r'gone\.jpg does not exist.*check_table'): read(tmp_path/'gone.jpg')
    for other in (None, 3, {'a': 1}, object()):
        with pytest.raises(PictureError, match=f'of type {type(other).__name__} cannot be read.*give a file'):
            open_picture(other)


def test_no_other_place_opens_a_picture():
    "What decodes only JPEG of its own making may"
    own = {'qsd_fastai/data/pictures.py', 'qsd_fastai/data/degradations.py', 'qsd_fastai/data/transforms.py'}
    asked = ('Image.open(', 'PILImage.create(', 'load_image(', 'imread(', 'imdecode(', 'exif_transpose(')
    for room in ('qsd_fastai', 'data_prep', 'recipes'):
        for p in (ROOT/room).rglob('*.py'):
            if p.relative_to(ROOT).as_posix() in own: continue
            assert not [o for o in asked if o in p.read_text()], p


@pytest.mark.filterwarnings('ignore::UserWarning:PIL')
def test_changed_bytes_open_or_are_refused():
    rng = np.random.default_rng(0)
    for k in ('JPEG', 'PNG', 'TIFF', 'TIFF, packed', 'GIF', 'BMP', 'WebP', 'PGM, 16 bits', 'JPEG 2000', 'MPO',
              'JPEG, orientation 6', 'TIFF, orientation 6', 'PNG, orientation 6', *(f'EXIF, {k}' for k in DAMAGED)):
        if k not in KINDS: continue
        for _ in range(25):
            data = bytearray(KINDS[k][1])
            for _ in range(rng.integers(1, 6)): data[rng.integers(min(len(data), 400))] = rng.integers(256)
            if rng.random() < .3: data = data[:rng.integers(len(data))]
            try: img = open_picture(bytes(data), 10**6)
            except PictureError: continue
            assert img.mode == 'RGB'


CHANNELS,REPEATED = np.moveaxis(COLOURS, 2, 0), np.repeat(GREY[..., None], 3, 2)
GREY16 = GREY.astype(np.uint16)*257
TAKEN = {
    'colours': (COLOURS, COLOURS), 'grey': (GREY, REPEATED), 'one channel': (GREY[..., None], REPEATED),
    'alpha': (np.dstack([COLOURS, GREY]), COLOURS), 'not in one piece': (COLOURS[:, ::-1], COLOURS[:, ::-1]),
    '16 bits': (COLOURS.astype(np.uint16)*257, COLOURS), '16 bits, big end first': (GREY16.astype('>u2'), REPEATED),
    'bool': (GREY > 100, np.where(REPEATED > 100, 255, 0)),
    'tensor': (torch.from_numpy(CHANNELS.copy()), COLOURS),
    'tensor, channels last': (torch.from_numpy(COLOURS), COLOURS),
    'tensor, grey': (torch.from_numpy(GREY.copy()), REPEATED),
    'tensor, one channel': (torch.from_numpy(GREY.copy())[None], REPEATED),
    **{f'PIL {m}': (Image.fromarray(COLOURS).convert(m), COLOURS) for m in ('RGB', 'RGBA', 'RGBX', 'CMYK', 'HSV')},
    **{f'PIL {m}': (Image.fromarray(GREY).convert(m), REPEATED) for m in ('L', 'LA', 'P')},
    'PIL RGBa': (Image.fromarray(COLOURS).convert('RGBA').convert('RGBa'), COLOURS),
    'PIL La': (Image.fromarray(GREY).convert('LA').convert('La'), REPEATED),
    'PIL I;16': (Image.fromarray(GREY16), REPEATED), 'PIL I': (Image.fromarray(GREY16.astype(np.int32)), REPEATED)}
FLOATS = COLOURS/255
NOT_TAKEN = {
    'floats': FLOATS, 'floats to 255': COLOURS.astype(np.float32), 'half': FLOATS.astype(np.float16),
    'channels first': CHANNELS, 'int64': COLOURS.astype(int), 'two channels': COLOURS[..., :2], 'empty': COLOURS[:0],
    'tensor of floats': torch.from_numpy(FLOATS), 'tensor of halves': torch.from_numpy(FLOATS).bfloat16(),
    'channels first or last': torch.zeros(3, 64, 3, dtype=torch.uint8),
    '16 bits on the scale of 8': GREY.astype(np.uint16), 'text': np.array([['a', 'b']]),
    'objects': np.array([[None, 1]]), 'PIL F': Image.fromarray(GREY.astype(np.float32))}


@pytest.mark.parametrize('k', TAKEN)
def test_arrays_and_pictures_are_taken_right(k):
    given,wanted = TAKEN[k]
    for see in (open_picture, RecognitionImage.create, embedder().prepare):
        assert np.abs(np.asarray(see(given)).astype(int) - wanted).max() <= (6 if k == 'PIL HSV' else 0)
    names,emb = embedder().embed(given)
    assert len(names) == len(emb) == 1


@pytest.mark.parametrize('k', NOT_TAKEN)
def test_arrays_that_would_be_misread_are_refused(k):
    for see in (open_picture, RecognitionImage.create, embedder().prepare, lambda o: embedder().embed([o])):
        with pytest.raises(PictureError, match=r'uint8|save it with 8'): see(NOT_TAKEN[k])


def test_lists_of_pictures(tmp_path):
    (tmp_path/'a.tif').write_bytes(saved(COLOURS, 'TIFF'))
    (tmp_path/'@eaDir').mkdir()
    (tmp_path/'@eaDir'/'a.jpg').write_bytes(b'')
    with pytest.warns(UserWarning, match='passed over: 1 in @eaDir'): found = list_pictures(tmp_path)
    assert found == [str(tmp_path/'a.tif')]
    table = pd.DataFrame({'path': ['a.tif']})
    table.attrs['root'] = str(tmp_path)
    assert list_pictures(table) == found
    assert list_pictures(np.array(found)) == found
    assert list_pictures(pd.Series(found)) == found
    assert len(list_pictures(np.stack([COLOURS]*4))) == 4
    assert len(list_pictures(b'abc')) == 1
    for other in (None, 5, {'a': 1}, pd.DataFrame({'b': [1]})):
        with pytest.raises(ValueError, match='Give a folder, a file'): list_pictures(other)
    with pytest.raises(ValueError, match='empty'): list_pictures([])


def test_a_picture_is_left_as_it_was():
    img = Image.open(io.BytesIO(saved(COLOURS, 'PNG', exif=oriented(6))))
    out = open_picture(img)
    out.paste((0, 0, 0), (0, 0, 50, 50))
    assert img.getexif()[0x0112] == 6
    assert (np.asarray(img) == COLOURS).all()
    assert out.getexif() == {}


def test_beyond_the_limit_is_named(tmp_path, monkeypatch):
    (tmp_path/'wide.png').write_bytes(saved(drawn(40, 60), 'PNG'))
    monkeypatch.setattr(Image, 'MAX_IMAGE_PIXELS', 1000)
    for read in (RecognitionImage.create, embedder().prepare):
        with pytest.raises(PictureError, match=r'wide\.png .*2400 pixels.*limit of 2000.*MAX_IMAGE_PIXELS'):
            read(tmp_path/'wide.png')


def test_a_large_jpeg_is_decoded_smaller_by_model_readers_alone(tmp_path, monkeypatch):
    (tmp_path/'large.jpg').write_bytes(saved(drawn(400, 600), 'JPEG', exif=oriented(6)))
    (tmp_path/'large.png').write_bytes(saved(drawn(400, 600), 'PNG'))
    for name in ('blocks', 'pictures'): monkeypatch.setattr(f'qsd_fastai.data.{name}.LARGE', 20000)
    assert RecognitionImage.create(tmp_path/'large.jpg').size == (100, 150)
    assert RecognitionImage.create(tmp_path/'large.png').size == (600, 400)
    assert open_picture(tmp_path/'large.jpg').size == (400, 600)


def test_pixels_decoded_at_a_time_are_bounded(monkeypatch):
    monkeypatch.setattr(pictures, 'ROOM', pictures._Room(30000))
    now,most,lock = [], [], threading.Lock()
    def look(data):
        with decoded(data) as img:
            with lock:
                now.append(img.width*img.height)
                most.append((len(now), sum(now)))
            time.sleep(.01)
            with lock: now.remove(img.width*img.height)
    files = [saved(drawn(100, n), 'PNG') for n in (100, 150, 50, 400, 120, 100)*3]
    threads = [threading.Thread(target=look, args=(f,)) for f in files]
    for t in threads: t.start()
    for t in threads: t.join(30)
    assert len(most) == len(files)
    assert max(n for n,_ in most) > 1
    assert all(total <= 30000 or n == 1 for n,total in most)


def test_a_picture_of_deep_colour_is_that_of_its_high_bytes():
    rng = np.random.default_rng(0)
    deep = rng.integers(300, 65536, (8, 9, 3))
    assert np.abs(np.asarray(open_picture(png16(deep))).astype(int) - deep/257).max() <= 1
    assert np.abs(np.asarray(open_picture(png16(deep[..., 0])))[..., 0].astype(int) - deep[..., 0]/257).max() <= .51


def test_white_may_be_zero():
    "As a tag of TIFF says; Pillow looks at it where a pixel has 8 bits"
    seen = np.asarray(open_picture(saved(GREY16, 'TIFF', tiffinfo={262: 0})))
    assert np.abs(seen.astype(int) - (255 - GREY[..., None])).max() <= 1


def test_a_damaged_part_of_exif_does_not_hide_what_can_be_read():
    jpeg = saved(COLOURS, 'JPEG', quality=98, subsampling=0)
    turned = [open_picture(with_exif(jpeg, DAMAGED[k])) for k in ('unit as text', 'no header')]
    assert np.abs(np.asarray(turned[0]).astype(int) - np.rot90(COLOURS, -1)).max() <= 4
    assert np.abs(np.asarray(turned[1]).astype(int) - COLOURS).max() <= 4


def test_no_file_stays_open(tmp_path, monkeypatch):
    "One of several frames, one that is cut short; what the caller has opened stays as it is"
    frames,cut = [Image.fromarray(COLOURS), Image.fromarray(COLOURS[::-1].copy())],tmp_path/'cut.png'
    frames[0].save(tmp_path/'two.gif', save_all=True, append_images=frames[1:])
    cut.write_bytes(saved(COLOURS, 'PNG')[:200])
    opened,real = [],Image.open
    def seen(*args, **kwargs):
        opened.append(real(*args, **kwargs))
        return opened[-1]
    monkeypatch.setattr(Image, 'open', seen)
    assert open_picture(tmp_path/'two.gif').size == frames[0].size
    with pytest.raises(PictureError): open_picture(cut)
    assert len(opened) == 2
    assert all(o.fp is None or o.fp.closed for o in opened)
    with open(tmp_path/'two.gif', 'rb') as own:
        open_picture(own)
        assert not own.closed
    given = real(tmp_path/'two.gif')
    open_picture(given)
    given.seek(1) # Its second frame
    given.close()
