"What is compared: fine-tunings from one baseline, with the same batches and steps, that differ in the method alone"
from dataclasses import dataclass

from .choices import one_of
from .distillation import QualityDistillation

__all__ = ['ARMS', 'Arm', 'chosen_arms', 'needs_partners']


@dataclass(frozen=True)
class Arm:
    "One fine-tuning: which labels it sees, and how it pairs"
    key:str                   # On the command line
    title:str                 # In tables and of W&B runs
    labels:str = 'computed'   # Of the training pictures: computed, shuffled (dealt out at random) or true
    pairs:str = ''            # Of `QualityDistillation`; what the run says when empty, and 'none' without the method
    forward:str = 'separate'  # Of `QualityDistillation`

    def table(self,
        labelled,   # Table with labels in `quality`
        seed:int=0, # Of the dealing
    ):
        """The table that this arm is trained on; quality of held-out pictures stays, for they are only judged

        `ValueError` where its method would learn nothing, since no two pictures of an identity differ in quality."""
        taught,train = labelled.copy(),labelled['split'] == 'train'
        if self.labels == 'true': taught['quality'] = labelled['true_quality']
        elif self.labels == 'shuffled':
            taught.loc[train, 'quality'] = labelled.loc[train, 'quality'].sample(frac=1, random_state=seed).to_numpy()
        if self.pairs != 'none' and (taught[train].groupby('identity')['quality'].nunique() < 2).all():
            raise ValueError(f'"{self.title}" has nothing to learn: in no identity have two training pictures a known '
                             f'and different quality. Look at the labels, {self.labels} ones, or leave the arm out.')
        return taught

    def method(self,
        weight:float=1.,   # Of QSD; 0 is the loss without it
        pairs:str='batch', # Where the arm says nothing else
        **kwargs,          # For `QualityDistillation`
    ):
        "Its callback, or `None`"
        if self.pairs == 'none': return None
        return QualityDistillation(weight, pairs=self.pairs or pairs, forward=self.forward, strict=True, **kwargs)


ARMS = {o.key: o for o in (
    Arm('without', 'fine-tuned without QSD', pairs='none'),
    Arm('with', 'fine-tuned with QSD'),
    Arm('shuffled', 'with QSD, quality shuffled', 'shuffled'),
    Arm('true', 'with QSD, true quality', 'true'),
    Arm('partner', 'with QSD, partners', pairs='partner'),
    Arm('joint', 'with QSD, partners in one forward', pairs='partner', forward='joint'),
)}


def chosen_arms(
    keys:str,                   # With commas between
    table=None,                 # To be trained on; not looked at when not given
    shuffle_quality:bool=False, # Take shuffled in place of with?
)->list: # Of `Arm`
    "The arms of a command line; `ValueError` for a key that is unknown or there twice, or lacks its column"
    found = ['shuffled' if key == 'with' and shuffle_quality else key for key in keys.split(',')]
    for key in found: one_of('--arms', key, *ARMS)
    if len(set(found)) < len(found): raise ValueError(f'--arms {keys} has an arm twice. Name each once.')
    if table is not None and 'true' in found and 'true_quality' not in table:
        raise ValueError('--arms: true needs a table with the column true_quality. Leave it out, or add the column.')
    if table is not None and 'true' in found: ARMS['true'].table(table)
    return [ARMS[key] for key in found]


def needs_partners(
    method, # `QualityDistillation`, or `None`
)->bool:
    "Must the loader add partners for it?"
    return getattr(method, 'pairs', '') == 'partner'
