"Sampled and sharded classes: the same as a plain head where all are taken, the same on two processes as on one"
import copy
import sys
import warnings
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from qsd_fastai.models.heads.margins import AdaFace, ArcFace, CosFace, CurricularFace, MagFace, SubCenterArcFace
from qsd_fastai.models.heads.partial_fc import BLOCK, PartialFC

pytestmark = pytest.mark.usefixtures('one_thread')
MARGINS = [ArcFace, CosFace, AdaFace, partial(MagFace, norm_range=(1., 5.)), CurricularFace]
N_IDS,NF = 13, 6
IMPRINTS = torch.arange(48.).reshape(8, 6).cos(), torch.tensor([0, 0, 6, 7, 7, 12, 13, -1])


def batches(n=3, bs=8):
    torch.manual_seed(0)
    found = [(torch.randn(bs, NF, dtype=torch.float64)*2, torch.randint(0, N_IDS, (bs,))) for _ in range(n)]
    if n > 2: found[1][1][2],found[2][1][:bs//2] = N_IDS, -1  # one of no class, and half a batch
    return found


def centers():
    torch.manual_seed(7)
    return torch.randn(N_IDS, NF, dtype=torch.float64)


def whole_state(head): return {'weight': centers(), 'momentum': torch.zeros(N_IDS, NF), 'step': torch.tensor(0),
                               **{f'margin.{k}': v for k,v in head.margin.state_dict().items()}}


@pytest.mark.parametrize('make', MARGINS)
def test_all_classes_are_the_plain_head_and_sgd(make):
    head,plain = PartialFC(NF, N_IDS, margin=make, rate=1.).double(), make(NF, N_IDS).double()
    head.load_full_state(whole_state(head))
    plain.weight.data = centers()
    opt = torch.optim.SGD([plain.weight], lr=.3, momentum=.9, weight_decay=5e-4)
    for x,ids in batches():
        ours,theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
        head.sample(ids)
        a,b = head.terms(head(ours), ours, ids), plain.terms(plain(theirs), theirs, ids)
        assert a.keys() == b.keys()
        for k in a: torch.testing.assert_close(a[k], b[k], rtol=1e-12, atol=1e-12)
        sum(a.values()).backward(), sum(b.values()).backward()
        torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-10, atol=1e-12)
        assert head.update(.3)
        opt.step(), opt.zero_grad()
        torch.testing.assert_close(head.weight, plain.weight.detach(), rtol=1e-10, atol=1e-12)


def test_a_sample_holds_the_batch_and_moves_nothing_else():
    head = PartialFC(NF, 1000, rate=.02, margin=partial(CosFace, s=4., m=.1)).double()
    started,ids = head.weight.clone(), torch.tensor([5, 999, 5, 17, 1000, -1])
    head.sample(ids)
    assert len(head.rows) == 20
    assert {5, 17, 999} <= set(head.rows.tolist())
    assert head.rows.equal(head.rows.unique())
    x = torch.randn(6, NF, dtype=torch.float64, requires_grad=True)
    cosine = head(x)
    # written out: cross-entropy over the sample, for the four pictures that have a class
    naive = 4*F.cosine_similarity(x[:, None], started[head.rows][None], dim=2)
    own = [head.rows.tolist().index(i) for i in (5, 999, 5, 17)]
    expected = 0
    for i,j in enumerate(own):
        z = naive[i].clone()
        z[j] -= 4*.1
        expected = expected - (z[j] - z.logsumexp(0))/4
    value = head.terms(cosine, x, ids)['identity']
    torch.testing.assert_close(value, expected)
    value.backward()
    assert head.active.grad.shape == (20, NF)
    rows = head.rows
    head.update(.1)
    moved = (head.weight != started).any(1).nonzero().flatten()
    assert moved.equal(rows)


def test_samples_are_drawn_anew_and_again_after_a_resume():
    def drawn(head, n):
        found = []
        for _ in range(n):
            head.sample(torch.tensor([3]))
            found.append(head.rows.tolist())
        return found
    head = PartialFC(NF, 500, rate=.1)
    all_of_them = drawn(head, 6)
    assert len({tuple(o) for o in all_of_them}) == 6
    first,again = PartialFC(NF, 500, rate=.1), PartialFC(NF, 500, rate=.1)
    assert drawn(first, 3) == all_of_them[:3]
    again.load_state_dict(first.state_dict())
    assert drawn(again, 3) == all_of_them[3:]
    assert drawn(PartialFC(NF, 500, rate=.1, seed=1), 1) != all_of_them[:1]
    few = PartialFC(NF, 500, rate=.002)
    few.sample(torch.arange(7))
    assert few.rows.tolist() == list(range(7))  # more in the batch than the rate allows: all of them


