"Margin heads against published values, formulas in float64, half precision and the edges of a cosine"
import math
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from qsd_fastai.losses import MarginLoss
from qsd_fastai.models.heads.cosine import MarginHead
from qsd_fastai.models.heads.margins import AdaFace, ArcFace, CosFace, CurricularFace, MagFace, SubCenterArcFace
from qsd_fastai.models.recognizer import Recognition

HEADS = [MarginHead, ArcFace, partial(ArcFace, gradient='exact'), CosFace, AdaFace, MagFace,
         partial(MagFace, easy_margin=False), CurricularFace, SubCenterArcFace]


def rel(a, b):
    a,b = (np.asarray(o.detach() if isinstance(o, torch.Tensor) else o, dtype=np.float64) for o in (a, b))
    return np.abs(a - b).max()/max(np.abs(b).max(), 1e-12)


def tensor(x, dtype): return torch.from_numpy(np.asarray(x)).to(dtype)


PRECISIONS = [(torch.float64, 1e-6), (torch.float32, 1e-4)]  # outputs are stored as float32


@pytest.mark.parametrize('dtype, tolerance', PRECISIONS)
@pytest.mark.parametrize('case', [0, 1])
@pytest.mark.parametrize('tag, make', [
    ('arcface', ArcFace), ('cosface', CosFace), ('combined_arc', ArcFace), ('combined_cos', CosFace),
    ('combined_arc_filter', partial(ArcFace, filter_above=.5))])
def test_insightface_golden(golden, tag, make, case, dtype, tolerance):
    d = golden('margin_insightface')
    cosine,ids = tensor(d[f'cos{case}'], dtype).requires_grad_(), torch.from_numpy(d[f'y{case}'])
    out = make(8, cosine.shape[1]).margin(cosine, ids, torch.ones(len(ids), dtype=dtype))
    assert out.dtype == dtype
    assert rel(out, d[f'{tag}_out{case}']) < tolerance
    (out*tensor(d[f'upstream{case}'], dtype)).sum().backward()
    assert rel(cosine.grad, d[f'{tag}_gx{case}']) < tolerance
    # the filtered case was computed in float32
    assert float(F.cross_entropy(out[ids >= 0], ids[ids >= 0])) == pytest.approx(
        float(d[f'{tag}_ce{case}']), rel=1e-4 if dtype == torch.float32 or 'filter' in tag else 1e-9)


@pytest.mark.parametrize('dtype, tolerance', PRECISIONS)
@pytest.mark.parametrize('tag, alpha', [('ta1', 1.), ('ta001', .01)])
def test_adaface_golden(golden, tag, alpha, dtype, tolerance):
    d = golden('margin_adaface')
    head = AdaFace(32, 40, t_alpha=alpha).to(dtype)
    assert float(head.batch_mean) == d['init_batch_mean']
    assert float(head.batch_std) == d['init_batch_std']
    for step in range(3):
        p = f'{tag}_step{step}'
        emb,kernel = tensor(d[f'{p}_emb'], dtype).requires_grad_(), tensor(d['kernel'], dtype).requires_grad_()
        # published: embeddings come in as unit rows, and are not made so again
        ids,norms = torch.from_numpy(d[f'{p}_y']), tensor(d[f'{p}_norms'], dtype).flatten()
        out = head.margin(emb@F.normalize(kernel, dim=0), ids, norms)
        (out*tensor(d[f'{p}_upstream'], dtype)).sum().backward()
        for value,name in ((out, 'out'), (emb.grad, 'gemb'), (kernel.grad, 'gkernel')):
            assert rel(value, d[f'{p}_{name}']) < tolerance, (step, name)
        for name in ('batch_mean', 'batch_std'):
            assert rel(getattr(head, name), d[f'{p}_{name}']) < (1e-9 if dtype == torch.float64 else 1e-5)


@pytest.mark.parametrize('dtype, tolerance', PRECISIONS)
@pytest.mark.parametrize('tag, make', [
    ('CosFace', partial(CosFace, eps=1e-4)), ('ArcFace', partial(ArcFace, gradient='exact'))])
def test_heads_of_adafaces_repository_golden(golden, tag, make, dtype, tolerance):
    d = golden('margin_adaface_repo_arc_cos')
    emb,kernel = tensor(d[f'{tag}_emb'], dtype).requires_grad_(), tensor(d['kernel'], dtype).requires_grad_()
    ids,norms = torch.from_numpy(d[f'{tag}_y']), torch.ones(len(emb), dtype=dtype)
    out = make(32, 40).margin(emb@F.normalize(kernel, dim=0), ids, norms)
    (out*tensor(d[f'{tag}_upstream'], dtype)).sum().backward()
    for value,name in ((out, 'out'), (emb.grad, 'gemb'), (kernel.grad, 'gkernel')):
        assert rel(value, d[f'{tag}_{name}']) < tolerance, name


