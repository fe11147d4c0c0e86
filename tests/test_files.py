"Files are written in one move: the old one or the new one is there, never half of one"
import pytest
import torch

from qsd_fastai.files import in_one_move, save_whole


def test_in_one_move_makes_the_folder(tmp_path):
    file = tmp_path/'deep'/'a.txt'
    with in_one_move(file) as part:
        part.write_text('new')
        assert part.parent == file.parent
        assert part.suffix == '.txt'  # for writers that look at the ending
        assert not file.exists()
    assert file.read_text() == 'new'
    assert list(file.parent.iterdir()) == [file]


@pytest.mark.parametrize('error', [ValueError, KeyboardInterrupt])
def test_in_one_move_keeps_the_old_file_where_an_error_ends_it(tmp_path, error):
    file = tmp_path/'a.txt'
    file.write_text('old')
    with pytest.raises(error), in_one_move(file) as part:
        part.write_text('ne')
        raise error
    assert file.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [file]


def test_in_one_move_leaves_nothing_where_there_was_nothing(tmp_path):
    file = tmp_path/'a.txt'
    with pytest.raises(ValueError, match='at once'), in_one_move(file): raise ValueError('at once')
    with pytest.raises(ValueError, match='in the middle'), in_one_move(file) as part:
        part.write_text('ne')
        raise ValueError('in the middle')
    assert not list(tmp_path.iterdir())


def test_save_whole_that_is_stopped_keeps_the_old_file(tmp_path, monkeypatch):
    file = tmp_path/'s'
    save_whole({'a': 1}, file)
    real = torch.save
    def killed(obj, f):
        real(obj, f)
        f.truncate(10)
        raise KeyboardInterrupt
    monkeypatch.setattr(torch, 'save', killed)
    with pytest.raises(KeyboardInterrupt): save_whole({'a': 2}, file)
    monkeypatch.undo()
    assert torch.load(file, weights_only=True) == {'a': 1}
    assert list(tmp_path.iterdir()) == [file]
