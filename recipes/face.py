"""Face recognition with quality self-distillation, beside its own baseline.

    python recipes/face.py                                  # drawn faces, minutes on a CPU
    python recipes/face.py --data ms1m/images.csv --pairs lfw/pairs.csv,agedb_30/pairs.csv --arch iresnet50 --by picture --pairing partner \\
        --n-ids 128 --n-imgs 1 --epochs 20 --lr .1 --tune-epochs 4 --tune-lr 1e-3 --augment face --workers 8
    python recipes/face.py --data lfw/images.csv --arch mobilefacenet --weights mobilefacenet.pt --epochs 0 --tune-epochs 4 --degraded

`--data` is a table, a record file or a folder of identities; `--pairs` any number of `pairs.csv` (a table beside each) or `.bin` files. A baseline is
trained with a margin head, or taken from `--weights` (`--epochs 0`: its head then starts at the mean of each identity), and labels the quality of
the training pictures. Then it is fine-tuned from the same weights, with the same batches and the same number of steps, once for each of
`--arms`: without QSD, with it, and the controls. QSD sees the last three stages, the embedding, and the cosines before the margin.

Judged are the pairs, as they are and, with `--degraded`, brought down to 28, 20 and 14 pixels, blurred and compressed; and search among the held-out
pictures where the table has queries. What the paper does not tell about faces (body, levels, weights, schedule) is this project's choice.
"""
import subprocess
import sys

from fastcore.script import call_parse

from qsd_fastai.all import *
from qsd_fastai.models.bodies.by_name import own_bodies

arm_names = {'without': 'fine-tuned without QSD', 'with': 'fine-tuned with QSD', 'shuffled': 'with QSD, quality shuffled',
             'true': 'with QSD, true quality', 'partner': 'with QSD, partners', 'joint': 'with QSD, partners in one forward'}
head_names = {'arcface': ArcFace, 'cosface': CosFace, 'adaface': AdaFace, 'magface': MagFace, 'curricularface': CurricularFace,
              'subcenter': SubCenterArcFace}
changes = {'flip': [CropFlip(0)], 'face': [CropFlip(0), FaceAugment(jpeg=.2)], 'shift': True}


def as_table(data, out):
    "The table of a table, a folder of identities, a record file or a .bin set; the last three through the script that reads them"
    data = Path(data)
    if data.suffix in ('.csv', '.parquet'): return data
    script = 'bins' if data.suffix == '.bin' else 'records' if data.suffix == '.rec' or (data.is_dir() and [*data.glob('*.rec')]) else 'folder'
    to = Path(out)/'data'/(data.stem or 'faces')
    at = to.parent if script == 'bins' else to  # which makes a folder for each set itself
    done = subprocess.run([sys.executable, Path(__file__).parents[1]/'data_prep'/f'{script}.py', data, '--out', at])
    if done.returncode: raise SystemExit(f'{data} could not be made a table: see above.')
    return to/'images.csv'