def test_accumulated_steps_add_up():
    one,two = (PartialFC(NF, N_IDS, rate=1., margin=CosFace).double() for _ in range(2))
    x,ids = batches(1)[0]
    one.sample(ids)
    one.terms(one(x), x, ids)['identity'].backward()
    one.update(.1)
    for half in (slice(0, 4), slice(4, 8)):
        two.sample(ids[half])
        (two.terms(two(x[half]), x[half], ids[half])['identity']/2).backward()
    two.update(.1)
    torch.testing.assert_close(one.weight, two.weight)


def test_mixed_precision():
    head = PartialFC(NF, N_IDS, rate=1.)
    other,x,ids = copy.deepcopy(head), torch.randn(8, NF), torch.randint(0, N_IDS, (8,))
    for h,scale in ((head, 1.), (other, 1024.)):
        h.sample(ids)
        with torch.autocast('cpu', dtype=torch.bfloat16): value = h.terms(h(x), x, ids)['identity']
        assert value.dtype == torch.float32
        (value*scale).backward()
        assert h.update(.1, scale=scale)
    torch.testing.assert_close(head.weight, other.weight)
    before = head.weight.clone()
    head.sample(ids)
    (head.terms(head(x), x, ids)['identity']*float('inf')).backward()
    assert not head.update(.1)
    assert head.weight.equal(before)


def test_shares():
    head = PartialFC(NF, 10)
    assert [head.share(r, 4) for r in range(4)] == [(0, 3), (3, 6), (6, 8), (8, 10)]
    assert [head.share(r, 3) for r in range(3)] == [(0, 4), (4, 7), (7, 10)]
    n = BLOCK + 50
    whole = PartialFC(2, n)
    assert torch.equal(whole._start(BLOCK - 5, n), whole.weight[BLOCK - 5:])
    assert abs(float(whole.weight.std()) - .01) < 1e-3


def test_bad_arguments():
    for rate in (0, 1.1):
        with pytest.raises(ValueError, match='rate is'): PartialFC(NF, 5, rate=rate)
    with pytest.raises(ValueError, match='SubCenter'): PartialFC(NF, 5, margin=SubCenterArcFace)
    with pytest.raises(RuntimeError, match='PartialUpdate'): PartialFC(NF, 5)(torch.randn(2, NF))
    with pytest.raises(ValueError, match='other identities'):
        PartialFC(NF, 5).load_full_state(PartialFC(NF, 6).full_state())


class Net(nn.Module):
    def __init__(self, head):
        super().__init__()
        torch.manual_seed(3)
        self.body,self.head = nn.Linear(NF, NF, bias=False), head

    def forward(self, x):
        emb = self.body(x)
        return self.head(emb), emb


