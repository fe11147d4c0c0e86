"Lists of pictures in every form that is known, to the exact table; what is refused, and thousands of broken lists"
import listed as script
import numpy as np
import pytest
from listed import guess_form, listed_table, read_list
from made_up import draw, rows

from qsd_fastai.data.table import read_table

NAMES = ['a/1.jpg', 'a/2 b.jpg', 'b/1.jpg', 'b/2.PNG']
WHO = ['0', '0', '12', '12']
LISTS = {'im2rec': '\n'.join(f'{i}\t{w}.000000\t{n}' for i,(n, w) in enumerate(zip(NAMES, WHO))) + '\n',
         'cvlface': ''.join(f'{i}\t{n}\t{w}\r\n' for i,(n, w) in enumerate(zip(NAMES, WHO))),
         'magface': '\n'.join(f'{n} 0 {w} 0' for n,w in zip(NAMES, WHO)),
         'tface': '\n\n'.join(f'{n}\t{w}' for n,w in zip(NAMES, WHO)) + ' \n',
         'torchreid': '\n'.join(f'{n} {w} {k % 2}' for k,(n, w) in enumerate(zip(NAMES, WHO)))}


@pytest.fixture(scope='module')
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp('pictures')
    draw(root, *NAMES)
    return root


def write(tmp_path, text, name='list.txt'):
    file = tmp_path/name
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    return file


@pytest.mark.parametrize('form', LISTS)
@pytest.mark.parametrize('told', [False, True])
def test_known_forms(pictures, tmp_path, form, told):
    file = write(tmp_path, LISTS[form])
    table = listed_table(file, root=pictures, form=form if told else '')
    cameras = [str(k % 2) if form == 'torchreid' else '' for k in range(4)]
    assert rows(table) == [(n, w, c, 'train') for n,w,c in zip(NAMES, WHO, cameras)]
    assert table['quality'].isna().all()
    assert table.attrs['record'] == {'source': 'list', 'form': form, 'lists': ['list.txt']}
    assert read_list(file, form)[0]['line'].tolist() == ([1, 3, 5, 7] if form == 'tface' else [1, 2, 3, 4])
    held = listed_table(file, root=pictures, test=1., seed=1)
    assert sorted(held['split']) == ['gallery']*2 + ['query']*2
    assert held.attrs['record']['form'] == form


@pytest.mark.parametrize('text, columns', [
    ('﻿person,path,cam,part,q\nx,a/1.jpg,c1,query,50\n"x, y",a/2 b.jpg,,gallery,NA\nNA,b/1.jpg,c2,train,100\n',
     {'identity': 'person', 'camera': 'cam', 'split': 'part', 'quality': 'q'}),
    ('x\ta/1.jpg\tc1\tquery\t50\nx, y\ta/2 b.jpg\t\tgallery\t\nNA\tb/1.jpg\tc2\ttrain\t1e2\n',
     {'identity': '0', 'path': '1', 'camera': '2', 'split': '3', 'quality': '4'})])
def test_columns(pictures, tmp_path, text, columns):
    table = listed_table(write(tmp_path, text), root=pictures, **columns)
    assert rows(table) == [('a/1.jpg', 'x', 'c1', 'query'), ('a/2 b.jpg', 'x, y', '', 'gallery'),
                           ('b/1.jpg', 'NA', 'c2', 'train')]
    assert table['quality'].tolist()[::2] == [50, 100]
    assert np.isnan(table['quality'][1])


def test_columns_of_their_own_names_need_no_option(pictures, tmp_path):
    file = write(tmp_path, 'identity path split\nx a/1.jpg gallery\n001 b/1.jpg query\n')
    assert guess_form(file) == 'columns'
    assert rows(listed_table(file, root=pictures)) == [('a/1.jpg', 'x', '', 'gallery'), ('b/1.jpg', '001', '', 'query')]


