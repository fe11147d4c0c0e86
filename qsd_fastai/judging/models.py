"Any model as a function from a table to embeddings: a learner, weights, an exported file, or embeddings made elsewhere"
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastai.learner import Learner, load_learner
from fastai.vision.core import imagenet_stats
from fastprogress.fastprogress import progress_bar

from ..choices import one_of
from ..data.loaders import picture_files, recognition_dataloaders
from ..embedder import Embedder
from ..evaluation.store import read_embeddings
from ..files import file_hash
from ..losses import RecognitionLoss
from ..models.preprocess import face_stats
from ..models.recognizer import Recognizer
from ..models.weights.read import load_reference

__all__ = ['open_learner', 'open_model']

STATS = {'imagenet': imagenet_stats, 'half': face_stats}


def open_model(
    learner:str='',    # A learner saved by `learn.export`; a pickle: open your own only
    weights:str='',    # Or a checkpoint of this or another project, with `arch`
    exported:str='',   # Or a model of `export_embedder`, .onnx or .pt2
    embeddings:str='', # Or embeddings of `write_embeddings` or any other program, .npz
    bs:int=64,         # Pictures a batch
    flip:bool=False,   # Add the embedding of the mirror image?
    **options,         # For weights: `arch`, `size` (0: what the body says), `last_stride`, `stats`, `workers`
)->tuple: # `(embed, record)`: what embeds a table, not of unit length where it can be helped, and what it is
    "The one model that is named; `ValueError` or `FileNotFoundError` for none, several, or what cannot be opened"
    files = {'learner': learner, 'weights': weights, 'exported': exported, 'embeddings': embeddings}
    given = [(kind, Path(file)) for kind,file in files.items() if file]
    if len(given) != 1:
        raise ValueError('Name one model: --learner FILE, --weights FILE --arch NAME, --exported FILE or --embeddings.')
    (kind,file), = given
    if not file.is_file(): raise FileNotFoundError(f'There is no file {file} (--{kind}). Look at its name.')
    record = {'kind': kind, 'file': file.name, 'sha256': file_hash(file)}
    if kind == 'embeddings':
        if flip: raise ValueError('--flip is for models, and these embeddings are made already. Leave it out.')
        return partial(read_embeddings, file),record
    if kind == 'learner': embed,more = partial(open_learner(file).embed, bs=bs, flip=flip),{}
    elif kind == 'exported': embed,more = _exported(file, bs, flip)
    else: embed,more = _weights(file, bs, flip, **options)
    return embed,record | more


def open_learner(
    file, # Of `learn.export`, as recipes leave it; a pickle: open your own only
)->Learner:
    "A saved learner, on the GPU where there is one; `FileNotFoundError` or `ValueError` for what is none"
    if not Path(file).is_file():
        raise FileNotFoundError(f'There is no learner {file}. Recipes leave them, `learn.export(FILE)` saves one.')
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings('ignore', message='.*insecure pickle') # Said above instead
            return load_learner(file, cpu=not torch.cuda.is_available())
    except Exception as e: # A pickle can fail in any way
        said = f'{type(e).__name__}: {e}'
        raise ValueError(f'{file} is not a learner that can be loaded here ({said}). `learn.export` saves one.') from e


def _weights(file, bs, flip, arch='', size=None, last_stride=None, stats='', workers=0):
    if not arch: raise ValueError('--weights needs --arch. Name their body: resnet50, agw_resnet50, iresnet50, ... .')
    if stats: one_of('--stats', stats, *STATS)
    size = size if size and all(size) else None
    model = Recognizer(arch, 1, last_stride=last_stride, size=size)
    load_reference(model, file, head=False)
    wanted = getattr(model.body, 'preprocess', None) # Bodies for faces say what pictures they want
    size = size or getattr(wanted, 'size', None)
    if not size: raise ValueError(f'--weights needs --height and --width. {arch} does not say what it was made for.')
    mean,std = STATS[stats] if stats else wanted.stats if wanted else imagenet_stats

    def embed(table):
        one = table.assign(split='train', identity='?') # Transforms are all that is wanted of the loaders
        dls = recognition_dataloaders(one, table.attrs['root'], size, 1, 1, stats=(mean, std), num_workers=workers)
        learn = Learner(dls, model.to(dls.device), loss_func=RecognitionLoss())
        return learn.embed(table, bs=bs, flip=flip)
    return embed,{'arch': arch, 'size': list(size), 'last_stride': last_stride, 'mean': list(mean), 'std': list(std)}


def _exported(file, bs, flip):
    embedder = Embedder(file, 'cuda' if torch.cuda.is_available() and file.suffix == '.pt2' else 'cpu')

    def embed(table):
        files = picture_files(table).tolist()
        starts = progress_bar(range(0, len(files), 16*bs), leave=False)
        parts = [embedder.embed(files[lo:lo + 16*bs], bs, flip=flip)[1] for lo in starts]
        return torch.from_numpy(np.concatenate(parts))
    return embed,{'flip_inside': embedder.spec.flip, 'normalized': embedder.spec.normalized}
