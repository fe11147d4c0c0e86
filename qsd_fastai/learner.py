"A fastai `Learner` for recognition: it trains an embedding, and its verbs say who is in a picture"
import warnings
from contextlib import nullcontext
from dataclasses import replace
from functools import partial

import torch

# each of these gives `Learner` some of its methods: fit_one_cycle, to_fp16, fine_tune, ...
from fastai.callback import fp16, progress, schedule, training  # noqa: F401
from fastai.callback.core import Callback
from fastai.data.load import DataLoader
from fastai.data.transforms import Normalize
from fastai.learner import Learner, mk_metric
from fastai.torch_core import get_model, to_detach
from fastcore.basics import patch
from fastcore.foundation import L

from .callbacks.held_out import HeldOut, trackers_of
from .callbacks.loss_terms import LossTerms
from .callbacks.partial_update import PartialUpdate
from .callbacks.running_loss import KeptLosses
from .callbacks.two_fits import as_one_fit
from .columns import complete_table
from .data.given import RecognitionDataLoaders, given_rows
from .data.transforms import Squish
from .data.within import as_items, picture_size
from .distributed import gather_parts, processes, share_of
from .evaluation.store import strictly_judged
from .evaluation.verification import fuse_flip
from .losses import MarginLoss, RecognitionLoss
from .models.bodies.by_name import body_name
from .models.bodies.given import given_body
from .models.heads.margins import MarginHead
from .models.heads.partial_fc import PartialFC
from .models.preprocess import Preprocess, stats_differ
from .models.recognizer import Recognizer, recognizer_splitter
from .tensors import plain_tensor
from .verbs import interpretation  # noqa: F401
from .verbs.answers import Answer, Gallery, answer_of
from .verbs.logged import LoggedLearner
from .verbs.refusals import flat_metrics, people_of, refuse_callbacks, refuse_loss, refuse_options, refuse_unjudged
from .verbs.results import Results, answers_of_loader, as_judged, has_labels, some

__all__ = ['RecognitionLearner', 'imprint_head', 'pictures_of_loader', 'recognition_learner']


