"Projects of person re-identification, and bodies as such: their names, and what their networks do otherwise than ours"
import re
from dataclasses import replace

import torch

from ..switches import unpacked
from .project import IMAGENET, Network, Part, Project, as_they_are, by_pattern, nothing_told

__all__ = ['BODY', 'PEOPLE', 'QSD_FASTAI']

# of weights that say nothing: an average, and whatever our body does
UNCHANGED = {'judged': None, 'stem_relu': None, 'stem_pool': None, 'eps': None, 'last_stride': None}


def renamed_by(prefixes):
    "Parts by the prefix of each name; a name without one stays"
    def rename(found):
        for k,v in found.weights.items():
            old = next((p for p in prefixes if k.startswith(p)), None)
            yield Part(k if old is None else prefixes[old] + k[len(old):], k, v)
    return rename


OURS = 'body.', 'pool.', 'neck.', 'head.', 'center.'


def _is_ours(found):
    ours = all(k.startswith(OURS) or k in ('_extra_state', 'n_averaged') for k in found.weights)
    return ours and any(k.startswith('body.') for k in found.weights) and (
        found.has('_extra_state') or any(k.startswith(('neck.', 'head.', 'pool.')) for k in found.weights))


def _own_switches(found):
    state = found.weights.get('_extra_state')
    if state is not None: return unpacked(state)
    found.notes.append('these weights do not say how their network was set: saved whole, or by an older version')
    return {}


QSD_FASTAI = Project(
    name='qsd_fastai', tells=_is_ours, rename=renamed_by({}), told=_own_switches, channels='rgb',
    spare=r'_extra_state|n_averaged|(head|center)\..*',
    network=Network(pool=None, neck=None, mean=None, std=None, resize=None, **UNCHANGED))


# The published networks of all three miss the ReLU of the stem
AGW = Project(
    name='AGW or QSD', channels='rgb', told=nothing_told, spare=r'',
    tells=lambda found: _is_base(found) and any(k.startswith(('base.NL_', 'global_pool.')) for k in found.weights),
    rename=renamed_by({'base.': 'body.', 'global_pool.': 'pool.', 'bottleneck.': 'neck.', 'classifier.': 'head.'}),
    network=Network(pool='average', neck='none', judged='after', stem_relu=False, stem_pool='padded', eps=1e-5,
                    last_stride=1, resize='bilinear', **IMAGENET))


def _is_base(found):
    return any(k.startswith('base.') for k in found.weights) and (
        found.has('bottleneck.weight') or found.has('classifier.weight'))


BOT = replace(AGW, name='BoT, or AGW without a trained pooling',
              tells=lambda found: _is_base(found) and any(k.startswith('base.layer1.') for k in found.weights))

# other bodies in the same frame
BASE = replace(AGW, name='a network with a base and a classifier', tells=_is_base, network=Network(
    pool='average', neck='none', resize='bilinear', mean=None, std=None, **UNCHANGED))


# OSNet: streams by letters, or numbered where a search placed the norms; what is behind a stage, as its last part
OSNET_NAMES = [(r'conv([23])\.2\.0\.(.+)', r'pool\1.0.\2'), (r'(conv\d\.\d\.conv2)a\.(.+)', r'\1.0.0.\2'),
               (r'(conv\d\.\d\.conv2)b\.(.+)', r'\1.1.\2'), (r'(conv\d\.\d\.conv2)c\.(.+)', r'\1.2.\2'),
               (r'(conv\d\.\d\.conv2)d\.(.+)', r'\1.3.\2'), (r'(conv\d\.\d\.conv2\.\d)\.layers\.(.+)', r'\1.\2')]


def _osnet(found):
    for k,v in found.weights.items():
        yield Part(f'head.{k[11:]}' if k.startswith('classifier.') else f'body.{by_pattern(OSNET_NAMES, k)}', k, v)


OSNET = Project(
    name="Torchreid's OSNet", channels='rgb', rename=_osnet, told=nothing_told, spare=r'',
    tells=lambda found: found.has('conv1.conv.weight', 'conv4.0.gate.fc1.weight', 'conv5.conv.weight'),
    network=Network(pool='own', neck='none', resize='bilinear', **IMAGENET, **UNCHANGED | {'eps': 1e-5}))


