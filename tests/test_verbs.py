"""What a fastai user says to a learner, a hundred and more verbs: each works, or refuses with a sentence of ours

`WORKS` and `REFUSES` hold them as they are written; nothing else may come of one. They see what `qsd_fastai.all` and
fastai star, `learn` (trained for a moment), `make` (an untrained one), `table`, `held`, `file`, `files`, `folder`."""
import io
import pickle
import re
import traceback
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import timm
import torch
from fastai.callback import all as callbacks
from fastai.interpret import ClassificationInterpretation, Interpretation
from fastai.torch_core import set_seed
from fastai.vision import all as vision
from PIL import Image

import qsd_fastai
from qsd_fastai import all as ours

pytestmark = [pytest.mark.filterwarnings('ignore'), pytest.mark.usefixtures('one_thread')]

WORKS = [
    # who it is, of whatever holds a picture
    'learn.predict(file)', 'learn.predict(Path(file))', 'learn.predict(Image.open(file))',
    'learn.predict(PILImage.create(file))', 'learn.predict(pixels)', 'learn.predict(torch.tensor(pixels))',
    'learn.predict(TensorImage(torch.tensor(pixels).permute(2, 0, 1)))', 'learn.predict(Path(file).read_bytes())',
    "learn.predict(open(file, 'rb'))", 'learn.predict(table.iloc[0])', 'learn.predict(next(table.itertuples()))',
    'learn.predict(table[:1])', 'learn.predict(get_image_files(folder)[0])',
    'learn.predict(get_image_files(folder)[:1])',
    'learn.predict(file, with_input=True)[0].show()', 'learn.predict(file).show()', '[*learn.predict(file)]',
    'name,index,probs = learn.predict(file); assert learn.dls.vocab[index] == name; assert 0 <= probs[index] <= 1',
    'l = deepcopy(learn); l.gallery = table; name,i,cosines = l.predict(file); assert cosines[i] == cosines.max()',
    'learn.dls.test_dl(files)', 'learn.dls.test_dl(folder)', 'learn.dls.test_dl(file)', 'learn.dls.test_dl(table)',
    'learn.dls.test_dl(get_image_files(folder))', 'learn.dls.test_dl([pixels, pixels])',
    'learn.dls.test_dl(table.iloc[3])',
    'learn.dls.test_dl(held, with_labels=True)', 'learn.get_preds(dl=learn.dls.test_dl(folder, bs=7))',
    'learn.embed(files)', 'learn.embed(folder)', 'learn.embed(str(folder))', 'learn.embed(table)',
    'learn.embed(table.loc[2])',
    'learn.embed(learn.dls.train)', 'learn.embed(learn.dls.valid, bs=5)', 'learn.embed(L(files))',
    'learn.embed(o for o in files)', 'learn.embed(np.stack([pixels, pixels]))', 'learn.embed(pd.Series(files))',
    # judged
    'learn.validate()', 'learn.validate(ds_idx=0)', 'learn.validate(dl=learn.dls.test_dl(held, with_labels=True))',
    'learn.validate(dl=learn.dls.test_dl(held.sample(frac=1), with_labels=True))', 'learn.validate(cbs=TestCallback())',
    'learn.validate(dl=learn.dls.valid.new(shuffle=True))', 'learn.get_preds()', 'learn.get_preds(ds_idx=0)',
    'learn.get_preds(with_input=True, with_decoded=True, with_loss=True)', 'learn.tta()',
    'learn.tta(n=2, use_max=True)', 'assert len(learn.tta(ds_idx=0, n=2)[0]) == 48',
    "make(metrics=[Retrieval('mAP'), Retrieval('rank5')]).validate()",
    "make(metrics=[Retrieval('mAP'), mean_length]).validate()",
    "l = make(); l.metrics = [Retrieval('mAP')]; l.validate()",
    'make(metrics=[]).validate()', 'make(metrics=mean_length).validate()', 'make(metrics=Perplexity()).validate()',
    # shown
    'learn.show_results()', 'learn.show_results(ds_idx=0)', 'learn.show_results(max_n=2, figsize=(5, 5))',
    'learn.show_results(dl=learn.dls.valid)', 'learn.show_results(nrows=2, ncols=3)',
    'learn.show_results(shuffle=False)',
    'learn.show_results(dl=learn.dls.test_dl(files[:3]))',
    'learn.show_results(dl=learn.dls.test_dl(held, with_labels=True))',
    'learn.dls.show_batch()', 'learn.dls.show_batch(unique=True)', 'learn.dls.train.show_batch(max_n=4, nrows=1)',
    'learn.dls.valid.show_batch()', 'learn.dls.test_dl(files).show_batch()', 'learn.dls.show_batch(figsize=(4, 4))',
    'learn.dls.test_dl(held, with_labels=True).show_batch()', 'learn.dls.valid_ds.show(learn.dls.valid_ds[0])',
    'show_at(learn.dls.train_ds, 0)', 'learn.dls.decode_batch(learn.dls.one_batch())',
    'Interpretation.from_learner(learn).top_losses(5)', 'Interpretation.from_learner(learn).plot_top_losses(4)',
    'Interpretation.from_learner(learn, ds_idx=0).plot_top_losses(2)',
    'Interpretation.from_learner(learn).show_results([0, 1])',
    'Interpretation.from_learner(learn).plot_top_losses(range(2, 4), largest=False)',
    'Interpretation.from_learner(learn).top_losses(3, items=True)', 'Interpretation.from_learner(learn)[[0, 1]]',
    'learn.recorder.plot_loss()', 'learn.recorder.plot_sched()', 'learn.show_training_loop()', 'learn.summary()',
    'doc(recognition_learner)', 'doc(QualityDistillation)', 'repr(learn)', 'repr(learn.dls)',
    'print(describe_table(table))',
    # trained
    'make().fit(1, 1e-3)', 'make().fit_one_cycle(1, 1e-3)', 'make().fine_tune(1, 1e-3)', 'make().fit_flat_cos(1, 1e-3)',
    'make().lr_find(num_it=4)', 'l = make(); l.freeze(); l.unfreeze(); l.freeze_to(-1)',
    'make().fit(1, slice(1e-4, 1e-3))',
    'make().to_fp16().fit(1, 1e-3)', 'make().to_channelslast().fit(1, 1e-3)', 'make().to_fp32()',
    'make(cbs=GradientAccumulation(24)).fit(1, 1e-3)', 'make(cbs=GradientClip()).fit(1, 1e-3)',
    'make(cbs=BnFreeze).fit(1, 1e-3)',
    "make(cbs=SaveModelCallback(monitor='mAP')).fit(1, 1e-3)", 'make(cbs=SaveModelCallback()).fit(1, 1e-3)',
    "make(cbs=EarlyStoppingCallback(monitor='mAP')).fit(1, 1e-3)", 'make(cbs=ReduceLROnPlateau()).fit(1, 1e-3)',
    "make(cbs=CSVLogger(folder.parent/'log.csv')).fit(1, 1e-3)", 'make(cbs=TerminateOnNaNCallback()).fit(1, 1e-3)',
    'make(cbs=QualityDistillation()).fit(1, 1e-3)', 'make(opt_func=ranger).fit(1, 1e-3)',
    'make(moms=(.9, .8, .9), wd=.1)',
    'l = make(); l.recorder.train_metrics = True; l.fit(1, 1e-3)', 'make(cbs=ActivationStats()).fit(1, 1e-3)',
    'make(dls=loaders(augment=aug_transforms())).fit(1, 1e-3)', 'loaders().add_tfms([Flip()], "after_batch", 0)',
    'l = make(); l.add_cb(TestCallback()); l.remove_cb(TestCallback)',
    'with learn.no_logging(), learn.no_bar(): learn.validate()',
    # made of
    'make(resnet18)', 'make(create_body(resnet18()))', 'make(iresnet18)',
    'make(nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 16, 3, 2, 1))).fit(1, 1e-3)',
    "make(partial(timm.create_model, 'test_resnet', num_classes=0))", "make('test_vit')",
    "make(head=ArcFace).fit(1, 1e-3)",
    'recognition_block((32, 16)).dataloaders(table, dl_type=IdentityDL, n_ids=4, n_imgs=3, num_workers=0).c',
    'recognition_block((32, 16)).datasets(table)[0]', 'recognition_block((32, 16)).summary(table)',
    'l = make(dls=columns_block().dataloaders(table, num_workers=0, bs=12)); l.fit(1, 1e-3); l.predict(file)',
    'l = make(dls=of_classes(), metrics=[]); l.fit(1, 1e-3); l.predict(file); l.embed(table)',
    'l = make(dls=of_paths(), metrics=[]); l.fit(1, 1e-3); l.predict(file); l.embed(table); l.gallery = table',
    'l = make(dls=of_paths(), metrics=[]); l.embed(folder); l.predict(Path(file)); l.predict(Image.open(file))',
    'loaders(size=32).one_batch()', 'loaders(size=[32, 16]).one_batch()', 'learn.dls.train.new(bs=5, shuffle=False)',
    # kept
    "learn.save('m'); learn.load('m')", "learn.export('e.pkl'); load_learner(learn.path/'e.pkl').predict(file)",
    'loaded().show_results(dl=loaded().dls.test_dl(held, with_labels=True))',
    'l = loaded(); l.dls = loaders(); l.fit(1)',
    'loaded().validate(dl=loaded().dls.test_dl(held, with_labels=True))', 'learn.get_preds(1, None, True)',
    'pickle.dumps(learn.model)', 'deepcopy(learn).validate()', 'learn.dls.new_empty()', 'learn.dls.cpu()',
]

