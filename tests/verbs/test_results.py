"`show_results`, `plot_top_losses`, `show_batch`: who searched, what was answered, what stands over it"
import random

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.vision.augment import Flip
from matplotlib.colors import to_hex

from qsd_fastai.data.given import table_rows
from qsd_fastai.data.loaders import IdentityDL, recognition_block
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.evaluation.retrieval import evaluate_retrieval, ranked_gallery
from qsd_fastai.plots.style import right, wrong

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning'),
              pytest.mark.usefixtures('one_thread')]


@pytest.fixture(autouse=True)
def close():
    yield
    plt.close('all')


def lines(ax): return [o.get_text().split('\n') for o in ax.texts]


def rows_of(fig, each):
    """Texts and frames of each row: the query, and so many answers

    Where all of these are wrong the first right one follows, under its rank."""
    ax, = fig.axes
    assert len(ax.texts) == len(ax.images)
    found = []
    for y in sorted({round(o.get_position()[1], 3) for o in ax.texts}):
        said = [o.get_text().split('\n') for o in ax.texts if round(o.get_position()[1], 3) == y]
        frames = [to_hex(o.get_edgecolor()) for o in ax.patches if round(o.get_y() - .04, 3) == y]
        ranks = [int(o[0].split()[0]) for o in said[1:]]
        assert ranks[:each] == list(range(1, each + 1))
        if right in frames[:each]: assert len(ranks) == each
        else: assert (len(ranks), said[-1], frames[-1]) == (each + 1, [f'{ranks[-1]} right'], right)
        found.append((said[:each + 1], frames[:each]))
    return found


def judged(learn, table, **kwargs):
    "The hand-made search of a table: its queries, per query and lists"
    emb = learn.embed(table)
    query = (table['split'] == 'query').to_numpy()
    sides = [o[of] for o in (emb, table['identity'].to_numpy(), table['camera'].to_numpy()) for of in (query, ~query)]
    lists = ranked_gallery(*sides, top=5)
    return table[query], table[~query], evaluate_retrieval(*sides).per_query, lists


def test_a_query_a_row(trained, labelled_people):
    held = labelled_people[labelled_people['split'] != 'train']
    queries,gallery,found,lists = judged(trained, held)
    trained.show_results(shuffle=False, max_n=12)
    rows = rows_of(plt.gcf(), 5)
    assert len(rows) == 12
    for i,(said, frames) in enumerate(rows):
        q = queries.iloc[i]
        assert said[0] == [q['identity'], f'AP {found["ap"][i]:.2f}', f'quality {q["quality"]:.0f}']
        for rank,(index, ok) in enumerate(zip(lists.index[i], lists.right[i]), 1):
            assert said[rank] == [f'{rank} {"right" if ok else "wrong"}', gallery['identity'].iloc[index]]
            assert frames[rank - 1] == (right if ok else wrong)
    assert {o for _,frames in rows for o in frames} == {right, wrong}
    trained.show_results(shuffle=False, max_n=12, ncols=2) # One answer: often a wrong one, and then the first right one
    rows_of(plt.gcf(), 1)
    last = [int(o.get_text().split()[0]) for o in plt.gcf().axes[0].texts if o.get_text().endswith(' right')]
    wanted = found['first_rank'][:12]
    assert sorted(last) == sorted(wanted[wanted > 1].astype(int))


def test_people_of_another_set_have_their_names(trained, tmp_path):
    other = generate_people(tmp_path, n_train=1, n_test=5, n_imgs=2, n_test_imgs=4, size=(64, 32), seed=3,
                            progress=False)
    other = other[other['split'] != 'train'].assign(identity='other ' + other['identity'])
    dl = trained.dls.test_dl(other, with_labels=True)
    trained.show_results(dl=dl, shuffle=False, max_n=2, ncols=4)
    queries,gallery,_,lists = judged(trained, other)
    rows = rows_of(plt.gcf(), 3)
    for i,(said, _) in enumerate(rows):
        assert said[0][0] == queries['identity'].iloc[i]
        assert [o[1] for o in said[1:]] == gallery['identity'].iloc[lists.index[i, :3]].tolist()


