"A learner to ONNX and torch.export and back: the same embeddings, prepared as the file says, without fastai"
import json
import subprocess
import sys
import zipfile
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from started import start

from qsd_fastai.data.loaders import picture_files, recognition_dataloaders
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.embedder import KEY, Embedder, EmbedderSpec
from qsd_fastai.export import DeployedModel, export_embedder, model_card, preprocessing_of
from qsd_fastai.learner import recognition_learner
from qsd_fastai.models.heads.margins import ArcFace
from qsd_fastai.models.preprocess import face_stats
from qsd_fastai.private import without_folders

ROOT = Path(__file__).parents[1]
LONDON = ROOT.parent/'shared'/'data'/'london_faces'/'images'


@pytest.fixture(scope='module')
def exported(labelled_people, tmp_path_factory):
    folder = tmp_path_factory.mktemp('exported')
    dls = recognition_dataloaders(labelled_people, size=(48, 24), n_ids=4, n_imgs=2, num_workers=0)
    learn = recognition_learner(dls, 'test_resnet', path=folder)
    for kind in ('onnx', 'pt2'): export_embedder(learn, folder/f'model.{kind}', labelled_people)
    return folder,learn,labelled_people


@pytest.mark.parametrize('kind', ['onnx', 'pt2'])
def test_a_file_embeds_as_the_learner_does(exported, kind):
    folder,learn,table = exported
    embedder = Embedder(folder/f'model.{kind}')
    names,emb = embedder.embed(picture_files(table), bs=7)
    assert names == picture_files(table).tolist()
    assert emb.dtype == np.float32
    np.testing.assert_allclose(emb, learn.embed(table, normalize=True), atol=1e-4)
    how = embedder.spec
    assert (how.height, how.width, how.channels, how.nf) == (48, 24, 'RGB', emb.shape[1])
    np.testing.assert_allclose(how.mean, [.485, .456, .406], atol=1e-6)


def test_folder_picture_and_array_are_one(exported, tmp_path):
    folder,_,table = exported
    embedder = Embedder(folder/'model.onnx')
    file = picture_files(table).iloc[0]
    with Image.open(file) as img: pixels = np.asarray(img.convert('RGB'))
    (tmp_path/'deep').mkdir()
    Image.fromarray(pixels).save(tmp_path/'deep'/'a.PNG')
    (tmp_path/'note.txt').write_text('no picture')
    names,in_folder = embedder.embed(tmp_path)
    assert names == [str(tmp_path/'deep'/'a.PNG')]
    for other in (file, [pixels], pixels, Image.fromarray(pixels)):
        np.testing.assert_allclose(embedder.embed(other)[1], in_folder, atol=1e-6)


def test_the_mirror_image_is_added(exported):
    folder,learn,table = exported
    how = export_embedder(learn, folder/'flip.onnx', table, flip=True)
    pictures = picture_files(table)[:5].tolist()
    one = Embedder(folder/'model.onnx')
    mirrored = torch.from_numpy(np.stack([one.prepare(o)[:, ::-1] for o in pictures]))
    raw = DeployedModel(learn.model, preprocessing_of(learn, normalized=False)).eval().cpu()
    with torch.no_grad(): want = torch.nn.functional.normalize(learn.embed(pictures) + raw(mirrored)).numpy()
    np.testing.assert_allclose(Embedder(folder/'flip.onnx').embed(pictures)[1], want, atol=1e-4)
    assert how.flip


def test_a_face_body_with_its_head_and_statistics(tmp_path):
    counts = {'n_train': 3, 'n_test': 2, 'n_imgs': 3, 'n_test_imgs': 4}
    table = generate_faces(tmp_path/'faces', **counts, size=(48, 48), progress=False)
    dls = recognition_dataloaders(table, size=(32, 32), n_ids=2, n_imgs=2, stats=face_stats, num_workers=0)
    learn = recognition_learner(dls, 'mobilefacenet', head=ArcFace, body_kwargs={'size': (32, 32)}, path=tmp_path)
    learn.model.to(memory_format=torch.channels_last)
    pictures = sorted(LONDON.rglob('*.jpg'))[:6] if LONDON.is_dir() else picture_files(table)[:6].tolist()
    for file in ('faces.onnx', 'faces.pt2'): export_embedder(learn, tmp_path/file, pictures)
    emb = Embedder(tmp_path/'faces.onnx').embed([str(o) for o in pictures])[1]
    np.testing.assert_allclose(emb, learn.embed(pictures, normalize=True), atol=1e-4)
    np.testing.assert_allclose(emb, Embedder(tmp_path/'faces.pt2').embed(pictures)[1], atol=1e-5)
    assert Embedder(tmp_path/'faces.onnx').spec.mean == (.5, .5, .5)
    assert next(learn.model.parameters()).device == dls.device


