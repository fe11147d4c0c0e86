"One spelling of names and paths: whatever holds them, whoever reads them, the same text and so the same figures"
import importlib
import inspect
import pkgutil
import warnings
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

import qsd_fastai.evaluation
from qsd_fastai.evaluation.open_set import open_set_rates, pair_rates
from qsd_fastai.evaluation.retrieval import evaluate_distances, evaluate_retrieval, ranked_gallery
from qsd_fastai.evaluation.scores import all_pairs
from qsd_fastai.evaluation.sharded import evaluate_sharded
from qsd_fastai.evaluation.single_shot import single_shot_cmc
from qsd_fastai.evaluation.templates import evaluate_identification
from qsd_fastai.quality import similarity_quality
from qsd_fastai.spelling import match_paths, path_text, same_codes, spell, spelled, spelling_notes

# ways to write whole numbers
WRITTEN = {
    'ints': list, 'int8': lambda v: np.array(v, np.int8), 'uint64': lambda v: np.array(v, np.uint64),
    'float64': lambda v: np.array(v, float), 'float32': lambda v: np.array(v, np.float32),
    'float16': lambda v: np.array(v, np.float16), 'text': lambda v: [str(o) for o in v],
    'numpy text': lambda v: np.array(v).astype(str), 'bytes': lambda v: np.array(v).astype('S'),
    'floats as text': lambda v: [f'{o}.0' for o in v], 'blanks': lambda v: [f' {o}\t' for o in v],
    'mixed': lambda v: [(o, float(o), str(o), f'{o}.00', np.int16(o))[k % 5] for k,o in enumerate(v)],
    'objects': lambda v: np.array(v, object), 'tuple': tuple, 'generator': iter,
    'decimals': lambda v: [*map(Decimal, v)],
    'tensor': torch.tensor, 'float tensor': lambda v: torch.tensor(v, dtype=torch.float64),
    'bfloat16': lambda v: torch.tensor(v).bfloat16(), 'tensors': lambda v: [torch.tensor(o) for o in v],
    'series': pd.Series, 'Int64': lambda v: pd.Series(v, dtype='Int64'), 'Float64': lambda v: pd.array(v, 'Float64'),
    'categories': lambda v: pd.Series(v, dtype=float).astype('category'), 'categorical': lambda v: pd.Categorical(v),
    'index': pd.Index, 'arrow ints': lambda v: pd.Series(v, dtype='int64[pyarrow]'), 'arrow': pa.array,
    'arrow text': lambda v: pd.Series(v, dtype=str).astype('string[pyarrow]'),
    'chunked': lambda v: pa.chunked_array([v]),
    'sparse': lambda v: pd.Series(pd.arrays.SparseArray(v)), 'column': lambda v: np.array(v)[:, None]}


@pytest.mark.parametrize('form', WRITTEN)
def test_one_spelling_of_numbers(form):
    assert spelled(WRITTEN[form]([1, 2, 10, 0, 2])).tolist() == ['1', '2', '10', '0', '2']


@pytest.mark.parametrize('value, name', [
    ('007', '007'), ('007.0', '007'), ('7', '7'), (-0., '0'), ('-0', '0'), (2.5, '2.5'), (np.float32(2.1), '2.1'),
    (True, 'True'), (' Ann\u200b', 'Ann'), ('\ufeffAnn', 'Ann'), ('Jose\u0301', 'Jos\xe9'), (b'Jos\xc3\xa9', 'Jos\xe9'),
    ('NA', 'NA'), (None, ''), (np.nan, ''), (pd.NA, ''), (pd.NaT, ''), ('  ', ''), (-1, '-1'), ('1e3', '1e3'),
    (Path('a'), 'a'), (pd.Timestamp('2020-01-02'), '2020-01-02 00:00:00')])
def test_one_spelling_of_a_name(value, name):
    assert spell(value) == name
    assert spelled([value]).tolist() == [name]
    assert spelled(pd.Series([value], dtype=object)).tolist() == [name]


@pytest.mark.parametrize('unknown', [None, np.nan, pd.NA, '', ' ', -1, -1., '-1', '-1.0', b'-1', np.int8(-1)])
def test_an_unknown_camera(unknown):
    assert spell(unknown, camera=True) == ''
    assert spelled([3, unknown], camera=True).tolist() == ['3', '']
    assert spelled(pd.Series([unknown, 'c'], dtype=object), camera=True).tolist() == ['', 'c']


@pytest.mark.parametrize('values, words', [
    ([1, 2.**53], 'row 1'), (np.array([0, 2**24], np.float32), 'row 1'), (['a', ('b', 1)], 'row 1 .* tuple'),
    ([b'a', b'\xff'], 'row 1 .* UTF-8'), ([1, np.inf], 'row 1'), ([['a']], 'row 0 .* list'), ([{}], 'row 0 .* dict')])
def test_what_is_no_name_is_refused(values, words):
    with pytest.raises(ValueError, match=f'who {words}'): spelled(values, 'who')