def test_pictures_without_roles_search_each_other(trained, labelled_people):
    train = labelled_people[labelled_people['split'] == 'train']
    emb = trained.embed(train, normalize=True).numpy()
    trained.show_results(ds_idx=0, shuffle=False, max_n=2)
    cosine = emb@emb.T - 3*np.eye(len(emb))
    for i,(said, _) in enumerate(rows_of(plt.gcf(), 5)):
        assert [o[1] for o in said[1:]] == train['identity'].iloc[(-cosine[i]).argsort(kind='stable')[:5]].tolist()


def test_any_of_the_queries_and_a_figure_of_a_size(trained):
    seen = set()
    for seed in range(6):
        random.seed(seed)
        trained.show_results(max_n=1)
        seen.add(str(lines(plt.gcf().axes[0])[0]))
    assert len(seen) > 2
    trained.show_results(nrows=2, ncols=3, figsize=(5, 6), shuffle=False)
    assert [len(said) for said,_ in rows_of(plt.gcf(), 2)] == [3, 3]
    assert plt.gcf().get_size_inches()[1] == pytest.approx(6, abs=.6)


def test_pictures_without_labels(no_gallery, labelled_people):
    learn = no_gallery
    files = labelled_people.attrs['root'] + '/' + labelled_people['path'][-3:]
    dl = learn.dls.test_dl(files.tolist())
    learn.show_results(dl=dl, shuffle=False)
    said = lines(plt.gcf().axes[0])
    assert len(said) == 3
    assert [o[0] for o in said] == [learn.predict(f).name for f in files]
    learn.gallery = labelled_people
    learn.show_results(dl=dl, shuffle=False)
    said = lines(plt.gcf().axes[0])
    assert len(said) == 3*6
    assert [o[1] for o in said[1:6]] == learn.predict(files.iloc[0]).nearest['identity'].tolist()
    assert not plt.gcf().axes[0].patches


def test_the_hardest_queries(trained, labelled_people):
    held = labelled_people[labelled_people['split'] != 'train']
    queries,_,found,_ = judged(trained, held)
    order = found.sort_values('ap', kind='stable').index
    interp = Interpretation.from_learner(trained)
    def names(): return [said[0][:2] for said,_ in rows_of(plt.gcf(), 5)]
    def wanted(places): return [[queries['identity'].iloc[i], f'AP {found["ap"][i]:.2f}'] for i in places]
    interp.plot_top_losses(3)
    assert names() == wanted(order[:3])
    interp.plot_top_losses(range(1, 4))
    assert names() == wanted(order[1:4])
    interp.plot_top_losses(2, largest=False)
    assert names() == wanted(order[::-1][:2])
    assert float(interp.top_losses(1)[0]) == pytest.approx(1 - found['ap'].min(), abs=1e-6)
    with pytest.raises(ValueError, match='plot_top_losses'): ClassificationInterpretation.from_learner(trained)


def test_results_are_those_of_the_metrics(make_learner, labelled_people):
    learn = make_learner(metrics=Retrieval('mAP', exclude_same_camera=False, normalize=False))
    mAP = learn.validate()[1]
    learn.show_results(shuffle=False, max_n=100)
    said = lines(plt.gcf().axes[0])
    ap = [float(o[1][3:]) for o in said if o[1:] and o[1].startswith('AP')]
    assert len(ap) == 12
    assert np.mean(ap) == pytest.approx(mAP, abs=.005)


def test_long_names_and_no_text_over_another(make_learner, labelled_people):
    table = labelled_people.assign(identity='somebody whose name is long ' + labelled_people['identity'])
    table.attrs = labelled_people.attrs
    learn = make_learner(table=table)
    learn.gallery = table
    def tidy():
        fig = plt.gcf()
        fig.canvas.draw()
        boxes = [o.get_window_extent() for ax in fig.axes for o in ax.texts]
        assert boxes
        assert not any(a.overlaps(b) for i,a in enumerate(boxes) for b in boxes[:i])
    learn.show_results(shuffle=False)
    tidy()
    learn.predict(table.attrs['root'] + '/' + table['path'][0]).show()
    tidy()
    learn.gallery = None
    learn.show_results(dl=learn.dls.test_dl(table[:5]), shuffle=False, max_n=5)
    tidy()


