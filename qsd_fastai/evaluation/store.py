"The embeddings of a validation, kept once for everybody who judges them, and a judgement that is passed once"
import json
import os
import warnings
import weakref
from contextlib import contextmanager, nullcontext

import numpy as np
import pandas as pd
import torch

from ..archives import read_arrays
from ..choices import one_of
from ..columns import complete_table
from ..files import in_one_move
from ..shown import shown
from ..spelling import match_paths, same_codes
from ..unknown import check_quality
from .verification import fuse_flip

__all__ = ['EmbeddingStore', 'Judge', 'lacks_targets', 'read_embeddings', 'strictly_judged', 'write_embeddings']


def _table_rows(dl):
    "The rows of a table that a loader is over; none where it is over something else"
    items = getattr(next(iter(getattr(dl.dataset, 'tls', ())), None), 'items', ())
    return items if len(items) and all(getattr(o, 'path', None) and getattr(o, 'scene', None) for o in items) else ()


def _is_of(item, table):
    "Is the picture in the folder of a table, too? Another set may have the same paths below its own"
    if not isinstance(item.file, str): return True
    return os.path.abspath(item.file) == os.path.abspath(os.path.join(table.attrs.get('root', '.'), item.path))


def _embedding(pred): return pred if isinstance(pred, torch.Tensor) else pred.emb


def lacks_targets()->ValueError:
    "What is said where there is too little to judge by"
    return ValueError('Judging needs the targets (identity, quality, scene). Add `IdentityBlock`, `QualityBlock` and '
                      '`SceneBlock` to the DataBlock, or use `recognition_dataloaders`.')


class EmbeddingStore:
    """What validation has embedded; it stays until the next validation, whatever is predicted meanwhile.

    Metrics that share it share the work."""
    strict = False # Raise what cannot be judged? Else it is a warning, for a fit must not end for a figure
    trained = ()   # Rows of split train among those that were seen

    def __init__(self,
        quality=None,        # Of each row of the table, 0 to 100, NaN unknown; that of the batches when not given
        precision='float32', # What embeddings are kept in: 'float32', or 'float16' for half the memory
        flip:bool=False,     # Add the embedding of the mirror image, as face protocols do? Twice the cost
    ):
        one_of('precision', precision, 'float32', 'float16')
        if quality is not None: quality = check_quality(quality).astype(np.float32)
        self.row_quality,self.precision,self.flip = quality,precision,flip
        self.judges,self.parts,self.paths = [],[],None
        self.current,self.version,self._last = False,0,None

    @classmethod
    def of_table(cls,
        table,        # Of pictures
        emb,          # `(n, nf)` embeddings of its `rows`, a tensor
        rows,         # `(n,)` numbers of rows
        quality=None, # Of each row of the table; its column `quality` when not given
    ):
        "A store of embeddings that are there already, to be judged as those of a validation are"
        table = complete_table(table)
        store = cls(table['quality'] if quality is None else quality)
        of = table.iloc[rows]
        (ids,),(cameras,) = (same_codes(of[c], name=c, camera=c == 'camera') for c in ('identity', 'camera'))
        scene = np.stack([rows, cameras, of['split'] == 'query'], 1).astype(np.int64)
        store.parts = [[emb, torch.from_numpy(ids), torch.from_numpy(store.row_quality[rows]), torch.from_numpy(scene)]]
        store.paths,store.current,store.version = table['path'].reset_index(drop=True),True,1
        return store

    __repr__ = shown

    def reset(self): self.current,self._last = False,None  # fastai does this before predictions too

    def __getstate__(self):  # An exported learner carries no gallery
        return {**self.__dict__, 'parts': [], 'paths': None, 'current': False, '_last': None}

    def accumulate(self, learn):
        "Keep a batch, whichever of the metrics comes first with it"
        if hasattr(learn, 'gather_preds'): return  # predictions are wanted, nobody looks at metrics
        emb = _embedding(learn.pred)
        if self._last is not None and self._last() is emb: return
        self._last = weakref.ref(emb)
        if len(learn.yb) < 3: raise lacks_targets()
        n = None if self.row_quality is None else len(self.row_quality)
        if n is not None and (last := int(learn.yb[2][:,0].max())) >= n:
            raise ValueError(f'quality has {n} entries and the table at least {last + 1} rows. Give one for each row.')
        if not self.current:
            self.parts,self.current,self.version = [],True,self.version + 1
            table = self._validated(learn)
            self.paths = None if table is None else table['path']
            for judge in self.judges: judge.prepare(table)
        if self.flip: emb = self._with_mirrored(learn, emb)
        emb = emb.detach().to(getattr(torch, self.precision))
        self.parts.append([learn.to_detach(t).as_subclass(torch.Tensor) for t in (emb, *learn.yb[:3])])

    def _validated(self, learn):
        "Path and split by row: the learner's table, or other rows that are validated in its place; None: unknown"
        table,items = getattr(learn.dls, 'table', None),_table_rows(learn.dl)
        self.trained = [o.scene[0] for o in items if o.scene[2] == 'train']
        if not items: return table
        seen = pd.DataFrame({'path': [o.path for o in items], 'split': [o.scene[2] for o in items]},
                            index=[o.scene[0] for o in items])
        if table is not None and _is_of(items[0], table) and (table['path'].reindex(seen.index) == seen['path']).all():
            return table
        if self.row_quality is None: return seen
        raise ValueError('quality is given by rows of the table of the learner, and other rows are validated. Put it '
                         'into their column quality.')

    def _with_mirrored(self, learn, emb):
        # over by now, so entered again
        amp = getattr(getattr(learn, 'mixed_precision', None), 'autocast', None) or nullcontext()
        first,*others = learn.xb
        with torch.no_grad(), amp: mirrored = _embedding(learn.model(first.flip(-1), *others))
        try: return fuse_flip(emb, mirrored.to(emb.dtype))
        except ValueError: return emb + mirrored  # NaN is told when it is judged, for it must not end a fit

    def gathered(self):
        """Embeddings, identities, qualities and scenes of the pictures seen, one row each, in the order of the table

        Of pictures of split train and others, the others: nobody searches the training set."""
        emb,ids,quality,scene = (torch.cat(o) for o in zip(*self.parts))
        rows,first = np.unique(scene[:,0].numpy(), return_index=True)  # several processes may have seen a picture each
        held = ~np.isin(rows, self.trained)
        if held.any(): rows,first = rows[held],first[held]
        emb,ids,quality,scene = (t[torch.from_numpy(first)] for t in (emb, ids, quality, scene))
        if self.row_quality is not None: quality = torch.from_numpy(self.row_quality[rows])
        self.parts = [[emb, ids, quality, scene]]
        return emb, ids, quality, scene

    def judge(self, kind):
        "The first of its judges that is a `kind`, or None"
        return next((o for o in self.judges if isinstance(o, kind)), None)