class RecognitionLearner(LoggedLearner):
    """A fastai `Learner` of `recognition_learner`: `predict` says who it is, `show_results` what a search answers

    `learn.gallery = table` names the people that `predict` looks for, as `Gallery` has them; `None`, as at first: those
    it was trained on."""
    _gallery = None

    def __repr__(self):
        model,searched = get_model(self.model),'' if self.gallery is None else f'\n{self.gallery}'
        parts = ', '.join(type(o).__name__ for o in (model.pool, model.neck, model.head) if o is not None)
        return (f'{type(self).__name__}: {body_name(model.body)}, {parts}; embedding of {model.embed_dim} numbers, '
                f'{model.n_ids} identities\n{self.dls}\n{self.loss_func}\nmetrics {self.metrics}\n'
                f'callbacks {self.cbs}{searched}')

    def fine_tune(self,
        *args,    # Of fastai's `fine_tune`: `epochs`, `base_lr`, ...
        **kwargs, # Likewise
    ):
        "As fastai's: frozen, then all of it. For `TrackRun` and `SaveModelCallback` both fits are one"
        cbs = L(o() if isinstance(o, type) else o for o in L(kwargs.pop('cbs', None)))
        with as_one_fit(self.cbs + cbs): return super().fine_tune(*args, cbs=cbs, **kwargs)

    @property
    def gallery(self)->Gallery|None: return self._gallery

    @gallery.setter
    def gallery(self, table):
        self._gallery = None
        if table is None: return
        gallery = Gallery(table, self.dls.path)
        gallery.embedded(self)
        self._gallery = gallery

    @property
    def metrics(self)->L: return self._metrics

    @metrics.setter
    def metrics(self, metrics): self._metrics = flat_metrics(metrics).map(mk_metric)

    def add_cbs(self,
        cbs, # Callbacks
    ):
        "As in fastai; ValueError for `MixUp` and its kin"
        refuse_callbacks(cbs)
        return super().add_cbs(cbs)

    def add_cb(self,
        cb, # A callback
    ):
        "As in fastai; ValueError for `MixUp` and its kin"
        refuse_callbacks(cb)
        return super().add_cb(cb)

    def predict(self,
        item,                  # One picture: a file, bytes, a PIL picture, an array, a tensor, a row of a table
        rm_type_tfms=None,     # As in fastai
        with_input:bool=False, # Begin with the picture, as fastai does?
        top:int=5,             # Identities in `nearest`
    )->Answer: # With `with_input`: `(picture, name, index, scores)`
        """Who it is, how sure, and how good a picture: `name,index,scores = learn.predict(picture)`, or an `Answer`.

        Of the gallery, where there is one; else of those the head was trained on."""
        dl = _loader(self, item, rm_type_tfms=rm_type_tfms, num_workers=0)
        if dl.n != 1: raise ValueError(f'item holds {dl.n} pictures, and predict is for one. Use `learn.embed(item)`, '
                                       'or `learn.show_results(dl=learn.dls.test_dl(item))`.')
        with self.no_bar(): emb = plain_tensor(self.get_preds(dl=dl)[0]).float()
        answer = answer_of(self, emb[0], dl.dataset.tls[0][0], top)
        return (answer.picture, *answer) if with_input else answer

    def validate(self,
        ds_idx:int=1, # Which of `dls`, where `dl` is not given
        dl=None,      # A loader of `dls`, or `dls.test_dl(table, with_labels=True)`: rows in any order, of any people
        cbs=None,     # Callbacks of this validation
    ):
        """As in fastai: loss and metrics. ValueError for a loader without labels, or that our metrics cannot judge.

        Without `dl` what cannot be judged is a warning and NaN, as in a fit. `SaveModelCallback` and its kin sleep."""
        if dl is not None: refuse_unjudged(dl)
        strict = strictly_judged(self.metrics) if dl is not None else nullcontext()
        with strict, self.removed_cbs(trackers_of(self.cbs)):
            return super().validate(ds_idx, dl, L(o for o in L(cbs) if o not in trackers_of(cbs)))

    def show_results(self,
        ds_idx:int=1,      # Which of `dls`, where `dl` is not given: 0 training, 1 validation
        dl=None,           # A loader of `dls`, or `dls.test_dl(table, with_labels=True)`, or without labels
        max_n:int=4,       # Pictures that search, a row each
        shuffle:bool=True, # Any of them? Else the first
        nrows:int=None,    # In place of `max_n`
        ncols:int=None,    # Pictures a row: one that searches and its answers; 6 when not given
        figsize:tuple=None, # `(width, height)` of all, inches; the height is kept
        **kwargs,          # Of loaders that are not fastai's: as in fastai
    ):
        """Pictures that search, a row each, with their first answers, right and wrong marked, and the first right one.

        Queries search the gallery of the loader; where it has none, each picture searches all others. Pictures without
        labels search `learn.gallery`, or show whom the head names."""
        if dl is None: dl = self.dls[ds_idx].new(shuffle=False, drop_last=False)
        if not hasattr(getattr(dl, 'dataset', None), 'tls'):
            return super().show_results(ds_idx, dl, max_n, shuffle, **kwargs)
        n,top = nrows or max_n,(ncols or 6) - 1
        height = 1.5 if figsize is None else max(figsize[1]/n - .5, 1.)
        if not has_labels(dl): return answers_of_loader(self, dl, some(dl.n, n, shuffle), top, height)
        results = Results(self, dl)
        queries = sorted(results.hardest)
        results.draw([queries[i] for i in some(len(queries), n, shuffle)], top, height)


def _loader(learn, data, root=None, **kwargs):
    "A loader of whatever holds pictures, in their order, with the transforms of validation"
    if isinstance(learn.dls, RecognitionDataLoaders): return learn.dls.test_dl(data, root=root, **kwargs)
    # loaders of blocks of one's own take what their pictures were made of, or pictures
    files = [o.file for o in given_rows(data, root, learn.dls.path)]
    return learn.dls.test_dl(as_items(files, learn.dls), **kwargs)


