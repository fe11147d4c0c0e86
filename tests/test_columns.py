"A table made in memory, of whatever pandas allows, is the table that the file would be"
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from qsd_fastai.columns import complete_table, table_hash
from qsd_fastai.data.degraded import degraded_copies
from qsd_fastai.data.labels import join_quality
from qsd_fastai.data.loaders import picture_files, recognition_dataloaders, table_rows
from qsd_fastai.data.pairs import check_pairs
from qsd_fastai.data.splits import enough_pictures, split_identities
from qsd_fastai.data.table import check_table, describe_table, read_table, unanswerable, write_table
from qsd_fastai.data.templates import check_templates
from qsd_fastai.drawn.faces import drawn_pairs
from qsd_fastai.evaluation.store import read_embeddings, write_embeddings
from qsd_fastai.judging.pairs import judge_pairs
from qsd_fastai.judging.search import judge_held_out, judge_search
from qsd_fastai.judging.sets import PairSets
from qsd_fastai.judging.tables import JudgedTable
from qsd_fastai.learner import recognition_learner
from qsd_fastai.quality import label_table


@pytest.fixture(scope='module')
def table(labelled_people):
    "Cameras '1', '2', ..., as read from its file"
    table = read_table(Path(labelled_people.attrs['root'])/'labelled.csv')
    table.attrs.pop('record', None)
    return table.assign(camera=table['camera'].str[1:])[['path', *OWN]]


OWN = 'identity', 'camera', 'split', 'quality'


def indexed(t, index):
    t = t.copy()
    t.index = index
    return t


def frozen(t):
    "Over memory that nobody may write to, and a view of every column"
    wide = pd.DataFrame(np.repeat(t.to_numpy(dtype=object), 2, axis=1)[:, ::2], columns=t.columns)
    wide.to_numpy().flags.writeable = False
    return wide


# what a table may be in memory
SHAPES = {
    'plain': lambda t: t, 'ints': lambda t: t.astype({'camera': int}), 'floats': lambda t: t.astype({'camera': float}),
    'Int64': lambda t: t.astype({'camera': 'Int64'}), 'objects': lambda t: t.astype(object),
    'mixed': lambda t: t.assign(camera=[int(c) if k % 2 else f'{c}.0' for k,c in enumerate(t['camera'])]),
    'bytes': lambda t: t.assign(identity=[i.encode() for i in t['identity']], split=t['split'].str.encode('utf-8')),
    'categories': lambda t: t.astype({'identity': 'category', 'camera': 'category', 'split': 'category'}),
    'ordered': lambda t: t.assign(split=pd.Categorical(t['split'], ['train', 'query', 'gallery', 'val'], ordered=True)),
    'numpy text': lambda t: t.assign(identity=t['identity'].to_numpy().astype(str)),
    'string': lambda t: t.convert_dtypes(),
    'arrow': lambda t: t.convert_dtypes(dtype_backend='pyarrow'),
    'arrow decimals': lambda t: t.assign(camera=t['camera'].astype('double[pyarrow]')),
    'float32': lambda t: t.astype({'quality': np.float32}), 'quality as text': lambda t: t.astype({'quality': str}),
    'Float64': lambda t: t.astype({'quality': 'Float64'}),
    'paths': lambda t: t.assign(path=[Path(p) for p in t['path']]),
    'dotted paths': lambda t: t.assign(path=[f'./{p}'.replace('/', '//') for p in t['path']]),
    'blanks': lambda t: t.assign(identity=' ' + t['identity'], camera=t['camera'] + ' ', split=t['split'] + '\n'),
    'levels': lambda t: t.set_index(['split', 'identity'], drop=False), 'one index': lambda t: indexed(t, [7]*len(t)),
    'named index': lambda t: t.rename_axis('path'), 'paths as index': lambda t: t.set_index('path', drop=False),
    'numbers downwards': lambda t: indexed(t, range(len(t), 0, -1)),
    'text index': lambda t: indexed(t, map(str, t.index)),
    'dates': lambda t: indexed(t, pd.date_range('2020', periods=len(t))),
    'more columns': lambda t: t.assign(**{'row': 1, 'index': 'x', 'file': None}).assign(**{'level_0': [[]]*len(t)}),
    'numbered column': lambda t: pd.concat([t, pd.Series(1, t.index, name=3)], axis=1),
    'other order': lambda t: t[['quality', 'split', 'camera', 'path', 'identity']], 'view': lambda t: t[::1],
    'read-only': frozen, 'joined': lambda t: pd.concat([t[:9], t[9:]]),
    'subclass': lambda t: type('Table', (pd.DataFrame,), {})(t)}


def bare(t, root):
    "The table without what pandas may lose"
    t.attrs = {} if root is None else {'root': str(root)}
    return t


@pytest.fixture(scope='module')
def learn(table):
    torch.manual_seed(0)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=2, n_imgs=2, num_workers=0, seed=0)
    return recognition_learner(dls, 'resnet18')


