"Which pictures are trained on, and which are judged: splits by identity, and how many pictures of each"
import numpy as np
import pandas as pd

from ..columns import complete_table
from .table import unanswerable

__all__ = ['enough_pictures', 'split_identities']


def split_identities(
    table,      # A table with `path` and `identity`; a `split` it has is replaced
    test=.5,    # Held-out identities: a fraction of those with two pictures or more (float), or how many (int)
    n_query=1,  # Queries an identity, or an identity and camera where cameras are known
    seed=0,     # The same seed gives the same split whatever the order of the rows
    query=None, # Queries among the held-out pictures: mask over the rows, or a regular expression found in the path
)->pd.DataFrame:
    """A copy of `table` split by identity: nobody who is judged was trained on.

    A query that nothing could answer goes to the gallery."""
    out = complete_table(table).copy()
    n_pics = out['identity'].value_counts()
    able = np.array(sorted(n_pics.index[n_pics >= 2]), dtype=object)
    n = int(test) if isinstance(test, (int, np.integer)) else round(test*len(able))
    if not 0 < n <= len(able):
        raise ValueError(f'test={test} asks for {n} held-out identities, and {len(able)} of {len(n_pics)} identities '
                         'have two pictures or more. Pass a fraction above 0 and at most 1, or a number of identities.')
    rng = np.random.default_rng(seed)
    by_path = np.argsort(out['path'].to_numpy(dtype=object), kind='stable')
    held = out['identity'].isin(able[rng.permutation(len(able))[:n]]).to_numpy()
    if query is None:
        drawn = by_path[rng.permutation(len(out))]
        asked = np.empty(len(out), bool)
        asked[drawn] = out.iloc[drawn].groupby(['identity', 'camera']).cumcount().to_numpy() < n_query
    elif isinstance(query, str): asked = out['path'].str.contains(query, regex=True).to_numpy()
    else: asked = np.asarray(query, bool)
    if len(asked) != len(out): raise ValueError(f'query is a mask of {len(asked)} rows, the table has {len(out)}.')
    if not (asked & held).any():
        some = out['path'].iloc[held.argmax()]
        raise ValueError(f'query={query!r} matches no picture of the held-out identities. One of them is {some!r}.')
    out['split'] = split = np.where(~held, 'train', np.where(asked, 'query', 'gallery')).astype(object)
    while (bad := unanswerable(out)).any():  # one an identity and round: what has moved may answer the next
        rows = by_path[bad[by_path]]
        split[rows[~out['identity'].iloc[rows].duplicated().to_numpy()]] = 'gallery'
        out['split'] = split
    if not (out['split'] == 'query').any():
        raise ValueError('No picture can be a query, for nothing in the gallery would answer it: each held-out '
                         'identity was seen by one camera only. Leave `camera` empty if it says nothing.')
    return out


def enough_pictures(
    table:pd.DataFrame, # A table
    min_imgs:int=2,     # Training identities with fewer pictures are left out
    max_imgs:int=0,     # Of each training identity at most so many pictures, drawn by the seed; 0: all
    seed:int=0,         # Of the drawing
)->pd.DataFrame:
    "The table without training pictures of identities with too few, and without those beyond enough; it says how many"
    if min_imgs > max_imgs > 0:
        raise ValueError(f'min_imgs is {min_imgs} and max_imgs {max_imgs}. Nobody is left: exchange them.')
    table = complete_table(table)
    place = table.sample(frac=1, random_state=seed).groupby('identity').cumcount().reindex(table.index)
    few = table.groupby('identity')['path'].transform('size') < min_imgs
    left_out = (table['split'] == 'train') & (few | (place >= (max_imgs or len(table))))
    if left_out.any():
        beyond = f', or beyond {max_imgs} of one' if max_imgs else ''
        print(f'{left_out.sum():,} training pictures are left out: of identities with fewer than {min_imgs}{beyond}')
    kept = table[~left_out].reset_index(drop=True)
    kept.attrs = table.attrs
    return kept
