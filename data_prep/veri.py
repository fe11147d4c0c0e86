"""A table of images from VeRi-776 (Liu et al., ECCV 2016): vehicles.

    python data_prep/veri.py ROOT   # -> ROOT/images.csv

Expected: `image_train`, `image_query` and `image_test` in ROOT or one folder below. Names are `0001_c001_00016450_0.jpg`: vehicle, camera 1 to 20.
"""
from fastcore.script import call_parse
from layout import make, three_folders, verified

FOLDERS = {'train': 'image_train', 'query': 'image_query', 'gallery': 'image_test'}
PUBLISHED = {'train': (37778, 576), 'query': (1678, 200), 'gallery': (11579, 200)}


def veri_table(
    root,         # Folder of the set
    verify=True,  # Decode every picture and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "Table of VeRi-776 with how it was made in `attrs['record']`; nothing is written"
    table = three_folders(root, FOLDERS, 'VeRi-776', pattern=r'(\d+)_c(\d+)', example='0001_c001_00016450_0.jpg', ids=(0, 776), cameras=(1, 20))
    table.attrs['record'] = {'source': 'VeRi-776', 'protocol': 'published', 'published': PUBLISHED}
    return verified(table, verify, strict, workers)


@call_parse
def main(
    root:str, # Folder of the set
    out:str='', # Folder for the table; default: ROOT
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from VeRi-776"
    make(lambda: veri_table(root, not no_verify, strict, workers), root, out, {'verify': not no_verify}, force)
