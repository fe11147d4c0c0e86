"What benchmarks measure of a form is of that form"
import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from started import start

BENCHMARKS = Path(__file__).parents[1]/'benchmarks'


@pytest.mark.skipif(torch.cuda.is_available(), reason='memory is asked of the device there')
def test_a_step_says_its_memory_on_a_cpu(tmp_path):
    small = '--arch resnet10t --height 64 --width 32 --n 8 --steps 1 --rounds 1 --forms none'
    code,said = start(BENCHMARKS/'step.py', *small.split(), '--out', tmp_path, folder=tmp_path)
    assert code == 0, said
    assert '|  | against | memory against | of the limit | GFLOP | GB | ms | anchors a second | MiB |' in said
    found = json.loads((tmp_path/'step.json').read_text())
    row = found['rows']['none']
    assert 20 < row['MiB'] < 600 # Beside libraries, which take more
    assert row['memory against'] == 1
    assert 0 < row['of the limit'] < 2
    assert found['about']['size'] == '64x32'
    assert (tmp_path/'step.md').read_text() in said


def test_a_table_is_markdown_and_json(script, tmp_path, capsys):
    table = script('benchmarks/tuning/measured.py').Measured('found', n=3)
    table.add('a | b', ratio=np.float32(1.5), n=np.int64(1234), lost=float('nan'))
    table.add('c', ratio=torch.tensor(.25), said='as is', seconds=1234.5)
    table.show(tmp_path)
    said = capsys.readouterr().out
    assert said.splitlines()[2:] == [
        '|  | ratio | n | lost | said | seconds |', '| --- | --- | --- | --- | --- | --- |',
        r'| a \| b | 1.50 | 1,234 |  |  |  |', '| c | 0.25 |  |  | as is | 1,234 |', '']
    assert (tmp_path/'found.md').read_text() in said
    found = json.loads((tmp_path/'found.json').read_text(), parse_constant=pytest.fail)
    assert found['rows'] == {'a | b': {'ratio': 1.5, 'n': 1234, 'lost': None},
                             'c': {'ratio': .25, 'said': 'as is', 'seconds': 1234.5}}
    assert found['about']['n'] == 3


def test_the_work_of_a_step_is_counted(script):
    bounds = script('benchmarks/tuning/bounds.py')
    a,b = torch.randn(20, 30),torch.randn(30, 40)
    work = bounds.work_of(lambda: (a@b).T.relu_())
    assert work['operations'] == 2 # A view moves nothing
    assert work['GFLOP'] == pytest.approx(2*20*30*40/1e9)
    assert work['GB'] == pytest.approx(4*(20*30 + 30*40 + 20*40 + 20*40)/1e9) # In place: read and written, counted once
    pace = {'GFLOP': 1., 'GB': 2.}
    assert bounds.least_seconds(work, pace) == max(work['GFLOP'], work['GB']/2)


def test_a_peak_is_not_that_of_who_asks_for_it(script, tmp_path):
    peaks = script('benchmarks/tuning/peaks.py')
    (tmp_path/'form.py').write_text(f"""import sys
sys.path.insert(0, {str(BENCHMARKS/'tuning')!r})
from peaks import own_peak
held = bytearray(2**20*int(sys.argv[-1]))
print('a word')
print(own_peak())
""")
    held = bytearray(2**29)
    assert peaks.own_peak() > 512
    found = peaks.peaks_alone(tmp_path/'form.py', {'height': 1}, ('0', '128'))
    del held
    assert found['0'] < 100
    assert 128 < found['128'] - found['0'] + 8 < 160


def test_all_that_is_measured_names_its_commit():
    "Or the one of its table"
    _,*sections = (BENCHMARKS/'README.md').read_text(encoding='utf-8').split('\n## ')
    assert len(sections) > 5
    for o in sections: assert re.search(r'\bcommit [0-9a-f]{7}\b', o), o.splitlines()[0]
