"Pictures decoded once and kept as bytes where the network is: what a step then costs is the network"
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F
from fastai.torch_core import TensorCategory
from fastai.vision.core import TensorImage
from fastcore.basics import chunked

from qsd_fastai.data.blocks import RecognitionImage, TensorQuality, TensorScene
from qsd_fastai.data.transforms import Squish

__all__ = ['as_pixels', 'decoded', 'keep_in_memory', 'layout_of', 'set_quality', 'unit_embeddings']

KINDS = TensorImage,TensorCategory,TensorQuality,TensorScene


def layout_of(
    device, # Of a network
):
    "How its maps lie: by pixels on a CPU, where depthwise convolutions then take half the time, else by channels"
    return torch.channels_last if device.type == 'cpu' else torch.contiguous_format


def as_pixels(
    pictures, # PIL pictures of one size
)->torch.Tensor: # uint8 `(n, 3, height, width)`
    "Their bytes"
    return torch.from_numpy(np.stack([np.asarray(o) for o in pictures])).permute(0, 3, 1, 2).contiguous()


def decoded(
    files,      # Of pictures
    size:tuple, # `(height, width)`, pixels
)->torch.Tensor: # uint8 `(n, 3, height, width)`
    "Pictures as the loaders bring them to their size"
    squish = Squish(size)
    with ThreadPoolExecutor(2) as pool:
        return as_pixels(list(pool.map(lambda o: squish(RecognitionImage.create(o)), files)))


def keep_in_memory(
    dls,    # Of `recognition_dataloaders`; its training loader takes its pictures from memory from now on
    pixels, # uint8 `(n, 3, height, width)` of the training rows, in order, on the device of `dls` or another
):
    "The same batches in the same order, without opening, decoding or collating anything"
    dl = dls.train
    targets = [torch.stack([torch.as_tensor(o) for o in part]) for part in dl.dataset.tls[1:]]
    dl.kept = [o.to(dl.device) for o in (pixels, *targets)]

    def create_batches(samples):
        for part in chunked(samples, dl.bs, dl.drop_last):
            at = torch.tensor(list(part)).to(dl.device)
            yield tuple(kind(o[at]) for kind,o in zip(KINDS, dl.kept))
    dl.create_batches = create_batches


def set_quality(
    dls,     # After `keep_in_memory`
    quality, # `(n,)` of the training rows, 0 to 100, NaN unknown
):
    "Other labels for the same pictures"
    dls.train.kept[2] = torch.tensor(np.asarray(quality, np.float32)).to(dls.train.device)


@torch.no_grad()
def unit_embeddings(
    model,       # `Recognizer`; it comes back in evaluation
    pixels,      # uint8 `(n, 3, height, width)`
    stats:tuple, # Mean and standard deviation of the three channels
)->torch.Tensor: # `(n, nf)`, on the device of the model
    "Unit embeddings of pictures, normalised as the loaders do"
    device = next(model.parameters()).device
    mean,std = (torch.tensor(o, device=device).view(1, 3, 1, 1) for o in stats)
    out,model = [],model.eval()
    for part in pixels.split(128 if device.type == 'cpu' else 512):
        x = (part.to(device).float()/255 - mean)/std
        out.append(F.normalize(model(x.to(memory_format=layout_of(device))).float()))
    return torch.cat(out)
