"Pictures that are decoded once: the same batches, made once, and made anew where anything is another"
import gc
import os
import pickle
import random
from copy import deepcopy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.data.transforms import ToTensor
from fastai.torch_core import set_seed
from fasttransform import Transform
from PIL import Image
from pretended import OnDevice, PretendedDevice, held
from started import launch_function

from qsd_fastai.callbacks.many import SharedDL
from qsd_fastai.data import kept
from qsd_fastai.data.kept import keep_pictures
from qsd_fastai.data.loaders import IdentityDL, recognition_block, recognition_dataloaders, table_rows
from qsd_fastai.distributed import gather
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.launched import joined

ALL = 'memory','device','file'


@pytest.fixture
def people(tmp_path):
    return generate_people(tmp_path/'people', n_train=6, n_test=3, n_imgs=4, n_test_imgs=4, size=(48, 24),
                           progress=False)


def loaders(people, keep, **kwargs):
    set_seed(0)
    return recognition_dataloaders(people, size=(32, 16), n_ids=3, n_imgs=2, seed=0, keep=keep,
                                   **{'num_workers': 0, **kwargs})


def batches(dls): return [b for dl in (dls.train, dls.train, dls.valid) for b in dl]


def assert_same(some, others):
    assert len(some) == len(others)
    for a,b in zip(some, others):
        assert [type(o) for o in a] == [type(o) for o in b]
        for x,y in zip(a, b): torch.testing.assert_close(x, y, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('how', [{}, {'num_workers': 2}, {'partners': True}, {'copies': True}, {'by': 'picture'}])
def test_batches_are_the_same_bit_for_bit(people, how):
    wanted = batches(loaders(people, 'no', **how))
    for keep in (*ALL, 'auto', 'file'): assert_same(batches(loaders(people, keep, **how)), wanted)


def test_what_is_drawn_later_is_the_same(people):
    def drawn(keep):
        dls = loaders(people, keep) # With a seed
        list(dls.valid)
        return random.random(),np.random.rand(),torch.rand(1).item()
    assert drawn('memory') == drawn('no')


def test_pictures_are_opened_once(people, monkeypatch):
    opened = []
    own = kept.KeptPictures._fill
    monkeypatch.setattr(kept.KeptPictures, '_fill', lambda self, *o: (opened.append(self), own(self, *o)))
    dls = loaders(people, 'memory')
    batches(dls)
    batches(dls)
    other = loaders(people, 'memory')
    batches(other)
    assert len(opened) == 2 # Training and validation
    assert dls.train.kept.store is other.train.kept.store


def test_one_batch_keeps_nothing(people):
    dls = loaders(people, 'memory')
    assert_same([dls.one_batch()], [loaders(people, 'no').one_batch()])
    dls.show_batch(max_n=2)
    plt.close('all')
    assert not dls.train.kept.filled
    assert dls.train.new(shuffle=False).kept is dls.train.kept
    assert dls.test_dl(people.iloc[:2]).kept is None


@pytest.mark.parametrize('keep', ALL)
def test_another_picture_is_decoded_anew(people, tmp_path, keep):
    before = batches(loaders(people, keep))
    file = tmp_path/'people'/people['path'].iloc[0]
    Image.new('RGB', (24, 48), (255, 0, 0)).save(file)
    os.utime(file, ns=(1, 1))
    after = batches(loaders(people, keep))
    assert_same(after, batches(loaders(people, 'no')))
    assert not all(torch.equal(a[0], b[0]) for a,b in zip(before, after))


def test_a_file_is_whole_or_not_there(people, tmp_path, monkeypatch):
    def fails(self, dl, pixels):
        pixels[0] = 1
        raise KeyboardInterrupt
    with monkeypatch.context() as m:
        m.setattr(kept.KeptPictures, '_fill', fails)
        with pytest.raises(KeyboardInterrupt): batches(loaders(people, 'file'))
    assert not list((tmp_path/'people'/'kept').iterdir())
    dls = loaders(people, 'file')
    wanted = batches(dls)
    files = sorted((tmp_path/'people'/'kept').iterdir())
    assert len(files) == 2
    del dls
    gc.collect() # Else the files are at hand
    assert not kept.known
    for file in files: # Of somebody else
        file.unlink()
        np.save(file, np.zeros((1, 3, 2, 2), np.uint8))
    with pytest.raises(ValueError, match=r'holds.*Delete it'): batches(loaders(people, 'file'))
    for file in files: file.unlink()
    assert_same(batches(loaders(people, 'file')), wanted)


def test_a_broken_picture_is_named(people, tmp_path):
    file = tmp_path/'people'/people['path'].iloc[0]
    file.write_bytes(file.read_bytes()[:200])
    with pytest.raises(ValueError, match=file.name): batches(loaders(people, 'memory'))


class Turned(Transform):
    order = ToTensor.order - 2
    def encodes(self, x:Image.Image): return x.rotate(random.randint(0, 9))


def test_what_differs_from_time_to_time_is_not_kept(people):
    dl = loaders(people, 'no').train
    dl.after_item.add(Turned())
    keep_pictures(dl, 'auto')
    assert dl.kept is None
    with pytest.raises(ValueError, match=r'memory.*Turned.*Use "no"'): keep_pictures(dl, 'memory')
    with pytest.raises(ValueError, match="keep is 'disk'"): loaders(people, 'disk')


def test_what_is_large_is_not_kept_unasked(people, monkeypatch):
    assert loaders(people, 'auto').train.kept.where == 'memory'
    monkeypatch.setattr(kept, 'MOST', 100)
    assert loaders(people, 'auto').train.kept is None
    assert loaders(people, 'memory').train.kept.where == 'memory'


def test_a_data_block_of_ones_own_keeps_nothing(people):
    dls = recognition_block((32, 16)).dataloaders(table_rows(people), dl_type=IdentityDL, n_ids=3,
                                               num_workers=2)
    assert dls.train.kept is None
    assert dls.train.fake_l.num_workers == 2


def test_processes_decode_once_and_for_what_is_not_kept(people):
    "A loader that deals out to several processes takes over how many loading processes there are"
    dls = loaders(people, 'memory', num_workers=2)
    assert SharedDL(dls.train, rank=0, world_size=2, device='cpu').fake_l.num_workers == 0
    assert dls.train.new(shuffle=False).fake_l.num_workers == 0
    assert dls.train.kept.workers == dls.test_dl(people.iloc[:2]).fake_l.num_workers == 2
    assert dls.train.new(after_item=[ToTensor()]).kept is None


def kept_here_and_there(rank, table, folder):
    "The first process has the pictures already, the other one has not"
    with joined():
        def filled():
            dl = recognition_dataloaders(table, size=(16, 8), n_ids=2, n_imgs=2, num_workers=0, keep='file').train
            dl.kept.fill(dl)
            return dl
        first = filled()
        if rank:
            first.kept.store = None
            kept.known.clear()
        second = filled()
        torch.save(gather(second.kept.store.pixels[:1].float().mean()[None]), folder/f'{rank}.pt')


def test_processes_meet_whoever_has_the_pictures(labelled_people, tmp_path):
    launch_function(2, kept_here_and_there, labelled_people, tmp_path)
    a,b = (torch.load(tmp_path/f'{rank}.pt', weights_only=True) for rank in range(2))
    assert a.tolist() == b.tolist()


def test_copies_of_a_loader_hold_no_picture(people):
    dls = loaders(people, 'memory')
    wanted,kept = list(dls.valid),dls.valid.kept
    assert len(pickle.dumps(kept)) < 2000 < kept.store.pixels.nbytes
    copied = deepcopy(dls).valid
    assert not copied.kept.filled
    assert_same(list(copied), wanted)
    assert copied.kept.store is kept.store # Found, not decoded


def test_a_learner_saved_before_there_was_any_trains(people):
    dls = loaders(people, 'no')
    assert 'kept' not in vars(dls.train)
    assert len(list(dls.train))


def test_what_is_kept_is_told_of_once(people, monkeypatch, capsys):
    monkeypatch.setattr(kept, 'told', set())
    def said(keep):
        dls = loaders(people, keep)
        for dl in (dls.train, dls.train, dls.valid): list(dl)
        return capsys.readouterr().out
    assert said('auto') == '24 pictures of 32x16 are decoded once and kept in memory, 0.0 MiB.\n'
    assert said('auto') == said('memory') == said('no') == ''
    assert 'kept on the device' in said('device')
    monkeypatch.setattr(kept, 'MOST', 100)
    lines = said('auto').splitlines()
    assert len(lines) == 2 # Training and validation
    assert lines[0].startswith('24 pictures of 32x16 are decoded each time: 0.0 MiB are not kept unasked. Use keep=')
    assert said('auto') == ''
    dl = loaders(people, 'no').train
    dl.after_item.add(Turned())
    keep_pictures(dl, 'auto')
    assert capsys.readouterr().out == 'Pictures are decoded each time, since the transforms of items hold Turned.\n'


@pytest.mark.parametrize('keep', ['memory', 'file'])
def test_a_batch_goes_to_a_gpu_by_way_of_pinned_memory(people, monkeypatch, keep):
    dls,pinned,empty = loaders(people, keep),[],torch.empty
    list(dls.train)
    store,at,gpu = dls.train.kept,[3, 1, 1, 20],torch.device('cuda')
    def made(*shape, pin_memory=False, **kwargs): # There is no pinned memory without a driver
        pinned.append(pin_memory)
        return empty(*shape, **kwargs)
    wanted = store.batch(at)
    with monkeypatch.context() as m, PretendedDevice() as device:
        m.setattr(torch, 'empty', made)
        store.batch(at, gpu) # None is there
        assert not pinned
        m.setattr(torch.cuda, 'is_available', lambda: True)
        found = store.batch(at, gpu)
        assert pinned == [True]*len(wanted)
        assert not device.waits
        store.batch(at, 'cpu')
        assert len(pinned) == len(wanted)
    assert all(isinstance(o, OnDevice) for o in found)
    assert all(isinstance(o, type(w)) for o,w in zip(found, wanted))
    plain = [o.as_subclass(torch.Tensor) for o in wanted]
    torch.testing.assert_close([held(o) for o in found], plain, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize('workers', [0, 2])
def test_what_processes_load_for_a_gpu_is_pinned(people, monkeypatch, workers):
    "By PyTorch's own thread, which is told that there is a GPU; types and transforms of batches stay"
    dls,pinned = loaders(people, 'no', num_workers=workers),[]
    wanted = [list(dl) for dl in dls.loaders]
    assert not any(dl.fake_l.pin_memory for dl in dls.loaders)
    dls = loaders(people, 'no', num_workers=workers)
    def pin(self):
        pinned.append(type(self).__name__)
        return self
    monkeypatch.setattr(kept, '_is_gpu', lambda device: True)
    monkeypatch.setattr(torch.Tensor, 'pin_memory', pin)
    for name,o in (('is_available', True), ('current_device_index', 0), ('set_device_index', None),
                   ('current_accelerator', torch.device('cuda'))):
        monkeypatch.setattr(torch.accelerator, name, lambda *_, o=o: o)
    found = [list(dl) for dl in dls.loaders]
    assert len(pinned) == (4*sum(map(len, found)) if workers else 0)
    for before,after in zip(wanted, found):
        for one,two in zip(before, after):
            assert [type(o) for o in one] == [type(o) for o in two]
            torch.testing.assert_close(list(one), list(two), rtol=0, atol=0, equal_nan=True)


def test_what_is_kept_is_not_pinned_twice(people, monkeypatch):
    dls = loaders(people, 'memory', num_workers=2)
    monkeypatch.setattr(kept, '_is_gpu', lambda device: True)
    dls.train.before_iter()
    assert not dls.train.pin_memory
    assert not dls.train.fake_l.pin_memory
