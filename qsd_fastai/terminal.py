"What a person sees in a terminal, and finds in a log of it"
import sys
from contextlib import contextmanager

import pandas as pd
from fastprogress import fastprogress as bars

__all__ = ['for_terminal', 'rows_only']


def for_terminal(
    table:pd.DataFrame, # To be printed
    width:int=100,      # Letters in a line
)->str:
    "A table as text: rows as columns where it is too wide otherwise, in parts one under the other where both are"
    texts = [o.to_string() for o in (table, table.T)]
    return next((o for o in texts if _width(o) <= width), table.to_string(line_width=width))


def _width(text): return max(map(len, text.split('\n')))


@contextmanager
def rows_only():
    """Rows of epochs without progress bars, where the output is a file or a pipe: fastprogress takes all for a terminal

    Notebooks keep their own bars."""
    if sys.stdout.isatty() or bars.IN_NOTEBOOK or 'print' in vars(bars):
        yield
        return
    before = bars.NO_BAR
    bars.NO_BAR,bars.print = True,lambda *args, **kwargs: None # What it prints is a try of its letters, and room
    try: yield
    finally:
        bars.NO_BAR = before
        del bars.print
