"Tables that fit, and logs without bars"
import sys

import numpy as np
import pandas as pd
import pytest
from fastprogress import fastprogress as bars

from qsd_fastai.data.degraded import degraded_copies
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.learner import recognition_learner
from qsd_fastai.terminal import for_terminal, rows_only


@pytest.mark.parametrize(('rows', 'columns', 'shape'), [(3, 4, (4, 5)), (3, 30, (31, 4)), (40, 41, None)])
def test_a_table_fits(rows, columns, shape):
    table = pd.DataFrame(np.ones((rows, columns)), [f'fine-tuned {i}' for i in range(rows)],
                         [f'mAP {i}' for i in range(columns)])
    text = for_terminal(table)
    assert max(map(len, text.split('\n'))) <= 100
    for name in (*table.index, *table.columns): assert name in text
    assert text.count('1.0') == rows*columns
    if shape: assert len(text.split('\n')) == shape[0]


@pytest.mark.parametrize('terminal', [True, False])
def test_a_log_holds_no_bars(capsys, monkeypatch, terminal):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: terminal, raising=False)
    monkeypatch.setattr(bars, 'WRITER_FN', print)
    def drawn():
        master = bars.ConsoleMasterBar(range(2))
        for i in master:
            for _ in bars.ConsoleProgressBar(range(3), leave=False, parent=master): pass
            master.write(['epoch', str(i)], table=True)
        return capsys.readouterr().out
    with rows_only():
        with rows_only(): inner = drawn()
        outer = drawn()
    for said in (inner, outer):
        assert ('█' in said and '\r' in said) == terminal
        assert said.count('epoch') >= 2
    assert '█' in drawn()
    assert not bars.NO_BAR


@pytest.mark.parametrize('where', ['log', 'terminal', 'notebook'])
def test_verbs_leave_no_bars_in_a_log(labelled_people, capsys, monkeypatch, where):
    "Nor do the loops of who calls them; terminals keep theirs, and notebooks are left alone"
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: where == 'terminal', raising=False)
    monkeypatch.setattr(bars, 'IN_NOTEBOOK', where == 'notebook')
    monkeypatch.setattr(bars, 'WRITER_FN', print)
    dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=2, num_workers=0)
    learn = recognition_learner(dls, 'test_resnet', metrics=Retrieval('mAP'))
    for verb in (lambda: learn.fit_one_cycle(1, 1e-3), lambda: learn.fine_tune(1), learn.validate, learn.get_preds,
                 lambda: learn.embed(labelled_people)):
        capsys.readouterr()
        verb()
        said = capsys.readouterr().out
        assert ('\r' in said) == (where != 'log'), said
    assert not bars.NO_BAR


@pytest.mark.parametrize('where', ['log', 'terminal'])
def test_drawing_and_degrading_leave_no_bars_in_a_log(tmp_path, capsys, monkeypatch, where):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: where == 'terminal', raising=False)
    monkeypatch.setattr(bars, 'WRITER_FN', print)
    table = generate_people(tmp_path/'people', n_train=2, n_test=2, n_imgs=2, n_test_imgs=4, size=(32, 16))
    drawn = capsys.readouterr().out
    degraded_copies(table, tmp_path/'copies', 'shrink', 2)
    degraded = capsys.readouterr().out
    generate_faces(tmp_path/'faces', n_train=2, n_test=2, n_imgs=2, n_test_imgs=4, size=(32, 32))
    for said in (drawn, degraded, capsys.readouterr().out): assert ('\r' in said) == (where != 'log'), said
