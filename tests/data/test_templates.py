"Lists of templates: what is read, what is refused, and thousands of damaged ones"
import random
import tracemalloc

import pandas as pd
import pytest

from qsd_fastai.data.templates import (
    TemplateError,
    check_template_pairs,
    check_templates,
    read_list,
    read_template_pairs,
    read_templates,
    write_list,
)

WORDS = {'path': str, 'template': int, 'media': int}
TEMPLATES = pd.DataFrame({'path': ['a.jpg', 'b.jpg', 'b.jpg'], 'template': [1, 1, 2], 'media': [7, 8, 8]})


@pytest.mark.parametrize('name, text', [('a.txt', '1.jpg 1 69\n\n  NA\t2   70\n"x.jpg 3 -1'),
                                        ('a.csv', '1.jpg,1,69\nNA,2,70\n"x.jpg,3,-1\n')])
def test_read_list(tmp_path, name, text):
    (tmp_path/name).write_text(text)
    assert read_list(tmp_path/name, WORDS).values.tolist() == [['1.jpg', 1, 69], ['NA', 2, 70], ['"x.jpg', 3, -1]]


def test_header_and_further_columns(tmp_path):
    rows = '1,0042,img/1.png,3\n1,0042,img/2.png,\n2,7,,\n'
    (tmp_path/'g.csv').write_text('TEMPLATE_ID,SUBJECT_ID,FILENAME,FACE_X\n' + rows)
    found = read_list(tmp_path/'g.csv', {'template': int, 'identity': str}, header=True, more=True)
    assert found.values.tolist() == [[1, '0042'], [1, '0042'], [2, '7']]


@pytest.mark.parametrize('text, said', [
    ('1.jpg 1 69\n2.jpg 1\n', r"line 2: '2\.jpg 1' is not `path template media`"),
    ('1.jpg 1 69\n2.jpg 1 7 8\n', 'line 2'), ('1.jpg 1 69 4\n', 'line 1'),
    ('1.jpg 1 69\n2.jpg x 1\n', 'line 2'), ('1.jpg 1.5 69\n', 'line 1'), ('1.jpg 1 99999999999999999999\n', 'line 1'),
    ('1.jpg 1 1e999\n', 'line 1'), ('1.jpg 1 ' + '9'*40 + '\n', 'line 1'), ('', 'a.txt'), ('\n\n', 'a.txt'),
    ('1.jpg 1 \udc80\n', 'line 1')])
def test_lists_that_cannot_be_read(tmp_path, text, said):
    (tmp_path/'a.txt').write_bytes(text.encode('utf-8', 'surrogateescape'))
    with pytest.raises(TemplateError, match=r'a\.txt.*' + said if 'txt' not in said else said):
        read_list(tmp_path/'a.txt', WORDS)


def test_written_and_read(tmp_path):
    pairs = pd.DataFrame({'template1': [1, 2], 'template2': [2, 2], 'same': [0, 1]})
    write_list(TEMPLATES, tmp_path/'templates.csv')
    write_list(pairs, tmp_path/'template_pairs.csv')
    back = read_templates(tmp_path/'templates.csv', pd.DataFrame({'path': ['a.jpg', 'b.jpg']}))
    assert back.equals(TEMPLATES.astype({'path': back['path'].dtype}))
    assert read_template_pairs(tmp_path/'template_pairs.csv', back).values.tolist() == [[1, 2, False], [2, 2, True]]
    with pytest.raises(FileNotFoundError, match=r'ijb\.py'): read_templates(tmp_path/'none.csv')
    (tmp_path/'templates.csv').write_text('path,template,media\na.jpg,x,3\n')
    with pytest.raises(TemplateError, match=r'templates\.csv cannot be read'): read_templates(tmp_path/'templates.csv')


def test_checks():
    pairs = pd.DataFrame({'template1': [1], 'template2': [2], 'same': [1]})
    assert check_templates(TEMPLATES) is TEMPLATES
    assert check_template_pairs(pairs, TEMPLATES) is pairs
    with pytest.raises(TemplateError, match=r"'path' is not in the table in 2 of 3 rows, first in row 1"):
        check_templates(TEMPLATES, pd.DataFrame({'path': ['a.jpg']}))
    with pytest.raises(TemplateError, match="'template2' is a template without pictures in 1 of 1"):
        check_template_pairs(pairs.assign(template2=3), TEMPLATES)
    with pytest.raises(TemplateError, match='neither 0 nor 1'): check_template_pairs(pairs.assign(same=2), TEMPLATES)
    with pytest.raises(TemplateError, match='no whole number'): check_templates(TEMPLATES.assign(media=.5))
    with pytest.raises(TemplateError, match="no column 'media'"): check_templates(TEMPLATES.drop(columns='media'))
    with pytest.raises(TemplateError, match='no rows'): check_templates(TEMPLATES[:0])


def test_hundreds_of_damaged_lists(tmp_path):
    "Only our own error, whatever the bytes"
    rng,read,file = random.Random(0), 0, tmp_path/'a.txt'
    words = [b'"', b'\0', b'\r', b',', b' ', b'\n', b'\xff', b'9'*40, b'1e999', b'nan', b'\t\t', b'#']
    whole = b''.join(b'%d.jpg %d %d\n' % (k, k//3, k*7) for k in range(12))
    tracemalloc.start()
    for _ in range(800):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            k = rng.randrange(len(data))
            how = rng.randrange(4)
            if how == 0: data[k] = rng.randrange(256)
            elif how == 1: data[k:k] = rng.choice(words)
            elif how == 2: del data[k:k + rng.randint(1, 30)]
            else: data[k:k] = data[rng.randrange(len(data)):][:rng.randint(1, 40)]
        file.write_bytes(data)
        try:
            out = read_list(file, WORDS)
            assert out['template'].dtype == out['media'].dtype == int
            assert len(out) <= 40
            read += 1
        except TemplateError as e: assert 'a.txt' in str(e)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert 50 < read < 750
    assert most < 2**24
