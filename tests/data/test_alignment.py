"The usual template: exact on made-up faces, near on real ones; landmarks in every form they come in"
import builtins
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from qsd_fastai.data.alignment import (
    FACE_TEMPLATE,
    FaceFinder,
    LandmarkError,
    align_face,
    align_matrix,
    central_square,
    read_landmarks,
)

FACES = [p/'shared'/'data'/'london_faces'/'images' for p in Path(__file__).parents[2:4]]


def moved(points, angle, scale, shift):
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return points@(scale*turn).T + shift


def naive(points, goal):
    "Least squares over the four numbers of a similarity transform, in float64"
    rows,want = [],[]
    for (x, y),(u, v) in zip(points, goal):
        rows += [(x, -y, 1, 0), (y, x, 0, 1)]
        want += [u, v]
    a,b,s,t = np.linalg.lstsq(np.array(rows), np.array(want), rcond=None)[0]
    return np.array([[a, -b, s], [b, a, t]])


@pytest.mark.parametrize('size', [112, 160, 64])
@pytest.mark.parametrize('angle, scale, shift', [(0, 1, (0, 0)), (.7, 3.2, (40, -9)), (-3, .2, (5, 300))])
def test_a_moved_template_comes_back(size, angle, scale, shift):
    points = moved(FACE_TEMPLATE, angle, scale, shift)
    matrix = align_matrix(points, size)
    assert np.allclose(np.c_[points, np.ones(5)]@matrix.T, FACE_TEMPLATE*size/112, atol=1e-8)


def test_matrix_against_least_squares():
    "Umeyama's scale minimises the same sum where all points are noisy"
    rng = np.random.default_rng(0)
    for _ in range(20):
        points = moved(FACE_TEMPLATE, rng.uniform(-3, 3), rng.uniform(.3, 4), rng.uniform(-90, 90, 2))
        points = points + rng.normal(0, 2, (5, 2))
        assert np.allclose(align_matrix(points), naive(points, FACE_TEMPLATE), atol=1e-6)


@pytest.mark.parametrize('scale', [.5, 1, 1.9, 3.7, 9])
def test_what_is_drawn_at_the_points_lands_on_the_template(scale):
    "Discs of five colours, of a picture of any size, one reduced first among them"
    angle,size = .3,112
    points = moved(FACE_TEMPLATE, angle, scale, (30*scale, 20*scale))
    side = int(180*scale)
    y,x = np.mgrid[:side, :side]
    image = np.zeros((side, side, 3), np.uint8)
    colours = np.array([(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)])
    for p,c in zip(points, colours): image[(x - p[0])**2 + (y - p[1])**2 < (4*scale)**2] = c
    out = align_face(image, points, size).astype(float)
    gy,gx = np.mgrid[:size, :size]
    for p,c in zip(FACE_TEMPLATE, colours):
        weight = np.clip(1 - np.abs(out - c).sum(-1)/255, 0, 1)
        assert weight.sum() == pytest.approx(np.pi*16, rel=.25)
        middle = [(weight*g).sum()/weight.sum() for g in (gx, gy)]
        assert middle == pytest.approx(p, abs=.3*max(1, 1/scale))  # the disc itself is drawn in whole pixels


@pytest.mark.parametrize('scale', [1.5, 4.])
def test_published_alignment_reduces_nothing(scale):
    cv2 = pytest.importorskip('cv2')
    side = int(160*scale)
    image = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
    points = moved(FACE_TEMPLATE, .1, scale, (9, 5))
    plain = cv2.warpAffine(image, align_matrix(points), (112, 112))
    assert (align_face(image, points, reduce=False) == plain).all()
    assert (align_face(image, points) == plain).all() == (scale < 2)


