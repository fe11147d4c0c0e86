"""An exported embedding model at work: no fastai, no training code, no table

    from qsd_fastai.embedder import Embedder
    embedder = Embedder('faces.onnx')
    paths, emb = embedder.embed('pictures/')      # (n, nf), unit length where the file says so
    emb @ emb.T                                   # cosine similarities

The file says itself how pictures are to be prepared (`EmbedderSpec`); pixels go in as they were decoded, and the graph
normalises them."""
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from .choices import FILTERS
from .data.folders import list_pictures
from .data.pictures import LARGE, decoded

__all__ = ['Embedder', 'EmbedderSpec', 'list_pictures']

KEY = 'qsd_fastai.preprocessing' # Of the specification, in the metadata of an exported file
LONGEST = 4096 # Side of an input, pixels
RESIZES = {way: f'PIL {way}, to (height, width) whatever the shape' for way in FILTERS}
AGAIN = 'Export it again with recipes/export.py.'


@dataclass(frozen=True)
class EmbedderSpec:
    "What a picture must go through before the model, and what comes out; written into the metadata of an exported file"
    height:int              # Of the input, pixels
    width:int               # Of the input, pixels
    mean:tuple              # Of each channel, in 0 to 1; subtracted inside the graph
    std:tuple               # Of each channel, in 0 to 1; divided by inside the graph
    nf:int                  # Numbers of an embedding
    normalized:bool = True  # Of unit length?
    flip:bool = False       # Is the embedding the sum of that of the picture and of its mirror image?
    channels:str = 'RGB'    # Order of the channels that go in
    layout:str = 'uint8 (n, height, width, 3), 0 to 255' # What the graph takes
    resize:str = RESIZES['bilinear'] # How a picture comes to its size

    @property
    def filter(self)->str:
        "Name of the filter of PIL in `resize`"
        found = [way for way,said in RESIZES.items() if said == self.resize]
        if not found: raise ValueError(f'The resize of the exported file is {self.resize!r:.80}. {AGAIN}')
        return found[0]

    def to_json(self)->str: return json.dumps(asdict(self))

    @classmethod
    def from_json(cls,
        text:str, # Of `to_json`
        file,     # Where it was found, for messages
    ):
        "What a file says; ValueError where it says nothing, or what only a newer version knows"
        try: found = json.loads(text)
        except (TypeError, ValueError, RecursionError): found = None
        if not isinstance(found, dict) or not {'height', 'width', 'mean', 'std', 'nf'} <= set(found):
            raise ValueError(f'{file} does not say how its pictures are prepared (no {KEY}). '
                             'Export it with recipes/export.py.')
        unknown = set(found) - set(cls.__dataclass_fields__)
        if unknown:
            names = ', '.join(sorted(unknown))
            raise ValueError(f'{file} was exported by a newer version: {names:.200} is unknown. Update qsd_fastai.')
        for k,v in found.items():
            wanted = _not_as_wanted(k, v)
            if wanted:
                raise ValueError(f'{file} says that {k} is {repr(v)[:80]}, not {wanted}. {AGAIN}')
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k,v in found.items()})


def _not_as_wanted(k, v):
    "What an entry of a specification should be, '' where it is"
    number = isinstance(v, int) and not isinstance(v, bool)
    if k in ('height', 'width'): return '' if number and 0 < v <= LONGEST else f'pixels, 1 to {LONGEST}'
    if k == 'nf': return '' if number and 0 < v < 2**20 else 'how many numbers an embedding has'
    if k in ('normalized', 'flip'): return '' if isinstance(v, bool) else 'true or false'
    if k in ('mean', 'std'):
        numbers = isinstance(v, list) and len(v) == 3 and all(type(o) in (int, float) and abs(o) < 1e6 for o in v)
        return '' if numbers and (k == 'mean' or min(v) > 0) else 'three numbers' + ' above 0'*(k == 'std')
    if k == 'resize': return '' if v in RESIZES.values() else ' or '.join(map(repr, RESIZES.values()))
    known = getattr(EmbedderSpec, k)  # 'channels', 'layout': what goes in here is always that
    return '' if v == known else repr(known)


def in_short(
    e:Exception, # Of a runtime
)->str:
    "Its kind and the beginning of what it says, in a line"
    return f'{type(e).__name__}: {" ".join(str(e).split())}'[:300].rstrip('.')


