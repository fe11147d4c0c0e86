"Ridge regression, with a strength that does not depend on how large numbers are or how many"
import torch
from sklearn.linear_model import Ridge

from .tensors import plain_tensor

__all__ = ['ridge_regression']


def ridge_regression(
    x,              # `(n, p)` what is told by, numpy or torch
    y,              # `(n, k)` what is to be told
    ridge:float=1., # Strength of the pull to no dependence, above 0, in units of the mean variance of a column of x
): # `(weight (p, k), bias (k,))`, in the type of x, on the CPU: `x@weight + bias` tells y
    "Least squares with a pull of the weights to 0, in closed form (Hoerl and Kennard, 1970)"
    if not ridge > 0: raise ValueError(f'ridge is {ridge}. Give a number above 0.')
    x,y = (plain_tensor(o).cpu().numpy() for o in (x, y))
    found = Ridge(max(ridge*len(x)*float(x.var(0).mean()), 1e-12)).fit(x, y)
    # versions differ in the shapes that they give for a single column
    weight,bias = found.coef_.reshape(y.shape[1], -1).T.copy(),found.intercept_.reshape(-1)
    return torch.from_numpy(weight), torch.from_numpy(bias)
