"A fastai Learner: everything a fastai user does with one"
import subprocess
import sys
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import TerminateOnNaNCallback
from fastai.callback.training import GradientAccumulation
from fastai.learner import Learner, load_learner
from fastai.optimizer import Adam
from fastai.torch_core import set_seed
from PIL import Image
from torch import nn

from qsd_fastai.callbacks.loss_terms import loss_terms
from qsd_fastai.callbacks.partial_update import PartialUpdate
from qsd_fastai.data.loaders import picture_files, recognition_dataloaders
from qsd_fastai.data.pictures import PictureError, open_picture
from qsd_fastai.distillation import QualityDistillation
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import MarginLoss, RecognitionLoss
from qsd_fastai.models.bodies.mobilefacenet import MobileFaceNet
from qsd_fastai.models.heads.margins import AdaFace, ArcFace
from qsd_fastai.models.heads.partial_fc import PartialFC
from qsd_fastai.models.layers import BNNeck
from qsd_fastai.models.preprocess import face_stats
from qsd_fastai.models.recognizer import Recognition, Recognizer

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning'),
              pytest.mark.usefixtures('one_thread')]


def loaders(table, **kwargs):
    options = {'size': (32, 16), 'n_ids': 4, 'n_imgs': 3, 'seed': 0, 'num_workers': 0, 'device': 'cpu'}
    return recognition_dataloaders(table, **options, **kwargs)


def make(table, arch='test_resnet', cbs=None, path=None, **kwargs):
    set_seed(0)
    learn = recognition_learner(loaders(table), arch, metrics=Retrieval(), cbs=cbs, path=path, **kwargs)
    learn.remove_cb(learn.progress)
    return learn


@pytest.fixture(scope='module')
def trained(labelled_people, tmp_path_factory, one_thread):
    learn = make(labelled_people, path=tmp_path_factory.mktemp('learner'))
    learn.fit_one_cycle(2, 1e-3)
    return learn


def test_it_is_a_learner_of_fastai(trained):
    assert isinstance(trained, Learner)
    assert isinstance(trained.model, Recognizer)
    assert isinstance(trained.loss_func, RecognitionLoss)
    assert trained.dls.c == 8
    assert trained.model.head.weight.shape == (8, 96)
    assert trained.recorder.metric_names == ['epoch', 'train_loss', 'valid_loss', 'rank1', 'mAP', 'mINP', 'time']
    assert len(trained.opt.param_lists) == 2


def test_training_learns(labelled_people):
    learn = make(labelled_people)
    learn.fit(6, 3e-3)
    first,last = learn.loss_terms.epochs[0], learn.loss_terms.epochs[-1]
    assert last['identity'] < first['identity']
    assert last['triplet'] < first['triplet']
    assert np.isfinite(list(learn.recorder.values)).all()


def test_freeze_and_unfreeze(labelled_people):
    learn = make(labelled_people)
    bias = next(m for m in learn.model.modules() if isinstance(m, BNNeck)).bias
    learn.freeze()
    # batch norm keeps learning in a frozen body, as always in fastai
    assert not learn.model.body.conv1[0].weight.requires_grad
    assert learn.model.head.weight.requires_grad
    assert not bias.requires_grad
    before = {k: v.clone() for k,v in learn.model.named_parameters()}
    learn.fit(1, 1e-2)
    moved = {k for k,v in learn.model.named_parameters() if not torch.equal(v, before[k])}
    assert 'body.conv1.0.weight' not in moved
    assert {'head.weight', 'neck.weight'} <= moved
    learn.unfreeze()
    assert not bias.requires_grad
    assert all(v.requires_grad for k,v in learn.model.named_parameters() if k != 'neck.bias')
    learn.fit(1, 1e-2)
    assert not torch.equal(learn.model.body.conv1[0].weight, before['body.conv1.0.weight'])
    assert bias.eq(0).all()


