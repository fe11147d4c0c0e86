"The recipe that judges: its parts in this process, and as people run it"
import errno
import json
import shutil
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.torch_core import set_seed
from matplotlib.figure import Figure
from PIL import Image
from started import start

from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.pairs import write_pairs
from qsd_fastai.data.table import write_table
from qsd_fastai.evaluation.rejection import error_vs_reject, retrieval_vs_reject
from qsd_fastai.evaluation.reranking import expand_queries, k_reciprocal
from qsd_fastai.evaluation.retrieval import by_quality, evaluate_distances, evaluate_retrieval
from qsd_fastai.evaluation.roc import tar_at_far
from qsd_fastai.evaluation.scores import all_pairs
from qsd_fastai.evaluation.single_shot import single_shot_cmc
from qsd_fastai.evaluation.templates import evaluate_identification, pool_templates, template_scores
from qsd_fastai.evaluation.verification import evaluate_verification
from qsd_fastai.export import export_embedder
from qsd_fastai.judging.models import learner_around, open_weights
from qsd_fastai.judging.tables import JudgedTable
from qsd_fastai.learner import recognition_learner

sys.path.insert(0, str(Path(__file__).parents[1]/'runs'))
from wandb_files import Run

pytestmark = [pytest.mark.filterwarnings('ignore::FutureWarning', 'ignore::UserWarning'),
              pytest.mark.usefixtures('one_thread', 'on_cpu')]
RECIPE = Path(__file__).parents[2]/'recipes'/'evaluate.py'


@pytest.fixture(scope='module')
def recipe(script): return script('recipes/evaluate.py')


@pytest.fixture(scope='module')
def people(labelled_people, tmp_path_factory, one_thread):
    "A folder with a table and pairs, a learner saved, and what it embeds"
    folder = tmp_path_factory.mktemp('judged')
    table = labelled_people.copy()
    table.loc[::9, 'camera'] = ''
    table.attrs = {**labelled_people.attrs, 'record': {'source': 'tests'}}
    table = write_table(table, folder/'images.csv')
    held = table[table['split'] != 'train'].reset_index(drop=True)
    pairs,path = all_pairs(held['identity']), held['path'].to_numpy()
    pairs = pairs.sample(frac=1, random_state=0)
    pairs = pd.DataFrame({'path1': path[pairs['first']], 'path2': path[pairs['second']],
                          'same': pairs['same'].to_numpy(),
                          'fold': np.arange(len(pairs)) % 3})
    write_pairs(pairs, folder/'pairs.csv', table)
    set_seed(0)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=4, n_imgs=3, seed=0, num_workers=0, device='cpu')
    learn = recognition_learner(dls, 'test_resnet', path=folder)
    learn.remove_cb(learn.progress)
    learn.fit(1, 3e-3)
    learn.export('learner.pkl')
    torch.save(learn.model.state_dict(), folder/'weights.pth')
    np.savez(folder/'emb.npz', path=held['path'].to_numpy(dtype=str)[::-1],
             emb=learn.embed(held, root=folder).numpy()[::-1])
    return SimpleNamespace(folder=folder, table=table, held=held, pairs=pairs, learn=learn,
                           emb=learn.embed(held, root=folder))


def empty_picture(figure, file, **kwargs): Path(file).touch()


def judged(recipe, out, pictures=False, **kwargs):
    "`results.json` of a run in this process; pictures take time"
    with nullcontext() if pictures else patch.object(Figure, 'savefig', empty_picture):
        recipe.main(**{'out': out, **kwargs})
    return json.loads((out/'results.json').read_text())


