"""Quality self-distillation (QSD; Ou et al., IEEE TMM 2024): the better picture of an identity teaches the worse one.

The whole method, in the order it happens: pictures are paired, the pairs that teach are kept, what student and teacher
differ by is summed over levels (all in `qsd_loss`), and the sum joins the loss of a fastai learner
(`QualityDistillation`). What the paper answers in one way can be answered in others: who teaches (`teachers`), how much
of the gradient the better picture keeps, which pictures are paired, what is taught (`taught`), and how strong it is
beside the other losses (`balance`)."""
import warnings
from math import inf
from numbers import Real

import torch
from fastai.callback.core import Callback
from fastai.callback.training import GradientAccumulation
from fastai.torch_core import apply, get_model
from torch.func import functional_call
from torch.nn.parallel import DistributedDataParallel

from .balance import GradientBalance
from .choices import one_of
from .distributed import summed
from .fits import is_judging
from .qsd_loss import QSDLoss, grouped_pairs, identity_pairs, partner_pairs
from .shown import settings_text, shown
from .teachers import Teacher

__all__ = ['PRESETS', 'QualityDistillation', 'check_halves']


_PAPER = dict(weight=1., balance=False, pairs='partner', forward='separate', teacher='same', stop=1., tau=.3,
              amplify='reference', map_norm='none', distance='l2', logits='cosine', relations=0., mean=0.)
PRESETS = { # What `QualityDistillation` is made with, where its arguments are not given
    # Ou et al., IEEE TMM 2024; the released code also counts unknown labels as equal: `unlabelled_as_equal=True`
    'published': _PAPER,
    'batch': {**_PAPER, 'pairs': 'batch'}, # The same among the pictures of a batch, without a second forward pass
    # a picture and its degraded copy come together, as strongly as they are pulled to their identity; the picture
    # moves the less the worse its copy is
    'copies': {**_PAPER, 'pairs': 'copies', 'stop': 'gap', 'balance': True, 'tau': 0., 'level_weights': {'emb': 1.}},
}