FASTREID_NAMES = renamed_by({'backbone.': 'body.', 'heads.pool_layer.': 'pool.', 'heads.bottleneck.0.': 'neck.',
                             'heads.weight': 'head.weight'})
FASTREID_POOLS = {'GlobalAvgPool': 'average', 'FastGlobalAvgPool': 'average', 'GlobalMaxPool': 'max',
                  'GeneralizedMeanPooling': 'gem', 'GeneralizedMeanPoolingP': 'gem'}


def _configuration(found):
    "What FastReID's trainer wrote beside the weights: `config.yaml`"
    file = found.file.with_name('config.yaml')
    text = file.read_text(encoding='utf-8', errors='replace')[:1_000_000] if file.is_file() else ''
    return dict(re.findall(r'^ *(POOL_LAYER|LAST_STRIDE): *[\'"]?(\w+)', text, re.MULTILINE))


def _fastreid_pool(found):
    "'gem', 'average' or 'max'; only a power that was trained leaves a trace in the weights"
    if found.has('heads.pool_layer.p'): return 'gem'
    if told := _configuration(found).get('POOL_LAYER'):
        if told in FASTREID_POOLS: return FASTREID_POOLS[told]
        raise ValueError(f'config.yaml beside it pools by {told}. Only {", ".join(FASTREID_POOLS)} are built.')
    return 'gem' if any('.NL_' in k for k in found.weights) else 'average'


def _fastreid(found):
    for o in FASTREID_NAMES(found):
        body = o.ours.removeprefix('body.')
        if o.theirs.startswith('pixel_'): continue
        yield o._replace(ours=f'body.{by_pattern(OSNET_NAMES, body)}') if body != o.ours else o
    # its AGW pools with a power that is fixed at 3, and no weight
    if _fastreid_pool(found) == 'gem' and not found.has('heads.pool_layer.p'):
        yield Part('pool.p', '', torch.full((1,), 3.))


def _fastreid_told(found):
    "Pooling and stride of its configuration; and older files keep how pictures of 0 to 255 are normalised"
    pool,stride = _fastreid_pool(found),_configuration(found).get('LAST_STRIDE')
    if not found.has('heads.pool_layer.p'):
        how = 'POOL_LAYER of config.yaml beside the file' if _configuration(found) else \
            "its published configurations: its other poolings leave no trace, lay the run's config.yaml beside the file"
        found.notes.append(f'no pooling power was trained: {"a fixed 3" if pool == "gem" else pool}, as {how}')
    told = {'pool': pool} | ({'last_stride': int(stride)} if stride in ('1', '2') else {})
    values = [found.weights.get(k) for k in ('pixel_mean', 'pixel_std')]
    if any(v is None or v.numel() != 3 or not v.is_floating_point() for v in values): return told
    mean,std = ([float(o)/255 for o in v.flatten()] for v in values)
    return told | {'mean': mean, 'std': std}


FASTREID = Project(
    name='FastReID', channels='rgb', rename=_fastreid, told=_fastreid_told, spare=r'pixel_(mean|std)',
    tells=lambda found: any(k.startswith('backbone.') for k in found.weights)
                        and any(k.startswith('heads.') for k in found.weights),
    network=Network(pool='average', neck='none', judged='after', stem_relu=True, stem_pool='ceil', eps=1e-5,
                    last_stride=1, resize='bicubic', **IMAGENET))


# Torchreid, and any network of one body and one layer behind it
TORCHREID = Project(
    name='Torchreid, or a body with a classifier', channels='rgb', told=nothing_told, spare=r'',
    tells=lambda found: found.has('classifier.weight'),
    rename=renamed_by({'classifier.': 'head.', '': 'body.'}),
    network=Network(pool='average', neck='none', resize='bilinear', mean=None, std=None, **UNCHANGED))


BODY = Project(
    name='a body', channels=None, told=nothing_told, spare=r'', tells=lambda found: True, rename=as_they_are,
    network=Network(pool='average', neck='none', resize=None, mean=None, std=None, **UNCHANGED))

PEOPLE = [AGW, BOT, BASE, FASTREID, OSNET]
