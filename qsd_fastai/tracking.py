"The Weights & Biases callback: one run that holds all one wants to look at afterwards."
import netrc
import os
import sys
import tempfile
from pathlib import Path
from urllib.parse import urlparse

import numpy as np
import pandas as pd
import torch
import wandb
from fastai.callback.core import Callback
from fastai.torch_core import get_model, rank_distrib
from fastcore.basics import store_attr
from matplotlib.backends.backend_agg import FigureCanvasAgg

from .data.loaders import picture_files
from .evaluation.metrics import RetrievalMetric
from .evaluation.retrieval import ranked_gallery
from .plots import quality_histogram, ranked_lists
from .resume import stopped

__all__ = ['TrackRun', 'finish_run', 'hardest_figure', 'hardest_queries', 'start_run']


def hardest_queries(
    store,      # `RetrievalStore` after a validation
    n:int=16,   # Queries
    top:int=5,  # Gallery pictures of each
)->pd.DataFrame: # `row, quality, ap, first_rank`, `gallery` (rows of the table) and `correct`, the hardest first
    "The answerable queries with the lowest average precision, and what the gallery answered"
    judged = store.judged()
    if judged is None or judged[0] is None: return pd.DataFrame(columns=['row', 'quality', 'ap', 'first_rank', 'gallery', 'correct'])
    emb,ids,quality,scene = store.gathered()
    query = scene[:,2] == 1
    worst = judged[0].per_query.query('answerable').sort_values(['ap', 'query'], kind='stable').head(n)
    pick = torch.from_numpy(worst['query'].to_numpy().copy())
    camera = scene[:,1].numpy()
    q,g = query.nonzero().flatten()[pick], (~query).nonzero().flatten()
    lists = ranked_gallery(emb[q], emb[g], ids[q], ids[g], camera[q], camera[g], top=top)
    rows = scene[:,0].numpy()
    found = [[rows[g[i]] for i in row if i >= 0] for row in lists.index]
    return pd.DataFrame({'row': rows[q], 'quality': quality[q].numpy(), 'ap': worst['ap'].to_numpy(),
                         'first_rank': worst['first_rank'].astype(int).to_numpy(), 'gallery': found, 'correct': [list(o[:len(f)]) for o,f in zip(lists.right, found)]})


class TrackRun(Callback):
    """Logs a run to Weights & Biases: configuration, every loss term and learning rate a batch, metrics an epoch, and at the end the
    quality histogram, the hardest queries with their ranked gallery, the table and the model.

    Goes on with the active run of `wandb.init`, or starts one. Without an API key the run is kept offline, and a line says how to upload it.
    fastai's own `WandbCallback` does not run with current fastcore."""
    order = 65  # after the Recorder, the schedulers and the progress bar

    def __init__(self,
        project:str='qsd_fastai',# Where the run goes, when this starts it
        run_name:str=None,       # Shown in W&B
        group:str=None,          # Runs to be compared
        config:dict=None,        # Beside what is found in the learner
        dir='runs',              # Where W&B keeps its files
        id:str=None,             # Of a run to go on with
        hardest:int=16,          # Queries in the table of the hardest
        log_model:bool=True,     # Keep the model as an artifact?
        log_table:bool=True,     # Keep the table of pictures as an artifact?
    ): store_attr()

    def before_fit(self):
        # validate, get_preds (which hold the lock) and lr_find also come through here
        self.run = not self.learn.lock.locked() and not hasattr(self.learn, 'lr_finder') and rank_distrib() == 0
        if not self.run: return
        self.ours = wandb.run is None
        self.wandb_run = start_run(self.project, self.run_name, self.group, self.dir, self.id) if self.ours else wandb.run
        self.wandb_run.config.update({**self.found_config(), **(self.config or {})}, allow_val_change=True)
        for part,step in (('train', 'batch'), ('lr', 'batch'), ('valid', 'epoch'), ('mean', 'epoch')):
            self.wandb_run.define_metric(f'{part}/*', step_metric=step)
        self.collected,self.trained,self.known = getattr(self.learn, 'loss_terms', None),False,sys.exc_info()[1]

    def found_config(self):
        "What is known about a learner without being told"
        learn,table = self.learn,getattr(self.dls, 'table', None)
        model,loss = get_model(learn.model), learn.loss_func
        found = {'body': type(getattr(model, 'body', model)).__name__, 'parameters': sum(p.numel() for p in model.parameters()),
                 'n_identities': getattr(self.dls, 'c', None), 'loss': type(loss).__name__, 'loss_weights': getattr(loss, 'weights', None),
                 'optimizer': type(learn.opt).__name__, 'wd': learn.wd, 'n_epoch': self.n_epoch, 'device': str(self.dls.device),
                 'callbacks': {cb.name: plain_attributes(cb) for cb in learn.cbs}, 'torch': torch.__version__}
        for k in ('n_ids', 'n_imgs', 'bs', 'seed'): found[k] = getattr(self.dls.train, k, None)
        if table is not None: found['table'] = {'rows': len(table), **table['split'].value_counts().to_dict(), 'record': table.attrs.get('record')}
        return found

    def after_batch(self):
        if not self.training: return
        self.trained = True
        row = {'train/loss': float(self.loss), **{f'train/{k}': float(v) for k,v in (self.collected.last if self.collected else {}).items()}}
        row |= {f'lr/group{i}': h['lr'] for i,h in enumerate(self.opt.hypers)}
        self.wandb_run.log({**row, 'batch': self.epoch*self.n_iter + self.iter})

    def after_epoch(self):
        if not self.trained or stopped(self.known): return  # an epoch that was done before a resume, or is not done
        row = {f'valid/{k}': v for k,v in zip(self.recorder.metric_names[1:], self.recorder.log[1:])
               if k not in ('time', 'train_loss', 'valid_loss') and v is not None and v == v}
        row |= {f'mean/{k}': v for k,v in (self.collected.epochs[-1] if self.collected else {}).items() if k != 'epoch'}
        self.wandb_run.log({**row, 'epoch': self.epoch + 1})

    def after_fit(self):
        failed = stopped(self.known)
        if not failed:
            if (table := getattr(self.dls, 'table', None)) is not None: self.log_table_and_pictures(table)
            if self.log_model: self.log_artifact('model', 'model', 'model.pth', lambda f: torch.save(get_model(self.learn.model).state_dict(), f))
        if self.ours: finish_run(self.wandb_run, failed)

    def log_table_and_pictures(self, table):
        if self.log_table:
            self.log_artifact('table', 'dataset', 'images.csv', lambda f: table.to_csv(f, index=False))
        self.log_pictures(table)

    def log_pictures(self, table):
        "Quality histogram and hardest queries, as W&B tables and as pictures"
        train = table.loc[table['split'] == 'train', 'quality'].astype(float)
        logged = {}
        if train.notna().any():
            logged['quality'] = wandb.Histogram(train.dropna().to_numpy(), num_bins=40)
            logged['quality_histogram'] = figure_image(quality_histogram(train))
        store = next((m.store for m in self.learn.metrics if isinstance(m, RetrievalMetric)), None)
        hard = hardest_queries(store, self.hardest) if store is not None else ()
        if len(hard):
            files = picture_files(table).to_numpy()
            top = max(map(len, hard['gallery']))
            columns = ['query', 'path', 'quality', 'ap', 'first_rank', *(f'rank{k+1}' for k in range(top))]
            cells = []
            for o in hard.itertuples():
                answers = [wandb.Image(str(files[r]), caption='right' if ok else 'wrong') for r,ok in zip(o.gallery, o.correct)]
                quality = None if np.isnan(o.quality) else float(o.quality)
                cells.append([wandb.Image(str(files[o.row])), table['path'].iloc[o.row], quality, float(o.ap), int(o.first_rank),
                              *answers, *[None]*(top - len(answers))])
            logged['hardest_queries'] = wandb.Table(columns=columns, data=cells)
            logged['hardest_queries_sheet'] = figure_image(hardest_figure(hard.head(8), files))
        if logged: self.wandb_run.log(logged)

    def log_artifact(self, name, kind, file, write):
        artifact = wandb.Artifact(f'{self.wandb_run.id}-{name}', kind)
        with tempfile.TemporaryDirectory() as tmp:
            write(Path(tmp)/file)
            artifact.add_file(str(Path(tmp)/file))  # copied into W&B's own folder
        self.wandb_run.log_artifact(artifact)