class Judge:
    "Judges a store when somebody asks, once after each validation; what goes wrong is a warning"
    what = 'This' # is not judged

    def __init__(self,
        store, # `EmbeddingStore`
    ):
        self.store,self._found = store,(None, None)
        store.judges.append(self)

    def __getstate__(self): return {**self.__dict__, '_found': (None, None)}

    def prepare(self, table):
        "Before the first batch is kept: ValueError where the table (None: unknown) cannot be judged at all"

    def judge(self, emb, ids, quality, scene):
        "Whatever is found, or ValueError"
        raise NotImplementedError

    @property
    def passed(self):
        "Is the last validation judged already?"
        return self._found[0] == self.store.version

    def found(self,
        strict:bool=False, # Raise what goes wrong?
        anew:bool=False,   # Judge again, whatever was found?
    ):
        "What `judge` gave for the last validation; None where there was none, or nothing can be judged"
        if not self.store.parts: return None
        if anew or not self.passed:
            try: found = self.judge(*self.store.gathered())
            except Exception as e:
                if strict or self.store.strict: raise
                warnings.warn(f'{self.what} is not judged: {e}', stacklevel=2)
                found = None
            self._found = self.store.version,found
        return self._found[1]


@contextmanager
def strictly_judged(
    metrics, # Of a `Learner`
):
    "Validations in this block raise what cannot be judged"
    stores = {id(o.store): o.store for o in metrics if hasattr(o, 'store')}.values()
    for store in stores: store.strict = True
    try: yield
    finally:
        for store in stores: del store.strict


def write_embeddings(
    file,       # `.npz`
    table,      # Of the pictures; `path` is kept
    emb,        # `(n, nf)` tensor, a row a picture
    model=None, # What it was, a dict
):
    "Embeddings as arrays `path` and `emb` (and `model`, JSON), which any program can read; in one move"
    paths = complete_table(table)['path'].to_numpy(dtype=str)
    with in_one_move(file) as part, open(part, 'wb') as f:
        np.savez(f, path=paths, emb=emb.cpu().numpy(), model=json.dumps(model))


def read_embeddings(
    file,  # `.npz` with `path` (n,) and `emb` (n, nf), of `write_embeddings` or any other program
    table, # Of the pictures wanted
)->torch.Tensor: # `(len(table), nf)`, in the order of the table
    """Embeddings made elsewhere, matched by path; nothing in the file is executed.

    ValueError naming the picture that the file lacks, or has twice."""
    try:
        path,emb = read_arrays(file, ('path', 'emb'))
        path = path.astype(str)
        if emb.dtype.kind not in 'fiu': raise ValueError(f'emb is {emb.dtype}, which are no numbers.')
    except FileNotFoundError: raise
    except Exception as e:  # a damaged file can fail in any way
        said = f'{type(e).__name__}: {" ".join(str(e).split())[:300]}'.rstrip('.')
        raise ValueError(f'{file} holds no arrays `path` (text) and `emb` ({said}). '
                         '`np.savez(FILE, path=..., emb=...)` writes them.') from e
    # as torch has them: of this machine's order of bytes, whole numbers as floats
    emb = emb.astype(f'f{min(emb.itemsize, 8)}' if emb.dtype.kind == 'f' else 'f4', copy=False)
    if emb.ndim != 2 or path.shape != (len(emb),):
        raise ValueError(f'{file} has {path.shape} paths and {emb.shape} embeddings. '
                         'Write (n,) and (n, nf), one of each for a picture.')
    index,wanted = pd.Index(path), complete_table(table)['path'].to_numpy()
    if index.has_duplicates:
        raise ValueError(f'{file} has {index[index.duplicated()][0]!r} twice. Keep one embedding a picture.')
    rows = match_paths(wanted, path, f'Table, whose embeddings are in {file}')
    lack = wanted[rows < 0]
    if len(lack):
        raise ValueError(f'{file} lacks {len(lack)} of {len(rows)} pictures, first {lack[0]!r}. Embed them too.')
    return torch.from_numpy(emb[rows])
