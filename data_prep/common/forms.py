"The forms of lists that other projects write: what a line of each says"
import re

from qsd_fastai.data.folders import SUFFIXES
from qsd_fastai.spelling import spell

LIKE = {'im2rec': '`index<tab>label<tab>path`', 'cvlface': '`idx<tab>path<tab>label`', 'magface': '`path 0 identity 0`',
        'tface': '`path<tab>label`', 'torchreid': '`path identity camera`'}


def _number(text):
    "A label as written by a program, in its one spelling; ValueError where it is no whole number"
    if not re.fullmatch(r'(-?[0-9]{1,18})(\.0*)?', text.strip()): raise ValueError
    return spell(text)


def _is_path(text): return bool(text.strip()) and not re.fullmatch(r'[-+]?[0-9.]+', text.strip())


def _im2rec(line):
    index,label,path = line.split('\t')
    _number(index)
    return path, _number(label), ''


def _cvlface(line):
    index,path,label = line.split('\t')
    _number(index)
    return path, _number(label), ''


def _magface(line):
    path,first,label,last = line.rsplit(None, 3)  # from the right: the path may hold blanks
    if (first, last) != ('0', '0'): raise ValueError
    return path, _number(label), ''


def _tface(line):
    path,label = line.split('\t')
    return path, _number(label), ''


def _torchreid(line):
    path,label,camera = line.rsplit(None, 2)
    return path, _number(label), _number(camera)


READERS = {'im2rec': _im2rec, 'cvlface': _cvlface, 'magface': _magface, 'tface': _tface, 'torchreid': _torchreid}
FORMS = (*READERS, 'columns')


def fits(
    form,        # Of `READERS`
    line,        # Of a list
    guess=False, # Want the ending of a picture?
): # `(path, identity, camera)`, None where it does not fit
    "What the reader of a form makes of a line"
    try: row = READERS[form](line)
    except ValueError: return None
    return row if _is_path(row[0]) and (not guess or row[0].lower().endswith(SUFFIXES)) else None
