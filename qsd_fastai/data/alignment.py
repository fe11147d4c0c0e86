"""Five landmarks of a face to the usual 112x112 template (ArcFace, Deng et al., CVPR 2019), and finding them unnoted.

Points come in the order of the template, as they stand in the picture: left eye, right eye, tip of the nose, left and
right corner of the mouth."""
import re
import threading
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

__all__ = ['FACE_TEMPLATE', 'FaceFinder', 'LandmarkError', 'align_face', 'align_matrix', 'central_square',
           'read_landmarks']

# where the five points stand in a picture of 112x112, (x, y) in pixels: the convention of ArcFace and of all since
FACE_TEMPLATE = np.array([(38.2946, 51.6963), (73.5318, 51.5014), (56.0252, 71.7366),
                          (41.5493, 92.3655), (70.7299, 92.2041)])
_POINTS = [f'{c}{i}' for i in range(1, 6) for c in 'xy']
_NEEDS = "Aligning faces needs {}: pip install 'qsd_fastai[data]'"


class LandmarkError(ValueError):
    "Landmarks that cannot be read or used; the message names file, line or picture, and the remedy"


def _need(name):
    try: return __import__(name, fromlist=['*'])
    except ImportError as e: raise ImportError(_NEEDS.format(name)) from e


def align_matrix(
    landmarks, # `(5, 2)`, x and y in pixels, in the order of the template
    size=112,  # Of the aligned picture: the template grows with it
)->np.ndarray: # `(2, 3)`, from pixels of the picture to those of the aligned one
    """The similarity transform (turn, scale, shift; Umeyama 1991) that brings the points nearest to the template.

    LandmarkError if there is none."""
    points = np.asarray(landmarks, float)
    if points.shape != (5, 2) or not np.isfinite(points).all():
        raise LandmarkError(f'Landmarks are five finite (x, y), not {points.tolist()!r:.200}.')
    if np.ptp(points, axis=0).max() < 1:
        raise LandmarkError(f'The five landmarks lie on one spot, {points[0].round(1).tolist()}. That is no face.')
    kind = _need('skimage.transform').SimilarityTransform
    goal = FACE_TEMPLATE*(size/112)
    if hasattr(kind, 'from_estimate'): found = kind.from_estimate(points, goal)  # scikit-image 0.26 and later
    else:
        found = kind()
        if not found.estimate(points, goal): found = None
    if not found or not np.isfinite(found.params).all():
        raise LandmarkError(f'No transform brings {points.round(1).tolist()} to the template.')
    return found.params[:2]


def align_face(
    image,       # PIL picture, or array `(height, width[, channels])`, whose order of channels is kept
    landmarks,   # `(5, 2)`, x and y in pixels of `image`, in the order of the template
    size=112,    # Height and width of the result in pixels
    reduce=True, # Reduce a picture first whose face is more than twice as large? Published code does not
):
    """The face turned, scaled and cut to the template, of the kind that `image` is (a PIL picture becomes RGB).

    It is black beyond the border of the picture. Without `reduce`, four pixels of the picture make one of the face,
    however large it is: fine lines turn into noise."""
    cv2 = _need('cv2')
    pil = isinstance(image, Image.Image)
    pixels = np.asarray(image.convert('RGB') if pil else image)
    matrix = align_matrix(landmarks, size)
    shrink = 1/np.hypot(*matrix[:, 0])
    if reduce and shrink > 2:  # warpAffine looks at four pixels only
        height,width = (max(1, round(n/(shrink/2))) for n in pixels.shape[:2])
        fx,fy = width/pixels.shape[1], height/pixels.shape[0]
        pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA)
        # the centre of the first pixel is at 0: pixel x of the picture is (x + .5)f - .5 of the reduced one
        enlarge = np.array([(1/fx, 0, .5/fx - .5), (0, 1/fy, .5/fy - .5), (0, 0, 1)])
        matrix = (np.vstack([matrix, (0, 0, 1)])@enlarge)[:2]
    out = cv2.warpAffine(pixels, matrix, (size, size), flags=cv2.INTER_LINEAR)
    return Image.fromarray(out) if pil else out


def central_square(
    image,    # PIL picture
    size=112, # Height and width of the result in pixels
)->Image.Image:
    "The largest square in the middle, scaled: what stands for a face that was not found"
    side = min(image.size)
    x,y = (image.width - side)//2, (image.height - side)//2
    return image.convert('RGB').crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BICUBIC)


