"""A table of images from DukeMTMC-reID (Zheng et al., ICCV 2017) or Occluded-Duke (Miao et al., ICCV 2019).

    python data_prep/dukemtmc.py ROOT                        # -> ROOT/images.csv
    python data_prep/dukemtmc.py ROOT --variant occluded

DukeMTMC was **withdrawn by its authors** in 2019, because the people in it had not consented: it cannot be asked for
any more, and many venues refuse results on it. This script reads copies that are already there, to check published
figures; it downloads nothing.

Expected: `bounding_box_train`, `query` and `bounding_box_test` in ROOT or one folder below. Names are
`0001_c2_f0046182.jpg`: identity, camera 1 to 8. There is no junk rule. The two sets have the same layout: a ROOT with
`occluded` in its name is taken for Occluded-Duke, `--variant` decides.
"""
from pathlib import Path

from common.layout import MARKET, find, three_folders
from common.sets import a_set

from qsd_fastai.choices import one_of

PUBLISHED = {'reid': {'train': (16522, 702), 'query': (2228, 702), 'gallery': (17661, 1110)},
             'occluded': {'train': (15618, 702), 'query': (2210, 519), 'gallery': (17661, 1110)}}
SOURCES = {'reid': 'DukeMTMC-reID', 'occluded': 'Occluded-Duke'}
NAMES = {'pattern': r'(\d+)_c(\d+)', 'like': '0001_c2_f0046182.jpg', 'ids': (0, 9999), 'cameras': (1, 8)}


@a_set('DukeMTMC-reID')
def dukemtmc_table(
    root:str,       # Folder of the set
    variant:str='', # `reid` or `occluded`; default: by the name of the folder
):
    "Table of images from DukeMTMC-reID or Occluded-Duke"
    at = find(root, MARKET.values(), 'DukeMTMC-reID')
    called = f'{Path(root).resolve().name}/{at.resolve().name}'.lower()
    variant = one_of('--variant', variant or ('occluded' if 'occluded' in called else 'reid'), *SOURCES)
    table = three_folders(root, MARKET, SOURCES[variant], **NAMES)
    table.attrs['record'] |= {'source': SOURCES[variant], 'withdrawn': 'by the authors of DukeMTMC, 2019',
                              'published': PUBLISHED[variant]}
    return table
