"Read a PyTorch file, even of a whole pickled module, without running any code that the file names"
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path

import torch

from ...archives import open_archive

__all__ = ['Inert', 'read_checkpoint', 'read_parts', 'state_of']

# first of the pickles in a file of torch before 1.6 (public file format)
LEGACY_MAGIC = 0x1950a86a20f9469cfc6c
LONGEST,MODULES = 2**26, 100_000 # Bytes of a pickle, without its numbers; modules within a module
LONGEST_NAME = 4096 # Of a weight: modules within modules make none of this length

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
    shape,numel = tuple(size), 1
    for n in shape: numel *= n
    # a stride of 0 makes a tensor of any size from one number, and once it is copied it takes the room that it says
    if numel > len(storage): raise pickle.UnpicklingError(f'A tensor of shape {shape} has {len(storage)} numbers.')
    return torch.as_strided(storage, shape, tuple(stride), int(offset))


def _tensor_of_type(storage, offset, size, stride, requires_grad, hooks, dtype, *ignored):
    return _tensor(storage.view(dtype), offset, size, stride)


def _first(data, *ignored): return data


def _key(o, nested=True):
    "A key as it is; UnpicklingError for what may take for ever to hash: tuples of tuples of tuples, huge numbers"
    short = isinstance(o, int) and o.bit_length() < 4096
    if short or o is None or isinstance(o, str | bytes | float | Inert | torch.Tensor | torch.dtype): return o
    if isinstance(o, type) and issubclass(o, Inert): return o # What stands for a class, of `find_class`
    if isinstance(o, tuple) and nested and len(o) < 100: return tuple(_key(v, False) for v in o)
    raise pickle.UnpicklingError(f'A key is a {type(o).__name__}, no short and plain one.')


def _ordered(*given): return OrderedDict((_key(k), v) for k,v in (given[0] if given else ()))


def _set(*given): return {_key(o) for o in (given[0] if given else ())}


# what a file may call, and what it gets for it
TRUSTED = {
    ('collections', 'OrderedDict'): _ordered, ('torch', 'Size'): tuple,
    ('builtins', 'set'): _set, ('__builtin__', 'set'): _set,
    ('torch._utils', '_rebuild_tensor'): _tensor, ('torch._utils', '_rebuild_tensor_v2'): _tensor,
    ('torch._utils', '_rebuild_tensor_v3'): _tensor_of_type,
    ('torch._utils', '_rebuild_parameter'): _first, ('torch._utils', '_rebuild_parameter_with_state'): _first}


class RestrictedUnpickler(pickle._Unpickler):
    """Knows tensors and plain containers; anything else becomes `Inert`

    The Python one of pickle's two: it has places to look at keys before they are hashed, and its table of things seen
    grows with what is seen, not with a number in the file."""
    dispatch = dict(pickle._Unpickler.dispatch)

    def __init__(self, file, storage=None):
        super().__init__(file, encoding='utf-8')
        self.storage = storage

    def check_keys(self, op, keys):
        for o in keys: _key(o)
        pickle._Unpickler.dispatch[op](self)

    def load_build(self):
        if isinstance(self.stack[-2], Inert): return super().load_build()
        state,one = self.stack.pop(), self.stack[-1]
        # whatever else can be set, of a function or a tensor say, is of no use for weights
        if isinstance(one, OrderedDict) and isinstance(state, dict): one._metadata = state.get('_metadata')

    def refuse(self): raise pickle.UnpicklingError('It has a part that no weights need.')

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


# an opcode and the keys that it is about to hash: those since the mark, or the one below a value
for _op,_keys in ((pickle.SETITEM, lambda o: o.stack[-2:-1]), (pickle.SETITEMS, lambda o: o.stack[::2]),
                  (pickle.DICT, lambda o: o.stack[::2]), (pickle.ADDITEMS, lambda o: o.stack),
                  (pickle.FROZENSET, lambda o: o.stack)):
    RestrictedUnpickler.dispatch[_op[0]] = lambda o, op=_op[0], keys=_keys: o.check_keys(op, keys(o))
RestrictedUnpickler.dispatch[pickle.BUILD[0]] = RestrictedUnpickler.load_build
RestrictedUnpickler.dispatch[pickle.BYTEARRAY8[0]] = RestrictedUnpickler.refuse  # takes the room before it looks


class _Bounded:
    "The first bytes of a file for pickles, which may ask for as many as they like"
    def __init__(self, f, most): self.f,self.most = f,most

    def read(self, n):
        if n < 0 or self.f.tell() + n > self.most: raise pickle.UnpicklingError(f'It asks for {n} bytes more.')
        return self.f.read(n)

    def readline(self): return self.f.readline(self.most)


