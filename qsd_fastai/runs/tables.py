"The table of results that a run leaves, read back: whole, or refused by name"
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import file_hash
from .folder import read_run

__all__ = ['read_results']


def read_results(
    file,          # `results.csv` in the folder of a run
    stages=(),     # Titles that it must have, in this order; any when not given
)->pd.DataFrame: # A row a stage, a column a figure
    """Figures of a run; `ValueError` naming the file where it is empty, cut, or not what the run has written

    No figure is made up: what is not a number there is refused, and never counts as 0."""
    file,remedy = Path(file),'Remove it, and give the command of its run with --resume'
    if not file.is_file(): raise FileNotFoundError(f'There is no {file}. A recipe leaves it at its end.')
    try: found = pd.read_csv(file, index_col=0)
    except (ValueError, OverflowError) as e: raise ValueError(f'{file} cannot be read ({e}). {remedy}.') from e
    kept = read_run(file.with_name('run.json'))['results'] if file.with_name('run.json').is_file() else ''
    if kept and kept != file_hash(file): raise ValueError(f'{file} is not as its run has written it. {remedy}.')
    numbers = found.select_dtypes('number')
    if not found.size or numbers.shape != found.shape or np.isinf(numbers).any(axis=None):
        raise ValueError(f'{file} is not a table of figures, a row a stage. {remedy}.')
    if stages and found.index.tolist() != list(stages):
        raise ValueError(f'{file} has the rows {", ".join(map(str, found.index))}, not {", ".join(stages)}. {remedy}.')
    return found
