"""A table of SCface (Grgic et al., 2011): 130 people as five surveillance cameras see them, looked for among mugshots.

    python data_prep/scface.py ROOT                # -> ROOT/images.csv: queries of all distances
    python data_prep/scface.py ROOT --distance 1   # those of 4.20 m (2: 2.60 m, 3: 1.00 m)
    python data_prep/scface.py ROOT --train 50     # the first 50 people are trained on, the other 80 judged

Expected, in any folders below ROOT: `001_frontal.jpg` (mugshot) and `001_cam1_1.jpg` (person, camera, distance). The
release has its pictures in several folders twice over: one of each name is taken. The mugshot is the gallery; pictures
of cameras 1 to 5 are queries, with their distance in metres in the column `distance`; those of the infra-red cameras 6
and 7 only with `--infrared`. Poses, infra-red mugshots and anything else are left out, and counted. Figures are
reported by distance, rank 1; who is trained on differs between papers: say it. Faces are not cut out or aligned:
`align.py`.
"""
import re
from pathlib import Path

import numpy as np
import pandas as pd
from common.layout import base_name, new_table
from common.pictures import pictures_in
from common.sets import a_set

from qsd_fastai.choices import one_of

METRES = {'1': 4.2, '2': 2.6, '3': 1.}
PUBLISHED = {'query': (1_950, 130), 'gallery': (130, 130)}
NAME = re.compile(r'(\d{3})_(?:(frontal)|cam([1-7])_([123]))\.', re.I)


@a_set('SCface', published=PUBLISHED, recipe='evaluate')
def scface_table(
    root:str,           # Folder of the set
    distance:str='all', # Of the queries: all, 1 (4.20 m), 2 (2.60 m) or 3 (1.00 m)
    train:int=0,        # So many people, the first by number, are trained on
    infrared:bool=False,# Take the pictures of cameras 6 and 7 too?
):
    "Table of images from SCface"
    one_of('--distance', distance, 'all', *METRES)
    root,rows,seen,others = Path(root),[],set(),0
    for path in pictures_in(root):
        name = base_name(path).lower()
        m = NAME.match(name)
        if m is None or (m[3] in ('6', '7') and not infrared):
            others += 1
            continue
        if name in seen: continue
        seen.add(name)
        rows.append((path, m[1], 'mugshot' if m[2] else f'cam{m[3]}', METRES.get(m[4], np.nan)))
    table = pd.DataFrame(rows, columns=['path', 'identity', 'camera', 'distance'])
    people = sorted(set(table['identity']))
    lack = sorted(set(people) - set(table.loc[table['camera'] == 'mugshot', 'identity']))
    if lack or not people:
        what = f'{len(lack)} people lack a mugshot, first {lack[0]}_frontal.jpg' if lack else 'no 001_cam1_1.jpg'
        raise FileNotFoundError(f'{root}: {what}. Unpack all of SCface; expected are 001_frontal.jpg, 001_cam1_1.jpg.')
    if not 0 <= train < len(people):
        raise ValueError(f'--train {train} of {len(people)} people leaves nobody to be judged. Give less.')
    trained = table['identity'].isin(people[:train])
    split = np.where(trained, 'train', np.where(table['camera'] == 'mugshot', 'gallery', 'query'))
    made = new_table(root, table['path'], table['identity'], table['camera'], split).assign(distance=table['distance'])
    if distance != 'all':
        made = made[(made['split'] != 'query') | (made['distance'] == METRES[distance])].reset_index(drop=True)
    made.attrs = {'root': str(root), 'record': {'distance': distance, 'left_out': others, 'trained_on': train}}
    return made