def test_every_kind_of_model_gives_the_same(recipe, people, tmp_path):
    export_embedder(people.learn, people.folder/'model.pt2', people.table)
    models = {'learner': {'learner': 'learner.pkl'}, 'exported': {'exported': 'model.pt2'},
              'embeddings': {'embeddings': 'emb.npz'},
              'weights': {'weights': 'weights.pth'}}
    found,said = {},{}
    for name,of in models.items():
        more = {'arch': 'test_resnet', 'height': 32, 'width': 16} if name == 'weights' else {}
        result = judged(recipe, tmp_path/name, data=str(people.folder/'images.csv'),
                        **{k: str(people.folder/v) for k,v in of.items()}, **more)
        found[name] = result['figures']
        assert result['model']['kind'] == name
        assert len(result['model']['sha256']) == 64
        assert result['model']['file'] == next(iter(of.values()))
        said[name] = result['model']
    # how the pictures came to the network, and what it does, of every kind: None where nobody knows
    for name,model in said.items():
        if name in ('learner', 'weights'):
            assert model['pooling'].startswith('gem, p='), name
            assert (model['neck'], model['stride']) == ('bnneck', 2), name
        else: assert [model[k] for k in ('pooling', 'neck', 'stride')] == [None]*3, name
        pictures = [model[k] for k in ('channels', 'size', 'filter', 'mean', 'std')]
        if name == 'embeddings': assert pictures == [None]*5
        else: assert pictures == ['RGB', [32, 16], 'bilinear', [.485, .456, .406], [.229, .224, .225]], name
    frame = pd.DataFrame(found)
    lengthless = frame.index[~frame.index.str.contains('norm')]  # an exported model gives unit embeddings
    for name in models: np.testing.assert_allclose(frame.loc[lengthless, name], frame.loc[lengthless, 'learner'],
                                                   atol=1e-3, err_msg=name)
    of_weights = json.loads((tmp_path/'weights'/'results.json').read_text())['model']
    assert of_weights['size'] == [32, 16]
    assert of_weights['mean'] == [.485, .456, .406]
    assert 'mAP rejecting: feature norm' in found['learner']
    assert 'mAP rejecting: feature norm' not in found['exported']


def test_weights_are_judged_on_the_pictures_they_were_trained_on(recipe, people, tmp_path):
    "FastReID's at stride 1, on bicubic pictures; and BGR where it is said"
    weights = people.learn.model.body.state_dict()
    state = {f'backbone.{k}': v for k,v in weights.items()} | {'heads.weight': torch.ones(8, 128)}
    torch.save({'model': state}, tmp_path/'fastreid.pth')
    o = {'data': str(people.folder/'images.csv'), 'weights': str(tmp_path/'fastreid.pth'), 'arch': 'test_resnet',
         'height': 32, 'width': 16}
    model = judged(recipe, tmp_path/'out', **o, channels='bgr', hardest=0)['model']
    assert [model[k] for k in ('pooling', 'neck', 'stride', 'filter')] == ['average', 'none', 1, 'bicubic']
    assert model['channels'] == 'RGB, first layer turned from BGR'
    network,wanted = open_weights(tmp_path/'fastreid.pth', 'test_resnet', (32, 16))
    held = people.held.assign(split='query')
    held.attrs = people.table.attrs
    emb = learner_around(network, wanted, held).embed(held)
    mean,std = (torch.tensor(o).view(3, 1, 1) for o in wanted.stats)
    def picture(file):
        with Image.open(file) as img: pixels = img.convert('RGB').resize((16, 32), Image.BICUBIC)
        return (torch.from_numpy(np.array(pixels)).permute(2, 0, 1)/255 - mean)/std
    x = torch.stack([picture(people.folder/o) for o in held['path']])
    with torch.no_grad(): want = network.eval().body.forward_features(x).mean((2, 3))
    assert torch.allclose(emb, want, atol=1e-5)


