"Batches by identity: the order of the published sampler, partners, several processes, and a learner over real files"
import multiprocessing
import random
from collections import Counter

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.data.transforms import Normalize
from fastai.learner import load_learner

from qsd_fastai.callbacks.many import SharedDL
from qsd_fastai.data import loaders
from qsd_fastai.data.loaders import (
    IdentityDL,
    recognition_block,
    recognition_dataloaders,
    table_rows,
)
from qsd_fastai.data.order import identity_order, partner_order
from qsd_fastai.data.transforms import CropFlip, FaceAugment, Squish
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.learner import recognition_learner
from qsd_fastai.qsd_loss import grouped_pairs, identity_pairs

COUNTS = [5, 1, 4, 9, 2, 3, 6, 4]


@pytest.fixture(scope='module')
def table(make_table): return make_table(COUNTS)


def make_dls(table, n_ids=3, n_imgs=2, seed=0, size=(16, 8), num_workers=0, **kwargs):
    return recognition_dataloaders(table, size=size, n_ids=n_ids, n_imgs=n_imgs, seed=seed, num_workers=num_workers,
                                   device='cpu', **kwargs)


def rows(dl): return [b[3][:, 0].tolist() for b in dl]


def flat(batches): return [i for b in batches for i in b]


@pytest.mark.parametrize('seed', range(5))
def test_order_golden(golden, seed):
    d = golden('pk_sampler')
    n_imgs = int(d['num_instances'])
    order = identity_order(d['pids'].tolist(), int(d['batch_size'])//n_imgs, n_imgs, random.Random(seed))
    assert order == d[f'order_seed{seed}'].tolist()


@pytest.fixture(scope='module')
def list_order(script):
    "The published sampler as it is usually written, in a list of identities"
    return script('benchmarks/sampler.py').list_order


@pytest.mark.parametrize('seed', range(20))
def test_order_draws_as_the_published_sampler(list_order, seed):
    rng = random.Random(seed)
    ids = [rng.randrange(rng.randrange(1, 400)) for _ in range(rng.randrange(3000))]
    n_ids,n_imgs = rng.randrange(1, 20), rng.randrange(1, 6)
    ours,theirs = random.Random(seed), random.Random(seed)
    assert identity_order(ids, n_ids, n_imgs, ours) == list_order(ids, n_ids, n_imgs, theirs)
    assert ours.getstate() == theirs.getstate()


def test_order_of_many_identities_compares_none_of_them(list_order):
    class Who(int):
        compared = 0
        __hash__ = int.__hash__
        def __eq__(self, other):
            Who.compared += 1
            return int(self) == int(other)

    ids = [Who(i) for i in range(9000)]  # more than leave `_Waiting` at once
    order = identity_order(ids, 16, 2, random.Random(0))
    assert Who.compared == 0  # looking for an identity in a list compares half of the list each time
    assert order == list_order(range(9000), 16, 2, random.Random(0))


@pytest.mark.parametrize('seed', range(10))
def test_order_properties(seed):
    rng = random.Random(seed)
    ids = [rng.randrange(12) for _ in range(rng.randrange(60, 200))] + ['once']
    n_ids,n_imgs = rng.randrange(1, 6), rng.randrange(1, 6)
    order = identity_order(ids, n_ids, n_imgs, rng)
    size,count = n_ids*n_imgs, Counter(ids)
    assert len(order) % size == 0
    assert len(order) > 0
    for k in range(0, len(order), size):
        assert sorted(Counter(ids[i] for i in order[k:k + size]).values()) == [n_imgs]*n_ids
    for i,n in Counter(order).items(): assert n == 1 or count[ids[i]] < n_imgs
    # what is left out: of each identity less than a group, and the groups of fewer than n_ids identities
    whole = {k: max(n//n_imgs, 1) for k,n in count.items()}
    used = Counter(ids[i] for i in order)
    assert sum(used[k] < whole[k]*n_imgs for k in whole) < n_ids


def test_partners_are_even_over_the_others():
    ids = ['a']*5 + ['b'] + ['c']*2 + ['a']
    rng = random.Random(0)
    drawn = Counter(j for _ in range(6000) for j in partner_order(ids, [2], rng))
    assert set(drawn) == {0, 1, 3, 4, 8}
    assert all(abs(n - 1200) < 150 for n in drawn.values())
    assert partner_order(ids, [5, 6, 7, 6, 5], rng) == [5, 7, 6, 7, 5]
    assert all(ids[i] == ids[j] for i,j in zip(range(9), partner_order(ids, range(9), rng)))


@pytest.mark.parametrize('partners', [False, True])
def test_batches(table, partners):
    dls = make_dls(table, partners=partners)
    dl,n = dls.train,6
    assert len(dl) == sum(max(c//2, 1) for c in COUNTS)//3
    assert dl.bs == n*(1 + partners)
    assert dls.c == 8
    seen,first = set(), rows(dl)
    for b in dl:
        x,ids,quality,scene = b
        assert x.shape == (n*(1 + partners), 3, 16, 8)
        assert len(ids) == len(quality) == len(scene) == len(x)
        assert sorted(Counter(ids[:n].tolist()).values()) == [2, 2, 2]
        of_table = table.iloc[scene[:, 0].tolist()]
        assert [dl.vocab[i] for i in ids] == list(of_table['identity'])
        assert (of_table['split'] == 'train').all()
        np.testing.assert_array_equal(np.asarray(quality), of_table['quality'].to_numpy(np.float32))
        seen |= set(scene[:n, 0].tolist())
        if partners:
            assert torch.equal(ids[:n], ids[n:])
            for a,b in zip(scene[:n, 0].tolist(), scene[n:, 0].tolist()):
                assert (a == b) == (table['identity'][a] == 'p01')
    for _ in range(12): seen |= {i for b in rows(dl) for i in b[:n]}
    assert seen == set(range(sum(COUNTS)))
    again = [rows(make_dls(table, partners=partners).train) for _ in range(2)]
    assert first == again[0] == again[1]
    assert first != rows(dl)
    assert first != rows(make_dls(table, partners=partners, seed=1).train)


def test_partners_change_nothing_in_the_anchors(table):
    plain,with_partners = make_dls(table).train, make_dls(table, partners=True).train
    partners = []
    for _ in range(3):
        batches = rows(with_partners)
        assert rows(plain) == [b[:6] for b in batches]
        partners.append([b[6:] for b in batches])
    assert partners[0] != partners[1] != partners[2]
    # from the whole identity: not only from what is in the batch
    assert any(j not in b[:6] for b in batches for j in b[6:])


@pytest.mark.parametrize('workers', [0, 2])
def test_partners_change_no_pixel_of_the_anchors(table, workers):
    "What is drawn for partners, here and in later batches, is nothing to the others"
    def batches(partners):
        random.seed(5)
        np.random.seed(5)
        torch.manual_seed(5)
        augment = [CropFlip(2), FaceAugment(.5, .5, .5, .5)]
        dl = make_dls(table, partners=partners, augment=augment, erase=.5, num_workers=workers).train
        dl.rng = random.Random(3)
        return [b for _ in range(2) for b in dl]
    plain,doubled = batches(False), batches(True)
    assert len(plain) == len(doubled) > 4
    for a,b in zip(plain, doubled):
        n = len(a[0])
        assert [type(o) for o in a] == [type(o) for o in b]
        for x,y in zip(a, b): np.testing.assert_array_equal(x.numpy(), y[:n].numpy())
    same = [torch.equal(b[0][:6], b[0][6:]) for b in doubled]
    assert not any(same)


@pytest.mark.parametrize('partners', [False, True])
def test_workers_give_the_same_batches(table, partners):
    here,there = (make_dls(table, partners=partners, num_workers=w).train for w in (0, 2))
    for _ in range(2): assert rows(here) == rows(there)


@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='no fork')
def test_workers_where_python_begins_processes_anew(table, monkeypatch):
    "As it does from 3.14 on: the functions of transforms cannot be sent there"
    monkeypatch.setattr(SharedDL, '_broadcast', lambda self, t, rank: t)
    before = multiprocessing.get_start_method()
    multiprocessing.set_start_method('forkserver', force=True)
    try:
        dls = make_dls(table, num_workers=1)
        assert rows(dls.train.new()) == rows(make_dls(table).train)
        assert len(rows(dls.valid)) == 1
        assert len(rows(SharedDL(dls.valid, rank=0, world_size=1))) == 1
    finally: multiprocessing.set_start_method(before, force=True)


@pytest.mark.parametrize('world', [2, 3])
@pytest.mark.parametrize('partners', [False, True])
def test_several_processes(table, monkeypatch, world, partners):
    "fastai's `DistributedDL` gives each a part of the order: whole batches, of all in a step one batch of one process"
    alone = rows(make_dls(table, n_ids=2*world, partners=partners).train)
    monkeypatch.setattr(loaders, 'num_distrib', lambda: world)
    dl = make_dls(table, n_ids=2, partners=partners).train
    assert len(dl) % world == 0
    dl.randomize()
    order = dl.get_idxs()
    assert len(order) == len(dl)*dl.bs
    share,found = len(order)//world, []
    for rank in range(world):
        part = order[rank*share:(rank + 1)*share]
        found.append([part[k:k + dl.bs] for k in range(0, share, dl.bs)])
    steps = list(zip(*found, strict=True))
    assert len(steps) == len(alone)
    halves = [slice(0, dl.bs//2), slice(dl.bs//2, None)] if partners else [slice(None)]
    for step,whole in zip(steps, alone): assert [i for half in halves for o in step for i in o[half]] == whole


def test_fewer_batches_than_processes(table, monkeypatch):
    monkeypatch.setattr(loaders, 'num_distrib', lambda: 4)
    dl = make_dls(table, n_ids=8).train
    assert len(dl) == 4
    assert all(len(set(b)) <= 16 and len(b) == 16 for b in rows(dl))


@pytest.mark.parametrize('partners', [False, True])
def test_plain_order(table, partners):
    dls = make_dls(table, partners=partners, bs=5)
    train = dls.train.new(shuffle=False, drop_last=False)
    assert flat(rows(train)) == list(range(sum(COUNTS)))
    held = flat(rows(dls.valid))
    assert held == list(range(sum(COUNTS), len(table)))
    assert len(dls.valid) == 2
    # shuffled, as for show_results, and with fewer identities than a training batch has
    shuffled = dls.valid.new(shuffle=True)
    assert not shuffled.by_identity
    assert sorted(flat(rows(shuffled))) == held
    again = dls.train.new()
    assert (again.n_ids, again.n_imgs, again.partners) == (3, 2, partners)
    assert (again.bs, len(again)) == (dls.train.bs, len(dls.train))
    assert again.ids is dls.train.ids


def test_defect_23_an_identity_with_one_picture(make_table):
    table = make_table([1, 1, 1])
    dl = make_dls(table, n_ids=3, n_imgs=2, partners=True).train
    batch, = rows(dl)
    assert sorted(batch[:6]) == [0, 0, 1, 1, 2, 2]
    assert batch[6:] == batch[:6]


def test_errors(table):
    with pytest.raises(ValueError, match=r'n_ids=9 is larger than the number of training identities, 8\. Use n_ids=8'):
        make_dls(table, n_ids=9)
    with pytest.raises(ValueError, match='n_imgs=0'): make_dls(table, n_imgs=0)
    with pytest.raises(ValueError, match="split 'train'"): make_dls(table[table['split'] != 'train'])
    with pytest.raises(FileNotFoundError, match='nowhere'): make_dls(table, path='nowhere')


def test_normalisation_may_look_at_a_batch(table):
    block = recognition_block((16, 8), augment=False, erase=0, stats=None)
    block = block.new(item_tfms=Squish((16, 8)), batch_tfms=Normalize())
    dls = block.dataloaders(table_rows(table), dl_type=IdentityDL, n_ids=4, n_imgs=2, seed=0, num_workers=0,
                            device='cpu')
    x = dls.one_batch()[0]
    assert abs(x.mean()) < .1
    assert abs(x.std() - 1) < .1


@pytest.mark.parametrize('partners', [False, True])
def test_show_batch_draws_an_identity_a_row(table, partners):
    dls = make_dls(table, n_ids=4, n_imgs=3, partners=partners, size=(16, 16))
    dls.show_batch()
    fig = plt.gcf()
    fig.canvas.draw()
    axes = [ax for ax in fig.axes if ax.axison or ax.images]
    assert len(axes) == 12
    titles = [ax.get_title().split('\n') for ax in axes]
    for k in range(0, 12, 3): assert len({t[0] for t in titles[k:k + 3]}) == 1
    assert len({t[0] for t in titles}) == (2 if partners else 4)
    for identity,quality,camera in titles:
        assert identity[0] == 'p'
        assert quality.startswith('quality ')
        assert camera.startswith('camera c')
    # neither do titles run into each other, nor into pictures
    boxes = [(ax.title.get_window_extent(), ax.get_window_extent()) for ax in axes]
    for i,(title, _) in enumerate(boxes):
        assert title.x0 >= 0
        assert title.y1 <= fig.bbox.y1
        for k,(other, picture) in enumerate(boxes):
            assert i == k or not (title.overlaps(other) or title.overlaps(picture))
    plt.close('all')
    dls.show_batch(max_n=4, nrows=2)
    assert len(plt.gcf().axes) == 4
    dls.valid.show_batch(max_n=3)
    plt.close('all')
    assert len(dls.train.show_batch(show=False)[2]) == 9


@pytest.mark.parametrize('kwargs', [{}, {'pairs': 'partner'}, {'pairs': 'partner', 'forward': 'joint'}],
                         ids=['batch', 'separate', 'joint'])
def test_learner(table, tmp_path, kwargs):
    dls = make_dls(table, partners='pairs' in kwargs, size=(32, 16))
    learn = recognition_learner(dls, 'test_resnet', cbs=QualityDistillation(**kwargs), path=tmp_path)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, 1e-3)
        assert learn.loss_terms.last['qsd'].isfinite()
        assert 0 < learn.loss_terms.frame()['qsd_pairs'][0] <= 1
        emb,targets = learn.get_preds(ds_idx=0)
        assert targets[2][:, 0].tolist() == list(range(sum(COUNTS)))
        learn.export('learner.pkl')
        again = load_learner(tmp_path/'learner.pkl')
        with again.no_bar():
            torch.testing.assert_close(again.embed(table[:4]), learn.embed(table[:4]), rtol=1e-4, atol=1e-5)


def test_by_picture_every_picture_is_dealt_once(table):
    n = sum(COUNTS)
    dl = make_dls(table, n_ids=5, n_imgs=2, by='picture').train
    train = set(np.flatnonzero(table['split'] == 'train'))
    one,two = flat(rows(dl)), flat(rows(dl))
    assert len(dl) == n//10
    assert len(one) == len(set(one)) == n//10*10
    assert set(one) <= train
    assert one != two
    paired = make_dls(table, n_ids=5, n_imgs=2, by='picture', partners=True)
    batch = paired.train.one_batch()
    ids = table['identity'].to_numpy()[batch[3][:, 0].numpy()]
    assert len(ids) == 20
    assert (ids[:10] == ids[10:]).all()
    assert rows(paired.train)[0][:10] != rows(paired.train)[1][:10]
    assert paired.train.new().by == 'picture'
    assert len(make_dls(table, n_ids=5, n_imgs=2).valid) == len(paired.valid)
    with pytest.raises(ValueError, match='larger than the training set, 34 pictures'):
        make_dls(table, n_ids=5, n_imgs=7, by='picture')
    with pytest.raises(ValueError, match="by is 'people'"): make_dls(table, by='people')


@pytest.mark.parametrize('by', ['identity', 'picture'])
def test_an_epoch_is_as_many_passes_as_it_needs(table, by):
    "A pass too many would show in the next epoch: the draws of one that is thrown away are gone"
    dl = make_dls(table, by=by).train
    ids,passes = np.asarray(dl.ids).tolist(),[]
    real = dl._order
    dl._order = lambda ids: passes.append(real(ids)) or passes[-1]
    for _ in range(4):
        rng,before,passes[:] = random.Random(),dl.rng.getstate(),[]
        rng.setstate(before)
        found,wanted = dl.get_idxs(),[]
        while len(wanted) < len(dl)*dl.n_ids*dl.n_imgs:
            if by == 'identity': wanted += identity_order(ids, dl.n_ids, dl.n_imgs, rng)
            else:
                order = list(range(len(ids)))
                rng.shuffle(order)
                wanted += order[:len(order)//6*6]
        assert found == wanted[:len(found)]
        assert len(found) == len(dl)*6
        assert dl.rng.getstate() == rng.getstate()
        assert sum(map(len, passes[:-1])) < len(found) <= sum(map(len, passes))


@pytest.mark.parametrize('copies', [False, True])
def test_pairs_are_known_from_where_pictures_stand(table, copies):
    "What `QualityDistillation` goes by, so as not to ask a GPU who is in a batch"
    dl = make_dls(table, n_imgs=4, copies=copies).train
    for _,ids,*_ in dl:
        given = grouped_pairs(len(ids), dl.n_imgs, dl.copies),identity_pairs(ids)
        found,wanted = ({*zip(*(o.tolist() for o in pairs))} for pairs in given)
        assert found == wanted
        assert len(found) == 3*(28 if copies else 6)


@pytest.mark.parametrize('stats', ['half', (.5,), ((.5,)*3, (.5,)*3, 1)])
def test_statistics_that_are_none(labelled_people, stats):
    with pytest.raises(ValueError, match=r'stats is .*Give \(means, deviations\)'):
        recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=2, num_workers=0, stats=stats)
