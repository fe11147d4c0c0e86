"""A table of faces, aligned: every face turned, scaled and cut to the usual 112x112 template (ArcFace), which networks for faces expect.

    python data_prep/align.py lfw/images.csv --out lfw_aligned --detector face_detection_yunet_2023mar.onnx
    python data_prep/align.py faces/images.csv --out aligned --landmarks faces/landmarks.csv     # path,x1,y1,...,x5,y5
    python data_prep/align.py ms1m/images.csv --out aligned --landmarks ms1m/ldmk_5points.csv    # idx,ldmk_0,...,ldmk_9 (CVLface)
    python data_prep/align.py ijbc/images.csv --out aligned --landmarks ijbc/meta/ijbc_name_5pts_score.txt

Points are those of left eye, right eye, nose, left and right corner of the mouth as they stand in the picture, in pixels or (all of them below 2) as
parts of its width and height. The detector is OpenCV's YuNet, a file of its model zoo. Of several faces in a picture that one counts whose area less
twice the squared distance of its centre from that of the picture is greatest. `pairs.csv` and the lists of templates beside the table come along.

Faces that are not found are listed in `missing.txt`, and `--missing` says what becomes of them: `crop` takes the middle of the picture (column
`aligned` is 0), `drop` leaves them out, `stop` ends with an error. Pictures are written in RGB; a network that wants BGR (AdaFace) turns them itself.
"""
import os
import posixpath
import sys
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, new_names
from fastcore.script import call_parse
from fastprogress import progress_bar
from PIL import ImageOps

from qsd_fastai.data.alignment import FaceFinder, LandmarkError, align_face, central_square, read_landmarks
from qsd_fastai.data.pairs import read_pairs, write_pairs
from qsd_fastai.data.sources import open_picture, split_address
from qsd_fastai.data.table import check_table, read_table
from qsd_fastai.data.templates import read_template_pairs, read_templates, write_list

MISSING = ('crop', 'drop', 'stop')


def points_of(
    table, # Table of pictures, `attrs['root']` their folder
    file,  # File of landmarks
):
    "For each row of the table its landmarks (5, 2) or None, and whether they are parts of width and height; LandmarkError if none is of this table"
    noted = read_landmarks(file)
    numbers = dict(zip(noted.index, noted.iloc[:, :10].to_numpy().reshape(-1, 5, 2)))
    if noted.index.name == 'idx':
        where = [split_address(p) for p in table['path']]
        index = Path(table.attrs['root'], where[0][0]).with_suffix('.idx')
        if not where[0][0].endswith('.rec') or not index.is_file():
            raise LandmarkError(f'{file} tells records by their number: it needs a table of a record file with its index, {index.name}.')
        try: key = {int(o): int(k) for k,o in (line.split() for line in index.read_text(encoding='utf-8').splitlines() if line.strip())}
        except ValueError: raise LandmarkError(f'{index} is not lines of `key<tab>offset`. Copy it again.') from None
        found = [numbers.get(key.get(at)) for _,at in where]
    else:
        short = pd.Series([posixpath.basename(k) for k in numbers])
        by_name = dict(zip(short, numbers.values())) if not short.duplicated().any() else {}
        names = table['path'].map(posixpath.basename)
        if names.duplicated().any(): by_name = {}                                  # a base name tells which picture only where all have another
        found = [numbers.get(p, by_name.get(n)) for p,n in zip(table['path'], names)]
    if not any(p is not None for p in found):
        raise LandmarkError(f"{file} has no picture of the table: {noted.index[0]!r} there, {table['path'].iloc[0]!r} here.")
    return found, noted.attrs['fractions']


def _save(image, path, quality):
    path.parent.mkdir(parents=True, exist_ok=True)
    tmp = path.with_name(f'.{os.getpid()}.{path.name}')
    try:
        image.save(tmp, **({'quality': quality, 'subsampling': 0} if path.suffix == '.jpg' else {}))
        os.replace(tmp, path)
    finally: tmp.unlink(missing_ok=True)