def test_lists_of_splits_and_paths_of_another_machine(pictures, tmp_path):
    texts = {'train': '/old/machine/a/1.jpg 3 1\n', 'query': '/old/machine/b/1.jpg 4 1\n',
             'gallery': '/old/machine/./b/2.PNG 4 2\n'}
    files = {s: write(tmp_path, t, f'{s}.txt') for s,t in texts.items()}
    table = listed_table(*files.values(), root=pictures, strip='/old/machine')
    assert rows(table) == [('a/1.jpg', '3', '1', 'train'), ('b/1.jpg', '4', '1', 'query'),
                           ('b/2.PNG', '4', '2', 'gallery')]
    said = r"train\.txt, line 1: '/old/machine/a/1\.jpg' is not in .*--strip PREFIX"
    with pytest.raises(FileNotFoundError, match=said):
        listed_table(*files.values(), root=pictures)
    with pytest.raises(ValueError, match=r'train\.txt, line 1: .* does not begin with --strip /new'):
        listed_table(*files.values(), strip='/new')
    with pytest.raises(ValueError, match='go together'): listed_table(files['train'], files['query'])
    write(tmp_path, '/old/machine/b/1.jpg 4 2\n', 'gallery.txt')
    said = r"gallery\.txt, line 1: 'b/1\.jpg' is in query\.txt, line 1, too\. A table has one row a picture"
    with pytest.raises(ValueError, match=said):
        listed_table(*files.values(), root=pictures, strip='/old/machine')
    write(tmp_path, '/old/machine/b/2.PNG\t4\n', 'gallery.txt')
    with pytest.raises(ValueError, match='different forms'):
        listed_table(*files.values(), root=pictures, strip='/old/machine')


@pytest.mark.parametrize('text, form, columns, said', [
    ('a/1.jpg\t3\nb/1.jpg\t57.25\n', '', {},
     r'line 2: .*of no form that is known as the lines before are.*--path and --identity'),
    ('a/1.jpg\t57.25\n', 'tface', {}, 'line 1: .*join_quality'),
    ('x.tfrecord\t0\t12\t3\n', 'tface', {}, r'line 1: .*\.tfrecord file cannot be read'),
    ('a/1.jpg 0 x 0\n', 'magface', {}, 'line 1: .*is not `path 0 identity 0`'),
    ('0\t1\n', 'im2rec', {}, 'line 1: .*is not `index<tab>label<tab>path`'),
    ('a 1.jpg\t3 x\n', '', {}, 'of no form'),
    ('a\t1\n', '', {}, 'of no form'),
    ('p 1.jpg 0 3 0', 'x', {}, 'Use im2rec'),
    ('path,identity\na/1.jpg\n', '', {}, 'line 2: 1 columns, and column 1'),
    ('path,identity\na/1.jpg,\n', '', {}, "line 2: Column 'identity' is empty"),
    ('path,identity\n"a/1.jpg,x\n', '', {}, 'line 2: .*is not CSV'),
    ('path,identity\n', '', {}, 'column names and no lines'),
    ('path,identity,split\na/1.jpg,x,val\n', '', {}, "line 2: Column 'split' is not train, query or gallery .*'val'"),
    ('path,identity,quality\na/1.jpg,x,inf\n', '', {}, "line 2: Column 'quality' is not a number 0 to 100"),
    ('path,identity,quality\na/1.jpg,x,good\n', '', {}, "line 2: Column 'quality' is not a number 0 to 100"),
    ('path,identity\na/1.jpg,x\nb/1.jpg,x\na/../a/1.jpg,x\n', '', {},
     r"line 4: 'a/1\.jpg' is in list\.txt, line 2, too"),
    ('p,q\na/1.jpg,x\n', '', {'path': 'p', 'identity': 'who'},
     "line 1: 0 columns are called 'who'; there are p, q"),
    ('p;q\na/1.jpg;x\n', '', {'path': 'p', 'identity': 'q'}, "separates its columns by ';'"),
    ('p,q\na/1.jpg,x\n', '', {'path': 'p'}, 'Say which column is the identity'),
    ('a 3 1', 'torchreid', {'path': '0'}, 'Leave out the columns'),
    ('a/3.jpg\t1\n', '', {}, r"line 1: 'a/3\.jpg' is not in"),
    ('a\t1\n', 'tface', {}, "line 1: 'a' is not in"),
    ('', '', {}, 'is empty'),
    (b'a/1.jpg\t1\n\xff\xfe', '', {}, 'byte 10: not UTF-8'),
    ('a/1.jpg\t1\n\0\n', '', {}, 'line 2: holds a zero byte')])
