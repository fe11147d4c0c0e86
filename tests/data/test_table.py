"The table: text stays text, nothing wrong passes in silence, splits by identity, labels found again after a move"
import itertools
import json
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from qsd_fastai.columns import complete_table
from qsd_fastai.data.labels import join_quality, read_labels
from qsd_fastai.data.splits import split_identities
from qsd_fastai.data.table import check_table, describe_table, read_table, unanswerable, write_table


def make(n_ids=6, n_pics=4, cams=('1', '2')):
    "Table of identities '000'.. with pictures in a folder each, cameras in turn"
    rows = [(f'{i:03d}/{k}.jpg', f'{i:03d}', cams[k % len(cams)], 'train') for i in range(n_ids) for k in range(n_pics)]
    return pd.DataFrame(rows, columns=['path', 'identity', 'camera', 'split'])


def draw(table, root):
    "The pictures of a table as tiny files"
    for p in table['path']:
        (root/p).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (4, 8)).save(root/p)


@pytest.fixture
def market(tmp_path):
    "A table with its pictures"
    table = split_identities(make())
    draw(table, tmp_path)
    return table


@pytest.mark.parametrize('suffix', ['csv', 'parquet'])
def test_round_trip(market, tmp_path, suffix):
    market.loc[0, 'camera'],market['note'] = '','NA'
    market['n'] = [*range(len(market) - 1), np.nan]
    market['quality'] = [0., 100., *[np.nan]*(len(market) - 2)]
    market.loc[market['identity'] == '000', 'identity'] = 'NA'  # a name, not a missing value
    made = write_table(market, tmp_path/f'images.{suffix}', record={'source': 'drawn', 'seed': 3})
    back = read_table(tmp_path/f'images.{suffix}')
    for c in ('path', 'identity', 'camera', 'split'): assert back[c].tolist() == made[c].tolist() == market[c].tolist()
    assert back['identity'][4] == '001'
    assert back['identity'][0] == 'NA'
    assert back['camera'][0] == ''
    assert back['quality'].dtype == float
    assert back['quality'].isna().sum() == len(market) - 2
    assert back['quality'][1] == 100
    assert back['n'].isna().sum() == 1
    assert back['n'][1] == 1  # other columns are kept, numbers stay numbers
    assert back.attrs == {'root': str(tmp_path), 'record': {'source': 'drawn', 'seed': 3}}
    assert not list(tmp_path.glob('.*')), 'a temporary file was left'


def test_missing_optional_columns(market, tmp_path):
    market.drop(columns='camera').to_csv(tmp_path/'images.csv', index=False)
    table = read_table(tmp_path/'images.csv')
    assert set(table['camera']) == {''}
    assert table['quality'].isna().all()
    assert 'record' not in table.attrs


def test_parquet_does_not_hold_the_folder(market, tmp_path):
    market.attrs['root'] = str(tmp_path)
    write_table(market, tmp_path/'images.parquet')
    assert str(tmp_path).encode() not in (tmp_path/'images.parquet').read_bytes()


def test_read_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r'folder\.py'): read_table(tmp_path/'images.csv')
    (tmp_path/'images.csv').write_text('')
    with pytest.raises(FileNotFoundError, match='Did you mean'): read_table(tmp_path)
    with pytest.raises(ValueError, match=r'images\.csv is not a table'): read_table(tmp_path/'images.csv')
    (tmp_path/'images.csv').write_bytes(Image.new('RGB', (9, 9)).tobytes() + b'\xff\xd8,\n"')
    with pytest.raises(ValueError): read_table(tmp_path/'images.csv')
    (tmp_path/'a.txt').write_text('path,identity\n')
    with pytest.raises(ValueError, match=r'csv or \.parquet'): read_table(tmp_path/'a.txt')
    (tmp_path/'b.parquet').write_text('not parquet')
    with pytest.raises(ValueError, match=r'b\.parquet'): read_table(tmp_path/'b.parquet')
    make().to_csv(tmp_path/'c.csv', index=False)
    (tmp_path/'c.json').write_text('{')
    with pytest.raises(ValueError, match=r'c\.json'): read_table(tmp_path/'c.csv', check=False)


