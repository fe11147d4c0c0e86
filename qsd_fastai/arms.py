"What is compared: fine-tunings from one baseline, with the same batches and steps, that differ in the method alone"
from ast import literal_eval
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from .callbacks.margin import MarginTuning
from .callbacks.octuplet import OctupletTuning
from .choices import one_of
from .distillation import PRESETS, QualityDistillation
from .files import file_hash
from .rows import naming
from .runs.folder import stage_file

__all__ = ['ARMS', 'Arm', 'added_by', 'chosen_arms', 'read_arms', 'settings_of']


@dataclass(frozen=True)
class Arm:
    "One fine-tuning: which labels it sees, and how it pairs"
    key:str                   # On the command line
    title:str                 # In tables and of W&B runs
    labels:str = 'computed'   # Of the training pictures: computed, shuffled (dealt out at random), reversed or true
    pairs:str = ''            # Of `QualityDistillation`; what the run says when empty, and 'none' without the method
    settings:dict = field(default_factory=dict, hash=False) # Of `QualityDistillation` beside those of the run
    peer:type = None          # A callback in its place
    source:str = ''           # The table of settings that it is from

    @property
    def asked(self):
        "As it is asked for on a command line"
        return f'{self.source}:{self.key}' if self.source else self.key

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
        elif self.labels == 'reversed': taught.loc[train, 'quality'] = 100 - labelled.loc[train, 'quality']
        if self.pairs not in ('none', 'copies') and (taught[train].groupby('identity')['quality'].nunique() < 2).all():
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
        if self.peer is not None: return self.peer()
        settings = {'pairs': self.pairs or pairs, **kwargs, **self.settings}
        return QualityDistillation(weight*settings.pop('weight', 1.), strict=True, **settings)


def _copies(key, title, **settings):
    return Arm(f'copies-{key}' if key else 'copies', title, pairs='copies', settings={'preset': 'copies', **settings})


ARMS = {o.key: o for o in (
    Arm('without', 'fine-tuned without QSD', pairs='none'),
    Arm('with', 'fine-tuned with QSD'),
    Arm('shuffled', 'with QSD, quality shuffled', 'shuffled'),
    Arm('reversed', 'with QSD, quality reversed', 'reversed'),
    Arm('true', 'with QSD, true quality', 'true'),
    Arm('published', 'with QSD as published', pairs='partner',
        settings={'preset': 'published', 'map_norm': 'none'}),
    Arm('partner', 'with QSD, partners', pairs='partner'),
    Arm('joint', 'with QSD, partners in one forward', pairs='partner', settings={'forward': 'joint'}),
    Arm('free', 'with QSD, both pictures move', settings={'stop': 0.}),
    _copies('', 'degraded copies, without QSD', weight=0.),
    _copies('gap', 'copies, the nearer the more moves'),
    _copies('gap-reversed', 'copies, the same with their order reversed', labels='reversed'),
    _copies('gap-shuffled', 'copies, the same with their order shuffled', labels='shuffled'),
    _copies('free', 'copies, both move', stop=0.),
    _copies('stop', 'copies, picture teaches copy', stop=1.),
    _copies('reversed', 'copies, copy teaches picture', stop=1., labels='reversed'),
    _copies('shuffled', 'copies, order shuffled', stop=1., labels='shuffled'),
    _copies('ema', 'copies, moving average teaches', stop=1., teacher='ema', decay=.99),
    _copies('frozen', 'copies, start teaches', stop=1., teacher='frozen'),
    _copies('relations', 'copies, relations', stop=0., level_weights={}, relations=1.),
    _copies('mean', "copies, identity's mean", stop=0., level_weights={}, mean=1.),
    _copies('logits', 'copies, softmax of logits', stop=0., level_weights={'logits': 1.}, logits='kl',
            temperature=1/32),
    Arm('octuplet', 'Octuplet loss', pairs='copies', peer=OctupletTuning),
    Arm('adaface', "degraded copies, AdaFace's margin", pairs='copies', peer=MarginTuning),
)}


