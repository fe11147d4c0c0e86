"What a network makes of pictures: embeddings laid out by quality, and where its levels are active"
import numpy as np
from matplotlib.figure import Figure

from .pictures import picture_array, quality_text
from .style import new_figure, set_title

__all__ = ['embedding_map_figure', 'energy_figure']


def embedding_map_figure(
    places,                     # `(n, 2)` of `flat_map`
    quality,                    # `(n,)`, 0 to 100, NaN = unknown
    ids,                        # `(n,)` who is in each picture; pictures of one identity are joined by lines
    title:str='Embeddings',     # What is shown
)->Figure:
    "A point a picture, coloured by quality; thin lines go from each to the middle of its identity"
    places,quality,ids = np.asarray(places),np.asarray(quality, dtype=float),np.asarray(ids)
    fig,ax = new_figure(width=5.4, height=4.2, grid=False)
    names,of = np.unique(ids, return_inverse=True)
    middle = np.stack([np.bincount(of, places[:, k])/np.bincount(of) for k in (0, 1)], 1)[of]
    ax.plot(*np.stack([places, middle]).transpose(2, 0, 1), color='#c9c9c9', linewidth=.5, zorder=1)
    known = ~np.isnan(quality)
    ax.scatter(*places[~known].T, s=10, facecolors='none', edgecolors='#5b6770', linewidths=.6, zorder=2)
    points = ax.scatter(*places[known].T, c=quality[known], s=12, cmap='viridis', vmin=0, vmax=100, linewidths=0,
                        zorder=3)
    bar = fig.colorbar(points, ax=ax, shrink=.8)
    bar.set_label('quality (0 to 100, higher is better)', fontsize=8)
    bar.ax.tick_params(labelsize=8)
    ax.set_axis_off()
    unknown = f', {(~known).sum():,} of unknown quality (rings)' if not known.all() else ''
    set_title(ax, f'{title}\n{len(quality):,} pictures of {len(names):,} identities{unknown}', 9)
    return fig


def energy_figure(
    pairs,                  # Rows of `(teacher, its maps, its quality, student, its maps, its quality)`
    names,                  # Of the levels
    title:str='What teaches and what learns: energy maps', # What is shown
)->Figure:
    """Teacher and student side by side, each a picture and the energy of its levels: mean square over channels

    Each map is scaled by itself, dark to light; what is compared is where the energy is."""
    each = 1 + len(names)
    shape = picture_array(pairs[0][0]).shape if pairs else (2, 1)
    width = min(max(1.1*shape[1]/shape[0], .62), 1.1)
    fig = Figure(figsize=(2*each*width + .5, 1.22*len(pairs) + .75), layout='constrained')
    axes = fig.subplots(len(pairs), 2*each, squeeze=False)
    for row,(pair,line) in enumerate(zip(pairs, axes)):
        for side in (0, 1):
            picture,maps,quality = pair[3*side:3*side + 3]
            cells = line[side*each:(side + 1)*each]
            shown = picture_array(picture)
            cells[0].imshow(shown, aspect='auto')
            for ax,energy in zip(cells[1:], maps): ax.imshow(np.asarray(energy), cmap='inferno', aspect='auto')
            cells[0].set_xlabel(quality_text(quality), fontsize=7)
            if row == 0:
                cells[0].set_title(('teacher', 'student')[side], fontsize=8, fontweight='bold')
                for ax,name in zip(cells[1:], names): ax.set_title(name, fontsize=8)
    for ax in axes.flat: ax.set(xticks=[], yticks=[])
    fig.suptitle(f'{title}\n{len(pairs)} pairs of one identity each', fontsize=9)
    return fig