def aligned_copy(
    table,          # Table of pictures, `attrs['root']` their folder
    out,            # Folder to write to, `out/images/...`
    landmarks=None, # File of landmarks
    detector=None,  # File of OpenCV's YuNet, where nobody has noted landmarks
    missing='crop', # What becomes of a face that is not found: its middle, nothing, or ValueError
    size=112,       # Height and width of the aligned pictures
    score=.6,       # Least certainty of the detector, 0 to 1
    suffix='.jpg',  # .jpg or .png
    quality=95,     # Of JPEG, without reducing colours
    workers=8,      # Threads
):
    """Write the aligned pictures; the table of them with `aligned` (1, or 0 where a middle stands for a face) and `detector_score` where detected.

    `attrs['missing']` lists the faces not found with the reason, `attrs['new_path']` leads from a path to the aligned one."""
    if bool(landmarks) == bool(detector): raise ValueError('Pass either landmarks (--landmarks FILE) or a detector (--detector FILE.onnx).')
    if missing not in MISSING: raise ValueError(f"missing is {missing!r}: pass {', '.join(MISSING)}.")
    if suffix not in ('.jpg', '.png'): raise ValueError(f'{suffix!r} is not a format for aligned pictures: jpg or png.')
    if size < 16: raise ValueError(f'size is {size}: faces of less than 16 pixels are of no use.')
    root,out = Path(table.attrs['root']), Path(out)
    if out.resolve() == root.resolve(): raise ValueError(f'{out} holds the pictures themselves: write the aligned ones elsewhere, --out DIR.')
    names,find = new_names(table['path'].tolist(), suffix), FaceFinder(detector, score) if detector else None
    noted,fractions = points_of(table, landmarks) if landmarks else ([None]*len(table), False)

    def one(row):
        path,name,points = row
        try:
            with open_picture(os.path.join(root, path)) as im: image = ImageOps.exif_transpose(im).convert('RGB')
        except Exception as e: return -1, np.nan, f'{type(e).__name__}: {" ".join(str(e).split())}'  # a decoder may raise anything on broken bytes
        sure,why = np.nan, 'no landmarks'
        if find: (points, sure),why = find(image), 'no face found'
        elif points is not None and fractions: points = points*image.size
        face = None
        if points is not None:
            try: face = align_face(image, points, size)
            except LandmarkError as e: why = str(e)
        if face is not None: why = ''
        elif missing == 'crop': face = central_square(image, size)
        if face is not None: _save(face, out/name, quality)
        return int(not why), sure, why

    with ThreadPoolExecutor(max(1, workers)) as pool:
        aligned,sure,why = zip(*progress_bar(pool.map(one, zip(table['path'], names, noted)), total=len(table), leave=False))
    made,aligned = table.assign(path=names, aligned=aligned), np.array(aligned)
    if find: made['detector_score'] = np.round(sure, 4)
    listed = [f'{p}\t{w}' for p,w in zip(table['path'], why) if w]
    if missing == 'stop' and listed:
        raise ValueError(f'{len(listed)} of {len(table)} faces cannot be aligned, first {listed[0]!r}. --missing crop or drop goes on without them.')
    keep = aligned > (0 if missing == 'drop' else -1)
    if not keep.any(): raise ValueError(f'None of the {len(table)} faces can be aligned, first {listed[0]!r}.')
    made.attrs = {'root': str(out), 'missing': listed, 'new_path': dict(zip(table['path'][keep], made['path'][keep]))}
    out = made[keep].reset_index(drop=True)
    out.attrs = made.attrs
    return out


def moved(
    listed,   # Pairs, or a list of templates
    columns,  # Its columns that hold paths
    new_path, # Path of a picture -> that of its aligned one
):
    "`(listed with the new paths, how many rows were left out)`: rows of a picture that is not there any more"
    out = listed.copy()
    for c in columns: out[c] = out[c].map(new_path)
    keep = out[columns].notna().all(axis=1)
    return out[keep].reset_index(drop=True), int((~keep).sum())


