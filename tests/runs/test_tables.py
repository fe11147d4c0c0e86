"Results read back are those that a run has written, or are refused by name"

import pandas as pd
import pytest

from qsd_fastai.files import file_hash
from qsd_fastai.runs.folder import RunFolder
from qsd_fastai.runs.tables import read_results


@pytest.fixture
def file(tmp_path):
    "Results as a run leaves them, with their hash in its record"
    folder = RunFolder('page', tmp_path/'run').open()
    table = pd.DataFrame({'mAP': [.5, .625], 'rank1': [.75, 1.]}, index=['baseline', 'with QSD'])
    table.to_csv(folder.out/'results.csv')
    folder.note(results=file_hash(folder.out/'results.csv'))
    folder.close()
    return folder.out/'results.csv'


def test_whole_results_are_read(file):
    found = read_results(file, ['baseline', 'with QSD'])
    assert found.loc['with QSD'].to_dict() == {'mAP': .625, 'rank1': 1.}
    with pytest.raises(ValueError, match=r'results\.csv has the rows baseline, with QSD, not baseline'):
        read_results(file, ['baseline'])
    with pytest.raises(FileNotFoundError, match=r'no .*none\.csv'): read_results(file.with_name('none.csv'))


def test_every_cut_is_told(file):
    whole = file.read_bytes()
    for n in range(len(whole)):
        file.write_bytes(whole[:n])
        with pytest.raises(ValueError, match=r'results\.csv .*Remove it'): read_results(file)


def test_a_table_without_a_record_is_read_or_refused_by_name(file, damaged):
    "Of earlier versions, or copied alone"
    file.with_name('run.json').unlink()
    whole,read = file.read_bytes(),0
    texts = [b'', b'\n', b',mAP\n', b'{}', b'\xff\xfe', b'a,b\n1', b'"', b'\0',
             b',mAP\nbaseline,inf\n', b',mAP\nbaseline,x\n']
    for text in [*texts, *damaged(whole, 300, 4)]:
        file.write_bytes(text)
        try:
            found = read_results(file)
            assert found.size
            assert all(kind.kind in 'iuf' for kind in found.dtypes)
            read += 1
        except ValueError as e: assert 'results.csv' in str(e)
    assert 20 < read < 250
