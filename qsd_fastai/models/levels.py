"Which stages of a body distillation sees, also of one that never gets coarser (ViT)"
from collections.abc import Sequence

__all__ = ['level_indices']


def level_indices(
    body,                               # A module with `feature_info`, one entry for each level it can give
    levels:Sequence[int|str]|None=None, # Positions or names of modules, as `feature_info` has them
): # List of non-negative positions for `forward_intermediates`
    """Positions of levels, negative ones counted from the end.

    By default the last three stages, or blocks at 1/2, 3/4 and the end of a body that never gets coarser (ViT)."""
    info = list(body.feature_info)
    names = [o['module'] for o in info]
    n = len(info)
    if levels is None:
        alike = n > 4 and len({o['reduction'] for o in info}) == 1
        return sorted({n//2 - 1, 3*n//4 - 1, n - 1}) if alike else list(range(max(0, n - 3), n))
    found = []
    for o in levels:
        i = names.index(o) if o in names else o
        if not isinstance(i, int) or not -n <= i < n:
            where = type(body).__name__
            raise ValueError(f'Level {o!r} is not in {where}. Give one of {", ".join(names)}, or 0 to {n - 1}.')
        found.append(i % n)
    return found
