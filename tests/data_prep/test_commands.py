"The scripts as commands: every line that is printed of them parses, every option is explained; a set of one function"
import ast
import importlib
import inspect
import json
import re
import shlex
from argparse import SUPPRESS

import folder as folder_script
import pytest
from common.layout import hold_out, new_table
from common.pictures import pictures_in
from common.sets import Set, a_set
from fastcore.docments import docments
from fastcore.script import anno_parser
from made_up import ROOT, draw
from started import start

from qsd_fastai.data.table import read_table

PREP = ROOT/'data_prep'
SCRIPTS = sorted(p.stem for p in PREP.glob('*.py'))
SHARED = sorted(f'common.{p.stem}' for p in (PREP/'common').glob('*.py') if p.stem != '__init__')
README = (PREP/'README.md').read_text(encoding='utf-8')


def parser_of(script):
    "What reads the command line of a script"
    module = importlib.import_module(script)
    here = [o for o in vars(module).values() if isinstance(o, Set) and o.__module__ == script]
    return anno_parser(here[0].main if here else module.main)


def lines_of(text):
    "Command lines of the scripts in a text, as `(script, arguments)`"
    found = re.findall(r'python data_prep/(\w+)\.py([^`\n]*)', text)
    return [(script, shlex.split(rest, comments=True)) for script,rest in found if script in SCRIPTS]


def lines_of_rows(text):
    "Command lines of rows of a table, each with the options that the row tells besides: `--train trainval`"
    for row in (line for line in text.split('\n') if line.startswith('|')):
        commands = lines_of(row)
        for more in re.findall(r'`(--[^`]+ [^`]+)`', row) if commands else ():
            script,args = commands[0]
            yield script, [*args, *shlex.split(more)]


def documented():
    texts = [README, (ROOT/'README.md').read_text(encoding='utf-8')]
    texts += [ast.get_docstring(ast.parse((PREP/f'{s}.py').read_text(encoding='utf-8'))) for s in SCRIPTS]
    return [o for text in texts for o in lines_of(text)] + list(lines_of_rows(README))


@pytest.mark.parametrize('script, args', documented(), ids=lambda o: o if isinstance(o, str) else ' '.join(o))
def test_command_lines_that_are_printed_parse(script, args):
    parser_of(script).parse_args(args)


def test_every_script_is_printed_with_a_command_line():
    assert {script for script,_ in lines_of(README)} == set(SCRIPTS)


def test_options_that_the_readme_names_are_there():
    there = {o for s in SCRIPTS for a in parser_of(s)._actions for o in a.option_strings}
    assert not set(re.findall(r'`(--[\w-]+)', README)) - there


@pytest.mark.parametrize('script', SCRIPTS)
def test_every_option_is_explained(script):
    assert not [a.dest for a in parser_of(script)._actions if not a.help]


@pytest.mark.parametrize('module', [*SCRIPTS, *SHARED])
def test_every_argument_of_a_public_function_has_a_comment(module):
    def own(o): return getattr(o, '__module__', '') == module
    there = [o for o in vars(importlib.import_module(module)).values() if own(o) and callable(o)]
    public = [getattr(o, '__wrapped__', o) for o in there if not o.__name__.startswith('_')]
    for f in public:
        for name,comment in docments(f.__init__ if inspect.isclass(f) else f, returns=False, args_kwargs=True).items():
            if name == 'self' or issubclass(f if inspect.isclass(f) else object, Exception): continue
            assert comment, f'{module}.{f.__name__}({name})'
            assert comment[-1] != '.' or comment.endswith('...'), f'{module}.{f.__name__}({name}): {comment}'


def test_a_folder_by_its_old_name():
    assert folder_script.main is folder_script.folder_table.main

# Add a set

@pytest.fixture
def busstop(tmp_path):
    "The script that the README shows, and a set for it"
    text = README[README.index('## Add a set'):]
    (tmp_path/'busstop.py').write_text(re.search(r'```python\n(.*?)```', text, re.S)[1])
    draw(tmp_path/'set'/'Busstop', 'train/0001_c1_1.jpg', 'train/0001_c2_2.jpg', 'query/0002_c1_3.jpg',
         'gallery/0002_c4_4.jpg', 'gallery/0003_c4_5.jpg')
    (tmp_path/'set'/'Busstop'/'gallery'/'0003_c1_6.jpg').write_text('no picture')
    return tmp_path


def run(at, *args, code=0):
    ended,said = start(at/'busstop.py', *args, folder=at)
    assert ended == code, said
    return said


