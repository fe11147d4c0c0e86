"The metrics of a Learner against `evaluate_retrieval` on what the same learner embeds"
import pickle
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.torch_core import set_seed

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.evaluation import metrics
from qsd_fastai.evaluation.metrics import Retrieval, RetrievalStore, hardest_queries
from qsd_fastai.evaluation.retrieval import by_quality, evaluate_retrieval, ranked_gallery
from qsd_fastai.learner import recognition_learner

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning'), pytest.mark.usefixtures('one_thread')]
NAMES = ('rank1', 'rank5', 'mAP', 'mINP', 'rank1_worst', 'mAP_middle', 'mAP_best', 'mINP_worst')


def make(table, *names, bs=5, path=None, **kwargs):
    set_seed(0)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, bs=bs, seed=0, num_workers=0, device='cpu')
    learn = recognition_learner(dls, 'test_resnet', metrics=Retrieval(*names, **kwargs), path=path)
    learn.remove_cb(learn.progress)
    return learn


@pytest.fixture(scope='module')
def shuffled(labelled_people):
    "Rows in no order, some labels and cameras unknown"
    table = labelled_people.sample(frac=1, random_state=0).reset_index(drop=True)
    table.loc[::7, 'quality'] = float('nan')
    table.loc[::11, 'camera'] = ''
    table.attrs = labelled_people.attrs
    return table


def held_out(learn, table, **kwargs):
    held = table[table['split'] != 'train']
    query = (held['split'] == 'query').to_numpy()
    emb,ids,cameras = learn.embed(held, root=table.attrs['root']), held['identity'].to_numpy(), held['camera'].to_numpy()
    return evaluate_retrieval(emb[query], emb[~query], ids[query], ids[~query], cameras[query], cameras[~query], **kwargs), held[query]


@pytest.mark.parametrize('kwargs', [{}, {'normalize': False}, {'exclude_same_camera': False}], ids=str)
def test_equal_to_evaluate_retrieval(shuffled, kwargs):
    learn = make(shuffled, *NAMES, **kwargs)
    learn.fit(1, 1e-3)
    logged = dict(zip(learn.recorder.metric_names[3:-1], learn.recorder.values[-1][2:]))
    want,queries = held_out(learn, shuffled, **kwargs)
    thirds = by_quality(want.per_query, queries['quality'])
    assert list(logged) == list(NAMES)
    assert logged['rank1'] == want.rank1 and logged['rank5'] == want.cmc[4] and 0 < want.mAP < 1
    np.testing.assert_allclose([logged['mAP'], logged['mINP']], [want.mAP, want.mINP], rtol=1e-6)
    for name in NAMES[4:]:
        figure,third = name.split('_')
        np.testing.assert_allclose(logged[name], thirds.loc[third, figure], rtol=1e-6)
    assert learn.validate()[1:] == learn.recorder.values[-1][1:]  # once more from the start, nothing left over


def test_thirds_by_another_quality(shuffled):
    other = shuffled['true_quality'].rsub(100)
    learn = make(shuffled, 'mAP', 'mAP_worst', 'mAP_best', quality=other)
    mAP,*thirds = learn.validate()[1:]
    want,queries = held_out(learn, shuffled)
    frame = by_quality(want.per_query, other[queries.index])
    np.testing.assert_allclose(thirds, frame.loc[['worst', 'best'], 'mAP'], rtol=1e-6)
    own = by_quality(want.per_query, queries['quality'])
    assert not np.allclose(thirds, own.loc[['worst', 'best'], 'mAP'])


