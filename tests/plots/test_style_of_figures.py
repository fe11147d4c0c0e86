"The line that says of what a figure is: whole, and above everything"
import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from qsd_fastai.plots.pictures import sheet_figure
from qsd_fastai.plots.style import new_figure, set_title, signed

LONG = 'Gained and lost most: with QSD, quality shuffled, over "fine-tuned without QSD"; resnet50, table people, run a'


def boxes(fig, texts):
    "Where they are drawn, pixels, and the size of the figure"
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return [o.get_window_extent(canvas.get_renderer()) for o in texts],*fig.get_size_inches()*fig.dpi


@pytest.mark.parametrize('n', [1, 6])
def test_lines_over_pictures_stand_one_above_the_other(n):
    fig = sheet_figure([[np.zeros((64, 32, 3), np.uint8)]*n], [[50.]*n])
    caption = fig.axes[0].texts[0]
    for text in ('12 queries', LONG, 'last'): signed(fig, text)
    assert ' '.join(fig.texts[1].get_text().split()) == LONG
    (*lines,below),width,height = boxes(fig, [*fig.texts[::-1], caption])
    assert lines[0].y1 <= height
    for o in lines:
        assert o.x0 >= 0
        assert o.x1 <= width
    for above,under in zip(lines, [*lines[1:], below]): assert above.y0 >= under.y1 - 1


def test_a_line_over_axes_is_whole():
    fig,ax = new_figure()
    set_title(ax, 'What is shown')
    fig = signed(fig, LONG)
    (line,title),width,height = boxes(fig, [fig._suptitle, ax.title])
    assert ' '.join(fig.get_suptitle().split()) == LONG
    assert line.x0 >= 0
    assert line.x1 <= width
    assert line.y1 <= height
    assert title.y1 <= line.y0
