"A trained learner to one file that runs without it, checked against it, with a card that says what it is"
import json
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch
from PIL import Image
from torch import nn

from .data.loaders import picture_files
from .embedder import KEY, RESIZES, Embedder, EmbedderSpec, check_ending
from .files import in_one_move
from .learner import pictures_of_loader
from .private import without_folders
from .pt2 import write_pt2

__all__ = ['DeployedModel', 'export_embedder', 'model_card', 'preprocessing_of']

LIMITS = """The learner that this was made of names all who were trained on and folders of the machine, and is a pickle,
which runs what it says: keep it to yourself. This card and the model hold neither.

A threshold that holds on one set of pictures need not hold on another: set it on pictures of your own, and look at the
worst of them apart. Recognising people needs their consent or another lawful ground."""


class DeployedModel(nn.Module):
    "Decoded pixels to embedding, normalised inside: whoever runs it can get neither scale nor channel order wrong"
    def __init__(self,
        model, # Gives `(bs, nf)` in evaluation
        how,   # `EmbedderSpec`
    ):
        super().__init__()
        self.model,self.normalized,self.flip = model,how.normalized,how.flip
        self.register_buffer('mean', torch.tensor(how.mean).view(1, 3, 1, 1))
        self.register_buffer('std', torch.tensor(how.std).view(1, 3, 1, 1))

    def forward(self,
        pictures, # Uint8 `(n, height, width, 3)`, RGB
    ): # Float32 `(n, nf)`
        x = (pictures.permute(0, 3, 1, 2).float()/255 - self.mean)/self.std
        emb = self.model(x)
        if self.flip: emb = emb + self.model(x.flip(3))
        return nn.functional.normalize(emb) if self.normalized else emb


def preprocessing_of(
    learn,           # Of `recognition_learner`
    normalized=True, # Embeddings of unit length?
    flip=False,      # Add the embedding of the mirror image?
)->EmbedderSpec:
    "How a learner's own validation prepares pictures; ValueError where it does so as an exported file cannot state"
    found = pictures_of_loader(learn.dls.valid)
    if found.size is None:
        raise ValueError('learn does not resize by `Squish`, as `recognition_dataloaders` does. Export it by hand.')
    resize = RESIZES[found.resize]
    return EmbedderSpec(*found.size, *found.stats, learn.model.embed_dim, normalized, flip, resize=resize)


def export_embedder(
    learn,           # Of `recognition_learner`, trained or loaded
    file,            # `.onnx` (ONNX, for any runtime) or `.pt2` (`torch.export`)
    pictures,        # A table, or files: what the export is checked on
    normalized=True, # Embeddings of unit length?
    flip=False,      # Add the embedding of the mirror image, as face protocols do?
    tolerance=1e-4,  # Largest difference from the learner that is accepted, in an entry of an embedding of unit length
)->EmbedderSpec:
    "Write the embedding model, load it, compare it with the learner; RuntimeError, and no file, where they differ"
    file,how = Path(file),preprocessing_of(learn, normalized, flip)
    check_ending(file)
    model = DeployedModel(deepcopy(learn.model), how).cpu().eval()
    example = torch.zeros(2, how.height, how.width, 3, dtype=torch.uint8)
    shapes = {'pictures': {0: torch.export.Dim('n', min=1)}}
    with torch.no_grad(): program = torch.export.export(model, (example,), dynamic_shapes=shapes)
    with in_one_move(file) as part:
        if file.suffix == '.pt2': write_pt2(program, part, KEY, how.to_json())
        else: _write_onnx(program, part, how)
        difference = _difference(learn, part, pictures, how)
        if not difference <= tolerance:
            raise RuntimeError(f'{file.name} differs from the learner by {difference:.1e} on real pictures, more than '
                               f'{tolerance:g}, and was not kept. Raise tolerance where that is close enough.')
    print(f'{file}: differs from the learner by {difference:.1e} at most')
    return how


def _write_onnx(program, file, how):
    try:
        import onnx
    except ImportError as e:
        raise ImportError("Writing ONNX needs onnx and onnxscript: pip install 'qsd_fastai[export]'.") from e
    names = {'input_names': ['pictures'], 'output_names': ['emb']}
    torch.onnx.export(program, f=str(file), **names, external_data=False, dynamo=True, verbose=False)
    found = onnx.load(file)
    _forget_source(found)
    onnx.helper.set_model_props(found, {KEY: how.to_json()})
    onnx.checker.check_model(found)
    onnx.save(found, file)


