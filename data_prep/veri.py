"""A table of images from VeRi-776 (Liu et al., ECCV 2016): vehicles.

    python data_prep/veri.py ROOT   # -> ROOT/images.csv

Expected: `image_train`, `image_query` and `image_test` in ROOT or one folder below. Names are
`0001_c001_00016450_0.jpg`: vehicle, camera 1 to 20.
"""
from common.layout import three_folders
from common.sets import a_set

FOLDERS = {'train': 'image_train', 'query': 'image_query', 'gallery': 'image_test'}
PUBLISHED = {'train': (37778, 576), 'query': (1678, 200), 'gallery': (11579, 200)}
NAMES = {'pattern': r'(\d+)_c(\d+)', 'like': '0001_c001_00016450_0.jpg', 'ids': (0, 776), 'cameras': (1, 20)}


@a_set('VeRi-776', published=PUBLISHED)
def veri_table(
    root:str, # Folder of the set
):
    "Table of images from VeRi-776"
    return three_folders(root, FOLDERS, 'VeRi-776', **NAMES)
