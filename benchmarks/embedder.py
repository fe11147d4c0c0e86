"""An exported model at work beside the plain forward of timm: pictures a second, from files and from decoded pictures.

    python benchmarks/embedder.py                       # a small timm body, 1,024 drawn faces of 112x112
    python benchmarks/embedder.py --arch resnet50

`plain forward` is what timm gives in evaluation on a batch that is there already, normalised: the most that anybody can
have without another runtime. `Embedder` also resizes, normalises and takes embeddings to unit length; `from files` adds
reading and decoding, in threads."""
import tempfile
import time
from pathlib import Path

import timm
import torch
from fastcore.script import call_parse
from tuning.measured import Measured

from qsd_fastai.commands import in_one_line
from qsd_fastai.data.loaders import picture_files, recognition_dataloaders
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.embedder import Embedder
from qsd_fastai.export import export_embedder
from qsd_fastai.learner import recognition_learner


def rate(f, n, repeat=3):
    "Pictures a second, the best of several"
    best = float('inf')
    for _ in range(repeat):
        start = time.perf_counter()
        f()
        best = min(best, time.perf_counter() - start)
    return n/best


@call_parse
@in_one_line
def main(
    arch:str='regnetx_002', # A timm model
    size:int=112,           # Of the pictures, pixels
    n:int=1024,             # Pictures
    bs:int=64,              # A batch
    out:str='',             # Folder for embedder.json and embedder.md
):
    "Print rates side by side"
    with tempfile.TemporaryDirectory() as tmp:
        table = generate_faces(Path(tmp)/'faces', n_train=n//8, n_test=2, n_imgs=8, n_test_imgs=4, size=(size, size),
                               progress=False)
        dls = recognition_dataloaders(table, size=(size, size), n_ids=2, n_imgs=2, num_workers=0)
        learn = recognition_learner(dls, arch)
        files = picture_files(table).tolist()[:n]
        body,x = timm.create_model(arch, num_classes=0).eval(), torch.randn(bs, 3, size, size)
        def plain():
            with torch.no_grad():
                for _ in range(0, len(files), bs): body(x)
        measured = Measured('embedder', arch=arch, pictures=len(files), size=f'{size}x{size}', bs=bs)
        base = rate(plain, len(files))
        measured.add('timm, plain forward', **{'of plain': 1., 'pictures a second': base})
        for kind in ('onnx', 'pt2'):
            export_embedder(learn, Path(tmp)/f'model.{kind}', files[:8])
            embedder = Embedder(Path(tmp)/f'model.{kind}')
            decoded = [embedder.prepare(o) for o in files]
            for what,data in (('decoded', decoded), ('from files', files)):
                r = rate(lambda e=embedder, d=data: e.embed(d, bs), len(files))
                measured.add(f'Embedder, {kind}, {what}', **{'of plain': r/base, 'pictures a second': r})
    measured.show(out)
