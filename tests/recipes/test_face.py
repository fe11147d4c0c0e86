"The face recipe: margin head, labels, QSD and controls, pairs as they are and degraded; from weights; real faces"
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from qsd_fastai.data.packing import write_bin
from qsd_fastai.data.table import read_table, write_table
from qsd_fastai.drawn.faces import generate_faces
from qsd_fastai.judging.sets import PairSets
from qsd_fastai.models.recognizer import Recognizer

ROOT = Path(__file__).parents[2]
LONDON = ROOT.parent/'shared'/'data'/'london_faces'/'images'
sys.path[:0] = [str(ROOT/'recipes'), str(ROOT/'data_prep')]
import bins  # noqa: E402
import face  # noqa: E402
import folder  # noqa: E402

sys.path.insert(0, str(Path(__file__).parents[1]/'runs'))
from wandb_files import runs  # noqa: E402

tiny = dict(arch='test_resnet', size=32, n_ids=4, n_imgs=3, epochs=1, tune_epochs=1)


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    folder = tmp_path_factory.mktemp('faces')
    generate_faces(folder/'faces', n_train=8, n_test=8, n_imgs=5, n_test_imgs=4, size=(48, 48), progress=False)
    return folder


@pytest.fixture(autouse=True)
def offline(monkeypatch): monkeypatch.setenv('WANDB_MODE', 'offline')


def test_every_arm_is_judged_as_it_is_and_degraded(faces, capsys, monkeypatch):
    monkeypatch.setattr(PairSets.degrade, '__defaults__', ((('shrink', 14), ('blur', .7)),))
    results = face.main(str(faces/'faces'/'images.csv'), out=faces/'one', degraded=True, far=.1,
                        arms='without,shuffled,with', **tiny)
    assert list(results.index) == ['baseline', 'fine-tuned without QSD', 'with QSD, quality shuffled',
                                   'fine-tuned with QSD']
    copies = [c for c in results.columns if c.startswith('pairs ') and c.count(' ') == 3]
    assert len(copies) == 4
    assert {'pairs accuracy', 'pairs tar', 'degraded accuracy', 'degraded tar', 'rank1', 'rank20',
            'mAP'} <= set(results.columns)
    assert results.stack().between(0, 1).all()
    mean = results[[c for c in copies if c.endswith('accuracy')]].mean(axis=1)
    pd.testing.assert_series_equal(results['degraded accuracy'], mean, check_names=False)
    said = capsys.readouterr().out
    assert 'Rank correlation of the computed quality with true_quality over 40 training pictures' in said
    assert 'Nobody judged was trained on' in said
    for name in ('baseline_roc.png', 'fine-tuned_with_QSD_rejection.png', 'quality.png', 'quality_agreement.png',
                 'baseline.pkl', 'results.csv'):
        assert (faces/'one'/name).stat().st_size
    tracked = runs(faces/'one')
    assert [o.header.job_type for o in tracked] == ['train', *['fine-tune']*3, 'compare']
    logged = {k for o in tracked[1:] for row in o.history for k in row}
    assert {f'plots/{k}' for k in ('roc', 'det', 'rejection', 'accuracy_pairs_by_true_quality')} <= logged
    assert {'charts/roc_table', 'charts/det_table', 'charts/rejection_table'} <= logged
    assert {f'pairs accuracy {o}' for o in ('worst', 'middle', 'best')} <= set(results.columns)
    for o in tracked: o.check_keys()
    by = pd.read_csv(faces/'one'/'baseline_rejection.csv').columns
    # copies have no true quality
    assert list(by[:3]) == ['rejected', 'length of its embedding', 'likeness, who it is being known']
    labelled = read_table(faces/'one'/'labelled'/'images.csv')
    train = labelled['split'] == 'train'
    for rows in (train, ~train): assert labelled.loc[rows, 'quality'].between(0, 100).all()


def test_weights_as_they_are_are_judged_and_no_model_that_is_not_there_is_used(faces):
    asked = {k: v for k,v in tiny.items() if k != 'epochs'}
    torch.save(Recognizer(tiny['arch'], 2, pretrained=False).body.state_dict(), faces/'body.pth')
    face.main(str(faces/'faces'/'images.csv'), out=faces/'as', epochs=0, weights=str(faces/'body.pth'), arms='without',
              **asked)
    first,then,_ = runs(faces/'as')
    assert (first.header.job_type, then.header.job_type) == ('evaluate', 'fine-tune')
    assert 'model' not in {o.type for o in first.artifacts.values()}
    assert not then.config.get('uses')


def test_weight_zero_is_the_fine_tuning_without(faces):
    results = face.main(str(faces/'faces'/'images.csv'), out=faces/'zero', weight=0., head='cosface',
                        arms='without,with', **tiny)
    without,qsd = (results.loc[f'fine-tuned {o} QSD'] for o in ('without', 'with'))
    assert without.tolist() == qsd.tolist()


