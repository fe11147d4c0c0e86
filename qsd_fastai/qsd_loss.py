"""The loss of quality self-distillation (QSD; Ou et al., IEEE TMM 2024): which pairs teach, and what they differ by.

Pictures are paired (`identity_pairs`, `partner_pairs`), the pairs that teach are kept (`select_pairs`), and what
student and teacher differ by is summed over levels (`QSDLoss`)."""
import math
from functools import lru_cache, reduce

import torch
import torch.nn.functional as F
from torch import nn

from .choices import one_of
from .distributed import highest, processes, summed
from .shown import settings_text
from .taught import energy_map, held, identity_mean_gap, mean_of, relation_gap
from .tensors import full_precision, of_no_subclass

__all__ = ['QSDLoss', 'grouped_pairs', 'identity_pairs', 'partner_pairs', 'ranked_pairs', 'select_pairs']


def identity_pairs(
    ids:torch.Tensor, # `(bs,)` identity of each picture of a batch
): # Two index tensors `(n_pairs,)`, `first < second`
    "All pairs of different pictures of one identity; a GPU is waited for, since it alone knows how many there are"
    ids = of_no_subclass(ids)
    return (ids[:, None] == ids[None]).triu(1).nonzero(as_tuple=True)


@lru_cache(maxsize=32)
def grouped_pairs(
    n:int,               # Pictures in the batch
    size:int,            # Of each group of pictures of one identity, which stand together
    copies:bool=False,   # Is the second half of the batch copies of the first, in its order?
    device:object='cpu', # Where the indices are made
): # Two index tensors `(n_pairs,)`, `first < second`, as `identity_pairs` gives them
    "All pairs of different pictures of one identity where batches are made of groups: nothing is waited for"
    rows = torch.arange(n//2 if copies else n).view(-1, size)
    if copies: rows = torch.cat([rows, rows + n//2], 1)
    group = torch.empty(n, dtype=torch.int64)
    group[rows] = torch.arange(len(rows))[:, None]
    return tuple(o.to(device) for o in identity_pairs(group))


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
    `tau*m <= d <= 100 - tau*(100 - m)`, and `d > 0`. A pair of unknown quality is never kept."""
    teacher,student,keep = ranked_pairs(quality, pairs, tau, unlabelled_as_equal)
    return teacher[keep], student[keep]


def ranked_pairs(
    quality:torch.Tensor,           # As for `select_pairs`
    pairs:tuple,                    # As for `select_pairs`
    tau:float=.3,                   # As for `select_pairs`
    unlabelled_as_equal:bool=False, # As for `select_pairs`
    gathered:bool=False,            # Is the mean over the pairs of all processes?
): # Indices `(teacher, student)` of all pairs, and bool, which of them `select_pairs` keeps; `(n_pairs,)` each
    "Every pair, the better picture first, and whether it teaches: how many do is not asked, which would wait for a GPU"
    first,second = pairs
    quality = full_precision(of_no_subclass(quality))
    gap = quality[first] - quality[second]
    d = gap.abs()
    if gathered and processes()[1] > 1:
        known = torch.ones_like(d) if unlabelled_as_equal else ~d.isnan()
        total,n = summed(torch.stack([d.nansum(), known.sum().to(d.dtype)]))
        m = total/n
    else: m = d.nansum()/max(len(d), 1) if unlabelled_as_equal else d.nanmean()
    keep = (d > 0) & (d >= tau*m) & (d <= 100 - tau*(100 - m)) # Never so where something is unknown
    better = gap > 0
    return torch.where(better, first, second), torch.where(better, second, first), keep


class QSDLoss(nn.Module):
    """The distance of each student to its teacher, summed over levels.

    A level of vectors costs `1 - cosine`. A level of maps or tokens costs the squared difference of energy maps,
    amplified by `2/(max - min)` over the students' maps; unless `map_norm='l2'` that grows with the square of the
    activations, as published. A term is exactly 0, with a graph, where no pair is kept or the students' maps are
    constant.

    As published (`stop=1`), gradients reach students only. With 0 both pictures of a pair move towards each other; with
    'gap' the teacher keeps the more of its gradient the nearer the two are in quality, and none at a gap of 100: `stop`
    is then the gap in quality, of 100. `mean` has no pairs to take a gap from: with 'gap' the mean gets no gradient.

    Sums run in float32 or better, also under autocast. With several processes each has pairs of its own pictures, and
    mean gap, number of pairs, maximum and minimum are those of all batches together: the mean of what processes have is
    the loss of one process with all pictures. `gathered=False`: everything is of each process's own batch, as
    `relations` and `mean` always are."""
    gathered = True # Of learners that were exported before it was asked

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
        gathered:bool=True,                       # Are pairs weighed beside those of all processes?
    ):
        super().__init__()
        if not 0 <= tau <= 1: raise ValueError(f'tau is {tau}. Give 0 to 1; the published value is .3.')
        if stop != 'gap' and (isinstance(stop, str) or not 0 <= stop <= 1):
            raise ValueError(f"stop is {stop!r}. Give 0 to 1, 1 as published, or 'gap'.")
        if not temperature > 0: raise ValueError(f'temperature is {temperature}. Give a number above 0.')
        for name,weight in (('relations', relations), ('mean', mean)):
            if not weight >= 0: raise ValueError(f'{name} is {weight}. Give a weight of 0 or more.')
        self.stop,self.logits,self.temperature = stop,one_of('logits', logits, 'cosine', 'kl'),temperature
        self.relations,self.mean,self.gathered = relations,mean,gathered
        self.level_weights,self.tau,self.unlabelled_as_equal = tuple(level_weights), tau, unlabelled_as_equal
        self.amplify = one_of('amplify', amplify, 'reference', 'detached', 'none')
        self.map_norm = one_of('map_norm', map_norm, 'none', 'l2')
        self.distance = one_of('distance', distance, 'l2', 'l1')
        self.terms,self.stats,self.n_pairs,self.n_candidates = {}, {}, 0, 0

    extra_repr = settings_text

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
            teacher,student,keep = ranked_pairs(quality, pairs, self.tau, self.unlabelled_as_equal, self.gathered)
            self.n_candidates = len(student)
            # processes wait for each other: one without a pair has one that teaches nothing
            if self._world > 1 and not len(student):
                student,teacher,keep = (keep.new_zeros(1, dtype=o) for o in (torch.int64, torch.int64, torch.bool))
            ahead = full_precision(of_no_subclass(quality))
            ahead = ahead[teacher] - ahead[student]
            stop = torch.where(keep, ahead, 100.)/100 if self.stop == 'gap' else self.stop
            picked = student,teacher,keep,stop
            # maps first, so that they lie side by side
            chosen = sorted((i for i,w in enumerate(weights) if w and len(student)), key=lambda i: levels[i].dim() == 2)
            found = dict(zip(chosen, self._terms(*([o[i] for i in chosen] for o in (names, levels, sources)), ahead,
                                                 *picked)))
            parts = [_times(w, found[i]) if i in found else full_precision(level[:0]).sum() # exactly 0, in the graph
                     for i,(level,w) in enumerate(zip(levels, weights))]
            extra = self._extra(names, levels, sources, quality, ids, *picked)
            loss = reduce(torch.add, [*parts, *extra.values()])
        self.terms = {name: part.detach() for name,part in (*zip(names, parts), *extra.items())}
        return loss

    @property
    def _world(self): return processes()[1] if self.gathered else 1

    def _extra(self, names, levels, sources, quality, ids, student, teacher, keep, stop):
        "What is taught of embeddings beside where each lies"
        if not self.relations and not self.mean: return {}
        if 'emb' not in names: raise ValueError(f"relations and mean are of the level 'emb', not of {names}. Name it.")
        found,i = {},names.index('emb')
        emb,source = levels[i],sources[i]
        if self.relations and len(student):
            found['relations'] = self.relations*relation_gap(emb[student], held(source[teacher], stop), keep)
        if self.mean:
            if ids is None: raise ValueError('mean needs the identities. Give ids.')
            fixed = 1. if self.stop == 'gap' else self.stop
            found['mean'] = self.mean*identity_mean_gap(emb, quality, ids, fixed)
        return found

    def _terms(self, names, levels, sources, ahead, student, teacher, keep, stop):
        """Of each level, unweighted; maps come first. What is compared lies side by side, a row a picture: a GPU is
        asked for all levels at once wherever it can be, for launching costs it more than reckoning"""
        self.n_pairs,self.stats = keep.sum(),{}
        if not levels:
            self.stats['gap'] = mean_of(ahead, keep)
            return []
        own = list(map(self._row, names, levels))
        theirs = own if sources[0] is levels[0] else list(map(self._row, names, sources))
        widths,n_maps = [o.shape[1] for o in own], sum(o.dim() != 2 for o in levels)
        areas,widths = widths[:n_maps],widths[n_maps:]
        taught,teaching = torch.cat(own, 1)[student],held(torch.cat(theirs, 1)[teacher], stop)
        (s, *s_rows),(t, *t_rows) = (o.split([sum(areas), *widths], 1) for o in (taught, teaching))
        gaps,cosines = self._map_gaps(s, t, areas) if n_maps else ([], [])
        for name,a,b in zip(names[n_maps:], s_rows, t_rows):
            gaps.append(self._row_gap(name, a, b))
            cosines.append(F.cosine_similarity(a.detach(), b.detach()) if self._by_kl(name) else 1 - gaps[-1].detach())
        columns = torch.where(keep[:, None], torch.stack([*gaps, *cosines, ahead.to(gaps[0].dtype)], 1), 0.)
        gaps,cosines,ahead = self._over_pairs(columns.sum(0)).split([len(levels), len(levels), 1])
        self.stats |= {'gap': ahead.detach()[0], **{f'cosine_{k}': o for k,o in zip(names, cosines.detach())}}
        maps,rows = gaps.split([n_maps, len(widths)])
        return [*(self._amplified(maps, s, areas, keep) if n_maps else ()), *rows]

    def _over_pairs(self, sums):
        "The mean over the pairs kept; that of several processes is the mean of what they have"
        if self._world == 1: return sums/self.n_pairs.clamp(min=1)
        return sums*self._world/summed(self.n_pairs.clone()).clamp(min=1)

    def _by_kl(self, name): return name == 'logits' and self.logits == 'kl'

    def _row(self, name, level):
        if level.dim() == 2 and not self._by_kl(name): return F.normalize(full_precision(level), dim=1, eps=1e-6)
        if level.dim() == 2: return F.log_softmax(full_precision(level)/self.temperature, 1)
        energy = energy_map(level).flatten(1)
        return F.normalize(energy, dim=1) if self.map_norm == 'l2' else energy

    def _row_gap(self, name, s, t):
        return F.kl_div(s, t, reduction='none', log_target=True).sum(1) if self._by_kl(name) else 1 - (s*t).sum(1)

    def _map_gaps(self, s, t, areas):
        "Two lists, one of each level: what the maps of each pair differ by, and their cosine"
        apart = (s - t).square() if self.distance == 'l2' else (s - t).abs()
        s,t = s.detach(),t.detach()
        dot,*squares = torch.stack([o.sum(2) for o in torch.stack([s*t, s*s, t*t]).split(areas, 2)], 2)
        left,right = torch.stack(squares).clamp_(min=1e-16).rsqrt_()
        return [o.mean(1) for o in apart.split(areas, 1)], list((dot*left*right).unbind(1))

    def _amplified(self, gaps, maps, areas, keep):
        "The gaps `(n_levels,)`, each by its factor"
        if self.amplify == 'none': return gaps
        scores,out = maps.detach() if self.amplify == 'detached' else maps,~keep[:, None]
        # `aminmax` has no gradient before torch 2.7
        low = torch.stack([o.amin() for o in scores.masked_fill(out, math.inf).split(areas, 1)])
        top = torch.stack([o.amax() for o in scores.masked_fill(out, -math.inf).split(areas, 1)])
        if self._world > 1:
            top,below = highest(torch.stack([top, -low])).unbind() # One message
            low = -below
        spread = top - low
        # constant maps have no spread to amplify by, and no maps neither: the term is 0 there, where the published
        # formula divides by 0
        flat = ~(spread > 1e-6*top)
        return torch.where(flat, gaps*0., 2/torch.where(flat, 1., spread)*gaps)


def _times(weight, x): return x if weight == 1 else weight*x


def _check_levels(levels, names, weights, n):
    if not levels or len(levels) != len(weights):
        raise ValueError(f'There are {len(levels)} levels ({", ".join(names)}) but {len(weights)} level_weights '
                         f'{tuple(weights)}. Give one weight a level.')
    for name,level in zip(names, levels):
        if level.dim() not in (2, 3, 4) or len(level) != n:
            raise ValueError(f'{name} is {tuple(level.shape)} for {n} qualities. Give one row a quality: '
                             '(bs, channels, height, width), (bs, n_tokens, channels) or (bs, n).')
