"Pictures below a folder: what is found, what is passed over, and that library and scripts see the same"
import os

import pytest
from common.pictures import pictures_in
from PIL import Image

from qsd_fastai.data.folders import DEVICES, SUFFIXES, UNREAD, pictures_below, said_of


def touch(root, *names):
    for n in names:
        (root/n).parent.mkdir(parents=True, exist_ok=True)
        (root/n).touch()


def test_every_kind_of_picture_whatever_its_letters(tmp_path):
    names = [f'a{s}' for s in SUFFIXES] + [f'b{s.upper()}' for s in SUFFIXES]
    touch(tmp_path, *names, 'note.txt', 'a.jpg.part', 'jpg', 'quality.png', 'deep/quality.png')
    (tmp_path/'folder.png').mkdir()
    assert pictures_below(tmp_path) == (sorted([*names, 'deep/quality.png']), {})


def test_pillow_knows_every_suffix():
    Image.init()
    assert set(SUFFIXES) <= Image.registered_extensions().keys()


@pytest.mark.parametrize('name', [*sorted(DEVICES), '@eaDir', '@eaDir@tmp', '@tmp', '@Recycle', '@Recently-Snapshot',
                                  '@__thumb', '@sharebin', '@SynoResource', '@SynoEAStream', '@appstore', '@docker',
                                  '#recycle', '#snapshot', '$RECYCLE.BIN', 'found.000', '.Trash', '.Trash-1000',
                                  '__MACOSX', 'Thumbs', 'Network Trash Folder'])
def test_folders_of_storage_devices_are_passed_over_and_counted(tmp_path, name):
    touch(tmp_path, 'x/a.jpg', f'x/{name}/a.jpg', f'{name}/deep/b.png', f'{name}/note.txt')
    found,passed_over = pictures_below(tmp_path)
    assert found == ['x/a.jpg']
    assert passed_over == {f'in {name}': 2}
    assert said_of(passed_over) == f'Pictures that were passed over: 2 in {name}.'


def test_people_may_be_called_by_signs(tmp_path):
    touch(tmp_path, '@bob/a.jpg', '#1/a.jpg', 'found/a.jpg', '~/a.jpg')
    assert pictures_below(tmp_path) == (['#1/a.jpg', '@bob/a.jpg', 'found/a.jpg', '~/a.jpg'], {})


def test_what_else_is_passed_over_is_counted(tmp_path):
    touch(tmp_path, 'a.jpg', '._a.jpg', '.b.jpg', '.git/c.png', *(f'd{s}' for s in UNREAD))
    os.symlink(tmp_path/'gone.jpg', tmp_path/'e.jpg')
    os.symlink('f.png', tmp_path/'f.png')
    os.mkfifo(tmp_path/'g.png')  # who opens one waits for ever
    found,passed_over = pictures_below(tmp_path)
    assert found == ['a.jpg']
    assert passed_over == {'._*': 1, 'hidden': 2, 'that are no files': 3, **{f'*{s}': 1 for s in UNREAD}}
    assert said_of({}) == ''


def test_links_are_followed_once(tmp_path):
    touch(tmp_path, 'p/x/a.jpg', 'store/b.jpg')
    os.symlink(tmp_path/'store', tmp_path/'p'/'linked')
    os.symlink(tmp_path/'store', tmp_path/'p'/'again')
    os.symlink(tmp_path/'p', tmp_path/'p'/'x'/'up')
    assert pictures_below(tmp_path/'p')[0] == ['again/b.jpg', 'x/a.jpg']


def test_scripts_see_the_same(tmp_path):
    touch(tmp_path, 'a.jfif', 'b/c.PGM', '@eaDir/a.jpg', '.d.jpg')
    assert pictures_in(tmp_path) == pictures_below(tmp_path)[0] == ['a.jfif', 'b/c.PGM']
    touch(tmp_path, 'e/@eaDir/a.jpg')
    with pytest.raises(FileNotFoundError, match='passed over: 1 in @eaDir'): pictures_in(tmp_path/'e')
