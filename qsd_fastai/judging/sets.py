"The sets of pairs that a model for faces is judged on, as they are and degraded, and their judgement in one row"
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..columns import complete_table
from ..data.degraded import FACE_DEGRADATIONS, degraded_copies
from ..data.loaders import picture_files
from ..data.pairs import read_pairs
from ..data.table import read_table
from ..evaluation.metrics import Retrieval, Verification, hardest_pairs
from ..evaluation.rejection import error_vs_reject
from ..evaluation.roc import roc_points
from ..evaluation.verification import evaluate_verification, verification_by_quality
from ..plots.pictures import hardest_pairs_figure
from ..plots.quality import map_by_quality_figure
from ..quality import norm_quality, similarity_quality
from ..runs.curves import curve_figures, curve_frames, line_name
from .judgement import Judgement

__all__ = ['PairSets']


def pair_qualities(
    judged,        # Table of a set
    pairs,         # Of it
    labelled=None, # Table with labels in `quality`, in place of those of the set
)->tuple: # `(column, [quality1, quality2])`, 0 to 100, NaN = unknown
    "How good both pictures of each pair are: the true quality where the set has it, else the labels"
    by = 'true_quality' if 'true_quality' in judged and judged['true_quality'].notna().any() else 'quality'
    known = judged if by == 'true_quality' or labelled is None else labelled
    quality = known.set_index('path')[by].astype(float)
    return by, [quality.reindex(pairs[c]).to_numpy() for c in ('path1', 'path2')]


