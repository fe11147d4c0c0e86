"The folder of a run is never written over, and is resumed with the same arguments"
import ast
import json
import random
from pathlib import Path

import pytest

from qsd_fastai.runs.folder import FREE, JUDGED, RunFolder, opened, run_folder, run_or_nothing


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
    newest = tmp_path/'runs'/'reid-29990202-000000'
    run_folder('reid', newest, {**args, 'lr': 1., 'workers': 4})
    assert run_folder('reid', args={**args, 'workers': 2}, resume=True)[0].name == later.name  # of the same options
    with pytest.raises(ValueError, match=r'29990202-000000 was started with other options: lr was 1\.0 and is 2'):
        run_folder('reid', args={**args, 'lr': 2.}, resume=True)  # of none: the newest
    (newest/'run.json').write_text('{')
    assert run_folder('reid', args=args, resume=True)[0].name == later.name
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


WRITES = 'to_csv', 'to_parquet', 'to_json', 'write_text', 'write_bytes', 'savefig', 'export'


def odd(rng): return rng.choice([None, 7, -1.5, 'x', [], [1], {}, {'a': 1}, True, '../up', {'baseline': 3}])


def test_records_of_any_content_are_refused_by_name_or_read(tmp_path):
    rng,file,read = random.Random(0),tmp_path/'run'/'run.json',0
    folder = RunFolder('page', tmp_path/'run', {'lr': .1}).open()
    folder.begin('baseline', ['lr'])
    folder.close()
    whole = file.read_text()
    texts = ['', '{', '[]', '3', 'null', '"x"', '{}', whole[:-20], whole[:10], '['*100_000, '\ud800', '{"id": 1e999}']
    for _ in range(300):
        found = json.loads(whole)
        for _ in range(rng.randint(1, 2)): found[rng.choice([*found, 'more'])] = odd(rng)
        texts.append(json.dumps(found))
    for text in texts:
        file.write_bytes(text.encode('utf-8', 'surrogatepass'))
        try:
            RunFolder('page', tmp_path/'run', {'lr': .1}, resume=True, stagewise=True).open().close()
            read += 1
        except ValueError as e: assert str(tmp_path/'run') in str(e)
    assert 20 < read < 250


def test_what_may_change_at_a_resume_may(tmp_path):
    args = {**dict.fromkeys(FREE, 'this'), 'lr': .1}
    run_folder('compare', tmp_path/'out', args)
    opened[-1].close()
    for k in JUDGED: # What is done in one go is not judged again
        with pytest.raises(ValueError, match=f'{k} was'):
            run_folder('compare', tmp_path/'out', {**args, k: 'other'}, resume=True)
    for k in (free := {*FREE} - {*JUDGED}):
        run_folder('compare', tmp_path/'out', {**args, k: 'other'}, resume=True)
        opened[-1].close()
    assert {k for o in json.loads((tmp_path/'out'/'run.json').read_text())['changed'] for k in o} == {'at', *free}
    with pytest.raises(ValueError, match=r'lr was 0\.1 and is 0\.2'):
        run_folder('compare', tmp_path/'out', {**args, 'lr': .2}, resume=True)


def test_what_a_run_leaves_is_written_in_one_move():
    "By the helpers of `files`, wherever a run writes: else a stopped one leaves half a file that looks whole"
    root,found = Path(__file__).parents[2],[]
    files = [root/'qsd_fastai'/'stages.py']
    for folder in ('recipes', 'qsd_fastai/runs', 'qsd_fastai/judging', 'qsd_fastai/callbacks'):
        files += (root/folder).glob('*.py')
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
            if not isinstance(node, ast.Call) or getattr(node.func, 'attr', '') not in WRITES: continue
            if getattr((node.args or [None])[0], 'id', '') != 'part': found.append(f'{file.name}:{node.lineno}')
    assert not found