@pytest.mark.parametrize('dtype, tolerance', PRECISIONS)
@pytest.mark.parametrize('case', [0, 1])
def test_magface_golden(golden, case, dtype, tolerance):
    d = golden('margin_magface')
    head = MagFace(32, 40, norm_weight=float(d['lambda_g']), easy_margin=bool(d[f'easy_margin{case}'])).to(dtype)
    head.weight.data = tensor(d['weight'], dtype).T.contiguous()
    x,ids,loss = tensor(d[f'x{case}'], dtype).requires_grad_(), torch.from_numpy(d[f'y{case}']), MarginLoss(head)
    cosine = head(x)
    assert rel(64*cosine, d[f'cos_theta{case}']) < tolerance
    # published: cosines of one's own class and of others are two tensors
    expected = np.where(np.arange(40) == d[f'y{case}'][:, None], d[f'cos_theta_m{case}'], d[f'cos_theta{case}'])
    # a row of case 0 lies on its own centre: there the sine of float32 is the root of a rounding error, 3e-4
    off = np.abs(d[f'cos_theta{case}'][np.arange(16), d[f'y{case}']]) < 64*(1 - 1e-6)
    out = head.margin(cosine, ids, x.norm(dim=1)).detach()
    assert rel(out[off], expected[off]) < tolerance
    assert rel(out, expected) < 5*tolerance
    value = loss(Recognition((cosine, x, (), x)), ids)
    value.backward()
    exact = 1e-4 if dtype == torch.float32 else 1e-9
    assert float(loss.terms['identity']) == pytest.approx(float(d[f'loss_id{case}']), rel=exact)
    assert float(loss.terms['norm']) == pytest.approx(float(d['lambda_g']*d[f'loss_g{case}']), rel=exact)
    assert value.item() == pytest.approx(float(d[f'loss{case}']), rel=exact)
    assert rel(x.grad, d[f'gx{case}']) < tolerance
    assert rel(head.weight.grad.T, d[f'gw{case}']) < tolerance


def test_curricular_naive():
    torch.manual_seed(0)
    head,ids = CurricularFace(8, 12, s=10., m=.4, momentum=.25).double(), torch.tensor([0, 3, 5, -1, 11])
    head.t.fill_(.2)
    cosine = torch.rand(5, 12, dtype=torch.float64)*1.98 - .99
    cosine[1, 3],cosine[2, 5] = -.98, .95  # beyond pi with the margin; easy
    t = .2*.75 + .25*float(np.mean([float(cosine[i, ids[i]]) for i in (0, 1, 2, 4)]))
    expected = torch.empty(5, 12, dtype=torch.float64)
    for i,own in enumerate(ids.tolist()):
        c = cosine[i].tolist()
        moved = math.cos(math.acos(c[own]) + .4) if own >= 0 else math.inf
        for j in range(12):
            expected[i, j] = 10*(c[j]*(t + c[j]) if c[j] > moved else c[j])
        if own >= 0:
            expected[i, own] = 10*(moved if c[own] > math.cos(math.pi - .4) else c[own] - math.sin(math.pi - .4)*.4)
    assert torch.allclose(head.margin(cosine, ids, torch.ones(5)), expected, rtol=1e-12, atol=1e-12)
    assert float(head.t) == pytest.approx(t)
    assert torch.allclose(head.eval().margin(cosine, ids, torch.ones(5)), expected)
    assert float(head.t) == pytest.approx(t)  # only training moves it


def test_sub_centers_take_the_nearest():
    torch.manual_seed(0)
    head,emb = SubCenterArcFace(6, 4, k=3).double(), torch.randn(5, 6, dtype=torch.float64)
    each = torch.stack([F.cosine_similarity(emb, w[None]) for w in head.weight], 1).view(5, 4, 3)
    assert head.weight.shape == (12, 6)
    assert torch.allclose(head(emb), each.max(2).values)


