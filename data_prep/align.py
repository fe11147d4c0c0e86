"""A table of faces, aligned: every face turned, scaled and cut to the 112x112 template (ArcFace) of face networks.

    python data_prep/align.py lfw/images.csv --out lfw_aligned --detector face_detection_yunet_2023mar.onnx
    python data_prep/align.py faces/images.csv --out aligned --landmarks faces/landmarks.csv     # path,x1,y1,...,x5,y5
    python data_prep/align.py ms1m/images.csv --out aligned --landmarks ms1m/ldmk_5points.csv    # as CVLface has it
    python data_prep/align.py ijbc/images.csv --out aligned --landmarks ijbc/meta/ijbc_name_5pts_score.txt

Points are those of left eye, right eye, nose, left and right corner of the mouth as they stand in the picture, in
pixels or (all of them below 2) as parts of its width and height. The detector is OpenCV's YuNet, a file of its model
zoo. Of several faces in a picture that one counts whose area less twice the squared distance of its centre from that of
the picture is greatest. `pairs.csv` and the lists of templates beside the table come along.

Faces that are not found are listed in `missing.txt`, and `--missing` says what becomes of them: `crop` takes the middle
of the picture (column `aligned` is 0), `drop` leaves them out, `stop` ends with an error. Pictures are written in RGB;
a network that wants BGR (AdaFace) turns them itself.
"""
import os
import posixpath
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from common.command import chosen, in_a_line
from common.copies import new_names
from common.lists import beside, read_lists, write_lists
from common.pictures import why_unreadable
from common.report import finish
from fastcore.script import call_parse
from fastprogress import progress_bar

from qsd_fastai.choices import one_of
from qsd_fastai.data.alignment import FaceFinder, LandmarkError, align_face, central_square, read_landmarks
from qsd_fastai.data.made import is_made
from qsd_fastai.data.pictures import open_picture
from qsd_fastai.data.sources import split_address
from qsd_fastai.data.table import check_table, read_table
from qsd_fastai.files import in_one_move


def _keys_of_records(table, file):
    "For each row of the table the number of its record, from the index beside the record file"
    where = [split_address(p) for p in table['path']]
    index = Path(table.attrs['root'], where[0][0]).with_suffix('.idx')
    if not where[0][0].endswith('.rec') or not index.is_file():
        raise LandmarkError(f'{file} tells records by their number. '
                            f'It needs a table of a record file with its index, {index.name}.')
    lines = [line.split() for line in index.read_text(encoding='utf-8').splitlines() if line.strip()]
    try: key = {int(o): int(k) for k,o in lines}
    except ValueError: raise LandmarkError(f'{index} is not lines of `key<tab>offset`. Copy it again.') from None
    return [key.get(at) for _,at in where]


def points_of(
    table, # Table of pictures, `attrs['root']` their folder
    file,  # File of landmarks
): # `(a list of (5, 2) or None, one a row; whether they are parts of width and height)`
    "The landmarks of each row of the table; LandmarkError if none is of this table"
    noted = read_landmarks(file)
    numbers = dict(zip(noted.index, noted.iloc[:, :10].to_numpy().reshape(-1, 5, 2)))
    if noted.index.name == 'idx': found = [numbers.get(k) for k in _keys_of_records(table, file)]
    else:
        names,short = table['path'].map(posixpath.basename), pd.Series([posixpath.basename(k) for k in numbers])
        # a base name tells which picture only where all have another
        clear = not short.duplicated().any() and not names.duplicated().any()
        by_name = dict(zip(short, numbers.values())) if clear else {}
        found = [numbers.get(p, by_name.get(n)) for p,n in zip(table['path'], names)]
    if any(p is not None for p in found): return found, noted.attrs['fractions']
    there,here = noted.index[0], table['path'].iloc[0]
    raise LandmarkError(f'{file} has no picture of the table: {there!r} there, {here!r} here. '
                        'Pass the file that belongs to it.')


def _save(image, path, quality):
    options = {'quality': quality, 'subsampling': 0} if path.suffix == '.jpg' else {}
    with in_one_move(path) as part: image.save(part, **options)


def _check(table, out, landmarks, detector, missing, size, suffix):
    "ValueError where something is asked for that cannot be done"
    if bool(landmarks) == bool(detector):
        raise ValueError('Pass either landmarks (--landmarks FILE) or a detector (--detector FILE.onnx).')
    one_of('--missing', missing, 'crop', 'drop', 'stop')
    if suffix not in ('.jpg', '.png'):
        raise ValueError(f'--format is {suffix[1:]!r}, not a format for aligned pictures. Use jpg or png.')
    if size < 16: raise ValueError(f'--size is {size}, and faces of less than 16 pixels are of no use. Use 112.')
    if Path(out).resolve() == Path(table.attrs['root']).resolve():
        raise ValueError(f'{out} holds the pictures themselves. Write the aligned ones elsewhere: --out DIR.')