def test_figures_are_those_of_the_library(recipe, people, tmp_path):
    o = {'data': str(people.folder/'images.csv'), 'embeddings': str(people.folder/'emb.npz'), 'rerank': True,
         'expand': 2, 'k1': 4, 'k2': 2,
         'share': .4, 'far': '1e-1,.02', 'thresholds': 'exact', 'qualities': 'quality', 'pictures': True}
    result = judged(recipe, tmp_path/'out', **o)
    figures,emb,held = result['figures'], people.emb, people.held
    query = (held['split'] == 'query').to_numpy()
    ids,cameras = held['identity'].to_numpy(), held['camera'].to_numpy()
    who = ids[query], ids[~query], cameras[query], cameras[~query]
    plain = evaluate_retrieval(emb[query], emb[~query], *who)
    expanded = evaluate_retrieval(expand_queries(emb[query], emb[~query], 2), emb[~query], *who)
    reranked = evaluate_distances(k_reciprocal(emb[query], emb[~query], 4, 2, .4), *who)
    for end,want in (('', plain), (' expanded', expanded), (' re-ranked', reranked)):
        got = [figures[f'{k}{end}'] for k in ('rank1', 'rank5', 'mAP', 'mINP')]
        assert got == pytest.approx([want.rank1, want.cmc[4], want.mAP, want.mINP], rel=1e-6)
    quality = held['quality'].to_numpy()
    thirds = by_quality(plain.per_query, quality[query])
    assert figures['mAP worst'] == pytest.approx(thirds.loc['worst', 'mAP'])
    assert figures['rank1 best'] == pytest.approx(thirds.loc['best', 'rank1'])
    areas = retrieval_vs_reject(plain.per_query, {'quality': quality[query]}).areas['partial']
    for k in ('quality', 'random', 'ideal'): assert figures[f'mAP rejecting: {k}'] == pytest.approx(areas[k])

    rows = [pd.Index(held['path']).get_indexer(people.pairs[c]) for c in ('path1', 'path2')]
    want = evaluate_verification(emb[rows[0]], emb[rows[1]], people.pairs['same'], people.pairs['fold'], 'exact')
    assert figures['accuracy'] == want.accuracy
    assert figures['auc'] == pytest.approx(want.auc)
    assert figures['eer'] == pytest.approx(want.eer)
    assert [figures['tar@0.1'], figures['tar@0.02']] == pytest.approx(list(want.tar_at_far((.1, .02))['tar']))
    published = judged(recipe, tmp_path/'published', **o, far_rule='nearest', ranks='1,7')['figures']
    nearest = want.tar_at_far((.1, .02), 'nearest')['tar']
    assert [published['tar@0.1'], published['tar@0.02']] == pytest.approx(list(nearest))
    assert published['rank7'] == pytest.approx(plain.cmc[6])
    assert 'rank5' not in published
    areas = error_vs_reject(want.per_pair['score'], want.per_pair['same'], *rows, quality, far=.01).areas['partial']
    for k in ('quality', 'random', 'ideal'): assert figures[f'FNMR rejecting: {k}'] == pytest.approx(areas[k], abs=1e-9)

    protocol = result['protocol']
    assert protocol['search']['rerank'] == [4, 2, .4]
    assert protocol['search']['same_camera_excluded']
    assert protocol['pairs']['thresholds'] == 'exact'
    assert protocol['pairs']['far_rule'] == 'below'
    assert set(protocol['pairs']['far']) == {'0.1', '0.02'}
    assert protocol['pairs']['folds'] == 3
    assert protocol['search']['queries'] == query.sum()
    assert not protocol['flip']
    assert result['data']['record']['source'] == 'tests'
    assert len(result['data']['sha256']) == 64
    per_query,per_pair = (pd.read_csv(tmp_path/'out'/f'{k}.csv', keep_default_na=False,
                                      na_values=['']) for k in ('per_query', 'per_pair'))
    assert list(per_query['path']) == list(held['path'][query])
    assert per_query['ap re-ranked'].mean() == pytest.approx(reranked.mAP)
    assert list(per_pair['path1']) == list(people.pairs['path1'])
    assert per_pair['correct'].mean() == pytest.approx(want.per_pair['correct'].mean())
    for k in ('cmc', 'roc', 'det', 'error_vs_reject', 'search_vs_reject', 'map_by_quality', 'accuracy_by_quality',
              'hardest_queries',
              'hardest_pairs'):
        assert (tmp_path/'out'/f'{k}.png').stat().st_size > 5000
    row, = pd.read_csv(tmp_path/'out'/'results.csv').to_dict('records')
    assert row['model'] == 'emb.npz'
    assert row['mAP'] == pytest.approx(plain.mAP)


