"""A GPU that is not there: tensors on `cuda:0` whose values lie on the CPU, so that a whole path runs and is compared.

Fake tensors have no values: a path ends at the first one that is looked at. These have them, so what a path answers
there must be what it answers here, bit for bit. As on a device, operands of two devices are refused and numpy sees
nothing until it is brought over. What waits for the device is counted, by operation. CUDA's own kernels, and what is
asked of `torch.cuda`, are not tried."""
from collections import Counter
from functools import cache

import fastai.torch_core  # noqa: F401 Changes what PyTorch's tensors do
import torch
from torch.overrides import TorchFunctionMode, get_default_nowrap_functions
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

CUDA,META,CPU = (torch.device(o) for o in ('cuda:0', 'meta', 'cpu'))
MASKED = 'index', 'index_put_', '_index_put_impl_' # By a mask: how many there are must be known
BRINGS = 'copy_', *MASKED # Take operands of the CPU, as on a device
WAITS = '_local_scalar_dense', 'nonzero', 'masked_select', '_unique2', 'unique_dim', 'equal', 'is_nonzero', 'bincount'


class OnDevice(torch.Tensor):
    "A tensor that says that it is on `cuda:0`; PyTorch's own code sees one on the device `meta`"
    plain = torch.Tensor # Its class on the CPU
    __slots__ = 'held',  # The values; fastai copies what stands in a tensor's dictionary to other tensors

    @staticmethod
    def __new__(cls, held):
        made = cls._make_wrapper_subclass(cls, held.shape, strides=held.stride(), dtype=held.dtype, device='meta',
                                          storage_offset=held.storage_offset())
        made.held = held
        return made

    def __init__(self, *args): pass # `TensorImage(x)` of one that is there comes here with the one that it was made of

    device,is_cuda,is_meta = property(lambda self: CUDA), property(lambda self: True), property(lambda self: False)

    def tolist(self): return self.cpu().tolist()
    def __repr__(self): return f'{type(self).__name__}({self.held}, device={CUDA})'

    def as_subclass(self, cls):
        if not issubclass(cls, OnDevice): cls = _on_device(cls)
        return self if type(self) is cls else cls(self.held)

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass(): found = func(*args, **kwargs or {})
        if func in get_default_nowrap_functions(): return found
        def of_its_class(o): return o.as_subclass(cls if isinstance(o, OnDevice) else cls.plain)
        return tree_map_only(torch.Tensor, of_its_class, found)

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise RuntimeError(f'{func}: the device is there only within `PretendedDevice`')


@cache
def _on_device(cls):
    "The class of tensors of `cls`, such as fastai's `TensorImage`, that are on the device"
    return OnDevice if cls is torch.Tensor else type(cls.__name__, (OnDevice, cls), {'plain': cls})


def _cast_by(cast):
    "`as_subclass` that makes what comes from the device of its plain class"
    def as_subclass(o, cls):
        if isinstance(o, OnDevice): return o.as_subclass(cls)
        return cast(o, cls.plain if issubclass(cls, OnDevice) else cls)
    return as_subclass


class _Cuda(TorchFunctionMode):
    "cuda is meta before PyTorch looks for a driver"
    def __torch_function__(self, func, types, args=(), kwargs=None):
        def moved(o): return META if isinstance(o, (str, torch.device)) and str(o).startswith('cuda') else o
        args,kwargs = tree_map(moved, args), tree_map(moved, kwargs or {})
        if func not in (torch.tensor, torch.as_tensor, torch.Tensor.new_tensor): return func(*args, **kwargs)
        to = kwargs.pop('device', None) # These would be made on meta without a word to any mode
        if func is torch.Tensor.new_tensor:
            (of, *args),func = args,torch.tensor
            to,kwargs = to or (META if isinstance(of, OnDevice) else CPU), {'dtype': of.dtype, **kwargs}
        return func(*args, **kwargs).to(to or CPU)


class PretendedDevice(TorchDispatchMode):
    "Within it `cuda` is a device; `waits` counts what waits for values there, by operation"
    def __init__(self):
        super().__init__()
        self.waits,self.cuda = Counter(),_Cuda()

    def __enter__(self):
        self.cuda.__enter__()
        self.casts = torch.as_subclass, torch.Tensor.as_subclass
        torch.as_subclass,torch.Tensor.as_subclass = map(_cast_by, self.casts)
        return super().__enter__()

    def __exit__(self, *args):
        super().__exit__(*args)
        torch.as_subclass,torch.Tensor.as_subclass = self.casts
        self.cuda.__exit__(*args)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name,kwargs = func.overloadpacket.__name__,dict(kwargs or {})
        tensors = [o for o in tree_leaves((args, kwargs)) if isinstance(o, torch.Tensor)]
        there = [isinstance(o, OnDevice) for o in tensors]
        # a single number of the CPU may be an operand
        if any(there) and name not in BRINGS and not all(a or not o.ndim for a,o in zip(there, tensors)):
            raise RuntimeError(f'{func}: operands on cuda:0 and on cpu')
        stays = any(there)
        if (to := kwargs.get('device')) is not None: kwargs['device'],stays = CPU, torch.device(to) == META
        brought = (name == '_to_copy' and not stays) or (name == 'copy_' and not there[0])
        masked = name in MASKED and any(isinstance(o, OnDevice) and o.dtype == torch.bool for o in args[1])
        if any(there) and (name in WAITS or brought or masked): self.waits['nonzero' if masked else name] += 1
        args_here,kwargs_here = tree_map_only(OnDevice, held, (args, kwargs))
        found = func(*args_here, **kwargs_here)
        if name.endswith('_') and not name.startswith('_'): return args[0]
        if 'out' in kwargs: return kwargs['out']
        return tree_map_only(torch.Tensor, OnDevice, found) if stays else found


def held(o):
    "Its values on the CPU, wherever it was"
    return o.held if isinstance(o, OnDevice) else o
