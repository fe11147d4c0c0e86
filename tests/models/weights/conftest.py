"Weights that need no file"
import pytest

from qsd_fastai.models.weights import read


@pytest.fixture
def given(monkeypatch, tmp_path):
    "A function that has the reader give an object for a file, which spares writing it"
    file = tmp_path/'weights.pth'
    file.touch()
    def give(o):
        monkeypatch.setattr(read, 'read_checkpoint', lambda file: o)
        return file
    return give
