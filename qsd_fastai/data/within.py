"What is within the loaders of a learner: the one that deals out, and the size of its pictures"

__all__ = ['own_loader', 'picture_size']


def own_loader(
    dls, # `DataLoaders`, in a fit or not
):
    "The training loader with the transforms and the generator: within that which deals out to several processes"
    dl = dls.train
    return getattr(dl, '__dict__', {}).get('dl', dl)


def picture_size(
    dls, # `DataLoaders`
): # `(height, width)`, pixels, or `None`
    "The size that pictures are brought to, where a transform of items says it"
    sizes = (getattr(t, 'size', None) for t in getattr(own_loader(dls), 'after_item', ()))
    return next((tuple(o) for o in sizes if isinstance(o, tuple)), None)
