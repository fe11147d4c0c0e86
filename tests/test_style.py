"One hand: what CONTRIBUTING says about spelling, rooms and imports, over every file"
import ast
import io
import re
import subprocess
import sys
import tokenize
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = 'qsd_fastai', 'recipes', 'data_prep', 'benchmarks', 'tests'
FILES = sorted(p.relative_to(ROOT).as_posix() for folder in FOLDERS for p in (ROOT/folder).rglob('*.py'))
LIBRARY = [f for f in FILES if f.startswith('qsd_fastai/')]
OURS = [f for f in FILES if not f.startswith('tests/')]
TIGHT = {'*', '/', '//', '**', '@'}
WORDS = 'return', 'lambda', 'in', 'if', 'else', 'and', 'or', 'yield', 'import'
# who may import whom: a room imports from those further up in this list only
FLOORS = [{'choices', 'tensors', 'files', 'archives', 'distributed', 'spelling', 'rows', 'private', 'fits', 'terminal',
           'shown'},
          {'unknown', 'launched', 'schedules', 'optimizers', 'regression', 'taught', 'balance', 'teachers',
           'unit_rows'},
          {'columns', 'qsd_loss'},
          {'data', 'models', 'losses', 'quality', 'evaluation'},
          {'drawn', 'distillation', 'plots', 'pt2'}, {'labelling', 'panning', 'runs'},
          {'callbacks', 'commands', 'severity'}, {'verbs', 'compiled'}, {'learner', 'embedder', 'embedded'},
          {'export', 'arms', 'judging'}, {'closing', 'rehearsal'}, {'stages'}, {'all'}]


def each(files):
    "A test that fails with all that a check finds in these files"
    def decorate(check):
        def test():
            found = [str(o) for file in files for o in check(file)]
            assert not found, '\n'.join(found)
        return test
    return decorate


every,library,ours = each(FILES),each(LIBRARY),each(OURS)


@cache
def source(file): return (ROOT/file).read_text(encoding='utf-8')


@cache
def parsed(file): return ast.parse(source(file))


@cache
def tokens_of(file): return list(tokenize.generate_tokens(io.StringIO(source(file)).readline))


def lines_that(file, bad):
    "Numbers and texts of lines for which `bad` is true"
    return [f'{file}:{i}: {line.strip()[:100]}' for i,line in enumerate(source(file).splitlines(), 1) if bad(line)]


@every
def test_lines_have_at_most_120_columns(file):
    return lines_that(file, lambda line: len(line) > 120)


@every
def test_what_goes_on_begins_left_of_the_middle(file):
    return lines_that(file, lambda line: line.startswith(' '*56) and line.strip())


@every
def test_arrows_of_functions_are_tight(file):
    return lines_that(file, lambda line: re.match(r' *(def .*)?\) -> ', line))


@every
def test_products_are_tight(file):
    tokens,found = tokens_of(file),[]
    for before,o,after in zip(tokens, tokens[1:], tokens[2:]):
        if o.type != tokenize.OP or o.string not in TIGHT or before.end[0] != o.start[0]: continue
        value = before.type in (tokenize.NUMBER, tokenize.STRING) or before.string in (')', ']', '}')
        if before.type == tokenize.NAME: value = before.string not in WORDS
        spaced = before.end != o.start or (after.start[0] == o.end[0] and after.start != o.end)
        if value and spaced: found.append(f'{file}:{o.start[0]}: {o.line.strip()[:100]}')
    return found


@every
def test_unpacking_is_tight(file):
    found,lines = [],source(file).encode().split(b'\n')
    for node in ast.walk(parsed(file)):
        targets = [node.target] if isinstance(node, ast.For | ast.comprehension) else getattr(node, 'targets', [])
        for target in targets:
            if not isinstance(target, ast.Tuple) or target.lineno != target.end_lineno: continue
            for a,b in zip(target.elts, target.elts[1:]):
                if b': ' in (gap := lines[a.end_lineno - 1][a.end_col_offset:b.col_offset]) or gap.rstrip(b' ') != gap:
                    found.append(f'{file}:{target.lineno}')
    return found


@every
def test_two_blank_lines_between_definitions(file):
    text,found = source(file).split('\n'),[]
    body = parsed(file).body
    defined = ast.FunctionDef | ast.ClassDef
    for a,b in pairwise(body):
        if not isinstance(a, defined) and not isinstance(b, defined): continue
        first = min([b.lineno, *(o.lineno for o in getattr(b, 'decorator_list', []))])
        gap = text[a.end_lineno:first - 1]
        blank = len(gap) - len([line for line in gap if line.strip()])
        one_liners = a.lineno == a.end_lineno and b.lineno == b.end_lineno and blank < 2
        if blank != 2 and not one_liners: found.append(f'{file}:{first}')
    return found


def docstrings(file):
    for node in ast.walk(parsed(file)):
        if isinstance(node,
                      ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node): yield node, node.body[0]


@every
def test_a_docstring_of_one_line_has_no_full_stop(file):
    return [f'{file}:{o.lineno}' for _,o in docstrings(file)
                if '\n' not in (text := o.value.value.strip()) and text.endswith('.') and not text.endswith('...')]