REFUSES = {
    'learn.predict(3)': 'of type int', 'learn.predict(None)': 'of type NoneType', 'learn.predict({})': 'of type dict',
    "learn.predict('nowhere.jpg')": r'nowhere\.jpg does not exist', 'learn.predict(pixels/255)': 'float64.*uint8',
    'learn.predict(folder)': '72 pictures, and predict is for one', 'learn.predict(files[:2])': '2 pictures',
    'learn.predict(table)': '72 pictures', 'learn.predict([])': 'is empty', 'learn.embed([])': 'is empty',
    'learn.embed(learn.dls)': 'of type RecognitionDataLoaders', "learn.embed(table[['identity']])": 'column path',
    'learn.embed(learn.dls.one_batch()[0])': 'float32.*uint8', 'learn.embed([[file]])': 'of type list',
    'learn.embed(torch.utils.data.DataLoader([1]))': "fastai's DataLoader", 'learn.embed(table[:0])': 'without rows',
    'learn.embed(np.zeros((2, 3, 4, 5, 6)))': 'float64', 'learn.dls.test_dl(None)': 'NoneType',
    'learn.get_preds(dl=learn.dls.test_dl([3]))': 'of type int', 'learn.embed({"a": 1})': 'of type dict',
    'learn.dls.test_dl(files, with_labels=True)': 'have no identity', 'learn.gallery = files': 'A gallery is a table',
    'learn.validate(dl=learn.dls.test_dl(table))': 'with_labels=True',
    **dict.fromkeys(['loaded().show_results()', 'loaded().validate()', 'loaded().get_preds()', 'loaded().fit(1)',
                     'loaded().fit_one_cycle(1)', 'loaded().fine_tune(1)', 'loaded().lr_find()', 'loaded().tta()',
                     'Interpretation.from_learner(loaded())'], 'no pictures.*test_dl'),
    'make(metrics=accuracy)': 'accuracy, which compares',
    'make(metrics=lambda inp, targ: 0.).fit(1)': r'does not take what it is given: \(emb, identity, quality, scene\)',
    'make(loss_func=RecognitionLoss())': r'loss_func is given.*loss=', 'make(normalize=False)': r'stats=',
    'make(custom_head=nn.Linear(2, 2))': 'head=', 'learn.show_results(max_n=0)': 'Give 1 or more',
    'Interpretation.from_learner(learn).plot_top_losses(0)': 'Give 1 or more',
    'learn.show_results(ncols=1)': '0 answers are asked for',
    'make(metrics=[error_rate])': 'error_rate', 'make(metrics=top_k_accuracy)': 'top_k_accuracy',
    'make(metrics=Recall())': 'recall',
    "make(metrics=[F1Score(average='macro'), Retrieval('mAP')])": 'f1_score', 'learn.metrics = [accuracy]': 'accuracy',
    "Retrieval('map')": "'map' is unknown", 'make(loss=CrossEntropyLossFlat())': 'takes logits and labels alone',
    "make(cbs=SaveModelCallback(monitor='map')).fit(1, 1e-3)":
        "monitor of SaveModelCallback is 'map'.*train_loss, valid_loss, rank1, mAP, mINP,",
    "make(metrics=Retrieval('rank1')).fit(1, 1e-3, cbs=EarlyStoppingCallback('mAP'))": 'EarlyStoppingCallback is .mAP.',
    "make(cbs=ReduceLROnPlateau('auc')).lr_find(num_it=4)": 'valid_loss, rank1',
    'learn.predict(file, top=0)': 'top is 0', 'learn.predict(file, top=-1)': 'top is -1',
    'l = deepcopy(learn); l.gallery = table; l.predict(file, top=0)': 'top is 0',
    'learn.predict(file, top=None)': 'top is None',
    'learn.get_preds(dl=learn.dls.test_dl(files), with_loss=True)': 'with_labels=True',
    'Interpretation.from_learner(learn, dl=learn.dls.test_dl(files)).top_losses()': 'without labels',
    'Interpretation.from_learner(learn, dl=learn.dls.test_dl(files)).plot_top_losses(2)': 'without labels',
    'make(loss=LabelSmoothingCrossEntropy())': 'LabelSmoothingCrossEntropy, which takes logits',
    'make(loss=F.cross_entropy)': 'cross_entropy, which takes logits',
    'make(loss=partial(F.cross_entropy, label_smoothing=.1))': 'cross_entropy, which takes logits',
    'make(loss=nn.CrossEntropyLoss)': 'takes logits', 'make(loss=RecognitionLoss)': r'Give one of it, Recog\w+\(\)',
    "make(loss='triplet')": "'triplet', which cannot be called",
    "make(metrics='mAP')": "'mAP', which is no metric.*Retrieval", 'make(metrics=Retrieval)': 'makes metrics and is',
    'make(metrics=[Verification])': 'Verification, which makes', 'make(metrics=Perplexity)': 'Perplexity, which is a',
    "Retrieval(['mAP', 'rank1'])": r"of type list.*Use Retrieval\('rank1'",
    'Verification(table, pairs=table)': 'of type DataFrame.*pairs=pairs',
    'make(loss=nn.CrossEntropyLoss())': 'takes logits', 'make(cbs=MixUp())': 'MixUp makes one picture of two',
    'make().fit(1, cbs=CutMix())': 'CutMix', 'make().add_cb(MixUp)': 'MixUp',
    'make().fine_tune(1, cbs=[MixUp(.4)])': 'MixUp',
    'ClassificationInterpretation.from_learner(learn)': 'plot_top_losses', "make('resnet18000')": 'Unknown body',
    'make(alexnet)': 'AlexNet', 'make(resnet18())': 'ResNet, which has no',
    'make(nn.Sequential(nn.Flatten()))': 'pooling',
    'make(xresnet18)': 'pooling and its classifier', 'make(3)': 'type int',
    'make(head=ArcFace, loss=RecognitionLoss())': 'margin',
    'l = make(); l.loss_func = CrossEntropyLossFlat(); l.fit(1, 1e-3)': 'takes logits and labels alone',
    "loaders(size='64')": r"size is '64'. Give \(height, width\)", 'loaders(size=(32, 16, 3))': 'size is ',
    'learn.dls.train.new(bs=5)': 'n_ids x n_imgs',
    "recognition_dataloaders('images.csv')": 'table is a str.*read_table',
    'label_table(learn, table)': 'table is a RecognitionLearner.*read_table', "check_table(folder/'a.csv')": 'Path',
    "learn.embed(folder.parent/'labelled.csv')": r"is a table, and no picture. Give read_table\(",
    "learn.dls.test_dl(str(folder.parent/'labelled.csv'))": 'is a table, and no picture',
    'make(dls=of_classes()).validate()': 'IdentityBlock', 'loaders(n_ids=99).one_batch()': 'n_ids=99 is larger',
    "recognition_block((32, 16)).dataloaders(table[['path']])": "no column 'identity'",
}


