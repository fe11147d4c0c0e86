"""One spelling of identities, cameras and paths, whatever wrote them: a table, a list, pandas, numpy, torch, a program.

A name is text: `2`, `2.0`, `'2'` and `b' 2'` are `'2'`, what is missing is `''`, and `'007'` stays `'007'`. Text is in
Unicode's composed form, without blanks around it. What was written in several ways and is one name now is told, and so
is what stays apart though it looks alike: `'7'` and `'007'`, `'Ann'` and `'ann'`.

The path of a picture is what the disk calls it; `match_paths` finds it however somebody else writes it."""
import os
import posixpath
import re
import unicodedata
import warnings

import numpy as np
import pandas as pd
import torch

__all__ = ['match_paths', 'path_key', 'path_text', 'same_codes', 'spell', 'spelled', 'spelling_notes', 'written']

AROUND = ' \t\n\r\f\v\xa0\u2007\u202f\u3000\u200b\ufeff' # Blanks, visible or not
WHOLE = re.compile(r'-?[0-9]+\.0*') # A whole number as a float is written
NUMBERS = {'integer', 'floating', 'mixed-integer-float', 'decimal', 'boolean'} # As pandas calls them
NO_CAMERA = '-1' # As programs write the unknown one
LIKE_MISSING = {'nan', 'none', 'null', 'na', 'n/a', '<na>', 'nat'} # Text that pandas and others make of nothing


def written(
    values,           # `(n,)` of any type: numpy, torch, a column, a list
    name:str='names', # Of the argument or column, for the message
)->np.ndarray: # `(n,)` of text
    "Each value as text, as a file would hold it, '' where it is missing; `ValueError` naming the row that is no name"
    values = _plain(values)
    if values.dtype.kind in 'iufb':
        codes,names = pd.factorize(values)
        if values.dtype.kind == 'f': _refuse_inexact(values, name)
        return np.append(names.astype(str).astype(object), '')[codes] # -1, missing, is the last one
    missing,out = pd.isna(values),values.astype(object)
    for row,o in enumerate(out.tolist()):
        if missing[row]: out[row] = ''
        elif type(o) is not str: out[row] = _text(o, name, row)
    return out


def _plain(values):
    "Values as a flat array that keeps the types in a list: numpy would make text of a number beside a text"
    if isinstance(values, torch.Tensor):
        values = values.detach().cpu()
        return (values.float() if values.dtype == torch.bfloat16 else values).numpy().reshape(-1)
    if isinstance(values, np.ndarray): return (values.astype(str) if values.dtype.kind in 'mM' else values).reshape(-1)
    if isinstance(values, pd.Series | pd.Index | pd.api.extensions.ExtensionArray):
        return np.asarray(values) if isinstance(values.dtype, np.dtype) else np.asarray(values, dtype=object)
    values = values.to_pylist() if hasattr(values, 'to_pylist') else list(values)
    out = np.empty(len(values), object)
    for row,o in enumerate(values): out[row] = o.item() if isinstance(o, torch.Tensor) and o.ndim == 0 else o
    return out


def _refuse_inexact(values, name, start=0):
    "ValueError where a float is so large that the next whole number is the same float"
    bad = np.abs(values) >= 2.**(np.finfo(values.dtype).nmant + 1)
    if bad.any():
        row = bad.argmax()
        raise ValueError(f'{name} row {start + row} is {values[row]}, a float that cannot tell such numbers apart. '
                         'Write them as whole numbers, or as text.')


def _text(o, name, row):
    "The text of a value that is not missing"
    if isinstance(o, bytes | bytearray | memoryview):
        try: return bytes(o).decode('utf-8')
        except UnicodeDecodeError: raise ValueError(f'{name} row {row} is {o!r}, not UTF-8. Decode it.') from None
    if isinstance(o, os.PathLike): return str(os.fspath(o))
    if isinstance(o, float | np.floating): _refuse_inexact(np.array([o]), name, row)
    if isinstance(o, list | tuple | set | frozenset | dict | np.ndarray | torch.Tensor):
        raise ValueError(f'{name} row {row} is {str(o)[:60]}, a {type(o).__name__}. Give text or a number.')
    return str(o)


def _spell(text):
    "The name that a text is"
    text = text.strip(AROUND)
    if WHOLE.fullmatch(text): text = text.partition('.')[0]
    if text == '-0': return '0'
    return text if text.isascii() else unicodedata.normalize('NFC', text)


def _speller(camera): return (lambda o: '' if (name := _spell(o)) == NO_CAMERA else name) if camera else _spell


def spelled(
    values,            # `(n,)` of any type
    name:str='names',  # Of the argument or column, for messages
    camera:bool=False, # Of cameras, among which -1 is unknown?
    tell:bool=False,   # Warn of spellings that met, and of names that look alike?
)->np.ndarray: # `(n,)` of text, '' where missing
    "The one spelling of each name; `ValueError` naming the row that is none"
    values = _plain(values)
    codes,texts = pd.factorize(written(values, name))
    names = list(map(_speller(camera), texts))
    if tell:
        for note in _mixed([values], name) + _notes(texts, names, name, camera): warnings.warn(note, stacklevel=3)
    out = np.empty(len(names), object)
    out[:] = names
    return out[codes]


