"How strong one loss is beside another, counted in the gradients at what both depend on"
import torch

from .distributed import summed
from .tensors import full_precision

__all__ = ['GradientBalance']


class GradientBalance:
    """The factor that makes a loss as strong as the others: a ratio of norms, each averaged over batches

    Norms are those of the batches of all processes together, so that the factor is one, too."""
    def __init__(self,
        share:float=.1, # Of a new batch in the averages, 0 to 1
    ): self.share,self.norms = share,None

    def factor(self,
        others, # Scalar, with a graph
        own,    # Scalar, with a graph: the one to be scaled
        at,     # Tensors that `own` depends on, the first of them also `others`
    )->torch.Tensor: # Scalar, at most 1e6
        "How many times stronger the gradient of the others is; a batch where `own` has none does not count"
        now = summed(torch.stack([_squared(others, at[:1]), _squared(own, at)])).sqrt()
        counts = now[1] > 0
        if self.norms is None: self.norms = torch.where(counts, now, 0.)
        share = torch.where(counts, torch.where(self.norms[1] > 0, self.share, 1.), 0.)
        self.norms = self.norms.lerp(now, share)
        strength,weakness = self.norms
        return torch.where(weakness > 0, strength/weakness.clamp(min=1e-12), 1.).clamp(max=1e6)


def _squared(loss, at):
    if not loss.requires_grad: return full_precision(loss.detach())*0.
    found = torch.autograd.grad(loss, at, retain_graph=True, allow_unused=True)
    squares = [full_precision(o).square().sum() for o in found if o is not None]
    return torch.stack(squares).sum() if squares else full_precision(loss.detach())*0.