class FaceFinder:
    """Finds the five landmarks of the face a picture is of, with a YuNet file of OpenCV's model zoo (Wu et al., 2023).

    Pictures of any size: looked at with the longer side reduced to 640 pixels, then 320, then 160 with a border, until
    a face is found. Of several faces that one counts whose area less twice the squared distance of its centre from that
    of the picture is greatest (the rule of InsightFace). Safe in threads."""
    def __init__(self,
        file,     # The detector, `face_detection_yunet_*.onnx`
        score=.6, # Least certainty of a face, 0 to 1
    ):
        if not Path(file).is_file():
            raise FileNotFoundError(f'{file}: no such detector. OpenCV\'s model zoo has face_detection_yunet_*.onnx.')
        self.file,self.score,self.own = Path(file), score, threading.local()
        self._net()

    def _net(self):
        "One detector a thread: they keep what they last saw"
        cv2 = _need('cv2')
        if not hasattr(self.own, 'net'):
            try: self.own.net = cv2.FaceDetectorYN.create(str(self.file), '', (320, 320), self.score)
            except (cv2.error, AttributeError) as e:
                why = str(e).split('\n')[0]
                raise ValueError(f'{self.file} is not a face detector that OpenCV {cv2.__version__} can read ({why}). '
                                 'Its model zoo has face_detection_yunet_*.onnx.') from e
        return self.own.net

    def __call__(self,
        image, # PIL picture
    )->tuple: # `(landmarks (5, 2) in pixels of image, certainty 0 to 1)`; `(None, 0.)` where there is no face
        "The landmarks of the face that counts, in the order of the template"
        cv2,net = _need('cv2'), self._net()
        pixels = np.asarray(image.convert('RGB'))[..., ::-1]
        for longest,border in ((640, 0), (320, 0), (160, 80)):
            scale = min(longest/max(image.size), 1 if longest == 640 else np.inf)
            width,height = (max(1, round(n*scale)) for n in image.size)
            way = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
            seen = cv2.resize(pixels, (width, height), interpolation=way)
            if border: seen = cv2.copyMakeBorder(seen, border, border, border, border, cv2.BORDER_CONSTANT)
            net.setInputSize((seen.shape[1], seen.shape[0]))
            faces = net.detect(np.ascontiguousarray(seen))[1]
            if faces is None: continue
            faces = faces.astype(float)
            middle = np.array([seen.shape[1], seen.shape[0]])/2
            off = ((faces[:, :2] + faces[:, 2:4]/2 - middle)**2).sum(1)
            best = faces[np.argmax(faces[:, 2]*faces[:, 3] - 2*off)]
            points = (best[4:14].reshape(5, 2) - border)*(image.width/width, image.height/height)
            return points, float(best[14])
        return None, 0.


def read_landmarks(
    file, # A .csv, or lines of text
)->pd.DataFrame: # Index `path` or `idx`, the ten numbers, `score` where there is one
    """Landmarks by picture; `attrs['fractions']` tells that numbers are parts of width and height.

    A .csv has `path,x1,y1,...,x5,y5` or `idx,ldmk_0..ldmk_9` (CVLface), text has `name x1 y1 ... x5 y5 [score]` (IJB).
    LandmarkError naming file and line of what cannot be read, and where left and right are exchanged throughout."""
    file = Path(file)
    if not file.is_file(): raise FileNotFoundError(f'{file}: no such file of landmarks.')
    lines = file.read_text(encoding='utf-8', errors='replace').splitlines()
    first = lines[0].strip() if lines else ''
    cvl,ours = first.startswith('idx,'), first.startswith('path,')
    head = first.split(',') if cvl or ours else ['path', *_POINTS, 'score']
    known = ['idx', *(f'ldmk_{i}' for i in range(10))] if cvl else ['path', *_POINTS]
    if lack := [c for c in known if c not in head]:
        raise LandmarkError(f'{file}, line 1: no column {lack[0]!r}, only {first[:120]}. '
                            f'Columns are {",".join(known)}.')
    table,scored = cvl or ours, 'score' in head
    at,names,rows = [head.index(c) for c in known], [], []
    for n,line in enumerate(lines[1:] if table else lines, 2 if table else 1):
        if not line.strip(): continue
        # a path may hold blanks, or commas: numbers are counted from the end
        part = line.rsplit(',', len(head) - 1) if table else re.split(r'\s+', line.strip())
        if not table and len(part) == 11: part.append('nan')
        try:
            if len(part) != len(head): raise ValueError
            names.append(int(part[0]) if cvl else part[at[0]].strip('"'))
            rows.append([float(part[i]) for i in at[1:]])
            if scored: rows[-1].append(float(part[head.index('score')] or 'nan'))
        except ValueError:
            raise LandmarkError(f'{file}, line {n}: {line[:100]!r} is not a name and five points.') from None
    if not rows: raise LandmarkError(f'{file} holds no landmarks.')
    out = pd.DataFrame(rows, pd.Index(names, name=known[0]), _POINTS + ['score']*scored, dtype=float)
    if out.index.has_duplicates:
        twice = out.index[out.index.duplicated()][0]
        raise LandmarkError(f'{file} has {twice!r} twice. Keep one line a picture.')
    points = out[_POINTS].to_numpy().reshape(-1, 5, 2)
    bad = ~np.isfinite(points).all((1, 2))
    if bad.any():
        raise LandmarkError(f'{file}: a landmark of {out.index[bad.argmax()]!r} is not a number. '
                            'Remove its line: the face then counts as not found.')
    eyes,corners = (np.median(points[:, right, 0] - points[:, left, 0]) for left,right in ((0, 1), (3, 4)))
    if eyes < 0 and corners < 0:
        raise LandmarkError(f'{file}: left and right are exchanged. '
                            'The first eye and corner of the mouth are those on the left of the picture.')
    out.attrs['fractions'] = bool(np.abs(points).max() <= 2)
    return out
