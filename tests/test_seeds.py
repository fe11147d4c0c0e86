"Curves of the same arms over seeds: means beside naive ones, of what the folders of the seeds have kept"
import json

import numpy as np
import pandas as pd
import pytest
from matplotlib.text import Text
from PIL import Image

from qsd_fastai.closing import closing_of_seeds
from qsd_fastai.evaluation.intervals import mean_interval
from qsd_fastai.evaluation.rejection import error_vs_reject
from qsd_fastai.evaluation.retrieval import by_quality
from qsd_fastai.evaluation.roc import roc_points
from qsd_fastai.files import save_frame
from qsd_fastai.judging.seeds import curve_notes, mean_curves, mean_groups
from qsd_fastai.runs.curves import all_in_one, curve_charts, curve_figures, curve_frames

ARMS = 'without', 'with'


def curves_of(seed, arms=ARMS):
    "Curves of a run with that seed, as a recipe closes it"
    rng,same,by_arm = np.random.default_rng(seed),np.arange(400) % 2 == 0,{}
    rows,quality = rng.integers(0, 100, (2, 400)),rng.random(100)
    for arm in arms:
        scores = rng.normal(size=400) + 2*same
        by_arm[arm] = {'cmc': {'plain': np.sort(rng.random(20 + seed))}, 'roc': {'pairs': roc_points(scores, same)},
                       'rejection': error_vs_reject(scores, same, *rows, {'quality': quality}, far=.05)}
    return all_in_one(by_arm)


@pytest.fixture
def seeds(tmp_path):
    "The folders of three runs, and their curves"
    folders,curves = [tmp_path/f'seed{k}' for k in range(3)],[curves_of(k) for k in range(3)]
    for folder,o in zip(folders, curves):
        for name,frame in curve_frames(o).items(): save_frame(frame, folder/f'all_{name}.csv', index=False)
        record = {'id': 'abc', 'args': {}, 'curves': curve_notes(o, {'cmc': '20 queries'})}
        (folder/'run.json').write_text(json.dumps(record))
    return folders, curves


def test_shares_are_means_at_each_rank_that_all_seeds_have(seeds):
    folders,curves = seeds
    mean,of = mean_curves(folders)
    assert of['cmc'] == '20 queries, mean of 3 seeds'
    for arm in ARMS:
        wanted = [np.mean([o['cmc'][arm][rank] for o in curves]) for rank in range(20)]
        np.testing.assert_allclose(mean['cmc'][arm], wanted)


def test_true_pairs_are_means_at_each_rate_of_false_ones(seeds):
    folders,curves = seeds
    found = mean_curves(folders)[0]['roc']
    for arm in ARMS:
        points = found[arm]
        assert (points.far[0], points.tar[0], points.far[-1], points.tar[-1]) == (0, 0, 1, 1)
        for far,tar in zip(points.far[1:], points.tar[1:]):
            reached = [max(t for f,t in zip(o['roc'][arm].far, o['roc'][arm].tar) if f <= far) for o in curves]
            assert tar == pytest.approx(np.mean(reached))


def test_errors_are_means_at_each_share_rejected_and_so_are_areas(seeds):
    folders,curves = seeds
    found = mean_curves(folders)[0]['rejection']
    for arm in ARMS:
        wanted = np.mean([o['rejection'].curves[arm] for o in curves], axis=0)
        np.testing.assert_allclose(found.curves[arm], wanted)
        areas = [o['rejection'].areas.loc[arm, 'partial'] for o in curves]
        assert found.areas.loc[arm, 'partial'] == pytest.approx(np.mean(areas))
    one = curves[0]['rejection']
    assert (found.what, found.better, found.unit) == (one.what, one.better, one.unit)
    assert found.rule == f'{one.rule}; mean of 3 seeds'
    holes = found.curves.isna().any(axis=1)
    assert not holes[:found.whole_to].any()
    assert holes[found.whole_to:].sum() == holes.sum() == len(holes[found.whole_to:]) - 1


def test_means_are_drawn_as_curves_of_one_run_are(seeds):
    curves,of = mean_curves(seeds[0])
    assert set(curve_figures(curves, of)) == {'cmc', 'roc', 'det', 'rejection'}
    assert set(curve_charts(curves, of)) == {'cmc', 'roc', 'det', 'rejection'}
    assert set(curve_frames(curves)) == {'cmc', 'roc', 'rejection'}
    assert curve_frames(curves)['roc']['threshold'].isna().all()