def aligned_copy(
    table,          # Table of pictures, `attrs['root']` their folder
    out,            # Folder to write to, `out/images/...`
    landmarks=None, # File of landmarks
    detector=None,  # File of OpenCV's YuNet, where nobody has noted landmarks
    missing='crop', # What becomes of a face that is not found: its middle, nothing (drop), or ValueError (stop)
    size=112,       # Height and width of the aligned pictures
    score=.6,       # Least certainty of the detector, 0 to 1
    suffix='.jpg',  # .jpg or .png
    quality=95,     # Of JPEG, without reducing colours
    workers=8,      # Threads
):
    """Write the aligned pictures; the table of them with `aligned` (1, or 0 where a middle stands for a face).

    Where they were detected it has `detector_score` too. `attrs['missing']` lists the faces not found with the reason,
    `attrs['new_path']` leads from a path to the aligned one."""
    _check(table, out, landmarks, detector, missing, size, suffix)
    root,out = Path(table.attrs['root']), Path(out)
    names,find = new_names(table['path'].tolist(), suffix), FaceFinder(detector, score) if detector else None
    noted,fractions = points_of(table, landmarks) if landmarks else ([None]*len(table), False)

    def one(row):
        path,name,points = row
        try:
            image = open_picture(os.path.join(root, path))
        except (OSError, ValueError) as e: return -1, np.nan, why_unreadable(e)
        sure,why,face = np.nan, 'no landmarks', None
        if find: (points, sure),why = find(image), 'no face found'
        elif points is not None and fractions: points = points*image.size
        if points is not None:
            try: face,why = align_face(image, points, size), ''
            except LandmarkError as e: why = str(e)
        if face is None and missing == 'crop': face = central_square(image, size)
        if face is not None: _save(face, out/name, quality)
        return int(not why), sure, why

    with ThreadPoolExecutor(max(1, workers)) as pool:
        todo = pool.map(one, zip(table['path'], names, noted))
        aligned,sure,why = zip(*progress_bar(todo, total=len(table), leave=False))
    made,aligned = table.assign(path=names, aligned=aligned), np.array(aligned)
    if find: made['detector_score'] = np.round(sure, 4)
    listed = [f'{p}\t{w}' for p,w in zip(table['path'], why) if w]
    if missing == 'stop' and listed:
        raise ValueError(f'{len(listed)} of {len(table)} faces cannot be aligned, first {listed[0]!r}. '
                         '--missing crop or drop goes on without them.')
    keep = aligned > (0 if missing == 'drop' else -1)
    if not keep.any():
        raise ValueError(f'None of the {len(table)} faces can be aligned, first {listed[0]!r}. '
                         'Pass the landmarks, or a detector, that belong to these pictures.')
    new_path = dict(zip(table['path'][keep], made['path'][keep]))
    made = made[keep].reset_index(drop=True)
    made.attrs = {'root': str(out), 'missing': listed, 'new_path': new_path}
    return made


def _list_missing(listed, n, file, missing):
    "Write or remove the list of faces that were not found, and say what became of them"
    file.unlink(missing_ok=True)
    if not listed: return
    with in_one_move(file) as part: part.write_text('\n'.join(listed) + '\n', encoding='utf-8')
    crop = 'the middle of their pictures stands for them, or nothing where it cannot be read'
    what = crop if missing == 'crop' else 'they were left out'
    print(f'{len(listed)} of {n} faces could not be aligned, see {file}; {what}')


@call_parse
@in_a_line
def main(
    table:str,         # The table, images.csv or images.parquet
    out:str='',        # Folder for the aligned pictures and their table; it must be given
    landmarks:str='',  # File of landmarks
    detector:str='',   # File of OpenCV's YuNet, face_detection_yunet_*.onnx
    missing:str='crop',# A face that is not found: crop (the middle of the picture), drop, stop
    size:int=112,      # Height and width of the aligned pictures
    score:float=.6,    # Least certainty of the detector, 0 to 1
    format:str='jpg',  # `jpg` or `png`
    quality:int=95,    # Of JPEG
    workers:int=8,     # Threads
    force:bool=False,  # Align anew where it was done
):
    "An aligned copy of a table of faces and of its pictures"
    options = chosen(locals(), but=['table', 'landmarks', 'detector'])
    if not out: raise ValueError('Aligned faces are pictures. Say where they go: --out DIR.')
    source,to,file = Path(table), Path(out)/'images.csv', Path(landmarks or detector)
    found = check_table(read_table(source, check=False))
    if not file.is_file():
        raise FileNotFoundError(f'{file}: no such file. Pass either --landmarks FILE or --detector FILE.onnx.')
    record = {'source': 'aligned', 'table': zlib.crc32(source.read_bytes()),
              'points': [file.name, zlib.crc32(file.read_bytes())],
              'lists': {p.name: zlib.crc32(p.read_bytes()) for p in beside(source).values() if p.is_file()},
              'options': options}
    if is_made(to, record, force):
        check_table(read_table(to, check=False))
        return print(f'{to} is there already, aligned from the same table in the same way: nothing to do.')
    lists = read_lists(source, found)
    to.unlink(missing_ok=True)  # stopped from here on, there is no table rather than one of other pictures
    made = aligned_copy(found, out, landmarks, detector, missing, size, score, f'.{format}', quality, workers)
    listed = made.attrs['missing']
    _list_missing(listed, len(found), to.with_name('missing.txt'), missing)
    write_lists(lists, to, made, made.attrs['new_path'])
    had = {k: v for k,v in (found.attrs.get('record') or {}).items() if k != 'published' or len(made) == len(found)}
    record = {**had, **record, 'source': had.get('source', 'aligned'), 'faces': len(made), 'not_aligned': len(listed)}
    finish(made, to, record, 'face')
