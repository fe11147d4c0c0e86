"""The doctor: what is in a table of images and what will cause trouble. Scripts end with it; here it sees any.

    python data_prep/doctor.py images.csv             # counts, notes, every picture decoded, copies found
    python data_prep/doctor.py images.csv --no-verify # the table only

It changes nothing. Pictures of the table that cannot be read are listed in `doctor.txt` beside it; the exit status is 1
where there are any.
"""
import sys
import warnings
from pathlib import Path

from common.command import in_a_line
from common.pictures import readable
from common.report import list_unreadable, odd
from fastcore.script import call_parse

from qsd_fastai.data.table import check_table, describe_table, read_table
from qsd_fastai.rows import naming


def _decoded(table, workers):
    "The table as it is, with what `readable` found out in its attrs"
    out = table.copy()
    try: out.attrs = readable(table, False, workers).attrs
    except ValueError as e: raise ValueError(f'{e} Are they in {table.attrs["root"]}?') from e
    return out


@call_parse
@in_a_line
def main(
    table:str,            # The table, images.csv or images.parquet
    no_verify:bool=False, # Do not decode every picture
    workers:int=8,        # Threads that decode pictures
):
    "What is in a table of images and what will cause trouble"
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # the report says the same
        # a picture that is missing is listed with those that cannot be read, where they are looked at
        with naming(table): found = check_table(read_table(table, check=False), files=no_verify)
    seen = found if no_verify else _decoded(found, workers)
    for k,v in (found.attrs.get('record') or {}).items(): print(f'{k}: {v}')
    print(describe_table(found))
    for text in odd(seen): print(f'Note: {text}')
    if no_verify: return
    # not unreadable.txt: that one tells what a script has left out of the table
    if note := list_unreadable(seen.attrs['unreadable'], Path(table).with_name('doctor.txt')):
        sys.exit(f'{note}: remove their rows or replace them.')
