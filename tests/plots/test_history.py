"How a training went: what the figure says, and that nothing overlaps"
import numpy as np
import pandas as pd
import pytest

from qsd_fastai.plots.history import history_figure


def lines(ax): return {line.get_label().split(':')[0]: line for line in ax.lines}


@pytest.mark.parametrize('n', [1, 2, 120])
def test_losses_and_figures_over_epochs(n, assert_tidy):
    rng,at = np.random.default_rng(0),np.arange(1, n + 1)
    names = ['mean/smooth_loss', 'valid/loss', 'valid/rank1', 'valid/mAP', 'valid/mAP_worst', 'mean/identity']
    epochs = pd.DataFrame({**{k: rng.random(n) for k in names}, 'cost/pictures_a_second': 1., 'epoch': at})
    fig = history_figure(epochs)
    loss,valid = fig.axes
    said = '1 epoch' if n == 1 else f'{n} epochs'
    assert [o.get_title() for o in fig.axes] == [f'Loss, {said}', f'Validation, {said}']
    assert list(lines(loss)) == ['training']
    assert list(lines(valid)) == ['rank1', 'mAP', 'mAP_worst']
    np.testing.assert_array_equal(lines(valid)['mAP'].get_xydata(), np.stack([at, epochs['valid/mAP']], 1))
    # told apart without colour
    shapes = [(o.get_linestyle(), o.get_marker()) for o in valid.lines]
    assert len(set(shapes)) == len(shapes)
    assert_tidy(fig)


def test_no_figure_validated():
    ax, = history_figure(pd.DataFrame({'mean/smooth_loss': [2., 1.], 'epoch': [1, 2]})).axes
    assert list(lines(ax)) == ['training']
    ax, = history_figure(pd.DataFrame({'mean/smooth_loss': [2.], 'valid/loss': [3.], 'epoch': [1]})).axes
    assert list(lines(ax)) == ['training', 'validation']
    assert not history_figure(pd.DataFrame({'epoch': [1]})).axes
