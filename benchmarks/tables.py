"""A million pictures to a table and back, beside the limit: under a minute and 2 GB.

Empty files stand for the pictures, since nothing is decoded here. `data_prep/folder.py` scans them, reads identities
and cameras from their names, splits, checks that every file is there and writes the table; another process reads it
back, all checks included.

    python benchmarks/tables.py                 # 1,000,000 files in a temporary folder, about a minute with making them
    python benchmarks/tables.py --n 100000      # a quick look"""
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastcore.script import call_parse
from tuning.measured import Measured

from qsd_fastai.commands import in_one_line

LIMIT_S,LIMIT_GB = 60,2
PREP = Path(__file__).parents[1]/'data_prep'
READ = 'import sys; from qsd_fastai.data.table import read_table; print(len(read_table(sys.argv[1])))'


def make_files(
    folder, # Where they go
    n,      # How many, 50 an identity
):
    "Empty files named as Market-1501 names its pictures"
    for i in range(n//50):
        at = f'{folder}/{i:05d}'
        os.makedirs(at)
        for k in range(50): os.close(os.open(f'{at}/{i:05d}_c{k % 6 + 1}s1_{k:06d}.jpg', os.O_CREAT | os.O_WRONLY))


def run(
    *command, # Arguments of Python
): # Seconds
    "Wall time of a process; its memory is the largest of all children"
    start = time.perf_counter()
    subprocess.run([sys.executable, '-W', 'ignore', *map(str, command)], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


@call_parse
@in_one_line
def main(
    n:int=1_000_000, # Pictures
    out:str='',      # Folder for tables.json and tables.md
):
    "Scan, write and read back"
    with tempfile.TemporaryDirectory() as tmp:
        make_files(f'{tmp}/pictures', n)
        write = run(PREP/'folder.py', f'{tmp}/pictures', '--camera', r'_c(\d+)', '--no-verify', '--out', f'{tmp}/out')
        read = run('-c', READ, f'{tmp}/out/images.csv')
        size = os.path.getsize(f'{tmp}/out/images.csv')
    gb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss*(1 if sys.platform == 'darwin' else 1024)/1e9
    table = Measured('tables', pictures=n, **{'MB of the table': round(size/1e6)})
    for name,ours,limit in (('scan, split, write, s', write, None), ('read back and check, s', read, None),
                            ('together, s', write + read, LIMIT_S), ('largest memory, GB', gb, LIMIT_GB)):
        share = ours/limit if limit and n >= 1_000_000 else None
        table.add(name, **{'of the limit': share, 'ours': ours, 'limit at a million': limit})
    table.show(out)
