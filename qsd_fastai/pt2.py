"""A `.pt2` of `torch.export`, looked at part by part before torch opens it

torch unpickles parts of such a file, loads libraries out of it, and evaluates expressions and calls functions that it
names. Here only the parts, operators and expressions of an exported network pass; where the network came from in the
source, which torch writes with the folders of a machine, is taken out, at export and before loading."""
import io
import json
import logging
import re
import zipfile
from pathlib import Path

import torch
from torch.export.passes import move_to_device_pass

from .archives import open_archive
from .files import in_one_move
from .models.weights.safe_pickle import read_parts

__all__ = ['read_pt2', 'write_pt2']

# of torch 2.8 and later, and of 2.6 and 2.7
PARTS = re.compile(r'(archive_format|archive_version|byteorder|version|\.\w+|\.data/\w+|models/model\.json|extra/.+|'
                   r'extra_files/.+|data/(weights|constants)/(\w+_\d+|model_\w+_config\.json|model\.pt)|'
                   r'data/sample_inputs/model\.pt|'
                   r'serialized_(exported_program\.json|state_dict\.pt|constants\.pt|example_inputs\.pt))')
PAYLOAD = re.compile(r'(weight|tensor)_\d+')
TARGET = re.compile(r'torch\.(ops\.(aten|prims|higher_order)\.\w+(\.\w+)?|sym_\w+)|_operator\.\w+|math\.\w+')
# of aten, but with files, or with what is printed
REFUSED = {'from_file', 'save', 'load', '_print', 'warn', 'print'}
NAME = re.compile(r'[\w.]*')
WORDS = set(re.findall(r'\w+', '''
Symbol Integer Float Rational Max Min Mod PythonMod FloorDiv CleanDiv CeilToInt FloorToInt TruncToInt RoundToInt
IntTrueDiv FloatTrueDiv ToFloat PowByNatural FloatPow ModularIndexing Where Identity Eq Ne Lt Le Gt Ge Equality
Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan And Or Not Add Mul Pow Abs floor ceiling oo int_oo
True False positive integer nonnegative real nonzero negative'''))


class Refused(ValueError): "A part that no exported network has"


def read_pt2(
    file,             # `.pt2` of `write_pt2`, or of `torch.export.save`
    key:str,          # Of the text that was written with it
    device:str='cpu', # Where the network is to run
)->tuple: # `(module, text)`, None where there is no such text
    "The network and the text; ValueError naming the file where it is damaged or asks for more than a network needs"
    log = logging.getLogger('torch.export')
    was,extra = log.level, {key: ''}
    try:
        data = _clean(file)
        log.setLevel(logging.ERROR)  # it warns of each form that it tries
        program = torch.export.load(data, extra_files=extra)
        # a graph names the device of its constants and of its inputs: moving the weights is not enough
        module = (program if device == 'cpu' else move_to_device_pass(program, device)).module()
    except Exception as e:  # a damaged file can fail in any way
        why = str(e) if isinstance(e, ValueError) else f'{type(e).__name__}: {e}'
        why = ' '.join(why.split())[:300].rstrip('.')
        raise ValueError(f'{file} cannot be read as a network of torch.export ({why}). '
                         'Export it again with recipes/export.py.') from e
    finally: log.setLevel(was)
    text = extra[key]
    return module, text.decode('utf-8', 'replace') if isinstance(text, bytes) else text or None


def write_pt2(
    program,  # Of `torch.export.export`
    file,     # `.pt2`
    key:str,  # Of a text that goes with it
    text:str, # It
):
    "The network without the folders that it was made in, in one move"
    made = io.BytesIO()
    torch.export.save(program, made, extra_files={key: text})
    with in_one_move(file) as part: Path(part).write_bytes(_clean(made).getbuffer())


