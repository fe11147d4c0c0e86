"A gallery in three parts against the same gallery whole: ties, junk, parts without a match"
import numpy as np
import pandas as pd
import pytest
import torch
from started import launch_function

from qsd_fastai.evaluation.retrieval import evaluate_retrieval
from qsd_fastai.evaluation.sharded import evaluate_sharded
from qsd_fastai.launched import joined

PARTS = slice(0, 20), slice(20, 21), slice(21, 60)


def made(names=str):
    "Whole numbers, so that distances are exact and often equal; query 0 nobody answers, query 1 junk alone"
    rng = np.random.default_rng(0)
    q,g = (torch.from_numpy(rng.integers(0, 3, (n, 3)).astype(float)) for n in (12, 60))
    q_ids,g_ids = rng.integers(0, 6, 12),rng.integers(0, 6, 60)
    q_cam,g_cam = rng.integers(0, 3, 12),rng.integers(0, 3, 60)
    q_ids[:2],g_ids[5],g_cam[5],q_cam[1] = (7, 8),8,0,0
    return q, g, *([names(o) for o in x] for x in (q_ids, g_ids, q_cam, g_cam))


def shard(rank, folder):
    q,g,q_ids,g_ids,q_cam,g_cam = made()
    own = PARTS[rank]
    with joined():
        found = [evaluate_sharded(q, g[own], q_ids, g_ids[own], q_cam, g_cam[own], normalize=False, chunk=chunk)
                 for chunk in (None, 5)]
        found.append(evaluate_sharded(q, g[own], q_ids, g_ids[own], normalize=False))
        pd.to_pickle([(o.per_query, o.cmc, o.mAP, o.n_unanswerable) for o in found], folder/f'{rank}.pkl')


def same(found, wanted):
    per_query,cmc,mAP,n_unanswerable = found
    pd.testing.assert_frame_equal(per_query, wanted.per_query)
    np.testing.assert_array_equal(cmc, wanted.cmc)
    assert (mAP, n_unanswerable) == (pytest.approx(wanted.mAP, abs=1e-15), wanted.n_unanswerable)


def test_three_parts_are_ranked_as_the_whole(tmp_path):
    launch_function(3, shard, tmp_path)
    q,g,*labels = made()
    with_cameras = evaluate_retrieval(q, g, *labels, normalize=False)
    assert with_cameras.n_unanswerable == 2
    for rank in range(3):
        one,chunks,without = pd.read_pickle(tmp_path/f'{rank}.pkl')
        for o in (one, chunks): same(o, with_cameras)
        same(without, evaluate_retrieval(q, g, *labels[:2], normalize=False))


def test_one_process_has_the_gallery_whole():
    for normalize in (False, True):
        q,g,*labels = made(int)
        found,wanted = (f(q + .5, g + .5, *labels, normalize=normalize) for f in (evaluate_sharded, evaluate_retrieval))
        same((found.per_query, found.cmc, found.mAP, found.n_unanswerable), wanted)