def test_arms_that_not_every_seed_has_are_left_out(seeds):
    folders,_ = seeds
    for name,frame in curve_frames(curves_of(2, ('without',))).items():
        save_frame(frame, folders[2]/f'all_{name}.csv', index=False)
    found = mean_curves(folders)[0]
    assert list(found['cmc']) == list(found['roc']) == list(found['rejection'].curves) == ['without']


def test_a_curve_that_a_seed_lacks_is_left_out(seeds):
    folders,_ = seeds
    (folders[1]/'all_roc.csv').unlink()
    assert set(mean_curves(folders)[0]) == {'cmc', 'rejection'}
    assert mean_curves([folders[0].parent/'nothing']) == ({}, {})
    (folders[1]/'run.json').unlink()
    assert mean_curves(folders)[1]['roc'] == 'mean of 2 seeds'


def test_one_seed_keeps_its_curves(seeds):
    folders,curves = seeds
    found,of = mean_curves(folders[:1])
    assert of['cmc'] == '20 queries, mean of 1 seed'
    pd.testing.assert_frame_equal(found['rejection'].curves, curves[0]['rejection'].curves)


def grouped(seed):
    "Figures by quality of a seed, as a recipe's run keeps them"
    rng = np.random.default_rng(seed)
    per_query = pd.DataFrame({'first_rank': rng.integers(1, 4, 60), 'ap': rng.random(60), 'inp': rng.random(60),
                              'answerable': True})
    return {arm: by_quality(per_query.assign(ap=per_query['ap']*share), np.arange(60)/.6)
            for arm,share in (('without', .5), ('with', 1.))}


def test_figures_by_quality_are_means_with_intervals_over_seeds(tmp_path):
    folders = [tmp_path/f'seed{k}' for k in range(3)]
    for k,folder in enumerate(folders):
        rows = [o.reset_index().assign(arm=arm) for arm,o in grouped(k).items()]
        save_frame(pd.concat(rows), folder/'all_search_by_true_quality.csv', index=False)
        # has another kind of rows: nothing by quality
        save_frame(pd.DataFrame({'x': [1]}), folder/'all_not_by_this.csv', index=False)
    found = mean_groups(folders)
    assert list(found) == ['search_by_true_quality']
    assert list(found['search_by_true_quality']) == list(ARMS)
    for arm,of in found['search_by_true_quality'].items():
        assert list(of.index) == ['worst', 'middle', 'best']
        seeds = [grouped(k)[arm].loc['worst'] for k in range(3)]
        assert of.loc['worst', 'mAP'] == pytest.approx(np.mean([o['mAP'] for o in seeds]))
        low,high = mean_interval([o['rank1'] for o in seeds])
        assert (of.loc['worst', 'rank1 low'], of.loc['worst', 'rank1 high']) == pytest.approx((low, high))
        assert of.loc['worst', 'n_queries'] == 20
        assert of.loc['best', ['quality_from', 'quality_to']].tolist() == pytest.approx([40/.6, 59/.6])
    assert mean_groups([]) == mean_groups([tmp_path/'none']) == {}


def test_a_comparison_closes_with_figures_by_quality_and_the_pictures_that_gained(tmp_path):
    folders,files = [tmp_path/f'seed{k}' for k in range(2)],{}
    for k,folder in enumerate(folders):
        rows = [o.reset_index().assign(arm=arm) for arm,o in grouped(k).items()]
        save_frame(pd.concat(rows), folder/'all_search_by_quality.csv', index=False)
        ap = np.random.default_rng(k).random((6, 3))
        table = pd.DataFrame(ap, columns=['baseline', *ARMS]).assign(path=[f'{i}.jpg' for i in range(6)], quality=50.)
        save_frame(table[['path', 'quality', 'without', 'baseline', 'with']], folder/'all_query_gains.csv', index=False)
    for i in range(6):
        files[f'{i}.jpg'] = str(tmp_path/f'{i}.jpg')
        Image.new('RGB', (8, 16), (40*i, 0, 0)).save(files[f'{i}.jpg'])
    frames,figures,_ = closing_of_seeds(folders, 'without', 'of it', files=pd.Series(files))
    by = {'map_search_by_quality', 'rank1_search_by_quality'}
    assert {*by, 'query_gains', 'gained_and_lost_with'} == {*figures}
    assert {'search_by_quality', 'query_gains'} == {*frames}
    said = 'Gained and lost most, mean of 2 seeds: with, over "without"; of it'
    assert any(said in ' '.join(o.get_text().split()) for o in figures['gained_and_lost_with'].findobj(Text))
    assert 'gained_and_lost_with' not in closing_of_seeds(folders, 'without')[1]
    assert 'gained_and_lost_with' not in closing_of_seeds(folders, 'without', files=pd.Series(files)[:3])[1]
