"""A table of images from any list of pictures: a CSV or TSV with columns, or the list files that face and Re-ID projects write.

    python data_prep/listed.py pictures.csv --path file --identity person --camera cam    # columns by name -> images.csv beside the list
    python data_prep/listed.py pictures.txt --path 0 --identity 1                         # or by number, from 0
    python data_prep/listed.py train.lst --root PICTURES                                  # a list whose form is known
    python data_prep/listed.py train.txt --query query.txt --gallery gallery.txt --form torchreid

| form | a line | written by |
|---|---|---|
| im2rec | `index<tab>label<tab>path` | MXNet's im2rec (`train.lst`) |
| cvlface | `idx<tab>path<tab>label` | CVLface (`train.tsv`) |
| magface | `path 0 identity 0` | MagFace |
| tface | `path<tab>label` | TFace |
| torchreid | `path identity camera` | Torchreid and its kin |
| columns | as `--path`, `--identity`, `--camera`, `--split`, `--quality` say | anything |

The form is guessed where every line of the list fits one form only, and always told. A `.csv` whose first line has `path`
and `identity` needs no option. Paths are relative to `--root` (the folder of the list where not given); `--strip PREFIX`
takes off what another machine put before them.
A list of one split is all `train`, `--test .5` holds half of the identities out for judging.
"""
import csv
import os
import re
import sys
import zlib
from pathlib import Path

import pandas as pd
from doctor import finish, is_made
from fastcore.script import call_parse
from fastprogress import progress_bar
from folder import SUFFIXES
from layout import verified

from qsd_fastai.data.labels import text_lines
from qsd_fastai.data.table import SPLITS, check_table, read_table, split_identities

FORMS = ('im2rec', 'cvlface', 'magface', 'tface', 'torchreid', 'columns')
UNKNOWN = ('', 'nan', 'na', 'n/a', 'null', 'none')
COLUMNS = ('path', 'identity', 'camera', 'split', 'quality')


def _number(text):
    "A label as written by a program: '3' and '3.000000' are '3'; ValueError where it is no whole number"
    m = re.fullmatch(r'(-?[0-9]{1,18})(\.0*)?', text.strip())
    if not m: raise ValueError
    return str(int(m[1]))


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
LIKE = {'im2rec': '`index<tab>label<tab>path`', 'cvlface': '`idx<tab>path<tab>label`', 'magface': '`path 0 identity 0`', 'tface': '`path<tab>label`',
        'torchreid': '`path identity camera`'}


def _fits(form, line, guess=False):
    "What the reader of a form makes of a line, None where it does not fit; a guess wants the suffix of a picture"
    try: row = READERS[form](line)
    except ValueError: return None
    return row if _is_path(row[0]) and (not guess or row[0].lower().endswith(SUFFIXES)) else None


def guess_form(
    file, # The list
):
    "The one form that every line fits; ValueError saying which ones are possible, or the line that fits none"
    file = Path(file)
    lines = text_lines(file)
    if {'path', 'identity'} <= set(re.split(r'[,\s"]+', lines[0][1])): return 'columns'
    possible = list(READERS)
    for n,line in progress_bar(lines, leave=False):
        left = [f for f in possible if _fits(f, line, guess=True)]
        if not left:
            raise ValueError(f"{file}, line {n}: {line[:200]!r} is of no form that is known{' as the lines before are' if n > lines[0][0] else ''}. "
                             f"Say --path and --identity, columns by name or number, or --form {', '.join(READERS)}.")
        possible = left
    if len(possible) > 1: raise ValueError(f"{file} may be {' or '.join(possible)}: say --form.")
    return possible[0]


def _cells(file, lines):
    "`(line number, cells)`: by commas as CSV has them, else by tabs, else by blanks, whichever the first line holds"
    if '\t' in lines[0][1]: return [(n, [c.strip() for c in line.split('\t')]) for n,line in lines]
    if ',' not in lines[0][1]: return [(n, line.split()) for n,line in lines]
    out = []
    for n,line in lines:  # a line each: a quote that is not closed does not swallow the lines after it
        try: out.append((n, [c.strip() for c in next(csv.reader([line], strict=True))]))
        except (csv.Error, StopIteration) as e: raise ValueError(f'{file}, line {n}: {line[:200]!r} is not CSV ({e}).') from None
    return out


