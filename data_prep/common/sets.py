"""A set is one function: in Python it gives the table, as a command it makes the table once and says what is in it.

    @a_set('VeRi-776', published={'train': (37778, 576), 'query': (1678, 200), 'gallery': (11579, 200)})
    def veri_table(
        root:str, # Folder of the set
    ):
        "Table of images from VeRi-776"
        return three_folders(root, ...)

Arguments without a default are what the table is made from, those with one are choices: an option each, and part of the
record. The options of `common` are added; a function that needs one of them, to write pictures say, names it. It
returns the table with `attrs['root']`; `attrs['record']` may say how it was made, `attrs['notes']` what is odd in it.

Two more arguments are filled in where a function names them, and are no options:

    readable  `readable(table)` is the table without what cannot be decoded; for one that draws from what is left
    numbers   of the splits that are asked for, from 0; the function returns a list of tables

Where lists stand beside the table, the function returns `(table, pairs)`, or `(table, lists)` by the names of `LISTS`.
"""
import inspect
import warnings
from functools import partial, update_wrapper, wraps
from pathlib import Path

import pandas as pd
from fastcore.basics import noop, store_attr
from fastcore.meta import delegates
from fastcore.script import anno_parser

from qsd_fastai.data.made import is_made
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import read_table

from .command import chosen, common, in_a_line, relative
from .lists import beside, write_lists
from .pictures import listing, not_in_table, readable
from .report import finish, write_quietly

FILLED_IN = ('readable', 'numbers')


@delegates(common)
def common_of_splits(
    split:str='0', # Which of the splits, counted from 0, or all: one table each
    **kwargs,      # As for `common`
):
    "Options of every set with several splits"


def folder_of_pictures(
    root, # Folder of the set
    out,  # Folder that the user has named, '' if none
): # `(folder of the table, facts for the record)`
    "What most tables are made from: the pictures below a folder"
    return Path(out or root), listing(root)


def _call(f, given):
    "`f` of what a table is made from, and of the options that it names"
    return f(next(iter(given.values())), **{k: given[k] for k in [*inspect.signature(f).parameters][1:]})


