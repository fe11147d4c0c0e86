"Who is in a picture: the people of a gallery that are most alike, or the identity of training that the head names"
import hashlib
import math
import os
from dataclasses import dataclass, field, replace

import matplotlib.pyplot as plt
import pandas as pd
import torch
from fastai.torch_core import get_model

from ..columns import complete_table
from ..data.given import complete_rows
from ..data.sources import split_address
from ..evaluation.given import unit_rows
from ..models.heads.cosine import MarginHead
from ..models.heads.partial_fc import PartialFC
from ..plots.pictures import captioned_figure, ranked_lists_figure, shortened
from ..quality import norm_quality
from ..rows import refuse_rows
from ..tensors import plain_tensor

__all__ = ['Answer', 'Gallery', 'answer_of', 'draw_answers', 'named_by_head']


@dataclass(repr=False)
class Answer:
    """What `learn.predict` says of a picture. It prints as text, `show()` draws it.

    It unpacks as fastai's own answer does: `name,index,scores = learn.predict(picture)`; `scores[index]` is the best
    score."""
    name: str                # Identity that is most alike
    index: torch.Tensor      # Its number in `identities`, int64 of no dimension
    scores: torch.Tensor     # `(len(identities),)` float32, as `kind` says; in a gallery, of the nearest picture
    identities: list         # Who can be named, in the order of `scores`
    kind: str                # 'cosine', -1 to 1, or 'probability', 0 to 1: the softmax of a linear head
    nearest: pd.DataFrame    # Best first: `identity`, `kind`, and with a gallery `path` of the nearest picture
    embedding: torch.Tensor  # `(nf,)` float32, as the model gives it, not of unit length
    length: float            # Of the embedding; many networks make it longer for a better picture
    picture: object          # As it was opened
    among: str               # What was searched, in words
    quality: float = math.nan # 0 to 100, by the length: where it stands among those of the gallery; NaN without one
    files: list = field(default_factory=list) # Of the pictures in `nearest`

    @property
    def parts(self): return self.name, self.index, self.scores

    def __iter__(self): return iter(self.parts)

    def __len__(self): return len(self.parts)

    def __getitem__(self, i): return self.parts[i]

    def __repr__(self):
        quality = '' if math.isnan(self.quality) else f', quality {self.quality:.0f} of 100 by its length'
        table = self.nearest.to_string(index=False, float_format='{:.3f}'.format)
        return (f'{self.name}, {self.kind} {float(self.scores[self.index]):.3f}, of {self.among}\n{table}\n'
                f'embedding of {len(self.embedding)} numbers, length {self.length:.3g}{quality}')

    def show(self,
        height:float=1.5, # Of a picture, inches
    ):
        "The picture, and beside it the nearest ones of the gallery"
        draw_answers([self], height)


class Gallery:
    """The people that `learn.predict` looks for: pictures of a table, each embedded once.

    They are embedded again when the weights have changed. A gallery is exported with its learner, as embeddings, names
    and files; set `learn.gallery = None` before to leave it out."""
    def __init__(self,
        table, # With the columns `path` and `identity`; where some rows have the split 'gallery', those alone
        root,  # The folder that paths start from where the table does not tell
    ):
        if not isinstance(table, pd.DataFrame) or not {'path', 'identity'} <= set(table):
            got = ', '.join(map(str, table)) if isinstance(table, pd.DataFrame) else f'a {type(table).__name__}'
            raise ValueError(f'A gallery is a table with the columns path and identity, and this is {got}. '
                             'Give `learn.gallery = read_table(FILE)`, or None for no gallery.')
        table = complete_table(table)
        if 'split' in table and (table['split'] == 'gallery').any(): table = table[table['split'] == 'gallery']
        if not len(table): raise ValueError('The gallery has no rows: nobody can be found. Give a table with some.')
        refuse_rows(table, 'identity', table['identity'] == '', 'is empty', 'Say who it is, or remove the row.')
        self.rows,self.above = complete_rows(table, None if 'root' in table.attrs else root),os.getcwd()
        self.identities = sorted(set(table['identity']))
        numbers = {o: i for i,o in enumerate(self.identities)}
        self.ids = torch.tensor([numbers[o] for o in table['identity']])
        self.unit = self.lengths = self.weights = None

    def __setstate__(self, state):
        "Files are where they were from the folder at hand, or else from the one that the gallery was made in"
        self.__dict__.update(state)
        first,above = self.rows[0].file,state.get('above')
        if above is None or _is_there(first) or not _is_there(os.path.join(above, first)): return
        self.rows = [replace(o, file=os.path.join(above, o.file)) for o in self.rows]

    def __len__(self): return len(self.rows)

    def __repr__(self): return f'gallery of {len(self)} pictures of {len(self.identities)} identities'

    def embedded(self,
        learn, # `Learner`
    )->torch.Tensor: # `(len(self), nf)`, of unit length
        "The embeddings, by the weights as they are; ValueError where they are of others and the pictures have gone"
        now = _weights(learn)
        if self.weights == now: return self.unit
        try: emb = learn.embed(self.rows)
        except OSError as e:
            if self.unit is None: raise
            raise ValueError('The weights are not those that learn.gallery was embedded with, and its pictures cannot '
                             f'be read again ({e}) Set learn.gallery again.') from e
        self.unit,self.lengths,self.weights = unit_rows(emb, 'gallery'), emb.norm(dim=1), now
        return self.unit

    def cosines(self,
        learn, # `Learner`
        emb,   # `(n, nf)` embeddings
    )->torch.Tensor: # `(n, len(self))`
        "How alike each picture of the gallery is"
        return unit_rows(emb)@self.embedded(learn).T

    def quality(self,
        length:float, # Of an embedding
    )->float: # 0 to 100; NaN where all are of one length
        "Where a length stands among those of the gallery, as `norm_quality` has it"
        lengths = torch.cat([self.lengths, torch.tensor([length])])
        try: return float(norm_quality(lengths[:, None])[-1])
        except ValueError: return math.nan