def test_the_filter_goes_with_the_file(exported, tmp_path):
    _,_,table = exported
    dls = recognition_dataloaders(table, size=(24, 12), n_ids=4, n_imgs=2, num_workers=0, resize='bicubic')
    learn = recognition_learner(dls, 'test_resnet', path=tmp_path)
    assert learn.model.preprocess.resize == 'bicubic'
    how = export_embedder(learn, tmp_path/'m.pt2', table)
    embedder,file = Embedder(tmp_path/'m.pt2'),picture_files(table).iloc[0]
    assert how.resize == embedder.spec.resize == 'PIL bicubic, to (height, width) whatever the shape'
    with Image.open(file) as img: want = np.asarray(img.convert('RGB').resize((12, 24), Image.BICUBIC))
    np.testing.assert_array_equal(embedder.prepare(file), want)
    assert '_extra_state' not in torch.export.load(tmp_path/'m.pt2').state_dict
    with pytest.raises(ValueError, match=r"resize.*'box'"): recognition_dataloaders(table, resize='box')
    unknown = replace(how, resize='by hand')
    with pytest.raises(ValueError, match='resize of the exported file'): assert unknown.filter


def test_a_picture_that_lies_on_its_side_is_turned_by_both(exported, tmp_path):
    folder,learn,table = exported
    with Image.open(picture_files(table).iloc[0]) as img: lying = img.transpose(Image.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise
    lying.save(tmp_path/'lying.jpg', exif=exif, quality=100, subsampling=0)
    lying.transpose(Image.ROTATE_270).save(tmp_path/'upright.jpg', quality=100, subsampling=0)
    files = [str(tmp_path/'lying.jpg'), str(tmp_path/'upright.jpg')]
    for emb in (learn.embed(files, normalize=True), Embedder(folder/'model.onnx').embed(files)[1]):
        np.testing.assert_allclose(emb[0], emb[1], atol=.02)


def test_what_differs_is_not_kept(exported, tmp_path):
    _,learn,table = exported
    with pytest.raises(RuntimeError, match='differs from the learner'):
        export_embedder(learn, tmp_path/'m.pt2', table, tolerance=-1)
    assert not list(tmp_path.iterdir())


def test_refusals(exported, tmp_path):
    folder,learn,table = exported
    with pytest.raises(FileNotFoundError, match=r'export\.py'): Embedder(tmp_path/'no.onnx')
    with pytest.raises(ValueError, match=r'\.onnx or \.pt2'): export_embedder(learn, tmp_path/'m.bin', table)
    (tmp_path/'broken.jpg').write_bytes(b'\xff\xd8 no')
    embedder = Embedder(folder/'model.onnx')
    with pytest.raises(OSError, match=r'broken\.jpg'): embedder.embed(tmp_path/'broken.jpg')
    with pytest.raises(ValueError, match='uint8'): embedder.embed(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match='empty'): embedder.embed([])
    (tmp_path/'empty').mkdir()
    with pytest.raises(FileNotFoundError, match='no picture'): embedder.embed(tmp_path/'empty')
    with pytest.raises(ValueError, match='how its pictures are prepared'): EmbedderSpec.from_json('', 'x.onnx')
    with pytest.raises(ValueError, match='newer version'):
        EmbedderSpec.from_json(json.dumps({**SPEC, 'later': 1}), 'x.onnx')


SPEC = {'height': 8, 'width': 6, 'mean': [.5]*3, 'std': [.5]*3, 'nf': 4}


def test_a_specification_comes_back():
    how = EmbedderSpec(8, 6, (.5, .4, .3), (.5, .2, 1.), 4, False, True)
    assert EmbedderSpec.from_json(how.to_json(), 'x.onnx') == how
    assert EmbedderSpec.from_json(json.dumps(SPEC), 'x.onnx').nf == 4


WRONG = [None, True, 'x', '8', -1, 0, 1.5, 10**9, float('nan'), float('inf'), [], [1], [.5]*4, ['a']*3, [None]*3,
         [float('nan')]*3, [[1, 2, 3]], [True]*3, {}, {'a': 1}, [10**400]*3]


@pytest.mark.parametrize('k', EmbedderSpec.__dataclass_fields__)
def test_a_specification_of_other_values_is_refused(k):
    fit = {'normalized': [True], 'flip': [True], 'resize': ['x', '8']}.get(k, [])
    for v in WRONG:
        if any(v is o or v == o for o in fit): continue
        with pytest.raises(ValueError, match=rf'x\.onnx says that {k} is .* not .*Export it again'):
            EmbedderSpec.from_json(json.dumps({**SPEC, k: v}), 'x.onnx')
    for text in (None, '', '[]', '3', '{', '['*100_000, '{"height": 1}', json.dumps(list(SPEC))):
        with pytest.raises(ValueError, match='how its pictures are prepared'): EmbedderSpec.from_json(text, 'x.onnx')


def leaks(folder):
    "What would tell who made a file, and where"
    home = Path.home()
    return {o.encode() for o in (str(home), str(folder), str(ROOT), torch.__path__[0], 'site-packages', '/tmp/', '.py')}


def everything(file):
    "The bytes of a file and of its parts, unpacked"
    yield file.read_bytes()
    if not zipfile.is_zipfile(file): return
    with zipfile.ZipFile(file) as z:
        for n in z.namelist():
            yield n.encode()
            yield z.read(n)


@pytest.mark.parametrize('kind', ['onnx', 'pt2'])
def test_a_file_does_not_say_where_it_was_made(exported, kind):
    folder,learn,_ = exported
    names = [f'"{o}"'.encode() for o in learn.dls.vocab]
    for data in everything(folder/f'model.{kind}'):
        for o in (*leaks(folder), *names): assert o not in data, o


PATHS = {'/home/al ice/faces/images.csv': 'images.csv', '~/faces': 'faces', '../../alice/images.csv': 'images.csv',
         'C:\\Users\\alice\\x.csv': 'x.csv', '/a/b.csv,/c/d.csv': 'b.csv,d.csv', 'file:///home/alice/x': 'x',
         'made of /home/alice/x.csv, and (C:\\Users\\one)': 'made of x.csv, and (one)', 'runs/a': 'runs/a',
         'hf-hub:timm/a': 'hf-hub:timm/a', 'rank1/mAP': 'rank1/mAP', '1/2': '1/2', 'a, b': 'a, b', '': '',
         '\\\\server\\share\\images.csv': 'images.csv', 'data/images.csv': 'data/images.csv',
         'a/pairs.csv,/b/c/pairs.csv': 'a/pairs.csv,pairs.csv', 'without,with': 'without,with'}


@pytest.mark.parametrize('path', PATHS)
def test_of_paths_the_last_part_is_shared(path):
    assert without_folders(path) == PATHS[path]
    def of(o): return {'a': [o, .5, None], 'b': {'c': o}}
    assert without_folders(of(path)) == of(PATHS[path])


def test_a_card_holds_no_folders():
    how = EmbedderSpec(112, 96, (.5,)*3, (.5,)*3, 128)
    paths = dict(enumerate(PATHS))
    card = model_card('/home/alice/faces.onnx', how, 'mobilefacenet', {'folder': [*PATHS], **paths}, paths)
    for o in ('alice', 'al ice', '/home', '~', 'Users'): assert o not in card
    assert 'names all who were trained on' in card


@pytest.mark.parametrize('kind', ['onnx', 'pt2'])
def test_changed_bytes_embed_or_are_refused(exported, tmp_path, kind):
    rng,whole = np.random.default_rng(0), (exported[0]/f'model.{kind}').read_bytes()
    file = tmp_path/f'x.{kind}'
    for i in range(25):
        data = bytearray(whole)
        for _ in range(rng.integers(1, 30)): data[rng.integers(len(data) if i % 2 else 4000)] = rng.integers(256)
        file.write_bytes(data[:rng.integers(len(data))] if rng.random() < .3 else data)
        try: Embedder(file)
        except ValueError as e: assert f'x.{kind}' in str(e)
    for data in (b'', b'text', whole[:1000], whole[1000:]):
        file.write_bytes(data)
        with pytest.raises(ValueError, match=rf'x\.{kind} (cannot be read|does not say)'): Embedder(file)


def test_a_foreign_onnx_is_named(exported, tmp_path):
    onnx = pytest.importorskip('onnx')
    made = onnx.load(exported[0]/'model.onnx')
    for change in ({'height': 49}, {'nf': 7}, {'width': 4096}):
        said = json.loads(made.metadata_props[0].value) | change
        other = deepcopy(made)
        onnx.helper.set_model_props(other, {KEY: json.dumps(said)})
        onnx.save(other, tmp_path/'x.onnx')
        with pytest.raises(ValueError, match=r'x\.onnx (does not embed|says that an embedding)'):
            Embedder(tmp_path/'x.onnx')
    node = onnx.helper.make_node('Relu', ['a'], ['b'])
    ends = [onnx.helper.make_tensor_value_info(k, onnx.TensorProto.FLOAT, ['n', 3]) for k in 'ab']
    graph = onnx.helper.make_graph([node], 'g', ends[:1], ends[1:])
    theirs = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid('', 17)], ir_version=8)
    onnx.save(theirs, tmp_path/'x.onnx')
    with pytest.raises(ValueError, match=r'x\.onnx does not say how'): Embedder(tmp_path/'x.onnx')
    onnx.helper.set_model_props(theirs, {KEY: json.dumps(SPEC)})
    onnx.save(theirs, tmp_path/'x.onnx')
    with pytest.raises(ValueError, match=r'x\.onnx does not embed'): Embedder(tmp_path/'x.onnx')