class QualityDistillation(Callback):
    """Adds QSD to the training loss. Nothing else changes: with `weight=0` a run is the one without it, bit for bit.

    `pairs='batch'` pairs all pictures of one identity in the batch and costs no forward pass. `pairs='partner'` is the
    published way: the loader gives each picture a partner from its whole identity (`partners=True`), and only
    distillation looks at the partners. With `forward='separate'` they pass through the network after the others, by
    themselves: batch norm normalises each half by its own statistics and moves its running ones twice a step. With
    `'joint'` both pass together, and the partners are in the statistics of batch norm, unless the weight is 0.
    `pairs='copies'` pairs each picture with its degraded copy, which the loader adds (`copies=True`) with a quality
    that is known; all losses see the copies.

    `teacher='same'` is the published way: the network that is trained teaches itself. With 'frozen' the teacher is what
    the fit began with, with 'ema' the moving average of the weights; either looks at the same pictures once more, with
    the statistics of evaluation and without a gradient.

    A weight of 1 beside a margin loss is next to nothing, beside another much. With `balance=True` it is counted in
    the norm of the gradient at the embedding: 1 is as strong as the loss without it. Norms are averaged over batches;
    `qsd_scale` among the terms is the factor that came out.

    The model must give `Recognition(logits, emb, levels, ...)` in training; targets must be `(identity, quality, ...)`.
    Levels are those of the model, the embedding and the logits. A weight can be a function of the progress of training:
    fastai's, `SchedCos(0., 1.)` say, or one with a name, since a learner with a lambda in it cannot be exported."""
    # before gradient accumulation, which comes before the cast to plain tensors, and that before mixed precision
    order = GradientAccumulation.order - 4
    run_valid = False

    def __init__(self,
        weight=None,              # Of the whole term, 0 or more: a number or a function; 'auto': 1, with `balance`
        level_weights=None,       # A number or function a level, or name -> it, others 0; not given: 1, logits .1
        pairs:str=None,           # 'batch', 'partner' or 'copies'
        forward:str=None,         # 'separate' or 'joint', for `pairs='partner'`
        strict:bool=False,        # Is a fit that begins with an epoch that teaches nothing an error? Else a warning
        teacher:str=None,         # Network of the better side: 'same', 'ema' or 'frozen'
        decay:float=.999,         # Of 'ema', a batch, 0 to 1
        balance:bool=None,        # Is the weight counted in gradients at the embedding?
        labels:str='given',       # Quality that pairs are sorted by; as controls 'reversed', or 'shuffled' at random
        preset:str='batch',       # One of `PRESETS`: what those arguments are that are not given
        **kwargs,                 # For `QSDLoss`: `tau`, `stop`, `amplify`, `map_norm`, `distance`, `relations`, `mean`
    ):
        own = {'weight': weight, 'pairs': pairs, 'forward': forward, 'teacher': teacher, 'balance': balance,
               'level_weights': level_weights}
        settings = PRESETS[one_of('preset', preset, *PRESETS)] | {k: v for k,v in own.items() if v is not None}
        weight,pairs,forward,teacher,balance,level_weights = (settings.pop(k, None) for k in own)
        if teacher != 'same': settings['stop'] = 1. # Unless it is asked for, which is refused below
        kwargs = settings | kwargs
        if isinstance(weight, str) and weight == 'auto': weight,balance = 1.,True
        if not callable(weight) and not (isinstance(weight, Real) and 0 <= weight < inf):
            raise ValueError(f"weight is {weight!r}. Give 0 or more, or a function of the progress of training, "
                             "or 'auto'.")
        if not 0 <= decay < 1: raise ValueError(f'decay is {decay}. Give 0 or more, and less than 1.')
        named = level_weights is None or isinstance(level_weights, dict)
        self.weight,self.level_weights = weight, level_weights if named else tuple(level_weights)
        self.pairs = one_of('pairs', pairs, 'batch', 'partner', 'copies')
        self.forward = one_of('forward', forward, 'separate', 'joint')
        self.labels = one_of('labels', labels, 'given', 'reversed', 'shuffled')
        self.teacher = one_of('teacher', teacher, 'same', 'ema', 'frozen')
        self.decay,self.balance,self.strict,self.qsd,self.terms = decay,balance,strict,QSDLoss(**kwargs),{}
        if teacher != 'same' and self.qsd.stop != 1:
            raise ValueError(f"stop is {self.qsd.stop!r}, but a teacher {teacher!r} gets no gradient in any case. "
                             "Leave stop out, or use teacher='same'.")
        seen = (1.,) if level_weights is None else level_weights
        seen = tuple(seen.values() if isinstance(seen, dict) else seen)
        taught = any(callable(o) or o for o in (*seen, self.qsd.relations, self.qsd.mean))
        if not taught: raise ValueError('level_weights, relations and mean are all 0: nothing is taught. Give one.')
        late = [level_weights.get(k) for k in ('emb', 'logits')] if isinstance(level_weights, dict) else seen[-2:]
        if balance and not any(callable(o) or o for o in (*late, self.qsd.relations, self.qsd.mean)):
            raise ValueError("The weight is counted at the embedding (balance, 'auto'), and no term reaches it. Give "
                             "level_weights one for 'emb' or 'logits', or a number as weight.")
        self.whole = self.others = self.network = None
        self.scaling = GradientBalance()
        self.n_known = self.n_candidates = self.n_kept = self.n_batches = self.taught = 0

    def __repr__(self):
        of_loss = settings_text(self.qsd).partition('), ')[2]  # its level weights are those of this
        return f'{shown(self)[:-1]}, {of_loss})'

    def _now(self, value): return float(value(self.pct_train) if callable(value) else value)

    def before_fit(self):
        if is_judging(self.learn): return
        self.taught = 0 # Epochs with a pair that was kept
        self.scaling,self.network = GradientBalance(),None
        if self.teacher == 'same' or self.weight == 0: return
        self.network = Teacher(get_model(self.learn.model), self.decay if self.teacher == 'ema' else None)

    def after_step(self):
        if self.network is not None: self.network.follow(get_model(self.learn.model))

    def after_fit(self):
        if not is_judging(self.learn): self.network = None # Not exported with the learner

    def state_dict(self):
        "What a fit that is resumed needs"
        norms,teacher = self.scaling.norms,self.network
        return {'norms': None if norms is None else norms.cpu(),
                'teacher': None if teacher is None else teacher.network.state_dict()}

    def load_state_dict(self,
        state:dict, # Of `state_dict`
    ):
        "Go on from there"
        norms,device = state['norms'],next(self.learn.model.parameters()).device
        self.scaling.norms = None if norms is None else norms.to(device)
        if state['teacher'] is not None: self.network.network.load_state_dict(state['teacher'])

    def before_train(self): self.n_known = self.n_candidates = self.n_kept = self.n_batches = 0

    def before_batch(self):
        yb = [y.as_subclass(torch.Tensor) for y in self.yb[:2]]
        if len(yb) < 2 or yb[0].dim() != 1 or yb[1].shape != yb[0].shape:
            shapes = [tuple(y.shape) for y in self.yb]
            raise ValueError(f'The targets are {shapes}. QualityDistillation needs (identity, quality, ...), of (bs,): '
                             'put `IdentityBlock` and `QualityBlock` first among those of the DataBlock.')
        self.ids,self.quality = yb
        self.n_known = self.n_known + (~self.quality.isnan()).sum()
        if self.labels == 'reversed': self.quality = 100 - self.quality
        elif self.labels == 'shuffled': self.quality = self.quality[self._dealt(len(self.quality))]
        self.others,self.joint = None,False
        if self.pairs == 'partner': self._set_partners_aside()
        elif getattr(self.learn.dl, 'partners', False):
            raise ValueError(f"pairs is '{self.pairs}', but the loader adds partners. "
                             "Use pairs='partner', or a loader without `partners=True`.")
        elif self.pairs == 'copies': check_halves(self.ids, 'copies', self.learn.dl, self.iter)

    def _dealt(self, n):
        "An order by a generator of its own: nothing else that is drawn changes. The two of a known pair stay a pair"
        rng = torch.Generator().manual_seed((torch.initial_seed()*1_000_003 + int(self.train_iter)) % 2**63)
        if self.pairs == 'batch': return torch.randperm(n, generator=rng).to(self.quality.device)
        turned = torch.rand(n//2, generator=rng) < .5
        first = torch.arange(n//2) + turned*(n//2)
        return torch.cat([first, (first + n//2) % n]).to(self.quality.device)

    def _set_partners_aside(self):
        n = check_halves(self.ids, 'partners', self.learn.dl, self.iter)
        # at weight 0 nothing but the first half is trained on, whichever way: the baseline
        self.joint = self.forward == 'joint' and self._now(self.weight) != 0
        if not self.joint:
            self.others = tuple(x[n:].as_subclass(torch.Tensor) for x in self.xb)
            self.learn.xb = tuple(x[:n] for x in self.xb)
        self.learn.yb = tuple(y[:n] for y in self.yb)

    def after_pred(self):
        if not hasattr(self.pred, 'levels'):
            raise ValueError(f'The model returns {type(self.pred).__name__} in training. '
                             'QualityDistillation needs `Recognition`, as `Recognizer` returns it.')
        self.whole = self.pred # all that distillation sees; the other losses, metrics and counts see the first half
        if self.joint:
            n = len(self.ids)//2
            self.learn.pred = apply(lambda t: t[:n], self.pred)

    def after_loss(self):
        weight = self._now(self.weight)
        with torch.set_grad_enabled(weight != 0): value = self._distill(trace=weight != 0)
        self.terms = {'qsd': value.detach(), **{f'qsd_{k}': v for k,v in (self.qsd.terms | self.qsd.stats).items()}}
        self.terms['qsd_pairs'] = self.qsd.n_pairs/max(self.qsd.n_candidates, 1)
        self.n_candidates,self.n_kept = self.n_candidates + self.qsd.n_candidates, self.n_kept + self.qsd.n_pairs
        self.n_batches += 1
        if weight == 0: return
        if self.balance:
            self.terms['qsd_scale'] = self.scaling.factor(self.learn.loss_grad, value, self.embs)
            weight = weight*self.terms['qsd_scale']
        self.learn.loss_grad = self.learn.loss_grad + weight*value
        self.learn.loss = self.learn.loss_grad.clone()

    def _distill(self, trace):
        passes = [self.whole] if self.others is None else [self.whole, self._second_pass(trace)]
        self.embs = [o.emb for o in passes]
        levels = _joined(passes)
        names = [f'level{i + 1}' for i in range(len(levels) - 2)] + ['emb', 'logits']
        weights = tuple(map(self._now, self.weights_of(names)))
        return self.qsd(levels, self.quality, self._pairs(), names, weights, self._taught_by(), self.ids)

    def weights_of(self,
        names:list, # Of all levels: those of the model, 'emb' and 'logits'
    )->tuple: # A number or a function a level
        "The weight of each level; ValueError where one is given to a level that is not there"
        given = self.level_weights
        if given is None: return (1.,)*(len(names) - 1) + (.1,)
        if not isinstance(given, dict): return given
        for name in given: one_of('level_weights', name, *names)
        return tuple(given.get(name, 0.) for name in names)

    def _pairs(self):
        n,dl,device = len(self.ids),self.learn.dl,self.ids.device
        if self.pairs != 'batch': return partner_pairs(n//2, device)
        if not getattr(dl, 'by_identity', False): return identity_pairs(self.ids)
        # the loader says where the pictures of an identity stand: nothing need be asked of the device
        return grouped_pairs(n, dl.n_imgs, dl.copies, device)

    def _taught_by(self):
        if self.network is None: return None
        inputs = [tuple(x.as_subclass(torch.Tensor) for x in self.xb), *([self.others] if self.others else [])]
        return _joined([self.network(*x) for x in inputs])

    def _second_pass(self, trace):
        "The partners' outputs; without `trace`, batch norm and random generators stay as they are"
        model = self.learn.model
        # the wrapper would broadcast buffers that the first pass needs for its gradients (pytorch issue 175024);
        # it reduces gradients all the same
        if isinstance(model, DistributedDataParallel): model = model.module
        if trace: return model(*self.others)
        buffers = {k: b.clone() for k,b in model.named_buffers()}
        with torch.random.fork_rng({x.device for x in self.others if x.is_cuda}):
            return functional_call(model, buffers, self.others)

    def after_batch(self): self.whole = self.others = self.embs = None # free the feature maps

    @property
    def teaches_nothing(self):
        "Why no pair was kept since the epoch began, and what helps; empty where one was, or none could matter"
        if self.n_kept or not self.n_batches or not self._now(self.weight): return ''
        if self.n_known == 0:
            return ('QualityDistillation met no picture of known quality in a whole epoch, so it taught nothing. Fill '
                    'the column `quality` of the table, with `similarity_quality` say, or set weight=0.')
        if self.n_candidates == 0:
            return ('QualityDistillation met no two pictures of one identity in a batch in a whole epoch, so it taught '
                    "nothing. Use n_imgs=2 or more, or pairs='partner', or set weight=0.")
        return (f'QualityDistillation kept none of {self.n_candidates} pairs in a whole epoch, so it taught nothing: '
                'the labels of their pictures are equal or unknown, or differ by too much for tau. Look at the column '
                '`quality` of the table, or set weight=0.')

    def after_train(self):
        if self.network is not None: self.network.settle()
        counts,device = (self.n_known, self.n_candidates, self.n_kept),next(self.learn.model.parameters()).device
        counts = summed(torch.tensor([int(o) for o in counts], device=device))
        self.n_known,self.n_candidates,self.n_kept = counts.tolist()
        self.taught += bool(self.n_kept > 0)
        if not (said := self.teaches_nothing): return
        if self.strict and not self.taught: raise ValueError(said)
        warnings.warn(said, stacklevel=2)


def check_halves(
    ids,      # `(bs,)`
    what:str, # 'partners' or 'copies', as the argument of the loader is called
    dl,       # The loader
    i:int=0,  # Number of the batch in the epoch: a GPU, which would be waited for, is asked at the first alone
)->int: # Pictures in a half
    "`ValueError` where the second half of a batch is not of the identities of the first, or the loader adds none"
    n = len(ids)//2
    asks = not i or not ids.is_cuda
    if not getattr(dl, what, True) or len(ids) % 2 or (asks and not torch.equal(ids[:n], ids[n:])):
        raise ValueError(f'The second half of a batch is not the {what} of the first. '
                         f'Make the loader with `{what}=True`.')
    return n


def _joined(
    passes, # `Recognition` of each pass through a network
)->list: # Levels, embedding and logits of all pictures
    found = zip(*([*o.levels, o.emb, o.logits] for o in passes))
    return [torch.cat(parts) if len(parts) > 1 else parts[0] for parts in found]
