"""Whole paths on a GPU that is not there: what is judged, labelled and trained is what it is on the CPU.

What looks at values on the device is listed by the name of its operation; a step of training looks at none, but for
pictures that go through JPEG and a sample of identities (`STEPS`)."""
import importlib
import inspect
import pkgutil
from dataclasses import is_dataclass
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.core import Callback
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from pretended import OnDevice, PretendedDevice, held

from qsd_fastai import evaluation
from qsd_fastai.callbacks.margin import MarginTuning
from qsd_fastai.callbacks.octuplet import OctupletTuning
from qsd_fastai.callbacks.partial_update import PartialUpdate
from qsd_fastai.data.copies import DegradedCopies
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.transforms import FaceAugment
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.evaluation.metrics import Retrieval, Verification
from qsd_fastai.evaluation.open_set import open_set_rates, pair_rates
from qsd_fastai.evaluation.ranking import count_ranks, match_ranks
from qsd_fastai.evaluation.reranking import expand_queries, k_reciprocal
from qsd_fastai.evaluation.retrieval import evaluate_distances, evaluate_retrieval, ranked_gallery
from qsd_fastai.evaluation.same_camera import Matches
from qsd_fastai.evaluation.scores import pair_scores
from qsd_fastai.evaluation.sharded import evaluate_sharded
from qsd_fastai.evaluation.single_shot import single_shot_cmc
from qsd_fastai.evaluation.templates import evaluate_identification, pool_templates
from qsd_fastai.evaluation.verification import evaluate_verification, fuse_flip
from qsd_fastai.judging.search import judge_held_out
from qsd_fastai.labelling import OnlineQuality
from qsd_fastai.learner import recognition_learner
from qsd_fastai.models.heads.by_name import make_head
from qsd_fastai.optimizers import fused_adam
from qsd_fastai.panning import pan_model
from qsd_fastai.quality import label_table, norm_quality, similarity_quality, wasserstein
from qsd_fastai.severity import severity_labels

pytestmark = pytest.mark.usefixtures('one_thread')

rng = np.random.default_rng(0)
N,Q = 120,40
IDS,CAMERAS = rng.integers(0, 9, N),rng.integers(0, 3, N)
EMB = torch.from_numpy(rng.normal(size=(N, 16)).astype(np.float32) + 3*np.eye(9, 16, dtype=np.float32)[IDS])
WHO = IDS[:Q], IDS[Q:], CAMERAS[:Q], CAMERAS[Q:]
STRANGERS = np.where(WHO[0] < 3, 99, WHO[0]), *WHO[1:]
MATCHES = Matches(*WHO, (Q, N - Q))
BLOCK = [torch.from_numpy(o) for o in MATCHES.block(0, Q)]
CHECKS = {'_local_scalar_dense'}               # Is a row broken, or all zero?
BACK = {'_local_scalar_dense', '_to_copy'}     # And what is told is brought over
CHOSEN = {*BACK, 'nonzero'}                    # And some are chosen by their values
COUNTED = {*CHOSEN, 'bincount'}                # And counted by their values