def _forget_source(message):
    "Out of a message of ONNX and all within: where in the source it came from, with the folders of this machine"
    for field,value in message.ListFields():
        if field.name in ('doc_string', 'metadata_props'): message.ClearField(field.name)
        elif field.message_type is not None:
            for o in [value] if hasattr(value, 'ListFields') else value: _forget_source(o)


@contextmanager
def _without_tf32():
    "Convolutions in full float32 on a GPU too, which else rounds what goes into them to ten bits"
    was,torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.allow_tf32,False
    try: yield
    finally: torch.backends.cudnn.allow_tf32 = was


def _difference(learn, file, pictures, how):
    "Largest difference between an entry of the file's embeddings and of the learner's own, both of unit length"
    files = list(picture_files(pictures) if isinstance(pictures, pd.DataFrame) else pictures)[:64]
    embedder = Embedder(file)
    with _without_tf32(), TemporaryDirectory() as tmp:
        theirs = learn.embed(files)
        if how.flip:  # the learner sees mirrored copies as files
            mirrored = [f'{tmp}/{i}.png' for i in range(len(files))]
            for o,to in zip(files, mirrored): Image.fromarray(embedder.prepare(o)[:, ::-1].copy()).save(to)
            theirs = theirs + learn.embed(mirrored)
    ours = torch.from_numpy(embedder.embed(files)[1])
    return float((nn.functional.normalize(ours) - nn.functional.normalize(theirs)).abs().max())


def model_card(
    file,         # The exported model, for its name
    how,          # `EmbedderSpec`
    body:str,     # Name of the body
    record=None,  # How the training table was made
    config=None,  # Options of the run
    figures=None, # DataFrame of results, a row an arm, 0 to 1
)->str: # Markdown
    """What the model is, what it was trained on, how it was judged, how to run it, and what not to do with it.

    It is made to be shared: of paths the last part is left."""
    name = Path(file).name
    what = f'An embedding model for recognition: body {body}, {how.nf} numbers a picture'
    if how.normalized: what += ', unit length'
    if how.flip: what += ', picture and mirror image added'
    lines = [f'# {name}', '', f'{what}.', '']
    lines += ['## Input', '',
              f'- {how.layout}, channels {how.channels}',
              f'- height {how.height}, width {how.width}; resized by {how.resize}',
              '- normalised inside the model: give it pixels as they were decoded', '']
    lines += ['## Use', '',
              '```python',
              'from qsd_fastai.embedder import Embedder',
              f"names, emb = Embedder('{name}').embed('pictures/')",
              '```', '']
    trained_on,config = without_folders(record or {'data': 'not recorded'}), without_folders(config)
    lines += ['## Trained on', '', *(f'- {k}: {json.dumps(v, ensure_ascii=False)}' for k,v in trained_on.items())]
    if config:
        given = {k: v for k,v in config.items() if v not in ('', None)}
        lines += ['', '## Options of the run', '', *(f'- {k}: {v}' for k,v in given.items())]
    at = f' of {config["far"]:g}' if config and 'far' in config else ''
    lines += ['', '## Protocol', '',
              '- rank, mAP: search by cosine, without pictures of the same identity and camera where cameras are known',
              '- accuracy: pairs by the squared distance of unit embeddings, the threshold that is best on the other '
              'folds, on a grid of .01',
              f'- tar: share of true pairs accepted at a false acceptance rate{at}, not interpolated',
              '- worst, best: thirds of the queries by quality', '']
    lines += ['## Figures', '', *_figure_lines(figures), '']
    lines += ['## Limits', '', LIMITS, '']
    return '\n'.join(lines)


def _figure_lines(figures):
    if figures is None:
        return ['None were recorded with the model: judge it on your own pictures with `recipes/evaluate.py`.']
    lines = ['In %, nobody who was judged was trained on. A row is an arm of the run; the name of the learner says '
             'which of them this is.', '']
    head = ['', *map(str, figures.columns)]
    lines += [f'| {" | ".join(head)} |', '|' + '---|'*len(head)]
    for k,row in zip(figures.index, figures.to_numpy(float)):
        cells = ('' if v != v else f'{100*v:.1f}' for v in row)
        lines.append(f'| {k} | {" | ".join(cells)} |')
    return lines