@pytest.mark.parametrize('make', HEADS)
def test_cosines_and_gradients(make):
    torch.manual_seed(0)
    head,emb = make(6, 5).double().eval(), (torch.randn(4, 6, dtype=torch.float64)*10).requires_grad_()
    if not isinstance(head, SubCenterArcFace):
        assert torch.allclose(head(emb), F.cosine_similarity(emb[:, None], head.weight[None], dim=2))
    # margins that are constants to the gradient
    if getattr(head, 'gradient', '') == 'published' or type(head) is AdaFace: return
    ids = torch.tensor([0, 4, -1, 2])
    def cosines(x, weight): return torch.func.functional_call(head, {'weight': weight}, (x,))

    assert torch.autograd.gradcheck(cosines, (emb, head.weight.detach().requires_grad_()))
    assert torch.autograd.gradcheck(lambda x: head.margin(head(x), ids, x.norm(dim=1)), emb)


@pytest.mark.parametrize('make', HEADS)
@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_edges_are_finite(make, dtype):
    torch.manual_seed(0)
    head = make(8, 6)
    emb = torch.randn(8, 8)
    emb[0] = 0
    emb[1] *= 1e18 if dtype == torch.float32 else 1e3
    emb[2] *= 1e-5
    # on one's own centre, and opposite of it
    emb[3],emb[4] = head.weight[3].detach(), -head.weight[4*(len(head.weight)//6)].detach()
    emb,loss = emb.to(dtype).requires_grad_(), MarginLoss(head)
    with torch.autocast('cpu', dtype=torch.bfloat16, enabled=dtype != torch.float32):
        cosine = head(emb)
        value = loss(Recognition((cosine, emb, (), emb)), torch.tensor([0, 1, 2, 3, 4, 5, 0, 9]))
    assert cosine.dtype == value.dtype == torch.float32
    assert cosine.abs().max() < 1 + 1e-5
    value.backward()
    assert value.isfinite()
    assert emb.grad.isfinite().all()
    assert head.weight.grad.isfinite().all()


def test_half_precision_is_close_to_full():
    torch.manual_seed(0)
    head,emb,ids = ArcFace(64, 20), torch.randn(16, 64).half(), torch.randint(0, 20, (16,))
    with torch.autocast('cpu', dtype=torch.bfloat16):
        found = MarginLoss(head)(Recognition((head(emb), emb, (), emb)), ids)
    full = emb.float()
    wanted = MarginLoss(head)(Recognition((head(full), full, (), full)), ids)
    assert float(found) == pytest.approx(float(wanted), rel=1e-5)


def test_identities_without_a_class_are_skipped():
    torch.manual_seed(0)
    head,emb = ArcFace(8, 5), torch.randn(6, 8)
    loss,ids = MarginLoss(head), torch.tensor([0, 4, 5, 2, 99, -1])
    known = torch.tensor([0, 1, 3])
    value = loss(Recognition((head(emb), emb, (), emb)), ids)
    assert torch.allclose(value, loss(Recognition((head(emb[known]), emb[known], (), emb[known])), ids[known]))
    none = loss(Recognition((head(emb), emb, (), emb)), torch.full((6,), 7))
    none.backward()
    assert none == 0
    assert loss(emb, ids).isfinite()


def test_statistics_are_saved():
    for head,names in ((AdaFace(8, 5), {'batch_mean', 'batch_std'}), (CurricularFace(8, 5), {'t'})):
        head.margin(torch.rand(3, 5), torch.tensor([0, 1, 2]), torch.tensor([1., 5., 9.]))
        state = head.state_dict()
        fresh = type(head)(8, 5)
        assert names < set(state)
        assert not torch.equal(state[min(names)], fresh.state_dict()[min(names)])
        fresh.load_state_dict(state)
        assert all(torch.equal(getattr(fresh, n), getattr(head, n)) for n in names)
    alone = AdaFace(8, 5)
    alone.margin(torch.rand(1, 5), torch.tensor([0]), torch.tensor([30.]))
    assert float(alone.batch_mean) == pytest.approx(20.1)
    assert float(alone.batch_std) == 100  # one picture has no deviation


def test_imprint_starts_at_mean_directions():
    torch.manual_seed(0)
    emb,ids = torch.randn(6, 8), torch.tensor([0, 0, 2, 2, 2, 7])
    for head in (ArcFace(8, 4), SubCenterArcFace(8, 4, k=2)):
        before = head.weight.detach().clone()
        head.imprint(emb, ids)
        step = len(before)//4
        assert torch.allclose(head.weight[2*step], F.normalize(F.normalize(emb[2:5]).sum(0), dim=0))
        assert torch.equal(head.weight[step], before[step])


def test_bad_arguments():
    with pytest.raises(ValueError, match='s is 0'): ArcFace(8, 5, s=0)
    with pytest.raises(ValueError, match='gradient'): ArcFace(8, 5, gradient='none')
