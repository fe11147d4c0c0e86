"An arm that is compared in these benchmarks alone: no training at all"
from qsd_fastai.arms import Arm, chosen_arms

__all__ = ['PANNING', 'named_arms']

PANNING = Arm('panning', 'panning, no training', pairs='copies', settings={'preset': 'copies', 'weight': 0.})


def named_arms(
    keys:str, # As for `chosen_arms`; panning too
)->list: # Of `Arm`
    "The arms of a command line; ValueError for one that is unknown or there twice"
    found = [o for key in keys.split(',') for o in ([PANNING] if key == PANNING.key else chosen_arms(key))]
    if len({o.key for o in found}) < len(found): raise ValueError(f'--arms {keys} has an arm twice. Name each once.')
    return found