def test_write_moves_paths(market, tmp_path):
    market.attrs['root'] = str(tmp_path)
    made = write_table(market, tmp_path/'tables'/'deep'/'images.csv')
    assert made['path'][0] == '../../' + market['path'][0]
    assert check_table(read_table(tmp_path/'tables'/'deep'/'images.csv')) is not None
    market['path'] = [str(tmp_path/p) for p in market['path']]
    assert write_table(market, tmp_path/'images.csv')['path'][0] == '000/0.jpg'


def test_failed_write_keeps_the_old_table(market, tmp_path, monkeypatch):
    file = tmp_path/'images.csv'
    write_table(market, file, record={'n': 1})
    old = file.read_bytes()
    with pytest.raises(ValueError): write_table(market.assign(quality=101), file)
    def broken(self, path, **kwargs):
        path.write_text('half')
        raise OSError('disk full')
    monkeypatch.setattr(pd.DataFrame, 'to_csv', broken)
    with pytest.raises(OSError, match='disk full'): write_table(market, file)
    assert file.read_bytes() == old
    assert not list(tmp_path.glob('.*'))
    monkeypatch.undo()
    write_table(market, file)
    assert not file.with_suffix('.json').exists(), 'the record of another table stayed beside this one'


@pytest.mark.parametrize('change, words', [
    (lambda t: t.drop(columns='split'), ['split', 'split_identities']),
    (lambda t: t.drop(columns='identity'), ['identity', 'Rename']),
    (lambda t: t[:0], ['no rows']),
    (lambda t: t.assign(identity=['x']*3 + [''] + ['x']*20), ['identity', 'empty', 'row 3', '000/3.jpg']),
    (lambda t: t.assign(path=['a.jpg']*24), ['path', '23 of 24', 'row 1', 'a.jpg']),
    (lambda t: t.assign(split=['train', 'Test'] + ['train']*22), ['split', 'row 1', "'Test'", 'query']),
    (lambda t: t.assign(quality=[1.]*5 + [-.1] + [100.]*18), ['quality', 'row 5', '001/1.jpg', '0..100']),
    (lambda t: t.assign(quality=[1.]*5 + [np.inf] + [np.nan]*18), ['quality', 'row 5', 'finite']),
    (lambda t: t.assign(quality=['1', 'good'] + ['']*22), ['quality', 'row 1', "'good'"]),
])
def test_check_names_column_row_and_remedy(change, words):
    with pytest.raises(ValueError) as e: check_table(change(make()), files=False)
    for w in words: assert w in str(e.value), (w, str(e.value))


def test_check_accepts_the_bounds():
    assert len(check_table(make().assign(quality=[0., 100.] + [np.nan]*22), files=False)) == 24


def test_check_files(market, tmp_path):
    with pytest.raises(ValueError, match='root'): check_table(market)
    assert check_table(market, tmp_path) is market
    for name in ('002/1.jpg', '003/0.jpg'): (tmp_path/name).unlink()
    with pytest.raises(FileNotFoundError) as e: check_table(market, tmp_path)
    for w in ('2 of 24', 'row 9', '002/1.jpg', str(tmp_path)): assert w in str(e.value)
    with pytest.raises(FileNotFoundError, match='forward slashes'):
        check_table(market.assign(path=market['path'].str.replace('/', '\\')), tmp_path)


def test_check_warns():
    table = make(3, 2)
    table['split'] = ['train', 'query', 'query', 'gallery', 'query', 'query']
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        check_table(table, files=False)
    text = '\n'.join(str(w.message) for w in seen)
    assert '3 of 4 queries' in text
    assert "'000/1.jpg'" in text
    assert '1 identities are in train and in query' in text
    assert '1 of 1 training identities has one picture: it forms no pair' in text
    with warnings.catch_warnings(): # Once a table: loaders and writers check it again
        warnings.simplefilter('error')
        check_table(table, files=False)
        check_table(table.copy(), files=False)
    with pytest.warns(UserWarning, match='of 2 training'):
        check_table(table.assign(split=['train', 'query', 'train', 'gallery', 'query', 'query']), files=False)


def test_unanswerable_against_the_definition():
    rng = np.random.default_rng(0)
    n = 300
    table = pd.DataFrame({'path': [f'{i}.jpg' for i in range(n)], 'identity': rng.integers(0, 60, n).astype(str),
                          'camera': rng.choice(['', '1', '2', '3'], n),
                          'split': rng.choice(['train', 'query', 'gallery'], n)})
    def lost(row):
        there = table[(table['split'] == 'gallery') & (table['identity'] == row['identity'])]['camera']
        return row['split'] == 'query' and not ((there != row['camera']) | (there == '') | (row['camera'] == '')).any()
    want = [lost(r) for _,r in table.iterrows()]
    assert 5 < sum(want) < 95
    assert unanswerable(table).tolist() == want


