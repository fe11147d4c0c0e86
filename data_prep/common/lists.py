"Lists that stand beside a table: pairs of pictures, templates, pairs of templates, and who is looked for among whom"
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from qsd_fastai.data.pairs import read_pairs, write_pairs
from qsd_fastai.data.templates import read_searches, read_template_pairs, read_templates, write_list

LISTS = ('pairs', 'templates', 'template_pairs', 'gallery', 'probe')


def beside(
    file, # The table's file
)->dict: # Name -> path
    "Where the lists of a table stand, whether they are there or not"
    return {n: file.with_name(f'{n}.csv') for n in LISTS}


def read_lists(
    file,  # The table's file
    table, # The table
)->dict: # Name -> rows
    "What stands beside a table, checked: pairs of pictures, or templates and their lists"
    at = beside(file)
    out = {'pairs': read_pairs(at['pairs'], table)} if at['pairs'].is_file() else {}
    if not at['templates'].is_file(): return out
    out['templates'] = read_templates(at['templates'], table)
    if at['template_pairs'].is_file():
        out['template_pairs'] = read_template_pairs(at['template_pairs'], out['templates'])
    for n in ('gallery', 'probe'):
        if at[n].is_file(): out[n] = read_searches(at[n])
    return out


def moved(
    listed,   # Pairs, or a list of templates
    columns,  # Its columns that hold paths
    new_path, # Path of a picture -> that of its copy
): # `(listed with the new paths, how many rows were left out)`
    "A list for pictures that lie elsewhere now, without the rows of those that are not there any more"
    out = listed.copy()
    for c in columns: out[c] = out[c].map(new_path)
    keep = out[columns].notna().all(axis=1)
    return out[keep].reset_index(drop=True), int((~keep).sum())


def write_lists(
    lists,    # Of `read_lists`
    file,     # The file of the table that they go beside
    table,    # This table
    new_path, # Path of a picture in the lists -> its path in this table
):
    "Write the lists with the new paths, without what is of pictures that were left out; says how much that is"
    out,lost,there,at = {}, {}, set(), beside(file)
    for name,rows in lists.items():
        if name == 'pairs': out[name],lost[name] = moved(rows, ['path1', 'path2'], new_path)
        elif name == 'templates':
            out[name],lost[name] = moved(rows, ['path'], new_path)
            there = set(out[name]['template'])
        else:
            keep = rows[[c for c in rows if c.startswith('template')]].isin(there).all(axis=1)
            out[name],lost[name] = rows[keep], int((~keep).sum())
    for name,n in lost.items():
        if not n: continue
        print(f'Note: {n} rows of {name}.csv are left out with them: the figures are not those of the whole list.')
    for name,rows in reversed(out.items()):  # what a second run looks for comes last
        if name == 'pairs': write_pairs(rows, at[name], table)
        else: write_list(rows.astype({'same': int}) if 'same' in rows else rows, at[name])
    if 'pairs' not in out: return
    pairs = out['pairs']
    print(f"{len(pairs):,} pairs, {int(pairs['same'].sum()):,} of one person, in {pairs['fold'].nunique()} folds")


def linked(
    a, # `(k,)` numbers from 0
    b, # `(k,)` numbers from 0, `a[i]` and `b[i]` belong together
    n, # How many there are
)->np.ndarray: # `(n,)` numbers from 0
    "The group of each of `n` things that pairs lead together"
    return connected_components(coo_array((np.ones(len(a)), (a, b)), shape=(n, n)), directed=False)[1]
