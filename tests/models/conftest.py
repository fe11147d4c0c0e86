"Golden vectors for models, and the weights that those of the AGW network were made with."
import math
from pathlib import Path

import numpy as np
import pytest
import torch

GOLDEN = Path(__file__).parents[1]/'golden'


@pytest.fixture(scope='session')
def golden():
    "Open a golden file by name"
    return lambda name: np.load(GOLDEN/f'{name}.npz', allow_pickle=False)


def _fill(i, key, shape):
    # one frozen random stream for each key, scaled so that activations stay moderate through 50 layers
    noise = np.random.RandomState(1000 + i).standard_normal(shape)
    if key == 'global_pool.p': return np.full(1, 3.)
    if key.endswith('running_mean'): return .1 * noise
    if key.endswith('running_var'): return 1 + .1 * np.abs(noise)
    if len(shape) == 4: return noise / math.sqrt(np.prod(shape[1:]))
    if len(shape) == 2: return .02 * noise
    value = 1 + .1 * noise if key.endswith('weight') else .1 * noise
    last = 'base.layer4' in key and ('.bn3.' in key or '.downsample.1.' in key)
    return .1 * value if last else value


@pytest.fixture(scope='session')
def agw_weights(golden):
    "State dict of the published AGW network, in its own key names, float64"
    d = golden('agw_resnet50_nl_forward')
    shapes = [tuple(int(n) for n in str(s).strip('()[]').replace(',', ' ').replace('x', ' ').split()) for s in d['state_shapes']]
    return {str(k): torch.tensor(0) if k.endswith('num_batches_tracked') else torch.from_numpy(_fill(i, str(k), shape))
            for i, (k, shape) in enumerate(zip(d['state_keys'], shapes))}
