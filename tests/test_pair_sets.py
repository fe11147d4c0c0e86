"Pairs of a picture and a degraded copy, judged against a loop over both ways"
import numpy as np
import pytest
import torch

from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.evaluation.verification import evaluate_verification
from qsd_fastai.judging.sets import PairSets


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