def test_switches_change_what_they_say(recipe, people, tmp_path):
    data,held = str(people.folder/'images.csv'), people.held
    query = (held['split'] == 'query').to_numpy()
    result = judged(recipe, tmp_path/'a', data=data, learner=str(people.folder/'learner.pkl'), no_cameras=True,
                    euclidean=True, folds=4, flip=True,
                    precision='float16', unit='pair', save_embeddings=str(tmp_path/'kept.npz'))
    kept = np.load(tmp_path/'kept.npz', allow_pickle=False)
    twice = people.learn.embed(held, root=people.folder, flip=True)
    assert kept['emb'].dtype == np.float16
    assert json.loads(str(kept['model']))['file'] == 'learner.pkl'
    np.testing.assert_allclose(kept['emb'], twice, rtol=2e-3, atol=2e-3)
    want = evaluate_retrieval(twice[query].half(), twice[~query].half(), held['identity'][query],
                              held['identity'][~query], normalize=False)
    assert result['figures']['mAP'] == pytest.approx(want.mAP, rel=1e-6)
    assert result['protocol']['flip']
    assert result['protocol']['precision'] == 'float16'
    assert result['protocol']['pairs']['folds'] == 4
    assert not result['protocol']['search']['same_camera_excluded']
    assert result['protocol']['search']['distance'] == 'squared Euclidean'
    again = judged(recipe, tmp_path/'b', data=data, embeddings=str(tmp_path/'kept.npz'), no_cameras=True,
                   euclidean=True, folds=4, unit='pair')
    assert again['figures'] == pytest.approx(result['figures'], nan_ok=True)
    assert 'unit pair' in again['protocol']['pairs']['rejection']


def test_mirror_images_of_every_kind_of_model(recipe, people, tmp_path):
    data,held = str(people.folder/'images.csv'), people.held
    for inside in (False, True): export_embedder(people.learn, people.folder/f'mirror{inside:d}.pt2', people.table,
                                                 flip=inside)
    export_embedder(people.learn, people.folder/'raw.pt2', people.table, normalized=False)
    models = {'outside': {'exported': 'mirror0.pt2'}, 'inside': {'exported': 'mirror1.pt2', 'flip': False},
              'asked': {'exported': 'mirror1.pt2'},
              'raw': {'exported': 'raw.pt2'}, 'learner': {'learner': 'learner.pkl'},
              'weights': {'weights': 'weights.pth'}}
    shape = {'arch': 'test_resnet', 'height': 32, 'width': 16}
    results,kept = {}, {}
    for name,of in models.items():
        given = {'flip': True, 'save_embeddings': str(tmp_path/f'{name}.npz'),
                 **{k: str(people.folder/v) if v else v for k,v in of.items()}}
        results[name] = judged(recipe, tmp_path/name, data=data, hardest=0, **given,
                               **(shape if name == 'weights' else {}))
        kept[name] = torch.from_numpy(np.load(tmp_path/f'{name}.npz', allow_pickle=False)['emb'])
    twice = people.learn.embed(held, root=people.folder, flip=True)
    for name in ('learner', 'weights', 'raw'): torch.testing.assert_close(kept[name], twice, rtol=1e-3, atol=1e-3)
    unit = torch.nn.functional.normalize(twice)
    for name in ('inside', 'asked'): torch.testing.assert_close(kept[name], unit, rtol=1e-3, atol=1e-4)
    once = people.learn.embed(held, root=people.folder, normalize=True)
    mirrored = torch.nn.functional.normalize(twice - people.learn.embed(held, root=people.folder))
    torch.testing.assert_close(kept['outside'], once + mirrored, rtol=1e-3, atol=1e-4)
    for name,result in results.items():
        inside = name in ('inside', 'asked')
        assert result['protocol']['flip'] is True
        assert result['protocol']['flip_inside'] is inside
        if 'exported' in models[name]:
            assert result['model']['flip_inside'] is inside
            assert result['model']['normalized'] is (name != 'raw')


def test_a_judgement_that_failed_does_not_keep_the_folder(recipe, people, tmp_path):
    o = {'data': str(people.folder/'images.csv'), 'embeddings': str(people.folder/'emb.npz')}
    with pytest.raises(SystemExit, match='--far 2'): judged(recipe, tmp_path/'out', far='2', **o)
    full = OSError(errno.ENOSPC, 'No space left on device')
    with patch.object(JudgedTable, 'write', side_effect=full), pytest.raises(SystemExit, match='No space left'):
        judged(recipe, tmp_path/'out', **o)
    assert judged(recipe, tmp_path/'out', **o)['figures']['mAP'] > 0
    with pytest.raises(SystemExit, match=r'already holds a run\. Name another --out'):
        judged(recipe, tmp_path/'out', **o)


