"Pictures that are judged, decoded once and kept as bytes, and what a network makes of them"
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
import torch.nn.functional as F

from qsd_fastai.data.blocks import RecognitionImage
from qsd_fastai.data.transforms import Squish

__all__ = ['as_pixels', 'decoded', 'layout_of', 'set_quality', 'unit_embeddings']


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


def set_quality(
    dls,     # Of `recognition_dataloaders` that keep their pictures
    quality, # `(n,)` of the training rows, 0 to 100, NaN unknown
):
    "Other labels for the same pictures"
    dl = dls.train
    dl.kept.fill(dl)
    dl.kept.targets[1] = torch.tensor(np.asarray(quality, np.float32)).to(dl.device)


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
