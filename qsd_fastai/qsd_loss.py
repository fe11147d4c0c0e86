"""The loss of quality self-distillation (QSD; Ou et al., IEEE TMM 2024): which pairs teach, and what they differ by.

Pictures are paired (`identity_pairs`, `partner_pairs`), the pairs that teach are kept (`select_pairs`), and what
student and teacher differ by is summed over levels (`QSDLoss`)."""
import torch
import torch.nn.functional as F
from torch import nn

from .choices import one_of
from .taught import energy_map, held, identity_mean_gap, relation_gap
from .tensors import full_precision

__all__ = ['QSDLoss', 'identity_pairs', 'partner_pairs', 'select_pairs']


def identity_pairs(
    ids:torch.Tensor, # `(bs,)` identity of each picture of a batch
): # Two index tensors `(n_pairs,)`, `first < second`
    "All pairs of different pictures of one identity"
    ids = ids.as_subclass(torch.Tensor)
    return (ids[:, None] == ids[None]).triu(1).nonzero(as_tuple=True)


def partner_pairs(
    n:int,       # Pictures in the first half of the batch
    device=None, # Where the indices are made
): # Two index tensors `(n,)`
    "The pairs `(k, n + k)`: the second half of the batch holds the partners of the first"
    first = torch.arange(n, device=device)
    return first, first + n


def select_pairs(
    quality:torch.Tensor,           # `(bs,)`, 0 to 100, NaN = unknown
    pairs:tuple,                    # Two index tensors `(n_pairs,)`
    tau:float=.3,                   # Share of the mean difference that is too small and, mirrored, too large; 0: none
    unlabelled_as_equal:bool=False, # Do pairs of unknown quality count as equal in the mean, as in the published code?
): # Indices `(teacher, student)`, `(n_kept,)` each
    """The pairs that teach: their better picture is the teacher, their worse one the student.

    Kept is a pair whose difference in quality `d` is neither small nor extreme beside the mean difference `m`:
    `tau*m <= d <= 100 - tau*(100 - m)`, and `d > 0`. A pair of unknown quality is never kept.
    The mean is over the pairs given: with several processes, each has its own."""
    first,second = pairs
    quality = full_precision(quality.as_subclass(torch.Tensor))
    gap = quality[first] - quality[second]
    known = ~gap.isnan()
    d = torch.where(known, gap.abs(), 0.)
    n = torch.tensor(len(d), device=d.device) if unlabelled_as_equal else known.sum()
    m = d.sum()/n.clamp(min=1)
    keep = known & (d > 0) & (d >= tau*m) & (d <= 100 - tau*(100 - m))
    first,second,gap = first[keep], second[keep], gap[keep]
    return torch.where(gap > 0, first, second), torch.where(gap > 0, second, first)


