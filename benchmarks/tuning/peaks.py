"Peak memory of a form, by a process of its own: in one that has run others it would be the most that any of them took"
import re
import subprocess
import sys
from pathlib import Path

try:
    import resource
except ImportError: resource = None # Windows

__all__ = ['own_peak', 'peaks_alone']


def own_peak()->float: # MiB; NaN where the system does not say
    "The most that this process had in use so far"
    status = Path('/proc/self/status')
    # on Linux not `ru_maxrss`, which begins with that of the process that started this one
    if status.is_file(): return int(re.search(r'VmHWM:\s+(\d+)', status.read_text())[1])/2**10
    if resource is None: return float('nan')
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/2**(20 if sys.platform == 'darwin' else 10)


def peaks_alone(
    script,       # That prints `own_peak()` last when called with `--memory FORM`
    options:dict, # Its other options, without dashes
    forms,        # Names
)->dict: # MiB, by name
    "`own_peak` of a process each"
    given = [o for k,v in options.items() for o in (f'--{k}', str(v))]
    def peak(form):
        asked = [sys.executable, '-W', 'ignore', str(script), *given, '--memory', form]
        return float(subprocess.run(asked, stdout=subprocess.PIPE, text=True, check=True).stdout.split()[-1])
    return {form: peak(form) for form in forms}
