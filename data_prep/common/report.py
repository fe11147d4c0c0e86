"Writing a table, and saying what is in it and what will cause trouble"
import shlex
import warnings
from pathlib import Path

from qsd_fastai.data.table import describe_table, read_table, write_table
from qsd_fastai.files import in_one_move


def odd(
    table, # Table of pictures; `attrs['copies']` of `readable` where they were decoded
)->list: # Of lines
    "What `describe_table` does not tell: cameras that are missing, and copies of one picture, the worse ones first"
    n,unknown,out = len(table), int((table['camera'] == '').sum()) if 'camera' in table else 0, []
    if 0 < unknown < n: out.append(f'{unknown} of {n} pictures have no camera: nothing is excluded for them.')
    rows = table.set_index('path')
    # not those of pictures that were left out since
    copies = [c for c in table.attrs.get('copies', []) if c[0] in rows.index and c[1] in rows.index]
    if not copies: return out
    who,half = rows['identity'], rows['split'] == 'train'
    def note(pairs, what):
        if not pairs: return
        first,copy = pairs[0]
        out.append(f'{_pictures(len(pairs), "is", "are")} byte for byte {what}, first {copy!r} = {first!r}.')
    same = [c for c in copies if who[c[0]] == who[c[1]]]
    note([c for c in copies if who[c[0]] != who[c[1]]], 'those of another identity: one of the two names is wrong')
    note([c for c in copies if half[c[0]] != half[c[1]]], 'both trained on and judged on')
    note([c for c in same if half[c[0]] == half[c[1]]], 'copies within one identity: they weigh double')
    return out


def list_unreadable(
    listed, # A line a picture
    file,   # Where they are listed; removed where there are none
)->str:
    "Write or remove the list; the beginning of a sentence about it, '' where there is nothing to tell"
    if not listed: return file.unlink(missing_ok=True) or ''
    with in_one_move(file) as part: part.write_text('\n'.join(listed) + '\n', encoding='utf-8')
    return f'{_pictures(len(listed))} could not be read, see {file}'


def _pictures(n, one='', many=''): return f'{n} picture {one}'.strip() if n == 1 else f'{n} pictures {many}'.strip()


def write_quietly(
    table,  # The table
    path,   # Where to
    record, # How it was made
):
    "Write a table and its record; what would be warned of is said by the report. Returns it as it is read from there"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return write_table(table, path, {**record, 'unreadable': len(table.attrs.get('unreadable', []))})


def finish(
    table,  # The table to write; what a script has to say of it is in `attrs['notes']`
    path,   # Where to
    record, # How it was made
    recipe='reid', # What to do next: reid, face or evaluate
):
    """Write the table, its record and the list of unreadable pictures; say what is in it, what is odd, what comes next.

    Returns the table as it is read from there."""
    listed,said = table.attrs.get('unreadable', []), odd(table) + table.attrs.get('notes', [])
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # before the table: a second run would not write it
    note = list_unreadable(listed, path.with_name('unreadable.txt'))
    lost = _labelled(path) if not _known(table) else 0
    if lost: said.append(f'{lost:,} quality labels of the table that was there are gone; quality.py makes them anew.')
    table = write_quietly(table, path, record)
    if note: print(f'{note}; left out')
    print(describe_table(table))
    for text in said: print(f'Note: {text}')
    if not (table['split'] == 'train').any(): recipe = 'evaluate'  # nobody to train on
    print(f'Written: {path}\n{_next(recipe, path, table)}')
    return table


def _known(table): return int(table['quality'].notna().sum()) if 'quality' in table else 0


def _labelled(path):
    "How many labels the table at `path` has; 0 where none can be read"
    try: return _known(read_table(path, check=False))
    except (OSError, ValueError): return 0


def _next(recipe, path, table):
    if recipe != 'face' and (table['split'] == 'train').all():
        return (f'Next: in Python, recognition_dataloaders(read_table({str(path)!r})). Nobody is held out, and recipes '
                'judge by people who are: for one of them make the table again with some.')
    return f'Next: python recipes/{recipe}.py --data {shlex.quote(str(path))}{_few(table)}'


def _few(table):
    "What a recipe must be told where fewer people are trained on than its batches hold otherwise"
    n = table.loc[table['split'] == 'train', 'identity'].nunique()
    return f' --n-ids {n}' if 0 < n < 16 else ''
