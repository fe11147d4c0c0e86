"""Tables of IJB-B (Whitelam et al., CVPRW 2017) and IJB-C (Maze et al., ICB 2018), in the form that InsightFace gives.

    python data_prep/ijb.py ROOT --set ijbc     # -> images.csv, templates.csv and three more in ROOT
    python data_prep/align.py ROOT/images.csv --out aligned --landmarks ROOT/meta/ijbc_name_5pts_score.txt

    ROOT/loose_crop/1.jpg ...                   # a face with room around it
    ROOT/meta/ijbc_face_tid_mid.txt             # name template medium
    ROOT/meta/ijbc_template_pair_label.txt      # template template 0|1
    ROOT/meta/ijbc_name_5pts_score.txt          # name, five points, certainty of the detector (may be missing)
    ROOT/meta/ijbc_1N_gallery_G1.csv, _G2.csv   # template, subject (IJB-B: _S1, _S2; may be missing)
    ROOT/meta/ijbc_1N_probe_mixed.csv           # template, subject (may be missing)

Those who have the licence get it. A person is judged by templates, several pictures together, so the lists of templates
stand beside the table; a picture may be in several. The table holds `template` and `media` of the first, and
`detector_score`. Identities are the subjects of the 1:N lists; without these, templates that pairs say are of one
person. Pictures of gallery templates are `gallery`, the others `query`; none is to be trained on.
"""
import os
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from common.layout import find, new_table
from common.lists import linked
from common.pictures import all_readable
from common.sets import a_set

from qsd_fastai.choices import one_of
from qsd_fastai.data.templates import TemplateError, check_template_pairs, check_templates, read_list

# pictures, templates and pairs of templates, as the lists of InsightFace hold them
PUBLISHED = {'ijbb': (227_630, 12_115, 8_010_270), 'ijbc': (469_375, 23_124, 15_658_489)}
LANDMARKS = {'path': str, **{f'{c}{i}': float for i in range(1, 6) for c in 'xy'}, 'detector_score': float}


def facts(
    root, # Folder with `loose_crop` and `meta`, or the one above it
    out,  # Folder for the tables, '' if none
    set,  # `ijbb` or `ijbc`
): # `(folder of the table, facts for the record)`
    "What the tables are made from: the lists, by their content"
    lists = sorted(p for p in Path(root).glob(f'**/meta/{set}_*') if p.is_file())
    return Path(out or root), {'lists': {p.name: zlib.crc32(p.read_bytes()) for p in lists}}


def _subjects(file):
    "`template, identity` of a 1:N list, which has a line a picture; TemplateError where a template is of two people"
    out = read_list(file, {'template': int, 'identity': str}, header=True, more=True).drop_duplicates()
    twice = out['template'].duplicated()
    if twice.any():
        raise TemplateError(f"{file}: template {out['template'][twice].iloc[0]} is of two people. Copy the list again.")
    return out.reset_index(drop=True)


def _linked(templates, pairs):
    "Identity by template where nobody tells it: those that pairs of one person lead together, named by the least"
    numbers = np.unique(templates)
    same = pairs[pairs['same'] == 1]
    a,b = (np.searchsorted(numbers, same[c]) for c in ('template1', 'template2'))
    group = linked(a, b, len(numbers))
    least = pd.Series(numbers).groupby(group).min().to_numpy()
    return dict(zip(numbers.tolist(), [f'of_template_{least[g]}' for g in group]))


def _search_lists(meta, name):
    "The 1:N lists that are there, as `{'gallery': .., 'probe': ..}`"
    out,probe = {}, meta/f'{name}_1N_probe_mixed.csv'
    galleries = [p for k in ('G1', 'G2', 'S1', 'S2') if (p := meta/f'{name}_1N_gallery_{k}.csv').is_file()]
    if galleries:
        parts = [_subjects(p).assign(list=p.stem[-2:]) for p in galleries]
        out['gallery'] = pd.concat(parts, ignore_index=True)
    if probe.is_file(): out['probe'] = _subjects(probe)
    return out


