"Labels of a table from a saved learner and from weights: the column, the published text form, the report, a stop"
import numpy as np
import pandas as pd
import pytest
import torch
from made_up import ROOT, draw
from quality import embed_in_blocks, label_table, read_blocks
from started import start
from torch.profiler import ProfilerActivity, profile

from qsd_fastai.data.labels import join_quality
from qsd_fastai.data.loaders import recognition_dataloaders
from qsd_fastai.data.table import read_table, write_table
from qsd_fastai.drawn.people import generate_people
from qsd_fastai.learner import recognition_learner
from qsd_fastai.quality import similarity_quality


def run(folder, *args, code=0):
    script = str(ROOT/'data_prep'/'quality.py')
    ended,said = start(script, *args, folder=folder)
    assert ended == code, said[-5000:]
    return said


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp('labels')
    how = {'n_train': 6, 'n_test': 4, 'n_imgs': 5, 'n_test_imgs': 4, 'size': (48, 24)}
    table = generate_people(folder/'people', **how, progress=False)
    dls = recognition_dataloaders(table, size=(32, 16), n_ids=2, n_imgs=2, num_workers=0)
    learn = recognition_learner(dls, 'test_resnet', path=folder)
    learn.export('model.pkl')
    torch.save(learn.model.state_dict(), folder/'model.pth')
    return folder,table,learn


def test_a_learner_labels_a_table(made):
    folder,table,learn = made
    said = run(folder, 'people/images.csv', '--learner', 'model.pkl', '--out', 'a')
    labelled = read_table(folder/'a'/'images.csv')
    for held_out in (False, True):
        rows = ((table['split'] != 'train') == held_out).to_numpy()
        expected = similarity_quality(learn.embed(table[rows]), table.loc[rows, 'identity'].to_numpy(), seed=0)
        np.testing.assert_allclose(labelled.loc[rows, 'quality'], expected, atol=.05)
    assert '50 of 50' not in said
    assert f'{len(table)} of {len(table)} pictures labelled (100.0%)' in said
    again = join_quality(table, folder/'a'/'quality.txt')  # the published form reads back to the same labels
    np.testing.assert_allclose(again['quality'], labelled['quality'], atol=1e-5)
    for file in ('quality.png', 'quality_sheet.png'): assert (folder/'a'/file).stat().st_size
    assert not list((folder/'a').glob('embeddings-*'))
    assert labelled.attrs['record']['quality']['model'] == 'model.pkl'


def test_weights_give_the_labels_of_the_learner(made):
    folder,*_ = made
    run(folder, 'people/images.csv', '--learner', 'model.pkl', '--out', 'b', '--mode', 'exact')
    shape = ['--arch', 'test_resnet', '--height', 32, '--width', 16]
    run(folder, 'people/images.csv', '--weights', 'model.pth', *shape, '--out', 'c', '--mode', 'exact')
    b,c = (read_table(folder/o/'images.csv')['quality'] for o in 'bc')
    pd.testing.assert_series_equal(b, c, atol=1e-3)


def test_embeddings_that_are_there_are_not_made_again(made, monkeypatch):
    folder,table,learn = made
    def embedded():
        return torch.cat(list(read_blocks(embed_in_blocks(learn, table, folder/'kept', block=20), range(len(table)))))
    whole = embedded()
    calls = []
    def embed(self, rows, **_):
        calls.append(len(rows))
        return torch.zeros(len(rows), whole.shape[1])
    monkeypatch.setattr(type(learn), 'embed', embed)
    (folder/'kept'/'000000020.pt').unlink()
    again = embedded()
    assert calls == [20]
    assert torch.equal(again[:20], whole[:20])
    assert not again[20:40].any()


def saved(folder, emb, block):
    "Files of blocks"
    files = [folder/f'{lo}.pt' for lo in range(0, len(emb), block)]
    for file,part in zip(files, emb.split(block)): torch.save(part.clone(), file)
    return files


@pytest.mark.parametrize('rows', [[], [0], [3, 4], [0, 2, 5, 9], range(10), [9], [4, 8]])
def test_rows_are_read_from_the_blocks_that_they_are_in(tmp_path, rows):
    emb = torch.rand(10, 3)
    found = read_blocks(saved(tmp_path, emb, 4), np.array(rows, dtype=int))
    assert torch.equal(torch.cat(list(found)), emb[list(rows)])