class PairSets:
    "Sets of pairs by name: `pairs.csv` beside a table of held-out people, and any others, each beside its own table"
    def __init__(self,
        table:pd.DataFrame=None, # To be trained on; the pairs beside it are judged where there are any
        files:str='',            # More `pairs.csv`, with commas between; each has its table beside it
        far:float=1e-2,          # False acceptance rate at which true acceptance is stated
        flip:bool=False,         # Judge the sum of the embeddings of picture and mirror image?
    ):
        self.sets,self.far,self.flip,self.copies,self.own = {},far,flip,(),None
        self.searched = table is not None and bool((complete_table(table)['split'] == 'query').any())
        if not 0 < far <= 1: raise ValueError(f'--far {far:g} is no rate. Give one above 0, and 1 at most.')
        if table is not None: self._add_own(table)
        for file in filter(None, files.split(',')): self._add(Path(file))

    def __bool__(self): return bool(self.sets)

    def _add_own(self, table):
        table = complete_table(table)
        held = table[table['split'] != 'train']
        if not (beside := Path(table.attrs.get('root', '.'))/'pairs.csv').is_file(): return
        try: self.own = read_pairs(beside, held)
        except ValueError as e:
            said = 'data_prep/pairs.py --hold-out 2 keeps those who are judged out of training.'
            raise ValueError(f'{e} {said}') from e
        self.sets['pairs'] = held,self.own

    def _add(self, file):
        if file.suffix == '.bin':
            raise ValueError(f'--sets: {file} is no pairs.csv. Make one of it: python data_prep/bins.py {file}')
        name = file.parent.name
        if name in self.sets: raise ValueError(f'--sets: two sets are called {name}. Rename the folder of one.')
        judged = read_table(file.with_name('images.csv'))
        self.sets[name] = judged,read_pairs(file, judged)

    def check(self,
        degraded:bool=False, # Will degraded copies be wanted?
    ):
        "These sets; `ValueError` where there is nothing to judge, or nothing that degraded copies can be made of"
        if degraded and not self:
            raise ValueError('--degraded has no pictures: neither pairs.csv beside the table nor --sets. Name some.')
        if not self and not self.searched:
            raise ValueError('There is nothing to judge: neither pairs.csv beside the table, nor --sets, nor queries.')
        return self

    def metrics(self):
        "Of a learner: figures of the pairs beside the table, else of the search among its held-out pictures"
        if self.own is None: return Retrieval() if self.searched else None
        by,qualities = pair_qualities(self.sets['pairs'][0], self.own) # As `judge` has them
        known = qualities if by == 'true_quality' else None
        return Verification('accuracy', f'tar@{self.far:g}', pairs=self.own, pair_quality=known)

    def degrade(self,
        folder, # Where the copies go
        kinds=FACE_DEGRADATIONS, # `(kind, amount)`
    ):
        "Add copies of the first set, degraded in each of several ways; an existing one is taken"
        first,(judged,pairs) = next(iter(self.sets.items()))
        for kind,amount in kinds:
            to = Path(folder)/f'{kind}_{amount:g}'
            copies = degraded_copies(judged, to, kind, amount, pairs=pairs, progress=False)
            self.sets[f'{first} {kind} {amount:g}'] = copies,read_pairs(to/'pairs.csv', copies)
        self.copies = [k for k in self.sets if k.startswith(f'{first} ')]

    def judge(self,
        learn,      # `Learner`
        seed:int=0, # Of the quality that pictures are rejected by
        labelled=None, # Table with labels in `quality`, where there is no true quality to cut the thirds by
    )->Judgement:
        """Accuracy and TAR of each set, the means of degraded copies first; ROC, hardest pairs, error against rejection

        Of the pairs beside the table also by quality, that of the worse picture.

        Of copies, pairs of two are judged ('degraded'), and pairs of a picture as it is and a copy ('crossed'), each
        pair both ways."""
        row,rocs,plots,frames,groups,parts,crossed = {},{},{},{},{},[],[]
        for name,(table,pairs) in self.sets.items():
            judged = table[table['path'].isin({*pairs['path1'], *pairs['path2']})]
            emb,at = learn.embed(judged, flip=self.flip),pd.Series(range(len(judged)), judged['path'])
            first,second = (at[pairs[c]].to_numpy() for c in ('path1', 'path2'))
            result = evaluate_verification(emb[first], emb[second], pairs['same'], pairs['fold'])
            row |= {f'{name} accuracy': result.accuracy, f'{name} tar': result.tar_at_far((self.far,))['tar'].iloc[0]}
            rocs[name] = roc_points(result.per_pair['score'], result.per_pair['same'])
            by,(quality1,quality2) = pair_qualities(judged, pairs, labelled if pairs is self.own else None)
            known = result.per_pair.assign(quality1=quality1, quality2=quality2)
            frames[f'per_pair_{name.replace(" ", "_")}'] = known.join(pairs[['path1', 'path2']])
            if name == 'pairs': row |= self._by_quality(known, by, plots, groups)
            hard = known.assign(row1=first, row2=second)
            files = picture_files(judged).to_numpy()
            shown = hardest_pairs_figure(hardest_pairs(hard, 8), files, of=hard['same'])
            plots[f'hardest_{name.replace(" ", "_")}'] = shown
            parts.append((judged, emb, first, second, result.per_pair))
            if name in self.copies: crossed.append(self._crossed(*parts[0][1:4], emb, first, second, pairs))
        if not parts: return Judgement({}, {})
        if self.copies:
            each = {f'{k} {o}': row.pop(f'{k} {o}') for k in self.copies for o in ('accuracy', 'tar')}
            for o in ('accuracy', 'tar'): row[f'degraded {o}'] = np.mean([each[f'{k} {o}'] for k in self.copies])
            for o in ('accuracy', 'tar'): row[f'crossed {o}'] = np.mean([found[o] for found in crossed])
            row |= each
        curves = {'roc': rocs}
        try: curves['rejection'] = self._rejection(parts, seed)
        except ValueError as e: print(f'Rejection is not judged: {e}') # A run of hours must not end for a figure
        of = dict.fromkeys(curves, f'{sum(len(o[4]) for o in parts):,} pairs')
        of |= {line_name('roc', name): f'{name} ({len(pairs):,})' for name,(_,pairs) in self.sets.items()}
        plots = {**curve_figures(curves, of), **plots}
        frames |= {**curve_frames(curves), **{k: o.reset_index() for k,o in groups.items()}}
        return Judgement(row, {'far': self.far, 'flip': self.flip}, frames, plots, curves=curves, groups=groups, of=of)

    def _by_quality(self, per_pair, by, plots, groups):
        "Accuracy of the thirds of pairs; nothing where quality is not known"
        qualities = [per_pair[c].to_numpy() for c in ('quality1', 'quality2')]
        if np.isnan(np.minimum(*qualities)).all(): return {}
        of = groups[f'pairs_by_{by}'] = verification_by_quality(per_pair, *qualities)
        title = f'accuracy of pairs by {by.replace("_", " ")} of the worse picture'
        plots[f'accuracy_by_{by}'] = map_by_quality_figure(of, 'accuracy', title)
        thirds = [o for o in ('worst', 'middle', 'best') if o in of.index]
        return {f'pairs accuracy {o}': float(of.loc[o, 'accuracy']) for o in thirds}

    def _crossed(self, clean, clean1, clean2, bad, bad1, bad2, pairs):
        first,second = torch.cat([clean[clean1], bad[bad1]]),torch.cat([bad[bad2], clean[clean2]])
        same,fold = (np.tile(pairs[c], 2) for c in ('same', 'fold'))
        result = evaluate_verification(first, second, same, fold)
        return {'accuracy': result.accuracy, 'tar': result.tar_at_far((self.far,))['tar'].iloc[0]}

    def _rejection(self, parts, seed):
        """What rejecting the worst pictures of all sets is worth: by truth where it is known, by length, by likeness

        All arms in one go by the first of these."""
        tables,embs,firsts,seconds,per_pair = zip(*parts)
        begin = np.cumsum([0, *map(len, tables)])
        first,second = (np.concatenate([rows + n for rows,n in zip(o, begin)]) for o in (firsts, seconds))
        emb,everyone = torch.cat(embs),pd.concat(tables, ignore_index=True)
        known = 'true_quality' in everyone and everyone['true_quality'].notna().all()
        quality = {'true quality': everyone['true_quality'].to_numpy()} if known else {}
        quality |= {'length of its embedding': norm_quality(emb),
                    'likeness, who it is being known': similarity_quality(emb, everyone['identity'], seed=seed)}
        scores,same = (np.concatenate([o[k] for o in per_pair]) for k in ('score', 'same'))
        found = error_vs_reject(scores, same, first, second, quality, far=self.far)
        return found if len(parts) == 1 else replace(found, rule=f'{found.rule}; {len(parts)} sets together')
