"Arms that are compared in these benchmarks alone: another head, and no training at all"
from qsd_fastai.arms import Arm, chosen_arms

__all__ = ['head_of', 'named_arms']

PLAIN = {'preset': 'copies', 'weight': 0.}
ADAFACE = Arm('adaface', "degraded copies, AdaFace's head", pairs='copies', settings=PLAIN)
PANNING = Arm('panning', 'panning, no training', pairs='copies', settings=PLAIN)
OWN = {o.key: o for o in (ADAFACE, PANNING)}


def named_arms(
    keys:str, # As for `chosen_arms`; adaface and panning too
)->list: # Of `Arm`
    "The arms of a command line; ValueError for one that is unknown or there twice"
    found = [o for key in keys.split(',') for o in ([OWN[key]] if key in OWN else chosen_arms(key))]
    if len({o.key for o in found}) < len(found): raise ValueError(f'--arms {keys} has an arm twice. Name each once.')
    return found


def head_of(
    arm, # `Arm`, or None
)->str:
    "The head that it wants, empty for that of all"
    return 'adaface' if arm is ADAFACE else ''
