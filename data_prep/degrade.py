"""A table with degraded copies beside its pictures, of known kind and severity, so that a model meets bad pictures.

    python data_prep/degrade.py lfw/images.csv --out lfw_degraded --copies 1
    python data_prep/degrade.py market1501/images.csv --out mlr_market --protocol mlr
    python data_prep/degrade.py viper/split_01.csv --out mlr_viper_01 --protocol mlr

Labels can be checked on them too. Copied are pictures to train on and queries; the gallery stays clean. Every picture
is written anew as JPEG, the clean ones too, or a model could tell them by their encoder. The columns `degradation` and
`true_quality` (0 to 100) say what was done; `pairs.csv` comes along.

`--protocol mlr` makes the sets of several resolutions of the field (MLR-VIPeR, MLR-CUHK03, MLR-Market-1501, MLR-Duke;
Jiao et al., AAAI 2018; Li et al., ICCV 2019): pictures are down-sampled by 2, 3 or 4, each equally likely, so that bad
queries are looked for among good pictures and training has both. Of two cameras (VIPeR, CUHK03's classic protocol)
those of the camera that asks, in training too; of more (Market-1501, Duke), or where both ask (CUHK03's new protocol),
the queries and, of each training identity, the pictures of one camera. For six or eight cameras published code differs:
queries and all of training, or those of camera 1 (`--low 1`). The others stay where they are. The rates that the papers
drew were not published: these are drawn by `--seed`, the same on every machine, and figures are comparable with theirs
in the mean alone.
"""
import zlib
from pathlib import Path

from common.command import chosen, in_a_line
from common.copies import clean_paths, with_copies
from common.lists import read_lists, write_lists
from common.mlr import low_rows, with_low_resolution
from common.report import finish
from fastcore.script import call_parse

from qsd_fastai.choices import one_of
from qsd_fastai.data.made import is_made
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import check_table, read_table


@call_parse
@in_a_line
def main(
    table:str,          # The table, images.csv or images.parquet
    out:str='',         # Folder for the copies and their table; it must be given
    copies:int=1,       # Degraded copies of each picture to train on and of each query
    protocol:str='copies', # copies: beside the pictures; mlr: some pictures down-sampled in their place
    low:str='',         # For mlr: queries, or the camera whose pictures are down-sampled
    seed:int=0,         # Seed of kinds and severities
    workers:int=8,      # Threads that read, degrade and write
    force:bool=False,   # Make the table anew where there is one
):
    "Table with degraded copies"
    options = chosen(locals(), but=['table'])
    mlr = one_of('--protocol', protocol, 'copies', 'mlr') == 'mlr'
    if not out: raise ValueError('Copies are pictures. Say where they go: --out DIR.')
    if low and not mlr: raise ValueError(f'--low is {low!r}, and is of --protocol mlr. Give both, or leave it out.')
    if mlr and copies != 1:
        raise ValueError(f'--copies is {copies}, and mlr lowers pictures in their place. Leave it out.')
    source,to = Path(table), Path(out)/'images.csv'
    found,pairs = read_table(source), source.with_name('pairs.csv')
    table_crc,pairs_crc = (zlib.crc32(p.read_bytes()) if p.is_file() else None for p in (source, pairs))
    record = {'degraded': {**options, 'table': table_crc, 'pairs': pairs_crc}}
    if is_made(to, record, force):
        check_table(read_table(to, check=False))
        return print(f'{to} is there already, made from the same pictures in the same way: nothing to do.')
    lists = read_lists(source, found) if mlr else {'pairs': read_pairs(pairs, found)} if pairs.is_file() else {}
    if mlr: rows,what = low_rows(found, low, seed)
    to.unlink(missing_ok=True)  # stopped from here on, there is no table rather than one of other pictures
    if mlr:
        made = with_low_resolution(found, rows, out, seed, workers)
        record['low_resolution'] = what
        print(f'Down-sampled: {what}, {rows.sum():,} of {len(rows):,}')
    else: made = with_copies(found, out, copies, seed, workers)
    if lists: write_lists(lists, to, made, made.set_index('original')['path'] if mlr else clean_paths(made))
    finish(made, to, {**(found.attrs.get('record') or {}), **record}, 'face' if lists else 'reid')
