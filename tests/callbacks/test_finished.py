"What a finished stage has left is taken over, and nothing that its file names is run"
import fastai.learner
import torch

from qsd_fastai.callbacks.finished import Finished
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.learner import recognition_learner
from qsd_fastai.losses import CenterLoss, RecognitionLoss


def test_weights_come_back_and_no_pickle_is_run(labelled_people, tmp_path, monkeypatch, one_thread):
    def make():
        dls = recognition_dataloaders(labelled_people, size=(32, 16), n_ids=4, n_imgs=3, num_workers=0, device='cpu')
        loss = RecognitionLoss(center=CenterLoss(dls.c, 96))
        return recognition_learner(dls, 'test_resnet', loss=loss, path=tmp_path)
    left = make()
    for p in (*left.model.parameters(), *left.loss_func.parameters()): p.data.normal_()
    left.export('left.pkl')
    def refuse(*args, **kwargs): raise AssertionError('A pickle was run.')
    monkeypatch.setattr(torch, 'load', refuse)
    monkeypatch.setattr(fastai.learner, 'load_learner', refuse)
    learn = make()
    with learn.no_bar(), learn.no_logging(): learn.fit(2, 1., cbs=Finished(tmp_path/'left.pkl'))
    for a,b in ((left.model, learn.model), (left.loss_func, learn.loss_func)):
        for k,v in a.state_dict().items(): assert k == '_extra_state' or torch.equal(v, b.state_dict()[k]), k
