"A function as a command: an error is one line, and what was chosen goes into the record"
import inspect
import os
from functools import partial
from pathlib import Path

from qsd_fastai.commands import in_one_line

in_a_line = partial(in_one_line, kind=True)


def common(
    out:str='',           # Folder for the table; default: that of the source
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False,    # Stop at unreadable pictures instead of leaving them out
    workers:int=8,        # Threads that decode pictures
    force:bool=False,     # Make the table anew where there is one
):
    "Options of every set: they say where and how, not what"


def chosen(
    given,  # Name -> value of all arguments, `locals()` at the top of a function
    but=(), # Those that are told elsewhere in the record
)->dict:
    "What was chosen, for the record: a file or a folder by its name, for where it lies is a matter of the machine"
    aside = {*inspect.signature(common).parameters, *but}
    return {k: v.name if isinstance(v, Path) else v for k,v in given.items() if k not in aside}


def relative(
    path,   # A file or folder
    folder, # The one that the table goes to
)->str:
    "`path` as a table in `folder` writes it"
    return os.path.relpath(path, folder).replace(os.sep, '/')
