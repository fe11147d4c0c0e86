"One palette and one frame for all figures"
import math
from textwrap import fill

from matplotlib.figure import Figure
from matplotlib.textpath import TextPath

__all__ = ['bare', 'legend_below', 'look', 'named', 'new_figure', 'percent', 'said_of', 'set_title', 'signed']

# Told apart in print and by most eyes, with the line styles
colors = ['#2f5d8a', '#d9822b', '#1b7f4b', '#8e4585', '#c0392b', '#5b6770']
styles = ['-', (0, (5, 1.5)), '-.', (0, (1, 1)), (0, (3, 1, 1, 1, 1, 1)), (0, (8, 2))]
hatches = ['', '///', '...', 'xxx', '\\\\\\', '+++']
right,wrong = colors[2],colors[4]  # An answer that is, and one that is not
ink,soft = colors[0],'#9db4cc'     # A mark, and the area behind it
chance,ideal = '#9a9a9a','#222222' # What curves are read against
letters = 7                        # Points, of the captions of pictures


def new_figure(
    n_named:int=0,    # Lines of a legend that stands below
    width:float=4.6,  # Inches
    height:float=3.4, # Inches, without the legend
    grid:bool=True,   # Lines behind the marks, and small numbers at the axes?
)->tuple: # `(fig, ax)`
    "A figure of one axes, and room under it for a legend"
    fig = Figure(figsize=(width, height + .19*n_named), layout='constrained')
    ax = fig.subplots()
    bare(ax)
    if grid:
        ax.grid(True, which='major', color='#e6e6e6', linewidth=.7)
        ax.set_axisbelow(True)
        ax.tick_params(labelsize=8)
    return fig, ax


def bare(
    ax, # Changed in place
):
    "Axes without the lines above and on the right, which say nothing"
    ax.spines[['top', 'right']].set_visible(False)


def look(
    i:int, # Which curve, counted from 0
)->dict: # For `ax.plot`
    "Color and line of a curve"
    return dict(color=colors[i % len(colors)], linestyle=styles[i % len(styles)], linewidth=1.5)


def named(
    curves, # A dict of name -> curve, or one curve
)->dict:
    "Curves by name; one alone goes without a name, and without a legend"
    return curves if isinstance(curves, dict) else {'': curves}


def legend_below(
    fig,      # Of `new_figure`
    ax,       # Of `new_figure`
    **kwargs, # For `fig.legend`
):
    "The legend under the axes, so that no curve is covered"
    handles = ax.get_legend_handles_labels()
    fig.legend(*handles, loc='outside lower left', fontsize=7.5, frameon=False, handlelength=2.6, **kwargs)


def set_title(
    ax,            # Of `new_figure`
    text:str,      # One line or several; lines that are longer than the axes are broken
    size:float=10, # Points
    **kwargs,      # For `ax.set_title`
):
    "The title above the axes"
    beside = .95 if kwargs.get('loc') == 'left' else .7 # Inches; over the middle of the axes there is some to the left
    room = ax.figure.get_figwidth() - beside
    ax.set_title('\n'.join(_broken(line, room, size) for line in text.split('\n')), fontsize=size, **kwargs)


def _broken(line, room, size):
    "Into as few lines as there is room for, inches, all about as long; an empty one has no path"
    n = math.ceil(TextPath((0, 0), f'{line}.', size=size).get_extents().width/(72*room))
    return line if n < 2 else fill(line, math.ceil(len(line)/n) + 4)


def percent(
    x,      # A share, 0 to 1
    _=None, # The position, which matplotlib gives too
)->str:
    "A share as text, and the formatter of an axis of shares: 0.0001 % rather than 0 %"
    return f'{100*x:.10g} %'


def said_of(
    body:str,   # As the recipe was asked for it; its name
    table:str,  # Its folder
    run:str='', # What it is a figure of
)->str:
    "The line above a figure that says what was trained, and on what"
    return ', '.join(filter(None, (body, table and f'table {table}', run)))


def signed(
    fig,      # Changed in place
    text:str, # The model, and what it is judged on
    size:float=7.5, # Points
)->Figure:
    "A figure with a line above everything that says of what it is, broken where it is too long; as it was without"
    if not text: return fig
    already = fig.get_suptitle()
    if already: size = 9
    text = _broken(text, fig.get_figwidth() - .2, size)
    if fig.get_layout_engine() is not None: # It makes room
        fig.suptitle(f'{already}\n{text}' if already else text, fontsize=size)
        return fig
    width,height = fig.get_size_inches()
    room = .1 + .14*(text.count('\n') + 1)
    share = height/(height + room)
    for ax in fig.axes:
        x,y,across,up = ax.get_position().bounds
        ax.set_position((x, share*y, across, share*up))
    for line in fig.texts: line.set_y(share*line.get_position()[1]) # It was signed before
    fig.set_size_inches(width, height + room)
    fig.text(.1/width, 1 - (.05 + room/2)/(height + room), text, fontsize=size, va='center')
    return fig
