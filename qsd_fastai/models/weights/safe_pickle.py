"Read a PyTorch file, even of a whole pickled module, without running any code that the file names"
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

__all__ = ['Inert', 'read_checkpoint', 'state_of']

# first of the pickles in a file of torch before 1.6 (public file format)
LEGACY_MAGIC = 0x1950a86a20f9469cfc6c

STORAGES = {
    'DoubleStorage': torch.float64, 'FloatStorage': torch.float32,
    'HalfStorage': torch.float16, 'BFloat16Storage': torch.bfloat16,
    'LongStorage': torch.int64, 'IntStorage': torch.int32, 'ShortStorage': torch.int16, 'CharStorage': torch.int8,
    'ByteStorage': torch.uint8, 'BoolStorage': torch.bool, 'UntypedStorage': torch.uint8}


class Inert:
    "What stands for an object of a class that is not trusted: it keeps its state and can do nothing"
    def __new__(cls, *args, **kwargs): return super().__new__(cls)
    def __init__(self, *args, **kwargs): self.state = {} # What a file hands to the class, not looked at
    def __setstate__(self, state): self.__dict__['state'] = state
    def __setitem__(self, key, value): pass
    def __call__(self, *args, **kwargs): return Inert()
    def __hash__(self): return id(self)
    def append(self, value): pass
    def extend(self, values): pass
    def add(self, value): pass


def _tensor(storage, offset, size, stride, *ignored):
    if not isinstance(storage, torch.Tensor): raise pickle.UnpicklingError('A tensor has no numbers.')
    return torch.as_strided(storage, tuple(size), tuple(stride), int(offset))


def _tensor_of_type(storage, offset, size, stride, requires_grad, hooks, dtype, *ignored):
    return _tensor(storage.view(dtype), offset, size, stride)


def _first(data, *ignored): return data


# what a file may call, and what it gets for it
TRUSTED = {
    ('collections', 'OrderedDict'): OrderedDict, ('torch', 'Size'): tuple,
    ('builtins', 'set'): set, ('__builtin__', 'set'): set,
    ('torch._utils', '_rebuild_tensor'): _tensor, ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch._utils', '_rebuild_tensor_v3'): _tensor_of_type,
    ('torch._utils', '_rebuild_parameter'): _first, ('torch._utils', '_rebuild_parameter_with_state'): _first}


class RestrictedUnpickler(pickle.Unpickler):
    "Knows tensors and plain containers; anything else becomes `Inert`"
    def __init__(self, file, storage=None):
        super().__init__(file, encoding='utf-8')
        self.storage = storage

    def find_class(self, module, name):
        trusted = TRUSTED.get((module, name))
        # a file can set attributes of what it gets hold of: types here refuse that, and a function is made for it alone
        if isinstance(trusted, type): return trusted
        if trusted is not None: return lambda *args: trusted(*args)
        if module in ('torch', 'torch.storage') and name in STORAGES: return STORAGES[name]
        if module == 'torch' and isinstance(getattr(torch, name, None), torch.dtype): return getattr(torch, name)
        return type(name.rpartition('.')[2], (Inert,), {})

    def persistent_load(self, pid):
        kind = pid[0].decode() if isinstance(pid[0], bytes) else pid[0]
        if kind == 'module': return pid[1] # a class with its source code, in files of torch before 1.6
        if kind != 'storage' or self.storage is None: raise pickle.UnpicklingError(f'Reference {kind!r} is unknown.')
        return self.storage(*pid[1:])


def _numbers(data, dtype):
    return torch.frombuffer(bytearray(data), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)


def _read_zip(file):
    with zipfile.ZipFile(file) as z:
        names = set(z.namelist())
        index = next((n for n in names if n.endswith('data.pkl')), None)
        if index is None: raise pickle.UnpicklingError('There is no data.pkl in it.')
        root = index[:-len('data.pkl')]
        order = f'{root}byteorder'
        if order in names and z.read(order) != b'little': raise pickle.UnpicklingError('Its numbers are big-endian.')
        seen = {}

        def storage(dtype, key, location, numel, *ignored):
            if key not in seen: seen[key] = _numbers(z.read(f'{root}data/{key}'), dtype)
            return seen[key]

        with z.open(index) as f: return RestrictedUnpickler(f, storage).load()


def _read_legacy(f, size):
    magic = RestrictedUnpickler(f).load()
    if magic != LEGACY_MAGIC: raise pickle.UnpicklingError('It does not begin as a PyTorch file.')
    for _ in range(2): RestrictedUnpickler(f).load() # version of the format, sizes of integers
    seen = {}

    def storage(dtype, key, location, numel, view=None):
        # numbers come after the object: tensors are made over empty storages that are filled below
        if numel*dtype.itemsize > size: raise pickle.UnpicklingError('A tensor is larger than the file.')
        whole = seen.setdefault(key, torch.zeros(numel, dtype=dtype))
        return whole if view is None else whole[view[1]:view[1] + view[2]]

    found = RestrictedUnpickler(f, storage).load()
    for key in RestrictedUnpickler(f).load():
        numel = int.from_bytes(f.read(8), 'little')
        if key not in seen or numel != len(seen[key]):
            raise pickle.UnpicklingError('Its storages do not fit its tensors.')
        seen[key].copy_(_numbers(f.read(numel*seen[key].dtype.itemsize), seen[key].dtype))
    return found


def read_checkpoint(
    file:str|Path, # .pth, .pt, .tar, .ckpt of any torch, or .safetensors
): # What was saved, objects of foreign classes as `Inert`
    "Read a file of weights without running code of it; raises `FileNotFoundError` or, naming the file, `ValueError`"
    file = Path(file)
    if not file.is_file(): raise FileNotFoundError(f'There is no file of weights at {file}.')
    try:
        if file.suffix == '.safetensors':
            from safetensors.torch import load_file
            return load_file(file)
        if zipfile.is_zipfile(file): return _read_zip(file)
        with file.open('rb') as f: return _read_legacy(f, file.stat().st_size)
    except Exception as e: # a damaged pickle can fail in any way
        why = f'{type(e).__name__}: {e}'.removesuffix('.')
        raise ValueError(f'{file} cannot be read as PyTorch weights ({why}). '
                         'Save it again as model.state_dict().') from e


def state_of(
    o,             # A mapping of tensors, or the `Inert` of a module
    prefix:str='', # Before every key
): # Dict of tensors
    "State dict of a module that was pickled whole, and any mapping of tensors as it is"
    def tensors(of, but=()):
        return {f'{prefix}{k}': v for k,v in (of or {}).items() if isinstance(v, torch.Tensor) and k not in but}

    if not isinstance(o, Inert): return tensors(o)
    parts = o.state if isinstance(o.state, dict) else {}
    found = tensors(parts.get('_parameters'))
    found |= tensors(parts.get('_buffers'), but=parts.get('_non_persistent_buffers_set', ()))
    for k,child in (parts.get('_modules') or {}).items():
        if isinstance(child, Inert): found |= state_of(child, f'{prefix}{k}.')
    return found
