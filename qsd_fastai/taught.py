"What of one picture is taught to another: energies of maps, relations among embeddings, the mean of an identity"
import torch
import torch.nn.functional as F
from torch.autograd.function import once_differentiable

from .tensors import full_precision, of_no_subclass

__all__ = ['energy_map', 'held', 'identity_mean_gap', 'mean_of', 'relation_gap']


def held(
    x,    # `(n, ...)`
    stop, # Share of the gradient that does not pass, 0 to 1: a number, or `(n,)`
): # As `x`
    "`x`, through which a part of the gradient passes"
    if not isinstance(stop, torch.Tensor) and stop == 1: return x.detach()
    if isinstance(stop, torch.Tensor): stop = stop.view(-1, *[1]*(x.dim() - 1))
    return x.detach() + (1 - stop)*(x - x.detach())


def mean_of(
    x,    # Of any shape
    keep, # Of that shape, bool
): # Scalar; 0, with a graph, where none is kept
    "The mean of those that are kept; how many they are is not asked of the device"
    return torch.where(keep, x, 0.).sum()/keep.sum().clamp(min=1)


def energy_map(
    level:torch.Tensor, # Maps `(bs, channels, height, width)` or tokens `(bs, n_tokens, channels)`
): # `(bs, height, width)` or `(bs, n_tokens)`, at least float32: squares overflow float16
    "Mean square over channels (attention transfer, Zagoruyko & Komodakis, ICLR 2017)"
    dim = 1 if level.dim() == 4 else 2
    if torch.compiler.is_compiling(): return full_precision(level).square().mean(dim)
    return _Energy.apply(level, dim)


class _Energy(torch.autograd.Function):
    "The same in one reading of the maps, and one in the backward pass; a compiler needs no help with it"
    @staticmethod
    def forward(ctx, level, dim):
        ctx.save_for_backward(level)
        ctx.dim = dim
        kind = torch.promote_types(level.dtype, torch.float32)
        return torch.linalg.vector_norm(level, dim=dim, dtype=kind).square_()/level.shape[dim]

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        level, = ctx.saved_tensors
        scale = (2/level.shape[ctx.dim]*grad).unsqueeze(ctx.dim)
        return torch.mul(level, scale, out=torch.empty_like(level)), None


def relation_gap(
    student,   # `(n, nf)`
    teacher,   # `(n, nf)`
    keep=None, # `(n,)` bool: which rows count; all when not given
): # Scalar, 0 to 4
    """Mean squared difference between the cosines among students and those among their teachers

    Similarity-preserving distillation (Tung and Mori, ICCV 2019): how pictures lie to each other is taught, not where.
    """
    s,t = F.normalize(full_precision(student)),F.normalize(full_precision(teacher))
    gap = (s@s.T - t@t.T).square()
    return gap.mean() if keep is None else mean_of(gap, keep[:, None] & keep[None])


def identity_mean_gap(
    emb,     # `(bs, nf)`
    quality, # `(bs,)`, 0 to 100, NaN = unknown
    ids,     # `(bs,)`
    stop=1., # Share of the gradient that does not reach the mean, 0 to 1
): # Scalar, 0 to 2; exactly 0 where all pictures of each identity are equally good
    """Mean `1 - cosine` of each picture that is below the mean quality of its identity to the mean of its identity

    The mean of embeddings of unit length is weighted by quality, and so is the mean quality; pictures of unknown
    quality are in none."""
    emb,ids = F.normalize(full_precision(emb)),of_no_subclass(ids)
    known,q = ~quality.isnan(),of_no_subclass(quality).nan_to_num(0.).to(emb.dtype)
    share = (ids[:, None] == ids[None])*q[None]
    total = share.sum(1)
    mean = F.normalize(held(share@emb, stop))
    below = known & (q*total < (share*q[None]).sum(1)*(1 - 1e-6))
    gap = 1 - (emb*mean).sum(1)
    return (gap*below).sum()/below.sum().clamp(min=1)
