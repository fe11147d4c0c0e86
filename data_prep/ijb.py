"""Tables of IJB-B (Whitelam et al., CVPRW 2017) and IJB-C (Maze et al., ICB 2018), in the form that InsightFace gives to those who have the licence.

    python data_prep/ijb.py ROOT --set ijbc     # -> images.csv, templates.csv, template_pairs.csv, gallery.csv, probe.csv in ROOT
    python data_prep/align.py ROOT/images.csv --out aligned --landmarks ROOT/meta/ijbc_name_5pts_score.txt

    ROOT/loose_crop/1.jpg ...                   # a face with room around it
    ROOT/meta/ijbc_face_tid_mid.txt             # name template medium
    ROOT/meta/ijbc_template_pair_label.txt      # template template 0|1
    ROOT/meta/ijbc_name_5pts_score.txt          # name, five points, certainty of the detector (may be missing)
    ROOT/meta/ijbc_1N_gallery_G1.csv, _G2.csv   # template, subject (IJB-B: _S1, _S2; may be missing)
    ROOT/meta/ijbc_1N_probe_mixed.csv           # template, subject (may be missing)

A person is judged by templates, several pictures together, so the lists of templates stand beside the table; a picture may be in several. The table
holds `template` and `media` of the first, and `detector_score`. Identities are the subjects of the 1:N lists; without these, templates that pairs say
are of one person. Pictures of gallery templates are `gallery`, the others `query`; none is to be trained on.
"""
import os
import sys
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from doctor import finish, is_made, readable
from fastcore.script import call_parse
from layout import find
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qsd_fastai.data.table import check_table, read_table
from qsd_fastai.data.templates import TemplateError, check_template_pairs, check_templates, read_list, write_list

# pictures, templates and pairs of templates, as the lists of InsightFace hold them
PUBLISHED = {'ijbb': (227_630, 12_115, 8_010_270), 'ijbc': (469_375, 23_124, 15_658_489)}
LANDMARKS = {'path': str, **{f'{c}{i}': float for i in range(1, 6) for c in 'xy'}, 'detector_score': float}


def _subjects(file):
    "`template, identity` of a 1:N list, which has a line a picture; TemplateError where a template is of two people"
    out = read_list(file, {'template': int, 'identity': str}, header=True, more=True).drop_duplicates()
    twice = out['template'].duplicated()
    if twice.any(): raise TemplateError(f"{file}: template {out['template'][twice].iloc[0]} is of two people. Copy the list again.")
    return out.reset_index(drop=True)


def _linked(templates, pairs):
    "Identity by template where nobody tells it: those that pairs of one person lead together, named by the least"
    numbers = np.unique(templates)
    same = pairs[pairs['same'] == 1]
    a,b = np.searchsorted(numbers, same['template1']), np.searchsorted(numbers, same['template2'])
    group = connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(len(numbers),)*2), directed=False)[1]
    least = pd.Series(numbers).groupby(group).min().to_numpy()
    return dict(zip(numbers.tolist(), [f'of_template_{least[g]}' for g in group]))