def test_embedded_once_and_judged_once(labelled_people, monkeypatch):
    calls,real = [],metrics.evaluate_retrieval
    monkeypatch.setattr(metrics, 'evaluate_retrieval', lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    learn = make(labelled_people, *NAMES)
    learn.fit(2, 1e-3)
    assert len(calls) == 2 and len({id(m.store) for m in learn.metrics}) == 1
    assert len(learn.metrics[0].store.gathered()[0]) == (labelled_people['split'] != 'train').sum()
    learn.get_preds()  # predictions are wanted, not figures
    learn.get_preds(ds_idx=0)
    assert len(calls) == 2


def test_nothing_to_judge_is_a_warning(labelled_people):
    table = labelled_people.copy()
    table['split'] = table['split'].replace('query', 'gallery')
    with pytest.warns(UserWarning, match='no query'): values = make(table, 'rank1', 'mAP_best').validate()
    assert np.isnan(values[1:]).all()
    table['split'] = table['split'].replace('gallery', 'query')
    with pytest.warns(UserWarning, match='no gallery'): values = make(table, 'mAP').validate()
    assert np.isnan(values[1:]).all()
    table = labelled_people.copy()
    table.loc[table['split'] == 'gallery', 'identity'] += 'x'
    with pytest.warns(UserWarning, match='not judged: no query can be answered'): values = make(table, 'mAP').validate()
    assert np.isnan(values[1:]).all()


def test_no_validation_pictures(labelled_people):
    table = labelled_people[labelled_people['split'] == 'train'].copy()
    table.attrs = labelled_people.attrs
    learn = make(table, 'mAP')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn.fit(1, 1e-3)
    assert learn.recorder.values[0][1:] == [None, None]


def test_best_is_what_save_model_leaves(labelled_people, tmp_path):
    learn = make(labelled_people, 'rank1', 'mAP', path=tmp_path)
    learn.fit(4, 3e-3, cbs=SaveModelCallback(monitor='mAP'))
    rows = [row[3] for row in learn.recorder.values]
    assert max(rows) > rows[-1]  # else the last weights would do
    assert learn.validate()[2] == max(rows)


@pytest.mark.parametrize('name', ['rank', 'rank0', 'map', 'mAP_low', 'rank5_worst', 'r1', 'mAP_', ''])
def test_bad_names(name):
    with pytest.raises(ValueError, match='unknown'): Retrieval('rank1', name)


def test_ranks_beyond_the_curve():
    with pytest.raises(ValueError, match='rank51 is beyond max_rank=50'): Retrieval('rank51')
    assert Retrieval('rank51', max_rank=60)[0].name == 'rank51'


def test_bad_qualities(labelled_people):
    with pytest.raises(ValueError, match='quality of row 1 is 101'): Retrieval('mAP', quality=[5, 101])
    with pytest.raises(ValueError, match='quality has 60 entries and the table'): make(labelled_people, 'mAP', quality=[1.]*60).validate()


def test_targets_that_are_missing():
    class learn: yb = (torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match='SceneBlock'): RetrievalStore().accumulate(learn)


def test_names_and_defaults():
    assert [m.name for m in Retrieval()] == ['rank1', 'mAP', 'mINP']
    assert [m.owner for m in Retrieval('mAP', 'rank20')] == [True, False]


def test_pickle_leaves_the_gallery_behind(labelled_people):
    learn = make(labelled_people, 'mAP', 'rank1')
    learn.validate()
    assert hardest_queries(learn.metrics[0].store).shape[0]
    one,two = pickle.loads(pickle.dumps(list(learn.metrics)))
    assert one.store is two.store and one.store.parts == [] and one.value is None


def test_hardest_queries(shuffled):
    learn = make(shuffled, 'mAP')
    learn.validate()
    hard = hardest_queries(learn.metrics[0].store, n=5, top=4)
    want,queries = held_out(learn, shuffled)
    per_query = want.per_query[want.per_query['answerable']].sort_values('ap', kind='stable').head(5)
    np.testing.assert_allclose(hard['ap'], per_query['ap'], rtol=1e-6)
    assert hard['ap'].is_monotonic_increasing
    rows = queries.index[per_query['query']]
    assert list(hard['row']) == list(rows) and list(hard['first_rank']) == list(per_query['first_rank'])
    np.testing.assert_array_equal(hard['quality'], queries.loc[rows, 'quality'].astype(np.float32))
    gallery = shuffled[shuffled['split'] == 'gallery']
    emb = lambda frame: learn.embed(frame, root=shuffled.attrs['root'])
    lists = ranked_gallery(emb(queries.loc[rows]), emb(gallery), queries.loc[rows, 'identity'], gallery['identity'],
                           queries.loc[rows, 'camera'], gallery['camera'], top=4)
    for o,index in zip(hard.itertuples(), lists.index):
        assert list(o.gallery) == list(gallery.index[index])
        assert list(o.correct) == [shuffled['identity'][r] == shuffled['identity'][o.row] for r in o.gallery]
    assert hardest_queries(RetrievalStore()).empty
    # what has been embedded since does not matter
    pd.testing.assert_frame_equal(hardest_queries(learn.metrics[0].store, n=100, top=4).head(5), hard)


def test_hardest_queries_are_ranked_as_they_were_judged():
    store = RetrievalStore(normalize=False, exclude_same_camera=False)
    ids, quality = torch.tensor([0, 0, 1]), torch.tensor([10., 50., 90.])
    emb = torch.tensor([[1., 0.], [5., 0.], [1., .5]])  # by angle the first is nearest to the second, by distance to the third
    scene = torch.tensor([[0, 7, 1], [1, 7, 0], [2, 7, 0]])  # all of one camera
    store.parts, store.current = [[emb, ids, quality, scene]], True
    hard = hardest_queries(store, 1, 2)
    assert hard['gallery'][0] == [2, 1] and hard['correct'][0] == [False, True]
    assert hard['ap'][0] == .5 and hard['first_rank'][0] == 2
