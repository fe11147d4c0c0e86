"Where teacher and student are active: energy maps of pairs that a trained network was taught by"
import numpy as np
import torch
from fastai.torch_core import get_model

from ..data.loaders import TableRow, picture_files
from ..models.recognizer import Recognizer
from ..plots.maps import energy_figure
from ..taught import energy_map

__all__ = ['taught_energies']


def taught_energies(
    learn,      # `Learner` of `recognition_dataloaders`
    method,     # `QualityDistillation` that it was taught by
    n:int=4,    # Identities, those whose best and worst pictures differ most in quality
): # Matplotlib figure, or `None` where labels, table or network do not give one, or no map was taught to a picture
    """The best training picture of an identity beside its worst, and the energy of each level that is taught at both

    Where a picture teaches its own copy (`pairs='copies'`) no two pictures of the table are compared."""
    if method.weight == 0 or method.pairs == 'copies': return None
    model,table = get_model(learn.model),getattr(learn.dls, 'table', None)
    if table is None or not isinstance(model, Recognizer): return None
    train = table[(table['split'] == 'train') & table['quality'].notna()]
    by = train.groupby('identity')['quality']
    gap = (by.max() - by.min()).sort_values(ascending=False, kind='stable')
    chosen = gap[gap > 0].index[:n]
    if not len(chosen): return None
    rows = [row for who in chosen for row in (by.idxmax()[who], by.idxmin()[who])]
    files,quality = picture_files(table)[rows].tolist(),table.loc[rows, 'quality'].tolist()
    dl = learn.dls.test_dl([TableRow(o) for o in files], bs=len(files), num_workers=0)
    x = dl.one_batch()[0].as_subclass(torch.Tensor)
    was = model.training
    model.eval()
    try:
        with torch.no_grad(): levels = model.body.forward_intermediates(x, indices=model.level_indices)[1]
    finally: model.train(was)
    names = [f'level{i + 1}' for i in range(len(levels))]
    weighed = zip(names, levels, method.weights_of([*names, 'emb', 'logits']))
    maps = {name: energy_map(o).cpu().numpy() for name,o,weight in weighed if o.dim() == 4 and weight != 0}
    if not maps: return None
    def side(k): return files[k], [o[k] for o in maps.values()], np.float64(quality[k])
    return energy_figure([(*side(k), *side(k + 1)) for k in range(0, len(files), 2)], list(maps))
