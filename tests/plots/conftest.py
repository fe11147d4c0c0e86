"What every figure has to be: no text of it overlaps another or is cut off"
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg


def ticks(ax):
    "Labels of the marks within the axes"
    if not ax.axison: return []
    found = []
    for axis,(lo, hi) in ((ax.xaxis, sorted(ax.get_xlim())), (ax.yaxis, sorted(ax.get_ylim()))):
        found += [t for at,t in zip(axis.get_majorticklocs(), axis.get_ticklabels()) if lo <= at <= hi]
    return found


def texts(fig):
    "Every text that is drawn"
    legends = [*fig.legends, *(legend for ax in fig.axes if (legend := ax.get_legend()))]
    found = [t for legend in legends for t in (*legend.get_texts(), legend.get_title())]
    for ax in fig.axes: found += [ax.title, ax._left_title, *ax.texts, ax.xaxis.label, ax.yaxis.label, *ticks(ax)]
    return [t for t in found if t.get_text() and t.get_visible()]


@pytest.fixture(scope='session')
def assert_tidy():
    def check(fig):
        canvas = FigureCanvasAgg(fig)
        canvas.draw()
        width,height = fig.get_size_inches()*fig.dpi
        found = [(t.get_text(), t.get_window_extent(canvas.get_renderer()), t.get_rotation()) for t in texts(fig)]
        for text,box,_ in found:
            assert box.x0 >= -1 and box.x1 <= width + 1, f'{text!r} is cut off at a side'
            assert box.y0 >= -1 and box.y1 <= height + 1, f'{text!r} is cut off above or below'
        for i,(text, box, turned) in enumerate(found):
            for other,its,other_turned in found[i+1:]:
                # the boxes of two that stand aslant side by side may overlap, they do not
                assert turned == other_turned == 30 or not box.overlaps(its), f'{text!r} overlaps {other!r}'
    return check
