"""The split that folders and columns tell, and what becomes of it: it is kept, never dealt anew.

A folder says its part by its name, on whatever level: `train`, `bounding_box_train`, `image_query`, `probe`, `Gallery`,
`val`, `train_all` and so on. Parts that judge something else (`gt_bbox`, `multi-query`) are left out, which is said."""
import re
from collections import Counter

from qsd_fastai.data.splits import split_identities

WHOLE = {'bounding_box_test': 'gallery', 'image_test': 'gallery', 'gt_bbox': 'aside', 'gt_query': 'aside',
         'multi_query': 'aside', 'multi_shot': 'aside', 'train_all': 'all', 'trainall': 'all', 'train_val': 'all',
         'trainval': 'all'}
WORDS = {'train': 'train', 'training': 'train', 'trainset': 'train', 'val': 'val', 'valid': 'val', 'validation': 'val',
         'test': 'test', 'testing': 'test', 'testset': 'test', 'query': 'query', 'queries': 'query',
         'probe': 'query', 'probes': 'query', 'gallery': 'gallery', 'galleries': 'gallery'}
# what stands beside such a word and says nothing
NOISE = {'bounding', 'box', 'image', 'images', 'img', 'imgs', 'pictures', 'set', 'split', 'data', 'list', 'mask', 'v'}
CAMERA = re.compile(r'(?:cam|camera)[-_ ]?(?:[0-9]+|[a-z])', re.IGNORECASE)


def part_of(
    name, # Of a folder or list, or in a column
)->str: # train, all, val, test, query, gallery, aside; '' where it is no part
    "Which part of a set a name says"
    plain = re.sub('[^a-z0-9]+', '_', name.lower()).strip('_')
    left = [o for o in re.findall('[a-z]+', plain) if o not in NOISE]
    return WHOLE.get(plain) or (WORDS.get(left[0], '') if len(left) == 1 else '')


class Told:
    "What the folders of a set tell"
    def __init__(self,
        part,  # Of each picture, as `part_of` says it
        start, # Of each picture, how many of its folders lead to the part
        name,  # Of these folders, for messages
    ):
        self.part,self.start,self.name = part,start,name

    def but_aside(self,
        paths, # Of the pictures
    ): # `(paths, told, note)`
        "Paths, what is told of them, and a note as a list, without the parts that judge something else"
        kept = [k for k,o in enumerate(self.part) if o != 'aside']
        if len(kept) == len(paths): return paths,self,[]
        n,some = len(paths) - len(kept), next(p for p,o in zip(paths, self.part) if o == 'aside')
        told = Told([self.part[k] for k in kept], [self.start[k] for k in kept], self.name)
        return [paths[k] for k in kept],told,[f'{n} pictures that judge something else are left out, first {some!r}.']


def _folders(path): return path.split('/')[:-1]


def told_by_folders(
    paths, # Of pictures, with forward slashes
    where, # They are, for messages
)->Told: # None where folders tell nothing
    """The first level of folders on which most are named as parts of a set.

    ValueError where not all are, so that pictures lie outside."""
    folders = list(map(_folders, paths))
    for depth in range(max(map(len, folders), default=0)):
        names = Counter(f[depth] for f in folders if len(f) > depth)
        said = sorted(n for n in names if part_of(n))
        outside = [p for p,f in zip(paths, folders) if len(f) <= depth or f[depth] not in said]
        # a person may be called Val, nobody is called query
        clear = len(said) == len(names) or {'train', 'all', 'query', 'gallery'} & set(map(part_of, said))
        if not (said and clear and 2*len(said) >= len(names)): continue
        if depth and 2*len(outside) > len(paths): continue
        if outside:
            raise ValueError(f'{", ".join(said)} in {where} are splits, not identities, and {len(outside)} of '
                             f'{len(paths)} pictures are in none of them, first {outside[0]!r}. Move these away, or '
                             'point at a folder that holds identities.')
        inner = [part_of(f[depth + 1]) if len(f) > depth + 1 else '' for f in folders] # test/query
        return Told([o or part_of(f[depth]) for f,o in zip(folders, inner)],
                    [depth + 1 + bool(o) for o in inner], ', '.join(said))
    return None


