"Means and paired gains against arithmetic done by hand, and what is refused"
from itertools import product
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from qsd_fastai.evaluation.comparison import arm_gains, arm_means, comparison_text, gains_table, halved_arms


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
    assert arm_means(r).loc['b', 'mAP'] == '25.0' # Of one seed nothing is known of the spread


def test_one_seed_has_no_error():
    gains = arm_gains(results().query('seed == 0'), 'without')
    assert gains['error'].isna().all()
    assert gains['mean'].notna().all()


def test_what_a_terminal_shows():
    r = results()
    said = comparison_text(r, arm_gains(r, 'without'), 'without')
    assert said.startswith('4 seeds, in %: mean ± standard deviation')
    assert ' ± ' in said.partition('p of the permutation test')[0].splitlines()[-3]
    assert '4 seeds cannot show less than 0.12' in said
    assert said.splitlines()[-1].split()[1:] == ['0.1250', '0.6250']
    one = r.query('seed == 0')
    said = comparison_text(one, arm_gains(one, 'without'), 'without')
    assert said.startswith('1 seed, in %\n')
    assert '±' not in said
    assert 'nan' not in said
    assert ' seeds' not in said.partition('Gain')[0]


def test_means_of_fewer_seeds_say_so():
    r = results()
    r = r[~((r['arm'] == 'with') & (r['seed'] > 0))]
    means = comparison_text(r, arm_gains(r, 'without', some_seeds=True), 'without').partition('Gain')[0].splitlines()
    head,rows = next(o for o in means if 'mAP' in o).split(),{o.split()[0]: o.split() for o in means if o[:4] == 'with'}
    assert head[0] == 'seeds'
    assert (rows['without'][1], rows['with'][1]) == ('4', '1')


@pytest.mark.parametrize('change,said', [
    (lambda r: r[~((r.arm == 'with') & (r.seed == 2))], 'same seeds'), (lambda r: pd.concat([r, r.iloc[:1]]), 'twice'),
    (lambda r: r[r.arm != 'without'], 'none of the arms')])
def test_arms_that_cannot_be_compared(change, said):
    with pytest.raises(ValueError, match=said): arm_gains(change(results()), 'without')


def test_intervals_and_permutations_by_hand():
    r = results()
    row = arm_gains(r, 'without').set_index(['arm', 'figure']).loc[('with', 'mAP')]
    mAP = r.set_index(['arm', 'seed']).mAP
    d = np.array([mAP['with', s] - mAP['without', s] for s in range(4)])
    low,high = stats.ttest_1samp(d, 0).confidence_interval(.95)
    assert (row['low'], row['high']) == pytest.approx((low, high))
    # every way of turning the signs of four differences
    means = np.array([np.mean(d*signs) for signs in product((1, -1), repeat=4)])
    assert row['p'] == pytest.approx((np.abs(means) >= abs(d.mean()) - 1e-12).mean())
    assert row['p'] >= 2/2**4
    text = gains_table(arm_gains(r, 'without')).loc['with', 'mAP']
    assert text == f'{100*d.mean():+.2f} ± {100*(high - low)/2:.2f} (4/4)'


def test_eight_seeds_can_be_sure_at_one_percent():
    rng = np.random.default_rng(0)
    r = pd.DataFrame([{'arm': arm, 'seed': s, 'mAP': gain + .01*rng.normal()} for s in range(8)
                      for arm,gain in (('without', 0.), ('with', .1), ('nothing', 0.))])
    gains = arm_gains(r, 'without').set_index('arm')
    assert gains.loc['with', 'p'] == pytest.approx(2/2**8)
    assert gains.loc['nothing', 'p'] > .05


def test_some_seeds_may_be_lacking_after_a_screening():
    r = results()
    fewer = r[~((r.arm == 'with') & (r.seed > 1))]
    gains = arm_gains(fewer, 'without', some_seeds=True).set_index(['arm', 'figure'])
    assert gains.loc[('with', 'mAP'), 'seeds'] == 2
    assert gains.loc[('shuffled', 'mAP'), 'seeds'] == 4
    with pytest.raises(ValueError, match='same seeds'): arm_gains(fewer, 'without')
    with pytest.raises(ValueError, match='same seeds'):
        arm_gains(r[~((r.arm == 'without') & (r.seed == 0))], 'without', some_seeds=True)
    unknown = r.assign(mAP=r['mAP'].where((r.arm != 'with') | (r.seed != 2)))
    with pytest.raises(ValueError, match="mAP of 'with' or 'without' is NaN with seed 2"): arm_gains(unknown, 'without')


def screened(budget, n=8, **kwargs):
    calls,arms = [],[SimpleNamespace(title=f'arm {k}') for k in range(n + 1)]
    def run(seed, some):
        calls.append((seed, [o.title for o in some]))
        return pd.DataFrame([{'arm': o.title, 'seed': seed, 'rank1': -float(o.title[4:]), 'mAP': float(o.title[4:])}
                             for o in some])
    return halved_arms(run, arms, budget, **kwargs), calls


def test_the_worse_half_goes_out_and_fewer_arms_get_more_seeds(capsys):
    found,calls = screened(54, first=10)
    assert [seed for seed,_ in calls] == list(range(10, 10 + len(calls)))
    assert [len(some) for _,some in calls] == [9, 9, 5, 5, 5, 3, 3, 3, 3, 3, 3]
    assert calls[-1][1] == ['arm 0', 'arm 7', 'arm 8']
    assert sum(len(some) for _,some in calls) <= 54
    assert found.groupby('arm')['seed'].nunique()['arm 8'] == 11
    assert 'Screened by mAP: arm 8, arm 7, arm 6, arm 5 stay' in ' '.join(capsys.readouterr().out.split())
    assert screened(27, by='rank1')[1][-1][1] == ['arm 0', 'arm 1', 'arm 2']


@pytest.mark.parametrize('kwargs, said', [({'budget': 26}, 'budget is 26.*Give 27'),
                                          ({'budget': 9, 'n': 0}, 'two arms'),
                                          ({'budget': 27, 'by': 'map'}, "by is 'map'")])
def test_what_cannot_be_screened(kwargs, said):
    with pytest.raises(ValueError, match=said): screened(**kwargs)


def test_a_figure_that_is_none_is_told_after_the_first_seed():
    "Not after a round, and not never where there is but one"
    seen = []
    def run(seed, some):
        seen.append(seed)
        return pd.DataFrame([{'arm': o.title, 'seed': seed, 'mAP': 0.} for o in some])
    arms = [SimpleNamespace(title=o) for o in ('without', 'with')]
    with pytest.raises(ValueError, match="by is 'mapp'"): halved_arms(run, arms, 8, by='mapp')
    assert seen == [0]
