"`predict` says who it is: of a gallery, or of training; whatever the picture comes as"
import math
import os
import shutil
from functools import partial
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from fastai.data.block import CategoryBlock, DataBlock
from fastai.data.transforms import ColReader, get_image_files
from fastai.learner import load_learner
from fastai.vision.augment import Resize
from fastai.vision.data import ImageBlock
from PIL import Image

from qsd_fastai.data.given import TableRow, given_rows, picture_files
from qsd_fastai.data.pictures import PictureError
from qsd_fastai.learner import RecognitionLearner, recognition_learner
from qsd_fastai.models.heads.margins import ArcFace
from qsd_fastai.models.heads.partial_fc import PartialFC
from qsd_fastai.quality import norm_quality
from qsd_fastai.verbs.answers import Gallery

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning'),
              pytest.mark.usefixtures('one_thread')]


@pytest.fixture(scope='module')
def files(labelled_people): return picture_files(labelled_people).tolist()


def forms(table, file):
    "One picture as fastai's users hold it"
    with Image.open(file) as img: pixels = np.asarray(img.convert('RGB'))
    row = table[[o == file for o in picture_files(table)]]
    return {'str': file, 'Path': Path(file), 'bytes': Path(file).read_bytes(), 'PIL': Image.fromarray(pixels),
            'array': pixels, 'tensor': torch.tensor(pixels), 'planes': torch.tensor(pixels).permute(2, 0, 1),
            'Series': row.iloc[0], 'itertuples': next(row.itertuples()), 'dict': row.to_dict('records')[0],
            'DataFrame': row, 'get_image_files': get_image_files(Path(file).parent).filter(lambda o: str(o) == file),
            'TableRow': given_rows(row)[0]}


def test_every_form_of_a_picture(no_gallery, labelled_people, files):
    learn = no_gallery
    wanted = learn.embed(files[:1])
    for kind,form in forms(labelled_people, files[0]).items():
        lossy = {'atol': 1e-5, 'err_msg': kind}
        np.testing.assert_allclose(learn.predict(form).embedding, wanted[0], **lossy)
        np.testing.assert_allclose(learn.embed(form), wanted, **lossy)
        np.testing.assert_allclose(learn.get_preds(dl=learn.dls.test_dl(form))[0], wanted, **lossy)
        if kind in ('DataFrame', 'get_image_files'): continue  # are lists themselves
        np.testing.assert_allclose(learn.embed([form]), wanted, **lossy)


def test_folders_tables_and_lists_of_rows(trained, labelled_people, files):
    folder = Path(files[0]).parent
    for data in (folder, str(folder), get_image_files(folder).sorted(), labelled_people):
        assert trained.embed(data).shape == (72, 96)
        assert len(trained.dls.test_dl(data).items) == 72
    rows = [o for _,o in labelled_people[:3].iterrows()]
    np.testing.assert_allclose(trained.embed(rows), trained.embed(files[:3]), atol=1e-5)
    mixed = [rows[0], files[1], next(labelled_people[2:3].itertuples())]
    np.testing.assert_allclose(trained.embed(mixed), trained.embed(files[:3]), atol=1e-5)


def test_rows_start_where_their_table_lies(labelled_people, tmp_path, monkeypatch):
    bare = labelled_people[:2].copy()
    bare.attrs = {}
    root = labelled_people.attrs['root']
    assert [o.file for o in given_rows(bare, root)] == [o.file for o in given_rows(bare, None, root)]
    told = bare.copy()
    told.attrs = {'root': 'told'}
    assert given_rows(told, None, root)[0].file == str(Path('told')/bare['path'][0])
    monkeypatch.chdir(root)  # there they are
    assert given_rows(bare, None, tmp_path)[0].file == os.path.join('.', bare['path'][0])


NO_PICTURES = {'number': (3, 'of type int'), 'None': (None, 'of type NoneType'), 'dict': ({'a': 1}, 'of type dict'),
               'numbers': ([3], 'of type int'), 'name': ('hello.jpg', r'hello\.jpg does not exist'),
               'floats': (np.zeros((8, 8, 3)), 'float64'), 'nothing': ([], 'empty'), 'lists': ([['a']], 'of type list')}


@pytest.mark.parametrize('kind', NO_PICTURES)
def test_what_is_no_picture_is_named(trained, kind):
    given,said = NO_PICTURES[kind]
    for verb in (trained.embed, trained.predict, lambda o: trained.get_preds(dl=trained.dls.test_dl(o))):
        with pytest.raises((ValueError, OSError), match=said): verb(given)