@pytest.mark.skipif(not any(p.is_dir() for p in FACES), reason='the aligned faces of the London set are not here')
def test_real_faces_that_are_aligned_already():
    "Their points are the template scaled to 160: what comes out is the picture, reduced"
    for file in sorted(next(p for p in FACES if p.is_dir()).glob('*/*.jpg'))[:20]:
        image = Image.open(file).convert('RGB')
        out = np.asarray(align_face(image, FACE_TEMPLATE*160/112)).astype(float)
        assert image.size == (160, 160)
        assert out.shape == (112, 112, 3)
        # a point of the template keeps its place, so pixel x is what was at x*160/112
        raw,at = np.asarray(image).astype(float), np.arange(112)*160/112
        low,part = at.astype(int), at - at.astype(int)
        rows = raw[low]*(1 - part)[:, None, None] + raw[np.minimum(low + 1, 159)]*part[:, None, None]
        naive = rows[:, low]*(1 - part)[:, None] + rows[:, np.minimum(low + 1, 159)]*part[:, None]
        assert np.abs(out - naive).max() < 4


def test_kinds_of_pictures():
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 255, (112, 112, 3), np.uint8)
    assert (align_face(rgb, FACE_TEMPLATE) == rgb).all()  # nothing to do
    assert (align_face(rgb[..., ::-1], FACE_TEMPLATE) == rgb[..., ::-1]).all()  # BGR stays BGR
    assert align_face(rgb[..., 0], FACE_TEMPLATE).shape == (112, 112)
    out = align_face(Image.fromarray(rgb), FACE_TEMPLATE)
    assert isinstance(out, Image.Image)
    assert (np.asarray(out) == rgb).all()
    assert align_face(Image.fromarray(rgb).convert('L'), FACE_TEMPLATE, 64).mode == 'RGB'


@pytest.mark.parametrize('points, said', [
    (np.zeros((5, 2)), 'on one spot'), (np.zeros((4, 2)), 'five finite'), (np.full((5, 2), np.nan), 'five finite')])
def test_landmarks_of_no_face(points, said):
    with pytest.raises(LandmarkError, match=said): align_face(np.zeros((9, 9, 3), np.uint8), points)


def test_central_square():
    image = Image.new('RGB', (300, 100), 'black')
    image.paste('red', (100, 0, 200, 100))
    assert np.asarray(central_square(image, 50)).reshape(-1, 3).min(0).tolist() == [255, 0, 0]


def test_without_opencv(monkeypatch):
    real = builtins.__import__
    def no(name, *args, **kwargs):
        if name == 'cv2': raise ImportError('none')
        return real(name, *args, **kwargs)
    monkeypatch.setattr(builtins, '__import__', no)
    with pytest.raises(ImportError, match=r"needs cv2: pip install 'qsd_fastai\[data\]'"):
        align_face(np.zeros((9, 9, 3), np.uint8), FACE_TEMPLATE)


NUMBERS = list(range(10, 20))
TEXT = [str(n) for n in NUMBERS]
OURS = 'path,x1,y1,x2,y2,x3,y3,x4,y4,x5,y5'
CVLFACE = 'idx,' + ','.join(f'ldmk_{k}' for k in range(10))


@pytest.mark.parametrize('name, text, index, extra', [
    ('l.csv', OURS + '\na b/c.jpg,' + ','.join(TEXT) + '\n', 'a b/c.jpg', []),
    ('l.csv', OURS + ',score\na,b.jpg,' + ','.join(TEXT) + ',.5\n', 'a,b.jpg', [.5]),
    ('ldmk_5points.csv', CVLFACE + '\n7,' + ','.join(TEXT) + '\n', 7, []),
    ('ijbc_name_5pts_score.txt', '1.jpg ' + ' '.join(TEXT) + ' 0.75\n', '1.jpg', [.75])])
def test_forms_of_landmarks(tmp_path, name, text, index, extra):
    (tmp_path/name).write_text(text)
    found = read_landmarks(tmp_path/name)
    assert found.index.tolist() == [index]
    assert found.iloc[0].tolist() == NUMBERS + extra
    assert not found.attrs['fractions']