def remedy(
    paths, # Of pictures
    start, # Of each, how many of its folders say neither identity nor camera
)->str:
    "The options of folder.py that read identity and camera below such folders"
    folders = list(map(_folders, paths))
    def first(f, levels, camera):
        return next((k for k in levels if bool(CAMERA.fullmatch(f[k])) == camera), None)
    who = [first(f, range(s, len(f)), False) for f,s in zip(folders, start)]
    seen = {first(f, range(len(f)), True) for f in folders}
    if set(who) == {None} and len({f[0] for f in folders if f}) > 1 < min(start): who = [s - 2 for s in start]
    def level(k): return f"'^{'[^/]+/'*k}([^/]+)/'"
    camera = f' --camera {level(seen.pop())}' if len(seen) == 1 and None not in seen else ''
    if set(who) == {None}:
        names = [p.rpartition('/')[2] for p in paths]
        for identity,of_name in ((r'^(-?\d+)_', r'_c(\d+)'), (r'^(-?\d+)_', ''), (r'^([^_.]+)_', '')):
            if not all(re.search(o, n) for n in names for o in (identity, of_name)): continue
            if of_name and not camera: camera = f" --camera '{of_name}'"
            return f"--identity '{identity}'{camera}"
        return '--identity REGEX, which finds the identity in the name'
    if len(set(who)) == 1: return f'--identity {level(who[0])}{camera}'
    if all(k == len(f) - 1 for k,f in zip(who, folders)): return f"--identity '([^/]+)/[^/]+$'{camera}"
    return '--identity REGEX, with a slash in it, which finds the identity in the path'


def with_told_split(
    table,      # Of pictures, with a column `part` as `part_of` says it, which goes
    told,       # Who told it: 'folders', 'columns'
    seed=0,     # Of queries that are drawn where nobody tells them
    asked=None, # Mask over the rows: which are queries where nobody tells them; None: one an identity and camera
):
    "The table with the split that is told. ValueError where it cannot be one; what is left out or drawn is noted"
    part,notes = table['part'],[]
    counts,there = part.value_counts().to_dict(),set(part)
    if 'all' in there: part = _whole(table)
    if {'query', 'gallery', 'test'} <= there:
        raise ValueError(f'The {told} tell query, gallery and test. Move away what nothing is judged by.')
    if 'query' in there and not {'gallery', 'test'} & there:
        raise ValueError(f'The {told} tell queries and no gallery. Add what they are searched in, or point elsewhere.')
    if 'query' in there or 'gallery' in there: part = part.replace('test', 'gallery')
    elif 'test' not in there: part = part.replace('val', 'test')
    kept = part.isin(['train', 'query', 'gallery', 'test']).to_numpy()
    if not kept.all():
        out = table['part'][~kept].value_counts()
        notes.append(f'{(~kept).sum()} pictures are left out: '
                     f'{", ".join(f"{n} of {_called(k)}" for k,n in out.items())}.')
    out = table[kept].drop(columns='part').assign(split=part[kept]).reset_index(drop=True)
    drawn = (out['split'] == 'test').to_numpy()
    if drawn.any():
        if asked is not None: asked = asked[kept][drawn]
        halves = split_identities(out[drawn], 1., seed=seed, query=asked)['split']
        out.loc[drawn, 'split'] = halves.replace('train', 'gallery').to_numpy()
        notes.append(f'Who is judged is told by the {told}; {(out["split"] == "query").sum()} queries are drawn there.')
    if (out['split'] == 'train').all():
        notes.append(f'The {told} tell only who is trained on: nobody is judged. Point below to hold identities out.')
    out.attrs = dict(table.attrs)
    out.attrs['record'] = {**table.attrs.get('record', {}), 'split': f'as the {told} tell', 'parts': counts}
    out.attrs['notes'] = [*table.attrs.get('notes', []), *notes]
    return out


def _called(part): return {'aside': 'gt_bbox, multi-query and the like', 'all': 'train_all'}.get(part, part)


def _whole(table):
    "The parts, where one holds all that is trained on: train and val are left out if they are in it"
    part,name = table['part'],table['path'].str.rpartition('/')[2]
    again = part.isin(['train', 'val'])
    lack = again & ~name.isin(set(name[part == 'all']))
    if (lack & (part == 'train')).any():
        first = table['path'][lack].iloc[0]
        raise ValueError(f'train_all lacks {lack.sum()} pictures of train and val, first {first!r}. '
                         'Move train_all or these two away.')
    return part.mask(again & ~lack, 'again').replace('all', 'train')