def test_a_file_that_is_no_picture(trained, labelled_people, tmp_path):
    (tmp_path/'notes.txt').write_text('no picture')
    with pytest.raises(PictureError, match=r'notes\.txt'): trained.embed(tmp_path/'notes.txt')
    with pytest.raises(FileNotFoundError, match='holds no picture'): trained.embed(tmp_path)
    with pytest.raises(ValueError, match=r'columns identity.*column path'):
        trained.embed(labelled_people[['identity']])
    with pytest.raises(ValueError, match='without rows'): trained.embed(labelled_people[:0])
    with pytest.raises(ValueError, match='3 pictures, and predict is for one'): trained.predict(labelled_people[:3])
    with pytest.raises(ValueError, match='1 of 1 pictures have no identity'):
        trained.dls.test_dl(tmp_path/'notes.txt', with_labels=True)


def test_without_a_gallery_the_head_names_who_it_was_trained_on(no_gallery, files):
    learn = no_gallery
    answer = learn.predict(files[5])
    name,index,scores = answer
    with torch.no_grad(): wanted = learn.model.head(learn.embed(files[5])).softmax(1)[0]
    torch.testing.assert_close(scores, wanted)
    assert index == wanted.argmax()
    assert name == learn.dls.vocab[index] == answer.identities[index]
    assert len(answer.identities) == 8
    assert list(answer.nearest.columns) == ['identity', 'probability']
    assert answer.nearest['probability'].is_monotonic_decreasing
    assert math.isnan(answer.quality)
    assert answer.length == pytest.approx(float(answer.embedding.norm()))
    picture,*others = learn.predict(files[5], with_input=True)
    assert picture.size == (32, 64)
    assert others[0] == name
    assert len(learn.predict(files[5], top=2).nearest) == 2


@pytest.mark.parametrize('head', [partial(ArcFace, s=16.), partial(PartialFC, margin=partial(ArcFace, s=16.), rate=.6)])
def test_a_margin_head_gives_cosines(make_learner, files, head):
    learn = make_learner(head=head)
    answer = learn.predict(files[0])
    weight = torch.nn.functional.normalize(learn.model.head.weight.detach())
    torch.testing.assert_close(answer.scores, weight@torch.nn.functional.normalize(answer.embedding, dim=0))
    assert answer.kind == 'cosine'


def test_a_gallery_is_searched(no_gallery, labelled_people, files):
    learn = no_gallery
    learn.gallery = labelled_people
    there = labelled_people[labelled_people['split'] == 'gallery']
    assert len(learn.gallery) == len(there)
    query = labelled_people.index[labelled_people['split'] == 'query'][3]
    answer = learn.predict(files[query])
    cosine = (learn.embed(there, normalize=True)@torch.nn.functional.normalize(answer.embedding, dim=0)).numpy()
    best = there.assign(cosine=cosine).sort_values('cosine', ascending=False).drop_duplicates('identity')
    assert answer.nearest['identity'].tolist() == best['identity'].tolist()[:5]
    assert answer.nearest['path'].tolist() == best['path'].tolist()[:5]
    np.testing.assert_allclose(answer.nearest['cosine'], best['cosine'][:5], atol=1e-6)
    name,index,scores = answer
    assert name == answer.identities[index] == best['identity'].iloc[0]
    np.testing.assert_allclose(scores, best.set_index('identity')['cosine'][answer.identities], atol=1e-6)
    everybody = torch.cat([learn.embed(there), answer.embedding[None]])
    assert answer.quality == pytest.approx(norm_quality(everybody)[-1], abs=1e-3)


def test_an_answer_prints(no_gallery, labelled_people, files):
    learn = no_gallery
    learn.gallery = labelled_people
    said = repr(learn.predict(files[-1]))
    for part in ('cosine', 'gallery of 12 pictures of 6 identities', labelled_people['path'].iloc[-1],
                 'embedding of 96 numbers, length', 'of 100 by its length'):
        assert part in said
    assert max(map(len, said.split('\n'))) <= 100
    learn.predict(files[0]).show()
    fig = plt.gcf()
    assert len(fig.axes[0].images) == 6
    plt.close(fig)
    assert 'quality' not in repr(make_answer_without_gallery(learn, files[0]))


def make_answer_without_gallery(learn, file):
    learn.gallery = None
    answer = learn.predict(file)
    answer.show()
    plt.close('all')
    return answer


