"Each loss against golden vectors, against plain loops in float64, and where there is nothing to compare"
import math
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qsd_fastai.losses import (
    CenterLoss,
    IdentityLoss,
    MarginLoss,
    OctupletLoss,
    RecognitionLoss,
    TripletLoss,
    WeightedRegularizedTriplet,
)
from qsd_fastai.models.heads.margins import ArcFace
from qsd_fastai.models.recognizer import Recognition

GOLDEN = Path(__file__).parent/'golden'
TRIPLETS = [TripletLoss(), TripletLoss(margin=None),
            WeightedRegularizedTriplet(), WeightedRegularizedTriplet('reference')]


def golden(name): return np.load(GOLDEN/f'{name}.npz', allow_pickle=False)


def rel(a, b): return (np.abs(np.asarray(a) - b).max()/max(np.abs(b).max(), 1e-30)).item()


def run(loss, d, case, dtype):
    x = torch.tensor(d[f'x{case}'], dtype=dtype, requires_grad=True)
    value = loss(x, torch.from_numpy(d[f'y{case}']))
    value.backward()
    return value.item(), x.grad.numpy()


# the published targets are float32 whatever the logits are: float64 agrees to their rounding
@pytest.mark.parametrize('dtype, tol, tol_grad', [(torch.float64, 1e-7, 1e-6), (torch.float32, 1e-5, 1e-4)])
@pytest.mark.parametrize('case', range(2))
def test_identity_golden(case, dtype, tol, tol_grad):
    d = golden('agw_xent_smooth')
    value,grad = run(IdentityLoss(smoothing=float(d['epsilon'])), d, case, dtype)
    assert rel(value, d[f'loss{case}']) < tol
    assert rel(grad, d[f'gx{case}']) < tol_grad


@pytest.mark.parametrize('dtype, tol, tol_grad', [(torch.float64, 1e-9, 1e-6), (torch.float32, 1e-5, 1e-4)])
@pytest.mark.parametrize('margin, name', [(.3, 'agw_triplet_m03'), (None, 'agw_triplet_soft')])
@pytest.mark.parametrize('case', range(4))
def test_triplet_golden(case, margin, name, dtype, tol, tol_grad):
    d = golden(name)
    value,grad = run(TripletLoss(margin, normalize=bool(d[f'normalize{case}'])), d, case, dtype)
    assert abs(value - d[f'loss{case}']) <= tol*max(1., abs(d[f'loss{case}']))
    assert rel(grad, d[f'gx{case}']) < tol_grad


@pytest.mark.parametrize('dtype, tol', [(torch.float64, 1e-8), (torch.float32, 1e-4)])
@pytest.mark.parametrize('case', range(4))
def test_weighted_triplet_golden(case, dtype, tol):
    d = golden('agw_wrt')
    normalize = bool(d[f'normalize{case}'])
    value,grad = run(WeightedRegularizedTriplet('reference', normalize), d, case, dtype)
    assert rel(value, d[f'loss{case}']) < tol
    assert rel(grad, d[f'gx{case}']) < max(tol, 1e-6)*10
    stable,_ = run(WeightedRegularizedTriplet('stable', normalize), d, case, dtype)
    if case == 3: assert stable < 5 < value  # distances around 43: the published negatives have vanished
    else: assert rel(stable, d[f'loss{case}']) < .02  # 1e-6 in the published denominator


@pytest.mark.parametrize('dtype, tol', [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize('case', range(2))
def test_center_golden(case, dtype, tol):
    d = golden('agw_center')
    loss = CenterLoss(*d[f'centers{case}'].shape, start='random').to(dtype)
    loss.centers.data = torch.tensor(d[f'centers{case}'], dtype=dtype)
    x = torch.tensor(d[f'x{case}'], dtype=dtype, requires_grad=True)
    value = loss(x, torch.from_numpy(d[f'y{case}']))
    assert rel(value.item(), d[f'loss{case}']) < tol
    (.0005*value).backward()
    assert rel(x.grad.numpy(), d[f'gx_w0005_{case}']) < 1e-5
    assert rel(loss.centers.grad.numpy(), d[f'gc_w0005_{case}']) < 1e-5


def naive_triplet(x, ids, weighted, margin):
    x,n = x.double().tolist(), len(ids)
    distance = [[math.dist(a, b) for b in x] for a in x]
    found = []
    for i in range(n):
        p = [distance[i][j] for j in range(n) if ids[j] == ids[i] and (weighted or i != j)]
        q = [distance[i][j] for j in range(n) if ids[j] != ids[i]]
        if len(p) - weighted < 1 or not q: continue
        if weighted:
            wp,wq = [math.exp(v - max(p)) for v in p], [math.exp(min(q) - v) for v in q]
            gap = sum(a*b for a,b in zip(wp, p))/sum(wp) - sum(a*b for a,b in zip(wq, q))/sum(wq)
        else: gap = max(p) - min(q)
        found.append(math.log1p(math.exp(gap)) if margin is None else max(gap + margin, 0))
    return sum(found)/max(len(found), 1)


@pytest.mark.parametrize('scale', [.1, 1., 12.])
def test_triplets_naive(scale):
    torch.manual_seed(0)
    # 2 and 7 have one picture
    x,ids = torch.randn(11, 7, dtype=torch.float64)*scale, torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 7])
    assert math.isclose(TripletLoss(.3)(x, ids), naive_triplet(x, ids.tolist(), False, .3), rel_tol=1e-9)
    assert math.isclose(TripletLoss(None)(x, ids), naive_triplet(x, ids.tolist(), False, None), rel_tol=1e-9)
    assert math.isclose(WeightedRegularizedTriplet()(x, ids), naive_triplet(x, ids.tolist(), True, None), rel_tol=1e-6)


