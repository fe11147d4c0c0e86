"The folder of a run is never written over, and is resumed with the same arguments"
import json

import pytest

from qsd_fastai.runs.folder import run_folder, run_or_nothing


def test_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match='no run to resume'): run_folder('reid', resume=True)
    args = {'lr': 1e-3, 'size': (4, 2), 'file': tmp_path}
    out,name = run_folder('reid', args=args)
    assert out.parts[0] == 'runs'
    assert out.name.startswith('reid-')
    assert json.loads((out/'run.json').read_text())['id'] == name
    assert run_folder('reid', args=args, resume=True) == (out, name)
    later = tmp_path/'runs'/'reid-29990101-000000'
    assert run_folder('reid', later, args)[0] == later
    assert run_folder('reid', args=args, resume=True)[0].name == later.name  # the newest
    assert run_folder('reid', out, args, resume=True) == (out, name)
    with pytest.raises(FileExistsError, match='--resume'): run_folder('reid', out, args)
    other,without = {**args, 'lr': .1},{k: v for k,v in args.items() if k != 'lr'}
    with pytest.raises(ValueError, match=r'lr was 0\.001 and is 0\.1'): run_folder('reid', out, other, resume=True)
    with pytest.raises(ValueError, match=r'lr was 0\.001 and is None'): run_folder('reid', out, without, resume=True)
    nowhere = tmp_path/'nowhere'
    with pytest.raises(FileNotFoundError, match=r'no run.json'): run_folder('reid', nowhere, args, resume=True)
    (out/'run.json').write_text('{')
    with pytest.raises(ValueError, match='not JSON'): run_folder('reid', out, args, resume=True)


def test_a_folder_where_nothing_came_of_a_run_is_free(tmp_path):
    out,_ = run_folder('evaluate', tmp_path/'out')
    with pytest.raises(KeyboardInterrupt), run_or_nothing(out): raise KeyboardInterrupt
    run_folder('evaluate', out)  # another run can have it
    with run_or_nothing(out): pass
    with pytest.raises(FileExistsError, match='already holds a run'): run_folder('evaluate', out)
