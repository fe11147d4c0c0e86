"""A table of images from any list of pictures: a CSV or TSV with columns, or the list files that other projects write.

    python data_prep/listed.py pictures.csv --path file --identity person --camera cam    # columns by name
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

The form is guessed where every line of the list fits one form only, and always told. A `.csv` whose first line has
`path` and `identity` needs no option. Paths are relative to `--root` (the folder of the list where not given);
`--strip PREFIX` takes off what another machine put before them. A list of one split is all `train`, `--test .5` holds
half of the identities out for judging.
"""
import csv
import os
import re
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from common.forms import FORMS, LIKE, READERS, fits
from common.layout import hold_out
from common.sets import a_set
from common.told import part_of, told_by_folders, with_told_split
from fastprogress import progress_bar

from qsd_fastai.choices import one_of
from qsd_fastai.data.labels import out_of_range, text_lines
from qsd_fastai.data.table import SPLITS
from qsd_fastai.rows import refuse_rows, refuse_separator
from qsd_fastai.spelling import spell, spelled

TRUE,FALSE = ('true', '1'), ('false', '0', '', 'none', 'nan', '<na>')
UNKNOWN = ('', 'nan', 'na', 'n/a', 'null', 'none')
COLUMNS = ('path', 'identity', 'camera', 'split', 'quality')
OML = ('is_query', 'is_gallery')  # which tell the rows of its split `validation` apart
OML_NAMES = {'identity': 'label'}


def guess_form(
    file, # The list
)->str:
    "The one form that every line fits; ValueError saying which ones are possible, or the line that fits none"
    file = Path(file)
    lines = text_lines(file)
    head = set(re.split(r'[,\s"]+', lines[0][1]))
    if {'path', 'identity'} <= head or {'path', 'label', *OML} <= head: return 'columns'
    possible = list(READERS)
    for n,line in progress_bar(lines, leave=False):
        left = [f for f in possible if fits(f, line, guess=True)]
        if not left:
            unlike = ' as the lines before are' if n > lines[0][0] else ''
            raise ValueError(f'{file}, line {n}: {line[:200]!r} is of no form that is known{unlike}. '
                             f"Say --path and --identity, columns by name or number, or --form {', '.join(READERS)}.")
        possible = left
    if len(possible) > 1: raise ValueError(f"{file} may be {' or '.join(possible)}. Say --form.")
    return possible[0]


def _cells(file, lines):
    "`(line number, cells)`: by commas as CSV has them, else by tabs, else by blanks, whichever the first line holds"
    if '\t' in lines[0][1]: return [(n, [c.strip() for c in line.split('\t')]) for n,line in lines]
    if ',' not in lines[0][1]: return [(n, line.split()) for n,line in lines]
    out = []
    for n,line in lines:  # a line each: a quote that is not closed does not swallow the lines after it
        try: out.append((n, [c.strip() for c in next(csv.reader([line], strict=True))]))
        except (csv.Error, StopIteration) as e:
            raise ValueError(f'{file}, line {n}: {line[:200]!r} is not CSV ({e}). Mend the line.') from None
    return out


def _columns(file, lines, columns):
    "Rows of a list with columns; ValueError naming the line that has fewer, or the column that is not there"
    cells,at = _cells(file, lines), {}
    if columns and all(re.fullmatch('[0-9]{1,4}', str(v)) for v in columns.values()):
        at = {k: int(v) for k,v in columns.items()}
    else:
        head = cells[0][1]
        cells = cells[1:]
        if len(head) == 1: refuse_separator(file, head, 'path', 'identity', *map(str, columns.values()))
        oml = {c: c for c in OML} if set(OML) <= set(head) else {}
        named = {**{c: c for c in COLUMNS if c in head}, **oml}
        if oml and 'identity' not in named: named |= {k: v for k,v in OML_NAMES.items() if v in head}
        for k,v in {**named, **columns}.items():
            if head.count(v) != 1:
                raise ValueError(f'{file}, line {lines[0][0]}: {head.count(v)} columns are called {v!r}; '
                                 f"there are {', '.join(head)[:200]}. Name one of these.")
            at[k] = head.index(v)
    for c in ('path', 'identity'):
        if c not in at:
            raise ValueError(f'{file} does not tell its columns. Say which column is the {c}: --{c} NAME or NUMBER.')
    if not cells: raise ValueError(f'{file} has column names and no lines. Copy it again.')
    out,last = [], max(at.values())
    for n,row in cells:
        if last >= len(row):
            raise ValueError(f'{file}, line {n}: {len(row)} columns, and column {last} (counted from 0) is asked for. '
                             'Mend the line.')
        values = {c: row[k] for c,k in at.items()}
        if OML[0] in at: values['split'] = _oml_split(values, f'{file}, line {n}')
        out.append((n, *[values.get(c, '') for c in COLUMNS]))
    return out


