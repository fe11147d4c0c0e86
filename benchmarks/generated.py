"""How many generated pictures a second one core draws, degrades and writes.

    OMP_NUM_THREADS=1 python benchmarks/generated.py
"""
import tempfile
import time
from pathlib import Path

from fastcore.script import call_parse

from qsd_fastai.commands import in_one_line
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.drawn.people import generate_people


@call_parse
@in_one_line
def main(
    n:int=50,      # Identities of 12 pictures each
    repeats:int=3, # The best of these is printed
):
    """Pictures a second of `generate_people` (128 x 64) and `generate_faces` (112 x 112), in one process.

    Seconds are those of the process itself, whatever else runs."""
    for generate in (generate_people, generate_faces):
        best = 0
        for _ in range(repeats):
            with tempfile.TemporaryDirectory() as folder:
                start = time.process_time()
                table = generate(Path(folder), n_train=n, n_test=0, progress=False)
                best = max(best, len(table)/(time.process_time() - start))
        print(f'{generate.__name__}: {best:.0f} pictures/s')