def _numbers(data, dtype):
    return torch.frombuffer(bytearray(data), dtype=dtype) if len(data) else torch.empty(0, dtype=dtype)


def _read_zip(file, size):
    with open_archive(file, size) as z:
        names = set(z.namelist())
        index = min((n for n in names if n.endswith('data.pkl')), key=len, default=None)
        if index is None: raise pickle.UnpicklingError('There is no data.pkl in it.')
        if (n := z.getinfo(index).file_size) > LONGEST:
            raise pickle.UnpicklingError(f'It has {n} bytes beside its numbers, more than {LONGEST}.')
        root = index[:-len('data.pkl')]
        order = f'{root}byteorder'
        if order in names and z.read(order) != b'little': raise pickle.UnpicklingError('Its numbers are big-endian.')
        seen = {}

        def storage(dtype, key, location, numel, *ignored):
            if key not in seen: seen[key] = _numbers(z.read(f'{root}data/{key}'), dtype)
            return seen[key]

        return RestrictedUnpickler(io.BytesIO(z.read(index)), storage).load()


def _read_legacy(f, size):
    head,seen = _Bounded(f, min(size, LONGEST)), {}
    magic = RestrictedUnpickler(head).load()
    if magic != LEGACY_MAGIC: raise pickle.UnpicklingError('It does not begin as a PyTorch file.')
    for _ in range(2): RestrictedUnpickler(head).load() # version of the format, sizes of integers

    def storage(dtype, key, location, numel, view=None):
        # numbers come after the object: tensors are made over empty storages that are filled below
        taken = sum(o.nbytes for k,o in seen.items() if k != key) + numel*dtype.itemsize
        if numel < 0 or taken > size: raise pickle.UnpicklingError('Its tensors are larger than the file.')
        whole = seen.setdefault(key, torch.zeros(numel, dtype=dtype))
        return whole if view is None else whole[view[1]:view[1] + view[2]]

    found = RestrictedUnpickler(head, storage).load()
    for key in RestrictedUnpickler(head).load():
        numel = int.from_bytes(f.read(8), 'little')
        if key not in seen or numel != len(seen[key]):
            raise pickle.UnpicklingError('Its storages do not fit its tensors.')
        seen[key].copy_(_numbers(f.read(numel*seen[key].dtype.itemsize), seen[key].dtype))
    return found


def read_parts(
    f,    # An open file of `torch.save`
    size, # Its bytes
): # What was saved, objects of foreign classes as `Inert`
    "`read_checkpoint` for a file within another one; a damaged one can fail in any way"
    if zipfile.is_zipfile(f): return _read_zip(f, size)
    f.seek(0)
    return _read_legacy(f, size)


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
        with file.open('rb') as f: return read_parts(f, file.stat().st_size)
    except Exception as e: # a damaged pickle can fail in any way
        why = f'{type(e).__name__}: {e}'.removesuffix('.')
        raise ValueError(f'{file} cannot be read as PyTorch weights ({why}). '
                         'Save it again as model.state_dict().') from e


def state_of(
    o,             # A mapping of tensors, or the `Inert` of a module
    prefix:str='', # Before every key
): # Dict of tensors
    "State dict of a module that was pickled whole, and any mapping of tensors as it is"
    found,waiting,n = {}, [(o, prefix)], 0
    while waiting:
        o,prefix = waiting.pop()
        if (n := n + 1) > MODULES or len(prefix) > LONGEST_NAME:
            raise RecursionError(f'A module holds itself, or more than {MODULES} others. Save its state_dict().')
        if not isinstance(o, Inert):
            found |= _tensors(o, prefix)
            continue
        parts = o.state if isinstance(o.state, dict) else {}
        found |= _tensors({'_extra_state': parts.get('_extra_state')}, prefix) # A `Recognizer` says it there
        found |= _tensors(parts.get('_parameters'), prefix)
        found |= _tensors(parts.get('_buffers'), prefix, parts.get('_non_persistent_buffers_set'))
        children = parts.get('_modules')
        children = list(children.items()) if isinstance(children, dict) else []
        waiting += [(child, f'{prefix}{k}.') for k,child in reversed(children) if isinstance(child, Inert)]
    return found


def _tensors(of, prefix, but=None):
    "The tensors of a mapping; nothing of what is none"
    but = but if isinstance(but, set) else ()
    parts = of.items() if isinstance(of, dict) else ()
    return {f'{prefix}{k}': v for k,v in parts if isinstance(v, torch.Tensor) and k not in but}
