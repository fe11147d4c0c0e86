"Pairs of a picture and a degraded copy, judged against a loop over both ways"
import numpy as np
import pytest
import torch

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.evaluation.verification import evaluate_verification
from qsd_fastai.judging.sets import PairSets
from qsd_fastai.learner import recognition_learner


class Blurry:
    "Embeds by identity, the worse the more noise"
    def embed(self, table, **kwargs):
        out = []
        for row in table.itertuples():
            degraded = hasattr(row, 'original')
            who = np.random.default_rng(sum(map(ord, row.identity))).normal(size=8)
            noise = np.random.default_rng(sum(map(ord, f'{row.path}{degraded}'))).normal(size=8)
            out.append(who + (3. if degraded else .3)*noise)
        return torch.tensor(np.array(out), dtype=torch.float32)


@pytest.fixture(scope='module')
def judged(tmp_path_factory):
    folder = tmp_path_factory.mktemp('faces')
    table = generate_faces(folder, n_train=3, n_test=12, size=(32, 32), progress=False)
    sets = PairSets(table)
    sets.degrade(folder/'degraded', (('shrink', 8), ('blur', .7)))
    return sets, sets.judge(Blurry()).figures


def test_a_picture_and_a_copy_are_judged_both_ways(judged):
    sets,figures = judged
    held,pairs = sets.sets['pairs']
    found = []
    for name in sets.copies:
        copies,own = sets.sets[name]
        to = dict(zip(copies['original'], copies['path']))
        assert own['path1'].tolist() == [to[p] for p in pairs['path1']]
        clean = dict(zip(held['path'], Blurry().embed(held)))
        bad = dict(zip(copies['path'], Blurry().embed(copies)))
        one = [clean[p] for p in pairs['path1']] + [bad[to[p]] for p in pairs['path1']]
        two = [bad[to[p]] for p in pairs['path2']] + [clean[p] for p in pairs['path2']]
        result = evaluate_verification(torch.stack(one), torch.stack(two), pairs['same'].tolist()*2,
                                       pairs['fold'].tolist()*2)
        found.append(result.accuracy)
    assert figures['crossed accuracy'] == pytest.approx(np.mean(found))
    assert figures['degraded accuracy'] < figures['crossed accuracy'] < figures['pairs accuracy']
    assert [o for o in figures if not o.endswith(('worst', 'middle', 'best'))][:6] == [
        'pairs accuracy', 'pairs tar', 'degraded accuracy', 'degraded tar', 'crossed accuracy', 'crossed tar']


def captions(figure): return [line for o in figure.axes[0].texts for line in o.get_text().split('\n')]


@pytest.mark.parametrize('known', ['truth', 'labels', 'nothing'])
def test_pairs_have_the_qualities_that_cut_their_thirds(tmp_path, known):
    table = generate_faces(tmp_path, n_train=3, n_test=12, size=(32, 32), progress=False)
    made = table.set_index('path')['true_quality']
    own = table if known == 'truth' else table.drop(columns='true_quality')
    own.attrs = table.attrs
    labelled = None if known == 'nothing' else own.assign(quality=made.to_numpy() if known == 'labels' else 50.)
    judged = PairSets(own).judge(Blurry(), labelled=labelled)
    frame,said = judged.frames['per_pair_pairs'],captions(judged.plots['hardest_pairs'])
    wanted = frame[['path1', 'path2']].apply(lambda o: o.map(made)).to_numpy(float)
    found = frame[['quality1', 'quality2']].to_numpy(float)
    qualities = {o for o in said if o.startswith('quality')}
    if known == 'nothing':
        assert np.isnan(found).all()
        assert not qualities # Nor a line of question marks
        return
    np.testing.assert_allclose(found, wanted)
    assert qualities <= {f'quality {o:.0f}' for o in made}
    by = 'true_quality' if known == 'truth' else 'quality'
    assert judged.groups[f'pairs_by_{by}']['quality_to'].max() == pytest.approx(wanted.min(axis=1).max())


def test_other_sets_have_their_own_qualities(tmp_path):
    sets = {}
    for name in ('mine', 'theirs'):
        sets[name] = generate_faces(tmp_path/name, n_train=3, n_test=12, size=(32, 32), progress=False,
                                    seed=len(name))
    judged = PairSets(sets['mine'], str(tmp_path/'theirs'/'pairs.csv')).judge(Blurry(), labelled=sets['mine'])
    frame = judged.frames['per_pair_theirs']
    truth = sets['theirs'].set_index('path')['true_quality']
    np.testing.assert_allclose(frame['quality1'], frame['path1'].map(truth))


def test_metrics_of_a_learner_know_the_truth_too(tmp_path):
    "`TrackRun` shows the hardest pairs of these; in a fine-tuning the quality of batches is the computed one"
    table = generate_faces(tmp_path, n_train=6, n_test=12, size=(32, 32), progress=False)
    taught = table.assign(quality=7.)
    taught.attrs = table.attrs
    dls = recognition_dataloaders(taught, size=(32, 32), n_ids=2, n_imgs=2, seed=0, num_workers=0, device='cpu')
    learn = recognition_learner(dls, 'test_resnet', metrics=PairSets(table).metrics(), path=tmp_path)
    learn.remove_cb(learn.progress)
    found = list(learn.validate())
    per_pair = learn.metrics[0].judge.found()[0].per_pair
    for k in ('1', '2'):
        np.testing.assert_allclose(per_pair[f'quality{k}'], table['true_quality'][per_pair[f'row{k}']])
    held = taught[taught['split'] != 'train'] # Counted otherwise: pairs go by path
    assert list(learn.validate(dl=dls.test_dl(held, with_labels=True))) == pytest.approx(found)
    unknown = table.drop(columns='true_quality')
    unknown.attrs = table.attrs
    assert PairSets(unknown).metrics()[0].judge.pair_quality is None