@pytest.mark.parametrize('options', [{}, {'ncols': 5, 'max_n': 10}, {'figsize': (4, 4)}])
def test_show_batch_shortens_long_names(make_learner, labelled_people, options):
    table = labelled_people.assign(identity='somebody of a long name ' + labelled_people['identity'])
    table.attrs = labelled_people.attrs
    make_learner(table=table).dls.train.show_batch(**options)
    fig = plt.gcf()
    fig.canvas.draw()
    titles = [ax.title for ax in fig.axes if ax.images]
    assert all(o.get_text().startswith('some') and '…' in o.get_text() for o in titles)
    boxes = [o.get_window_extent() for o in titles]
    assert not any(a.overlaps(b) for i,a in enumerate(boxes) for b in boxes[:i])
    assert all(a.x0 >= 0 and a.x1 <= fig.bbox.x1 for a in boxes)


@pytest.mark.parametrize('unique', [True, False])
def test_show_batch_titles_do_not_run_into_pictures(make_learner, unique):
    dl = make_learner().dls.train
    dl.show_batch(unique=unique)
    fig = plt.gcf()
    fig.canvas.draw()
    axes = [ax for ax in fig.axes if ax.images]
    assert len(axes) == (9 if unique else 12)
    titles,pictures = ([o.get_window_extent() for o in found] for found in ((ax.title for ax in axes), axes))
    assert not any(a.overlaps(b) for a in titles for b in pictures)
    assert (len({ax.get_title() for ax in axes}) == 1) == unique
    if unique: assert not all(np.array_equal(ax.images[0].get_array(), axes[0].images[0].get_array()) for ax in axes)
    assert 'get_idxs' not in vars(dl)
    assert len({int(o) for o in dl.one_batch()[1]}) == 4


def test_unique_keeps_an_order_that_was_given(make_learner):
    dl = make_learner().dls.valid.new(get_idxs=lambda: [3, 4, 5])
    dl.show_batch(unique=True)
    assert list(dl.get_idxs()) == [3, 4, 5]


def test_a_loader_without_labels_is_not_judged(trained, labelled_people):
    with pytest.raises(ValueError, match='with_labels=True'): trained.validate(dl=trained.dls.test_dl(labelled_people))
    held = labelled_people[labelled_people['split'] != 'train'].sample(frac=1, random_state=0)
    ours = trained.validate(dl=trained.dls.test_dl(held, with_labels=True))
    np.testing.assert_allclose(ours, trained.validate(), atol=1e-6)


def test_other_loaders_are_shown_as_fastai_shows_them(trained):
    dl = trained.dls.valid
    trained.dls.valid.show_results(dl.one_batch(), trained.loss_func.decodes(trained.get_preds()[0]), max_n=4)
    assert len([ax for ax in plt.gcf().axes if ax.images]) == 4


def test_the_block_takes_the_table(labelled_people):
    block = recognition_block((32, 16))
    dls = block.dataloaders(labelled_people, dl_type=IdentityDL, n_ids=4, n_imgs=3, num_workers=0)
    of_rows = block.dataloaders(table_rows(labelled_people), dl_type=IdentityDL, n_ids=4, n_imgs=3, num_workers=0)
    assert (dls.c, len(dls.valid.items)) == (of_rows.c, len(of_rows.valid.items)) == (8, 24)
    pd.testing.assert_frame_equal(dls.table, labelled_people)
    assert str(dls.path) == labelled_people.attrs['root']
    assert dls.test_dl(labelled_people[:3]).one_batch()[0].shape == (3, 3, 32, 16)
    dls.add_tfms([Flip()], 'after_batch', 0)


def test_show_batch_leaves_a_notebook_interactive(make_learner, tmp_path, monkeypatch):
    "The backend of a notebook loads with the first figure, and what is drawn after that must show, too"
    (tmp_path/'of_notebooks.py').write_text(
        'from matplotlib import interactive\nfrom matplotlib.backends.backend_agg import *\ninteractive(True)\n')
    monkeypatch.syspath_prepend(tmp_path)
    before = plt.get_backend()
    monkeypatch.setattr(plt, '_backend_mod', None) # As before the first figure
    with plt.rc_context({'interactive': False}):
        try:
            plt.rcParams['backend'] = 'module://of_notebooks'
            make_learner().dls.valid.show_batch(max_n=2)
            assert plt.isinteractive()
        finally:
            plt.close('all')
            plt.switch_backend(before)