def _is_there(file): return os.path.exists(split_address(file)[0])


def _weights(learn):
    "A mark of the weights of a learner: some numbers of each. Optimizers change tensors without counting it"
    found,some = hashlib.sha256(), {} # By device, for switches are not where the weights are
    for o in get_model(learn.model).state_dict().values():
        if isinstance(o, torch.Tensor): some.setdefault(o.device, []).append(o.detach().flatten()[:8].double())
    for o in some.values(): found.update(torch.cat(o).cpu().numpy().tobytes())
    return found.hexdigest()


@torch.no_grad()
def named_by_head(
    learn, # `Learner` with a `Recognizer`
    emb,   # `(n, nf)` embeddings
)->tuple: # `(kind, scores, identities)`: what scores `(n, n_ids)` are, and whose
    "What the head says of embeddings: cosines of a margin head, probabilities of any other"
    model = get_model(learn.model).eval()
    emb = emb.to(next(model.parameters()).device)
    margin = isinstance(model.head, MarginHead | PartialFC)
    scores = model.head.cosines(emb) if isinstance(model.head, PartialFC) else model.head(emb)
    scores = plain_tensor(scores if margin else scores.softmax(1)).float().cpu()
    return 'cosine' if margin else 'probability', scores, list(learn.dls.vocab)[:scores.shape[1]]


def answer_of(
    learn,   # `Learner`
    emb,     # `(nf,)` embedding of a picture
    picture, # As it was opened
    top:int, # Identities to list
)->Answer:
    "Who it is: of the gallery of the learner, or of those it was trained on"
    if top is None or top < 1: raise ValueError(f'top is {top!r}. Give a whole number of 1 or more.')
    about,gallery = {'embedding': emb, 'length': float(emb.norm()), 'picture': picture},learn.gallery
    if gallery is None:
        kind,scores,identities = named_by_head(learn, emb[None])
        order = scores[0].argsort(descending=True, stable=True)
        nearest = pd.DataFrame({'identity': [identities[i] for i in order[:top]], kind: scores[0][order[:top]]})
        among = f'the {len(identities)} identities of training'
        return Answer(identities[order[0]], order[0], scores[0], identities, kind, nearest, among=among, **about)
    cosine = gallery.cosines(learn, emb[None])[0]
    order = cosine.argsort(descending=True, stable=True)
    first = pd.Series(gallery.ids[order].numpy()).drop_duplicates().index  # the nearest picture of each identity
    best = order[torch.tensor(first.to_numpy())]
    scores = torch.empty(len(gallery.identities)).index_copy_(0, gallery.ids[best], cosine[best])
    rows = [gallery.rows[i] for i in best[:top]]
    nearest = pd.DataFrame({'identity': [o.identity for o in rows], 'cosine': cosine[best[:top]],
                            'path': [o.path for o in rows]})
    return Answer(rows[0].identity, gallery.ids[best[0]], scores, gallery.identities, 'cosine', nearest,
                  quality=gallery.quality(about['length']), among=f'a {gallery}', files=[o.file for o in rows], **about)


def draw_answers(
    answers:list,     # Of `Answer`
    height:float=1.5, # Of a picture, inches
):
    "A row for each: the picture, and beside it the nearest ones; without a gallery, pictures with who it is"
    pictures = [a.picture for a in answers]
    words = {'cosine': 'cosine', 'probability': 'prob.'}
    said = [[f'{shortened(o.identity, a.picture, height)}\n{words[a.kind]} {o[2]:.2f}' for o in a.nearest.itertuples()]
            for a in answers]
    if any(a.files for a in answers):
        ranked_lists_figure(pictures, [a.files for a in answers], captions=said, height=height, figure=plt.figure)
    else: captioned_figure(pictures, [o[0] for o in said], height=height, figure=plt.figure)
