"Blocks: who, how good, where; what they refuse, and what they say when they do"
import math
from operator import attrgetter
from pathlib import Path

import pytest
import torch
from fastai.data.block import DataBlock
from fastai.data.core import Datasets, TfmdLists
from fastai.torch_core import TensorCategory

from qsd_fastai.data.blocks import (
    EncodeQuality,
    EncodeScene,
    HeldOutCategorize,
    IdentityBlock,
    PictureBlock,
    QualityBlock,
    RecognitionImage,
    SceneBlock,
    TensorQuality,
    TensorScene,
)
from qsd_fastai.data.loaders import recognition_block, recognition_dataloaders, table_rows

ITEMS,SPLITS = ['b', '10', 'a', 'b', 'z', '9', 'a', 'z'], [[0, 1, 2, 3], [4, 5, 6, 7]]


def identities(block, items=ITEMS, splits=SPLITS):
    return Datasets(items, [block.type_tfms], splits=splits)


def test_training_identities_come_first_and_only_they_count():
    dsets = identities(IdentityBlock())
    assert list(dsets.vocab) == ['10', 'a', 'b', '9', 'z']
    assert dsets.c == 3
    assert [int(o[0]) for o in dsets.train] == [2, 0, 1, 2]
    assert [int(o[0]) for o in dsets.valid] == [4, 3, 1, 4]
    assert isinstance(dsets.train[0][0], TensorCategory)
    assert dsets.train[0][0].dtype == torch.int64
    assert [dsets.decode(o)[0] for o in dsets.valid] == ['z', '9', 'a', 'z']
    assert dsets.tfms[0].decode(torch.tensor(-1)) == '?'  # what an embedding says
    # by text, in whatever order the items come
    assert list(identities(IdentityBlock(), ITEMS[::-1], [[4, 5, 6, 7], [0, 1, 2, 3]]).vocab) == list(dsets.vocab)


def test_identities_that_only_a_later_validation_brings():
    dsets = identities(IdentityBlock())
    new = [int(dsets.tls[0].tfms(o)) for o in ('nobody', 'somebody', 'nobody')]
    assert new[0] == new[2] != new[1]
    assert min(new) >= len(dsets.vocab)
    assert dsets.tls[0].tfms.decode(TensorCategory(new[0])) == '?'


def test_a_vocabulary_given_or_a_closed_set():
    own = HeldOutCategorize(vocab=['a', 'b', '10', '9', 'z'], sort=False)
    own.n_train = 3
    assert [int(o) for o in TfmdLists(ITEMS, own, splits=SPLITS).valid] == [4, 3, 0, 4]
    closed = identities(IdentityBlock(held_out=False))
    assert closed.c == 3
    with pytest.raises(KeyError, match="'z'"): closed.valid[0]


@pytest.mark.parametrize('given, wanted', [(0, 0.), (100, 100.), ('37.5', 37.5),
                                           (None, math.nan), ('', math.nan), (math.nan, math.nan)])
def test_quality(given, wanted):
    q = EncodeQuality()(given)
    assert isinstance(q, TensorQuality)
    assert q.dtype == torch.float32
    assert q.shape == ()
    torch.testing.assert_close(q.as_subclass(torch.Tensor), torch.tensor(wanted), equal_nan=True)
    assert str(EncodeQuality().decode(q)) == ('quality ?' if math.isnan(wanted) else f'quality {wanted:.0f}')


@pytest.mark.parametrize('wrong', [-.1, 100.5, '130', math.inf])
def test_quality_out_of_range(wrong):
    with pytest.raises(ValueError, match=r'outside 0 to 100.*Rescale'): EncodeQuality()(wrong)


def test_quality_that_is_no_number():
    with pytest.raises(ValueError, match='good'): EncodeQuality()('good')


