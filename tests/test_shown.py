"What objects say of themselves: every setting that is not the default can be read"
import inspect
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.schedule import SchedCos
from fasttransform import Pipeline

from qsd_fastai import distillation, losses
from qsd_fastai.callbacks.centers import CenterUpdate
from qsd_fastai.callbacks.margin import MarginTuning
from qsd_fastai.callbacks.octuplet import OctupletTuning
from qsd_fastai.callbacks.partial_update import PartialUpdate
from qsd_fastai.callbacks.save_state import SaveState
from qsd_fastai.callbacks.track_run import TrackRun
from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.transforms import CropFlip, FaceAugment, RandomErasing, Squish
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.evaluation.store import EmbeddingStore
from qsd_fastai.labelling import OnlineQuality
from qsd_fastai.learner import recognition_learner
from qsd_fastai.models.heads import margins
from qsd_fastai.models.heads.linear import LinearHead
from qsd_fastai.models.heads.partial_fc import PartialFC
from qsd_fastai.qsd_loss import QSDLoss
from qsd_fastai.shown import settings_text

OTHERS = {  # A setting of each that is not the default, and how it is read
    losses.IdentityLoss: ({'smoothing': .25}, 'smoothing=0.25'), losses.TripletLoss: ({'margin': None}, 'margin=None'),
    losses.OctupletLoss: ({'margin': .7}, 'margin=0.7'),
    losses.WeightedRegularizedTriplet: ({'form': 'reference'}, "form='reference'"),
    losses.CenterLoss: ({'n_ids': 3, 'nf': 8}, 'n_ids=3, nf=8'),
    losses.RecognitionLoss: ({'triplet_weight': .5}, 'triplet_weight=0.5'),
    QSDLoss: ({'level_weights': (1., .5), 'stop': 'gap'}, "(1, 0.5), tau=0.3, amplify='reference'"),
    distillation.QualityDistillation: ({'preset': 'copies', 'weight': 2.}, 'weight=2'),
    CenterUpdate: ({'lr': .1}, 'lr=0.1'), PartialUpdate: ({'momentum': .8}, 'momentum=0.8'),
    OctupletTuning: ({'margin': .4}, 'margin=0.4'), MarginTuning: ({'s': 16.}, "head='adaface', s=16"),
    OnlineQuality: ({'momentum': .3}, 'momentum=0.3'),
    SaveState: ({'file': Path('a.state')}, "file='a.state'"), TrackRun: ({'group': 'mine'}, "group='mine'"),
    DegradedCopies: ({'kinds': ('blur',)}, "kinds=('blur',)"), CropFlip: ({'pad': 4}, 'pad=4'),
    FaceAugment: ({'jpeg': .5}, 'jpeg=0.5'), RandomErasing: ({'p': .3}, 'p=0.3'),
    Squish: ({'size': (32, 16), 'resize': 'bicubic'}, "size=(32, 16), resize='bicubic'"),
    EmbeddingStore: ({'flip': True}, 'flip=True'),
    **{getattr(margins, o): ({'nf': 8, 'n_ids': 3, 's': 20.}, 'nf=8, n_ids=3, s=20') for o in margins.__all__},
    LinearHead: ({'nf': 8, 'n_ids': 3}, 'nf=8, n_ids=3'), PartialFC: ({'nf': 8, 'n_ids': 3, 'rate': .3}, 'rate=0.3')}


@pytest.mark.parametrize('kind', OTHERS, ids=lambda o: o.__name__)
def test_settings_are_shown(kind):
    given,said = OTHERS[kind]
    shown = repr(kind(**given))
    assert shown.startswith(f'{kind.__name__}(')
    assert said in shown
    assert ' object at 0x' not in shown


def test_all_arguments_of_a_margin_head_are_shown():
    for name in set(margins.__all__) - {'SubCenterArcFace', 'MarginHead'}:
        head = getattr(margins, name)
        for k in inspect.signature(head.__init__).parameters:
            if k != 'self': assert f'{k}=' in repr(head(8, 3)), (name, k)


def test_distillation_shows_those_of_its_loss():
    shown = repr(distillation.QualityDistillation(preset='copies', weight=SchedCos(0., 1.), tau=.2))
    for part in ("pairs='copies'", "stop='gap'", 'tau=0.2', 'balance=True', "level_weights={'emb': 1.0}"):
        assert part in shown
    assert shown.count('level_weights') == 1


def test_values_are_short():
    class Some:
        def __init__(self, array=1, tensor=2, func=3, long=4, empty=5, net=6):
            self.array,self.tensor,self.func,self.long = np.zeros((3, 2)),torch.zeros(4),partial,'x'*200
            self.empty,self.net = (),torch.nn.ReLU()
    long = f"'{'x'*58}…"
    assert settings_text(Some()) == f'array=ndarray (3, 2), tensor=Tensor (4,), func=partial, long={long}, empty=()'


def test_loaders_and_pipelines(labelled_people):
    dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=3, num_workers=0, partners=True)
    assert repr(dls.train).startswith('IdentityDL(48 pictures, 4 batches, n_ids=4, n_imgs=3, partners=True')
    assert repr(dls.valid) == 'IdentityDL(24 pictures in order, bs=24)'
    assert repr(dls) == f'RecognitionDataLoaders({dls.train!r}, {dls.valid!r})'
    assert 'Squish(size=(32, 16)' in repr(dls.train.after_item)
    assert 'CropFlip(pad=1, p=0.5)' in repr(dls.train.after_batch)
    assert repr(Retrieval('mAP')) == "[Retrieval('mAP')]"
    assert repr(Pipeline([CropFlip()])) == 'Pipeline: CropFlip(pad=10, p=0.5)'


def test_a_learner_says_what_it_is_made_of(labelled_people):
    dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=3, num_workers=0)
    cbs = distillation.QualityDistillation()
    shown = repr(recognition_learner(dls, 'test_resnet', metrics=Retrieval('mAP'), cbs=cbs))
    for part in ('test_resnet, GeM, BNNeck, LinearHead', '96 numbers, 8 identities', 'TripletLoss(margin=0.3',
                 "Retrieval('mAP')", 'QualityDistillation(weight=1', 'IdentityDL(48 pictures'):
        assert part in shown