def _columns(file, lines, columns):
    "Rows of a list with columns; ValueError naming the line that has fewer, or the column that is not there"
    cells = _cells(file, lines)
    named = {k: v for k,v in columns.items() if v != ''}
    if named and all(re.fullmatch('[0-9]{1,4}', str(v)) for v in named.values()): at = {k: int(v) for k,v in named.items()}
    else:
        head = cells[0][1]
        named = {c: named.get(c, c) for c in COLUMNS if c in named or c in head}
        at,cells = {}, cells[1:]
        for k,v in named.items():
            if head.count(v) != 1:
                raise ValueError(f"{file}, line {lines[0][0]}: {head.count(v)} columns are called {v!r}; there are {', '.join(head)[:200]}.")
            at[k] = head.index(v)
    for c in ('path', 'identity'):
        if c not in at: raise ValueError(f'{file}: say which column is the {c}, --{c} NAME or NUMBER.')
    if not cells: raise ValueError(f'{file} has column names and no lines.')
    out = []
    for n,row in cells:
        if max(at.values()) >= len(row):
            raise ValueError(f'{file}, line {n}: {len(row)} columns, and column {max(at.values())} (counted from 0) is asked for.')
        out.append((n, *[row[at[c]] if c in at else '' for c in COLUMNS]))
    return out


def read_list(
    file,       # The list
    form='',    # One of FORMS; '': `columns` where any is named, else guessed
    columns=None, # Column of the table -> name or number (from 0) of the column of the list
    split='train', # Of lines that do not tell
):
    "`(table, form)`, the line of each row in the column `line`; ValueError naming file and line where one cannot be read"
    file = Path(file)
    if form not in ('', *FORMS): raise ValueError(f"--form {form!r} is unknown: use {', '.join(FORMS)}.")
    named = any(v != '' for v in (columns or {}).values())
    if named and form not in ('', 'columns'): raise ValueError(f'--form {form} says where everything is: leave out the columns.')
    form,lines = form or ('columns' if named else guess_form(file)), text_lines(file)
    if form == 'columns': rows = _columns(file, lines, columns or {})
    else:
        rows = []
        for n,line in progress_bar(lines, leave=False):
            if row := _fits(form, line):
                rows.append((n, *row, '', ''))
                continue
            hint = ' Labels of quality: `join_quality` reads them.' if form == 'tface' else ''
            if len(line.split('\t')) == 4: hint = ' A line that points into a .tfrecord file cannot be read: unpack it.'
            raise ValueError(f'{file}, line {n}: {line[:200]!r} is not {LIKE[form]}.{hint}')
    table = pd.DataFrame(rows, columns=['line', *COLUMNS])
    def refuse(bad, column, what):
        if not bad.any(): return
        first = table[bad].iloc[0]
        raise ValueError(f"{file}, line {first['line']}: {column} {first[column]!r} {what}")
    for c in ('path', 'identity'): refuse(table[c].str.strip() == '', c, 'is empty.')
    table['split'] = table['split'].where(table['split'] != '', split)
    refuse(~table['split'].isin(SPLITS), 'split', f"is not {', '.join(SPLITS)}.")
    unknown = table['quality'].str.lower().isin(UNKNOWN)
    quality = pd.to_numeric(table['quality'].where(~unknown), errors='coerce').astype(float)
    refuse(~unknown & ~quality.between(0, 100), 'quality', 'is not a number 0 to 100, or empty.')
    return table.assign(quality=quality), form


def _place(table, file, root, strip, seen):
    "`table` with paths as a table has them; errors naming the line whose picture is missing, or that is in `seen` already"
    there,paths = {}, []
    for n,path in zip(table['line'], table['path']):
        if strip and not path.startswith(strip): raise ValueError(f'{file}, line {n}: {path[:200]!r} does not begin with --strip {strip}.')
        path = os.path.normpath(path[len(strip):].lstrip('/') if strip else path).replace(os.sep, '/')
        folder,_,name = path.rpartition('/')
        if path.startswith('/'): folder = folder or '/'
        if folder not in there:  # one listing a folder: a stat a file takes minutes on a network disk
            try:
                with os.scandir(os.path.join(root, folder)) as entries: there[folder] = {e.name for e in entries if e.is_file()}
            except OSError: there[folder] = set()
        if name not in there[folder]:
            raise FileNotFoundError(f'{file}, line {n}: {path[:200]!r} is not in {root}. Say where the pictures are, --root DIR, or what to take '
                                    'off the paths, --strip PREFIX.')
        if path in seen: raise ValueError(f'{file}, line {n}: {path!r} is in {seen[path]} too. A table has one row a picture.')
        seen[path] = f'{file.name}, line {n},'
        paths.append(path)
    return table.assign(path=paths)