@pytest.mark.parametrize('loss', TRIPLETS)
@pytest.mark.parametrize('ids', [[0, 1, 2, 3], [5, 5, 5, 5]])
def test_no_anchor_is_a_zero_with_a_graph(loss, ids):
    x = torch.randn(4, 3, requires_grad=True)
    value = loss(x, torch.tensor(ids))
    value.backward()
    assert value == 0
    assert torch.equal(x.grad, torch.zeros(4, 3))


@pytest.mark.parametrize('loss', TRIPLETS)
def test_identical_pictures_have_finite_gradients(loss):
    x = torch.ones(4, 3, requires_grad=True)
    value = loss(x, torch.tensor([0, 0, 1, 1]))
    value.backward()
    assert value.isfinite()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
@pytest.mark.parametrize('loss', [*TRIPLETS, IdentityLoss(), CenterLoss(4, 64, 'random')])
def test_float32_inside_autocast(loss, dtype):
    torch.manual_seed(0)
    x,ids = torch.randn(8, 64).to(dtype), torch.arange(8)//2
    expected = loss(x.float(), ids)
    with torch.autocast('cpu', dtype=torch.bfloat16): value = loss(x, ids)
    assert value.dtype == torch.float32
    assert value == expected


def test_large_half_precision_distances_do_not_overflow():
    x,ids = (torch.randn(8, 64)*300).half(), torch.arange(8)//2  # squares beyond 65504
    for loss in TRIPLETS[:3]: assert loss(x, ids).isfinite()


def test_identities_without_a_class_are_skipped():
    torch.manual_seed(0)
    logits,ids = torch.randn(5, 3, requires_grad=True), torch.tensor([0, 3, 2, 99, -1])
    value = IdentityLoss()(logits, ids)
    assert value.item() == pytest.approx(F.cross_entropy(logits[[0, 2]], ids[[0, 2]], label_smoothing=.1).item())
    value.backward()
    assert logits.grad[[1, 3, 4]].abs().sum() == 0
    assert IdentityLoss()(logits, torch.full((5,), 7)) == 0
    center,x = CenterLoss(3, 3, 'random'), torch.randn(5, 3)
    assert center(x, ids).item() == pytest.approx(center(x[[0, 2]], ids[[0, 2]]).item())
    assert center(x, torch.full((5,), 7)) == 0


def test_centers_start_at_means():
    torch.manual_seed(0)
    loss,x,ids = CenterLoss(4, 3), torch.randn(6, 3), torch.tensor([0, 0, 2, 2, 2, 9])
    value = loss(x, ids)
    assert torch.allclose(loss.centers[0], x[:2].mean(0))
    assert torch.allclose(loss.centers[2], x[2:5].mean(0))
    assert loss.started.tolist() == [True, False, True, False]
    expected = ((x[:2] - x[:2].mean(0)).square().sum() + (x[2:5] - x[2:5].mean(0)).square().sum())/5
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)
    before = loss.centers.detach().clone()
    loss(x + 1, torch.tensor([0, 0, 2, 2, 1, 1]))
    assert torch.equal(loss.centers[[0, 2]], before[[0, 2]])
    assert torch.allclose(loss.centers[1], x[4:].mean(0) + 1)
    loss.eval()
    loss(x, torch.full((6,), 3))
    assert not loss.started[3]