@pytest.fixture(scope='module')
def words(labelled_people, tmp_path_factory, one_thread):
    "What the expressions see"
    table,known = labelled_people, {}
    for module in (callbacks, vision, ours): known |= {k: v for k,v in vars(module).items() if not k.startswith('_')}

    def loaders(**kwargs):
        options = {'size': (32, 16), 'n_ids': 4, 'n_imgs': 3, 'seed': 0, 'num_workers': 0, 'device': 'cpu'}
        return ours.recognition_dataloaders(table, **{**options, **kwargs})

    def make(arch='test_resnet', dls=None, metrics=None, **kwargs):
        set_seed(0)
        metrics = ours.Retrieval() if metrics is None else metrics
        learn = ours.recognition_learner(dls or loaders(), arch, metrics=metrics, path=path, **kwargs)
        return learn.remove_cb(learn.progress)

    def columns_block():
        "fastai's own getters over a table"
        path = vision.ColReader('path', pref=table.attrs['root'] + '/')
        getters = [path, vision.ColReader('identity'), vision.ColReader('quality'), scene_of]
        blocks = (ours.PictureBlock, ours.IdentityBlock, ours.QualityBlock, ours.SceneBlock)
        def split(t): return [np.flatnonzero((t['split'] == 'train') == side).tolist() for side in (True, False)]
        return vision.DataBlock(blocks, getters=getters, n_inp=1, item_tfms=ours.Squish((32, 16)), splitter=split)

    def of_classes():
        train = table[table['split'] == 'train']
        return vision.ImageDataLoaders.from_df(train, path=table.attrs['root'], fn_col='path', label_col='identity',
                                               item_tfms=vision.Resize(32), bs=12, num_workers=0)

    def of_paths():
        files = [Path(o) for o in ours.picture_files(table[table['split'] == 'train'])]
        names = dict(zip(map(str, files), table['identity'][table['split'] == 'train']))
        block = vision.DataBlock((ours.PictureBlock, ours.IdentityBlock), get_items=lambda _: files,
                                 get_y=lambda o: names[str(o)], splitter=vision.RandomSplitter(seed=0),
                                 item_tfms=vision.Resize(32))
        return block.dataloaders(None, bs=8, num_workers=0)

    path = tmp_path_factory.mktemp('verbs')
    files = ours.picture_files(table).tolist()
    learn = make()
    with learn.no_logging(): learn.fit_one_cycle(1, 1e-2)
    held = table[table['split'] != 'train']
    learn.export('loaded.pkl')
    def loaded(): return vision.load_learner(path/'loaded.pkl')

    with Image.open(files[0]) as img: pixels = np.asarray(img.convert('RGB'))
    return known | dict(learn=learn, make=make, loaded=loaded, loaders=loaders, columns_block=columns_block,
                        of_classes=of_classes, of_paths=of_paths, table=table, held=held, files=files[:4],
                        file=files[0], folder=Path(files[0]).parent, np=np, pixels=pixels,
                        mean_length=mean_length, TestCallback=TestCallback,
                        pd=pd, pickle=pickle, deepcopy=deepcopy, Image=Image, timm=timm,
                        Interpretation=Interpretation, ClassificationInterpretation=ClassificationInterpretation)


class TestCallback(vision.Callback):
    "A callback of a user's own"
    __test__ = False
    def after_pred(self): assert self.pred is not None


def mean_length(emb, identity, quality, scene): return emb.norm(dim=1).mean()


def scene_of(row): return [row.name, row['camera'], row['split']]


def said(verb, words):
    "A verb carried out, without what it prints"
    torch.manual_seed(0)
    with redirect_stdout(io.StringIO()): exec(verb, dict(words))
    plt.close('all')


@pytest.mark.parametrize('verb', WORKS)
def test_it_works(verb, words): said(verb, words)


@pytest.mark.parametrize('verb', REFUSES)
def test_it_refuses_with_a_sentence(verb, words):
    "Of ours: raised in this package, and no bug of somebody else's code"
    with pytest.raises((ValueError, OSError)) as told: said(verb, words)
    text = ' '.join(str(told.value).split())
    assert re.search(REFUSES[verb], text), text
    assert text.endswith(('.', '?')), text
    raised = Path(traceback.extract_tb(told.tb)[-1].filename)
    assert Path(qsd_fastai.__file__).parent in raised.parents or 'event `' in text, raised


def test_there_are_more_than_a_hundred(): assert len(WORKS) + len(REFUSES) > 150
