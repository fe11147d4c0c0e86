"Pictures of several resolutions (MLR): some are down-sampled by 2, 3 or 4, the others stay where and as they are"
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from fastprogress import progress_bar

from qsd_fastai.data.down_sampled import lowered, rate_of
from qsd_fastai.data.pictures import open_picture
from qsd_fastai.files import in_one_move

from .command import relative
from .copies import check_apart, new_names
from .pictures import why_unreadable


def low_rows(
    table,     # With `identity`, `camera`, `split`
    low:str='',# 'queries', a camera, or '': the one that asks where there are two, else queries
    seed=0,    # Of the camera of each training identity, for 'queries'
): # `((n,) bool, what they are)`
    """Which pictures are down-sampled: those of one camera in every split, or the queries

    Bad queries are looked for among good pictures (Jiao et al., AAAI 2018): of two cameras it is the one that asks.
    Where both do, as in the new protocol of CUHK03, one would ask with good pictures, and it is the queries.
    With queries, what is trained on has both as well: of each training identity the pictures of one of its cameras,
    drawn. ValueError where nothing, or all, would be."""
    cameras = sorted(set(table['camera']) - {''})
    asking = sorted(set(table.loc[table['split'] == 'query', 'camera']) - {''})
    if not low: low = (asking or cameras)[0] if len(cameras) == 2 and len(asking) < 2 else 'queries'
    if low == 'queries':
        rows = (table['split'] == 'query').to_numpy(copy=True)
        train = table[table['split'] == 'train']
        drawn = {who: np.random.default_rng([seed, zlib.crc32(who.encode())]).choice(sorted(set(own)))
                 for who,own in train.groupby('identity')['camera']}
        rows |= ((table['split'] == 'train') & (table['camera'] == table['identity'].map(drawn))).to_numpy()
        what = 'queries, and of each training identity the pictures of one camera'
    elif low in cameras: rows,what = (table['camera'] == low).to_numpy(),f'pictures of camera {low}'
    else: raise ValueError(f'--low is {low!r}. Name queries, or one of the cameras {", ".join(cameras) or "(none)"}.')
    if not rows.any() or rows.all():
        raise ValueError(f'--low {low} is {rows.sum()} of {len(rows)} pictures. Name another: some must stay.')
    return rows, what


def with_low_resolution(
    table,     # Table of pictures, `attrs['root']` their folder
    rows,      # Of `low_rows`
    out,       # Folder to write to: `out/images/...`
    seed=0,    # Of the rates
    workers=8, # Threads
):
    """Write those pictures down-sampled by 2, 3 or 4, each equally likely (bicubic, PNG); the table of all.

    Its columns `original`, `degradation` ('none', 'down 2', ...) and `true_quality` (100 over the rate) say what was
    done. The rate of a picture depends on its path and the seed alone."""
    root,out = Path(table.attrs['root']),Path(out)
    check_apart(table, out)
    names = new_names(table['path'].tolist(), '.png')
    rates = np.where(rows, [rate_of(p, seed) for p in table['path']], 1)

    def write(i):
        try: img = open_picture(root/table['path'].iloc[i])
        except (OSError, ValueError) as e:
            raise ValueError(f'{table["path"].iloc[i]} cannot be read ({why_unreadable(e)}). '
                             '`python data_prep/doctor.py` lists all of them.') from e
        file = out/names[i]
        file.parent.mkdir(parents=True, exist_ok=True)
        with in_one_move(file) as part: lowered(img, rates[i]).save(part)

    todo = np.flatnonzero(rates > 1)
    with ThreadPoolExecutor(max(1, workers)) as pool:
        for _ in progress_bar(pool.map(write, todo), total=len(todo), leave=False): pass
    here = [n if r > 1 else relative(root/p, out) for n,r,p in zip(names, rates, table['path'])]
    made = table.assign(path=here, original=table['path'].to_numpy(), true_quality=np.round(100/rates, 2),
                        degradation=[f'down {r}' if r > 1 else 'none' for r in rates])
    made.attrs = {**{k: v for k,v in table.attrs.items() if k != 'copies'}, 'root': str(out)}
    return made
