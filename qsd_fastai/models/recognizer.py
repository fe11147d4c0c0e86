"A recogniser: body, pool, neck, head, and what comes out of it"
from collections.abc import Callable, Sequence

import torch
from fastai.torch_core import params
from timm.layers import SelectAdaptivePool2d
from torch import nn
from torch.utils._pytree import register_pytree_node

from ..tensors import full_precision
from .bodies.by_name import make_body
from .bodies.given import given_body
from .heads.linear import LinearHead
from .layers import BNNeck, GeM
from .levels import level_indices
from .preprocess import preprocess_of
from .switches import packed, plan_switches, switches_of, unpacked

__all__ = ['Recognition', 'Recognizer', 'recognizer_splitter']


class Recognition(tuple):
    "What a `Recognizer` returns in training: a tuple `(logits, emb, levels, pooled)` with named parts"
    # a tuple with a one-argument constructor: fastai rebuilds it in fit, get_preds and mixed precision,
    # where a NamedTuple or dict fails
    logits = property(lambda self: self[0], doc='(bs, n_ids)')
    emb = property(lambda self: self[1], doc='(bs, nf) after the neck: for distillation and for judging')
    levels = property(lambda self: self[2], doc='tuple of (bs, c, h, w) maps, coarser and coarser')
    pooled = property(lambda self: self[3], doc='(bs, nf) before the neck: for the triplet and center losses')


register_pytree_node(Recognition, lambda o: (list(o), None), lambda parts, _: Recognition(parts),
                     serialized_type_name='qsd_fastai.models.recognizer.Recognition')


class Recognizer(nn.Module):
    "Picture to embedding, and in training to logits and levels as well (the BNNeck design of Luo et al., CVPRW 2019)"
    _compiled = None # What is called in place of `_trunk`

    def __init__(self,
        body:nn.Module|str,                 # A timm model, one of ours, the name of one, or as `given_body` takes it
        n_ids:int,                          # Training identities
        pool:nn.Module|None=None,           # Maps to `(bs, nf)`; None: `GeM` for plain maps, else the body's own
        neck:nn.Module|Callable|None=None,  # Module, or function of `nf`; None: `BNNeck`, nothing for a face body
        head:nn.Module|Callable|None=None,  # Module, or function of `(nf, n_ids)`; None: `LinearHead`
        levels:Sequence[int|str]|None=None, # Positions or names of the body's stages; None: see `level_indices`
        **kwargs,                           # For `make_body` when `body` is a name: `pretrained`, `last_stride`, ...
    ):
        super().__init__()
        if n_ids < 1: raise ValueError(f'n_ids is {n_ids}. A recogniser is trained on at least one identity.')
        if isinstance(body, str): body = make_body(body, **kwargs)
        elif kwargs:
            raise ValueError(f'{", ".join(kwargs)} is for a body given by name. Hand it to make_body yourself.')
        else: body = given_body(body)
        if isinstance(body, str): body = make_body(body)
        self.body,self.n_ids,self.level_indices = body, n_ids, level_indices(body, levels)
        self.asked = {name for name,given in (('pool', pool), ('neck', neck)) if given is not None}
        self.pool = GeM() if pool is None and _has_plain_maps(body) else pool
        if pool is not None and hasattr(body, 'drop_head'): body.drop_head()
        nf = body.num_features if self.pool is not None else getattr(body, 'head_hidden_size', body.num_features)
        if neck is None: neck = nn.Identity if getattr(body, 'own_embedding', False) else BNNeck
        if head is None: head = LinearHead
        self.neck = neck if isinstance(neck, nn.Module) else neck(nf)
        self.head = head if isinstance(head, nn.Module) else head(nf, n_ids)
        self.embed_dim = nf

    def get_extra_state(self): return packed(switches_of(self))

    def set_extra_state(self, state): plan_switches(self, unpacked(state)).carry_out(self)

    def _load_from_state_dict(self, state_dict, prefix, *args):
        # weights saved without it, older ones say, leave all as it is
        state_dict.setdefault(f'{prefix}_extra_state', self.get_extra_state())
        super()._load_from_state_dict(state_dict, prefix, *args)

    @property
    def preprocess(self):
        "What pictures the body wants, a `Preprocess`; None: it does not say"
        return preprocess_of(self.body)

    def pooled(self,
        final, # Of the body: `(bs, c, h, w)`, `(bs, h, w, c)`, `(bs, tokens, c)`, or `(bs, nf)`, already pooled
    ): # `(bs, nf)`, at least float32
        if final.ndim == 2: emb = final
        elif self.pool is None: emb = self.body.forward_head(final, pre_logits=True)
        else: emb = self.pool(_as_maps(final, self.body)).flatten(1)
        return full_precision(emb)

    def _trunk(self, x):
        # no levels in evaluation: get_preds would keep the maps of a whole gallery
        if not self.training: return self.neck(self.pooled(self.body.forward_features(x)))
        final,levels = self.body.forward_intermediates(x, indices=self.level_indices)
        pooled = self.pooled(final)
        return self.neck(pooled), tuple(levels), pooled

    def forward(self,
        x, # `(bs, 3, height, width)`
    ): # Training: `Recognition`; evaluation: `(bs, nf)`, the embedding after the neck, not normalised
        found = (self._compiled or self._trunk)(x)
        if not self.training: return found
        emb,levels,pooled = found
        return Recognition((self.head(emb), emb, levels, pooled))

    def compile(self,
        **kwargs, # For `torch.compile`
    ):
        """All up to the embedding as one graph, and the head as another one; a copy is the plain network.

        Within one graph nobody could ask for the gradient at the embedding, as `GradientBalance` does."""
        self._compiled = torch.compile(self._trunk, **kwargs)
        self.head.compile(**kwargs)

    def __getstate__(self):
        "With what no weights say, for readers that do not run what is in a file"
        kept = {k: v for k,v in super().__getstate__().items() if k != '_compiled'}
        return {**kept, '_extra_state': self.get_extra_state()}

    def __setstate__(self, state): super().__setstate__({k: v for k,v in state.items() if k != '_extra_state'})


def _has_plain_maps(body):
    "Does the body end in (bs, num_features, h, w) maps with nothing but pooling behind them?"
    head = getattr(body, 'head', None)
    pool = getattr(body, 'global_pool', None)
    if not isinstance(pool, nn.Module): pool = getattr(head, 'global_pool', None)
    return (isinstance(pool, SelectAdaptivePool2d) and getattr(body, 'output_fmt', 'NCHW') == 'NCHW'
            and isinstance(getattr(head, 'norm', nn.Identity()), nn.Identity)
            and getattr(body, 'head_hidden_size', body.num_features) == body.num_features)


def _as_maps(x, body):
    if x.ndim == 3: return x[:, getattr(body, 'num_prefix_tokens', 0):].transpose(1, 2).unsqueeze(-1)
    return x.permute(0, 3, 1, 2) if getattr(body, 'output_fmt', 'NCHW') == 'NHWC' else x


def recognizer_splitter(
    model, # A `Recognizer`
): # Two lists of parameters
    """Parameter groups for fastai's `freeze` and discriminative rates: body, then pool, neck and head.

    What stays still is in neither."""
    still = {id(getattr(m, name)) for m in model.modules() for name in getattr(m, 'still', ())}
    def moving(*parts): return [p for part in parts if part is not None for p in params(part) if id(p) not in still]

    return [moving(model.body), moving(model.pool, model.neck, model.head)]
