"""A table with degraded copies beside its pictures, of known kind and severity, so that a model meets bad pictures.

    python data_prep/degrade.py lfw/images.csv --out lfw_degraded --copies 1

Labels can be checked on them too. Copied are pictures to train on and queries; the gallery stays clean. Every picture
is written anew as JPEG, the clean ones too, or a model could tell them by their encoder. The columns `degradation` and
`true_quality` (0 to 100) say what was done; `pairs.csv` comes along.
"""
import zlib
from pathlib import Path

from common.command import chosen, in_a_line
from common.copies import clean_paths, with_copies
from common.lists import write_lists
from common.report import finish
from fastcore.script import call_parse

from qsd_fastai.data.made import is_made
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import check_table, read_table


@call_parse
@in_a_line
def main(
    table:str,          # The table, images.csv or images.parquet
    out:str='',         # Folder for the copies and their table; it must be given
    copies:int=1,       # Degraded copies of each picture to train on and of each query
    seed:int=0,         # Seed of kinds and severities
    workers:int=8,      # Threads that read, degrade and write
    force:bool=False,   # Make the table anew where there is one
):
    "Table with degraded copies"
    options = chosen(locals(), but=['table'])
    if not out: raise ValueError('Copies are pictures. Say where they go: --out DIR.')
    source,to = Path(table), Path(out)/'images.csv'
    found,pairs = read_table(source), source.with_name('pairs.csv')
    table_crc,pairs_crc = (zlib.crc32(p.read_bytes()) if p.is_file() else None for p in (source, pairs))
    record = {'degraded': {**options, 'table': table_crc, 'pairs': pairs_crc}}
    if is_made(to, record, force):
        check_table(read_table(to, check=False))
        return print(f'{to} is there already, made from the same pictures in the same way: nothing to do.')
    lists = {'pairs': read_pairs(pairs, found)} if pairs.is_file() else {}
    to.unlink(missing_ok=True)  # stopped from here on, there is no table rather than one of other pictures
    made = with_copies(found, out, copies, seed, workers)
    if lists: write_lists(lists, to, made, clean_paths(made))
    finish(made, to, {**(found.attrs.get('record') or {}), **record}, 'face' if lists else 'reid')
