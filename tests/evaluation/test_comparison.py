"Means and paired gains against arithmetic done by hand, and what is refused"
import numpy as np
import pandas as pd
import pytest

from qsd_fastai.evaluation.comparison import arm_gains, arm_means


def results():
    rng = np.random.default_rng(0)
    arms = ('without', 0), ('with', .03), ('shuffled', -.02)
    return pd.DataFrame([{'arm': arm, 'seed': s, 'mAP': .5 + .1*s + gain + .01*rng.normal(), 'rank1': rng.random()}
                         for s in range(4) for arm,gain in arms])


def test_gains_are_paired_by_seed():
    r = results()
    gains = arm_gains(r, 'without').set_index(['arm', 'figure'])
    for arm in ('with', 'shuffled'):
        mAP = r.set_index(['arm', 'seed']).mAP
        d = [float(mAP[arm, s] - mAP['without', s]) for s in range(4)]
        row = gains.loc[(arm, 'mAP')]
        assert row['mean'] == pytest.approx(np.mean(d))
        assert row['error'] == pytest.approx(np.std(d, ddof=1)/2)
        assert row['positive'] == sum(v > 0 for v in d)
        assert row['seeds'] == 4
    # the seeds differ by .1 each: only pairing sees a gain of .03
    assert gains.loc[('with', 'mAP'), 'error'] < .01 < r[r.arm == 'with'].mAP.std()


def test_order_of_rows_does_not_matter():
    r = results()
    a,b = (arm_gains(o, 'without').set_index(['arm', 'figure']).sort_index()
           for o in (r, r.sample(frac=1, random_state=1)))
    pd.testing.assert_frame_equal(a, b)


def test_means_are_in_percent():
    r = pd.DataFrame({'arm': ['a', 'a', 'b'], 'seed': [0, 1, 0], 'mAP': [.5, .7, .25]})
    assert arm_means(r).loc['a', 'mAP'] == '60.0 ± 14.1'
    assert arm_means(r).loc['b', 'mAP'] == '25.0 ± 0.0'


def test_one_seed_has_no_error():
    gains = arm_gains(results().query('seed == 0'), 'without')
    assert gains['error'].isna().all()
    assert gains['mean'].notna().all()


@pytest.mark.parametrize('change,said', [
    (lambda r: r[~((r.arm == 'with') & (r.seed == 2))], 'same seeds'), (lambda r: pd.concat([r, r.iloc[:1]]), 'twice'),
    (lambda r: r[r.arm != 'without'], 'none of the arms')])
def test_arms_that_cannot_be_compared(change, said):
    with pytest.raises(ValueError, match=said): arm_gains(change(results()), 'without')