def test_embeddings_are_compared_in_a_file(tmp_path):
    "Beside which there is little in memory; the profiler counts what is mapped, once"
    n,nf = 8000,512
    files = saved(tmp_path, torch.randn(n, nf), 512)
    table = pd.DataFrame({'identity': [f'p{i//20}' for i in range(n)], 'split': ['train', 'query']*(n//2)})
    for part,rows in ((table.assign(split='train'), n), (table, n//2)):
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
            assert label_table(part, files, rounds=1, n_pos=2, n_neg=2).notna().all()
        events = [o for o in seen.profiler.kineto_results.events() if o.name() == '[memory]']
        held = np.cumsum([o.nbytes() for o in sorted(events, key=lambda o: o.start_ns())])
        assert held.max() > 4*rows*nf
        assert held.max() < (1.4 if rows == n else 1.7)*4*rows*nf
        compared = torch.from_file(str(tmp_path/'train.f32'), size=rows*nf).view(rows, nf)
        assert torch.allclose(compared.norm(dim=1), torch.ones(rows))
    assert (tmp_path/'held_out.f32').stat().st_size == 4*rows*nf


def test_labels_that_are_there_are_not_lost(made):
    folder,*_ = made
    run(folder, 'people/images.csv', '--learner', 'model.pkl', '--out', 'd')
    before = (folder/'d'/'images.csv').read_bytes()
    assert 'nothing to do' in run(folder, 'd/images.csv', '--learner', 'model.pkl')
    assert '--force' in run(folder, 'd/images.csv', '--learner', 'model.pkl', '--mode', 'exact', code=1)
    assert (folder/'d'/'images.csv').read_bytes() == before
    run(folder, 'd/images.csv', '--learner', 'model.pkl', '--force', '--mode', 'exact')
    assert (folder/'d'/'images.csv').read_bytes() != before


@pytest.mark.parametrize('args,said', [(['--learner', 'none.pkl'], 'none.pkl'), ([], '--learner'),
                                       (['--weights', 'model.pth'], '--arch'),
                                       (['--weights', 'model.pth', '--arch', 'resnet10t'], 'do not fit')])
def test_what_is_refused(made, args, said):
    folder,*_ = made
    assert said in run(folder, 'people/images.csv', *args, '--out', 'e', code=1)


def test_labels_of_others_are_joined_and_their_coverage_recorded(made):
    folder,table,_ = made
    train = table[table['split'] == 'train']
    # SDD-FIQA joins root and name without a separator
    lines = [f'/gone/root{p}\t{k % 100}.5' for k,p in enumerate(train['path'])]
    (folder/'theirs.txt').write_text('\n'.join(lines[:-1]) + '\n')
    def join(file, out, *more, code=0):
        labels = '--labels', file, '--labels-root', '/gone/root'
        return run(folder, 'people/images.csv', *labels, '--out', out, *more, code=code)
    said = join('theirs.txt', 'joined')
    joined = read_table(folder/'joined'/'images.csv')
    assert joined.loc[joined['split'] == 'train', 'quality'].tolist()[:3] == [.5, 1.5, 2.5]
    assert joined['quality'].notna().sum() == len(lines) - 1
    made_of = joined.attrs['record']['quality']
    assert made_of['labels'] == 'theirs.txt'
    assert made_of['coverage']['part'] == pytest.approx((len(lines) - 1)/len(lines))
    assert 'labels unused' in said
    assert 'nothing to do' in join('theirs.txt', 'joined')
    (folder/'half.txt').write_text('\n'.join(lines[:len(lines)//2]) + '\n')
    said = join('half.txt', 'half', code=1)
    assert 'min_coverage is 90%' in said
    assert not (folder/'half').exists()
    join('half.txt', 'half', '--min-coverage', .5)
    assert 'not both' in join('half.txt', 'no', '--learner', 'model.pkl', code=1)


def test_labels_of_another_scale(tmp_path):
    draw(tmp_path, *[f'{i}/{k}.png' for i in range(2) for k in range(3)])
    table = pd.DataFrame({'path': [f'{i}/{k}.png' for i in range(2) for k in range(3)], 'identity': list('000111')})
    write_table(table.assign(split='train'), tmp_path/'images.csv')
    labels = [-3., 1.5, 22, 8, 0, 17.25]
    (tmp_path/'norms.txt').write_text('\n'.join(f'{p} {v}' for p,v in zip(table['path'], labels)))
    said = run(tmp_path, 'images.csv', '--labels', 'norms.txt', code=1)
    assert 'Labels run from -3 to 22. Scale them to 0..100, higher is better, by --scale minmax' in said
    assert '--scale' in run(tmp_path, 'images.csv', '--scale', 'unit', code=1)
    run(tmp_path, 'images.csv', '--labels', 'norms.txt', '--scale', 'minmax')
    found = read_table(tmp_path/'images.csv')
    assert found['quality'].round(2).tolist() == [0, 18, 100, 44, 12, 81]
    assert found.attrs['record']['quality']['scale'] == 'minmax'
    assert 'nothing to do' in run(tmp_path, 'images.csv', '--labels', 'norms.txt', '--scale', 'minmax')