def recognition_learner(
    dls,                   # Of `recognition_dataloaders`, or of any `DataBlock` with an `IdentityBlock` as first target
    arch,                  # Name of a timm model or of our own; a function of it; a module, `nn.Sequential` among them
    head=None,             # Over identities, a module or a function of `(nf, n_ids)`; `LinearHead` when not given
    loss=None,             # `MarginLoss` for a head with a margin, else `RecognitionLoss()`, when not given
    metrics=None,          # `Retrieval('rank1', 'mAP', 'mINP')`, say
    pretrained=False,      # `True`: published weights through timm; a file of weights; `False`: from scratch
    last_stride:int=None,  # 1 doubles the resolution of a ResNet's last stage, the habit in Re-ID; `None`: as it is
    levels=None,           # Which stages QSD sees; the last three when not given
    pool=None,             # Of the body's maps; `GeM` when not given
    neck=None,             # Between pooling and head; `BNNeck` when not given
    body_kwargs:dict=None, # For the body, `drop_path_rate=.1`, say; it knows the size of the pictures of `dls`
    cbs=None,              # Callbacks beside fastai's own
    splitter=recognizer_splitter, # Parameter groups: body; pool, neck and head
    **kwargs,              # For `Learner`: `opt_func`, `lr`, `wd`, `path`, `moms`, ...
)->RecognitionLearner:
    "A fastai `Learner` that trains an embedding of identities; in evaluation its model gives the embedding `(bs, nf)`"
    refuse_options(kwargs)
    if not getattr(dls, 'c', 0):
        raise ValueError('dls.c is 0: no training identity. Give a table with training rows and an `IdentityBlock`.')
    arch = given_body(arch, picture_size(dls))
    if isinstance(arch, str):
        known = {'pretrained': pretrained, 'last_stride': last_stride, 'size': picture_size(dls)}
        options = {**known, **(body_kwargs or {})}
    elif pretrained or last_stride or body_kwargs:
        raise ValueError('pretrained, last_stride and body_kwargs are of a body given by name. Set them on the module.')
    else: options = {}
    model = Recognizer(arch, dls.c, pool=pool, neck=neck, head=head, levels=levels, **options)
    _set_pictures(dls, model, pretrained)
    cbs = L(LossTerms(), KeptLosses(), HeldOut()) + L(cbs)
    updates = any(isinstance(cb, PartialUpdate) for cb in cbs)
    if isinstance(model.head, PartialFC) and not updates: cbs = cbs + [PartialUpdate()]
    loss = _loss_of(model, loss)
    learn = RecognitionLearner(dls, model, loss_func=loss, metrics=metrics, splitter=splitter, cbs=cbs, **kwargs)
    learn.people = people_of(dls)
    return learn


def _loss_of(model, loss):
    margin = isinstance(model.head, MarginHead | PartialFC)
    refuse_loss(loss)
    if loss is None: return MarginLoss(model.head) if margin else RecognitionLoss()
    if margin and isinstance(loss, RecognitionLoss) and not isinstance(loss, MarginLoss):
        raise ValueError(f'{type(model.head).__name__} gives cosines, and {type(loss).__name__} knows no margin. '
                         'Leave loss out, or make the head yourself and give head=head, loss=MarginLoss(head, ...).')
    return loss


def pictures_of_loader(
    dl, # Of `recognition_dataloaders`, or any other
)->Preprocess:
    "What a loader does to pictures; size None: it does not resize by `Squish`"
    normalize = next((t for t in getattr(dl, 'after_batch', ()) if isinstance(t, Normalize)), None)
    squish = next((t for t in getattr(dl, 'after_item', ()) if isinstance(t, Squish)), None)
    stats = ([0.]*3, [1.]*3) if normalize is None else (normalize.mean, normalize.std)
    mean,std = (tuple(round(float(v), 6) for v in torch.as_tensor(o).flatten()) for o in stats)
    if squish is None: return Preprocess(mean, std)
    return Preprocess(mean, std, tuple(map(int, squish.size)), squish.resize)