def test_a_gallery_of_any_table(no_gallery, labelled_people, files):
    learn = no_gallery
    train = labelled_people[labelled_people['split'] == 'train']
    learn.gallery = train  # none of its rows is a gallery's
    assert len(learn.gallery) == len(train)
    assert learn.predict(files[0]).nearest['cosine'].iloc[0] == pytest.approx(1, abs=1e-5)
    assert learn.predict(files[0]).name == train['identity'].iloc[0]
    for wrong,said in ((3, 'a int'), (train[['path']], 'this is path'), (train[:0], 'no rows'),
                       (train.assign(identity=''), "'identity' is empty")):
        with pytest.raises(ValueError, match=said): learn.gallery = wrong
    with pytest.raises(FileNotFoundError): learn.gallery = train.assign(path='nowhere.jpg')[:1]
    assert learn.gallery is None


def test_a_gallery_is_embedded_again_where_weights_have_changed(make_learner, labelled_people, files, tmp_path):
    learn = make_learner(path=tmp_path)
    learn.gallery = labelled_people
    marks = [learn.gallery.weights]
    learn.predict(files[0])
    marks.append(learn.gallery.weights)
    with learn.no_logging(): learn.fit(1, 1e-2)
    answer = learn.predict(files[-1])
    marks.append(learn.gallery.weights)
    assert marks[0] == marks[1] != marks[2]
    assert answer.scores[answer.identities.index(labelled_people['identity'].iloc[-1])] == pytest.approx(1, abs=1e-5)


def test_a_gallery_travels_with_the_learner(make_learner, labelled_people, files, tmp_path):
    learn = make_learner(path=tmp_path)
    learn.gallery = labelled_people
    answer = learn.predict(files[50])
    learn.export('it.pkl')
    again = load_learner(tmp_path/'it.pkl')
    assert type(again) is RecognitionLearner
    np.testing.assert_allclose(again.predict(files[50]).scores, answer.scores, atol=1e-5)
    for o in again.gallery.rows: o.file = str(tmp_path/'gone.jpg')
    assert again.predict(files[50]).name == answer.name  # pictures are not looked at again
    for p in again.model.parameters(): p.data.mul_(1.1)
    with pytest.raises(ValueError, match=r'Set learn\.gallery again'): again.predict(files[50])
    learn.gallery = None
    learn.export('it.pkl')
    assert load_learner(tmp_path/'it.pkl').gallery is None


def test_a_gallery_is_found_from_elsewhere(make_learner, labelled_people, tmp_path, monkeypatch):
    "Below the folder at hand, which may have moved, or else below that which it was made in"
    home = tmp_path/'home'
    shutil.copytree(labelled_people.attrs['root'], home/'people')
    monkeypatch.chdir(home)
    table = labelled_people.copy()
    table.attrs = {'root': 'people'}
    learn = make_learner(path=home)
    learn.gallery = table
    learn.export('it.pkl')
    first = learn.gallery.rows[0].file
    assert not Path(first).is_absolute()
    monkeypatch.chdir(tmp_path)
    assert load_learner(home/'it.pkl').gallery.rows[0].file == str(home/first)
    home.rename(tmp_path/'moved')
    monkeypatch.chdir(tmp_path/'moved')
    assert load_learner('it.pkl').gallery.rows[0].file == first


def test_blocks_of_ones_own(labelled_people, files, tmp_path):
    "fastai's own getters and loaders: files and pictures are taken as fastai takes them"
    block = DataBlock(blocks=(ImageBlock, CategoryBlock), get_y=ColReader('identity'), item_tfms=Resize(32),
                      get_x=ColReader('path', pref=labelled_people.attrs['root'] + '/'))
    train = labelled_people[labelled_people['split'] == 'train']
    learn = recognition_learner(block.dataloaders(train, bs=8, num_workers=0), 'test_resnet', path=tmp_path)
    learn.remove_cb(learn.progress)
    wanted = learn.embed(files[:2])
    np.testing.assert_allclose(learn.embed(labelled_people[:2]), wanted, atol=1e-5)
    with Image.open(files[0]) as img: np.testing.assert_allclose(learn.predict(img).embedding, wanted[0], atol=1e-5)
    assert learn.predict(files[1]).name in set(train['identity'])
    learn.gallery = labelled_people
    assert learn.predict(files[-1]).name == labelled_people['identity'].iloc[-1]


def test_rows_of_tables_are_slots(labelled_people):
    assert not hasattr(TableRow('a.jpg'), '__dict__')
    assert repr(Gallery(labelled_people, None)) == 'gallery of 12 pictures of 6 identities'
