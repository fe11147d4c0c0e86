"Tensors made plain, and numbers brought over from a device at once"
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from qsd_fastai.tensors import numbers


class Transfers(TorchDispatchMode):
    "Counts what waits for a device: numbers that are looked at, and copies from it"
    def __init__(self):
        super().__init__()
        self.looked_at = self.copied = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name,kwargs = func.overloadpacket.__name__,kwargs or {}
        self.looked_at += name == '_local_scalar_dense'
        self.copied += name == '_to_copy' and args[0].device.type != 'cpu' and str(kwargs.get('device')) == 'cpu'
        return func(*args, **kwargs)


def test_numbers_keep_names_order_and_values():
    half,whole = torch.tensor(.5, dtype=torch.float16),torch.tensor([7])
    found = numbers({'a': half, 'b': 3, 'c': whole, 'd': torch.tensor(2., requires_grad=True)})
    assert list(found.items()) == [('a', .5), ('b', 3), ('c', 7.), ('d', 2.)]
    assert numbers({}) == {}


def test_numbers_of_a_device_come_in_one_transfer(monkeypatch):
    "On fake tensors, whose values cannot be looked at: what comes over is counted, then stands for itself"
    with FakeTensorMode():
        there = {k: torch.empty((), device='cuda') for k in 'abcdefghij'}
        monkeypatch.setattr(FakeTensor, 'tolist', lambda self: [0.]*len(self))
        with Transfers() as seen: found = numbers(there)
    assert list(found) == list('abcdefghij')
    assert (seen.looked_at, seen.copied) == (0, 1)