def _oml_split(values, where):
    "The split of a row of OML's table, whose validation is told apart by two columns of true and false"
    said = {}
    for c in OML:
        text = spell(values[c]).lower()
        if text not in TRUE + FALSE: raise ValueError(f'{where}: {c} is {values[c]!r}. Write True or False.')
        said[c] = text in TRUE
    if part_of(values.get('split', '')) not in ('val', 'test'): return values.get('split', '')
    if said['is_query'] == said['is_gallery']:
        what = 'both query and gallery' if said['is_query'] else 'neither query nor gallery'
        raise ValueError(f'{where}: the picture is {what}, and is one of them here. Set one of {" and ".join(OML)}.')
    return 'query' if said['is_query'] else 'gallery'


def _lines(file, lines, form):
    "Rows of a list of a known form; ValueError naming the line that is not of it"
    out = []
    for n,line in progress_bar(lines, leave=False):
        if row := fits(form, line):
            out.append((n, *row, '', ''))
            continue
        hint = ' Labels of quality: `join_quality` reads them.' if form == 'tface' else ''
        if len(line.split('\t')) == 4: hint = ' A line that points into a .tfrecord file cannot be read: unpack it.'
        raise ValueError(f'{file}, line {n}: {line[:200]!r} is not {LIKE[form]}.{hint}')
    return out


def read_list(
    file,          # The list
    form='',       # One of `FORMS`; '': `columns` where any is named, else guessed
    columns=None,  # Column of the table -> name or number (from 0) of the column of the list
    split='train', # Of lines that do not tell
): # `(table, form)`
    "What a list says, the line of each row in the column `line`; ValueError naming file and line that cannot be read"
    file,columns = Path(file), {k: v for k,v in (columns or {}).items() if v != ''}
    if form: one_of('--form', form, *FORMS)
    if columns and form not in ('', 'columns'):
        raise ValueError(f'--form is {form}, which says where everything is. Leave out the columns.')
    form,lines = form or ('columns' if columns else guess_form(file)), text_lines(file)
    rows = _columns(file, lines, columns) if form == 'columns' else _lines(file, lines, form)
    table = pd.DataFrame(rows, columns=['line', *COLUMNS])
    def refuse(column, bad, what, remedy):
        def error(said): return ValueError(f"{file}, line {table['line'][bad.argmax()]}: {said}")
        refuse_rows(table, column, bad, what, remedy, error)
    for c in ('path', 'identity'): refuse(c, table[c].str.strip() == '', 'is empty', 'Fill it in or remove the line.')
    said = table['split'].map({o: part_of(o) if part_of(o) in SPLITS else o.strip() for o in table['split'].unique()})
    table['split'] = said.where(said != '', split)
    refuse('split', ~table['split'].isin(SPLITS), 'is not train, query or gallery',
           f'Rename it, or tell queries and gallery apart by columns {" and ".join(OML)}.')
    unknown = table['quality'].str.lower().isin(UNKNOWN)
    quality = pd.to_numeric(table['quality'].where(~unknown), errors='coerce').astype(float)
    refuse('quality', ~unknown & ~quality.between(0, 100), 'is not a number 0 to 100',
           f'{out_of_range(quality[np.isfinite(quality)])}: data_prep/quality.py joins labels of any scale.')
    return table.assign(quality=quality), form


def _files_in(folder):
    "Names of the files in a folder: one listing, for a stat a file takes minutes on a network disk"
    try:
        with os.scandir(folder) as entries: return {e.name for e in entries if e.is_file()}
    except OSError: return set()


def _place(table, file, root, strip, seen):
    "`table` with paths as a table has them; errors naming the line whose picture is missing, or in `seen` already"
    there,paths = {}, []
    for n,path in zip(table['line'], table['path']):
        if strip and not path.startswith(strip):
            raise ValueError(f'{file}, line {n}: {path[:200]!r} does not begin with --strip {strip}. Change it.')
        path = os.path.normpath(path[len(strip):].lstrip('/') if strip else path).replace(os.sep, '/')
        folder,_,name = path.rpartition('/')
        if path.startswith('/'): folder = folder or '/'
        if folder not in there: there[folder] = _files_in(os.path.join(root, folder))
        if name not in there[folder]:
            raise FileNotFoundError(f'{file}, line {n}: {path[:200]!r} is not in {root}. Say where the pictures are, '
                                    '--root DIR, or what to take off the paths, --strip PREFIX.')
        if path in seen:
            raise ValueError(f'{file}, line {n}: {path!r} is in {seen[path]} too. A table has one row a picture.')
        seen[path] = f'{file.name}, line {n},'
        paths.append(path)
    return table.assign(path=paths)