class Set:
    "What `a_set` makes of a function: called, it gives the table; `main` is the command"
    def __init__(self,
        f,              # Function that gives the table
        source,         # Its name, for the record
        published=None, # Split -> `(pictures, identities)` as published, to compare what is found with
        splits=0,       # How many splits there are, or a function of the source and options that tells; 0: no `--split`
        made_from=folder_of_pictures, # Function of the source and options that tells what a table is made from
        lists=(),       # Names of the lists that must stand beside the table, or a function of source and options
        each=None,      # Function of the source that gives several, a table each
        recipe='reid',  # What to do with the table: reid, face, evaluate
    ):
        store_attr()
        update_wrapper(self, f)
        self.named = inspect.signature(f).parameters
        self._check()
        own = [o for k,o in self.named.items() if k not in ('readable', 'strict', 'workers')]
        verifying = [o for o in inspect.signature(Set.__call__).parameters.values() if o.kind is o.KEYWORD_ONLY]
        self.__signature__ = inspect.Signature(own + verifying)
        self.main = self._command()

    def _check(self):
        "TypeError where the record could not tell two tables apart"
        _,*more = [k for k,o in self.named.items() if o.default is o.empty and k not in FILLED_IN]
        if lack := set(more) - inspect.signature(self.made_from).parameters.keys():
            raise TypeError(f'{self.f.__name__}({lack.pop()}) has no default, so that it is no choice, and `made_from` '
                            'does not name it: no record would tell it. Give it a default, or name it there.')

    def __call__(self,
        *args,        # Of the function
        verify=True,  # Decode every picture and leave the unreadable ones out?
        strict=False, # An unreadable picture is an error?
        workers=8,    # Threads that decode
        **kwargs,     # Of the function
    ): # What the function returns
        "The table, with how it was made in `attrs['record']`; nothing is written but what the function writes"
        look = partial(readable, strict=strict, workers=workers) if verify else noop
        given = {'readable': look, 'strict': strict, 'workers': workers}
        made = self.f(*args, **kwargs, **{k: v for k,v in given.items() if k in self.named})
        if isinstance(made, list): return [self._known(table, look) for table in made]
        if isinstance(made, tuple): return self._known(made[0], look), made[1]
        return self._known(made, look)

    def _known(self, table, look):
        "`table` of readable pictures, with what is known of every table of the set in its record"
        if 'readable' not in self.named: table = look(table)
        record = {'source': self.source, **table.attrs.get('record', {})}
        if self.published: record.setdefault('published', self.published)
        table.attrs['record'] = record
        return table

    def _command(self):
        "A function of the same arguments, and those of `common`, that makes the table once; `anno_parser` reads it"
        @delegates(common_of_splits if self.splits else common)
        @wraps(self.f)
        def main(*args, **kwargs):
            given = main.__signature__.bind(*args, **kwargs)
            given.apply_defaults()
            name,source = next(iter(given.arguments.items()))
            for o in self.each(source) if self.each else [source]: self._make({**given.arguments, name: o})
        arguments = inspect.signature(main).parameters
        main.__signature__ = inspect.Signature([o for k,o in arguments.items() if k not in FILLED_IN])
        return in_a_line(main)

    def _asked(self, given):
        "The tables that are asked for, as `{name: number of the split, None if there is one only}`"
        n = _call(self.splits, given) if callable(self.splits) else self.splits
        split = str(given['split']) if self.splits else '0'
        if n < 2 and split != '0': raise ValueError(f'--split is {split!r}. There is one split here: leave it out.')
        if n < 2: return {'images.csv': None}
        if split == 'all': return {f'split_{k:02d}.csv': k for k in range(n)}
        if split.isdecimal() and int(split) < n: return {'images.csv': int(split)}
        raise ValueError(f'--split is {split!r}. Use 0 to {n - 1}, or all.')

    def _record(self, given, facts, to):
        "The part of the record that tells a table from one that was made in another way"
        own = {k: o for k,o in self.named.items() if o.default is not o.empty and k not in FILLED_IN}
        paths = {k for k,o in own.items() if o.annotation is Path}
        # where a path leads to is told by what the table is made from, if that names it
        told = paths & inspect.signature(self.made_from).parameters.keys()
        options = {k: Path(given[k] or '') if k in paths else given[k] for k in own if k not in told}
        out = {k: relative(v, to) if isinstance(v, Path) else v for k,v in facts.items()}
        return {**out, 'options': {**chosen(options), 'verify': not given['no_verify']}}

    def _make(self, given):
        "The table, or those of several splits, unless they are there already"
        asked = self._asked(given)
        to,facts = _call(self.made_from, given)
        folder = facts.get('folder', next(iter(given.values()))) if 'listing' in facts else None
        record,wanted = self._record(given, facts, to), {}
        for name,k in asked.items():
            more = {} if k is None else {'split': k}
            wanted[to/name] = {**record, 'options': {**record['options'], **more}}
        names = _call(self.lists, given) if callable(self.lists) else self.lists
        lists = [beside(to/'images.csv')[n] for n in names]
        whole = all(p.is_file() for p in lists)
        lacking = [file for file,o in wanted.items() if not (is_made(file, o, given['force']) and whole)]
        if not lacking: return self._say_there(list(wanted), lists)
        own = {k: given[k] for k in self.named if k in given and k not in ('strict', 'workers')}
        if 'numbers' in self.named: own['numbers'] = [k or 0 for k in asked.values()]
        made = self(**own, verify=not given['no_verify'], strict=given['strict'], workers=given['workers'])
        for table,(file, o) in zip(made if isinstance(made, list) else [made], wanted.items()):
            if file == lacking[0]: self._write(table, file, o, folder)
            # the report on the first one says what is to be said of all
            elif file in lacking: write_quietly(table, file, {**table.attrs['record'], **o})
        if len(lacking) < 2: return
        first,last = lacking[1].name, lacking[-1].name
        print(f'Written as well: {first} to {last}. Report the mean over all {len(asked)} splits.')

    def _say_there(self, files, lists):
        "What there is to say of tables that are there already, after another look at them"
        with warnings.catch_warnings():
            if len(files) > 1: warnings.simplefilter('ignore')
            for file in files:
                table = read_table(file)
                if beside(file)['pairs'] in lists: read_pairs(beside(file)['pairs'], table)
        what = f'{files[0]} is' if len(files) == 1 else f'{len(files)} tables, {files[0]} and so on, are'
        if lists: what = f"{files[0]} and {', '.join(p.name for p in lists)} are"
        print(f'{what} there already, made from the same pictures in the same way: nothing to do.')

    def _write(self, made, file, record, folder):
        "Write the table and its lists, and report, also what the table lacks of the folder that it was made from"
        table,lists = made if isinstance(made, tuple) else (made, {})
        if folder: table.attrs['notes'] = [*table.attrs.get('notes', []), *not_in_table(folder, table)]
        if isinstance(lists, pd.DataFrame): lists = {'pairs': lists}
        for k,v in table.attrs['record'].items():
            if k != 'published': print(f'{k}: {v}')
        if lists or self.lists:  # those of a stopped run, or of another table, are not believed
            for old in beside(file).values(): old.unlink(missing_ok=True)
        written = finish(table, file, {**table.attrs['record'], **record}, self.recipe)
        if lists: write_lists(lists, file, written, dict(zip(table['path'], written['path'])))


@delegates(Set)
def a_set(
    source,   # Its name, for the record
    **kwargs, # As for `Set`
): # Decorator
    "A function as a set; it is called as before, and where its file is run as a script, the command runs"
    def decorate(f):
        out = Set(f, source, **kwargs)
        if f.__module__ == '__main__' and '__file__' in f.__globals__: run(out.main)
        return out
    return decorate


def run(
    main, # A command
):
    "Run a command with the arguments of the command line"
    given = vars(anno_parser(main).parse_args())
    main(**{k: given[k] for k in inspect.signature(main).parameters})