def test_fine_tune_and_lr_find(labelled_people, tmp_path):
    learn = make(labelled_people, path=tmp_path)
    before = {k: v.clone() for k,v in learn.model.state_dict().items()}
    found = learn.lr_find(num_it=12, show_plot=False)
    assert found.valley > 0
    assert all(torch.equal(v, before[k]) for k,v in learn.model.state_dict().items())
    learn.fine_tune(1, 1e-3)
    assert len(learn.recorder.values) == 1
    assert learn.model.body.conv1[0].weight.requires_grad


@pytest.mark.parametrize('precision', ['to_bf16', 'to_fp16'])
def test_mixed_precision_runs_on_a_cpu_too(labelled_people, precision):
    "Without autocast there: fastai asks for that of a GPU"
    learn = make(labelled_people, cbs=QualityDistillation())
    getattr(learn, precision)()
    learn.fit(1, 1e-3)
    assert np.isfinite(learn.recorder.values).all()
    assert learn.embed(labelled_people[:3]).dtype == torch.float32


def test_validate_get_preds_predict(trained, labelled_people):
    held = labelled_people[labelled_people['split'] != 'train']
    loss,rank1,mAP,mINP = trained.validate()
    assert 0 <= rank1 <= 1
    assert 0 < mINP <= mAP < 1
    assert loss > 0
    emb,targets = trained.get_preds()
    assert emb.shape == (24, 96)
    assert [tuple(t.shape) for t in targets] == [(24,), (24,), (24, 3)]
    np.testing.assert_allclose(targets[1], held['quality'], rtol=1e-6)
    shown = [labelled_people['identity'][int(r)] for r in targets[2][:, 0]]
    assert shown == [trained.dls.vocab[int(i)] for i in targets[0]]
    assert trained.get_preds(with_loss=True)[-1].shape == (24,)
    file = picture_files(labelled_people)[held.index[0]]
    np.testing.assert_allclose(trained.predict(file).embedding, emb[0], atol=1e-5)


def test_whatever_is_a_picture_can_be_handed_over(trained, labelled_people):
    files = picture_files(labelled_people)[:3].tolist()
    wanted = trained.embed(files)
    with Image.open(files[0]) as img: pixels = np.asarray(img.convert('RGB'))
    given = [files[0], Path(files[0]), Path(files[0]).read_bytes(), open_picture(files[0]), pixels,
             torch.from_numpy(pixels.copy()).permute(2, 0, 1), pixels.astype(np.uint16)*257]
    np.testing.assert_allclose(trained.embed(given), wanted[:1].expand(len(given), -1), atol=1e-5)
    for one in given:
        np.testing.assert_allclose(trained.embed(one), wanted[:1], atol=1e-5)
        np.testing.assert_allclose(trained.predict(one).embedding, wanted[0], atol=1e-5)
    folder = trained.embed(Path(files[0]).parent)
    assert len(folder) == len(labelled_people)
    for wrong in (pixels/255, pixels.transpose(2, 0, 1), torch.from_numpy(pixels/255)):
        with pytest.raises(PictureError, match='uint8'): trained.embed(wrong)


def test_embed(trained, labelled_people):
    train = labelled_people[labelled_people['split'] == 'train']
    emb = trained.embed(train)
    assert type(emb) is torch.Tensor
    assert emb.shape == (48, 96)
    assert emb.device.type == 'cpu'
    assert not emb.requires_grad
    files = list(picture_files(labelled_people)[train.index])
    same = lambda other: np.testing.assert_allclose(other, emb, atol=1e-5)
    same(trained.embed(files))
    same(trained.embed(tuple(files), bs=5))
    same(trained.embed(train.drop(columns=['quality', 'split']), root=labelled_people.attrs['root']))
    same(trained.embed(trained.dls.train))  # in the order of the table and without augmentation
    same(trained.embed(trained.dls.train, bs=7))
    assert trained.dls.train.dataset.split_idx == 0  # the loader augments again
    shuffled = train.sample(frac=1, random_state=0)
    order = [train.index.get_loc(i) for i in shuffled.index]
    np.testing.assert_allclose(trained.embed(shuffled), emb[order], atol=1e-5)
    np.testing.assert_allclose(trained.embed(files[3])[0], emb[3], atol=1e-5)
    np.testing.assert_allclose(trained.embed(train, normalize=True), nn.functional.normalize(emb), atol=1e-5)
    np.testing.assert_allclose(trained.embed(trained.dls.valid), trained.get_preds()[0], atol=1e-5)


