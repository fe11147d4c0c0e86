"Rows of numbers, kept and gone on with"
import numpy as np
import pandas as pd

from qsd_fastai.runs.history import History


def test_rows_are_kept_whatever_they_hold():
    history = History()
    for row in ({'a': 1}, {'a': 2, 'b': 3.}, {'b': 4}): history.add(row)
    wanted = pd.DataFrame({'a': [1, 2, np.nan], 'b': [np.nan, 3, 4]})
    pd.testing.assert_frame_equal(history.frame(), wanted)
    again = History()
    again.load_state_dict(history.state_dict())
    again.add({'a': 5})
    pd.testing.assert_frame_equal(again.frame(), pd.concat([wanted, pd.DataFrame({'a': [5.]})], ignore_index=True))
    long = History()
    for names in (['epoch', *'zyxwvutsrq'], [*'abcdefg', 'z']): long.add(dict.fromkeys(names, 0.))
    assert list(long.frame()) == ['epoch', *'zyxwvutsrqabcdefg']
    assert History().frame().empty
    empty = History()
    empty.load_state_dict(History().state_dict())
    assert empty.n == 0
