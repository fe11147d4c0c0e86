"One step of the whole published training inside a fastai learner, against the golden step"
import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.progress import ProgressCallback  # noqa: F401  (gives Learner its no_bar)
from fastai.data.core import DataLoaders
from fastai.learner import Learner
from fastai.optimizer import Adam, OptimWrapper

from qsd_fastai.callbacks.centers import CenterUpdate
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.losses import CenterLoss, RecognitionLoss, WeightedRegularizedTriplet
from qsd_fastai.models.bodies.agw import agw_resnet50
from qsd_fastai.models.recognizer import Recognizer
from qsd_fastai.models.weights.read import load_reference

pytestmark = pytest.mark.usefixtures('on_cpu')


class Look(Callback):
    "What the golden file holds, seen when it was seen there"
    order = 8  # before `CenterUpdate` (9) uses up the centers' gradient

    def before_batch(self): self.before = {k: p.detach().clone() for k,p in self.learn.model.named_parameters()}

    def before_step(self):
        self.grads = {k: p.grad.clone() for k,p in self.learn.model.named_parameters() if p.grad is not None}

    def after_batch(self):
        self.deltas = {k: p.detach() - self.before[k] for k,p in self.learn.model.named_parameters()}
        self.out,self.total = self.learn.pred, self.learn.loss.item()
        self.learn.loss = self.learn.loss.float()  # fastai's Recorder averages float32 only


def our_name(key):
    "The name in our model of a published parameter"
    names = {'base.': 'body.', 'global_pool.': 'pool.', 'bottleneck.': 'neck.', 'classifier.': 'head.'}
    return next((ours + key[len(theirs):] for theirs,ours in names.items() if key.startswith(theirs)), None)


@pytest.mark.parametrize('opt_func, dtype, tol_loss, tol_grad, tol_step', [
    # Adam of fastai, its weight decay in the gradient, and Adam of torch, which in float32 loses the tail of such steps
    (lambda p, **kw: Adam(p, mom=.9, sqr_mom=.999, eps=1e-8, decouple_wd=False, **kw), torch.float64, 1e-7, 1e-6, 1e-6),
    (lambda p, **kw: OptimWrapper(p, torch.optim.Adam, **kw), torch.float32, 1e-4, 1e-3, .05)], ids=['fastai', 'torch'])
def test_published_step(golden, agw_weights, tmp_path, opt_func, dtype, tol_loss, tol_grad, tol_step):
    d = golden('agw_qsd_train_step')
    def noise(seed, *shape): return torch.from_numpy(np.random.RandomState(seed).standard_normal(shape)).to(dtype)

    torch.save(agw_weights, tmp_path/'agw.pth')
    model = Recognizer(agw_resnet50(), n_ids=12).to(dtype)
    load_reference(model, tmp_path/'agw.pth', show=False)
    center = CenterLoss(12, 2048, start='random').to(dtype)
    center.centers.data = noise(5003, 12, 2048)
    # the second views are the partners of the first
    x = torch.cat([noise(5001, 8, 3, 64, 32), noise(5002, 8, 3, 64, 32)])
    ids,quality = np.tile(d['y'], 2), np.concatenate([d['q1'], d['q2']])
    dls = DataLoaders([(x, torch.from_numpy(ids), torch.from_numpy(quality))], [])
    dls.n_inp = 1
    look,qsd = Look(), QualityDistillation(pairs='partner', forward='separate', level_weights=(1, 1, 1, 1, .1))
    loss_func = RecognitionLoss(triplet=WeightedRegularizedTriplet(form='reference'), center=center)
    def without_centers(m): return [[p for k,p in m.named_parameters() if not k.startswith('center')]]

    learn = Learner(dls, model, loss_func=loss_func, opt_func=opt_func, cbs=[qsd, CenterUpdate(), look],
                    wd=5e-4, wd_bn_bias=True, moms=None, path=tmp_path, splitter=without_centers)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 3.5e-6)

    def agrees(ours, name, tol):
        ours,wanted = np.asarray(ours), d[name]
        assert ours.shape == wanted.shape, name
        assert np.abs(ours - wanted).max() <= tol*np.abs(wanted).max(), name

    terms = learn.loss_func.terms
    levels = [qsd.terms[f'qsd_{k}'] for k in ('level1', 'level2', 'level3', 'emb', 'logits')]
    for name,ours in {
        'loss_xent': terms['identity'], 'loss_wrt': terms['triplet'], 'loss_center': terms['center'],
        'loss_qsd': qsd.terms['qsd'], 'loss_total': look.total, 'qsd_parts': levels,
        'score': look.out.logits.detach(), 'global_feat': look.out.pooled.detach(),
        'center_grad_norm': look.grads['center.centers'].norm(),
        'center_delta_norm': look.deltas['center.centers'].norm(),
        'bn1_running_mean_after': model.body.bn1.running_mean, 'bn1_running_var_after': model.body.bn1.running_var,
        'bnneck_running_mean_after': model.neck.running_mean, 'bnneck_num_batches': model.neck.num_batches_tracked,
    }.items(): agrees(ours, name, tol_loss)

    names = [our_name(str(k)) for k in d['param_names']]
    assert set(names) == set(look.grads) - {'center.centers'}
    # a bias in front of batch norm has no gradient but rounding
    real = d['grad_norm'] > 1e-9
    assert sum(~real) == 6
    assert all(k.endswith('W.0.bias') or k == 'body.bn1.bias' for k in np.array(names)[~real])
    agrees([look.grads[k].norm() for k in names], 'grad_norm', tol_grad)
    # in float32 the terms cancel
    if dtype == torch.float64: agrees([look.grads[k].sum() for k in names], 'grad_sum', tol_grad)
    steps = np.array([look.deltas[k].norm() for k in names])
    np.testing.assert_allclose(steps[real], d['adam_delta_norm'][real], rtol=tol_step)