def test_spellings_that_met_are_told():
    note, = spelling_notes(['2', '2.0', 'x', '3', '3'], 'camera')
    for words in ('camera: spellings', '1 times', "'2' and '2.0'", 'taken for one'): assert words in note
    for values in (['7', '007'], ['Ann', 'ann'], ['id_7', 'id_07'], ['a b', 'a  b'], ['7', '\uff17']):
        note, = spelling_notes(values, 'identity')
        assert f'{values[0]!r} and {values[1]!r}' in note
        assert 'stay different' in note
    note, = spelling_notes(['nan', 'c1'], 'camera', camera=True)
    assert "'nan' is taken for the name of a camera" in note
    assert 'some are text' in spelling_notes(pd.Series([2, '3'], dtype=object))[0]
    for values in ([1, 2], ['a', 'b', None, ''], [1., np.nan], [' a', ' b']): assert spelling_notes(values) == []


def test_codes_of_several_sides():
    with pytest.warns(UserWarning, match='taken for one name'): a,b = same_codes(['1', '2.0', None], [2., 1.])
    assert a.tolist() == [0, 1, -1]
    assert b.tolist() == [1, 0]
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        a,b = same_codes(torch.tensor([5, -1]), torch.tensor([-1]), camera=True)
        assert [a.tolist(), b.tolist()] == [[0, -1], [-1]]
        assert same_codes(np.array([5, -1]))[0].tolist() == [0, 1]


def test_paths():
    assert path_text(['./a//b.jpg', Path('a/b'), 'a/../b', ' a.jpg']).tolist() == ['a/b.jpg', 'a/b', 'b', ' a.jpg']
    assert path_text([None]).tolist() == ['']
    there = ['a.jpg', 'b/c.jpg', 'Jos\xe9.jpg', ' x.jpg', 'x.jpg']
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert match_paths(['x.jpg', ' x.jpg', 'no.jpg'], there).tolist() == [4, 3, -1]
    with pytest.warns(UserWarning, match='written in another way') as said:
        found = match_paths(['./a.jpg', 'b\\c.jpg', 'Jose\u0301.jpg', Path('a.jpg'), 'x.jpg '], there)
    assert found.tolist() == [0, 1, 2, 0, -1], 'a spelling of two pictures must not be taken for one of them'
    assert "3 of 5 paths" in str(said[0].message)


def judged():
    "Embeddings, identities and cameras in which the camera counts for more than the person"
    rng = np.random.default_rng(0)
    ids,cameras = np.repeat(np.arange(6), 4), np.tile([1, 2, 1, 2], 6)
    who,where = rng.normal(size=(6, 8)),6*rng.normal(size=(3, 8))
    emb = who[ids] + where[cameras] + .3*rng.normal(size=(24, 8))
    query = np.tile([True, True, False, False], 6)
    ids[query & (ids == 5)] = 9 # Nobody in the gallery
    return emb.astype(np.float32), ids, cameras, query


EMB,IDS,CAMERAS,QUERY = judged()
SIDES = EMB[QUERY],EMB[~QUERY]
# every public function that takes names, called with `write` for each side
FUNCTIONS = {
    evaluate_retrieval: lambda f, *o: repr(f(*SIDES, *o)),
    evaluate_distances: lambda f, *o: repr(f(1 - SIDES[0]@SIDES[1].T, *o)),
    evaluate_sharded: lambda f, *o: repr(f(*SIDES, *o)),
    ranked_gallery: lambda f, *o: f(*SIDES, *o).right.tolist(),
    single_shot_cmc: lambda f, *o: f(*SIDES, *o).tolist(),
    open_set_rates: lambda f, *o: repr(f(*SIDES, *o, fpir=(.5,))),
    pair_rates: lambda f, *o: repr(f(*SIDES, *o, fpr=(.1,))),
    evaluate_identification: lambda f, q, g, *o: repr(f(SIDES[0], q, {'G': (SIDES[1], g)})),
    all_pairs: lambda f, q, *o: f(q)['same'].tolist(),
    similarity_quality: lambda f, q, *o: f(SIDES[0], q).tolist()}
NAMED = {'ids', 'q_ids', 'g_ids', 'cameras', 'q_cameras', 'g_cameras'}


def test_all_functions_that_take_names_are_tested():
    modules = [importlib.import_module(f'qsd_fastai.evaluation.{o.name}')
               for o in pkgutil.iter_modules(qsd_fastai.evaluation.__path__)]
    modules.append(importlib.import_module('qsd_fastai.quality'))
    found = {o for m in modules for o in (getattr(m, n) for n in getattr(m, '__all__', ()))
             if inspect.isfunction(o) and NAMED & inspect.signature(o).parameters.keys()}
    assert found == set(FUNCTIONS)


def sides(one, other):
    "Identities of both sides, then cameras"
    return [write(o[of].tolist()) for o in (IDS, CAMERAS) for write,of in ((one, QUERY), (other, ~QUERY))]


@pytest.mark.parametrize('function', FUNCTIONS, ids=lambda o: o.__name__)
def test_spelling_changes_no_figure(function):
    call,plain = FUNCTIONS[function],WRITTEN['int8']
    right = call(function, *sides(plain, plain))
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        for form,write in WRITTEN.items():
            assert call(function, *sides(write, plain)) == right, form
            assert call(function, *sides(plain, write)) == right, form
