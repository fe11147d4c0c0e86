"The metrics of a Learner against `evaluate_retrieval` on what the same learner embeds"
import copy
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.tracker import SaveModelCallback
from fastai.torch_core import set_seed

from qsd_fastai.data.loaders import recognition_dataloaders, table_rows
from qsd_fastai.evaluation import metrics
from qsd_fastai.evaluation.metrics import (
    Retrieval,
    RetrievalJudge,
    Verification,
    VerificationJudge,
    hardest_pairs,
    hardest_queries,
)
from qsd_fastai.evaluation.retrieval import by_quality, evaluate_retrieval, ranked_gallery
from qsd_fastai.evaluation.roc import equal_error_rate, tar_at_far
from qsd_fastai.evaluation.scores import all_pairs
from qsd_fastai.evaluation.store import EmbeddingStore
from qsd_fastai.evaluation.verification import evaluate_verification, verification_by_quality
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
    emb = learn.embed(held, root=table.attrs['root'])
    sides = (o[of] for o in (emb, held['identity'].to_numpy(), held['camera'].to_numpy()) for of in (query, ~query))
    return evaluate_retrieval(*sides, **kwargs), held[query]


@pytest.mark.parametrize('kwargs', [{}, {'normalize': False}, {'exclude_same_camera': False}], ids=str)
def test_equal_to_evaluate_retrieval(shuffled, kwargs):
    learn = make(shuffled, *NAMES, **kwargs)
    learn.fit(1, 1e-3)
    logged = dict(zip(learn.recorder.metric_names[3:-1], learn.recorder.values[-1][2:]))
    want,queries = held_out(learn, shuffled, **kwargs)
    thirds = by_quality(want.per_query, queries['quality'])
    assert list(logged) == list(NAMES)
    assert logged['rank1'] == want.rank1
    assert logged['rank5'] == want.cmc[4]
    assert 0 < want.mAP < 1
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
    assert len(calls) == 2
    assert len({id(m.store) for m in learn.metrics}) == 1
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
    with pytest.warns(UserWarning, match='not judged: No query can be answered'): values = make(table, 'mAP').validate()
    assert np.isnan(values[1:]).all()


def test_a_loader_that_cannot_be_judged_is_an_error(labelled_people):
    learn = make(labelled_people, 'rank1', 'mAP_best')
    held = labelled_people[labelled_people['split'] != 'train']
    def judged(**changed):
        rows = held.assign(**changed)
        return learn.validate(dl=learn.dls.test_dl(table_rows(rows, labelled_people.attrs['root']), with_labels=True))

    want = judged()
    assert not np.isnan(want).any()
    for changed,said in (({'split': 'gallery'}, "no query.*split to 'query' and 'gallery'"),
                         ({'split': 'query'}, 'queries but no gallery'), ({'camera': 1}, 'No query can be answered')):
        with warnings.catch_warnings():
            warnings.simplefilter('error')
            with pytest.raises(ValueError, match=said): judged(**changed)
    assert judged() == want
    other = labelled_people.assign(split=labelled_people['split'].replace('query', 'gallery'))
    other.attrs = labelled_people.attrs
    learn.dls = make(other, 'mAP').dls
    with pytest.warns(UserWarning, match='no query'): learn.fit(1, 1e-4) # A fit does not end for it


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
    with pytest.raises(ValueError, match='quality row 1 is 101'): Retrieval('mAP', quality=[5, 101])
    learn = make(labelled_people, 'mAP', quality=[1.]*60)
    with pytest.raises(ValueError, match='quality has 60 entries and the table'): learn.validate()


def test_targets_that_are_missing():
    class learn: pred,yb = torch.zeros(2), (torch.zeros(2), torch.zeros(2))
    with pytest.raises(ValueError, match='SceneBlock'): EmbeddingStore().accumulate(learn)


def test_names_and_defaults():
    assert [m.name for m in Retrieval()] == ['rank1', 'mAP', 'mINP']
    pairs = pd.DataFrame(columns=['path1', 'path2', 'same'])
    assert [m.name for m in Verification(pairs=pairs)] == ['accuracy', 'auc', 'eer']