def trained(make, rate, rank, world):
    "Losses, gradients of the body and the state after a few steps, in a process of a group or alone"
    head = PartialFC(NF, N_IDS, margin=make, rate=rate).double()
    head.load_full_state(whole_state(head))
    net = Net(head).double()
    net._ddp_params_and_buffers_to_ignore = [f'head.{o}' for o in ('weight', 'momentum', 'step')]
    model,found = DistributedDataParallel(net) if world > 1 else net, []
    for x,ids in batches():
        mine = slice(rank*len(x)//world, (rank + 1)*len(x)//world)
        head.sample(ids[mine])
        cosine,emb = model(x[mine])
        terms = head.terms(cosine, emb, ids[mine])
        model.zero_grad()
        sum(terms.values()).backward()
        found.append((terms['identity'].detach(), net.body.weight.grad.clone()))
        head.update(.3)
    return found, head.full_state()


def work(rank, world, folder):
    torch.set_num_threads(1)
    store,patience = f'file://{folder}/store', timedelta(seconds=60)
    dist.init_process_group('gloo', init_method=store, rank=rank, world_size=world, timeout=patience)
    results = {(i, rate): trained(make, rate, rank, world) for i,make in enumerate(MARGINS) for rate in (1., .7)}
    head = PartialFC(NF, N_IDS)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        head.state_dict()
    try: head.sample(torch.zeros(2 + rank, dtype=torch.int64))
    except ValueError as e: uneven = str(e)
    # plain heads, whose statistics are of all processes: pictures of the second one have no class, then nobody's have
    plain = {}
    for name,make in (('curricular', CurricularFace), ('ada', partial(AdaFace, t_alpha=.5))):
        plain[name] = make(NF, N_IDS).double()
        for classed in (rank == 0, False, rank == 0):
            emb,ids = batches(1)[0]
            ids = torch.where(torch.tensor(classed), ids, -1)
            plain[name].terms(F.normalize(emb)@F.normalize(centers()).T, emb, ids)
    nobody = AdaFace(NF, N_IDS).double()
    for n in (3*rank, 0):  # a process without any picture
        cosine,emb = torch.zeros(n, N_IDS, dtype=torch.float64), torch.ones(n, NF, dtype=torch.float64)
        nobody.terms(cosine, emb, torch.zeros(n, dtype=torch.int64))
    plain = {k: v.state_dict() for k,v in {**plain, 'nobody': nobody}.items()}
    imprinted = PartialFC(NF, N_IDS)
    imprinted.imprint(*IMPRINTS)
    torch.save({'results': results, 'plain': plain, 'imprinted': imprinted.weight,
                'said': [str(o.message) for o in said], 'uneven': uneven,
                'rows': len(head.weight), 'start': head.weight}, f'{folder}/{rank}.pt')
    dist.destroy_process_group()


def check_statistics(first, second):
    "Of plain heads on two processes, against their definitions"
    for k in first:
        for name in first[k]: assert torch.equal(first[k][name], second[k][name]), (k, name)
    emb,ids = batches(1)[0]
    own = (F.normalize(emb)*F.normalize(centers())[ids]).sum(1).mean()
    # moved twice: nobody had a class in between
    assert float(first['curricular']['t']) == pytest.approx(float(own*.01*(1 + .99)), rel=1e-9)
    norms,mean,std = emb.norm(dim=1).repeat(2), 20., 100.
    for _ in range(3): mean,std = (mean + float(norms.mean()))/2, (std + float(norms.std()))/2
    assert [float(first['ada'][k]) for k in ('batch_mean', 'batch_std')] == pytest.approx([mean, std], rel=1e-9)
    assert float(first['nobody']['batch_mean']) == pytest.approx(20 + .01*(NF**.5 - 20), rel=1e-9)


def test_imprint_is_that_of_a_margin_head():
    head,plain = PartialFC(NF, N_IDS), ArcFace(NF, N_IDS)
    plain.weight.data = head.weight.clone()
    head.momentum.fill_(1.)
    for h in (head, plain): h.imprint(*IMPRINTS)
    assert torch.equal(head.weight, plain.weight)
    assert head.momentum.sum(1).nonzero().flatten().tolist() == [i for i in range(N_IDS) if i not in IMPRINTS[1]]


@pytest.mark.skipif(sys.platform == 'win32' or not dist.is_available(), reason='gloo over a file')
def test_two_processes_are_as_good_as_one(tmp_path):
    torch.multiprocessing.spawn(work, (2, str(tmp_path)), nprocs=2)
    found = [torch.load(Path(tmp_path)/f'{rank}.pt', weights_only=True) for rank in range(2)]
    assert [o['rows'] for o in found] == [7, 6]
    assert torch.equal(torch.cat([o['start'] for o in found]), PartialFC(NF, N_IDS).weight)
    for o in found:
        assert 'whole_state_dict' in o['said'][0]
        assert '2 to 3 pictures' in o['uneven']
    one = PartialFC(NF, N_IDS)
    one.imprint(*IMPRINTS)
    assert torch.equal(torch.cat([o['imprinted'] for o in found]), one.weight)
    check_statistics(found[0]['plain'], found[1]['plain'])
    for i,make in enumerate(MARGINS):
        for rate in (1., .7):
            alone,state = trained(make, rate, 0, 1)
            for rank in range(2):
                steps,full = found[rank]['results'][i, rate]
                for (loss, grad),(loss1, grad1) in zip(steps, alone, strict=True):
                    torch.testing.assert_close(loss, loss1, rtol=1e-10, atol=1e-12)
                    torch.testing.assert_close(grad, grad1, rtol=1e-9, atol=1e-12)
                assert (full is None) == (rank == 1)
                for k in full or (): torch.testing.assert_close(full[k], state[k], rtol=1e-9, atol=1e-12)
            # and back: what two wrote, one reads
            one = PartialFC(NF, N_IDS, margin=make, rate=rate).double()
            one.load_full_state(found[0]['results'][i, rate][1])
            torch.testing.assert_close(one.weight, state['weight'], rtol=1e-9, atol=1e-12)
            assert int(one.step) == 3
