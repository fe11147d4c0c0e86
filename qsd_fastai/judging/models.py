"Any model as a function from a table to embeddings: a learner, weights, an exported file, or embeddings made elsewhere"
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from fastai.learner import Learner, load_learner
from fastai.vision.core import imagenet_stats
from fastprogress.fastprogress import progress_bar

from ..choices import one_of
from ..data.loaders import picture_files, recognition_dataloaders
from ..distributed import gather_parts, share_of
from ..embedder import Embedder
from ..evaluation.store import read_embeddings
from ..files import file_hash
from ..learner import pictures_of_loader
from ..losses import RecognitionLoss
from ..models.preprocess import Preprocess, face_stats
from ..models.recognizer import Recognizer
from ..models.switches import switches_of
from ..models.weights.read import load_reference
from ..runs.folder import model_artifact
from ..terminal import rows_only

__all__ = ['learner_around', 'open_learner', 'open_model', 'open_weights']

# what the record says of every model, where it is known
HOW = 'pooling', 'neck', 'stride', 'channels', 'size', 'filter', 'mean', 'std'
STATS = {'imagenet': imagenet_stats, 'half': face_stats}


def open_model(
    learner:str='',    # A learner saved by `learn.export`; a pickle: open your own only
    weights:str='',    # Or a checkpoint of this or another project, with `arch`
    exported:str='',   # Or a model of `export_embedder`, .onnx or .pt2
    embeddings:str='', # Or embeddings of `write_embeddings` or any other program, .npz
    bs:int=64,         # Pictures a batch
    flip:bool=False,   # Add the embedding of the mirror image?
    **options,         # For weights: those of `open_weights`, and `workers`
)->tuple: # `(embed, record)`: what embeds a table, not of unit length where it can be helped, and what it is
    "The one model that is named; `ValueError` or `FileNotFoundError` for none, several, or what cannot be opened"
    files = {'learner': learner, 'weights': weights, 'exported': exported, 'embeddings': embeddings}
    given = [(kind, Path(file)) for kind,file in files.items() if file]
    if len(given) != 1:
        raise ValueError('Name one model: --learner FILE, --weights FILE --arch NAME, --exported FILE or --embeddings.')
    (kind,file), = given
    if not file.is_file(): raise FileNotFoundError(f'There is no file {file} (--{kind}). Look at its name.')
    record = {'kind': kind, 'file': file.name, 'sha256': file_hash(file)}
    record |= dict.fromkeys(HOW) # None: nobody knows
    other = [k for k,v in options.items() if k != 'workers' and any(v if isinstance(v, tuple) else (v,))]
    if kind != 'weights' and other:
        raise ValueError(f'--{kind} knows its network, and {", ".join(other)}, for --weights, is given as well. '
                         'Leave it out.')
    if kind == 'embeddings':
        if flip: raise ValueError('--flip is for models, and these embeddings are made already. Leave it out.')
        return partial(read_embeddings, file),record
    if kind == 'learner': embed,more = _learner(file, bs, flip)
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


def open_weights(
    file,                  # A checkpoint of this or another project
    arch:str,              # Its body
    size=None,             # `(height, width)` of pictures; None, or a 0 in it: what the body says
    last_stride:int=None,  # Of a ResNet; None: that of the project of the weights
    stats:str='',          # 'imagenet', 'half'; else what the weights were trained with
    channels:str=None,     # Of the pictures they were trained on: 'rgb', 'bgr'; None: as their project or card says
)->tuple: # `(model, preprocess)`: a `Recognizer`, and the `Preprocess` of its pictures
    "Weights in the network they were trained in; `ValueError` where they do not fit, or do not say their size"
    if not arch: raise ValueError('--weights needs --arch. Name their body: resnet50, agw_resnet50, iresnet50, ... .')
    if stats: one_of('--stats', stats, *STATS)
    if channels: one_of('--channels', channels, 'rgb', 'bgr')
    given = size if size and all(size) else None
    model = Recognizer(arch, 1, last_stride=last_stride, size=given)
    load_reference(model, file, head=False, channels=channels or None)
    wanted = model.preprocess or Preprocess(*imagenet_stats)
    size = given or wanted.size
    if not size: raise ValueError(f'--weights needs --height and --width. {arch} does not say what it was made for.')
    if stats: wanted = replace(wanted, mean=STATS[stats][0], std=STATS[stats][1])
    return model, replace(wanted, size=tuple(size))


def learner_around(
    model,      # Of `open_weights`
    preprocess, # Likewise
    table,      # Of pictures
    workers=0,  # Loading processes
)->Learner: # That embeds, and cannot be trained
    "A model with the loaders that its pictures want"
    one = table.assign(split='train', identity='?') # Transforms are all that is wanted of the loaders
    dls = recognition_dataloaders(one, None, preprocess.size, 1, 1, stats=preprocess.stats,
                                  num_workers=workers, resize=preprocess.resize)
    return Learner(dls, model.to(dls.device), loss_func=RecognitionLoss())


def _weights(file, bs, flip, arch='', workers=0, **options):
    model,wanted = open_weights(file, arch, **options)

    def embed(table): return learner_around(model, wanted, table, workers).embed(table, bs=bs, flip=flip)
    return embed,{'arch': arch, **_network(model), **_pictures(wanted)}


def _network(model):
    "What a model does that its weights do not say, for the record"
    found = switches_of(model)
    pool = type(model.pool).__name__ if found['pool'] is None else found['pool']
    if found['pool'] == 'gem': pool = f'gem, p={model.pool.p.item():.3g}'
    return {'pooling': pool, 'neck': found['neck'] or type(model.neck).__name__, 'stride': found['last_stride'],
            'channels': 'RGB, first layer turned from BGR' if found['turned'] else 'RGB'}


def _pictures(preprocess):
    size,resize = preprocess.size and list(preprocess.size),preprocess.resize if preprocess.size else None
    return {'size': size, 'filter': resize, 'mean': list(preprocess.mean), 'std': list(preprocess.std)}


def _learner(file, bs, flip):
    learn = open_learner(file)
    found = _network(learn.model) if isinstance(learn.model, Recognizer) else {}
    if artifact := model_artifact(file): found |= {'artifact': artifact}
    return partial(learn.embed, bs=bs, flip=flip),found | _pictures(pictures_of_loader(learn.dls.valid))


def _exported(file, bs, flip):
    embedder = Embedder(file, 'cuda' if torch.cuda.is_available() and file.suffix == '.pt2' else 'cpu')

    def embed(table):
        files = picture_files(table).tolist()
        mine = share_of(len(files), bs)
        with rows_only():
            starts = progress_bar(mine[::16*bs], leave=False)
            parts = [embedder.embed(files[lo:min(lo + 16*bs, mine.stop)], bs, flip=flip)[1] for lo in starts]
        return gather_parts(torch.from_numpy(np.concatenate(parts)) if parts else None)
    how = embedder.spec
    pictures = Preprocess(how.mean, how.std, (how.height, how.width), how.filter)
    record = {'flip_inside': how.flip, 'normalized': how.normalized, 'channels': how.channels}
    return embed,record | _pictures(pictures)
