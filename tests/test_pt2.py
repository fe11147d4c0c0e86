"A `.pt2`: what it would run is refused, where it was made is not in it, and what is broken is named"
import io
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from qsd_fastai.pt2 import read_pt2, write_pt2

KEY = 'a.key'


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv,self.norm = nn.Conv2d(3, 4, 3, padding='same'), nn.BatchNorm2d(4)
        self.register_buffer('mean', torch.ones(3, 1, 1))

    def forward(self, pictures):
        x = self.norm(self.conv(pictures.permute(0, 3, 1, 2).float() - self.mean)).relu()
        with torch.no_grad(): scale = torch.tensor([2.])
        return nn.functional.normalize(x.flatten(2).mean(2)*scale)


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "`(module, program, file)`"
    torch.manual_seed(0)
    model = Small().to(memory_format=torch.channels_last).eval()
    example = (torch.zeros(2, 8, 8, 3, dtype=torch.uint8),)
    shapes = {'pictures': {0: torch.export.Dim('n', min=1)}}
    program = torch.export.export(model, example, dynamic_shapes=shapes)
    file = tmp_path_factory.mktemp('pt2')/'m.pt2'
    write_pt2(program, file, KEY, '{"said": "ü"}')
    return model, program, file


def altered(file, to, change):
    "The archive with parts changed: `change` gets name -> bytes without the first folder"
    with zipfile.ZipFile(file) as z: parts = {n.partition('/')[2]: z.read(n) for n in z.namelist()}
    change(parts)
    with zipfile.ZipFile(to, 'w') as z:
        for n,data in parts.items(): z.writestr(f'archive/{n}', data)
    return to


def test_it_runs_where_it_is_told_to(made):
    "On `meta`, which every machine has, as on a GPU: a graph that names another device would refuse"
    module,_ = read_pt2(made[2], KEY, 'meta')
    assert module(torch.zeros(3, 8, 8, 3, dtype=torch.uint8, device='meta')).device.type == 'meta'


def test_it_comes_back(made):
    model,_,file = made
    module,text = read_pt2(file, KEY)
    assert json.loads(text) == {'said': 'ü'}
    assert read_pt2(file, 'another')[1] is None
    for n in (1, 2, 5):
        x = torch.randint(0, 255, (n, 8, 8, 3), dtype=torch.uint8)
        with torch.no_grad(): torch.testing.assert_close(module(x), model(x))


def test_files_of_torch_are_read(made, tmp_path):
    "Those of earlier versions hold where the network came from"
    model,program,_ = made
    torch.export.save(program, tmp_path/'theirs.pt2', extra_files={KEY: 'text'})
    module,text = read_pt2(tmp_path/'theirs.pt2', KEY)
    assert text == 'text'
    x = torch.ones(3, 8, 8, 3, dtype=torch.uint8)
    with torch.no_grad(): torch.testing.assert_close(module(x), model(x))


def test_it_does_not_say_where_it_was_made(made, tmp_path):
    _,program,file = made
    torch.export.save(program, tmp_path/'theirs.pt2')
    def told(data): return re.findall(rb'[\w./-]*(?:\.py\b|site-packages|/home/|/root/|/tmp/)[\w./-]*', data)
    assert told((tmp_path/'theirs.pt2').read_bytes())
    assert not told(file.read_bytes())
    for o in {str(Path.home()), str(Path(__file__).parents[1]), str(tmp_path.parent), torch.__path__[0]}:
        assert o.encode() not in file.read_bytes(), o


class Attack:
    def __init__(self, file): self.file = str(file)
    def __reduce__(self): return open, (self.file, 'w')


def saved(o, legacy=False):
    out = io.BytesIO()
    torch.save(o, out, _use_new_zipfile_serialization=not legacy)
    return out.getvalue()


WEIGHTS,CONSTANTS = 'data/weights/model_weights_config.json', 'data/constants/model_constants_config.json'


def changed_json(part, change):
    def alter(parts, evil):
        found = json.loads(parts[part])
        parts[part] = json.dumps(change(found, evil) or found).encode()
    return alter


def first_payload(found, **more): next(iter(found['config'].values())).update(more)


def pickled(part, key, folder, path):
    "One tensor of a config as a pickle, which torch opens with everything allowed"
    def alter(parts, evil):
        found = json.loads(parts[part])
        first_payload(found, use_pickle=True, path_name=path)
        parts[part],parts[f'{folder}/{path}'] = json.dumps(found).encode(), evil
    return alter


def added(name): return lambda parts, evil: parts.__setitem__(name, evil)


def in_graph(change):
    def alter(found, evil): change(found['graph_module']['graph'], found)
    return changed_json('models/model.json', alter)


RUN = "__import__('pathlib').Path('executed').touch()"


def expressions(o):
    if isinstance(o, list):
        for v in o: yield from expressions(v)
    elif isinstance(o, dict):
        if 'expr_str' in o: yield o
        for v in o.values(): yield from expressions(v)


def expression(text): return in_graph(lambda g, whole: [o.update(expr_str=text) for o in expressions(whole)])


def named(name):
    def change(graph, whole):
        text = json.dumps(whole).replace('"pictures"', json.dumps(name))
        whole.clear()
        whole.update(json.loads(text))
    return in_graph(change)


def spec(o): return in_graph(lambda g, whole: [m['signature'].update(in_spec=json.dumps([1, o])) for m in
                                               whole['graph_module']['module_call_graph'] if m.get('signature')])


