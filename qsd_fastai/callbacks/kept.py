"The state of a fit on disk: read whole or refused by name, whatever the file holds, and of which table it is"
import numpy as np
import torch

from ..columns import table_hash

__all__ = ['read_state', 'same_table', 'table_state']

PARTS = {'fit': int, 'earlier': list, 'n_epoch': int, 'n_iter': int, 'train_iter': int, 'opt': dict, 'scaler': dict,
         'hps': dict, 'values': list, 'lrs': list, 'losses': torch.Tensor, 'iters': list, 'terms': list,
         'smooth_loss': tuple, 'random': dict, 'loader': tuple, 'model': dict, 'loss': dict}
# what states of earlier versions lack
LATER = {'table': dict, 'given': list, 'callbacks': dict, 'processes': int, 'dealt_to': int, 'others': list,
         'method': dict}
NOISE = 1.                             # Of 100: by so much may labels differ that another device has computed


def read_state(
    file, # Of `SaveState`
)->dict:
    "What a state holds, every part of its type; `ValueError` naming the file where it is cut, damaged or another thing"
    remedy = 'Remove it, or start anew without resume'
    try: state = torch.load(file, weights_only=True, map_location='cpu')
    except Exception as e: # Of damaged bytes, torch raises whatever comes
        said = ' '.join(str(e).split())[:200]
        raise ValueError(f'{file} cannot be read ({said}). {remedy}.') from e
    if not isinstance(state, dict): raise ValueError(f'{file} is not the state of a run. {remedy}.')
    state = {**{k: kind() for k,kind in LATER.items()}, **state}
    wrong = [k for k,kind in {**PARTS, **LATER}.items() if not isinstance(state.get(k), kind)]
    if not wrong and not all(map(_is_fit, state['earlier'])): wrong = ['earlier']
    if not wrong and not _is_fit((state['n_epoch'], state['values'])): wrong = ['values']
    if not wrong and len(state['earlier']) != state['fit'] - 1: wrong = ['fit']
    if not wrong and state['method'] and not _are_names(state['method'].get('callbacks')): wrong = ['method']
    if wrong: raise ValueError(f'{file} is not the state of a run: look at {wrong[0]}. {remedy}.')
    return state


def _are_names(o): return isinstance(o, list) and all(isinstance(name, str) for name in o)


def _is_fit(o):
    "Is it `(n_epoch, rows)`?"
    if not isinstance(o, (tuple, list)) or len(o) != 2 or not isinstance(o[0], int): return False
    return isinstance(o[1], list) and len(o[1]) <= o[0] and all(isinstance(row, list) for row in o[1])


def table_state(
    dls, # `DataLoaders` in a fit
)->dict: # Empty where they are of no table
    "What is trained on: who is in which picture, as a hash, and the labels of training pictures"
    table = getattr(dls, 'table', None)
    if table is None: return {}
    quality = table.loc[table['split'] == 'train', 'quality'].to_numpy(np.float32)
    pictures = table_hash(table.drop(columns='quality'))
    return {'pictures': pictures, 'rows': len(table), 'quality': torch.from_numpy(quality.copy())}


def same_table(
    was:dict, # Of `table_state`
    now:dict, # The same, at a resume
    file,     # Of the state, for the message
):
    "`ValueError` where a state is of another table, or of other labels than noise tells apart"
    if not was or not now: return
    remedy = 'Resume with the same table, or start anew without resume'
    if was['pictures'] != now['pictures']:
        raise ValueError(f'{file} is of another table: it had {was["rows"]} rows, this one has {now["rows"]}, and '
                         f'paths, identities, cameras or splits differ. {remedy}.')
    a,b = was['quality'],now['quality']
    differs = (a.isnan() != b.isnan()) | ((a - b).abs() > NOISE)
    if differs.any():
        raise ValueError(f'{file} is of other labels: the quality of {int(differs.sum())} of {len(a)} training '
                         f'pictures differs. {remedy}.')