def test_describe():
    table = make(4, 2).assign(quality=[50.]*3 + [np.nan]*5)
    table['split'] = ['train']*3 + ['gallery'] + ['query', 'gallery']*2
    report = describe_table(table, {'train': (3, 2), 'query': (2, 2), 'gallery': (4, 3)})
    assert report.splits.loc['train'].tolist() == [3, 2, 2, 1, 100.]
    assert report.splits.loc['query'].tolist() == [2, 2, 1, 2, 0.]
    assert report.overlap == 1
    assert report.unanswerable == 0
    assert report.labelled == 3/8
    assert report.differs == ['gallery: 3 pictures of 3 identities, published are 4 of 3']
    assert 'pictures' in str(report)
    assert 'published are 4' in str(report)
    assert '100.0 %' in str(report)
    assert describe_table(table, {'train': [3, 2]}).differs == []
    assert describe_table(table).differs is None
    table.attrs['record'] = {'published': {'train': [9, 9]}}
    assert len(describe_table(table).differs) == 1


def test_describe_a_million_rows():
    n = 1_000_000
    i = np.arange(n)
    table = pd.DataFrame({'path': i.astype(str), 'identity': (i//12).astype(str), 'camera': (i % 6).astype(str),
                          'split': np.array(['train', 'query', 'gallery'])[i//12 % 3]})
    assert describe_table(table).splits['pictures'].sum() == n


@pytest.mark.parametrize('cams, n_pics', [*itertools.product([('',), ('1', '2'), ('1', '2', '3', '')], [2, 3, 7])])
def test_split(cams, n_pics):
    table = make(11, n_pics, cams)
    table.loc[len(table)] = ['one/0.jpg', 'one', '1', '']
    out = split_identities(table, .5, seed=1)
    held = out['identity'][out['split'] != 'train'].unique()
    assert len(held) == 6
    assert not set(held) & set(out['identity'][out['split'] == 'train'])
    assert 'one' not in held
    assert not unanswerable(out).any()
    queries,known = out[out['split'] == 'query'], cams != ('',)
    assert set(queries['identity']) == set(held)  # each can be asked for, even of two pictures in two cameras
    assert queries.groupby(['identity', 'camera'] if known else 'identity').size().max() == 1
    # the same whatever the order of the rows, another with another seed
    mixed = split_identities(table.sample(frac=1, random_state=0), .5, seed=1)
    assert mixed.sort_index()['split'].tolist() == out['split'].tolist()
    assert split_identities(table, .5, seed=2)['split'].tolist() != out['split'].tolist()
    assert 'split' in table
    assert (table['split'] != out['split']).any()  # the table that came in is untouched


def test_split_options():
    table = make(8, 4, ('',))
    three = split_identities(table, 3)
    assert three['identity'][three['split'] != 'train'].nunique() == 3
    assert (split_identities(table, .5, n_query=2)['split'] == 'query').sum() == 8
    out = split_identities(table, .5, query=r'/[01]\.jpg$')
    assert set(out['path'][out['split'] == 'query'].str[-5:]) == {'0.jpg', '1.jpg'}
    mask = split_identities(table, .5, query=table['path'].str.endswith('2.jpg'))
    assert set(mask['path'][mask['split'] == 'query'].str[-5:]) == {'2.jpg'}
    # a query by wish that leaves no gallery: one picture of the identity has to answer
    every = split_identities(table, .5, query='jpg')
    assert (every['split'] == 'gallery').sum() == 4
    assert not unanswerable(every).any()


def test_split_errors():
    table = make(4, 2, ('',))
    for bad in (0, 0., 5, 1.2, -1):
        with pytest.raises(ValueError, match='identities'): split_identities(table, bad)
    with pytest.raises(ValueError, match='mask of 2'): split_identities(table, query=[True, False])
    with pytest.raises(ValueError, match='smiling'): split_identities(table, query='smiling')
    with pytest.raises(ValueError, match='one camera'): split_identities(make(4, 2, ('1',)))


def labelled(table): return {p: float(i % 101) for i,p in enumerate(table['path'])}


@pytest.mark.parametrize('prefix, root', [('', None), ('./', None), ('/old/place/', None), ('C:\\data\\', None),
                                          ('/a/faces', '/a/faces')])
def test_join_by_path(tmp_path, capsys, prefix, root):
    table = make(3)
    table['path'] = table['path'].str.replace('1.jpg', 'with space 1.jpg')
    want = labelled(table)
    slash = '\\' if '\\' in prefix else '/'
    ends = [f'{sep}{s}' for s,sep in zip(want.values(), itertools.cycle('\t '))]
    lines = [f'{prefix}{p}'.replace('/', slash) + end for p,end in zip(want, ends)]
    (tmp_path/'labels.txt').write_text('\n'.join(lines) + '\n\n')
    out = join_quality(table, tmp_path/'labels.txt', root=root)
    assert out['quality'].tolist() == list(want.values())
    assert 'quality' not in table
    assert out.attrs['coverage']['part'] == 1
    assert '100.0%' in capsys.readouterr().out


def test_join_default_root(tmp_path):
    table = make(3)
    table.attrs['root'] = str(tmp_path)
    out = join_quality(table, {f'{tmp_path}/{p}': s for p,s in labelled(table).items()})
    assert out.attrs['coverage']['matched_by']['path'] == 12


def test_join_by_base_name_only_where_unique():
    paths = ['a/1.jpg', 'b/2.jpg', 'c/3.jpg', 'd/3.jpg', 'e/4.jpg']
    table = pd.DataFrame({'path': paths, 'identity': 'x', 'split': 'train'})
    labels = pd.Series({'old/1.jpg': 10, 'old/2.jpg': 20, 'old/3.jpg': 30, 'old/4.jpg': 40, 'new/4.jpg': 41})
    out = join_quality(table, labels, min_coverage=.4)
    assert out['quality'].tolist()[:2] == [10, 20]
    assert out['quality'][2:].isna().all()
    assert out.attrs['coverage'] == {'part': .4, 'labelled': 2, 'pictures': 5, 'unused_labels': 3,
                                     'matched_by': {'path': 0, 'last parts': 0, 'base name': 2}}
    # a label that a path has claimed is not given to another picture by its base name
    both = join_quality(table, {'a/1.jpg': 1, 'b/2.jpg': 2, 'c/3.jpg': 3}, min_coverage=0)
    assert both['quality'].tolist()[:3] == [1, 2, 3]
    assert both['quality'][3:].isna().all()


def test_join_coverage():
    table = make(4)
    table['split'] = ['train']*8 + ['query', 'gallery']*4
    train_only = dict.fromkeys(table['path'][:8], 50.)
    assert join_quality(table, train_only)['quality'].isna().sum() == 8  # published labels may be of training only
    with pytest.raises(ValueError) as e: join_quality(table, dict.fromkeys(table['path'][2:12], 50.) | {'x/9.jpg': 3.})
    for w in ('75.0%', '90%', "'000/0.jpg'", "'x/9.jpg'", 'root='): assert w in str(e.value), w
    with pytest.raises(ValueError, match='none matched'): join_quality(table, {'q.jpg': 3.})
    with pytest.raises(ValueError, match=r'\b0\.0%'): join_quality(table, {})


def test_label_errors(tmp_path):
    file = tmp_path/'l.txt'
    for text,words in [('a.jpg\t50\nb.jpg\t100.5\n', ['line 2', '100.5', 'b.jpg']), ('a.jpg -1', ['line 1']),
                       ('a.jpg inf', ['line 1']), ('\na.jpg', ['line 2', 'a.jpg']), ('a.jpg good', ["'good'"]),
                       ('a.jpg 1\na.jpg 2', ['line 2', '1.0'])]:
        file.write_text(text)
        with pytest.raises(ValueError) as e: read_labels(file)
        for w in [str(file), *words]: assert w in str(e.value), (w, str(e.value))
    with pytest.raises(FileNotFoundError, match=r'none\.txt'): read_labels(tmp_path/'none.txt')
    csv = tmp_path/'l.csv'
    csv.write_text('path,score\na,1\n')
    with pytest.raises(ValueError, match='path and quality'): read_labels(csv)
    csv.write_text('quality,path\n1,a\n,b\n0,c d\n')
    assert read_labels(csv) == {'a': 1, 'c d': 0}  # empty is unknown
    csv.write_text('path,quality\na,1\nb,200\n')
    with pytest.raises(ValueError, match='line 3'): read_labels(csv)


def test_record_is_readable_by_people(market, tmp_path):
    write_table(market, tmp_path/'images.csv', record={'source': 'Größe'})
    text = (tmp_path/'images.json').read_text(encoding='utf-8')
    assert 'Größe' in text
    assert json.loads(text) == {'source': 'Größe'}


@pytest.fixture
def written(make_table):
    "The file of a table"
    table = make_table([2, 2])
    write_table(table, Path(table.attrs['root'])/'images.csv')
    return Path(table.attrs['root'])/'images.csv'


@pytest.mark.parametrize('text', [
    '', '[]', '3', 'null', '"a"', '{', '['*10**5, '\xff', '{"a": 1}}',
    *('{"published": ' + o + '}' for o in ('3', '[1, 2]', '{"train": 3}', '{"query": null}', '{"train": [1]}',
                                           '{"train": ["a", "b"]}'))])
def test_a_record_of_any_content_is_named(written, text):
    file = written
    file.with_suffix('.json').write_bytes(text.encode('latin-1'))
    with pytest.raises(ValueError, match=r'images\.json.*images\.csv.*again'): read_table(file)


@pytest.mark.parametrize('record', [{}, *({'published': o, 'a': [1]} for o in (None, {}, {'train': [4, 2]}))])
def test_a_record_is_read(written, record):
    file = written
    file.with_suffix('.json').write_text(json.dumps(record))
    assert read_table(file).attrs['record'] == record


@pytest.mark.parametrize('kind', ['string', 'string[pyarrow]', 'convert'])
@pytest.mark.parametrize('column', ['camera', 'identity', 'path', 'split'])
def test_missing_text_of_nullable_columns(kind, column):
    table = pd.DataFrame({'path': ['a.png', 'b.png'], 'identity': ['x', 'y'], 'split': 'train', 'camera': ['1', '2']})
    table[column] = [table[column][0], None]
    table = table.convert_dtypes() if kind == 'convert' else table.astype(dict.fromkeys(table, kind))
    whole = complete_table(table)
    assert whole[column].tolist() == [table[column][0], '']
    if column == 'camera': assert check_table(table, files=False) is table
    else:
        with pytest.raises(ValueError, match=f'{column}.* row 1'): check_table(table, files=False)


@pytest.mark.parametrize('name', ['Camera', ' camera', 'CAMERA ', 'Quality', ' quality', 'Identity', 'Path', ' split'])
def test_a_column_of_another_spelling_is_not_lost(name):
    table = pd.DataFrame({'path': ['a.png'], 'identity': 'x', 'split': 'train', 'camera': '1', 'quality': 3.})
    own = name.strip().lower()
    with pytest.raises(ValueError, match=f"a column {name!r} and none {own!r}.*Rename it"):
        check_table(table.rename(columns={own: name}), files=False)
    assert name in complete_table(table.assign(**{name: 1})) # Beside it, it is a column of one's own


@pytest.mark.parametrize('separator', [';', '\t', '|', ':', ' '])
def test_other_separators_are_named(tmp_path, separator):
    (tmp_path/'t.csv').write_text(separator.join(('path', 'identity', 'split')) + '\n')
    with pytest.raises(ValueError, match=r't\.csv separates its columns by .*Save it with commas'):
        read_table(tmp_path/'t.csv')


def test_names_of_columns_may_hold_blanks(tmp_path):
    (tmp_path/'t.csv').write_text('path,identity,split,image path,who: identity\na.png,x,train,1,2\n')
    assert read_table(tmp_path/'t.csv', check=False)['image path'].tolist() == [1]


@pytest.mark.parametrize('encoding', ['utf-16', 'latin-1'])
def test_other_encodings_are_named(tmp_path, encoding):
    (tmp_path/'t.csv').write_text('path,identity,split\na.png,Zoë,train\n', encoding=encoding)
    with pytest.raises(ValueError, match=r't\.csv is no text in UTF-8 .*Save it as UTF-8'): read_table(tmp_path/'t.csv')


def test_true_quality_has_the_range_of_quality():
    table = pd.DataFrame({'path': ['a.png', 'b.png'], 'identity': 'x', 'split': 'train', 'true_quality': [3., 1000.]})
    with pytest.raises(ValueError, match=r"'true_quality' is outside 0..100 .*b\.png'\): 1000\.0\. Labels run from 3"):
        check_table(table, files=False)