FACTORY = {'type': 'collections.defaultdict', 'context': '{"default_factory_module": "this", "default_factory_name": '
           '"d", "dict_context": "[]"}', 'children_spec': []}
ATTACKS = {
    'sample inputs': added('data/sample_inputs/model.pt'), 'weights of before': added('data/weights/model.pt'),
    'constants of before': added('data/constants/model.pt'),
    'a weight': pickled(WEIGHTS, 'use_pickle', 'data/weights', 'weight_0'),
    'a constant': pickled(CONSTANTS, 'use_pickle', 'data/constants', 'tensor_0'),
    'an object': pickled(CONSTANTS, 'use_pickle', 'data/constants', 'custom_obj_0'),
    'an opaque object': pickled(CONSTANTS, 'use_pickle', 'data/constants', 'opaque_obj_0'),
    'an object that says it is none': lambda parts, evil: changed_json(CONSTANTS, lambda f, e: first_payload(
        f, path_name='opaque_obj_0'))(parts, evil) or parts.update({'data/constants/opaque_obj_0': evil}),
    'a library': added('data/aotinductor/model/model.so'), 'an unknown part': added('data/other.bin'),
    'an expression': expression(RUN), 'one without quotes': expression('exec(bytes((112, 97)))'),
    'one by attributes': expression('s0.__class__'), 'a guard': in_graph(lambda g, w: w.update(guards_code=[RUN])),
    'a name': named(f'x={RUN}'), 'an argument of another type': spec(FACTORY),
    'an operator on files': in_graph(lambda g, w: g['nodes'][0].update(target='torch.ops.aten.from_file.default')),
    'a function': in_graph(lambda g, w: g['nodes'][0].update(target='torch.hub.load')),
    'a function of Python': in_graph(lambda g, w: g['nodes'][0].update(target='_operator.__class__.x'))}


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('k', ATTACKS)
def test_what_would_be_run_is_refused(made, tmp_path, monkeypatch, k, legacy):
    monkeypatch.chdir(tmp_path)
    evil = saved((Attack(tmp_path/'executed'),), legacy)
    file = altered(made[2], tmp_path/'evil.pt2', lambda parts: ATTACKS[k](parts, evil))
    if k == 'a guard': read_pt2(file, KEY)  # taken out
    else:
        with pytest.raises(ValueError, match=r'evil\.pt2 cannot be read.*Export it again'): read_pt2(file, KEY)
    assert not (tmp_path/'executed').exists()


@pytest.mark.parametrize('legacy', [False, True])
@pytest.mark.parametrize('evil', ['state_dict', 'constants', 'example_inputs'])
def test_the_form_of_torch_2_6(tmp_path, evil, legacy):
    parts = {'version': b'8.5', 'serialized_exported_program.json': b'{}'}
    parts |= {f'serialized_{k}.pt': saved({'a': torch.ones(2)}) for k in ('state_dict', 'constants', 'example_inputs')}
    parts[f'serialized_{evil}.pt'] = saved({'a': Attack(tmp_path/'executed')}, legacy)
    with zipfile.ZipFile(tmp_path/'evil.pt2', 'w') as z:
        for n,data in parts.items(): z.writestr(n, data)
    with pytest.raises(ValueError, match=rf'serialized_{evil}\.pt is a pickle of something else'):
        read_pt2(tmp_path/'evil.pt2', KEY)
    assert not (tmp_path/'executed').exists()


def test_claims_are_compared(made, tmp_path):
    def larger(found, evil):
        for o in found['config'].values():
            o['tensor_meta'].update(sizes=[{'as_int': 10**6}]*2, strides=[{'as_int': 0}]*2)
    for part in (WEIGHTS, CONSTANTS):
        file = altered(made[2], tmp_path/'x.pt2', lambda p, part=part: changed_json(part, larger)(p, None))
        with pytest.raises(ValueError, match=r'x\.pt2.*more than the file holds'): read_pt2(file, KEY)
    with zipfile.ZipFile(made[2]) as z, zipfile.ZipFile(tmp_path/'x.pt2', 'w', zipfile.ZIP_DEFLATED) as to:
        for n in z.namelist(): to.writestr(n, z.read(n))
    with pytest.raises(ValueError, match='is compressed'): read_pt2(tmp_path/'x.pt2', KEY)


def test_changed_bytes_are_read_or_refused(made, tmp_path):
    rng,whole = np.random.default_rng(0), made[2].read_bytes()
    with zipfile.ZipFile(made[2]) as z: graph = z.read('archive/models/model.json').decode()
    words = re.findall(r'"[^"]*"|\d+|true|false|null', graph)
    file = tmp_path/'x.pt2'
    for i in range(60):
        if i % 2:  # a word of the graph in place of another
            a,b = rng.choice(words, 2)
            at = rng.integers(graph.count(a))
            parts = graph.split(a)
            other = a.join(parts[:at + 1]) + b + a.join(parts[at + 1:])
            altered(made[2], file, lambda p, other=other: p.update({'models/model.json': other.encode()}))
        else:
            data = bytearray(whole)
            for _ in range(rng.integers(1, 20)): data[rng.integers(len(data))] = rng.integers(256)
            file.write_bytes(data[:rng.integers(len(data))] if rng.random() < .3 else data)
        try: read_pt2(file, KEY)
        except ValueError as e: assert str(e).startswith(f'{file} cannot be read as a network of torch.export (')
    for data in (b'', b'text', b'PK'):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=r'x\.pt2 cannot be read'): read_pt2(file, KEY)