def _clean(file):
    "The archive anew, of the parts that were looked at: no reader can see others in it"
    out = io.BytesIO()
    size = len(file.getbuffer()) if isinstance(file, io.BytesIO) else Path(file).stat().st_size
    with open_archive(file, size) as z, zipfile.ZipFile(out, 'w', zipfile.ZIP_STORED) as to:
        names = z.namelist()
        roots = {n.partition('/')[0] for n in names}
        root = f'{roots.pop()}/' if len(roots) == 1 else ''
        sizes = {o.filename.removeprefix(root): o.file_size for o in z.infolist()}
        for name in names:
            part,data = name.removeprefix(root), z.read(name)
            if not PARTS.fullmatch(part): raise Refused(f'it holds {part[:80]!r}, which no exported network has.')
            if part.endswith('.pt') and data: _check_tensors(data, part)
            elif part.endswith('_config.json'): _check_config(json.loads(data), part, sizes)
            elif part.endswith('.json'): data = json.dumps(_checked(json.loads(data))).encode()
            to.writestr(name, data)
    out.seek(0)
    return out


def _check_tensors(data, part):
    "torch reads such a part as a pickle of anything where it is none of tensors"
    try:
        read_parts(io.BytesIO(data), len(data))  # known before it is trusted with time and room
        torch.load(io.BytesIO(data), weights_only=True, map_location='cpu')
    except Exception as e: raise Refused(f'its part {part} is a pickle of something else than tensors.') from e


def _check_config(config, part, sizes):
    for o in config['config'].values():
        if o.get('use_pickle') is not False: raise Refused(f'a tensor of {part} is a pickle.')
        path,meta = o['path_name'], o['tensor_meta']
        if not PAYLOAD.fullmatch(path): raise Refused(f'{part} names {path[:80]!r}, which is no tensor.')
        numel = 1
        for n in meta['sizes']: numel *= int(n['as_int'])
        if numel < 0 or numel > sizes[f'{part.rpartition("/")[0]}/{path}']:
            raise Refused(f'{path} of {part} has {numel} numbers, more than the file holds of it.')


def _checked(o, key=''):
    "What stands in a graph, but for where it came from; Refused for what would be run"
    if isinstance(o, list): return [_checked(v, key) for v in o]
    if isinstance(o, dict):
        emptied = {'metadata': {}, 'guards_code': []}
        if key == 'range_constraints': o = {_expression(k): v for k,v in o.items()}
        return {k: emptied[k] if k in emptied else _checked(v, k) for k,v in o.items()}
    if not isinstance(o, str): return o
    if key == 'target' and (not TARGET.fullmatch(o) or set(o.split('.')) & REFUSED):
        raise Refused(f'its graph calls {o[:80]!r}, which no network needs.')
    if key == 'expr_str': return _expression(o)
    if key in ('name', 'as_name', 'forward_arg_names') and not NAME.fullmatch(o):
        raise Refused(f'its graph has the name {o[:80]!r}.')
    if key in ('in_spec', 'out_spec'): _check_spec(json.loads(o))
    return o


def _expression(text):
    "Evaluated by sympy, and that is by Python"
    words = re.sub(r"'\w*'", '', text)
    strange = re.search(r"[^\w\s()+*/,<>=.|&~-]|__|\.\s*[^\W\d]", words)
    odd = [w for w in re.findall(r'[^\W\d]\w*', words) if w not in WORDS and not re.fullmatch(r'[a-z]{1,3}\d+', w)]
    if strange or odd or len(text) > 10_000: raise Refused(f'its graph has the expression {text[:80]!r}.')
    return text


def _check_spec(spec):
    "How arguments are nested: other types than these import modules"
    if isinstance(spec, list):
        for o in spec: _check_spec(o)
    elif isinstance(spec, dict):
        if spec.get('type') not in (None, 'builtins.tuple', 'builtins.list', 'builtins.dict'):
            raise Refused(f'its arguments are of {str(spec["type"])[:80]!r}.')
        _check_spec(spec.get('children_spec', []))