@every
def test_a_module_begins_with_what_it_is(file):
    text = source(file)
    return [] if not text or ast.get_docstring(parsed(file)) else [f'{file} has no docstring']


def public(tree):
    "Functions of `__all__`, and the `__init__` of its classes, as `(name, function)`"
    named = (o for o in tree.body if isinstance(o, ast.Assign) and getattr(o.targets[0], 'id', '') == '__all__')
    names = next((ast.literal_eval(o.value) for o in named), ())
    for node in tree.body:
        if getattr(node, 'name', None) not in names: continue
        if isinstance(node, ast.FunctionDef): yield node.name, node
        else:
            for o in node.body:
                if isinstance(o, ast.FunctionDef) and o.name == '__init__': yield f'{node.name}.{o.name}', o


def argument_comments(file, tree):
    "`(name, argument, comment)` of every argument of a public function"
    tokens = tokens_of(file)
    notes = {t.start[0]: t.string[1:].strip() for t in tokens if t.type == tokenize.COMMENT}
    for name,function in public(tree):
        a = function.args
        for o in filter(None, [*a.posonlyargs, *a.args, a.vararg, *a.kwonlyargs, a.kwarg]):
            if o.arg not in ('self', 'cls'): yield name, o, notes.get(o.end_lineno, '')


@library
def test_every_argument_of_a_public_name_has_a_comment(file):
    tree = parsed(file)
    return [f'{file}:{o.lineno}: {name}({o.arg})' for name,o,note in argument_comments(file, tree) if not note]


@library
def test_argument_comments_begin_with_a_capital_and_end_without_a_full_stop(file):
    small = re.compile(r'[a-z]+( [a-z]|, |; |$|\? )')
    return [f'{file}:{o.lineno}: {note}' for _,o,note in argument_comments(file, parsed(file))
            if note and ((note.endswith('.') and not note.endswith('...')) or small.match(note))]


@ours
def test_messages_of_errors_end_in_a_full_stop(file):
    found = []
    for node in ast.walk(parsed(file)):
        if not isinstance(node, ast.Raise) or not getattr(node.exc, 'args', None): continue
        message = node.exc.args[0]
        while isinstance(message, ast.BinOp): message = message.right
        if isinstance(message, ast.JoinedStr): message = message.values[-1]
        text = getattr(message, 'value', None)
        if isinstance(text, str) and not text.rstrip().endswith(('.', '?')):
            found.append(f'{file}:{node.lineno}: {text[-60:]!r}')
    return found


@library
def test_a_module_is_one_idea(file):
    return [] if len(source(file).splitlines()) <= 300 else [f'{file} has more than 300 lines']


def imports(file):
    "Modules of the package that a file imports, anywhere in it, as parts of their names"
    own = file.removesuffix('.py').removesuffix('/__init__').split('/')
    package = own if file.endswith('__init__.py') else own[:-1]
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.ImportFrom):
            parts = (node.module or '').split('.')
            if node.level: yield [*package[:len(package) - node.level + 1], *parts]
            elif parts[0] == 'qsd_fastai': yield parts


def floor(room): return next((i for i,names in enumerate(FLOORS) if room in names), None)


@library
def test_imports_run_one_way(file):
    room,found = file.split('/')[1].removesuffix('.py'),[]
    if room == '__init__': return found
    if floor(room) is None: return [f'{room} has no floor. Put it into FLOORS.']
    for parts in imports(file):
        other = parts[1] if len(parts) > 1 else room
        if other != room and floor(other) >= floor(room): found.append(f'{file} imports {".".join(parts)}')
    return found


def test_no_circle():
    graph = {f.removesuffix('.py').replace('/', '.'): [] for f in LIBRARY}
    for file in LIBRARY:
        of = graph[file.removesuffix('.py').replace('/', '.')]
        of += [name for parts in imports(file) if (name := '.'.join(parts)) in graph]
    def visit(name, above):
        assert name not in above, ' -> '.join([*above, name])
        if name in seen: return
        for other in graph[name]: visit(other, [*above, name])
        seen.add(name)
    seen = set()
    for name in graph: visit(name, [])


@pytest.mark.parametrize('package', sorted({str(Path(f).parent) for f in LIBRARY} - {'qsd_fastai'}))
def test_a_room_says_what_is_in_it(package):
    text = ast.get_docstring(ast.parse(source(f'{package}/__init__.py'))) or ''
    modules = [p for p in (ROOT/package).iterdir() if p.suffix == '.py' or (p/'__init__.py').is_file()]
    there = {p.stem for p in modules} - {'__init__'}
    assert there == set(re.findall(r'^(\w+)  ', text, re.M)), f'the map in {package}/__init__.py is not what is there'


def test_star_import_shadows_nothing_of_fastai():
    script = '''
from fastai.callback.all import *
from fastai.vision.all import *
had = {k: v for k,v in globals().items() if k[0] != '_'}
from qsd_fastai.all import *
print([k for k,v in had.items() if globals()[k] is not v])
'''
    found = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], cwd=ROOT, capture_output=True, text=True)
    assert found.stdout.strip() == '[]', found.stdout + found.stderr
