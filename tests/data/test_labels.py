"Labels of other scales, separators, and errors that name the file"
import numpy as np
import pandas as pd
import pytest

from qsd_fastai.data.labels import join_quality, read_labels
from qsd_fastai.data.pairs import read_pairs
from qsd_fastai.data.table import check_table, read_table
from qsd_fastai.data.templates import read_searches, read_template_pairs, read_templates

PATHS = [f'{k}.jpg' for k in range(5)]
OTHER = {'0..1': [.1, .25, .5, .75, .9], 'norms': [17.5, 21., 33., 120., 101.], 'negative': [-1.5, -.5, 0, .5, 2.]}


@pytest.fixture
def table():
    return pd.DataFrame({'path': PATHS, 'identity': ['a', 'a', 'b', 'b', 'b'], 'camera': '', 'split': 'train'})


def write(file, values, sep='\t'):
    file.write_text('\n'.join(f'{p}{sep}{v}' for p,v in zip(PATHS, values)))
    return file


@pytest.mark.parametrize('form', ['text', 'csv', 'dict', 'series'])
@pytest.mark.parametrize('scale', OTHER)
def test_another_scale_is_told(tmp_path, table, form, scale):
    values = OTHER[scale]
    given = {'text': write(tmp_path/'labels.txt', values), 'dict': dict(zip(PATHS, values)),
             'series': pd.Series(values, PATHS), 'csv': tmp_path/'labels.csv'}[form]
    pd.DataFrame({'path': PATHS, 'quality': values}).to_csv(tmp_path/'labels.csv', index=False)
    with pytest.raises(ValueError) as e: join_quality(table, given)
    for words in (f'{min(values):g} to {max(values):g}', '--scale', 'minmax', 'labels'): assert words in str(e.value)
    found = join_quality(table, given, scale='minmax')
    assert found['quality'].min() == 0
    assert found['quality'].max() == 100
    assert np.argsort(found['quality']).tolist() == np.argsort(values).tolist(), 'the order is kept'
    assert found.attrs['coverage']['scale'] == 'minmax'


def test_parts_of_one(tmp_path, table):
    file = write(tmp_path/'labels.txt', OTHER['0..1'])
    assert join_quality(table, file, scale='unit')['quality'].tolist() == [10, 25, 50, 75, 90]
    assert join_quality(table, file, scale='keep')['quality'].tolist() == OTHER['0..1']
    with pytest.raises(ValueError, match=r'labels\.txt, line 3: 1.5 is not a quality in 0\.\.1'):
        read_labels(write(tmp_path/'labels.txt', [0, 1, 1.5]), 'unit')
    with pytest.raises(ValueError, match='one value only'): read_labels(write(tmp_path/'labels.txt', [3, 3]), 'minmax')
    with pytest.raises(ValueError, match="scale is 'half'"): read_labels(file, 'half')
    for right in ([0, 1, 0, 1], [1], [0, 0], [.5], [.5, 40], [0, 100]):
        assert list(read_labels(dict(zip(PATHS, right))).values()) == right
    with pytest.warns(UserWarning, match='quality runs from 0.1 to 0.9'):
        check_table(table.assign(quality=OTHER['0..1']), files=False)
    with pytest.raises(ValueError, match=r'Labels run from -1\.5 to 2'):
        check_table(table.assign(quality=OTHER['negative']), files=False)


def test_paths_of_labels_in_any_spelling(table):
    table['path'] = ['a/1.jpg', 'a/2.jpg', 'Jos\xe9.jpg', 'b.jpg', 'c d.jpg']
    labels = {'a\\1.jpg': 1, './a//2.jpg': 2, 'Jose\u0301.jpg': 3, ' b.jpg': 4, 'c d.jpg': 5}
    with pytest.warns(UserWarning, match='3 paths are not written as a table has them'):
        assert join_quality(table, labels)['quality'].tolist() == [1, 2, 3, 4, 5]


READERS = {'images': (read_table, 'path,identity,split\n0.jpg,a,train\n'),
           'pairs': (read_pairs, 'path1,path2,same,fold\n0.jpg,1.jpg,1,0\n'),
           'labels': (read_labels, 'path,quality\n0.jpg,50\n'),
           'templates': (read_templates, 'path,template,media\n0.jpg,1,1\n'),
           'template_pairs': (lambda f: read_template_pairs(f, pd.DataFrame({'template': [1, 2]})),
                              'template1,template2,same\n1,2,1\n'),
           'probe': (read_searches, 'template,identity\n1,a\n')}


@pytest.mark.parametrize('name', READERS)
def test_every_reader_tells_file_and_separator(tmp_path, name):
    read,text = READERS[name]
    file = tmp_path/f'{name}.csv'
    for sep in (';', '\t', '|'):
        file.write_text(text.replace(',', sep))
        with pytest.raises(ValueError, match=f'(?s){name}.csv separates its columns by .*commas'): read(file)
    head,first,*_ = text.split('\n')
    for broken in ('', head, f'{head}\n{"x,"*first.count(",")}x\n', f'{head}\n{","*first.count(",")}\n',
                   f'x{head}\n{first}\n', '\xff\xfe'):
        file.write_bytes(broken.encode('latin-1'))
        with pytest.raises((ValueError, OSError), match=rf'{name}\.csv'): read(file)


def test_rows_that_are_longer_than_the_head(tmp_path):
    (tmp_path/'images.csv').write_text('path,identity,split\n0.jpg,a,train,x\n1.jpg,a,train,x\n')
    with pytest.raises(ValueError, match=r'images\.csv has rows of more cells'): read_table(tmp_path/'images.csv')


def test_a_path_that_the_disk_writes_otherwise(tmp_path):
    (tmp_path/'Jos\xe9.jpg').write_bytes(b'x')
    (tmp_path/'images.csv').write_text('path,identity,split\nJose\u0301.jpg,a,train\n', encoding='utf-8')
    with pytest.raises(FileNotFoundError, match=r"images\.csv: .*The disk writes it 'Jos\xe9\.jpg'"):
        read_table(tmp_path/'images.csv')