def ijb_tables(
    root,        # Folder with `loose_crop` and `meta`, or the one above it
    name='ijbc', # Ijbb or ijbc
    verify=True, # Decode every picture? One that cannot be read is an error: no template may lose one
    workers=8,   # Threads that decode
):
    "`{'images': table, 'templates': .., 'template_pairs': .., 'gallery': .., 'probe': ..}`, the last two from 1:N lists. Nothing is written"
    if name not in PUBLISHED: raise ValueError(f"--set is {name!r}: pass {' or '.join(PUBLISHED)}.")
    lists = f'meta/{name}_face_tid_mid.txt', f'meta/{name}_template_pair_label.txt'
    at = find(root, [*lists, 'loose_crop'], name.upper().replace('IJB', 'IJB-'))
    prefix = (at/'loose_crop').relative_to(root).as_posix()
    templates = read_list(at/lists[0], {'path': str, 'template': int, 'media': int})
    pairs = check_template_pairs(read_list(at/lists[1], {'template1': int, 'template2': int, 'same': int}), templates)
    there = {e.name for e in os.scandir(at/'loose_crop')}
    lost = ~templates['path'].isin(there)
    if lost.any():
        raise FileNotFoundError(f"{at/lists[0]}: {lost.sum()} of {len(templates)} pictures are not in {at/'loose_crop'}, "
                                f"first {templates['path'][lost].iloc[0]!r}. Unpack all of it.")
    galleries = [p for k in ('G1', 'G2', 'S1', 'S2') if (p := at/f'meta/{name}_1N_gallery_{k}.csv').is_file()]
    probe,out = at/f'meta/{name}_1N_probe_mixed.csv', {}
    if galleries: out['gallery'] = pd.concat([_subjects(p).assign(list=p.stem[-2:]) for p in galleries], ignore_index=True)
    if probe.is_file(): out['probe'] = _subjects(probe)
    told = pd.concat([o[['template', 'identity']] for o in out.values()]).drop_duplicates() if out else None
    if told is not None and told['template'].duplicated().any():
        raise TemplateError(f"The 1:N lists of {at/'meta'} give template {told['template'][told['template'].duplicated()].iloc[0]} to two people.")
    who = _linked(templates['template'], pairs) | (dict(zip(told['template'], told['identity'])) if told is not None else {})
    identity = templates['template'].map(who)
    double = templates.assign(identity=identity).drop_duplicates(['path', 'identity'])['path']
    if double.duplicated().any(): raise TemplateError(f'{double[double.duplicated()].iloc[0]!r} is in templates of two people. Copy the lists again.')
    in_gallery = templates['template'].isin(out['gallery']['template']) if galleries else pd.Series(True, templates.index)
    templates['path'] = prefix + '/' + templates['path']
    table = pd.DataFrame({'path': templates['path'], 'identity': identity, 'camera': '', 'split': np.where(in_gallery, 'gallery', 'query'),
                          'quality': np.nan, 'template': templates['template'], 'media': templates['media']})
    # a picture that is in several templates stands once, in the gallery where one of them is
    table = table.iloc[np.argsort(table['split'] != 'gallery', kind='stable')].drop_duplicates('path').sort_index().reset_index(drop=True)
    points = at/f'meta/{name}_name_5pts_score.txt'
    if points.is_file():
        score = read_list(points, LANDMARKS)[['path', 'detector_score']].drop_duplicates('path').set_index('path')['detector_score']
        table['detector_score'] = table['path'].str.rpartition('/')[2].map(score)
    counts = len(table), templates['template'].nunique(), len(pairs)
    table.attrs = {'root': str(root), 'record': {'source': name, 'templates': counts[1], 'template_pairs': counts[2], 'lists_1N': len(out)}}
    if verify and (bad := readable(table, False, workers).attrs['unreadable']):
        raise ValueError(f'{len(bad)} of {len(table)} pictures cannot be read, first {bad[0]!r}. Copy them again: no template may lose one.')
    return {'images': table, 'templates': check_templates(templates, table), 'template_pairs': pairs, **out}


@call_parse
def main(
    root:str, # Folder with loose_crop and meta, or the one above it
    set:str='ijbc', # Ijbb or ijbc
    out:str='', # Folder for the tables; default: ROOT
    no_verify:bool=False, # Do not decode every picture
    workers:int=8, # Threads that decode pictures
    force:bool=False, # Make the tables anew where they are
):
    "Tables of IJB-B or IJB-C"
    try:
        to = Path(out or root)/'images.csv'
        lists = sorted(p for p in Path(root).glob(f'**/meta/{set}_*') if p.is_file())
        record = {'lists': {p.name: zlib.crc32(p.read_bytes()) for p in lists}, 'options': {'set': set, 'verify': not no_verify}}
        beside = [to.with_name(f'{n}.csv') for n in ('templates', 'template_pairs')]
        if is_made(to, record, force) and all(p.is_file() for p in beside):
            check_table(read_table(to, check=False))
            return print(f'{to} and the lists of templates are there already, made from the same lists: nothing to do.')
        made = ijb_tables(root, set, not no_verify, workers)
        table,templates = made.pop('images'), made['templates']
        # those of a stopped run, or of the other set, are not believed
        for n in ('templates', 'template_pairs', 'gallery', 'probe'): to.with_name(f'{n}.csv').unlink(missing_ok=True)
        finish(table, to, {**table.attrs['record'], **record}, 'face')
        moved = dict(zip(table['path'], read_table(to, check=False)['path']))
        made['templates'] = templates.assign(path=templates['path'].map(moved))
        for name,frame in reversed(made.items()): write_list(frame, to.with_name(f'{name}.csv'))
        counts = len(table), table.attrs['record']['templates'], table.attrs['record']['template_pairs']
        print(f'{counts[1]:,} templates, {counts[2]:,} pairs of them')
        if counts != PUBLISHED[set]: print('Note: published are {:,} pictures, {:,} templates and {:,} pairs.'.format(*PUBLISHED[set]))
    except (ValueError, OSError) as e: sys.exit(f'{type(e).__name__}: {e}')
