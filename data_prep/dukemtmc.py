"""A table of images from DukeMTMC-reID (Zheng et al., ICCV 2017) or Occluded-Duke (Miao et al., ICCV 2019).

    python data_prep/dukemtmc.py ROOT                        # -> ROOT/images.csv
    python data_prep/dukemtmc.py ROOT --variant occluded

DukeMTMC was **withdrawn by its authors** in 2019, because the people in it had not consented: it cannot be asked for any more, and many venues
refuse results on it. This script reads copies that are already there, to check published figures; it downloads nothing.

Expected: `bounding_box_train`, `query` and `bounding_box_test` in ROOT or one folder below. Names are `0001_c2_f0046182.jpg`: identity,
camera 1 to 8. There is no junk rule. The two sets have the same layout: a ROOT with `occluded` in its name is taken for
Occluded-Duke, `--variant` decides.
"""
from pathlib import Path

from fastcore.script import call_parse
from layout import MARKET, find, make, three_folders, verified

PUBLISHED = {'reid': {'train': (16522, 702), 'query': (2228, 702), 'gallery': (17661, 1110)},
             'occluded': {'train': (15618, 702), 'query': (2210, 519), 'gallery': (17661, 1110)}}
NAMES = {'reid': 'DukeMTMC-reID', 'occluded': 'Occluded-Duke'}


def dukemtmc_table(
    root,         # Folder of the set
    variant='',   # Reid, occluded, or '' to go by the name of the folder
    verify=True,  # Decode every picture and leave the unreadable ones out?
    strict=False, # An unreadable picture is an error?
    workers=8,    # Threads that decode
):
    "Table of DukeMTMC-reID or Occluded-Duke with how it was made in `attrs['record']`; nothing is written"
    if variant not in ('', *NAMES): raise ValueError(f"--variant {variant!r} is unknown: use {' or '.join(NAMES)}.")
    at = find(root, MARKET.values(), 'DukeMTMC-reID')
    variant = variant or ('occluded' if 'occluded' in f'{Path(root).resolve().name}/{at.resolve().name}'.lower() else 'reid')
    table = three_folders(root, MARKET, NAMES[variant], pattern=r'(\d+)_c(\d+)', example='0001_c2_f0046182.jpg', ids=(0, 9999), cameras=(1, 8))
    table.attrs['record'] = {'source': NAMES[variant], 'protocol': 'published', 'withdrawn': 'by the authors of DukeMTMC, 2019',
                             'published': PUBLISHED[variant]}
    return verified(table, verify, strict, workers)


@call_parse
def main(
    root:str, # Folder of the set
    out:str='', # Folder for the table; default: ROOT
    variant:str='', # Reid or occluded; default: by the name of the folder
    no_verify:bool=False, # Do not decode every picture to find unreadable ones
    strict:bool=False, # Stop at unreadable pictures instead of leaving them out
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the table anew where there is one
):
    "Table of images from DukeMTMC-reID or Occluded-Duke"
    make(lambda: dukemtmc_table(root, variant, not no_verify, strict, workers), root, out, {'variant': variant, 'verify': not no_verify}, force)
