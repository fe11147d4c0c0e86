"Named terms are those of the batches, and of fits alone"
import numpy as np
import pytest
from fastai.callback.core import Callback
from fastai.learner import Learner
from fastai.torch_core import set_seed

from qsd_fastai.callbacks.loss_terms import LossTerms, loss_terms
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.fits import is_fit
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import RecognitionLoss
from qsd_fastai.models.recognizer import Recognizer

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning'),
              pytest.mark.usefixtures('one_thread')]


def loaders(table):
    set_seed(0)
    return recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, seed=0, num_workers=0, device='cpu')


def losses_of_last_epoch(learn):
    "The losses of the last epoch's batches, from the smoothed ones that the recorder has"
    beta,n = learn.recorder.smooth_loss.beta,len(learn.dls.train)
    smooth = [float(v) for v in learn.recorder.losses]
    sums = [v*(1 - beta**(i + 1)) for i,v in enumerate(smooth)]
    return [(b - beta*a)/(1 - beta) for a,b in zip([0, *sums], sums)][-n:]


def test_terms_are_means_over_batches(labelled_people):
    class Keep(Callback):
        order,run_valid,seen = 46,False,[]
        def after_batch(self):
            terms = {k: float(v) for k,v in loss_terms(self.learn).items()}
            self.seen.append({**terms, 'epoch': self.epoch})
    keep = Keep()
    learn = recognition_learner(loaders(labelled_people), 'test_resnet', cbs=[QualityDistillation(), keep])
    learn.remove_cb(learn.progress)
    learn.fit(2, 1e-3)
    frame = learn.loss_terms.frame()
    assert list(frame['epoch']) == [0, 1]
    levels = {'qsd_level1', 'qsd_level2', 'qsd_level3', 'qsd_emb', 'qsd_logits'}
    assert {'identity', 'triplet', 'qsd', *levels} <= set(frame)
    for epoch in (0, 1):
        for name in frame.columns[1:]:
            want = np.mean([o[name] for o in keep.seen if o['epoch'] == epoch])
            np.testing.assert_allclose(frame[name][epoch], want, rtol=1e-5)
    last,weights = frame.iloc[1],learn.loss_func.weights
    total = weights['identity']*last['identity'] + last['triplet'] + last['qsd']
    np.testing.assert_allclose(total, np.mean(losses_of_last_epoch(learn)), rtol=1e-4)
    learn.validate()
    learn.embed(labelled_people[:2])
    assert len(learn.loss_terms.frame()) == 2  # until the next fit
    learn.fit(1, 1e-3)
    assert len(learn.loss_terms.frame()) == 1


def test_in_a_learner_put_together_by_hand(labelled_people):
    model = Recognizer('test_resnet', 8)
    learn = Learner(loaders(labelled_people), model, loss_func=RecognitionLoss(), cbs=LossTerms())
    learn.remove_cb(learn.progress)
    learn.fit(1, 1e-3)
    assert len(learn.loss_terms.frame()) == 1


def test_what_is_a_fit(labelled_people, tmp_path):
    seen = []
    class Look(Callback):
        def before_fit(self): seen.append(is_fit(self.learn))
    learn = recognition_learner(loaders(labelled_people), 'test_resnet', cbs=Look(), path=tmp_path)
    learn.remove_cb(learn.progress)
    learn.validate()
    learn.get_preds()
    learn.lr_find(num_it=2, show_plot=False, suggest_funcs=None)
    learn.embed(labelled_people[:2])
    assert not any(seen)
    assert len(seen) >= 2
    seen.clear()
    learn.fine_tune(1, 1e-3)
    assert seen == [True, True]
