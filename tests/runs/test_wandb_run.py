"A run starts offline where there is no key, and is never left open"
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

from started import start

from qsd_fastai.runs import wandb_run
from qsd_fastai.runs.wandb_run import (
    _folders_of,
    _values_of,
    finish_run,
    has_key,
    kept_beside,
    log_soon,
    send_rows,
    start_run,
)

sys.path.insert(0, str(Path(__file__).parent))
from wandb_files import runs


def test_a_run_that_is_left_open_is_failed_when_python_ends(tmp_path):
    script = f'''
from qsd_fastai.runs.wandb_run import log_soon, start_run
run = start_run(dir=r"{tmp_path}")
run.log(dict(a=1))
log_soon(run, dict(b=2))
raise KeyboardInterrupt'''
    env = {**os.environ, 'WANDB_MODE': 'offline'}
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True, env=env)
    run, = runs(tmp_path)
    assert f'wandb sync {run.folder}' in done.stdout
    assert 'KeyboardInterrupt' in done.stderr
    assert run.exit == [1]
    assert run.rows('a')
    assert run.rows('b')


def test_rows_that_wait_come_in_their_order_before_what_is_logged_after_them(tmp_path, monkeypatch):
    monkeypatch.setenv('WANDB_MODE', 'offline')
    run = start_run(dir=tmp_path)
    called,log = [],run.log
    monkeypatch.setattr(run, 'log', lambda row: (called.append(row), log(row)))
    for k in range(3): log_soon(run, {'train/a': k})
    assert not called
    send_rows(run)
    assert called == [{'train/a': k} for k in range(3)]
    run.log({'valid/b': 1})
    monkeypatch.setattr(wandb_run, 'SECONDS', 0)
    log_soon(run, {'train/a': 3})
    assert len(called) == 5
    monkeypatch.setattr(wandb_run, 'SECONDS', 5)
    log_soon(run, {'train/a': 4})
    finish_run(run, said=False)
    kept, = runs(tmp_path)
    assert [row.get('train/a', row.get('valid/b')) for row in kept.history] == [0, 1, 2, 1, 3, 4]
    assert not wandb_run.waiting
    run = start_run(dir=tmp_path/'ended')
    log_soon(run, {'train/a': 6})
    run.finish() # By somebody else
    finish_run(run, said=False)
    assert not wandb_run.waiting
    own = SimpleNamespace(id='of its own', log=called.append) # Nobody knows when it ends
    log_soon(own, {'train/a': 5})
    assert called[-1] == {'train/a': 5}


def test_a_program_that_a_tracked_one_starts_elsewhere_keeps_its_run(tmp_path, monkeypatch):
    "W&B lends it its process, which knows another folder"
    monkeypatch.setenv('WANDB_MODE', 'offline')
    outer = start_run(dir=tmp_path/'outer')
    (tmp_path/'inner').mkdir()
    (tmp_path/'inner.py').write_text('from qsd_fastai.runs.wandb_run import finish_run, start_run\n'
                                     'run = start_run(dir="mine")\nrun.log({"train/a": 1})\nfinish_run(run)')
    try:
        ended,said = start(tmp_path/'inner.py', folder=tmp_path/'inner')
        assert ended == 0, said
        run, = runs(tmp_path/'inner'/'mine')
        assert run.rows('train/a')
        assert f'wandb sync mine/wandb/{run.folder.name}' in said
    finally: finish_run(outer, said=False)


def test_a_run_that_is_gone_on_with_within_a_second(tmp_path):
    names = '000000-a', '000000-a-1', '000001-a', '000002-ba'
    folders = [tmp_path/'wandb'/f'offline-run-20260101_{o}' for o in names]
    for o,steps in zip(folders, ((0, 1), (2,), (), (9,))):
        (o/'files').mkdir(parents=True)
        rows = b''.join(b'\x05_step\x82\x01\x01%d' % k for k in steps)
        if steps: (o/f'run-{"ba" if o.name.endswith("-ba") else "a"}.wandb').write_bytes(rows)
    run = SimpleNamespace(dir=str(folders[2]/'files'), id='a', offline=True)
    assert _folders_of(run) == folders[:3]
    assert _values_of(run, '_step') == [0, 1, 2]


def test_has_key(monkeypatch, tmp_path):
    for name in ('WANDB_API_KEY', 'WANDB_IDENTITY_TOKEN_FILE', 'NETRC'): monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('HOME', str(tmp_path))
    assert not has_key()
    for host,known in (('example.org', False), ('api.wandb.ai', True)):
        (tmp_path/'.netrc').write_text(f'machine {host} login user password x\n')
        (tmp_path/'.netrc').chmod(0o600)
        assert has_key() == known
    monkeypatch.setenv('NETRC', str(tmp_path/'other'))
    assert not has_key()
    (tmp_path/'other').write_text('this is no netrc')
    assert not has_key()
    monkeypatch.setenv('WANDB_API_KEY', 'x'*40)
    assert has_key()


def test_artifacts_wait_beside_an_offline_run(monkeypatch, tmp_path):
    monkeypatch.delenv('WANDB_DATA_DIR', raising=False)
    run = SimpleNamespace(offline=True, dir=str(tmp_path/'files'))
    with kept_beside(run): assert os.environ['WANDB_DATA_DIR'] == str(tmp_path)
    assert 'WANDB_DATA_DIR' not in os.environ
    run.offline = False
    with kept_beside(run): assert 'WANDB_DATA_DIR' not in os.environ
    monkeypatch.setenv('WANDB_DATA_DIR', 'elsewhere')
    run.offline = True
    with kept_beside(run): assert os.environ['WANDB_DATA_DIR'] == 'elsewhere'
    assert os.environ['WANDB_DATA_DIR'] == 'elsewhere'


def test_a_value_ends_where_its_length_says(tmp_path):
    "Else a byte behind it that happens to be a digit belongs to it: step 2 was read as 28"
    file = tmp_path/'offline-run-20260101_000000-abc'/'run-abc.wandb'
    (file.parent/'files').mkdir(parents=True)
    items = [b'\x05_step\x82\x01\x012' + b'8', b'\x05_step\x82\x01\x0a1234567890' + b'9', b'\x05_step\x82\x01\x01x']
    file.write_bytes(b'..'.join(items))
    run = SimpleNamespace(id='abc', dir=str(file.parent/'files'))
    assert _values_of(run, '_step') == [2, 1234567890]
