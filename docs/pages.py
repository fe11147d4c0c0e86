"""The site: pages of this folder, the lessons, and the reference, which is read from the package.

    python docs/pages.py        # -> build/docs/html/index.html

Nothing is fetched to build or to show it. A link that leads nowhere, a public name without a docstring, and a page that
would load something from elsewhere are errors."""
import importlib
import inspect
import pkgutil
import re
import shutil
import sys
from functools import partial
from html import escape
from inspect import Parameter
from pathlib import Path
from textwrap import wrap

from fastcore.docments import docments
from nbdev.showdoc import ShowDocRenderer, show_doc
from sphinx.cmd.build import main as sphinx

import qsd_fastai
from qsd_fastai.models.bodies.by_name import own_bodies
from qsd_fastai.models.weights.read import PROJECTS

ROOT = Path(__file__).parents[1]
SOURCE,SITE = ROOT/'build'/'docs'/'source', ROOT/'build'/'docs'/'html'
ELSEWHERE = re.compile('<(?:script|img|iframe)[^>]+src="(https?:)?//'
                       '|<link[^>]+rel="stylesheet"[^>]+href="(https?:)?//')


def modules():
    "Module by module, with its public names that are defined in it"
    for found in pkgutil.walk_packages(qsd_fastai.__path__, 'qsd_fastai.'):
        if found.name == 'qsd_fastai.all': continue
        module = importlib.import_module(found.name)
        own = [(name, getattr(module, name)) for name in getattr(module, '__all__', ())]
        yield module, [(name, o) for name,o in own if getattr(o, '__module__', module.__name__) == module.__name__]


def text(said, known=()):
    "A docstring or comment as Markdown: code stays code, names that have an entry lead to it"
    parts = re.split(r'(`[^`]+`)', said or '')
    for i,part in enumerate(parts):
        if i % 2 == 0: parts[i] = re.sub(r'([*_\[\]{}])', r'\\\1', escape(part, quote=False))
        elif (name := part[1:-1]) in known: parts[i] = f'[{part}](#{known[name]})'
    return ''.join(parts)


def prose(o, known):
    "The docstring; what is indented deeper in it is code"
    blocks = re.split(r'\n\s*\n', inspect.cleandoc(o.__doc__ or ''))
    return '\n\n'.join(f'```\n{inspect.cleandoc(b)}\n```' if b.startswith('    ') else text(b, known) for b in blocks)


def plain(p): return str(p.replace(annotation=Parameter.empty, default=Parameter.empty))


class Entry(ShowDocRenderer):
    "What `show_doc` of nbdev gives for the site: how it is called, what it is, its arguments as a table"
    def __init__(self, sym, known=(), **kwargs):
        super().__init__(sym, **kwargs)
        self.known = known
        self.found = docments(sym, full=True) if self.sig else {}
        self.taken = {n: p for n,p in self.sig.parameters.items() if n != 'self'} if self.sig else {}

    def _repr_markdown_(self):
        said = prose(self.sym, self.known)
        if self.title_level > 3: return '\n'.join([f'**`.{self.nm}`**: {said}', '', *self.table()])
        called = ', '.join(map(plain, self.taken.values())) if self.sig else '...'
        called = '\n'.join(wrap(f'{self.nm}({called})', 96, subsequent_indent=' '*(len(self.nm) + 1)))
        return '\n'.join([f'```python\n{called}\n```', '', said, '', *self.table()])

    def table(self):
        "Of arguments, and what comes back"
        rows = [f'| `{plain(p)}` | {self.default(p)} | {text(self.comment(n), self.known)} |'.replace('\n', ' ')
                for n,p in self.taken.items()]
        back = getattr(self.found.get('return'), 'docment', None)
        said = [f'Gives: {text(back, self.known)}', ''] if back else []
        return [*(['| argument | default | |', '|---|---|---|', *rows, ''] if rows else []), *said]

    def default(self, p):
        "As it is written"
        if p.default is Parameter.empty: return ''
        name = getattr(p.default, '__name__', None) or repr(p.default)
        return '`' + re.sub(r' at 0x\w+', '', name)[:60].replace('|', '\\|') + '`'

    def comment(self, name):
        "That of an argument; those of `*args` and `**kwargs`, which docments leaves out, from the source"
        said = getattr(self.found.get(name), 'docment', None)
        if said: return said
        found = re.search(rf'\*{re.escape(name)}\b[^#\n]*# (.+)', inspect.getsource(self.sym))
        return found[1].strip() if found else ''


def anchor(module, name):
    "Unlike in upper and lower case: Sphinx takes them for one"
    return f'api-{module.__name__}.{name}' + '-class'*(name != name.lower())


def entry(module, name, o, known):
    "A public name: what it is, its arguments, and the methods that say what they do"
    lines = [f'({anchor(module, name)})=', f'### `{name}`', '']
    if not callable(o): return [*lines, *constant(o), '']
    shown = partial(show_doc, renderer=partial(Entry, known=known))
    lines.append(shown(o, name=name)._repr_markdown_())
    for k,method in vars(o).items() if inspect.isclass(o) else ():
        if k.startswith('_') or not getattr(method, '__doc__', None) or not inspect.isfunction(method): continue
        lines.append(shown(method, name=k, title_level=4)._repr_markdown_())
    return lines