def spell(
    value,             # Of any type
    name:str='name',   # Of the argument, for the message
    camera:bool=False, # Of a camera, among which -1 is unknown?
)->str:
    "The one spelling of one name, '' where it is missing"
    return _speller(camera)(value if type(value) is str else written([value], name)[0])


def same_codes(
    *sides,            # Each `(n,)` names of any type
    name:str='names',  # Of the arguments, for messages
    camera:bool=False, # Of cameras, among which -1 is unknown?
)->list: # Of `(n,)` int64, one a side; -1 where missing
    "Numbers of names in one numbering, in order of appearance; warns as `spelled` does"
    plain = [_plain(o) for o in sides]
    if len({o.dtype for o in plain}) == 1 and plain[0].dtype.kind in 'iu': # As batches have them: nothing to spell
        names = np.concatenate(plain)
        codes = pd.factorize(names)[0]
        if camera: codes[names == -1] = -1
    else:
        for note in _mixed(plain, name): warnings.warn(note, stacklevel=3)
        names = spelled(np.concatenate([written(o, name) for o in plain]), name, camera, tell=True)
        codes = pd.factorize(np.where(names == '', None, names))[0]
    return np.split(codes.astype(np.int64), np.cumsum([len(o) for o in plain])[:-1])


def spelling_notes(
    values,            # `(n,)` of any type
    name:str='names',  # Of the argument or column
    camera:bool=False, # Of cameras, among which -1 is unknown?
)->list: # Of sentences
    "Which spellings met, and which names look alike and stay apart"
    values = _plain(values)
    texts = pd.unique(written(values, name))
    return _mixed([values], name) + _notes(texts, map(_speller(camera), texts), name, camera)


def _mixed(parts, name):
    "A note, as a list, where some names are text and others numbers"
    kinds = {pd.api.types.infer_dtype(o, skipna=True) for o in parts}
    text_and_numbers = kinds & {'string', 'bytes'} and kinds & NUMBERS
    if not (text_and_numbers or kinds & {'mixed', 'mixed-integer'}): return []
    return [f"{name}: some are text and some numbers, and '7' is taken for 7. Write all alike."]


def _notes(texts, names, name, camera):
    joined,alike,seen = {},{},{}
    for text,one in zip(texts, names):
        if one == '': continue
        if seen.setdefault(one, text) != text: joined.setdefault(one, [seen[one]]).append(text)
    for one in seen: alike.setdefault(_look(one), []).append(one)
    alike,out = [o for o in alike.values() if len(o) > 1],[]
    if joined:
        out.append(f'{name}: spellings that are taken for one name ({len(joined)} times), first '
                   f'{_said(next(iter(joined.values())))}. Write each name in one way.')
    if alike:
        out.append(f'{name}: names that look alike and stay different ones ({len(alike)} times), first '
                   f'{_said(alike[0])}. Write them in one way if they are one.')
    if camera and (odd := [o for o in seen if o.lower() in LIKE_MISSING]):
        out.append(f'{name}: {_said(odd)} is taken for the name of a camera. Leave unknown ones empty.')
    return out


def _said(names): return ' and '.join(map(repr, names[:3]))


def _look(name):
    "What names have in common that a reader would take for one: case, leading zeros, width, blanks"
    if not name.isascii(): name = unicodedata.normalize('NFKC', name)
    return re.sub(r'(?<![0-9])0+(?=[0-9])', '', ' '.join(name.casefold().split()))


def path_text(
    values,          # `(n,)` of any type
    name:str='path', # Of the column, for messages
)->np.ndarray: # `(n,)` of text, '' where missing
    "Paths without what leads nowhere: `./a//b.jpg` is `a/b.jpg`. Blanks and case are part of a name"
    out = written(values, name)
    for row,p in enumerate(out):
        if '//' in p or '/.' in p or p[:2] == './' or p[-1:] == '/': out[row] = posixpath.normpath(p)
    return out


def path_key(
    path:str, # As somebody writes it
)->str:
    "What all spellings of a path have in common"
    path = path.strip(AROUND).replace('\\', '/')
    if not path.isascii(): path = unicodedata.normalize('NFC', path)
    return posixpath.normpath(path) if path else path


def match_paths(
    wanted,          # `(m,)` paths as somebody writes them: pairs, templates, labels, embeddings
    there,           # `(n,)` paths of a table, each once
    name:str='path', # Of what is wanted, for the note
)->np.ndarray: # `(m,)` rows of `there`; -1 where it is not there, or its spelling is that of several
    "The row of each path: as it is written, else by `path_key`, which a warning tells"
    wanted,there = (written(o, name) for o in (wanted, there))
    rows = pd.Index(there, dtype=object).get_indexer(wanted)
    lack = np.flatnonzero(rows < 0)
    if not len(lack): return rows
    keys = pd.Series([path_key(o) for o in there], dtype=object)
    once = keys[~keys.duplicated(keep=False)]
    found = pd.Index(once).get_indexer([path_key(o) for o in wanted[lack]])
    rows[lack] = np.where(found < 0, -1, once.index.to_numpy()[found]) if len(once) else -1
    if (met := lack[rows[lack] >= 0]).size:
        first = f'{wanted[met[0]]!r} = {there[rows[met[0]]]!r}'
        warnings.warn(f'{name}: {len(met)} of {len(wanted)} paths are written in another way than in the table, and '
                      f'taken for the same pictures, first {first}.', stacklevel=3)
    return rows