def _identities(templates, pairs, searched, meta):
    "The identity of each row of `templates`, by the 1:N lists where they tell"
    who = _linked(templates['template'], pairs)
    if searched:
        told = pd.concat([o[['template', 'identity']] for o in searched.values()]).drop_duplicates()
        twice = told['template'].duplicated()
        if twice.any():
            first = told['template'][twice].iloc[0]
            raise TemplateError(f'The 1:N lists of {meta} give template {first} to two people. Copy them again.')
        who |= dict(zip(told['template'], told['identity']))
    identity = templates['template'].map(who)
    names = templates.assign(identity=identity).drop_duplicates(['path', 'identity'])['path']
    twice = names.duplicated()
    if twice.any():
        raise TemplateError(f'{names[twice].iloc[0]!r} is in templates of two people. Copy the lists again.')
    return identity


@a_set('IJB', made_from=facts, lists=['templates', 'template_pairs'], recipe='face')
def ijb_tables(
    root:str,       # Folder with `loose_crop` and `meta`, or the one above it
    set:str='ijbc', # `ijbb` or `ijbc`
    *,
    readable,       # Finds what cannot be decoded, which is an error: no template may lose one
): # `(table, lists)`: `templates`, `template_pairs` and, from 1:N lists, `gallery` and `probe`
    "Tables of IJB-B or IJB-C"
    one_of('--set', set, *PUBLISHED)
    lists = [f'meta/{set}_face_tid_mid.txt', f'meta/{set}_template_pair_label.txt']
    at = find(root, [*lists, 'loose_crop'], set.upper().replace('IJB', 'IJB-'))
    meta,crops = at/'meta', at/'loose_crop'
    templates = read_list(at/lists[0], {'path': str, 'template': int, 'media': int})
    pairs = read_list(at/lists[1], {'template1': int, 'template2': int, 'same': int})
    check_template_pairs(pairs, templates)
    lost = ~templates['path'].isin({e.name for e in os.scandir(crops)})
    if lost.any():
        raise FileNotFoundError(f'{at/lists[0]}: {lost.sum()} of {len(templates)} pictures are not in {crops}, '
                                f"first {templates['path'][lost].iloc[0]!r}. Unpack all of it.")
    searched = _search_lists(meta, set)
    identity = _identities(templates, pairs, searched, meta)
    numbers = searched['gallery']['template'] if 'gallery' in searched else templates['template']
    split = np.where(templates['template'].isin(numbers), 'gallery', 'query')
    templates['path'] = f'{crops.relative_to(root).as_posix()}/' + templates['path']
    table = new_table(root, templates['path'], identity, split=split)
    table = table.assign(template=templates['template'], media=templates['media'])
    # a picture that is in several templates stands once, in the gallery where one of them is
    first = table.iloc[np.argsort(table['split'] != 'gallery', kind='stable')].drop_duplicates('path')
    table = first.sort_index().reset_index(drop=True)
    points = meta/f'{set}_name_5pts_score.txt'
    if points.is_file():
        score = read_list(points, LANDMARKS).drop_duplicates('path').set_index('path')['detector_score']
        table['detector_score'] = table['path'].str.rpartition('/')[2].map(score)
    counts,notes = (len(table), templates['template'].nunique(), len(pairs)), []
    if counts != PUBLISHED[set]:
        notes.append('Published are {:,} pictures, {:,} templates and {:,} pairs.'.format(*PUBLISHED[set]))
    record = {'source': set, 'templates': counts[1], 'template_pairs': counts[2], 'lists_1N': len(searched)}
    table.attrs = {'root': str(root), 'record': record, 'notes': notes}
    all_readable(table, readable, 'Copy them again: no template may lose one.')
    return table, {'templates': check_templates(templates, table), 'template_pairs': pairs, **searched}