def read_lists(
    source, # The table's file
    table,  # The table
):
    "What stands beside a table, checked: pairs of pictures, or templates and their lists, by name"
    beside = {n: source.with_name(f'{n}.csv') for n in ('pairs', 'templates', 'template_pairs', 'gallery', 'probe')}
    out = {'pairs': read_pairs(beside['pairs'], table)} if beside['pairs'].is_file() else {}
    if not beside['templates'].is_file(): return out
    out['templates'] = read_templates(beside['templates'], table)
    if beside['template_pairs'].is_file(): out['template_pairs'] = read_template_pairs(beside['template_pairs'], out['templates'])
    return out | {n: pd.read_csv(beside[n], dtype={'identity': str}, keep_default_na=False) for n in ('gallery', 'probe') if beside[n].is_file()}


def write_lists(
    lists, # Of `read_lists`
    to,    # The file of the aligned table
    made,  # The aligned table, `attrs['new_path']` its names
):
    "Write the lists with the new paths, without what is of pictures that were left out; says how much that is"
    new_path,there = made.attrs['new_path'], None
    for name,rows in lists.items():
        if name == 'pairs': out,lost = moved(rows, ['path1', 'path2'], new_path)
        elif name == 'templates':
            out,lost = moved(rows, ['path'], new_path)
            there = set(out['template'])
        else:
            keep = rows[[c for c in rows if c.startswith('template')]].isin(there).all(axis=1)
            out,lost = rows[keep], int((~keep).sum())
        if lost: print(f'Note: {lost} rows of {name}.csv are left out with them: the figures are not those of the whole list.')
        if name == 'pairs': write_pairs(out, to.with_name('pairs.csv'), made)
        else: write_list(out.astype({'same': int}) if 'same' in out else out, to.with_name(f'{name}.csv'))


@call_parse
def main(
    table:str, # The table, images.csv or images.parquet
    out:str, # Folder for the aligned pictures and their table
    landmarks:str='', # File of landmarks
    detector:str='', # File of OpenCV's YuNet, face_detection_yunet_*.onnx
    missing:str='crop', # A face that is not found: crop (the middle of the picture), drop, stop
    size:int=112, # Height and width of the aligned pictures
    score:float=.6, # Least certainty of the detector, 0 to 1
    format:str='jpg', # Jpg or png
    quality:int=95, # Of JPEG
    workers:int=8, # Threads
    force:bool=False, # Align anew where it was done
):
    "An aligned copy of a table of faces and of its pictures"
    try:
        source,to,file = Path(table), Path(out)/'images.csv', Path(landmarks or detector)
        found = read_table(source, check=False)
        check_table(found)
        if not file.is_file(): raise FileNotFoundError(f'{file}: no such file. Pass either --landmarks FILE or --detector FILE.onnx.')
        beside = [p for n in ('pairs', 'templates', 'template_pairs', 'gallery', 'probe') if (p := source.with_name(f'{n}.csv')).is_file()]
        record = {'source': 'aligned', 'table': zlib.crc32(source.read_bytes()), 'points': [file.name, zlib.crc32(file.read_bytes())],
                  'lists': {p.name: zlib.crc32(p.read_bytes()) for p in beside},
                  'options': {'missing': missing, 'size': size, 'score': score, 'format': format, 'quality': quality}}
        if is_made(to, record, force):
            check_table(read_table(to, check=False))
            return print(f'{to} is there already, aligned from the same table in the same way: nothing to do.')
        lists = read_lists(source, found)
        to.unlink(missing_ok=True)  # stopped from here on, there is no table rather than one of other pictures
        made = aligned_copy(found, out, landmarks, detector, missing, size, score, f'.{format}', quality, workers)
        listed,note = made.attrs['missing'], to.with_name('missing.txt')
        note.unlink(missing_ok=True)
        if listed:
            note.write_text('\n'.join(listed) + '\n', encoding='utf-8')
            what = {'crop': 'the middle of their pictures stands for them, or nothing where it cannot be read'}.get(missing, 'they were left out')
            print(f'{len(listed)} of {len(found)} faces could not be aligned, see {note}; {what}')
        write_lists(lists, to, made)
        kept = {k: v for k,v in (found.attrs.get('record') or {}).items() if k != 'published' or len(made) == len(found)}
        finish(made, to, {**kept, **record, 'source': kept.get('source', 'aligned'), 'faces': len(made), 'not_aligned': len(listed)}, 'face')
    except (ValueError, OSError, ImportError) as e: sys.exit(f'{type(e).__name__}: {e}')
