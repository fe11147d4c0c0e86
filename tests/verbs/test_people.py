"Loaders that are set later, of other people or with nobody held out, and exports that fail"
import copy
from types import SimpleNamespace

import pandas as pd
import pytest
from fastai.callback.tracker import ReduceLROnPlateau, SaveModelCallback
from fastai.learner import load_learner

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.evaluation.metrics import Retrieval
from qsd_fastai.models.heads.margins import ArcFace
from qsd_fastai.verbs.refusals import people_of


def loaders(table): return recognition_dataloaders(table, size=(32, 16), n_ids=3, n_imgs=2, seed=0, num_workers=0)


def only(table, keep):
    "The table with other training people"
    train = table['split'] == 'train'
    some = table[~train | table['identity'].isin(sorted(set(table['identity'][train]))[keep])]
    some.attrs = table.attrs
    return some


@pytest.mark.parametrize('head', [None, ArcFace])
def test_a_head_of_others_is_not_trained(make_learner, labelled_people, tmp_path, head):
    fewer = loaders(only(labelled_people, slice(0, 6)))
    learn = make_learner(head=head, path=tmp_path)
    learn.export('all.pkl')
    for of in (learn, load_learner(tmp_path/'all.pkl')):
        own,of.dls = of.dls,fewer
        with of.no_logging():
            for fit in (of.fit, of.fit_one_cycle, of.fine_tune):
                said = r'is of 6 identities, and the head has 8\. .*load_state_dict'
                with pytest.raises(ValueError, match=said): fit(1)
        of.dls = own
    with learn.no_logging(): learn.fit(1, 1e-3)


def test_as_many_others_are_told_once(make_learner, labelled_people, recwarn):
    first,last = (only(labelled_people, o) for o in (slice(0, 6), slice(2, 8)))
    learn = make_learner(table=first)
    learn.dls = loaders(last)
    new = set(last['identity'][last['split'] == 'train']) - set(first['identity'])
    with learn.no_logging():
        with pytest.warns(UserWarning, match=rf'is of {min(new)!r} and 1 others whom the head'): learn.fit(1, 1e-3)
        recwarn.clear()
        learn.fit(1, 1e-3)
        learn.people = () # As in an export from before they were noted
        learn.dls = loaders(first)
        learn.fit(1, 1e-3)
    assert not [o for o in recwarn if 'whom the head' in str(o.message)]


def test_the_same_people_beside_any_that_are_held_out(make_learner, labelled_people, recwarn, tmp_path):
    "Or none, in any order, with names of their own; loaders without names, too"
    train,rest = (labelled_people[(labelled_people['split'] == 'train') == o] for o in (True, False))
    some = rest[rest['identity'].isin(sorted(set(rest['identity']))[2:])]
    others = rest.assign(identity='x' + rest['identity'])
    for other in (some, rest[:0], others):
        table = pd.concat([train.sample(frac=1, random_state=0), other])
        table.attrs = labelled_people.attrs
        one,two = make_learner(metrics=[], path=tmp_path),make_learner(table=table, metrics=[], path=tmp_path)
        one.export('of.pkl')
        again = load_learner(tmp_path/'of.pkl')
        for learn,of in ((one, table), (two, labelled_people), (again, table)):
            learn.dls = loaders(of)
            with learn.no_logging(): learn.fit(1, 1e-3)
    assert people_of(SimpleNamespace(c=8)) == []
    assert not [o for o in recwarn if 'whom the head' in str(o.message)]


def test_nobody_is_held_out(make_learner, labelled_people):
    alone = labelled_people[labelled_people['split'] == 'train']
    alone.attrs = labelled_people.attrs
    learn = make_learner(table=alone, metrics=Retrieval('rank1', 'mAP'))
    with learn.no_logging():
        said = 'Nobody is held out, .* so that rank1, mAP cannot be told'
        with pytest.warns(UserWarning, match=said): learn.fit(1, 1e-3)
        with pytest.raises(ValueError, match=r'Nobody is held out.* SaveModelCallback watches mAP'):
            learn.fit(1, 1e-3, cbs=SaveModelCallback(monitor='mAP'))
        learn.fit(1, 1e-3, cbs=SaveModelCallback(monitor='train_loss'))
        learn.fit(1, 1e-3, cbs=SaveModelCallback(every_epoch=True))
        learn.recorder.train_metrics = True
        learn.fit(1, 1e-3, cbs=ReduceLROnPlateau(monitor='train_mAP'))
    for verb in (learn.show_results, learn.get_preds, learn.validate):
        with pytest.raises(ValueError, match='none are held out of a table without query'): verb()


def test_a_learner_outlives_an_export_that_fails(make_learner, tmp_path, monkeypatch):
    learn = make_learner(path=tmp_path)
    learn.export('of/its/own.pkl')
    assert (tmp_path/'of'/'its'/'own.pkl').is_file()
    with learn.no_logging(): learn.fit(1, 1e-3)
    opt,state = learn.opt,copy.deepcopy(learn.opt.state_dict())
    (tmp_path/'folder.pkl').mkdir()
    with pytest.raises(OSError, match=r'folder\.pkl cannot be written'): learn.export('folder.pkl')
    assert learn.opt is opt
    assert str(learn.opt.state_dict()) == str(state)
    with learn.no_logging(): learn.fit(1, 1e-3)
