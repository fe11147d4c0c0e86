"SCface: who is looked for among whom, at which distance, and what is left out"
from itertools import product

import pytest
from made_up import draw, rows, twice
from scface import scface_table


@pytest.fixture
def root(tmp_path):
    "Three people, with what the release holds beside them"
    for who in ('001', '002', '003'):
        draw(tmp_path, f'mugshot_frontal/{who}_frontal.jpg', f'rotation/{who}_R1.jpg', f'ir/{who}_cam8.jpg',
             *[f'all/{who}_cam{c}_{d}.jpg' for c in (1, 5, 6) for d in (1, 2, 3)],
             *[f'distance_1/{who}_cam{c}_1.jpg' for c in (1, 5)])
    return tmp_path


def test_queries_of_cameras_among_mugshots(root, capsys):
    table = scface_table(root)
    assert (table['split'] == 'gallery').sum() == 3
    assert set(table.loc[table['split'] == 'gallery', 'camera']) == {'mugshot'}
    queries = table[table['split'] == 'query']
    places = product(('cam1', 'cam5'), (1., 2.6, 4.2))
    assert queries.groupby(['camera', 'distance']).size().to_dict() == dict.fromkeys(places, 3)
    # poses, infra-red: counted; what lies there twice is taken once
    assert table.attrs['record']['left_out'] == 3*(1 + 1 + 3)
    assert len(table) == 3 + 18
    twice(scface_table, capsys, root)


def test_one_distance_and_people_to_train_on(root):
    table = scface_table(root, '1', train=1)
    asked = set(product(('002', '003'), ('cam1', 'cam5'), ('query',)))
    assert {r[1:] for r in rows(table) if r[3] == 'query'} == asked
    assert (table[table['split'] == 'query']['distance'] == 4.2).all()
    assert (table['split'] == 'train').sum() == 7
    assert len(scface_table(root, infrared=True)) == 3 + 27


@pytest.mark.parametrize('kwargs, said', [({'distance': '4'}, "--distance is '4'"),
                                          ({'train': 3}, 'nobody to be judged')])
def test_refused(root, kwargs, said):
    with pytest.raises(ValueError, match=said): scface_table(root, **kwargs)


def test_what_is_lacking_is_named(root, tmp_path):
    (root/'mugshot_frontal'/'002_frontal.jpg').unlink()
    with pytest.raises(FileNotFoundError, match=r'1 people lack a mugshot, first 002_frontal\.jpg'): scface_table(root)
    draw(tmp_path/'other', 'a.jpg')
    with pytest.raises(FileNotFoundError, match=r'no 001_cam1_1\.jpg'): scface_table(tmp_path/'other')
