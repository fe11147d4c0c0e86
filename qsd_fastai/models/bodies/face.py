"What bodies for faces share: their embedding is made for one size of pictures"
from ..layers import StillBatchNorm
from ..preprocess import Preprocess
from .staged import StagedBody

__all__ = ['FaceBody', 'StillScale']


class StillScale(StillBatchNorm):
    """Batch norm whose scale is not trained: the last layer of a face body.

    The length of an embedding is the margin's business."""
    still = ('weight',)


class FaceBody(StagedBody):
    "What face bodies share: maps at a sixteenth of the pictures' size, and an embedding made for that size"
    def __init__(self,
        num_features:int,      # Channels of the final maps
        embed_dim:int,         # Size of the embedding
        preprocess:Preprocess, # What pictures it wants; its `size` is the one the embedding layer is built for
    ):
        super().__init__(num_features, embed_dim, preprocess)
        if min(preprocess.size) < 16:
            raise ValueError(f'size is {preprocess.size}. Give 16 pixels or more: a face body halves them four times.')

    @property
    def map_size(self):
        "(height, width) of the final maps"
        return tuple(-(-n//16) for n in self.preprocess.size)

    def forward_head(self,
        maps,                 # `(bs, num_features, h, w)`, of `forward_features`
        pre_logits:bool=True, # For timm's signature: there are no logits here
    ): # `(bs, embed_dim)`, at least float32
        "The embedding; raises `ValueError` for pictures of another size than the body was built for"
        if tuple(maps.shape[-2:]) != self.map_size:
            raise ValueError(f'The maps are {tuple(maps.shape[-2:])}, not {self.map_size}: this {type(self).__name__} '
                             f'is built for pictures of {self.preprocess.size}. Load pictures of that size, or build '
                             "it for yours: body_kwargs={'size': (height, width)}.")
        return super().forward_head(maps, pre_logits)