def read_arms(
    file, # CSV with the column `key`; `title`, `labels`, `pairs`, and any arguments of `QualityDistillation`
)->list: # Of `Arm`
    """Arms of a table of settings, one a row; an empty cell is what the preset says

        key,pairs,stop,weight
        half,copies,.5,1
        double,copies,0,2

    `weight` is a factor of that of the run, or auto: that, with `balance`. `labels` are those of the table; with
    copies, whose order is known, reversed or shuffled is the order of each pair. ValueError naming the row where a
    setting is unknown or nothing can be made of it."""
    try: found = pd.read_csv(_there(file), dtype=str, keep_default_na=False)
    except ValueError as e: raise ValueError(f'{file} is no table of settings ({e}). Write it anew.') from e
    if 'key' not in found or not len(found): raise ValueError(f'{file} has no arms. Give a column key, a row an arm.')
    arms = []
    for row,cells in enumerate(found.to_dict('records')):
        cells = {k: v.strip() for k,v in cells.items() if v.strip()}
        own = {k: cells.pop(k) for k in ('key', 'title', 'labels', 'pairs') if k in cells}
        with naming(f'{file}, row {row} (counted from 0)'):
            if not own.get('key'): raise ValueError('The key is empty. Name the arm.')
            if own['key'] in ARMS: raise ValueError(f'{own["key"]} is an arm already. Take another key.')
            one_of('labels', own.get('labels', 'computed'), 'computed', 'shuffled', 'reversed', 'true')
            settings = {k: _value(v) for k,v in cells.items()}
            if own['key'] in [o.key for o in arms]: raise ValueError(f'{own["key"]} is there twice. Take another key.')
            if settings.get('weight') == 'auto': settings |= {'weight': 1., 'balance': True}
            if preset := settings.get('preset'):
                own.setdefault('pairs', PRESETS[one_of('preset', preset, *PRESETS)]['pairs'])
            if own.get('pairs') == 'copies':
                settings = {'preset': 'copies', **settings}
                if own.get('labels') in ('reversed', 'shuffled'): settings['labels'] = own.pop('labels')
            arm = Arm(**{'title': own['key'], **own}, settings=settings, source=str(file))
            try: arm.method()
            except TypeError as e: raise ValueError(f'{e}. Look at the arguments of QualityDistillation.') from e
        arms.append(arm)
    return arms


def _there(file):
    if not Path(file).is_file(): raise FileNotFoundError(f'There is no table of settings {file}. Mend its name.')
    return file


def _value(text):
    "A number, a tuple, True or False where it is one, else the text"
    try: return literal_eval(text)
    except (ValueError, SyntaxError): return text


def settings_of(
    keys:str, # As for `chosen_arms`
)->list: # Of hashes
    "The content of the tables of settings among them, so that a run goes on with those it was begun with"
    return [file_hash(_there(file + dot)) for file,dot,_ in (o.partition('.csv') for o in keys.split(',')) if dot]


def chosen_arms(
    keys:str,                   # With commas between; FILE.csv are all arms of `read_arms`, FILE.csv:KEY is one
    table=None,                 # To be trained on; not looked at when not given
    shuffle_quality:bool=False, # Take shuffled in place of with?
)->list: # Of `Arm`
    "The arms of a command line; `ValueError` for a key that is unknown or there twice, or lacks its column"
    own,found = {},[]
    for key in keys.split(','):
        file,dot,one = key.partition('.csv')
        more = {o.key: o for o in read_arms(file + dot)} if dot else {}
        own |= more
        if one: found.append(one_of('--arms', one[1:], *more))
        else: found += list(more) or ['shuffled' if key == 'with' and shuffle_quality else key]
    for key in found: one_of('--arms', key, *ARMS, *own)
    if len(set(found)) < len(found): raise ValueError(f'--arms {keys} has an arm twice. Name each once.')
    arms = [{**ARMS, **own}[key] for key in found]
    files = ['baseline','comparison',*(stage_file(o.title) for o in arms)]
    if twice := [o for o in arms if files.count(stage_file(o.title)) > 1]:
        raise ValueError(f'--arms: the files of "{twice[-1].title}" would be called as those of another stage, '
                         f'{stage_file(twice[-1].title)}. Give it another title.')
    for arm in [o for o in arms if o.labels == 'true'] if table is not None else []:
        if 'true_quality' not in table:
            raise ValueError(f'--arms: {arm.key} needs a table with the column true_quality. Leave it out, or add the '
                             'column.')
        arm.table(table)
    return arms


def added_by(
    method, # Of `Arm.method`
)->dict:
    "What the loader must add to each picture for it: arguments of `recognition_dataloaders`"
    pairs = getattr(method, 'pairs', '')
    return {'partners': pairs == 'partner', 'copies': pairs == 'copies'}