def test_the_set_of_the_readme(busstop):
    assert len((busstop/'busstop.py').read_text().rstrip().split('\n')) <= 25
    said = run(busstop, 'set')
    assert 'train: 2 pictures of 1 identities, published are 6000 of 300' in said
    assert '1 picture could not be read' in said
    table = read_table(busstop/'set'/'images.csv')
    assert table['path'].tolist() == ['Busstop/train/0001_c1_1.jpg', 'Busstop/train/0001_c2_2.jpg',
        'Busstop/query/0002_c1_3.jpg', 'Busstop/gallery/0002_c4_4.jpg', 'Busstop/gallery/0003_c4_5.jpg']
    assert table['identity'].tolist() == ['0001', '0001', '0002', '0002', '0003']
    assert table['camera'].tolist() == ['1', '2', '1', '4', '4']
    assert table['split'].tolist() == ['train', 'train', 'query', 'gallery', 'gallery']
    made = table.attrs['record']
    assert (made['source'], made['protocol'], made['pictures'], made['unreadable']) == ('Busstop', 'published', 6, 1)
    assert made['options'] == {'verify': True}
    assert 'nothing to do' in run(busstop, 'set')
    assert '--force' in run(busstop, 'set', '--no-verify', code=1)
    assert 'cannot be read' in run(busstop, 'set', '--strict', '--force', code=1)
    run(busstop, 'set', '--no-verify', '--out', 'elsewhere')
    assert read_table(busstop/'elsewhere'/'images.csv')['path'][5] == '../set/Busstop/gallery/0003_c4_5.jpg'
    assert 'Folder of the set' in run(busstop, '-h')

# A set is one function

@a_set('toy', published={'train': (4, 2)})
def toy_table(
    root:str,        # Folder of the set
    kind:str='plain',# Which kind
    test:float=0.,   # Held-out identities
    seed:int=0,      # Of the draw
    *,
    readable,        # Before identities are held out
):
    "Table of images from toys"
    paths = pictures_in(root)
    table = new_table(root, paths, [p.split('/')[0] for p in paths])
    table.attrs['record'] = {'kind': kind}
    return hold_out(readable(table), test, seed)


@pytest.fixture
def toys(tmp_path):
    draw(tmp_path, *[f'{i}/{k}.jpg' for i in 'ab' for k in (1, 2)])
    return tmp_path


def test_all_choices_are_recorded(toys, capsys):
    toy_table.main(toys, kind='other', test=.5)
    made = json.loads((toys/'images.json').read_text())
    assert made['options'] == {'kind': 'other', 'test': .5, 'seed': 0, 'verify': True}
    assert (made['source'], made['kind'], made['published']) == ('toy', 'other', {'train': [4, 2]})
    toy_table.main(toys, kind='other', test=.5, workers=1)
    assert 'nothing to do' in capsys.readouterr().out
    for choice in ({'kind': 'plain'}, {'test': 0.}, {'seed': 1}, {'no_verify': True}):
        with pytest.raises(SystemExit, match='--force'): toy_table.main(toys, **{'kind': 'other', 'test': .5, **choice})


def test_a_set_in_python_writes_nothing(toys):
    table = toy_table(toys, kind='other')
    assert table.attrs['record'] == {'source': 'toy', 'kind': 'other', 'published': {'train': (4, 2)}}
    assert not (toys/'images.csv').exists()
    (toys/'a'/'1.jpg').write_text('no picture')
    assert len(toy_table(toys)) == 3
    assert len(toy_table(toys, verify=False)) == 4
    with pytest.raises(ValueError, match='1 of 4 pictures cannot be read'): toy_table(toys, strict=True)
    with pytest.raises(TypeError, match='colour'): toy_table.main(toys, colour='red')


def test_no_argument_is_lost_in_silence():
    with pytest.raises(TypeError, match=r'two_of\(other\) has no default.*no record would tell it'):
        @a_set('two')
        def two_of(root, other): return None
    named = inspect.signature(toy_table).parameters
    assert list(named) == ['root', 'kind', 'test', 'seed', 'verify', 'strict', 'workers']


def test_options_of_a_set():
    shown = [a for a in anno_parser(toy_table.main)._actions if a.help != SUPPRESS]
    common = ['--out', '--no-verify', '--strict', '--workers', '--force']
    found = [a.option_strings[-1] for a in shown if a.option_strings]
    assert found == ['--help', '--kind', '--test', '--seed', *common]