def test_a_copy_leaves_the_gallery_behind(labelled_people):
    learn = make(labelled_people, 'mAP', 'rank1')
    learn.validate()
    assert hardest_queries(learn.metrics[0].store).shape[0]
    one,two = copy.deepcopy(list(learn.metrics))
    assert one.store is two.store
    assert one.store.parts == []
    assert one.value is None


def test_hardest_queries(shuffled):
    learn = make(shuffled, 'mAP')
    learn.validate()
    hard = hardest_queries(learn.metrics[0].store, n=5, top=4)
    want,queries = held_out(learn, shuffled)
    per_query = want.per_query[want.per_query['answerable']].sort_values('ap', kind='stable').head(5)
    np.testing.assert_allclose(hard['ap'], per_query['ap'], rtol=1e-6)
    assert hard['ap'].is_monotonic_increasing
    rows = queries.index[per_query['query']]
    assert list(hard['row']) == list(rows)
    assert list(hard['first_rank']) == list(per_query['first_rank'])
    np.testing.assert_array_equal(hard['quality'], queries.loc[rows, 'quality'].astype(np.float32))
    gallery = shuffled[shuffled['split'] == 'gallery']
    emb = lambda frame: learn.embed(frame, root=shuffled.attrs['root'])
    lists = ranked_gallery(emb(queries.loc[rows]), emb(gallery), queries.loc[rows, 'identity'], gallery['identity'],
                           queries.loc[rows, 'camera'], gallery['camera'], top=4)
    for o,index in zip(hard.itertuples(), lists.index):
        assert list(o.gallery) == list(gallery.index[index])
        assert list(o.correct) == [shuffled['identity'][r] == shuffled['identity'][o.row] for r in o.gallery]
    assert hardest_queries(EmbeddingStore()).empty
    assert hardest_pairs(EmbeddingStore()).empty
    # what has been embedded since does not matter
    for n in (1, 100):
        again = hardest_queries(learn.metrics[0].store, n=n, top=4)
        pd.testing.assert_frame_equal(again.head(5), hard.head(n))


def test_hardest_queries_are_ranked_as_they_were_judged():
    store = EmbeddingStore()
    RetrievalJudge(store, normalize=False, exclude_same_camera=False)
    ids,quality = torch.tensor([0, 0, 1]), torch.tensor([10., 50., 90.])
    # by angle the first is nearest to the second, by distance to the third
    emb = torch.tensor([[1., 0.], [5., 0.], [1., .5]])
    scene = torch.tensor([[0, 7, 1], [1, 7, 0], [2, 7, 0]])  # all of one camera
    store.parts,store.current = [[emb, ids, quality, scene]], True
    hard = hardest_queries(store, 1, 2)
    assert hard['gallery'][0] == [2, 1]
    assert hard['correct'][0] == [False, True]
    assert hard['ap'][0] == .5
    assert hard['first_rank'][0] == 2