def test_cameras_are_numbered_in_sorted_order_over_both_halves():
    items = [[0, 'c2', 'train'], [1, '', 'train'], [2, 'c10', 'query'],
             [3, None, 'gallery'], [4, math.nan, 'train'], [5, 7, 'gallery']]
    dsets = Datasets(items, [SceneBlock().type_tfms], splits=[[0, 1, 4], [2, 3, 5]])
    assert dsets.tls[0].tfms.fs[0].cameras == ['7', 'c10', 'c2']
    wanted = [[0, 2, 0], [1, -1, 0], [4, -1, 0], [2, 1, 1], [3, -1, 0], [5, 0, 0]]
    found = [o[0] for part in (dsets.train, dsets.valid) for o in part]
    assert [o.tolist() for o in found] == wanted
    assert all(isinstance(o, TensorScene) and o.dtype == torch.int64 for o in found)
    assert dsets.decode((found[3],))[0] == (2, 'c10', True)
    assert dsets.decode((found[1],))[0] == (1, '', False)


def test_a_camera_of_later_is_a_number_of_its_own_everywhere():
    tfm = EncodeScene(['c1', 'c2'])
    new = [int(tfm([0, name, 'query'])[1]) for name in ('c3', 'c4', 'c3')]
    assert new[0] == new[2] != new[1]
    assert min(new) >= 2
    assert new[0] == 39934565506435984  # what `hash` gives would differ in every process
    assert tfm.decode(tfm([0, 'c3', 'query'])) == (0, '', True)


def test_pictures_that_cannot_be_read_are_named(tmp_path, make_table):
    broken,cut = tmp_path/'broken.jpg', tmp_path/'cut.png'
    broken.write_text('no picture')
    table = make_table([2])
    picture = Path(table_rows(table)[0].file)
    cut.write_bytes(picture.read_bytes()[:60])
    with pytest.raises(FileNotFoundError, match=r'gone\.jpg does not exist.*check_table'):
        RecognitionImage.create(tmp_path/'gone.jpg')
    for file in (broken, cut):
        said = rf'{file.name} cannot be read.*Replace it, or leave it out'
        with pytest.raises(OSError, match=said): RecognitionImage.create(file)
    assert RecognitionImage.create(picture).size == (8, 16)
    # also out of a loader
    rows = table_rows(table)
    rows[0].file = str(cut)
    block = recognition_block((16, 8))
    with pytest.raises(OSError, match=r'cut\.png cannot be read'): block.datasets(rows)[0]


def test_batch_of_all_blocks(make_table):
    table = make_table([4, 4])
    dls = recognition_dataloaders(table, size=(16, 8), n_ids=2, n_imgs=2, num_workers=0, device='cpu', seed=0)
    x,ids,quality,scene = dls.one_batch()
    assert x.shape == (4, 3, 16, 8)
    assert ids.dtype == scene.dtype == torch.int64
    assert quality.dtype == torch.float32
    assert scene.shape == (4, 3)
    assert dls.n_inp == 1
    assert dls.c == 2
    valid = [torch.cat(o) for o in zip(*dls.valid)]
    assert valid[3][:, 2].tolist() == [1, 0, 0]*2
    assert valid[1].tolist() == [2]*3 + [3]*3
    assert valid[3][:, 1].tolist() == [0, 1, 2]*2
    assert valid[2].isnan().tolist() == table['quality'][8:].isna().tolist()


def test_blocks_alone(make_table):
    "A table of identities without quality and scene, as another data set may have"
    table = make_table([3, 3], n_held=1)
    block = DataBlock((PictureBlock, IdentityBlock), n_inp=1, getters=[attrgetter('file'), attrgetter('identity')],
                      splitter=lambda o: (list(range(6)), [6, 7, 8]))
    dls = block.dataloaders(table_rows(table), bs=6, num_workers=0)
    assert dls.c == 2
    assert sorted(dls.one_batch()[1].tolist()) == [0, 0, 0, 1, 1, 1]
    assert dls.valid.one_batch()[1].tolist() == [2]*3
    assert QualityBlock().type_tfms[0].__class__ is EncodeQuality