CASES = { # What to do on a device, and what waits for it there
    evaluate_retrieval: (lambda q, g: evaluate_retrieval(q, g, *WHO, chunk=7), COUNTED),
    evaluate_distances: (lambda q, g: evaluate_distances(torch.cdist(q, g), *WHO), COUNTED),
    evaluate_sharded: (lambda q, g: evaluate_sharded(q, g, *WHO), CHOSEN),
    ranked_gallery: (lambda q, g: ranked_gallery(q, g, *WHO), CHOSEN),
    count_ranks: (lambda q, g: count_ranks(torch.cdist(q, g), *(o.to(q.device) for o in BLOCK)),
                  {'nonzero', 'bincount'}),
    match_ranks: (lambda q, g: ranks_of(torch.cdist(q, g)), {'nonzero', 'bincount'}),
    k_reciprocal: (lambda q, g: evaluate_distances(k_reciprocal(q, g, k1=7), *WHO), COUNTED),
    expand_queries: (lambda q, g: expand_queries(q, g), CHOSEN),
    open_set_rates: (lambda q, g: open_set_rates(q, g, *STRANGERS), COUNTED),
    pair_rates: (lambda q, g: pair_rates(q, g, *WHO), COUNTED),
    single_shot_cmc: (lambda q, g: single_shot_cmc(q, g, *WHO), CHOSEN),
    pair_scores: (lambda q, g: pair_scores(g, np.arange(40), np.arange(40, 80)), BACK),
    evaluate_verification: (lambda q, g: evaluate_verification(q, g[:Q], IDS[:Q] == IDS[Q:2*Q]), BACK),
    fuse_flip: (lambda q, g: fuse_flip(q, g[:Q]), CHECKS),
    pool_templates: (lambda q, g: pool_templates(g, np.arange(80)//4, np.arange(80)//2), CHECKS),
    evaluate_identification: (lambda q, g: evaluate_identification(q, WHO[0], {'all': (g, WHO[1])}), COUNTED),
    similarity_quality: (lambda q, g: similarity_quality(g, WHO[1]), CHOSEN),
    'exact': (lambda q, g: similarity_quality(g, WHO[1], mode='exact'), COUNTED),
    norm_quality: (lambda q, g: norm_quality(g), {'_to_copy'}),
    wasserstein: (lambda q, g: wasserstein(g[:, :4], g[:, 4:]), {'nonzero'}),
}


def ranks_of(dist):
    "Those that mean something, on every device"
    ranks,n = match_ranks(dist, MATCHES, 0)
    return ranks.masked_fill(torch.arange(ranks.shape[1], device=ranks.device) >= n[:, None], 0), n


def same(here, there):
    "Are two answers the same? Sums are taken in another order there"
    if is_dataclass(here): here,there = list(vars(here).values()), list(vars(there).values())
    if isinstance(here, (list, tuple)): return all(map(same, here, there)) and len(here) == len(there)
    if isinstance(here, dict): return here.keys() == there.keys() and all(same(v, there[k]) for k,v in here.items())
    if isinstance(here, pd.DataFrame): return same(dict(here), dict(there))
    here,there = np.asarray(held(here)), np.asarray(held(there))
    if here.dtype.kind != 'f': return np.array_equal(here, there)
    return here.shape == there.shape and np.allclose(here, there, rtol=1e-6, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize('what', CASES, ids=lambda o: getattr(o, '__name__', o))
def test_what_is_judged_there_is_what_is_judged_here(what):
    run,waits = CASES[what]
    here = run(EMB[:Q], EMB[Q:])
    with PretendedDevice() as device: there = run(EMB[:Q].to('cuda'), EMB[Q:].to('cuda'))
    assert set(device.waits) == waits
    assert same(here, there)


def test_every_judge_of_embeddings_has_a_case():
    found = set()
    for o in pkgutil.iter_modules(evaluation.__path__, f'{evaluation.__name__}.'):
        module = importlib.import_module(o.name)
        for f in (getattr(module, k) for k in getattr(module, '__all__', ())):
            if not inspect.isfunction(f) or f.__module__ != o.name: continue
            if next(iter(inspect.signature(f).parameters), '') in ('q_emb', 'emb', 'emb1', 'dist'): found.add(f)
    found.discard(evaluation.maps.flat_map) # scikit-learn's, on the CPU
    assert len(found) > 12
    assert found <= set(CASES)


def pairs_of(table):
    "Each picture of those who are found beside the next one"
    some = table[table['split'] != 'train']
    first,second = some.iloc[:-1],some.iloc[1:]
    same = first['identity'].to_numpy() == second['identity'].to_numpy()
    return pd.DataFrame({'path1': first['path'].to_numpy(), 'path2': second['path'].to_numpy(), 'same': same,
                         'fold': np.arange(len(same)) % 3})


def small_fit(table, device, method=None, head=None, epochs=2, cbs=(), opt_func=Adam, rate=1., verify=False, **kwargs):
    "A learner that was trained there"
    set_seed(0)
    pairs = getattr(method, 'pairs', '')
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=4, seed=0, device=torch.device(device),
                                  partners=pairs == 'partner', copies=pairs == 'copies', **kwargs)
    metrics = Verification('accuracy', 'auc', pairs=pairs_of(table)) if verify else Retrieval('mAP')
    moves = [PartialUpdate()] if rate < 1 else []
    learn = recognition_learner(dls, 'resnet10t', head and make_head(head, 32., rate), metrics=metrics,
                                opt_func=opt_func, cbs=[*([method] if method else []), *moves, *cbs])
    learn.model.to(device)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-3)
    return learn


class Steps(Callback):
    "What each step of training waited for, from the end of the one before: its loading and its log are in it"
    order = 1000 # Behind all others
    def __init__(self, waits): self.waits,self.seen = waits,[]
    def before_train(self): self.begun = self.waits.copy()
    def after_batch(self):
        if not self.training: return
        self.seen.append(self.waits - self.begun)
        self.begun = self.waits.copy()


FITS = {
    'plain': {}, 'kept there': {'keep': 'device'}, 'margin': {'head': 'adaface'}, 'batch': {'method': {}},
    'partners': {'method': {'pairs': 'partner'}}, 'joint': {'method': {'pairs': 'partner', 'forward': 'joint'}},
    'published': {'method': {'preset': 'published', 'pairs': 'partner'}}, 'copies': {'method': {'preset': 'copies'}},
    'average': {'method': {'teacher': 'ema', 'decay': .9}}, 'frozen': {'method': {'teacher': 'frozen'}},
    'all terms': {'method': {'relations': 1., 'mean': 1., 'logits': 'kl', 'stop': 'gap', 'weight': 'auto'}},
    'octuplet': {'method': OctupletTuning}, 'other margin': {'method': partial(MarginTuning, pairs='none')},
    'fused': {'opt_func': fused_adam}, 'verified': {'verify': True},
    'labels renewed': {'method': partial(OnlineQuality, rounds=1)}, 'face': {'augment': [FaceAugment(.5)]},
    'face, JPEG': {'augment': [FaceAugment(jpeg=1.)]}, 'sampled head': {'head': 'arcface', 'rate': .5},
}
STEPS = { # What their steps wait for; those of all others for nothing
    'copies': {'_to_copy': 1}, 'octuplet': {'_to_copy': 1}, 'face, JPEG': {'_to_copy': 1}, # JPEG is what the CPU does
    # identities of the batch, counted, told apart and brought over; those with a center here; step, finite gradients
    'sampled head': {'nonzero': 2, '_local_scalar_dense': 2, '_to_copy': 1, '_unique2': 1},
}


@pytest.mark.parametrize('form', FITS)
def test_what_is_trained_there_is_what_is_trained_here(labelled_people, form):
    def fit(device, cbs=()):
        kwargs = dict(FITS[form])
        method = kwargs.pop('method', None)
        if isinstance(method, dict): method = QualityDistillation(**method)
        elif method: method = method()
        return small_fit(labelled_people, device, method, cbs=cbs, **kwargs)
    here = fit('cpu')
    with PretendedDevice() as device:
        steps = Steps(device.waits)
        there = fit('cuda', [steps])
    ours,theirs = ({**dict(o.model.named_parameters()), **dict(o.model.named_buffers())} for o in (here, there))
    assert ours.keys() == theirs.keys()
    for k,v in theirs.items():
        assert isinstance(v, OnDevice), k
        assert torch.equal(ours[k], held(v)), k
    assert there.recorder.values == here.recorder.values
    assert len(steps.seen) == 2*len(there.dls.train)
    later = [o for k,o in enumerate(steps.seen) if k % len(there.dls.train)] # An epoch's first may look at its batch
    assert later and all(o == STEPS.get(form, {}) for o in later), steps.seen


def nearest(learn, table):
    "The nearest of a gallery, which searches on the CPU; switches of a model are there too"
    learn.gallery = table
    found = learn.predict(table.iloc[0])
    return found.scores, found.nearest, found.length


STAGES = {
    'embedded': lambda learn, table: learn.embed(table),
    'labelled': lambda learn, table: label_table(table, learn)['quality'],
    'severity': lambda learn, table: severity_labels(table, learn, rounds=1),
    'judged': lambda learn, table: judge_held_out(learn, table, ('mAP', 'mINP'), 'quality').figures,
    'searched': nearest,
    'panned': lambda learn, table: (pan_model(learn, DegradedCopies(), rounds=1), learn.embed(table))[1],
}


def test_what_follows_training_there_is_what_follows_it_here(labelled_people):
    def stages(device):
        learn = small_fit(labelled_people, device, epochs=1)
        with learn.no_bar(): return {k: f(learn, labelled_people) for k,f in STAGES.items()}
    here = stages('cpu')
    with PretendedDevice(): there = stages('cuda')
    for k,found in here.items(): assert same(found, there[k]), k
