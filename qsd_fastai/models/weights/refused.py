"Networks that are known by their names and not built here: what they are, and what to take in their place"
import re

from .project import Found

__all__ = ['refusal']


def _some(pattern):
    compiled = re.compile(pattern)
    return lambda found: next((k for k in found.weights if compiled.fullmatch(k)), None)


# the key that tells them, what they are, what helps
REFUSED = [
    (_some(r'b1\.\d\.norm1\.weight|classifier_1\.weight|bottleneck_1\.weight'),
     "TransReID with its jigsaw of patches (JPM), whose embedding is five tokens'", 'Take its baseline, JPM off'),
    (_some(r'(base\.)?sie_embed|cv_embed'),
     'a network that adds what it knows of the camera to a picture (SIE)', 'Take one that was trained without'),
    (_some(r'fcneck\.weight'),
     'SOLIDER with a smaller embedding (REDUCE_FEAT_DIM)', 'Take one that was trained without'),
    (lambda found: found.has('conv_6_sep.conv.weight', 'output_layer.bn1.running_mean') and 'output_layer.bn1.weight',
     'MobileFaceNet with GNAP, which weights a picture by the others of its batch', 'Take one with GDC'),
    (_some(r'quality\.\d\.weight'),
     'a network that gives the quality of a picture, and no embedding', 'Give its figures as labels of quality'),
    (_some(r'body\.\d+\.res_layer\.8\.weight'),
     'an IR network of 152 or 200 layers with bottlenecks', 'Take ir50 or ir101'),
]


def refusal(
    found:Found, # Weights, wrappers taken off
)->str|None: # None: they are none of these
    "What these weights are, where they are known and not built here, and what helps"
    told = ((tells(found), what, remedy) for tells,what,remedy in REFUSED)
    return next((f'{what}, as {key} tells. {remedy}.' for key,what,remedy in told if key), None)