def test_weights_are_taken_as_they_are_and_their_head_imprinted(faces):
    body = Recognizer('mobilefacenet', 2, size=(32, 32)).body
    torch.save(body.state_dict(), faces/'body.pt')
    table = str(faces/'faces'/'images.csv')
    results = face.main(table, out=faces/'from', weights=str(faces/'body.pt'), max_imgs=3, arms='with',
                        **{**tiny, 'arch': 'mobilefacenet', 'epochs': 0, 'n_imgs': 2})
    assert list(results.index) == ['baseline', 'fine-tuned with QSD']
    labelled = read_table(faces/'from'/'labelled'/'images.csv')
    assert (labelled.loc[labelled['split'] == 'train', 'identity'].value_counts() == 3).all()


@pytest.mark.parametrize('args,said', [
    ({'head': 'acrface'}, 'Did you mean arcface'),
    ({'epochs': 0}, 'Name them with --weights'),
    ({'arms': 'with,without,wiht'}, 'Did you mean with'),
    ({'augment': 'yes'}, '--augment'),
    ({'map_norm': 'l1'}, 'l1'),
    ({'far': 0.}, '--far 0'),
    ({'sets': 'no/pairs.csv'}, 'No table at'),
    ({'sets': 'lfw.bin'}, 'data_prep/bins.py lfw.bin'),
    ({'n_ids': 9}, '9'),
    ({'arch': 'iresnet18', 'size': 8}, '16 pixels'),
    ({'weights': 'no.pt'}, 'no.pt')])
def test_what_it_refuses(faces, args, said):
    with pytest.raises(SystemExit, match=said):
        face.main(str(faces/'faces'/'images.csv'), out=faces/'no', **{**tiny, **args})
    assert not (faces/'no').exists()


def test_more_sets_are_judged_whatever_their_form(faces, monkeypatch):
    table = read_table(faces/'faces'/'images.csv', check=False)
    pictures = [(faces/'faces'/p).read_bytes() for p in table.loc[table['split'] != 'train', 'path'].iloc[:8]]
    write_bin(pictures, [True, False, True, False], faces/'four.bin')
    bins.bin_table.main(str(faces/'four.bin'), out=str(faces/'sets'))
    for name in ('calm', 'wild'): generate_faces(faces/name, n_train=1, n_test=4, n_imgs=2, n_test_imgs=4,
                                                 size=(48, 48), progress=False)
    monkeypatch.setattr(PairSets.degrade, '__defaults__', ((('shrink', 14),),))
    sets = f'{faces}/sets/four/pairs.csv,{faces}/calm/pairs.csv,{faces}/wild/pairs.csv'
    args = dict(sets=sets, arms='partner', rate=.5, flip=True, augment='face', degraded=True, **tiny)
    results = face.main(str(faces/'faces'/'images.csv'), out=faces/'many', **args)
    assert {f'{k} accuracy' for k in ('pairs', 'four', 'calm', 'wild', 'degraded')} <= set(results.columns)
    assert len(results) == 2
    assert (faces/'many'/'with_QSD_partners_hardest_calm.png').stat().st_size
    with pytest.raises(SystemExit, match='two sets are called calm'):
        face.main(str(faces/'faces'/'images.csv'), sets=f'{faces}/calm/pairs.csv,{faces}/calm/pairs.csv',
                  out=faces/'twice', **tiny)


def test_who_is_judged_is_not_trained_on(faces, tmp_path):
    table = read_table(faces/'faces'/'images.csv', check=False)
    write_table(table.assign(split='train'), tmp_path/'all'/'images.csv')
    (tmp_path/'all'/'pairs.csv').write_text('path1,path2,same,fold\nx.jpg,y.jpg,1,0\n')
    with pytest.raises(SystemExit, match='--hold-out 2'):
        face.main(str(tmp_path/'all'/'images.csv'), out=tmp_path/'run', **tiny)


@pytest.mark.skipif(not LONDON.is_dir(), reason='the London faces are not beside the repository')
def test_real_faces_end_to_end(tmp_path):
    folder.main(str(LONDON), out=str(tmp_path/'london'), query='neutral')
    args = {**tiny, 'n_ids': 12, 'n_imgs': 2, 'by': 'picture', 'pairs': 'partner', 'arms': 'without,with'}
    results = face.main(str(tmp_path/'london'/'images.csv'), out=tmp_path/'run', **args)
    row = results.loc['fine-tuned with QSD']
    assert 0 <= row['rank1'] <= row['rank5'] <= row['rank20'] <= 1  # better than chance
    assert row['rank20'] > 20/51
    labelled = read_table(tmp_path/'run'/'labelled'/'images.csv')
    assert labelled.loc[labelled['split'] == 'train', 'quality'].std() > 1
    assert (tmp_path/'run'/'fine-tuned_with_QSD.pkl').is_file()
    with pytest.raises(SystemExit, match='neither pairs'):
        face.main(str(tmp_path/'london'/'images.csv'), out=tmp_path/'no', degraded=True, **args)