def test_single_gallery_shot_where_the_record_says_so(recipe, people, tmp_path):
    table = people.table.copy()
    table.attrs = {**people.table.attrs, 'record': {'single_gallery_shot': True}}
    write_table(table, people.folder/'single'/'images.csv')
    held = table[table['split'] != 'train']
    rebased = people.folder/'single'
    paths = pd.read_csv(rebased/'images.csv')['path'][table['split'] != 'train']
    np.savez(tmp_path/'emb.npz', path=paths.to_numpy(dtype=str), emb=people.emb.numpy())
    result = judged(recipe, tmp_path/'out', data=str(rebased/'images.csv'), embeddings=str(tmp_path/'emb.npz'))
    query = (held['split'] == 'query').to_numpy()
    who = [held[c].to_numpy()[o] for c in ('identity', 'camera') for o in (query, ~query)]
    want = single_shot_cmc(people.emb[query], people.emb[~query], *who)
    assert result['figures']['rank1 single gallery shot'] == pytest.approx(want[0])
    assert 'accuracy' not in result['figures']
    assert result['protocol']['search']['single_gallery_shot'] == 'exact'


def test_open_set_where_the_record_says_so(recipe, people, tmp_path):
    table,folder = people.table.copy(),people.folder/'open'
    lost = (table['split'] == 'gallery') & (table['identity'] == table['identity'][table['split'] == 'query'].iloc[0])
    asked = {'rank': 2, 'fpir': [.5, 0.], 'gallery': 'mean of a person'}
    table.attrs = {**people.table.attrs, 'record': {'open_set': asked}}
    emb = people.emb[~lost[table['split'] != 'train'].to_numpy()]
    table = write_table(table[~lost], folder/'images.csv')
    held = table[table['split'] != 'train'].reset_index(drop=True)
    np.savez(tmp_path/'emb.npz', path=held['path'].to_numpy(dtype=str), emb=emb.numpy())
    found = judged(recipe, tmp_path/'out', data=str(folder/'images.csv'), embeddings=str(tmp_path/'emb.npz'))
    query = (held['split'] == 'query').to_numpy()
    who,unit = held['identity'].to_numpy(),torch.nn.functional.normalize(emb.double()).numpy()
    names = sorted(set(who[~query]))
    means = np.stack([unit[~query & (who == n)].mean(0) for n in names])
    scores = unit[query]@(means/np.linalg.norm(means, axis=1, keepdims=True)).T
    mated = np.isin(who[query], names)
    assert 0 < (~mated).sum() < len(mated)
    wrong,own = np.sort(scores[~mated].max(1)), who[query][mated][:, None] == names
    place = np.argsort(np.argsort(-scores[mated]))[own]
    for rate in (.5, 0.):
        limit = wrong[::-1][int(len(wrong)*rate)]
        want = ((scores[mated][own] > limit) & (place < 2)).mean()
        assert found['figures'][f'tpir2@{rate:g}'] == pytest.approx(want)
    assert found['protocol']['search']['open_set']['rank'] == 2