@call_parse
def main(
    data:str=None,            # A table, a record file (or its folder), or a folder of identities; drawn faces when not given
    pairs:str='',             # More sets to judge, with commas between: pairs.csv (a table beside it) or .bin; that beside --data is judged anyway
    out:str=None,             # Folder of the run: weights, labels, figures, results, W&B files; a new one under runs when not given
    arch:str='regnetx_002',   # Mobilefacenet, iresnet18/34/50/100, or a timm model
    weights:str='',           # A file of weights that the baseline starts from
    head:str='arcface',       # Arcface, cosface, adaface, magface, curricularface, subcenter, linear
    scale:float=32.,          # S of the margin head; 64 suits very many identities
    rate:float=1.,            # Below 1: share of the identities that a step compares with (Partial FC), for very many of them
    size:int=64,              # Of the network's input, pixels; 112 for real faces
    by:str='identity',        # What batches are dealt by: identity, or picture (each once an epoch) for very many faces
    n_ids:int=16,             # Identities a batch
    n_imgs:int=4,             # Pictures of each
    min_imgs:int=2,           # Training identities with fewer pictures are left out
    max_imgs:int=0,           # Of each training identity at most so many pictures, drawn by --seed; 0: all
    augment:str='flip',       # flip: mirror; face: low resolution, compression, crops, light too (no label knows of it); shift: as for persons
    epochs:int=16,            # Of the baseline; 0 takes --weights as they are
    lr:float=5e-3,            # Highest rate of the baseline
    tune_epochs:int=6,        # Of each fine-tuning
    tune_lr:float=1e-3,       # Highest rate of the fine-tunings
    weight:float=1.,          # Of QSD; 0 is the baseline's loss
    pairing:str='batch',      # batch: all pairs of one identity in a batch; partner: a partner for each picture, as published
    map_norm:str='none',      # Of QSD's maps: none as published, l2 makes them independent of scale
    arms:str='without,with',  # Which fine-tunings: without, with, shuffled (labels dealt out at random), true (known quality), partner, joint
    shuffle_quality:bool=False, # The same as shuffled in place of with
    degraded:bool=False,      # Judge degraded copies of the first set of pairs as well
    far:float=1e-2,           # False acceptance rate at which true acceptance is stated
    flip:bool=False,          # Judge the sum of the embeddings of picture and mirror image
    seed:int=0,               # Of weights, batches and augmentation
    group:str='',             # Of the runs in W&B; the name of the folder when not given
    workers:int=0,            # Loading processes; 0 loads in this one
    resume:bool=False,        # Go on with the newest run that was stopped, or with that in --out
):
    "Train or take a baseline, label quality with it, fine-tune without and with QSD, judge all of them"
    args = {k: v for k,v in locals().items() if k not in ('out', 'resume')}
    arms = ['shuffled' if a == 'with' and shuffle_quality else a for a in arms.split(',')]
    if unknown := set(arms) - set(arm_names): raise SystemExit(f'--arms: {", ".join(unknown)} is unknown. Use {", ".join(arm_names)}.')
    heads = {'linear': LinearHead, **{k: partial(v, s=scale) for k,v in head_names.items()}}
    if rate < 1 and head in head_names: heads[head] = partial(PartialFC, margin=heads[head], rate=rate)
    for name,value,known in (('head', head, heads), ('augment', augment, changes)):
        if value not in known: raise SystemExit(f'--{name} {value} is unknown. Use {", ".join(known)}.')
    body_size = {'size': (size, size)} if arch in own_bodies and arch != 'agw_resnet50' else {}
    if not epochs and not weights: raise SystemExit('--epochs 0 takes weights as they are: name them with --weights.')
    out,run_id = run_folder('face', out, args, resume)

    # 1. the pictures: whom to train on, and what to judge
    table = read_table(as_table(data, out)) if data else generate_faces('runs/faces')
    if 'true' in arms and 'true_quality' not in table: raise SystemExit('--arms true needs a table with the column true_quality.')
    place = table.sample(frac=1, random_state=seed).groupby('identity').cumcount().reindex(table.index)
    left_out = (table['split'] == 'train') & ((table.groupby('identity')['path'].transform('size') < min_imgs) | (place >= (max_imgs or len(table))))
    attrs,table = table.attrs, table[~left_out].reset_index(drop=True)
    table.attrs = attrs
    print(describe_table(table))
    if left_out.any(): print(f'{left_out.sum():,} training pictures are left out: of identities with fewer than {min_imgs}, or beyond --max-imgs')
    train_rows,query_rows = table['split'] == 'train', table['split'] == 'query'
    sets,own,beside = {}, None, Path(attrs['root'])/'pairs.csv'
    if beside.is_file():
        try: own = read_pairs(beside, table[~train_rows])
        except ValueError as e: raise SystemExit(f'{beside}: {e} data_prep/pairs.py --hold-out 2 keeps those who are judged out of training.') from e
        sets['pairs'] = table[~train_rows], own
    for file in filter(None, pairs.split(',')):
        file = as_table(file, out).with_name('pairs.csv') if file.endswith('.bin') else Path(file)
        name = file.parent.name
        if name in sets: raise SystemExit(f'--pairs: two sets are called {name}. Rename the folder of one.')
        sets[name] = (judged := read_table(file.with_name('images.csv'))), read_pairs(file, judged)
    if degraded and not sets: raise SystemExit('--degraded degrades the pictures of pairs: there is neither pairs.csv beside the table nor --pairs.')
    if not sets and not query_rows.any(): raise SystemExit('There is nothing to judge: neither pairs.csv beside the table nor --pairs, nor queries.')
    if degraded:
        first,(judged,their_pairs) = next(iter(sets.items()))
        for kind,amount in FACE_DEGRADATIONS:
            folder = out/'degraded'/f'{kind}_{amount:g}'
            copies = degraded_copies(judged, folder, kind, amount, pairs=their_pairs, progress=False)
            sets[f'{first} {kind} {amount:g}'] = copies, read_pairs(folder/'pairs.csv', copies)
        copies_of_first = [k for k in sets if k.startswith(f'{first} ')]

    stats = preprocess.stats if (preprocess := preprocess_of(make_body(arch, pretrained=weights or False, **body_size))) else imagenet_stats

    taken = None

    def train(stage, table, epochs, lr, start=None, qsd=None):
        "One fit, tracked and resumable, from the weights of `start` where given; `taken`: embeddings by weights as they came"
        nonlocal taken
        print(f'\n== {stage}: {epochs} epochs')
        set_seed(seed, reproducible=True)
        dls = recognition_dataloaders(table, size=(size, size), n_ids=n_ids, n_imgs=n_imgs, by=by, partners=bool(qsd) and qsd.pairs == 'partner',
                                      augment=changes[augment], erase=0, seed=seed, stats=stats, num_workers=workers)
        metrics = Verification('accuracy', f'tar@{far:g}', pairs=own) if own is not None else Retrieval() if query_rows.any() else None
        learn = recognition_learner(dls, arch, head=heads[head], pretrained=weights or False, body_kwargs=body_size,
                                    metrics=metrics, path=out)
        learn.model.to(dls.device, memory_format=torch.channels_last)  # depthwise convolutions take half the time
        if start is not None: learn.model.load_state_dict(start.model.state_dict())
        elif weights and head != 'linear':
            taken = learn.embed(table[train_rows])
            learn.model.head.imprint(taken, [dls.vocab.o2i[o] for o in table.loc[train_rows, 'identity']])
        name = stage.replace(',', '').replace(' ', '_')
        run = start_run(name=f'{out.name} {stage}', group=group or out.name, dir=out, id=f'{run_id}-{name}', config={**args, 'stage': stage})
        if epochs:
            with resumable(out): learn.fit_one_cycle(epochs, lr, cbs=[SaveState(out/f'{name}.state', resume), TrackRun(), *([qsd] if qsd else [])])
        learn.export(f'{name}.pkl')
        return learn, run

    def judge(learn, run, name):
        "Figures over every set of pairs, and over the queries where there are some, into a row and into W&B; the plots into files and W&B"
        row,rocs,parts = {}, {}, []
        for k,(judged,their) in sets.items():
            judged = judged[judged['path'].isin({*their['path1'], *their['path2']})]
            emb = learn.embed(judged, flip=flip)
            at = pd.Series(range(len(judged)), judged['path'])
            first,second = (at[their[c]].to_numpy() for c in ('path1', 'path2'))
            result = evaluate_verification(emb[first], emb[second], their['same'], their['fold'])
            row |= {f'{k} accuracy': result.accuracy, f'{k} tar': result.tar_at_far((far,))['tar'].iloc[0]}
            rocs[k] = roc_points(result.per_pair['score'], result.per_pair['same'])
            parts.append((judged, their, emb, result.per_pair['score'], first, second, result.per_pair))
        if degraded:  # their mean first, then each of them
            each = {f'{k} {o}': row.pop(f'{k} {o}') for k in copies_of_first for o in ('accuracy', 'tar')}
            for o in ('accuracy', 'tar'): row[f'degraded {o}'] = np.mean([each[f'{k} {o}'] for k in copies_of_first])
            row |= each
        if query_rows.any():
            held,query = table[~train_rows], query_rows[~train_rows].to_numpy(copy=True)
            emb,ids = learn.embed(held, flip=flip), held['identity'].to_numpy()
            found = evaluate_retrieval(emb[query], emb[~query], ids[query], ids[~query])
            row |= {f'rank{k}': float(found.cmc[min(k, len(found.cmc)) - 1]) for k in (1, 5, 20)} | {'mAP': found.mAP}
        run.summary.update({f'final/{k}': v for k,v in row.items()})
        if parts:
            figures = {'roc': roc_figure(rocs)}
            for k,(judged,_,_,_,first,second,per_pair) in zip(sets, parts):
                hard = hardest_pairs(per_pair.assign(row1=first, row2=second, quality1=np.nan, quality2=np.nan), 8)
                figures[f'hardest_{k.replace(" ", "_")}'] = hardest_pairs_figure(hard, picture_files(judged).to_numpy())
            try: figures['rejection'] = rejection(parts)
            except ValueError as e: print(f'Rejection is not judged: {e}')  # a run of hours must not end for a figure
            for k,figure in figures.items():
                figure.savefig(out/f'{name}_{k}.png', dpi=150)
                run.log({k: figure_image(figure)})
        finish_run(run)
        return row

    def rejection(parts):
        "What rejecting the worst pictures is worth, over all sets together: by likeness to others, by length of the embedding, by truth"
        lengths = np.cumsum([0, *(len(p[0]) for p in parts)])
        emb,everyone = torch.cat([p[2] for p in parts]), pd.concat([p[0] for p in parts], ignore_index=True)
        quality = {'similarity': similarity_quality(emb, everyone['identity'], seed=seed), 'length of the embedding': norm_quality(emb)}
        if 'true_quality' in everyone and everyone['true_quality'].notna().all(): quality['true quality'] = everyone['true_quality'].to_numpy()
        first,second = (np.concatenate([p[i] + n for p,n in zip(parts, lengths)]) for i in (4, 5))
        scores,same = np.concatenate([p[3] for p in parts]), np.concatenate([p[1]['same'] for p in parts])
        return error_vs_reject_figure(error_vs_reject(scores, same, first, second, quality, far=far))

    # 2. the baseline, and quality as it sees it: training pictures among themselves
    baseline,run = train('baseline', table.assign(quality=float('nan')), epochs, lr)
    labelled = table.assign(quality=float('nan'))
    emb = taken if taken is not None and not epochs else baseline.embed(table[train_rows])
    labelled.loc[train_rows, 'quality'] = similarity_quality(emb, table.loc[train_rows, 'identity'], seed=seed)
    write_table(labelled, out/'labelled'/'images.csv')
    computed = labelled.loc[train_rows, 'quality']
    quality_histogram_figure(computed).savefig(out/'quality.png', dpi=150)
    if 'true_quality' in table:
        known = table.loc[train_rows, 'true_quality']
        correlation = known.rank().corr(computed.rank())
        print(f'\nRank correlation of the computed quality with true_quality over {len(known):,} training pictures: {correlation:.2f}')
        run.summary['quality_rank_correlation'] = correlation
        quality_agreement_figure(computed, known, correlation).savefig(out/'quality_agreement.png', dpi=150)
    results = {'baseline': judge(baseline, run, 'baseline')}

    # 3. the same steps from there, without the method, with it, and with the controls
    for arm in arms:
        taught = labelled.copy()
        if arm == 'shuffled': taught.loc[train_rows, 'quality'] = computed.sample(frac=1, random_state=seed).to_numpy()
        if arm == 'true': taught['quality'] = table['true_quality']
        how = 'partner' if arm in ('partner', 'joint') else pairing
        forward = 'joint' if arm == 'joint' else 'separate'
        qsd = None if arm == 'without' else QualityDistillation(weight, pairs=how, forward=forward, map_norm=map_norm)
        learn,run = train(arm_names[arm], taught, tune_epochs, tune_lr, baseline, qsd)
        results[arm_names[arm]] = judge(learn, run, arm)

    # 4. what came out
    results = pd.DataFrame(results).T.dropna(axis=1, how='all')  # too few pairs for a rate
    results.to_csv(out/'results.csv')
    print(f'\nIn %; tar: true pairs accepted where {far:g} of the false ones are. Nobody who is judged was trained on\n')
    print((100*results.T).round(1).to_string())
    print(f'\nEverything of this run is in {out}')
    return results