def test_lists_that_cannot_be_read(pictures, tmp_path, text, form, columns, said):
    with pytest.raises((ValueError, FileNotFoundError), match=rf'(?s)^(?:--form|.*list\.txt).*{said}'):
        listed_table(write(tmp_path, text), root=pictures, form=form, **columns)


def test_a_form_that_is_not_clear(tmp_path, monkeypatch):
    file = write(tmp_path, 'a b.jpg\t3\n')
    monkeypatch.setitem(script.READERS, 'magface', script.READERS['tface'])
    with pytest.raises(ValueError, match=r'list\.txt may be magface or tface\. Say --form'): guess_form(file)


def test_main_twice(pictures, tmp_path, capsys):
    root = tmp_path/'set'
    for n in NAMES:
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        (root/n).write_bytes((pictures/n).read_bytes())
    file = write(tmp_path, LISTS['magface'])
    listed_table.main(str(file), root=str(root), test=.5)
    said = capsys.readouterr().out
    assert 'form: magface' in said
    assert 'The form magface is guessed' in said
    table = read_table(tmp_path/'images.csv')
    assert sorted(table['path']) == sorted(f'set/{n}' for n in NAMES)
    assert sorted(table['split']) == ['gallery', 'query', 'train', 'train']
    made,before = table.attrs['record'], (tmp_path/'images.csv').stat().st_mtime_ns
    assert made['form'] == 'magface'
    assert made['folder'] == 'set'
    assert made['options']['test'] == .5
    listed_table.main(str(file), root=str(root), test=.5)
    assert 'nothing to do' in capsys.readouterr().out
    assert (tmp_path/'images.csv').stat().st_mtime_ns == before
    with pytest.raises(SystemExit, match='--force'): listed_table.main(str(file), root=str(root))
    with pytest.raises(SystemExit, match='--out DIR'): listed_table.main(str(tmp_path/'images.csv'), root=str(root))
    with pytest.raises(SystemExit, match='no such list'): listed_table.main(str(tmp_path/'none.txt'))
    with pytest.raises(SystemExit, match='list of one split'):
        listed_table.main(str(write(root, 'path identity split\na/1.jpg x query\n')), test=.5)


def test_broken_lists_are_read_or_refused(pictures, tmp_path):
    "Thousands of lists with bytes changed, cut, doubled and mixed: our own error that names the list, or a table"
    rng = np.random.default_rng(0)
    bits = [b'\t', b',', b'"', b'\n', b'\r', b'\0', b' ', b'/', b'..', b'-', b'nan', b'9'*30, b'\xff', '²'.encode(),
            b'0', b'.jpg']
    named = 'path,identity,camera,split,quality\na/1.jpg,x,1,query,5\na/2 b.jpg,x,2,gallery,\nb/1.jpg,y,,train,100\n'
    texts,read = [t.encode() for t in [*LISTS.values(), named]], 0
    for i in range(2500):
        text = bytearray(texts[i % len(texts)])
        for _ in range(rng.integers(0, 4)):
            at,kind = int(rng.integers(0, len(text) + 1)), rng.integers(0, 4)
            if kind == 0: text[at:at + int(rng.integers(1, 4))] = bits[rng.integers(len(bits))]
            elif kind == 1: del text[at:]
            elif kind == 2: text[at:at] = text[:at]
            else: text += texts[rng.integers(len(texts))]
        file = write(tmp_path, bytes(text))
        columns = [{}, {'path': '0', 'identity': '1'}, {'path': 'path'}][rng.integers(0, 3)] if i % 3 == 0 else {}
        try: table = listed_table(file, root=pictures, **columns, verify=False)
        except (ValueError, OSError) as e: assert 'list.txt' in str(e), e
        else:
            read += 1
            assert set(table['path']) <= set(NAMES)
            assert (table['identity'] != '').all()
            assert not table['path'].duplicated().any()
    assert 100 < read < 2400