def constant(o):
    said = repr(list(o) if isinstance(o, dict) else o)
    if isinstance(o, set): said = f'{{{", ".join(map(repr, sorted(o)))}}}' # Of no order, and another one each time
    return [f'A `{type(o).__name__}`' + (f': `{said[:300].replace("`", "")}`' if ' at 0x' not in said else '')]


def room(name): return '.'.join(name.split('.')[:2])


def reference():
    "A page for each room of the package, an entry for each public name; `ValueError` for one without a docstring"
    found = list(modules())
    known = {name: anchor(m, name) for m,names in found for name,_ in names}
    bare = [f'{m.__name__}.{name}' for m,names in found for name,o in names
            if (inspect.isclass(o) or inspect.isfunction(o)) and not (o.__doc__ or '').strip()]
    if bare: raise ValueError(f'{", ".join(bare)} have no docstring. Say what they are.')
    rooms = sorted({room(m.__name__) for m,_ in found})
    said = []
    for r in rooms:
        within = [(m, names) for m,names in found if room(m.__name__) == r]
        top = within[0][0]
        first,_,rest = inspect.cleandoc(top.__doc__).partition('\n')
        if not any(names for _,names in within): continue
        lines = [f'# {r.removeprefix("qsd_fastai.")}', '', text(first, known), '']
        if rest.strip() and hasattr(top, '__path__'): lines += ['```', rest.strip('\n'), '```', '']
        elif rest.strip(): lines += [prose(type('', (), {'__doc__': rest}), known), '']
        for m,names in within:
            if not names: continue
            if m is not top: lines += [f'## {m.__name__}', '', prose(m, known), '']
            else: lines += [f'`from {m.__name__} import ...`', '']
            for name,o in names:
                one = entry(m, name, o, known)
                lines += one if m is not top else [re.sub('^### ', '## ', line) for line in one]
        write(f'api/{r.removeprefix("qsd_fastai.")}.md', lines)
        said.append(f'| [{r}]({r.removeprefix("qsd_fastai.")}.md) | {text(first)} |')
    toc = sorted(file.stem for file in (SOURCE/'api').glob('*.md'))
    about = ('Every public name, module by module, from the docstrings and the comments of arguments. '
             'What recipes and lessons use comes by `from qsd_fastai.all import *`.')
    write('api/index.md', ['# Reference', '', about, '', '| | |', '|---|---|', *said, '',
          '```{toctree}', ':hidden:', '', *toc, '```'])


def weights():
    "The tables of bodies and of the projects whose weights load"
    rows = {}
    for name,maker in own_bodies.items():
        rows.setdefault(maker.__module__.rsplit('.', 1)[1], []).append(f'`{name}`')
    lines = ['| family | names for `make_body`, `recognition_learner` and `--arch` |', '|---|---|',
             *(f'| {k} | {", ".join(v)} |' for k,v in rows.items()),
             '| timm | any model that gives features of its stages: `resnet50`, `vit_base_patch16_224`, ... |', '']
    order = {None: 'not told by its names', 'ask': 'must be given', 'rgb': 'RGB', 'bgr': 'BGR'}
    judged = {None: '-', 'after': 'after its neck', 'before': 'before its neck'}
    projects = ['| weights of | colours | figures are of the embedding |', '|---|---|---|',
                *(f'| {text(p.name)} | {order[p.channels]} | {judged[p.network.judged]} |' for p in PROJECTS)]
    return '\n'.join(lines), '\n'.join(projects)


def write(name, lines):
    file = SOURCE/name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join(lines) + '\n', encoding='utf-8')


def main():
    "Write the pages, and the site of them"
    shutil.rmtree(SOURCE, ignore_errors=True)
    bodies,projects = weights()
    for file in sorted((ROOT/'docs').glob('*.md')):
        write(file.name, [file.read_text(encoding='utf-8').replace('BODIES', bodies).replace('PROJECTS', projects)])
    shutil.copytree(ROOT/'nbs'/'images', SOURCE/'images')
    write('data_prep.md', [(ROOT/'data_prep'/'README.md').read_text(encoding='utf-8')])
    for file in sorted((ROOT/'nbs').glob('*.ipynb')):
        cells = file.read_text(encoding='utf-8')
        cells = cells.replace('../data_prep/README.md', '../data_prep.md').replace('../docs/', '../')
        write(f'lessons/{file.name}', [cells])
    reference()
    shutil.rmtree(SITE, ignore_errors=True)
    if sphinx(['-q', '-W', '--keep-going', '-c', str(ROOT/'docs'), str(SOURCE), str(SITE)]): sys.exit(1)
    pages = {file.relative_to(SITE): file.read_text(encoding='utf-8') for file in SITE.rglob('*.html')}
    bad = [str(name) for name,page in pages.items() if ELSEWHERE.search(page)]
    if bad: sys.exit(f'These pages load something from elsewhere: {", ".join(bad)}')
    print(f'Written: {SITE/"index.html"}')


if __name__ == '__main__': main()