def test_it_runs_without_fastai(exported):
    folder,_,table = exported
    code = ('import sys; from qsd_fastai.embedder import Embedder; Embedder(sys.argv[1]).embed(sys.argv[2]); '
            'assert not {"fastai", "torch"} & set(sys.modules)')
    subprocess.run([sys.executable, '-c', code, str(folder/'model.onnx'), picture_files(table).iloc[0]], check=True)


def test_the_card_says_what_the_model_is():
    how = EmbedderSpec(112, 96, (.5,)*3, (.5,)*3, 128)
    figures = pd.DataFrame({'mAP': [.5]}, index=['with QSD'])
    card = model_card('a/faces.onnx', how, 'mobilefacenet', {'source': 'a set'}, {'epochs': 3, 'out': ''}, figures)
    for part in ('# faces.onnx', 'height 112, width 96', 'channels RGB', 'source: "a set"', 'epochs: 3'):
        assert part in card
    assert '| with QSD | 50.0 |' in card
    assert 'out:' not in card
    assert 'not recorded' in model_card('m.onnx', how, 'b')


def test_the_recipe(exported):
    folder,learn,table = exported
    learn.export('learner.pkl')
    args = {'arch': 'test_resnet', 'seed': 3, 'data': '/home/somebody/faces/images.csv'}
    (folder/'run.json').write_text(json.dumps({'id': 'a', 'args': args}))
    (folder/'results.csv').write_text(',mAP\nwith QSD,.5\n')
    pictures = Path(table.attrs['root'])/'labelled.csv'
    args = folder/'learner.pkl', '--out', folder/'out', '--pictures', pictures
    ended,said = start(ROOT/'recipes'/'export.py', *args, folder=folder)
    assert ended == 0, said
    assert {o.name for o in (folder/'out').iterdir()} == {'model.onnx', 'model.pt2', 'model.md'}
    card = (folder/'out'/'model.md').read_text()
    assert 'body test_resnet' in card
    assert '- seed: 3' in card
    assert '- data: images.csv' in card
    assert '| with QSD | 50.0 |' in card
