"The reference of the site: every public name, its docstring and the comments of its arguments"
import importlib
import inspect
import sys
from pathlib import Path

import pytest
from fastcore.docments import docments

pytest.importorskip('sphinx', reason="the site is built with pip install -e '.[docs]'")
sys.path.insert(0, str(Path(__file__).parents[1]/'docs'))
pages = importlib.import_module('pages')


@pytest.fixture
def written(tmp_path, monkeypatch):
    monkeypatch.setattr(pages, 'SOURCE', tmp_path)
    pages.reference()
    return {file.stem: file.read_text(encoding='utf-8') for file in (tmp_path/'api').glob('*.md')}


def test_every_public_name_has_an_entry(written):
    for module,names in pages.modules():
        page = written[pages.room(module.__name__).removeprefix('qsd_fastai.')] if names else ''
        for name,_ in names: assert f'({pages.anchor(module, name)})=' in page, (module.__name__, name)


def test_an_entry_shows_comments_defaults_and_what_comes_back(written):
    page = written['quality']
    assert '| `percentiles` | `(1, 99)` | Norms that become 0 and 100; what lies outside is clipped |' in page
    assert '| `**kwargs` |  | For [`similarity_quality`](#api-qsd_fastai.quality.similarity_quality) |' in page
    assert 'Gives: `(n,)` float32, 0 to 100 and higher is better' in page
    assert 'Quality from the length of the embedding' in page


def test_names_in_docstrings_lead_to_their_entries(written):
    assert '[`QualityDistillation`](#api-qsd_fastai.distillation.QualityDistillation-class)' in written['callbacks'] + \
        written['distillation'] + written['labelling']


def test_what_markdown_would_take_for_its_own_stays_as_it_is():
    assert pages.text('a*b <c> `d*e`') == r'a\*b &lt;c&gt; `d*e`'


def test_a_public_name_without_a_docstring_is_an_error(monkeypatch):
    def bare(): pass
    monkeypatch.setattr(pages, 'modules', lambda: [(pages, [('bare', bare)])])
    with pytest.raises(ValueError, match=r'pages.bare have no docstring'): pages.reference()


@pytest.mark.parametrize('tag, elsewhere', [
    ('<script src="https://cdn.org/a.js">', True),
    ('<link rel="stylesheet" type="text/css" href="//fonts.org/a">', True),
    ('<script src="_static/a.js">', False), ('<a href="https://docs.fast.ai">', False)])
def test_what_is_loaded_from_elsewhere_is_found(tag, elsewhere):
    assert bool(pages.ELSEWHERE.search(tag)) == elsewhere


def test_show_doc_of_nbdev_shows_the_comments_of_arguments():
    show_doc = pytest.importorskip('nbdev.showdoc').show_doc
    lacks,shown = [],0
    for module,names in pages.modules():
        for name,o in names:
            if not inspect.isfunction(o): continue
            page = show_doc(o)._repr_markdown_()
            said = [d.docment for k,d in docments(o, full=True).items() if k not in ('self', 'return') and d.docment]
            shown += len(said)
            first = inspect.cleandoc(o.__doc__).splitlines()[0].replace('\\', '')
            lacks += [(module.__name__, name, part) for part in (*said, first) if part not in page]
    assert not lacks
    assert shown > 1000