def _set_pictures(dls, model, pretrained):
    "What the loaders do to pictures is what the model is trained on; a warning where weights were on others"
    ours,theirs = pictures_of_loader(dls.train), model.preprocess
    if theirs is not None and pretrained:
        if stats_differ(theirs, ours.mean, ours.std):
            warnings.warn(f'These weights were trained on pictures normalised by mean {theirs.mean}, std {theirs.std}, '
                          f'but the loaders have mean {ours.mean}, std {ours.std}. Give '
                          'recognition_dataloaders(stats=...) theirs.', stacklevel=3)
        if theirs.resize != ours.resize:
            warnings.warn(f'These weights were trained on pictures resized by a {theirs.resize} filter, but the '
                          f"loaders use {ours.resize}. Give recognition_dataloaders(resize='{theirs.resize}').",
                          stacklevel=3)
    model.body.preprocess = replace(ours, size=getattr(theirs, 'size', None))


class _AddMirrored(Callback):
    "Adds the embedding of the mirror image to each prediction"
    order = fp16.MixedPrecision.order - .5 # After inputs are plain tensors, before predictions become float32

    def after_pred(self):
        first,*others = self.xb
        self.learn.pred = fuse_flip(self.pred, self.model(first.flip(-1), *others))


def _own_part(dl, alone):
    "Whole batches for this process, of a loader that no other process needs to wait for"
    if processes()[1] == 1: return dl
    idxs = list(dl.get_idxs())
    mine = idxs if alone else [idxs[i] for i in share_of(len(idxs), dl.bs)]
    own = dl.new(get_idxs=partial(list, mine), n=len(mine))
    own.to_detach = _detached
    return own


def _detached(b, cpu=True, gather=True): return to_detach(b, cpu, gather=False)


@patch
def embed(self:Learner,
    data,                 # A table or its row, a folder, a picture, a list of these, or a `DataLoader` of fastai
    root=None,            # The folder the paths of a table start from; `table.attrs['root']` when not given
    bs:int=None,          # Pictures a batch; that of validation when not given
    normalize:bool=False, # To unit length?
    flip:bool=False,      # Add the embedding of the mirror image, as face protocols do?
    alone:bool=False,     # Of several processes: embed all of it here, whatever the others do?
)->torch.Tensor: # `(n, nf)` float32 on the CPU, in the order of `data`
    """Embeddings of pictures, with the transforms of validation

    Several processes share the batches out, and each gets the embeddings of all: every one must call it, unless
    `alone`."""
    size = {'bs': bs} if bs else {}
    if isinstance(data, DataLoader):
        dl = data.new(shuffle=False, drop_last=False, **size)
    elif isinstance(data, torch.utils.data.DataLoader):
        raise ValueError("data is a loader of torch. Give fastai's DataLoader, a table or a list of picture files.")
    else: dl = _loader(self, data, root, **size)
    if not len(dl): raise ValueError('data holds no picture to embed. Give a table, list or loader that does.')
    own,mirrored,emb = _own_part(dl, alone),[_AddMirrored()] if flip else None,None
    with as_judged(own):
        if len(own): emb = plain_tensor(self.get_preds(dl=own, reorder=own is dl, cbs=mirrored)[0]).float()
    if not alone: emb = gather_parts(emb)
    return torch.nn.functional.normalize(emb) if normalize else emb


def imprint_head(
    learn, # `Learner` whose body has weights, and whose head has none yet
    table, # That it is to be trained on
):
    "Start a margin head at the mean direction of each identity's pictures; another head stays as it is"
    head = learn.model.head
    if not hasattr(head, 'imprint'): return
    table = complete_table(table)
    train = table[table['split'] == 'train']
    head.imprint(learn.embed(train), [learn.dls.vocab.o2i[o] for o in train['identity']])
