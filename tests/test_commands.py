"Every command line that READMEs and recipes print is one: the script is there, and its own parser takes the options"
import ast
import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest
from fastcore.script import anno_parser

from qsd_fastai.commands import _with_hyphens

ROOT = Path(__file__).parents[1]
RECIPES = sorted(p.stem for p in (ROOT/'recipes').glob('*.py'))
BENCHMARKS = sorted(p.stem for p in (ROOT/'benchmarks').glob('*.py'))
PRINTED = [*ROOT.glob('*.md'), *ROOT.glob('*/*.md')]
sys.path.insert(0, str(ROOT/'recipes'))


def lines_of(text):
    "`(folder, script, arguments)` of command lines in a text; `\\` at the end of a line goes on"
    text = re.sub(r'\\\n\s*', ' ', text)
    for folder,script,rest in re.findall(r'python (recipes|benchmarks)/(\w+)\.py([^`\n]*)', text):
        yield folder,script,shlex.split(rest, comments=True)


def printed():
    texts = [file.read_text(encoding='utf-8') for file in PRINTED]
    for folder,names in (('recipes', RECIPES), ('benchmarks', BENCHMARKS)):
        scripts = [(ROOT/folder/f'{name}.py').read_text(encoding='utf-8') for name in names]
        texts += [ast.get_docstring(ast.parse(text)) or '' for text in scripts]
    found = {(folder, script, *args) for text in texts for folder,script,args in lines_of(text)}
    bench = re.search(r'^BENCH .*?=((?:.*\\\n)*.*)', (ROOT/'Makefile').read_text(encoding='utf-8'), re.M)[1]
    for one in bench.replace('\\', ' ').split():
        name,*args = one.split(',')
        found.add(('benchmarks', name.removesuffix('.py'), *args, '--out', 'bench'))
    return [(folder, script, list(args)) for folder,script,*args in sorted(found)]


def parser_of(script): return anno_parser(importlib.import_module(script).main)


@pytest.mark.parametrize('folder, name, args', printed(), ids=lambda o: o if isinstance(o, str) else ' '.join(o))
def test_command_lines_that_are_printed_parse(folder, name, args, script):
    file = ROOT/folder/f'{name}.py'
    assert file.is_file()
    if folder == 'benchmarks':
        if '@call_parse' not in file.read_text(encoding='utf-8'): return # It has a parser of its own
        assert '@call_parse\n@in_one_line\n' in file.read_text(encoding='utf-8') # Takes options as Python spells them
        main = script(f'benchmarks/{name}.py').main
        anno_parser(main).parse_args([_with_hyphens(re.sub(r'^[A-Z]+$', '0', o.strip('[]')), main) for o in args])
        return
    if '--' in args: # What stands behind it goes to the recipe that does the runs
        cut = args.index('--')
        given = parser_of(name).parse_args(args[:cut])
        parser_of(given.recipe).parse_args(args[cut + 1:])
    else: parser_of(name).parse_args([re.sub(r'^S$', '0', o) for o in args])


def test_every_recipe_is_printed_with_a_command_line():
    assert {script for folder,script,_ in printed() if folder == 'recipes'} == set(RECIPES)


@pytest.mark.parametrize('script', RECIPES)
def test_every_option_is_explained(script):
    assert not [a.dest for a in parser_of(script)._actions if not a.help]


@pytest.mark.parametrize('script, lines', [('reid', 90), ('reid_agw', 90), ('face', 120), ('evaluate', 150)])
def test_a_recipe_is_a_page(script, lines):
    text = (ROOT/'recipes'/f'{script}.py').read_text(encoding='utf-8')
    assert len(text.splitlines()) < lines
    branches = (ast.If, ast.IfExp, ast.For, ast.While, ast.ExceptHandler, ast.comprehension, ast.BoolOp)
    assert sum(isinstance(node, branches) for node in ast.walk(ast.parse(text))) <= 12
