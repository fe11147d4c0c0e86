"Projects of person re-identification with transformers and CLIP: their names, and what is judged"
import re
from dataclasses import replace

import torch

from .people import UNCHANGED, renamed_by
from .project import HALF, IMAGENET, Network, Part, Project, by_pattern, nothing_told

__all__ = ['TRANSFORMERS']

# all three publish what they measure before the neck, TEST.NECK_FEAT 'before' in each of their configurations
BEFORE = {**UNCHANGED, 'pool': 'own', 'neck': 'none', 'resize': 'bilinear', 'judged': 'before'}
BEHIND = {'bottleneck.': 'neck.', 'classifier.': 'head.'}


TRANSREID = Project(
    name="TransReID's ViT", channels='rgb', told=nothing_told, spare=r'base\.fc\.(weight|bias)',
    tells=lambda found: found.has('base.cls_token', 'base.pos_embed'),
    rename=renamed_by({'base.': 'body.', **BEHIND}), network=Network(**HALF, **BEFORE))


SWIN = [(r'base\.patch_embed\.projection\.(.+)', r'body.patch.\1'),
        (r'base\.patch_embed\.norm\.(.+)', r'body.norm0.\1'),
        (r'base\.stages\.(\d)\.blocks\.(\d+\.norm[12]\..+)', r'body.stage\1.\2'),
        (r'base\.stages\.(\d)\.blocks\.(\d+\.attn\.)w_msa\.(.+)', r'body.stage\1.\2\3'),
        (r'base\.stages\.(\d)\.blocks\.(\d+\.)ffn\.layers\.0\.0\.(.+)', r'body.stage\1.\2mlp.0.\3'),
        (r'base\.stages\.(\d)\.blocks\.(\d+\.)ffn\.layers\.1\.(.+)', r'body.stage\1.\2mlp.2.\3'),
        (r'base\.norm3\.(.+)', r'body.norm.\1'), (r'bottleneck\.(.+)', r'neck.\1'), (r'classifier\.(.+)', r'head.\1')]


def _swin(found):
    for k,v in found.weights.items():
        down = re.fullmatch(r'base\.stages\.([012])\.downsample\.(.+)', k)
        meaning = re.fullmatch(r'base\.semantic_embed_([wb])\.([012])\.(weight|bias)', k)
        if down: ours = f'body.merge{int(down[1]) + 1}.{down[2]}'
        elif meaning: ours = f'body.merge{int(meaning[2]) + 1}.{"scale" if meaning[1] == "w" else "shift"}_{meaning[3]}'
        else: ours = by_pattern(SWIN, k)
        yield Part(ours, k, v)


# it normalises maps of all stages, and weights those behind the last: neither comes into its embedding
SOLIDER = Project(
    name="SOLIDER's Swin", channels='rgb', rename=_swin, told=lambda found: {'semantic': .2},
    spare=r'base\.(norm[012]|semantic_embed_[wb]\.3)\..+|.+\.relative_position_index',
    tells=lambda found: found.has('base.patch_embed.projection.weight', 'base.norm3.weight'),
    network=Network(**HALF, **BEFORE))


# CLIP's names, and timm's in their place
VIT = [(r'class_embedding', 'cls_token'), (r'positional_embedding', 'pos_embed'), (r'proj', 'proj.weight'),
       (r'conv1\.(.+)', r'patch_embed.proj.\1'), (r'ln_pre\.(.+)', r'norm_pre.\1'), (r'ln_post\.(.+)', r'norm.\1'),
       (r'transformer\.resblocks\.(\d+)\.ln_([12])\.(.+)', r'blocks.\1.norm\2.\3'),
       (r'transformer\.resblocks\.(\d+)\.attn\.in_proj_(.+)', r'blocks.\1.attn.qkv.\2'),
       (r'transformer\.resblocks\.(\d+)\.attn\.out_proj\.(.+)', r'blocks.\1.attn.proj.\2'),
       (r'transformer\.resblocks\.(\d+)\.mlp\.c_fc\.(.+)', r'blocks.\1.mlp.fc1.\2'),
       (r'transformer\.resblocks\.(\d+)\.mlp\.c_proj\.(.+)', r'blocks.\1.mlp.fc2.\2')]
VIEWS = {'class_embedding': lambda v: v[None, None], 'positional_embedding': lambda v: v[None], 'proj': lambda v: v.T}


def _clip(found):
    vit = _is_clip_vit(found)
    for k,v in found.weights.items():
        theirs = k.removeprefix('image_encoder.')
        second = found.weights.get(k.replace('bottleneck.', 'bottleneck_proj.'))
        if k.startswith('bottleneck_proj.'): continue
        # two necks for the two parts of the embedding: one, for a batch norm knows nothing of its neighbours
        if k.startswith('bottleneck.'):
            yield Part(f'neck.{k.removeprefix("bottleneck.")}', k, torch.cat([v, second]) if v.ndim else v)
        elif theirs == k: yield Part('head.weight' if k == 'classifier.weight' else k, k, v)
        else:
            ours = by_pattern(VIT, theirs) if vit else theirs
            yield Part(f'body.{ours}', k, VIEWS[theirs](v) if vit and theirs in VIEWS else v)


def _is_clip_vit(found): return found.has('image_encoder.class_embedding', 'bottleneck_proj.weight')


# what reads texts has done its work when the tower of pictures is trained
CLIP_VIT = Project(
    name="CLIP-ReID's ViT", channels='rgb', told=nothing_told, tells=_is_clip_vit, rename=_clip,
    spare=r'(prompt_learner|text_encoder)\..+|classifier_proj\.weight', network=Network(**HALF, **BEFORE))

CLIP_RN50 = replace(
    CLIP_VIT, name="CLIP-ReID's ResNet-50", network=Network(**IMAGENET, **BEFORE),
    tells=lambda found: found.has('image_encoder.attnpool.c_proj.weight', 'bottleneck_proj.weight'))

TRANSFORMERS = [TRANSREID, SOLIDER, CLIP_VIT, CLIP_RN50]