def hardest_figure(
    hard:pd.DataFrame, # Of `hardest_queries`
    files,             # The picture of each row of the table
):
    "`ranked_lists` of the hardest queries"
    titles = [('quality ?' if np.isnan(o.quality) else f'quality {o.quality:.0f}') + f'\nAP {o.ap:.2f}' for o in hard.itertuples()]
    return ranked_lists([files[r] for r in hard['row']], [[files[r] for r in o] for o in hard['gallery']], list(hard['correct']), titles)


def figure_image(
    fig, # matplotlib figure
)->wandb.Image:
    "A figure as a picture for W&B"
    fig.set_dpi(110)
    canvas = FigureCanvasAgg(fig)
    canvas.draw()
    return wandb.Image(np.asarray(canvas.buffer_rgba())[..., :3].copy())


def plain_attributes(
    cb, # A callback
)->dict:
    "Those attributes of a callback that say how it was made"
    kept = {k: v for k,v in vars(cb).items() if not k.startswith('_') and isinstance(v, (int, float, str, bool, tuple, type(None)))}
    return {k: (list(v) if isinstance(v, tuple) else v) for k,v in kept.items()}


def start_run(
    project:str='qsd_fastai', # W&B project
    name:str=None,  # Of the run
    group:str=None, # Runs to be compared
    dir='runs',     # Where W&B keeps its files; made if missing
    id:str=None,    # Of a run to go on with
    config:dict=None, # First part of the configuration
):
    "`wandb.init` that goes offline, and says so, where there is no API key and `WANDB_MODE` does not decide"
    Path(dir).mkdir(parents=True, exist_ok=True)
    mode = None
    if not os.environ.get('WANDB_MODE') and not has_key(): mode = 'offline'
    return wandb.init(project=project, name=name, group=group, dir=str(dir), id=id, resume='allow' if id else None, mode=mode, config=config,
                      settings=wandb.Settings(silent=True, console='off'))


def has_key()->bool:
    "Is there an API key in the environment, or where `wandb login` keeps it?"
    if os.environ.get('WANDB_API_KEY'): return True
    host = urlparse(os.environ.get('WANDB_BASE_URL', 'https://api.wandb.ai')).hostname
    try: return netrc.netrc().authenticators(host) is not None
    except (FileNotFoundError, netrc.NetrcParseError): return False


def finish_run(
    run,               # Of `start_run`
    failed:bool=False, # Mark it as stopped before its end?
):
    "End a run, and say where it is"
    folder,offline,url = Path(run.dir).parent,run.settings.mode == 'offline',run.url
    run.finish(exit_code=int(failed))
    if offline: print(f'W&B run kept offline. To upload it: wandb login, then wandb sync {folder}')
    elif url: print(f'W&B run: {url}')
