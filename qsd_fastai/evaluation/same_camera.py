"Who matches a query, and which of those its own camera saw, so that they do not count: the junk of a search"
import numpy as np

from ..spelling import same_codes
from .given import one_each

__all__ = ['Matches', 'no_answer']


def _codes(query, gallery, n_query, n_gallery, word):
    "Query and gallery names of any type as int64 codes of one numbering; -1 where missing"
    codes = same_codes(query, gallery, name=f'q_{word} and g_{word}', camera=word == 'cameras')
    for side,values,n in zip('qg', codes, (n_query, n_gallery)): one_each(values, n, f'{side}_{word}')
    return codes


class Matches:
    "Which gallery pictures show the identity of a query, and which of those are junk: taken by the query's own camera"
    def __init__(self,
        q_ids,     # `(n_queries,)` identities, of any type
        g_ids,     # `(n_gallery,)` identities
        q_cameras, # `(n_queries,)` cameras, or None
        g_cameras, # `(n_gallery,)` cameras, or None
        shape,     # `(n_queries, n_gallery)`
    ):
        self.q,self.g = _codes(q_ids, g_ids, *shape, 'ids')
        for side,codes in (('q_ids', self.q), ('g_ids', self.g)):
            if (codes < 0).any():
                raise ValueError(f'{side} row {(codes < 0).argmax()} is empty. Every picture needs an identity.')
        self.order = np.argsort(self.g, kind='stable')  # gallery rows by identity, in gallery order within each
        in_order = self.g[self.order]
        self.start,self.stop = (np.searchsorted(in_order, self.q, end) for end in ('left', 'right'))
        self.q_camera,self.g_camera = np.full(shape[0], -1), np.full(shape[1], -2)  # unknown never equals unknown
        if (q_cameras is None) != (g_cameras is None):
            raise ValueError('One of q_cameras and g_cameras is None. Give both, or neither.')
        if q_cameras is not None:
            self.q_camera,self.g_camera = _codes(q_cameras, g_cameras, *shape, 'cameras')
            self.g_camera[self.g_camera < 0] = -2

    def block(self, lo, hi):
        """Gallery rows of the queries' identities: `index, same, junk`, each (hi-lo, m).

        `index` ascends; `same` is False for padding; `junk` is where identity and camera are the query's own."""
        start,stop = self.start[lo:hi, None], self.stop[lo:hi, None]
        place = start + np.arange(max(1, (stop - start).max()))
        same = place < stop
        # padding repeats the first match, so that writing to all of `index` touches true matches only
        index = self.order[np.where(same, place, np.minimum(start, len(self.order) - 1))]
        return index, same, same & (self.g_camera[index] == self.q_camera[lo:hi, None])


def no_answer():
    "The error that everybody meets with own data, and what helps"
    return ValueError('No query can be answered: all query identities do not appear in gallery, or only from the '
                      'camera of the query. Check that the gallery belongs to these queries, that both sides write '
                      'identities alike, and the cameras; exclude_same_camera=False judges without them.')