def listed_table(
    list_file,    # The list
    query='',     # List of the queries, where each split has its own
    gallery='',   # List of the gallery, where each split has its own
    root='',      # Folder that the paths are relative to; '': that of the list
    form='',      # One of FORMS; '': `columns` where any is named, else guessed
    columns=None, # Column of the table -> name or number (from 0) of the column of the list
    strip='',     # What to take off the beginning of every path
    test=0,       # List of one split: held-out identities, a fraction up to 1 or a number above; 0: a table to train on only
    seed=0,       # Seed of that split
    verify=True,  # Decode every picture and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "Table of the pictures in a list with how it was made in `attrs['record']`; nothing is written"
    if bool(query) != bool(gallery): raise ValueError('--query and --gallery go together: queries are judged by what the gallery holds.')
    files = {'train': Path(list_file), **({'query': Path(query), 'gallery': Path(gallery)} if query else {})}
    root,parts,forms,seen = Path(root or files['train'].parent), [], {}, {}
    for split,file in files.items():
        part,forms[split] = read_list(file, form, columns, split)
        if query and (part['split'] != split).any(): raise ValueError(f'{file} tells the split of a picture itself: name one list only.')
        parts.append(_place(part, file, root, strip, seen))
    if len(set(forms.values())) > 1: raise ValueError(f"The lists seem to be of different forms ({', '.join(forms.values())}): say --form.")
    table = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    table.attrs = {'root': str(root), 'record': {'source': 'list', 'form': forms['train'], 'lists': [f.name for f in files.values()]}}
    table = verified(table, verify, strict, workers)
    if not test: return table
    if (table['split'] != 'train').any(): raise ValueError('--test is for a list of one split: this one says who is judged.')
    attrs,table = table.attrs, split_identities(table, test if test <= 1 else int(test), seed=seed)
    table.attrs = attrs
    return table


@call_parse
def main(
    list_file:str, # The list
    query:str='', # List of the queries, where each split has its own
    gallery:str='', # List of the gallery, where each split has its own
    root:str='', # Folder that the paths are relative to; default: that of the list
    out:str='', # Folder for the table; default: that of the list
    form:str='', # Im2rec, cvlface, magface, tface, torchreid or columns; default: guessed where every line fits one only
    path:str='', # Column of the path: its name, or its number from 0
    identity:str='', # Column of the identity
    camera:str='', # Column of the camera
    split:str='', # Column of the split: train, query, gallery
    quality:str='', # Column of the quality, 0 to 100
    strip:str='', # What to take off the beginning of every path
    test:float=0., # List of one split: held-out identities, a fraction up to 1, or how many
    seed:int=0, # Seed of that split
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from a list of pictures"
    try:
        files = [Path(f) for f in (list_file, query, gallery) if f]
        for f in files:
            if not f.is_file(): raise FileNotFoundError(f'{f}: no such list.')
        to = Path(out or files[0].parent)/'images.csv'
        if any(to.resolve() == f.resolve() for f in files): raise ValueError(f'The list is called {to} as the table would be: pass --out DIR.')
        columns = {'path': path, 'identity': identity, 'camera': camera, 'split': split, 'quality': quality}
        record = {'content': [zlib.crc32(f.read_bytes()) for f in files],
                  'folder': os.path.relpath(root or files[0].parent, to.parent).replace(os.sep, '/'),
                  'options': {'form': form, 'columns': columns, 'strip': strip, 'test': test, 'seed': seed, 'verify': not no_verify}}
        if is_made(to, record, force):
            check_table(read_table(to, check=False))
            return print(f'{to} is there already, made from the same list in the same way: nothing to do.')
        table = listed_table(list_file, query, gallery, root, form, columns, strip, test, seed, not no_verify, strict, workers)
        print(f"form: {table.attrs['record']['form']}{'' if form else ' (guessed)'}")
        finish(table, to, {**table.attrs['record'], **record})
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