def test_templates(recipe, people, tmp_path):
    folder = people.folder/'templates'
    table = write_table(people.table, folder/'images.csv')
    rows = np.flatnonzero(table['split'] != 'train')
    held = table.iloc[rows].reset_index(drop=True)
    codes = pd.factorize(held['identity'])[0]
    number = 10*codes + np.arange(len(held)) % 2  # two templates a person
    templates = pd.DataFrame({'path': held['path'], 'template': number, 'media': np.arange(len(held))//2})
    names = np.unique(number)
    first,second = np.triu_indices(len(names), 1)
    pairs = pd.DataFrame({'template1': names[first], 'template2': names[second],
                          'same': (names[first]//10 == names[second]//10).astype(int)})
    templates.to_csv(folder/'templates.csv', index=False)
    pairs.to_csv(folder/'template_pairs.csv', index=False)
    lists = pd.DataFrame({'template': names, 'identity': [f'p{n//10}' for n in names]})
    lists[::2].assign(list='G1').to_csv(folder/'gallery.csv', index=False)
    lists[1::2].to_csv(folder/'probe.csv', index=False)
    np.savez(tmp_path/'emb.npz', path=held['path'].to_numpy(dtype=str), emb=people.emb.numpy())
    result = judged(recipe, tmp_path/'out', data=str(folder/'images.csv'), embeddings=str(tmp_path/'emb.npz'),
                    media_norm=True, weigh='quality',
                    far='.1')
    pooled = pool_templates(people.emb, number, templates['media'], media_norm=True, quality=held['quality'])
    scores = template_scores(pooled, pairs['template1'], pairs['template2'])
    assert result['figures']['template tar@0.1'] == pytest.approx(tar_at_far(scores, pairs['same'], .1)['tar'].iloc[0])
    gallery = {'G1': (pooled.emb[::2], lists['identity'][::2])}
    want = evaluate_identification(pooled.emb[1::2], lists['identity'][1::2], gallery).figures.loc['mean']
    assert result['figures']['template rank1'] == pytest.approx(want['rank1'])
    at, = tar_at_far(scores, pairs['same'], .1).itertuples()
    far = {'0.1': {'threshold': pytest.approx(at.threshold), 'false_accepts': at.false_accepts}}
    assert result['protocol']['templates'] == {
        'templates': 12, 'pairs': 66, 'pool': 'mean', 'media_norm': True, 'weigh': 'quality', 'far': far,
        'far_rule': 'below'}


def test_many_splits_give_mean_and_spread(recipe, people, tmp_path, capsys):
    folder = people.folder/'splits'
    for i in range(3):
        table = people.table.copy()
        held = table['split'] != 'train'
        table.loc[held, 'split'] = np.where((np.arange(held.sum()) + i) % 4 < 2, 'query', 'gallery')
        table.attrs = people.table.attrs
        write_table(table, folder/f'split_{i}.csv')
    path = pd.read_csv(folder/'split_0.csv')['path'][(people.table['split'] != 'train').to_numpy()]
    np.savez(tmp_path/'emb.npz', path=path.to_numpy(dtype=str), emb=people.emb.numpy())
    result = judged(recipe, tmp_path/'out', data=str(folder/'split_*.csv'), embeddings=str(tmp_path/'emb.npz'))
    rows = pd.read_csv(tmp_path/'out'/'results.csv', index_col='table')
    assert list(rows.index) == ['split_0', 'split_1', 'split_2']
    assert rows['mAP'].nunique() > 1
    one = json.loads((tmp_path/'out'/'split_1'/'results.json').read_text())
    assert one['figures']['mAP'] == pytest.approx(rows.loc['split_1', 'mAP'])
    assert result['figures']['mAP']['mean'] == pytest.approx(rows['mAP'].mean())
    assert result['figures']['mAP']['std'] == pytest.approx(rows['mAP'].std())
    assert 'mean' in capsys.readouterr().out


@pytest.mark.parametrize('wrong, said', [
    ({}, 'Name one model'),
    ({'embeddings': 'emb.npz', 'learner': 'learner.pkl'}, 'Name one model'),
    ({'learner': 'no.pkl'}, 'There is no file'),
    ({'learner': 'learner.pkl', 'arch': 'resnet18', 'height': 32}, 'arch, size, for --weights, is given as well'),
    ({'learner': 'weights.pth'}, 'is not a learner'),
    ({'weights': 'weights.pth'}, 'needs --arch'),
    ({'weights': 'weights.pth', 'arch': 'resnet18', 'height': 32, 'width': 16}, 'do not fit'),
    ({'weights': 'weights.pth', 'arch': 'test_resnet'}, '--height and --width'),
    *(({'embeddings': file}, said) for file,said in (
        ('pairs.csv', 'no arrays'), ('cut.npz', 'no arrays'), ('array.npy', 'no arrays'), ('flat.npz', 'paths and'),
        ('few.npz', 'lacks 4 of 24 pictures'), ('twice.npz', 'twice'))),
    *(({'embeddings': 'emb.npz', option: value}, said) for option,value,said in (
        ('far', '2', '--far 2'), ('far', '.1,x', '--far x'), ('thresholds', 'gird', 'Did you mean grid'),
        ('unit', 'pairs', '--unit'), ('weigh', 'qualty', 'Did you mean quality'), ('pool', 'max', '--pool'),
        ('qualities', 'qualty', 'Did you mean quality'),
        ('flip', True, '--flip'), ('precision', 'half', '--precision'), ('data', '', '--data'),
        ('data', 'none_*.csv', 'No table matches'), ('data', 'no.csv', 'No table at'),
        ('data', 'train.csv', 'only training pictures'), ('sets', 'no.csv', 'No pairs at')))], ids=str)
def test_errors_are_one_line(recipe, people, tmp_path, monkeypatch, wrong, said):
    monkeypatch.chdir(people.folder)
    kept = np.load('emb.npz')
    np.savez('few.npz', path=kept['path'][4:], emb=kept['emb'][4:])
    np.savez('twice.npz', path=np.r_[kept['path'], kept['path'][:1]], emb=np.r_[kept['emb'], kept['emb'][:1]])
    np.savez('flat.npz', path=kept['path'], emb=kept['emb'][:, 0])
    np.save('array.npy', kept['emb'])
    Path('cut.npz').write_bytes(Path('emb.npz').read_bytes()[:-100])
    if wrong.get('data') == 'train.csv':
        monkeypatch.chdir(tmp_path)
        people.table[people.table['split'] == 'train'].to_csv('train.csv', index=False)
        wrong = {**wrong, 'embeddings': str(people.folder/'emb.npz')}
    with pytest.raises(SystemExit) as e: recipe.main(**{'data': 'images.csv', 'out': str(tmp_path/'out'), **wrong})
    assert said in str(e.value)
    assert '\n' not in str(e.value)


def test_embeddings_without_the_pictures(recipe, people, tmp_path, capsys):
    held = people.held.assign(path=[f'elsewhere/{i}.jpg' for i in range(len(people.held))])
    held.to_csv(tmp_path/'images.csv', index=False)
    np.savez(tmp_path/'emb.npz', path=held['path'].to_numpy(dtype=str), emb=people.emb.numpy())
    result = judged(recipe, tmp_path/'out', pictures=True, data=str(tmp_path/'images.csv'),
                    embeddings=str(tmp_path/'emb.npz'))
    assert 0 < result['figures']['mAP'] < 1
    assert 'pictures are missing' in (said := capsys.readouterr().out)
    assert 'not shown' in said
    assert (tmp_path/'out'/'cmc.png').is_file()
    assert not (tmp_path/'out'/'hardest_queries.png').exists()


def test_the_model_that_a_recipe_left_is_linked(recipe, people, tmp_path):
    stage = tmp_path/'reid'/'fine-tuned_with_QSD.pkl'
    shutil.copytree(people.folder, tmp_path/'reid')
    (tmp_path/'reid'/'learner.pkl').rename(stage)
    kept = {'id': 'abc', 'args': {}, 'stages': {'baseline': {}, 'fine-tuned with QSD': {}}}
    for args,linked in (({}, ['abc-fine-tuned_with_QSD-model']), ({'no_wandb': True}, None)):
        (tmp_path/'reid'/'run.json').write_text(json.dumps(kept | {'args': args}))
        out = tmp_path/f'out{linked is None}'
        recipe.main(learner=str(stage), data=str(people.folder/'images.csv'), out=str(out), wandb=True, hardest=0)
        tracked = Run(next((out/'wandb').glob('offline-run-*')))
        assert tracked.config.get('uses') == linked
        assert json.loads((out/'results.json').read_text())['model'].get('artifact') == (linked and linked[0])


def test_as_people_run_it(recipe, people, tmp_path):
    args = ['--learner', people.folder/'learner.pkl', '--data', people.folder/'images.csv', '--out', 'out', '--wandb',
            '--hardest', 3]
    ended,said = start(RECIPE, *args, folder=tmp_path, WANDB_MODE='offline', COLUMNS='200')
    assert ended == 0, said
    for part in ('learner.pkl on', 'mAP', 'accuracy', 'wandb sync', 'Everything is in out'): assert part in said
    folder, = (tmp_path/'out'/'wandb').glob('offline-run-*')
    assert len(list((folder/'files'/'media').rglob('*.png'))) >= 9
    tracked = Run(folder)
    tracked.check_keys()
    assert tracked.rows('tables/hardest_pairs')
    assert tracked.header.job_type == 'evaluate'
    assert 'uses' not in tracked.config # No recipe has left this learner
    again = dict(learner=str(people.folder/'learner.pkl'), data=str(people.folder/'images.csv'),
                 out=str(tmp_path/'out'))
    with pytest.raises(SystemExit, match='already holds a run'): recipe.main(**again)