class Embedder:
    "Embeds pictures with an exported model, `.onnx` through ONNX Runtime or `.pt2` through torch"
    def __init__(self,
        file,             # Of `export_embedder` or `recipes/export.py`
        device:str='cpu', # `cpu`, or `cuda`
        threads:int=None, # Of the model on a CPU; those of the runtime when not given
    ):
        self.file,self.device = Path(file),device
        if not self.file.is_file():
            raise FileNotFoundError(f'There is no model {file}. `python recipes/export.py LEARNER.pkl` makes one.')
        check_ending(self.file)
        self._run,text = (self._onnx if self.file.suffix == '.onnx' else self._torch)(threads)
        self.spec = EmbedderSpec.from_json(text, file)
        self._try()

    def _try(self):
        "ValueError where the file does not embed what it says: better now than after the first thousand pictures"
        n = 2
        try: found = self._run(np.zeros((n, self.spec.height, self.spec.width, 3), np.uint8))
        except Exception as e:  # of a runtime, of any kind
            raise ValueError(f'{self.file} does not embed pictures as it says ({in_short(e)}). {AGAIN}') from e
        if getattr(found, 'shape', None) != (n, self.spec.nf):
            raise ValueError(f'{self.file} says that an embedding has {self.spec.nf} numbers, and gives '
                             f'{getattr(found, "shape", found)!s:.80} for {n} pictures. {AGAIN}')

    def _onnx(self, threads):
        try:
            import onnxruntime as ort
        except ImportError as e:
            raise ImportError(f"Running {self.file} needs ONNX Runtime: pip install 'qsd_fastai[export]'.") from e
        options = ort.SessionOptions()
        if threads: options.intra_op_num_threads = threads
        name = 'CPUExecutionProvider' if self.device == 'cpu' else 'CUDAExecutionProvider'
        if name not in ort.get_available_providers():
            raise ValueError(f'device is {self.device!r}, and this ONNX Runtime lacks {name}. '
                             'Install onnxruntime-gpu, or use the cpu.')
        # of several processes each has the GPU of its number
        own = {} if self.device == 'cpu' else {'device_id': int(os.environ.get('LOCAL_RANK') or 0)}
        options.log_severity_level = 4  # what is wrong is said below
        try:
            session = ort.InferenceSession(str(self.file), options, providers=[(name, own)])
            name,said = session.get_inputs()[0].name, session.get_modelmeta().custom_metadata_map.get(KEY)
        except Exception as e:  # of the runtime, of any kind
            raise ValueError(f'{self.file} cannot be read as ONNX ({in_short(e)}). {AGAIN}') from e
        return lambda x: session.run(None, {name: x})[0], said

    def _torch(self, threads):
        import torch

        if threads: torch.set_num_threads(threads)
        from .pt2 import read_pt2
        try: torch.empty(0, device=self.device)
        except (RuntimeError, AssertionError) as e:
            raise ValueError(f'device is {self.device!r}, which torch cannot use here ({in_short(e)}). '
                             'Use the cpu.') from e
        model,text = read_pt2(self.file, KEY, self.device)

        def run(x):
            with torch.no_grad(): return model(torch.from_numpy(x).to(self.device)).cpu().numpy()

        return run, text

    def prepare(self,
        picture, # File, address in a record file, bytes, open file, PIL picture, or array as `array_picture` takes it
    )->np.ndarray: # Uint8 `(height, width, 3)`
        "A picture as the graph takes it; PictureError naming it where it cannot be read"
        size,resampling = (self.spec.width, self.spec.height),Image.Resampling[self.spec.filter.upper()]
        with decoded(picture, LARGE) as img:
            return np.asarray(img if img.size == size else img.resize(size, resampling))

    def embed(self,
        data,            # A folder (all pictures below it), a table, a picture as `prepare` takes it, or a list of them
        bs:int=64,       # Pictures a batch
        workers:int=4,   # Threads that decode
        flip:bool=False, # Add the embedding of the mirror image? Where the file does so itself it is not done twice
    ): # `(names, emb)`: what was embedded, and float32 `(n, nf)` in the same order
        "Embeddings of pictures; FileNotFoundError or OSError naming the picture that is missing or cannot be read"
        names = list_pictures(data)
        out = np.empty((len(names), self.spec.nf), np.float32)
        with ThreadPoolExecutor(max(1, workers)) as pool:
            # one batch is decoded while the one before it is embedded
            waiting = [pool.submit(self.prepare, o) for o in names[:bs]]
            for start in range(0, len(names), bs):
                pictures = [o.result() for o in waiting]
                waiting = [pool.submit(self.prepare, o) for o in names[start + bs:start + 2*bs]]
                x = np.stack(pictures)
                found = self._run(x)
                if flip and not self.spec.flip: found = found + self._run(np.ascontiguousarray(x[:, :, ::-1]))
                out[start:start + bs] = found
        return names, out


def check_ending(
    file:Path, # To be read or written
):
    "ValueError where it does not end as an exported model does"
    if file.suffix not in ('.onnx', '.pt2'): raise ValueError(f'{file} ends in {file.suffix!r}. Use .onnx or .pt2.')