def test_landmarks_as_parts_of_the_picture(tmp_path):
    numbers = ','.join(str(n) for n in (FACE_TEMPLATE/112).reshape(-1))
    (tmp_path/'ldmk_5points.csv').write_text(f'{CVLFACE}\n0,{numbers}\n')
    assert read_landmarks(tmp_path/'ldmk_5points.csv').attrs['fractions']


def ours(*rows): return '\n'.join([OURS, *(f'{name},{",".join(map(str, numbers))}' for name,numbers in rows)])


@pytest.mark.parametrize('text, said', [
    (OURS + '\na.jpg,1,2\n', r"line 2: 'a\.jpg,1,2' is not"), (ours(('a.jpg', ['x', *TEXT[1:]])), 'line 2'),
    ('path,x1\n', "no column 'y1'"), (OURS + '\n', 'holds no landmarks'), ('', 'holds no landmarks'),
    (ours(('a', TEXT), ('a', TEXT)) + '\n', "'a' twice"),
    (ours(('a', ['nan', *TEXT[1:]])), "landmark of 'a' is not a number"), ('1.jpg 3 4 5\n', 'line 1'),
    (ours(('a', FACE_TEMPLATE[[1, 0, 2, 4, 3]].reshape(-1))), 'left and right are exchanged')])
def test_landmarks_that_cannot_be_read(tmp_path, text, said):
    (tmp_path/'l.csv' if ',' in text else tmp_path/'l.txt').write_text(text)
    with pytest.raises(LandmarkError, match=r'l\.(csv|txt).*' + said): read_landmarks(next(tmp_path.iterdir()))


def test_no_detector(tmp_path):
    with pytest.raises(FileNotFoundError, match='no such detector'): FaceFinder(tmp_path/'d.onnx')
    (tmp_path/'d.onnx').write_bytes(b'no network')
    with pytest.raises(ValueError, match=r'd\.onnx is not a face detector that OpenCV'): FaceFinder(tmp_path/'d.onnx')


class Boxes:
    "Stands for the detector: faces at known places of the picture it is shown"
    def __init__(self, answer): self.answer,self.sizes = answer,[]
    def setInputSize(self, size): self.sizes.append(size)
    def detect(self, seen): return 1, self.answer(seen.shape[1], seen.shape[0])


def face(x, y, w, h, sure): return [x, y, w, h, *(FACE_TEMPLATE*(w/112) + (x, y)).reshape(-1), sure]


@pytest.fixture
def finder(tmp_path, monkeypatch):
    def make(answer):
        boxes = Boxes(answer)
        monkeypatch.setattr(FaceFinder, '_net', lambda self: boxes)
        (tmp_path/'d.onnx').touch()
        return FaceFinder(tmp_path/'d.onnx'), boxes
    return make


def test_the_face_that_counts(finder):
    "Area less twice the squared distance: a smaller one in the middle before a larger one in the corner"
    faces = [face(0, 0, 60, 60, .99), face(130, 130, 40, 40, .7), face(150, 150, 10, 10, .9)]
    find,boxes = finder(lambda w, h: np.array(faces, np.float32))
    points,sure = find(Image.new('RGB', (300, 300)))
    assert boxes.sizes == [(300, 300)]
    assert sure == pytest.approx(.7)
    assert np.allclose(points, FACE_TEMPLATE*40/112 + 130, atol=1e-4)


def test_pictures_of_any_size(finder):
    "Large ones are reduced, points are those of the picture as it is; where there is none, other sizes, then a border"
    def third(w, h): return np.array([face(w/4, h/4, w/2, w/2, .9)], np.float32) if len(boxes.sizes) == 3 else None
    find,boxes = finder(third)
    points,_ = find(Image.new('RGB', (2000, 1000)))
    assert boxes.sizes == [(640, 320), (320, 160), (320, 240)]  # the last with a border of 80 about 160x80
    assert np.allclose(points, (FACE_TEMPLATE*160/112 + (80, 60) - 80)*12.5, atol=.01)
    find,boxes = finder(lambda w, h: None)
    assert find(Image.new('L', (20, 30))) == (None, 0.)
    assert boxes.sizes[0] == (20, 30)
