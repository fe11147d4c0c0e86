"Every body of ours: what a body must have, by its shapes alone"
from functools import cache
from importlib import import_module
from inspect import isfunction, signature
from pathlib import Path

import pytest
import torch
from torch import nn

from qsd_fastai.models.bodies import by_name
from qsd_fastai.models.bodies.by_name import face_bodies, make_body, own_bodies, person_bodies
from qsd_fastai.models.bodies.staged import StagedBody
from qsd_fastai.models.layers import BNNeck
from qsd_fastai.models.levels import level_indices
from qsd_fastai.models.preprocess import stats_of
from qsd_fastai.models.recognizer import Recognizer

SIZES = {'person': (256, 128), 'face': (112, 112)}
every = pytest.mark.parametrize('name', sorted(own_bodies))


@cache
def made(name):
    "The body without values, and its pictures"
    size = SIZES['face' if name in face_bodies else 'person']
    with torch.device('meta'): return make_body(name, size=size).eval(), torch.empty(2, 3, *size)


def test_every_maker_of_a_module_has_its_name():
    "A body that is written but not listed cannot be asked for"
    modules = [import_module(f'qsd_fastai.models.bodies.{o.stem}') for o in Path(by_name.__file__).parent.glob('*.py')
               if o.stem not in ('__init__', 'by_name', 'timm')]
    written = {name for m in modules for name,o in vars(m).items() if isfunction(o) and not name.startswith('_')
                    and next(iter(signature(o).parameters), '') == 'pretrained'}
    assert written == set(own_bodies)
    assert not set(person_bodies) & set(face_bodies)


@every
def test_levels_are_what_feature_info_says(name):
    body,x = made(name)
    final,levels = body.forward_intermediates(x)
    assert final.shape[2 if final.ndim == 3 else 1] == body.num_features # tokens end in their channels
    assert final.shape == body.forward_features(x).shape
    assert len(levels) == len(body.feature_info)
    for level,info in zip(levels, body.feature_info, strict=True):
        assert level.shape[1:] == (info['num_chs'], *(n//info['reduction'] for n in x.shape[-2:]))
        assert body.get_submodule(info['module']) is not None
    assert [o.shape for o in body.forward_intermediates(x, indices=[-1, 0])[1]] == [levels[-1].shape, levels[0].shape]
    assert len(level_indices(body)) == 3


@every
def test_an_embedding(name):
    body,x = made(name)
    with torch.device('meta'): model = Recognizer(body, 3)
    staged = isinstance(body, StagedBody)
    assert type(model.neck) is (nn.Identity if staged and body.own_embedding else BNNeck)
    if staged: assert body.embed(body.forward_features(x)).shape == (2, model.embed_dim)
    assert len(stats_of(body)) == 2


@every
def test_what_a_body_cannot_do_is_told(name):
    with pytest.raises((ConnectionError, ValueError), match=r'False'): own_bodies[name](pretrained=True)
    if name != 'agw_resnet50':
        with pytest.raises(ValueError, match=rf'last_stride is 1\. .*{name}'): make_body(name, last_stride=1)
