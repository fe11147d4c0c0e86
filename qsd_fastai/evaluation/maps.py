"Embeddings laid out in two dimensions, to be looked at"
import numpy as np
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from .given import unit_rows

__all__ = ['flat_map']


def flat_map(
    emb,        # `(n, nf)`, numpy or torch
    seed:int=0, # Of the layout
)->np.ndarray: # `(n, 2)`
    """Neighbours by cosine as neighbours on paper: t-SNE (van der Maaten and Hinton, JMLR 2008) after 50 principal axes

    Distances between groups mean little. Fewer than 10 pictures are laid out by their principal axes."""
    unit = unit_rows(emb).cpu().numpy()
    n = len(unit)
    if n < 3: return np.zeros((n, 2)) + np.arange(n)[:, None]
    axes = PCA(min(50, n, unit.shape[1]), random_state=seed).fit_transform(unit)
    if axes.shape[1] < 2: axes = np.pad(axes, ((0, 0), (0, 1)))
    if n < 10: return axes[:, :2]
    return TSNE(perplexity=min(30, (n - 1)/3), init=axes[:, :2]/max(axes[:, 0].std(), 1e-9)*1e-4,
                random_state=seed).fit_transform(axes)
