"Three processes that share work, told and gathered, against one process that has everything"
import pickle
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from started import launch_function
from timm.layers import BatchNormAct2d
from torch import nn

from qsd_fastai import distributed, launched, quality
from qsd_fastai.distributed import (
    after_first,
    from_first,
    gather_objects,
    gather_parts,
    gather_rows,
    processes,
    share_of,
    shared_out,
    together,
)
from qsd_fastai.evaluation.retrieval import evaluate_distances, evaluate_retrieval
from qsd_fastai.launched import joined, many_wanted
from qsd_fastai.losses import OctupletLoss, RecognitionLoss, TripletLoss
from qsd_fastai.models.recognizer import Recognition
from qsd_fastai.models.shared_norm import own_statistics, share_statistics
from qsd_fastai.qsd_loss import QSDLoss
from qsd_fastai.quality import similarity_quality

WORLD = 3


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 5, 3), BatchNormAct2d(5), nn.Flatten(),
                         nn.LazyBatchNorm1d(momentum=None), nn.LazyLinear(2)).double()


def pictures():
    "Different numbers for each process"
    return torch.randn(11, 3, 8, 8, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


OWN = [slice(0, 5), slice(5, 7), slice(7, 11)]


def normalized(rank, x):
    "Gradients and running statistics of two steps; the loss is the sum over all pictures"
    net = network()
    net(x[:2])
    for o in net:
        if hasattr(o, 'reset_running_stats'): o.reset_running_stats()
    if rank is not None: share_statistics(net)
    for _ in range(2): net(x).square().sum().backward()
    own_statistics(net)
    if rank is not None:
        for p in net.parameters(): torch.distributed.all_reduce(p.grad)
    return {**dict(net.named_buffers()), **{k: p.grad for k,p in net.named_parameters()},
            'judged': net.eval()(pictures())}


def embeddings():
    emb = torch.randn(3*WORLD, 4, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    return emb, torch.arange(3*WORLD)//4


def octuplet():
    "Pictures and their copies, `(2, n, nf)`, and whose they are"
    emb,ids = embeddings()
    return torch.stack([emb, emb.roll(1, 1) + .3]), ids


PAIRS = [(0, 1), (0, 2), (1, 2)], [], [(0, 2)] # Of the three pictures of each process


def distilled(pairs, rows):
    "QSD of some pictures, and its gradients"
    draw,quality = torch.Generator().manual_seed(3),torch.tensor([90., 20, 55, 10, 60, 70, 15, 95, 65])
    levels = [torch.randn(3*WORLD, *o, generator=draw, dtype=torch.float64) for o in ((4, 3, 2), (5,))]
    levels = [o[rows].requires_grad_() for o in levels]
    loss = QSDLoss((1., .5))(levels, quality[rows], torch.tensor(pairs, dtype=torch.int64).view(-1, 2).T)
    loss.backward()
    return [loss.detach(), *(o.grad for o in levels)]


def work(rank, folder):
    with joined():
        found = {'told': from_first(processes), 'rows': list(share_of(10, 4)), 'objects': gather_objects(rank)}
        with pytest.raises(ValueError, match='of the first'): from_first(lambda: 1/0 if rank else refuse())
        file = folder/'made'
        def make():
            if file.exists(): return file.read_text()
            file.write_text(f'by {rank}')
            return 'anew'
        found['made'] = after_first(make)
        found['parts'] = gather_parts(None if rank == 1 else torch.full((rank + 1, 2), rank))
        emb,ids = embeddings()
        own = emb[3*rank:3*rank + 3].requires_grad_()
        pred = Recognition((torch.zeros(3, 3), own, (), own))
        loss = RecognitionLoss(identity_weight=0, triplet=TripletLoss())(pred, ids[3*rank:3*rank + 3])
        loss.backward()
        found |= {'loss': loss.detach(), 'grad': own.grad/WORLD}
        both,who = octuplet()
        own = both[:,3*rank:3*rank + 3].clone().requires_grad_()
        loss = OctupletLoss()(own.flatten(0, 1), who[3*rank:3*rank + 3].repeat(2))
        loss.backward()
        found['octuplet'] = loss.detach(), own.grad/WORLD
        alone = OctupletLoss(gathered=False)(own.flatten(0, 1), who[3*rank:3*rank + 3].repeat(2))
        assert abs(alone - loss) > 1e-3
        with pytest.raises(ValueError, match='2 to 4 pictures'): gather_rows(torch.zeros(2 + rank, 1))
        found['distilled'] = distilled(PAIRS[rank], slice(3*rank, 3*rank + 3))
        found['normalized'] = normalized(rank, pictures()[OWN[rank]])
        torch.save(found, folder/f'{rank}.pt')


def refuse(): raise ValueError('This is of the first.')


def searched():
    "A search in blocks of four queries, and the same as a judge asks for it"
    draw = torch.Generator().manual_seed(4)
    emb,ids = torch.randn(64, 5, generator=draw),torch.arange(64) % 7
    sides = emb[:21], emb[21:], ids[:21], ids[21:]
    dist = 1 - F.normalize(sides[0])@F.normalize(sides[1]).T
    return [o.per_query.to_dict('list') for o in (evaluate_retrieval(*sides, chunk=4),
                                                  evaluate_distances(dist, *sides[2:], chunk=4))]


def labelled(file=None):
    """Labels of 1,600 pictures, four blocks of them, and of all pairs, as many rows as are compared at once

    With a file the first from parts, of which the first process alone has rows that say anything."""
    draw = torch.Generator().manual_seed(5)
    emb,ids = torch.randn(1600, 8, generator=draw),torch.arange(1600) % 50
    ways = (emb, ids, {'rounds': 2}), (emb, ids, {'n_pos': 4}), (emb.repeat(3, 1), ids.repeat(3), {'mode': 'exact'})
    if file:
        own = emb if processes()[0] == 0 else emb*0
        ways = (iter(own.split(300)), ids, {'rounds': 2, 'file': file}), *ways[1:]
    return [similarity_quality(e, i, **options).tolist() for e,i,options in ways]


def in_shares(rank, folder):
    with joined():
        done = []
        def job(k):
            done.append(k)
            return torch.tensor(k), k
        with together(): found = list(shared_out(iter(range(8)), job))
        assert done == list(range(rank, 8, WORLD))
        assert found == [(torch.tensor(k), k) for k in range(8)]
        assert list(shared_out(range(3), lambda k: k + rank)) == [rank, rank + 1, rank + 2] # Not asked together
        with together(): assert list(shared_out([], job)) == []
        with together(), pytest.raises(ZeroDivisionError if rank == 1 else RuntimeError, match='division by zero'):
            shared_out(range(WORLD), lambda k: 1/(1 - k)) # One fails, and none waits for it
        compared,real = [],quality._picked_distances
        def counted(emb, rows, *args):
            compared.append(len(rows))
            return real(emb, rows, *args)
        quality._picked_distances = counted # In this process alone, which ends soon
        with together(): found = searched(),labelled(folder/'compared')
        torch.save((*found, sum(compared)), folder/f'{rank}.pt')


def test_what_is_told_is_as_large_as_it_is(monkeypatch):
    "A view would be told with all that it is a view of"
    told = []
    def gather_objects(own):
        told.append(len(pickle.dumps(own)))
        return [own, {}]
    monkeypatch.setattr(distributed, 'processes', lambda: (0, 2))
    monkeypatch.setattr(distributed, 'gather_objects', gather_objects)
    with together(): list(shared_out(torch.arange(10**6).split(10**3)[:1], lambda o: o))
    assert 8*10**3 < told[0] < 9*10**3


def test_three_processes_search_and_label_as_one(tmp_path):
    "To the last digit: blocks are those of one process, whoever works on them"
    launch_function(WORLD, in_shares, tmp_path)
    alone = [str(o) for o in (searched(), labelled())] # NaN is no equal of itself
    *found,compared = zip(*(torch.load(tmp_path/f'{rank}.pt', weights_only=True) for rank in range(WORLD)))
    for o in zip(*found): assert [str(k) for k in o] == alone
    assert sum(compared) == 2*1600 # Each picture by one of them, for each of two ways to draw
    assert max(compared) < 1600


def test_three_processes_share_and_gather(tmp_path):
    launch_function(WORLD, work, tmp_path)
    found = [torch.load(tmp_path/f'{rank}.pt', weights_only=True) for rank in range(WORLD)]
    assert [o['told'] for o in found] == [(0, WORLD)]*WORLD
    assert [o['rows'] for o in found] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert found[2]['objects'] == [0, 1, 2]
    assert [o['made'] for o in found] == ['anew', 'by 0', 'by 0']
    for o in found: assert o['parts'].tolist() == [[0, 0], [2, 2], [2, 2], [2, 2]]
    emb,ids = embeddings()
    loss = TripletLoss()(emb.requires_grad_(), ids)
    loss.backward()
    for o in found: torch.testing.assert_close(o['loss'], loss.detach())
    torch.testing.assert_close(torch.cat([o['grad'] for o in found]), emb.grad)
    both,ids = octuplet()
    loss = OctupletLoss()(both.requires_grad_().flatten(0, 1), ids.repeat(2))
    loss.backward()
    losses,parts = zip(*(o['octuplet'] for o in found))
    torch.testing.assert_close(torch.stack(losses), loss.detach().expand(WORLD))
    torch.testing.assert_close(torch.cat(parts, 1), both.grad)
    losses,*grads = zip(*(o['distilled'] for o in found))
    loss,*whole = distilled([(3*r + a, 3*r + b) for r in range(WORLD) for a,b in PAIRS[r]], slice(None))
    torch.testing.assert_close(torch.stack(losses).mean(), loss)
    for parts,grad in zip(grads, whole): torch.testing.assert_close(torch.cat(parts)/WORLD, grad)
    wanted = normalized(None, pictures())
    for o in found:
        for k,v in wanted.items(): torch.testing.assert_close(o['normalized'][k], v, msg=lambda m, k=k: f'{k}: {m}')


def test_one_process_is_alone():
    x = torch.zeros(2, 1)
    assert gather_rows(x) is x
    assert gather_parts(x) is x
    assert (from_first(processes), gather_objects(1), list(share_of(3, 2))) == ((0, 1), [1], [0, 1, 2])


@pytest.mark.parametrize('gpus, backend', [(0, 'gloo'), (2, 'cpu:gloo,cuda:nccl')])
def test_what_lies_on_the_cpu_is_gathered_beside_gpus_too(monkeypatch, gpus, backend):
    "Of one backend that is not named PyTorch takes that of the GPUs, and embeddings are on the CPU"
    asked = []
    monkeypatch.setenv('WORLD_SIZE', '2')
    monkeypatch.setattr(launched.torch.cuda, 'device_count', lambda: gpus)
    monkeypatch.setattr(launched.torch.cuda, 'set_device', lambda i: None)
    monkeypatch.setattr(launched.dist, 'init_process_group', lambda name, timeout: asked.append(name))
    monkeypatch.setattr(launched.dist, 'destroy_process_group', lambda: None)
    monkeypatch.setattr(launched.defaults, 'use_cuda', None)
    with joined(): pass
    assert asked == [backend]


def test_what_accelerate_does_not_start_on_a_cpu(monkeypatch):
    def asked(command, **env):
        for k in ('WORLD_SIZE', 'RANK'): monkeypatch.delenv(k, raising=False)
        for k,v in {'ACCELERATE_USE_CPU': 'True', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': '29500', **env}.items():
            monkeypatch.setenv(k, v)
        monkeypatch.setattr(launched.psutil, 'Process', lambda pid: SimpleNamespace(cmdline=lambda: command))
        monkeypatch.setattr(launched.sys, 'argv', ['recipes/reid.py', '--epochs', '2'])
        return many_wanted()
    for option in (['--num_processes', '3'], ['--num-processes=3']):
        wanted = asked(['python', 'accelerate', 'launch', '--cpu', *option, 'recipes/reid.py'])
        assert wanted[1:] == ['-m', 'torch.distributed.run', '--nproc_per_node', '3', '--master_addr', '127.0.0.1',
                              '--master_port', '29500', 'recipes/reid.py', '--epochs', '2']
    with pytest.raises(ValueError, match=r'torchrun --nproc_per_node N recipes/reid\.py'): asked(['python'])
    assert asked(['--num_processes', '3'], WORLD_SIZE='3') == []
    assert asked(['--num_processes', '3'], OMPI_COMM_WORLD_SIZE='3') == []


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 2)
    for k,v in {'WORLD_SIZE': '3', 'LOCAL_WORLD_SIZE': '3', 'LOCAL_RANK': '2'}.items(): monkeypatch.setenv(k, v)
    monkeypatch.delenv('ACCELERATE_USE_CPU', raising=False)
    with pytest.raises(ValueError, match='2 GPUs, and 3 processes'), joined(): pass