def test_one_picture_with_a_center_counts_whole():
    loss,x = CenterLoss(2, 3, 'random'),torch.randn(3, 3)
    expected = (x[1] - loss.centers[0]).square().sum()
    assert loss(x, torch.tensor([5, 0, 7])).item() == pytest.approx(expected.item(), rel=1e-5)
    assert loss(x, torch.tensor([5, 6, 7])).item() == 0


def test_bad_options():
    with pytest.raises(ValueError, match='form'): WeightedRegularizedTriplet('exact')
    with pytest.raises(ValueError, match='start'): CenterLoss(2, 2, 'zeros')


def prediction(bs=6, nf=4, n_ids=3):
    torch.manual_seed(0)
    pooled = torch.randn(bs, nf, requires_grad=True)
    return Recognition((torch.randn(bs, n_ids, requires_grad=True), pooled*2, (), pooled))


def test_the_sum_and_its_terms():
    pred,ids = prediction(), torch.tensor([0, 0, 1, 1, 2, 2])
    center = CenterLoss(3, 4, 'random')
    loss = RecognitionLoss(triplet=WeightedRegularizedTriplet(), triplet_weight=.5, center=center, center_weight=5e-4)
    value = loss(pred, ids, torch.full((6,), float('nan')), torch.zeros(6, 3))
    terms = {'identity': IdentityLoss()(pred.logits, ids), 'triplet': WeightedRegularizedTriplet()(pred.pooled, ids),
             'center': center(pred.pooled, ids)}
    assert loss.terms.keys() == terms.keys()
    assert all(loss.terms[k] == terms[k] and not loss.terms[k].requires_grad for k in terms)
    assert value.item() == pytest.approx((terms['identity'] + .5*terms['triplet'] + 5e-4*terms['center']).item())


def test_label_smoothing_by_hand():
    d = golden('agw_xent_smooth')
    x,y,c = d['x0'].astype(np.float64), d['y0'], d['x0'].shape[1]
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    naive = -np.mean([sum((.9*(j == y[i]) + .1/c)*log_p[i, j] for j in range(c)) for i in range(len(y))])
    assert IdentityLoss(.1)(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(naive, rel=1e-12)


def test_terms_of_weight_zero_are_left_out():
    loss = RecognitionLoss(triplet_weight=0)
    loss(prediction(), torch.tensor([0, 0, 1, 1, 2, 2]))
    assert set(loss.terms) == {'identity'}


def test_embeddings_of_a_margin_head_are_judged_by_angle():
    loss,ids = MarginLoss(ArcFace(8, 3)),torch.tensor([3, 3, 4, 4, 5, 5])
    emb = torch.randn(6, 8)*torch.arange(1, 7)[:, None]
    value = loss(emb, ids).item()
    assert value == TripletLoss(normalize=True)(emb, ids).item()
    assert value == pytest.approx(loss(5*emb, ids).item(), rel=1e-5)
    assert value != pytest.approx(TripletLoss()(emb, ids).item(), rel=1e-3)


def test_evaluation_judges_by_the_triplet_term():
    loss,emb = RecognitionLoss(), torch.randn(4, 8)
    ids = torch.tensor([7, 7, 8, 8])
    assert loss(emb, ids).item() == TripletLoss()(emb, ids).item() > 0
    loss.reduction = 'none'
    assert loss(emb, ids).shape == (4,)
    decoded = loss.decodes(emb)
    assert [o.shape for o in decoded] == [(4,), (4,), (4, 3)]
    assert (decoded[0] == -1).all()
    assert decoded[1].isnan().all()


def test_octuplet_naive():
    rng = torch.Generator().manual_seed(0)
    emb,ids = torch.randn(16, 5, generator=rng, dtype=torch.float64),torch.tensor([0, 0, 1, 1, 1, 2, 3, 3]).repeat(2)
    unit = F.normalize(emb).numpy()
    total = 0.
    for anchors in (range(8), range(8, 16)):
        for others in (range(8), range(8, 16)):
            found = []
            for k,a in enumerate(anchors):
                far = [np.linalg.norm(unit[a] - unit[o]) for i,o in enumerate(others) if ids[o] == ids[a] and i != k]
                near = [np.linalg.norm(unit[a] - unit[o]) for o in others if ids[o] != ids[a]]
                if far: found.append(max(max(far) - min(near) + .4, 0))
            total += sum(found)/len(found)
    assert OctupletLoss(.4)(emb, ids).item() == pytest.approx(total, rel=1e-9)
    assert OctupletLoss()(emb, torch.zeros(16)).item() == 0
    with pytest.raises(ValueError, match='15 pictures'): OctupletLoss()(emb[:15], ids[:15])
