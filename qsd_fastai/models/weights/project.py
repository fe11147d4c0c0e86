"The record that each project fills whose weights are read: how its keys are named, and what its networks do otherwise"
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch

from ..preprocess import face_stats

__all__ = ['HALF', 'IMAGENET', 'Found', 'Network', 'Part', 'Project', 'as_they_are', 'by_pattern', 'nothing_told']

# how projects normalise their pictures
IMAGENET = {'mean': (.485, .456, .406), 'std': (.229, .224, .225)}
HALF = dict(zip(('mean', 'std'), face_stats))


@dataclass
class Found:
    "The weights of a file, at some depth of the wrappers around their names"
    weights:dict[str, torch.Tensor]                      # Key to tensor, wrappers taken off
    origin:dict[str, str]                                # Key to the key in the file
    file:Path                                            # Where they lay
    wrapper:str = ''                                     # What was taken off, `module.model.`
    notes:list[str] = field(default_factory=list)        # What was chosen among several

    def has(self,
        *keys:str, # Whole keys
    )->bool:
        "Are all of them there?"
        return all(k in self.weights for k in keys)


class Part(NamedTuple):
    "One tensor under our name"
    ours:str           # `body.conv1.weight`, `pool.p`, `neck.weight`, `head.weight`
    theirs:str         # Its key in `Found.weights`; empty: the project has it fixed, no file keeps it
    value:torch.Tensor # A view of what the file holds: transposed, reshaped, never computed


@dataclass(frozen=True, kw_only=True)
class Network:
    """What a project's networks do, whatever their weights: values of `SWITCHES`; None: as our body does it anyway.

    No field has a default: whoever adds a project looks each of them up."""
    pool:str|None        # Where the weights have no pooling power: 'average', 'max', 'own' of a face body
    neck:str|None        # Where the weights have no neck: 'none'
    judged:str|None      # What its own figures are of, 'after' or 'before' the neck; None: there is none
    stem_relu:bool|None  # Of a ResNet
    stem_pool:str|None   # Of a ResNet: 'padded', 'ceil'
    eps:float|None       # Of batch norms
    last_stride:int|None # Of a ResNet, as the project's own configurations have it
    mean:tuple|None      # Of pictures, in our order of channels, 0 to 1
    std:tuple|None       # Of pictures
    resize:str|None      # Filter of the pictures that it is judged on: 'bilinear', 'bicubic'


@dataclass(frozen=True, kw_only=True)
class Project:
    "A project whose weights are read"
    name:str               # For the report
    tells:Callable         # Of `Found`: are these its weights? Only by what no other project has
    rename:Callable        # Of `Found`: the `Part`s; keys that get no part must be in `spare`
    network:Network        # What its networks do
    told:Callable          # Of `Found`: switches that a file of its own tells, a dict that goes before `network`
    channels:str|None      # 'rgb', 'bgr'; None: its names do not tell, see `colour_order`; 'ask': nor may it be assumed
    spare:str              # Pattern of keys that are no part of the network: a margin's averages, pixel statistics


def as_they_are(
    found:Found, # The weights
)->Iterable[Part]: # Of a body
    "Names of a body that are ours already"
    return (Part(f'body.{k}', k, v) for k,v in found.weights.items())


def by_pattern(
    names:list, # Of `(pattern of their whole name, ours)`
    k:str,      # A name of theirs
)->str: # As it is where no pattern is its
    "Our name, by the first pattern that fits"
    return next((re.sub(old, new, k) for old,new in names if re.fullmatch(old, k)), k)


def nothing_told(
    found:Found, # The weights
)->dict: # None
    "No switch is told by the file"
    return {}