def of_everybody(table, learn, root, folder):
    "What everybody who takes a table makes of it; names for those who differ"
    emb = torch.from_numpy(np.random.default_rng(1).normal(size=(len(table), 8)).astype(np.float32))
    plain,rows = complete_table(table),np.arange(len(table))
    pairs = drawn_pairs(plain)
    batch = recognition_dataloaders(table, root, size=(32, 16), n_ids=2, n_imgs=2, num_workers=0, seed=0)
    write_table(bare(table, root), folder/'images.csv')
    write_embeddings(folder/'emb.npz', table, emb)
    held = JudgedTable(folder/'images.csv', table, pairs)
    copies = degraded_copies(bare(table[:4], root), folder/'worse', 'shrink', 8, progress=False)
    halves = split_identities(table)
    return {'hash': table_hash(table), 'files': picture_files(table, root).tolist(),
            'rows': [(o.file, o.identity, o.quality, *o.scene) for o in table_rows(table, root)],
            'report': describe_table(table).splits.to_string(), 'unanswerable': unanswerable(table).tolist(),
            'batch': [o.sum().item() for o in batch.train.one_batch()[1:]], 'vocab': list(batch.vocab),
            'search': judge_search(table, emb, rows, ['quality'], hardest=0).figures,
            'pairs': judge_pairs(table, emb, rows, pairs, ['quality'], hardest=0).figures,
            'held out': judge_held_out(learn, bare(table, root), ('rank1', 'mAP')).figures,
            'written': read_table(folder/'images.csv')[list(OWN)].to_csv(),
            'embeddings': read_embeddings(folder/'emb.npz', table).sum().item(),
            'embedded': learn.embed(table, root).sum().item(), 'judged': held.rows.tolist(),
            'labels': label_table(bare(table, root), learn)['quality'].to_numpy().round(3).tolist(),
            'joined': join_quality(table, dict(zip(plain['path'], plain['quality'])))['quality'].tolist(),
            'split': halves['split'].tolist(), 'enough': len(enough_pictures(table, 3)),
            'copies': copies['identity'].tolist(), 'sets': PairSets(bare(table, root)).searched,
            'listed': check_pairs(pairs.assign(path1=[Path(p) for p in pairs['path1']]), table)['path1'].tolist(),
            'templates': check_templates(pd.DataFrame({'path': plain['path'], 'template': 1, 'media': 1}), table).shape}


@pytest.fixture(scope='module')
def right(table, learn, tmp_path_factory):
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        return of_everybody(table, learn, table.attrs['root'], tmp_path_factory.mktemp('right'))


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('shape', SHAPES)
def test_a_table_in_memory_is_that_of_its_file(table, learn, right, tmp_path, shape):
    root,made = table.attrs['root'],bare(SHAPES[shape](table.copy()), None)
    assert check_table(made, root) is made
    found = of_everybody(made, learn, root, tmp_path)
    for k,v in right.items():
        assert str(found[k]) == str(v), k


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('lacking', ['camera', 'quality'])
def test_what_is_lacking_is_unknown(table, learn, tmp_path, lacking):
    root,empty = table.attrs['root'],table.assign(**{lacking: {'camera': '', 'quality': np.nan}[lacking]})
    made = bare(table.drop(columns=lacking), None)
    assert check_table(made, root) is made
    assert table_hash(made) == table_hash(empty)
    assert str(table_rows(made, root)) == str(table_rows(empty, root))
    dls = recognition_dataloaders(made, root, size=(32, 16), n_ids=2, n_imgs=2, num_workers=0)
    assert list(dls.table[lacking].map(str)) == list(empty[lacking].map(str))
    assert len(learn.embed(made, root)) == len(made)
    emb,of = torch.rand(len(made), 4),range(len(made))
    assert str(judge_search(made, emb, of, hardest=0).figures) == str(judge_search(empty, emb, of, hardest=0).figures)


@pytest.mark.filterwarnings('ignore')
def test_the_hash_is_of_what_a_table_says(table):
    made = bare(table.copy(), '/elsewhere')
    assert table_hash(made) == table_hash(table)
    assert table_hash(table.assign(note='x')) == table_hash(table)
    for c in (*OWN, 'path'):
        changed = table.copy()
        changed.loc[5, c] = {'quality': 1.5, 'split': 'gallery'}.get(c, 'other')
        assert table_hash(changed) != table_hash(table), c
    assert table_hash(table[::-1]) != table_hash(table), 'the order of rows is that of the draws'
    assert table_hash(table.assign(quality=[*table['quality'][:-1], np.nan])) != table_hash(table)


@pytest.mark.parametrize('change, words', [
    (lambda t: t.set_axis(['path', 'identity', 'camera', 'split', 'path'], axis=1), "2 columns 'path'"),
    (lambda t: t.set_index('path'), 'reset_index'), (lambda t: t.assign(identity=[('a', 1)]*len(t)), 'identity row 0'),
    (lambda t: t.assign(identity=1e16), 'identity row 0'), (lambda t: t.assign(path=None), "'path' is empty"),
    (lambda t: t.assign(path=[f'{"./"*(k % 2)}a.jpg' for k in range(len(t))]), "'path' names a picture"),
    (lambda t: t.assign(quality=[{}]*len(t)), 'finite number'), (lambda t: t.assign(split=1), 'not train, query')])
def test_a_table_that_says_nothing_certain_is_refused(table, change, words):
    with pytest.raises(ValueError, match=words): check_table(change(table.copy()), files=False)
    with pytest.raises(ValueError, match=words): recognition_dataloaders(change(table.copy()), table.attrs['root'])


def test_spellings_that_met_are_told(table, tmp_path):
    odd = table.assign(camera=[f'{c}.0' if k % 3 else c for k,c in enumerate(table['camera'])])
    with pytest.warns(UserWarning, match=r"4 times\), first '[0-9.]+' and '[0-9.]+'"): check_table(odd)
    odd['path'] = [str(Path(table.attrs['root'], p)) for p in table['path']]
    odd.to_csv(tmp_path/'images.csv', index=False)
    with pytest.warns(UserWarning, match='4 times'): found = read_table(tmp_path/'images.csv')
    assert '4 times' in str(describe_table(found)), 'the doctor reads first and reports then'
    assert found['camera'].tolist() == table['camera'].tolist()