def test_embed_by_hand(trained, labelled_people):
    "What embed gives is the model in evaluation on the pictures of validation"
    x = trained.dls.valid.one_batch()[0].as_subclass(torch.Tensor)
    with torch.no_grad(): want = trained.model.eval()(x)
    held = labelled_people[labelled_people['split'] != 'train']
    np.testing.assert_allclose(trained.embed(held)[:len(x)], want, atol=1e-5)


def test_embed_errors(trained, labelled_people):
    for empty in (labelled_people[:0], [], ()):
        with pytest.raises(ValueError, match='there is no picture'): trained.embed(empty)
    with pytest.raises(ValueError, match="fastai's DataLoader"): trained.embed(torch.utils.data.DataLoader([1, 2]))
    with pytest.raises(FileNotFoundError, match=r'nowhere\.jpg'): make(labelled_people).embed(['nowhere.jpg'])


def test_export_and_load_in_another_process(trained, labelled_people, tmp_path):
    "No module of ours is imported there before"
    trained.export(tmp_path/'it.pkl')
    assert (tmp_path/'it.pkl').stat().st_size < 4e6  # no pictures, embeddings or optimizer in it
    root = labelled_people.attrs['root']
    script = f'''
import torch; torch.set_num_threads(1)
from fastai.learner import load_learner
learn = load_learner(r"{tmp_path/'it.pkl'}")
from qsd_fastai.data.table import read_table
table = read_table(r"{root}/labelled.csv")[:9]
files = list(r"{root}/" + table["path"])
torch.save([learn.embed(table), learn.embed(files)], r"{tmp_path/'emb'}")'''
    done = subprocess.run([sys.executable, '-W', 'ignore', '-c', script], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    want = trained.embed(labelled_people[:9])
    for emb in torch.load(tmp_path/'emb'): np.testing.assert_allclose(emb, want, atol=1e-6)


def test_export_with_every_callback(labelled_people, tmp_path):
    learn = make(labelled_people, cbs=QualityDistillation(), path=tmp_path)
    learn.fit(1, 1e-3)
    learn.validate()
    learn.export('it.pkl')
    loaded = load_learner(tmp_path/'it.pkl')
    np.testing.assert_allclose(loaded.embed(labelled_people[:4]), learn.embed(labelled_people[:4]), atol=1e-6)
    assert loaded.metrics[0].store.parts == []


def test_training_pictures_alone(labelled_people):
    table = labelled_people[labelled_people['split'] == 'train'].copy()
    table.attrs = labelled_people.attrs
    learn = make(table)
    learn.fit(1, 1e-3)
    assert learn.recorder.values[0][0] > 0
    assert list(learn.recorder.values[0][1:]) == [None]*4
    assert learn.embed(table).shape == (48, 96)


def test_what_cannot_be_made(labelled_people):
    dls = loaders(labelled_people)
    with pytest.raises(ValueError, match='nonesuch'): recognition_learner(dls, 'nonesuch')
    with pytest.raises(ValueError, match='body given by name'):
        recognition_learner(dls, nn.Sequential(nn.Conv2d(3, 8, 3)), last_stride=1)
    dls.c = 0
    with pytest.raises(ValueError, match='no training identity'): recognition_learner(dls, 'test_resnet')


def test_options_reach_the_model(labelled_people):
    head = lambda nf, n: nn.Linear(nf, n)
    learn = make(labelled_people, head=head, loss=RecognitionLoss(triplet_weight=0), levels=[0, -1], wd=.01)
    assert isinstance(learn.model.head, nn.Linear)
    assert learn.wd == .01
    assert learn.loss_func.weights['triplet'] == 0
    learn.fit(1, 1e-3)
    assert list(learn.loss_terms.frame().columns) == ['epoch', 'identity']
    assert len(learn.model.level_indices) == 2


def test_a_learner_put_together_by_hand(labelled_people):
    "Without `recognition_learner`, hence without `LossTerms`, QSD and judging work the same"
    set_seed(0)
    dls = loaders(labelled_people)
    learn = Learner(dls, Recognizer('test_resnet', 8), loss_func=RecognitionLoss(), metrics=Retrieval(),
                    cbs=QualityDistillation())
    learn.remove_cb(learn.progress)
    learn.fit(1, 1e-3)
    assert not hasattr(learn, 'loss_terms')
    assert {'identity', 'qsd'} <= set(loss_terms(learn))
    assert learn.embed(labelled_people[:3]).shape == (3, 96)


def test_nan_ends_a_fit_and_nothing_else_does(labelled_people):
    learn = make(labelled_people, cbs=TerminateOnNaNCallback())
    learn.fit(2, 1e-3)
    assert len(learn.recorder.values) == 2  # the loss of validation is finite, though its identities have no class
    class Break(Callback):
        order = -20
        def after_loss(self):
            if self.training and self.iter == 1: self.learn.loss = self.learn.loss*float('nan')
    learn.fit(2, 1e-3, cbs=Break())
    assert learn.recorder.values == []


def test_a_recognition_in_training_and_embeddings_in_evaluation(labelled_people):
    seen = []
    class Look(Callback):
        def after_pred(self): seen.append((self.training, type(self.learn.pred)))
    learn = make(labelled_people, cbs=Look())
    with warnings.catch_warnings():
        warnings.simplefilter('error', ResourceWarning)
        learn.fit(1, 1e-3)
    assert set(seen) == {(True, Recognition), (False, torch.Tensor)}


def test_a_face_body_with_a_margin_and_distillation(labelled_people, tmp_path):
    learn = make(labelled_people, 'mobilefacenet', head=partial(AdaFace, s=16.), body_kwargs={'size': (32, 16)},
                 path=tmp_path, cbs=[QualityDistillation()])
    head = learn.model.head
    assert type(learn.loss_func) is MarginLoss
    assert learn.loss_func.head is head
    assert type(learn.model.neck) is nn.Identity
    learn.fit(8, 3e-2)
    first,last = learn.loss_terms.epochs[0], learn.loss_terms.epochs[-1]
    assert last['identity'] < first['identity']
    assert {'qsd_logits', 'qsd_level3', 'qsd_emb'} <= set(last)
    assert float(head.batch_mean) != 20
    assert np.isfinite(list(learn.recorder.values)).all()
    learn.model.train()
    out = learn.model(learn.dls.one_batch()[0])
    assert torch.equal(out.logits, head(out.emb))
    assert out.logits.abs().max() <= 1 + 1e-6  # what QSD distils: cosines, without scale or margin
    learn.export('face.pkl')
    again = load_learner(tmp_path/'face.pkl')
    assert again.loss_func.head is again.model.head
    assert torch.equal(again.model.head.batch_mean, head.batch_mean)
    files = picture_files(labelled_people)[:3].tolist()
    assert torch.allclose(again.embed(files), learn.embed(files), atol=1e-5)


def test_a_margin_needs_a_loss_that_knows_it(labelled_people):
    with pytest.raises(ValueError, match=r'ArcFace gives cosines.*MarginLoss'):
        make(labelled_people, head=ArcFace, loss=RecognitionLoss())
    head = ArcFace(96, 8, s=20.)
    learn = make(labelled_people, head=head, loss=MarginLoss(head, smoothing=.1, triplet_weight=1.))
    learn.fit(1, 1e-3)
    assert {'identity', 'triplet'} <= set(learn.loss_terms.epochs[0])


def test_pictures_normalised_otherwise_than_the_weights_want(labelled_people, tmp_path):
    file = tmp_path/'face.pt'
    torch.save(MobileFaceNet(size=(32, 16)).state_dict(), file)
    def with_loaders(**kwargs):
        dls = loaders(labelled_people, **kwargs)
        recognition_learner(dls, 'mobilefacenet', pretrained=file, body_kwargs={'size': (32, 16)})
    with warnings.catch_warnings():
        warnings.simplefilter('error', UserWarning)
        with_loaders()
    for stats in (face_stats, None):
        with pytest.warns(UserWarning, match='stats='): with_loaders(stats=stats)


def test_sampled_identities_with_distillation(labelled_people, tmp_path):
    head = partial(PartialFC, rate=.6, margin=partial(ArcFace, s=16., m=.2))
    learn = make(labelled_people, head=head, path=tmp_path, cbs=[QualityDistillation(), GradientAccumulation(24)])
    head,start = learn.model.head, learn.model.head.weight.clone()
    assert type(learn.loss_func) is MarginLoss
    assert len(learn.cbs.filter(lambda cb: isinstance(cb, PartialUpdate))) == 1
    assert not any(n.startswith('head') for n,_ in learn.model.named_parameters())
    learn.fit(6, 3e-2)
    first,last = learn.loss_terms.epochs[0], learn.loss_terms.epochs[-1]
    assert last['identity'] < first['identity']
    assert 'qsd_logits' in last
    assert not torch.equal(head.weight, start)
    assert np.isfinite(list(learn.recorder.values)).all()
    assert head.active is None
    assert not head.pending
    before = head.weight.clone()
    learn.lr_find(num_it=4, show_plot=False)
    assert torch.equal(head.weight, before)
    learn.save('sampled')
    learn.fit(1, 1e-2)
    learn.load('sampled')
    assert torch.equal(head.weight, before)
    learn.export('sampled.pkl')
    assert torch.equal(load_learner(tmp_path/'sampled.pkl').model.head.weight, before)


def test_partial_update_needs_its_head(labelled_people):
    with pytest.raises(ValueError, match='PartialFC'): make(labelled_people, cbs=[PartialUpdate()])


def test_a_transformer_is_made_for_the_pictures_it_gets(labelled_people):
    learn = make(labelled_people, 'test_vit')
    learn.fit(1, 1e-3)
    assert learn.embed(labelled_people[:3]).shape == (3, 64)
    with pytest.raises(ValueError, match='mvitv2_tiny does not take pictures of 32x16'):
        make(labelled_people, 'mvitv2_tiny')


def test_defect_21_two_groups_of_parameters_with_decay_on_all_where_asked(labelled_people):
    "Published: a group a parameter, slow and large in every state; L2 decay on batch norm and bias too"
    for all_decay in (True, False):
        learn = make(labelled_people, opt_func=partial(Adam, decouple_wd=False), wd_bn_bias=all_decay)
        learn.create_opt()
        assert [len(o) > 1 for o in learn.opt.param_lists] == [True, True]
        moving = [p for p in learn.model.parameters() if p.requires_grad]
        assert sorted(map(id, moving)) == sorted(id(p) for o in learn.opt.param_lists for p in o)
        free = [p for p in moving if not learn.opt.state[p].get('do_wd', True)]
        assert bool(free) == (not all_decay)
        # a step without a gradient moves what decays, and nothing else
        before = [p.detach().clone() for p in moving]
        for p in moving: p.grad = torch.zeros_like(p)
        learn.opt.set_hypers(lr=.1, wd=.5)
        learn.opt.step()
        stood = {id(p) for p,was in zip(moving, before) if torch.equal(p, was) and was.any()}
        assert stood == {id(p) for p in free if p.any()}