class QSDLoss(nn.Module):
    """The distance of each student to its teacher, summed over levels.

    A level of vectors costs `1 - cosine`. A level of maps or tokens costs the squared difference of energy maps,
    amplified by `2/(max - min)` over the students' maps; unless `map_norm='l2'` that grows with the square of the
    activations, as published. A term is exactly 0, with a graph, where no pair is kept or the students' maps are
    constant.

    As published (`stop=1`), gradients reach students only. With 0 both pictures of a pair move towards each other; with
    'gap' the teacher keeps the more of its gradient the nearer the two are in quality, and none at a gap of 100: `stop`
    is then the gap in quality, of 100. `mean` has no pairs to take a gap from: with 'gap' the mean gets no gradient.

    Sums run in float32 or better, also under autocast. Everything is of the batch at hand: with several processes, each
    has its own pairs, maximum and minimum."""
    def __init__(self,
        level_weights:tuple=(1., 1., 1., 1., .1), # A factor a level; the paper's: three maps, embedding, logits
        tau:float=.3,                             # Of `select_pairs`, 0 to 1
        amplify:str='reference',                  # Gradients pass by max and min; 'detached': not; 'none': factor 1
        map_norm:str='none',                      # 'l2': each energy map has length 1, as in attention transfer
        distance:str='l2',                        # Between energy maps: 'l2', squared, or 'l1'
        unlabelled_as_equal:bool=False,           # Of `select_pairs`
        stop=1.,                                  # Share of the gradient that teachers do not get, 0 to 1, or 'gap'
        logits:str='cosine',                      # What the level `logits` costs: 'cosine', or 'kl' of the softmax
        temperature:float=1.,                     # Of 'kl', above 0; cosines of a margin head want about 1/32
        relations:float=0.,                       # Weight of `relation_gap` of the level `emb`
        mean:float=0.,                            # Weight of `identity_mean_gap` of the level `emb`
    ):
        super().__init__()
        if not 0 <= tau <= 1: raise ValueError(f'tau is {tau}. Give 0 to 1; the published value is .3.')
        if stop != 'gap' and (isinstance(stop, str) or not 0 <= stop <= 1):
            raise ValueError(f"stop is {stop!r}. Give 0 to 1, 1 as published, or 'gap'.")
        if not temperature > 0: raise ValueError(f'temperature is {temperature}. Give a number above 0.')
        for name,weight in (('relations', relations), ('mean', mean)):
            if not weight >= 0: raise ValueError(f'{name} is {weight}. Give a weight of 0 or more.')
        self.stop,self.logits,self.temperature = stop,one_of('logits', logits, 'cosine', 'kl'),temperature
        self.relations,self.mean = relations,mean
        self.level_weights,self.tau,self.unlabelled_as_equal = tuple(level_weights), tau, unlabelled_as_equal
        self.amplify = one_of('amplify', amplify, 'reference', 'detached', 'none')
        self.map_norm = one_of('map_norm', map_norm, 'none', 'l2')
        self.distance = one_of('distance', distance, 'l2', 'l1')
        self.terms,self.stats,self.n_pairs,self.n_candidates = {}, {}, 0, 0

    def forward(self,
        levels:list,          # One batch each: maps `(bs, c, h, w)`, tokens `(bs, n_tokens, c)` or vectors `(bs, n)`
        quality:torch.Tensor, # `(bs,)`, 0 to 100, NaN = unknown
        pairs:tuple,          # Candidates: two index tensors `(n_pairs,)`
        names:list=None,      # Of the terms; `level1`, `level2`, ... when not given
        level_weights=None,   # In place of those given at creation, when a schedule changes them
        taught_by=None,       # Levels of another network on the same pictures, which then teaches; they get no gradient
        ids=None,             # `(bs,)` identities, for `mean`
    ): # Scalar; `terms` keeps each level's part of it, weighted, `stats` gap in quality and cosines of the pairs kept
        weights = self.level_weights if level_weights is None else level_weights
        names = [f'level{i + 1}' for i in range(len(levels))] if names is None else list(names)
        _check_levels(levels, names, weights, len(quality))
        if taught_by is not None: taught_by = [o.detach() for o in taught_by]
        sources = levels if taught_by is None else taught_by
        with torch.autocast(levels[0].device.type, enabled=False):
            teacher,student = select_pairs(quality, pairs, self.tau, self.unlabelled_as_equal)
            stop = self._stop(quality, teacher, student)
            some = len(student) > 0
            self.stats = {'gap': _mean(quality.as_subclass(torch.Tensor)[teacher] - quality[student])}
            parts = [w*self._level(name, level, source, teacher, student, stop) if w and some
                     else full_precision(level[:0]).sum() # exactly 0, and still part of the graph
                     for name,level,source,w in zip(names, levels, sources, weights)]
            extra = self._extra(names, levels, sources, quality, teacher, student, stop, ids)
            loss = sum([*parts, *extra.values()])
        self.n_pairs,self.n_candidates = len(student), len(pairs[0])
        self.terms = {name: part.detach() for name,part in (*zip(names, parts), *extra.items())}
        return loss

    def _stop(self, quality, teacher, student):
        if self.stop != 'gap': return self.stop
        quality = full_precision(quality.as_subclass(torch.Tensor))
        return (quality[teacher] - quality[student])/100

    def _extra(self, names, levels, sources, quality, teacher, student, stop, ids):
        "What is taught of embeddings beside where each lies"
        if not self.relations and not self.mean: return {}
        if 'emb' not in names: raise ValueError(f"relations and mean are of the level 'emb', not of {names}. Name it.")
        found,i = {},names.index('emb')
        emb,source = levels[i],sources[i]
        if self.relations and len(student):
            found['relations'] = self.relations*relation_gap(emb[student], held(source[teacher], stop))
        if self.mean:
            if ids is None: raise ValueError('mean needs the identities. Give ids.')
            fixed = 1. if self.stop == 'gap' else self.stop
            found['mean'] = self.mean*identity_mean_gap(emb, quality, ids, fixed)
        return found

    def _level(self, name, level, source, teacher, student, stop):
        if level.dim() != 2: return self._maps(name, level, source, teacher, student, stop)
        s,t = full_precision(level)[student], held(full_precision(source)[teacher], stop)
        cosine = F.cosine_similarity(t, s, dim=1, eps=1e-6)
        self.stats[f'cosine_{name}'] = _mean(cosine)
        if name != 'logits' or self.logits == 'cosine': return (1 - cosine).mean()
        s,t = (F.log_softmax(o/self.temperature, 1) for o in (s, t))
        return F.kl_div(s, t, reduction='batchmean', log_target=True)

    def _energy(self, level):
        energy = energy_map(level)
        return F.normalize(energy.flatten(1), dim=1).view_as(energy) if self.map_norm == 'l2' else energy

    def _maps(self, name, level, source, teacher, student, stop):
        own = self._energy(level)
        s,t = own[student], held((own if source is level else self._energy(source))[teacher], stop)
        self.stats[f'cosine_{name}'] = _mean(F.cosine_similarity(t.detach().flatten(1), s.detach().flatten(1)))
        gap = (s - t).square().mean() if self.distance == 'l2' else (s - t).abs().mean()
        if self.amplify == 'none': return gap
        scores = s.detach() if self.amplify == 'detached' else s
        low,top = scores.amin(),scores.amax()  # `aminmax` has no gradient before torch 2.7
        spread = top - low
        # constant maps have no spread to amplify by: the term is 0 there, where the published formula divides by 0
        flat = spread <= 1e-6*top
        return torch.where(flat, gap*0., 2/torch.where(flat, 1., spread)*gap)


def _mean(of_pairs): return full_precision(of_pairs.detach()).sum()/max(len(of_pairs), 1)


def _check_levels(levels, names, weights, n):
    if not levels or len(levels) != len(weights):
        raise ValueError(f'There are {len(levels)} levels ({", ".join(names)}) but {len(weights)} level_weights '
                         f'{tuple(weights)}. Give one weight a level.')
    for name,level in zip(names, levels):
        if level.dim() not in (2, 3, 4) or len(level) != n:
            raise ValueError(f'{name} is {tuple(level.shape)} for {n} qualities. Give one row a quality: '
                             '(bs, channels, height, width), (bs, n_tokens, channels) or (bs, n).')