def pairs_of(table, folds=3, n=120):
    "Some pairs of held-out pictures, of either kind"
    held = table[table['split'] != 'train'].reset_index(drop=True)
    pairs = all_pairs(held['identity'])
    some = [o.sample(min(n//2, len(o)), random_state=0) for _,o in pairs.groupby('same')]
    pairs = pd.concat(some).sample(frac=1, random_state=1)
    path = held['path'].to_numpy()
    return pd.DataFrame({'path1': path[pairs['first']], 'path2': path[pairs['second']],
                         'same': pairs['same'].to_numpy(), 'fold': np.arange(len(pairs)) % folds})


def both(table, *figures, store=None, **kwargs):
    "A learner judged by retrieval and verification at once"
    store = store or EmbeddingStore()
    learn = make(table, 'mAP', store=store)
    learn.metrics += Verification(*figures, pairs=pairs_of(table), store=store, **kwargs)
    return learn, store


def embedded_pairs(learn, table, **kwargs):
    pairs,root = pairs_of(table), table.attrs['root']
    rows = [pd.Index(table['path']).get_indexer(pairs[c]) for c in ('path1', 'path2')]
    emb = [learn.embed(table.iloc[r], root=root, **kwargs) for r in rows]
    return pairs, rows, *emb


def test_verification_is_evaluate_verification(shuffled):
    groups = ('worst', 'middle', 'best')
    figures = ('accuracy', 'auc', 'eer', 'tar@1e-1', 'tar@.02', 'tar@1e-5', *(f'accuracy_{o}' for o in groups))
    learn,store = both(shuffled, *figures)
    learn.fit(1, 1e-3)
    logged = dict(zip(learn.recorder.metric_names[3:-1], learn.recorder.values[-1][2:]))
    assert list(logged) == ['mAP', *figures]
    assert logged['mAP'] == pytest.approx(held_out(learn, shuffled)[0].mAP, rel=1e-6)  # of the same embeddings
    pairs,rows,a,b = embedded_pairs(learn, shuffled)
    want = evaluate_verification(a, b, pairs['same'], pairs['fold'])
    score = 1 - want.per_pair['distance']/2
    assert logged['accuracy'] == want.accuracy
    assert .4 < want.accuracy < 1
    eer,tar = equal_error_rate(score, pairs['same']), tar_at_far(score, pairs['same'], (.1, .02))['tar']
    np.testing.assert_allclose([logged['auc'], logged['eer']], [want.auc, eer], rtol=1e-6)
    np.testing.assert_allclose([logged['tar@1e-1'], logged['tar@.02']], tar, rtol=1e-6)
    assert np.isnan(logged['tar@1e-5'])  # too few pairs of two people
    quality = [shuffled['quality'].to_numpy()[r] for r in rows]
    thirds = verification_by_quality(want.per_pair, *quality)
    assert [logged[f'accuracy_{o}'] for o in groups] == list(thirds['accuracy'][:3])
    per_pair = store.judge(VerificationJudge).found()[0].per_pair
    np.testing.assert_array_equal(per_pair[['row1', 'row2']].to_numpy().T, rows)
    np.testing.assert_allclose(per_pair[['quality1', 'quality2']].to_numpy().T, quality, rtol=1e-6)


def test_one_store_embeds_once(labelled_people, monkeypatch):
    calls,real = [],metrics.evaluate_verification
    monkeypatch.setattr(metrics, 'evaluate_verification',
                        lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs))
    learn,store = both(labelled_people, 'accuracy', 'auc', 'tar@.1')
    learn.fit(2, 1e-3)
    assert len(calls) == 2
    assert {id(m.store) for m in learn.metrics} == {id(store)}
    n = (labelled_people['split'] != 'train').sum()
    assert sum(len(o[0]) for o in store.parts) == n == len(store.gathered()[0])
    alone = make(labelled_people, 'mAP')
    # without the metrics that came first
    alone.metrics = Verification('auc', pairs=pairs_of(labelled_people), store=store)
    assert 0 < alone.validate()[1] < 1


def test_flip_is_what_embed_gives_with_flip(shuffled):
    learn,store = both(shuffled, 'accuracy', 'auc', store=EmbeddingStore(flip=True))
    learn.fit(1, 3e-3)
    logged = list(learn.recorder.values[-1][3:])
    pairs,_,a,b = embedded_pairs(learn, shuffled, flip=True)
    want = evaluate_verification(a, b, pairs['same'], pairs['fold'])
    assert logged == pytest.approx([want.accuracy, want.auc])
    held = shuffled[shuffled['split'] != 'train']
    once,twice = (learn.embed(held, root=shuffled.attrs['root'], flip=o) for o in (False, True))
    torch.testing.assert_close(store.gathered()[0], twice, rtol=1e-4, atol=1e-4)
    assert (twice - 2*once).abs().max() > 1e-3  # the mirror image is another picture


def test_half_precision_is_kept_in_half(labelled_people):
    learn,store = both(labelled_people, 'auc', store=EmbeddingStore(precision='float16'))
    half = learn.validate()[1:]
    assert store.gathered()[0].dtype == torch.float16
    full = both(labelled_people, 'auc')[0].validate()[1:]
    np.testing.assert_allclose(half, full, atol=.02)
    with pytest.raises(ValueError, match='precision'): EmbeddingStore(precision='float8')


def test_pairs_that_cannot_be_judged_are_named(labelled_people):
    pairs = pairs_of(labelled_people)
    train = labelled_people.loc[labelled_people['split'] == 'train', 'path'].iloc[3]
    for path,what in (('nobody.jpg', 'is not in the table'), (train, "split is 'train'")):
        other = pairs.copy()
        other.loc[7, 'path2'] = path
        learn = make(labelled_people, 'mAP')
        learn.metrics = Verification('auc', pairs=other)
        with pytest.raises(ValueError, match=f'{path!r} .*row 7.*{what}'): learn.validate()
    learn = make(labelled_people, 'mAP')
    learn.metrics = Verification('auc', pairs=pairs)
    path,split = labelled_people['path'],labelled_people['split']
    few = labelled_people.assign(split=split.where(path != pairs['path1'][0], 'train'))
    few.attrs = labelled_people.attrs
    part = make(few, 'mAP').dls.valid  # a picture less than the table of the learner promises
    with pytest.raises(ValueError, match='was not embedded'): learn.validate(dl=part)
    with pytest.raises(ValueError, match='has no column'): Verification('auc', pairs=pairs.drop(columns='same'))


def test_other_rows_than_the_tables_are_judged_by_their_own_paths(labelled_people):
    learn,_ = both(labelled_people, 'accuracy', 'auc')
    def judged(rows, root=None):
        rows = table_rows(rows, root or labelled_people.attrs['root'])
        return learn.validate(dl=learn.dls.test_dl(rows, with_labels=True))[1:]

    want = judged(labelled_people)
    held = labelled_people[labelled_people['split'] != 'train']
    # the same pictures in another order, without those of training, and people whom the learner's table does not have
    for other in (labelled_people.sample(frac=1, random_state=3), held, held.sample(frac=1, random_state=1),
                  held.assign(identity='new_' + held['identity'], camera='new_' + held['camera'])):
        mAP,*of_pairs = judged(other)
        np.testing.assert_allclose(of_pairs, want[1:], rtol=1e-5)
        assert mAP == pytest.approx(want[0])
    few = held[held['path'] != pairs_of(labelled_people)['path1'][0]]
    with pytest.raises(ValueError, match='is not in the table'): judged(few)


def test_quality_by_rows_is_not_that_of_other_rows(labelled_people):
    learn = make(labelled_people, 'mAP')
    learn.metrics = Retrieval('mAP_worst', quality=labelled_people['quality'])
    learn.validate()
    rows = table_rows(labelled_people.sample(frac=1, random_state=3), labelled_people.attrs['root'])
    with pytest.raises(ValueError, match='other rows are validated'):
        learn.validate(dl=learn.dls.test_dl(rows, with_labels=True))


def test_a_figure_that_fails_ends_no_fit(labelled_people):
    learn,store = both(labelled_people, 'accuracy', 'eer')
    store.judge(VerificationJudge).pairs['same'] = True
    said = 'Verification is not judged: Every pair shows the same person'
    with pytest.warns(UserWarning, match=said): learn.fit(1, 1e-3)
    mAP,*others = learn.recorder.values[-1][2:]
    assert 0 < mAP < 1
    assert np.isnan(others).all()
    learn,store = both(labelled_people, 'auc', store=EmbeddingStore(flip=True))
    with torch.no_grad(): learn.model.neck.weight.fill_(float('nan'))
    with pytest.warns(UserWarning, match='NaN'): assert np.isnan(learn.validate()[1:]).all()


@pytest.mark.parametrize('name', ['acc', 'tar', 'tar@', 'tar@x', 'auc_worst', 'accuracy_low', 'tar@2', 'tar@0'])
def test_bad_names_of_verification(name):
    pairs = pd.DataFrame(columns=['path1', 'path2', 'same'])
    with pytest.raises(ValueError, match=r'unknown|FAR'): Verification(name, pairs=pairs)


def test_quality_belongs_to_the_store():
    with pytest.raises(ValueError, match='EmbeddingStore'): Retrieval('mAP', quality=[1.], store=EmbeddingStore())
    with pytest.raises(ValueError, match='quality row 0 is -1'): EmbeddingStore([-1.])


def test_hardest_pairs(shuffled):
    learn,store = both(shuffled, 'auc')
    learn.validate()
    hard = hardest_pairs(store, 4)
    pairs,rows,a,b = embedded_pairs(learn, shuffled)
    score = torch.nn.functional.cosine_similarity(a.double(), b.double()).numpy()
    same = pairs['same'].to_numpy()
    order = np.argsort(score, kind='stable')
    want = [*order[same[order]][:4], *order[~same[order]][::-1][:4]]
    assert list(hard.index) == want
    assert list(hard['same']) == [True]*4 + [False]*4
    np.testing.assert_allclose(hard['score'], score[want], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(hard[['row1', 'row2']].to_numpy().T, np.array(rows)[:, want])
    worse = np.minimum(*(shuffled['quality'].to_numpy()[r] for r in rows))[want]
    np.testing.assert_allclose(hard['quality'], worse, rtol=1e-6)
    pd.testing.assert_frame_equal(hardest_pairs(store.judge(VerificationJudge).found()[0].per_pair, 4), hard)


def test_a_copy_keeps_the_pairs_and_shares_one_store(labelled_people):
    learn,store = both(labelled_people, 'auc')
    learn.validate()
    one,two = copy.deepcopy(list(learn.metrics))
    assert one.store is two.store
    assert one.store.parts == []
    assert two.value is None
    assert two.judge.found() is None
    learn.metrics = [one, two]
    assert learn.validate()[1:] == make_again(learn, store)


def make_again(learn, store):
    "What the store that was copied from has to say"
    return [store.judge(RetrievalJudge).found()[0].mAP, store.judge(VerificationJudge).found()[0].auc]


def test_rows_of_several_tables_are_all_judged(labelled_people):
    "Each table numbers its rows from 0; one picture twice is refused"
    learn = make(labelled_people, 'rank1', 'mAP')
    root = labelled_people.attrs['root']
    query,gallery = (labelled_people[labelled_people['split'] == o] for o in ('query', 'gallery'))
    def judged(rows): return learn.validate(dl=learn.dls.test_dl(rows, with_labels=True))
    whole = judged(labelled_people[labelled_people['split'] != 'train'])
    parts = table_rows(query[:7], root) + table_rows(gallery, root) + table_rows(query[7:], root)
    np.testing.assert_allclose(judged(parts)[1:], whole[1:], rtol=1e-6)
    with pytest.raises(ValueError, match='is there twice'): judged([*parts, *table_rows(gallery, root)])


def test_training_pictures_are_not_searched(labelled_people):
    "A table whole, and without them: the same figures, the same hardest queries"
    learn = make(labelled_people, 'rank1', 'mAP')
    want,hard = learn.validate(),hardest_queries(learn.metrics[0].store, 5)
    assert learn.validate(dl=learn.dls.test_dl(labelled_people, with_labels=True))[1:] == want[1:]
    pd.testing.assert_frame_equal(hardest_queries(learn.metrics[0].store, 5), hard)


def test_another_set_with_the_same_paths_is_another_set(labelled_people, tmp_path):
    "Its rows are not those that the quality of the metrics is of"
    other = labelled_people.copy()
    other.attrs = {**labelled_people.attrs, 'root': str(tmp_path)}
    (tmp_path/'images').symlink_to(Path(labelled_people.attrs['root'])/'images')
    held = other[other['split'] != 'train']
    learn = make(labelled_people, 'mAP', quality=labelled_people['quality'])
    with pytest.raises(ValueError, match='other rows are validated'):
        learn.validate(dl=learn.dls.test_dl(held, with_labels=True))