def facts(
    list_file, # The list
    out,       # Folder for the table, '' if none
    query,     # List of the queries, None if there is none
    gallery,   # List of the gallery, None if there is none
    root,      # Folder that the paths are relative to, None: that of the list
): # `(folder of the table, facts for the record)`
    "What a table is made from: the lists by their content, and where the pictures are"
    files = [Path(f) for f in (list_file, query, gallery) if f]
    for f in files:
        if not f.is_file(): raise FileNotFoundError(f'{f}: no such list.')
    to = Path(out or files[0].parent)
    if any((to/'images.csv').resolve() == f.resolve() for f in files):
        raise ValueError(f"The list is called {to/'images.csv'} as the table would be. Pass --out DIR.")
    return to, {'content': [zlib.crc32(f.read_bytes()) for f in files], 'folder': Path(root or files[0].parent)}


@a_set('list', made_from=facts)
def listed_table(
    list_file:str,     # The list
    query:Path=None,   # List of the queries, where each split has its own
    gallery:Path=None, # List of the gallery, where each split has its own
    root:Path=None,    # Folder that the paths are relative to; default: that of the list
    form:str='',       # im2rec, cvlface, magface, tface, torchreid or columns; default: the one that every line fits
    path:str='',       # Column of the path: its name, or its number from 0
    identity:str='',   # Column of the identity
    camera:str='',     # Column of the camera
    split:str='',      # Column of the split: train, query, gallery
    quality:str='',    # Column of the quality, 0 to 100
    strip:str='',      # What to take off the beginning of every path
    test:float=0.,     # List of one split: held-out identities, a fraction up to 1, or how many
    seed:int=0,        # Seed of that split
    *,
    readable,          # Leaves out what cannot be decoded, before identities are held out
):
    "Table of images from a list of pictures"
    if bool(query) != bool(gallery):
        raise ValueError('--query and --gallery go together: queries are judged by what the gallery holds. Pass both.')
    columns = {'path': path, 'identity': identity, 'camera': camera, 'split': split, 'quality': quality}
    files = {'train': Path(list_file), **({'query': Path(query), 'gallery': Path(gallery)} if query else {})}
    root,parts,forms,seen = Path(root or files['train'].parent), [], {}, {}
    for half,file in files.items():
        part,forms[half] = read_list(file, form, columns, half)
        if query and (part['split'] != half).any():
            raise ValueError(f'{file} tells the split of a picture itself. Name one list only.')
        parts.append(_place(part, file, root, strip, seen))
    if len(set(forms.values())) > 1:
        raise ValueError(f"The lists seem to be of different forms ({', '.join(forms.values())}). Say --form.")
    table = pd.concat(parts, ignore_index=True)[list(COLUMNS)]
    for c in ('identity', 'camera'): table[c] = spelled(table[c], c, c == 'camera', tell=True)
    record = {'form': forms['train'], 'lists': [f.name for f in files.values()]}
    table.attrs = {'root': str(root), 'record': record}
    notes = [] if form else [f'The form {forms["train"]} is guessed.']
    if not query and (table['split'] == 'train').all():
        table['part'] = _part_by_folders(table['path'].tolist(), root)
        notes += _lists_beside(files['train'])
    table.attrs['notes'] = notes
    told = 'part' in table and table['part'].isin(['val', 'test', 'query', 'gallery']).any()
    if test and (told or (table['split'] != 'train').any()):
        raise ValueError('--test is for a list of one split, and this one says who is judged. Leave it out.')
    table = readable(table)
    if told: return with_told_split(table, 'folders', seed)
    return hold_out(table.drop(columns='part', errors='ignore'), test, seed)


def _part_by_folders(paths, root):
    "The part that folders tell of each picture of a list without a split, '' where they tell none"
    try: told = told_by_folders(paths, root)
    except ValueError: return ''
    return told.part if told else ''


def _lists_beside(file):
    "A note, as a list, where lists of other splits lie beside one that is read alone"
    beside = [f.name for f in file.parent.iterdir() if f.suffix == file.suffix and f != file]
    found = [n for n in sorted(beside) if part_of(Path(n).stem) in ('val', 'test', 'query', 'gallery')]
    if not found or part_of(file.stem) not in ('train', 'all'): return []
    return [f'{", ".join(found)} beside {file.name} are not read: --query and --gallery name them.']
