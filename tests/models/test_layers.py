"GeM, BNNeck and non-local blocks against golden vectors and plain recomputation"
import pytest
import torch
from torch import nn

from qsd_fastai.models.layers import BNNeck, GeM, NonLocal


def close(a, b, tol): assert (a.detach() - torch.as_tensor(b)).abs().max() <= tol*torch.as_tensor(b).abs().max()


@pytest.mark.parametrize('dtype, tol', [(torch.float64, 1e-6), (torch.float32, 1e-5)])
@pytest.mark.parametrize('case', range(3))
def test_gem_golden(golden, case, dtype, tol):
    d = golden('agw_gem_p')
    gem = GeM(p=d[f'p{case}'].item()).to(dtype)
    x = torch.tensor(d[f'x{case}'], dtype=dtype, requires_grad=True)
    out = gem(x)
    out.backward(torch.tensor(d[f'upstream{case}'], dtype=dtype).flatten(1))
    close(out, d[f'out{case}'][..., 0, 0], tol)
    close(x.grad, d[f'gx{case}'], tol)
    close(gem.p.grad, d[f'gp{case}'], tol)


def test_gem_stays_finite_in_half_precision():
    x = torch.full((2, 3, 4, 2), 60., dtype=torch.float16)  # 60**3 is beyond float16
    with torch.autocast('cpu', dtype=torch.bfloat16): out = GeM()(x)
    assert out.dtype == torch.float32
    close(out, torch.full((2, 3), 60.), 1e-5)


def test_gem_between_mean_and_maximum():
    x = torch.rand(2, 3, 4, 4) + .1
    close(GeM(p=1)(x), x.mean((2, 3)), 1e-5)
    close(GeM(p=80)(x), x.amax((2, 3)), .05)
    assert not GeM(learn=False).p.requires_grad
    with pytest.raises(ValueError, match='eps'): GeM(eps=0)


@pytest.mark.parametrize('training', [True, False])
def test_bnneck_is_batch_norm(training):
    torch.manual_seed(0)
    neck,bn = BNNeck(6), nn.BatchNorm1d(6)
    bn.bias.data.normal_()
    neck.load_state_dict(bn.state_dict())
    x = torch.randn(8, 6)*3 + 1
    neck.train(training), bn.train(training)
    assert torch.equal(neck(x), bn(x))
    assert all(torch.equal(a, b) for a,b in zip(neck.state_dict().values(), bn.state_dict().values()))
    assert list(neck.state_dict()) == list(bn.state_dict())


def test_bnneck_bias_cannot_be_trained():
    neck = BNNeck(4)
    assert not neck.bias.requires_grad
    for p in neck.parameters(): p.requires_grad_(True)  # what fastai's unfreeze does
    opt = torch.optim.AdamW(neck.parameters(), lr=.1, weight_decay=.1)
    neck.bias.data.fill_(1.)
    neck(torch.randn(8, 4)).square().sum().backward()
    opt.step()
    assert torch.equal(neck.bias.data, torch.ones(4))
    assert not torch.equal(neck.weight.data, torch.ones(4))
    assert isinstance(nn.SyncBatchNorm.convert_sync_batchnorm(neck), nn.SyncBatchNorm)


@pytest.mark.parametrize('case', range(2))
@pytest.mark.parametrize('mode', ['train', 'eval'])
def test_non_local_golden(golden, case, mode):
    d = golden('agw_non_local')
    weights = {k.split('__')[1]: torch.tensor(d[k]) for k in d.files if k.startswith(f'param{case}__')}
    block = NonLocal(d[f'x{case}'].shape[1])
    block.load_state_dict(weights)
    block.double().train(mode == 'train')
    x = torch.tensor(d[f'x{case}'], dtype=torch.float64, requires_grad=True)
    out = block(x)
    out.backward(torch.tensor(d[f'upstream{case}'], dtype=torch.float64))
    close(out, d[f'out_{mode}{case}'], 1e-5)
    close(x.grad, d[f'gx_{mode}{case}'], 1e-5)
    for name,p in block.named_parameters():
        expected = torch.tensor(d[f'grad_{mode}{case}__{name}'])
        if mode == 'train' and name == 'W.0.bias':
            # batch norm takes the mean out again: what both sides hold is rounding
            assert p.grad.abs().max() < 1e-5
            assert expected.abs().max() < 1e-4
        else: close(p.grad, expected, 2e-5)
    if mode == 'train':
        close(block.W[1].running_mean, d[f'running_mean_after{case}'], 1e-5)
        close(block.W[1].running_var, d[f'running_var_after{case}'], 1e-5)


def test_non_local_starts_as_the_identity():
    x = torch.randn(2, 8, 4, 2)
    for inter in (1, 4): assert torch.equal(NonLocal(8, inter)(x), x)
