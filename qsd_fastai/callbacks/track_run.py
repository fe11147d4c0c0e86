"The Weights & Biases callback: one run that holds all one wants to look at afterwards"
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
import wandb
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.torch_core import get_model, rank_distrib
from fastcore.basics import defaults, store_attr
from torch import nn

from ..data.loaders import picture_files, picture_size
from ..evaluation.metrics import RetrievalMetric, VerificationMetric, hardest_queries, judge_of
from ..fits import is_fit
from ..models.heads.partial_fc import whole_state_dict
from ..plots.pictures import hardest_figure
from ..plots.quality import quality_histogram_figure
from ..runs.keys import under
from ..runs.wandb_run import epochs_known, finish_run, kept_beside, start_run
from ..runs.wandb_tables import figure_image, hardest_table, verification_pictures
from .loss_terms import loss_terms

__all__ = ['TrackRun']


class TrackRun(Callback):
    """Logs a fit to Weights & Biases, from its configuration to the hardest cases

    Every loss term and learning rate a batch, metrics an epoch, and at the end the model, the table, the quality
    histogram, the hardest queries with their ranked gallery and, with `Verification`, the ROC curve, error against
    rejection and the hardest pairs. Where `SaveModelCallback` loads the best model, all of these are of its epoch:
    the artifact has the alias best, otherwise last, and its epoch and figures; `final/` in the summary has them, too.
    validate, get_preds and lr_find log nothing.

    Goes on with the active run of `wandb.init`, or starts one and finishes it. A fit that ends in an exception, Ctrl-C
    say, leaves its run open; it is marked as failed when the next one starts, or when Python ends. Without an API key
    the run is kept offline, and a line says how to upload it. fastai's own `WandbCallback` does not run with current
    fastcore."""
    # after the Recorder, the schedulers, the progress bar, and SaveModelCallback, which loads the best model at the end
    order = SaveModelCallback.order + 4
    left = None  # the run that one of these has started and not finished

    def __init__(self,
        project:str='qsd_fastai', # Where the run goes, when this starts it
        run_name:str=None,        # Shown in W&B
        group:str=None,           # Runs to be compared
        config:dict=None,         # Beside what is found in the learner, which stands under `found`
        dir='runs',               # Where W&B keeps its files
        id:str=None,              # Of a run to go on with
        hardest:int=16,           # Queries in the table of the hardest, and pairs of each kind
        log_model:bool=True,      # Keep the model as an artifact?
        log_table:bool=True,      # Keep the table of pictures as an artifact?
    ):
        store_attr()
        self.wandb_run = None
        self.logged = (None, 0, 0)  # id of the run that was logged to last, and how many batches and epochs

    def __getstate__(self): return {**self.__dict__, 'wandb_run': None}  # for `Learner.export`

    def before_fit(self):
        self.fits,self.begun = is_fit(self.learn),False
        self.tracks = self.fits and rank_distrib() == 0
        self.wandb_run = None

    def before_epoch(self):
        "The run starts with the first epoch: by then every callback has agreed to the fit"
        self.begun = self.fits
        if not self.tracks or self.wandb_run is not None: return
        if wandb.run is not None and wandb.run is TrackRun.left: finish_run(wandb.run, failed=True)
        self.wandb_run,self.ours = wandb.run,wandb.run is None
        if self.ours:
            self.wandb_run = start_run(self.project, self.run_name, self.group, self.dir, self.id, job_type='train')
            TrackRun.left = self.wandb_run
        self.wandb_run.config.update({'found': found_config(self.learn), **(self.config or {})}, allow_val_change=True)
        for part,step in (('train', 'batch'), ('lr', 'batch'), ('valid', 'epoch'), ('mean', 'epoch')):
            self.wandb_run.define_metric(f'{part}/*', step_metric=step)
        self.known = epochs_known(self.wandb_run)
        run,*done = self.logged
        self.first_batch,self.first_epoch = done if run == self.wandb_run.id else (0, 0)  # `fine_tune` is two fits
        self.trained,self.rows,self.best = False,0,None

    def after_batch(self):
        if not self.tracks or not self.training: return
        self.trained = True
        terms = {f'train/{k}': float(v) for k,v in loss_terms(self.learn).items()}
        row = {'train/loss': float(self.loss.detach()), **terms}
        row |= {f'lr/group{i}': h['lr'] for i,h in enumerate(self.opt.hypers)}
        self.wandb_run.log({**row, 'batch': self.first_batch + self.epoch*self.n_iter + self.iter})

    def after_epoch(self):
        if not self.tracks: return
        # else it was done before a resume; what W&B has not got, for the process was killed, is logged again
        if self.trained or self.first_epoch + self.epoch >= self.known: self._log_epoch()
        self.rows = len(self.recorder.values)
        if self._keeper is not None and self._keeper.new_best: self.best = self._state()

    @property
    def _keeper(self):
        "What loads the best model at the end"
        savers = (cb for cb in self.learn.cbs if isinstance(cb, SaveModelCallback))
        return next((cb for cb in savers if not cb.every_epoch and not cb.at_end), None)

    def _state(self):
        "What is known of the model as it is after an epoch: figures, the hardest queries, pairs"
        search,pairs = (judge_of(self.learn.metrics, o) for o in (RetrievalMetric, VerificationMetric))
        hard = hardest_queries(search.store, self.hardest) if search else ()
        found = pairs.found() if pairs else None
        # named as a judgement names them
        figures = {k.removeprefix('valid/').replace('_', ' '): float(v) for k,v in self._figures().items()
                   if k.startswith('valid/')}
        epoch = self.first_epoch + self.epoch + 1
        return {'epoch': epoch, 'figures': figures, 'hard': hard, 'pairs': found and found[0].per_pair}

    def _figures(self):
        names = {'train_loss': 'mean/smooth_loss', 'valid_loss': 'valid/loss'}
        found = zip(self.recorder.metric_names[1:], self.recorder.values[-1])
        return {names.get(k, f'valid/{k}'): v for k,v in found if v is not None and v == v}

    def _log_epoch(self):
        row = self._figures()
        collected = getattr(self.learn, 'loss_terms', None)
        means = collected.epochs[-1] if collected and collected.epochs else {}
        row |= {f'mean/{k}': v for k,v in means.items() if k != 'epoch'}
        self.wandb_run.log({**row, 'epoch': self.first_epoch + self.epoch + 1})

    def after_fit(self):
        # by every process: each has some of the centers of a `PartialFC`
        weights = whole_state_dict(get_model(self.learn.model)) if self.begun and self.log_model else None
        if not self.tracks or self.wandb_run is None: return
        # early stopping lets nobody see its last epoch
        if self.trained and len(self.recorder.values) > self.rows: self._log_epoch()
        batches = self.first_batch + self.n_epoch*len(self.dls.train)
        self.logged = self.wandb_run.id,batches,self.first_epoch + self.n_epoch
        table = getattr(self.dls, 'table', None)
        state = (self._state() if self._keeper is None else self.best) if self.recorder.values else None
        known = {'epoch': state['epoch'], **state['figures']} if state else {}
        self.wandb_run.summary.update(under('final', known))
        with kept_beside(self.wandb_run):
            if self.log_model:
                alias = 'last' if self._keeper is None else 'best'
                known |= {'monitor': self._keeper.monitor} if self._keeper else {}
                self._log_artifact('model', 'model', 'model.pth', lambda f: torch.save(weights, f), known, [alias])
            if table is not None and self.log_table: self._log_table(table)
            if table is not None: self._log_pictures(table, state)
        if self.ours:
            finish_run(self.wandb_run)
            TrackRun.left = None

    def _log_table(self, table):
        file,write = 'images.csv',partial(table.to_csv, index=False)
        if len(table) > 100_000: file,write = 'images.parquet',table.to_parquet
        self._log_artifact('table', 'dataset', file, write, table.attrs.get('record'))

    def _log_artifact(self, name, kind, file, write, metadata=None, aliases=None):
        artifact = wandb.Artifact(f'{self.wandb_run.id}-{name}', kind, metadata=metadata)
        with tempfile.TemporaryDirectory() as tmp:
            write(Path(tmp)/file)
            artifact.add_file(str(Path(tmp)/file))  # W&B makes a copy
        self.wandb_run.log_artifact(artifact, aliases=aliases)

    def _log_pictures(self, table, state):
        "Quality histogram, curves, hardest queries and pairs, as W&B tables and as pictures"
        quality = table.loc[table['split'] == 'train', 'quality'].astype(float)
        logged = {}
        if quality.notna().any():
            logged['histograms/quality'] = wandb.Histogram(quality.dropna().to_numpy(), num_bins=40)
            logged['plots/quality'] = figure_image(quality_histogram_figure(quality))
        if state and len(hard := state['hard']):
            files = picture_files(table).to_numpy()
            logged['tables/hardest_queries'] = hardest_table(hard, files, table['path'].to_numpy())
            logged['plots/hardest_queries'] = figure_image(hardest_figure(hard.head(8), files))
        pairs = state and state['pairs']
        if pairs is not None: logged |= verification_pictures(pairs, table, self.hardest)
        if logged: self.wandb_run.log(logged)


def found_config(
    learn, # `Learner` in a fit
)->dict:
    "What is known about a learner without being told"
    dls,model = learn.dls,get_model(learn.model)
    body = getattr(model, 'body', model)
    opt_func,size = getattr(learn.opt_func, 'func', learn.opt_func),picture_size(dls)
    own = [cb for cb in learn.cbs if type(cb) not in defaults.callbacks and not isinstance(cb, TrackRun)]
    found = {
        'body': (getattr(body, 'pretrained_cfg', None) or {}).get('architecture') or type(body).__name__,
        'parameters': sum(p.numel() for p in model.parameters()),
        'n_identities': getattr(dls, 'c', None),
        'size': size and list(size),
        'loss': described(learn.loss_func),
        'optimizer': getattr(opt_func, '__name__', type(learn.opt).__name__),
        'lr': highest_rates(learn), 'wd': learn.opt.hypers[-1].get('wd'),
        'n_epoch': learn.n_epoch, 'n_batches': len(dls.train),
        'callbacks': {cb.name: described(cb) for cb in own},
        'device': str(getattr(dls, 'device', None)), 'torch': torch.__version__}
    for k in ('n_ids', 'n_imgs', 'partners', 'bs', 'seed'): found[k] = getattr(dls.train, k, None)
    table = getattr(dls, 'table', None)
    if table is None: return found
    splits = table['split'].value_counts().to_dict()
    return {**found, 'table': {'rows': len(table), **splits, 'record': table.attrs.get('record')}}


def highest_rates(
    learn, # `Learner` in a fit
)->list: # For each parameter group
    "The highest learning rate that a fit comes to, scheduled or constant"
    rates = [h['lr'] for h in learn.opt.hypers]
    scheduled = getattr(getattr(learn, 'param_scheduler', None), 'scheds', {}).get('lr')
    if scheduled:
        all_along = [np.broadcast_to(scheduled(pct), len(rates)) for pct in np.linspace(0, 1, 101)]
        rates = np.max(all_along, axis=0)
    return [float(v) for v in rates]


def described(
    o,       # A callback, a module, a schedule or a function
    depth=2, # How far modules within modules are described
)->dict:
    "How something was made, as far as its plain attributes tell"
    if not hasattr(o, '__dict__') or hasattr(o, '__code__'): return {'name': getattr(o, '__name__', str(o))}
    found = {'name': type(o).__name__}
    for k,v in {**vars(o), **vars(o).get('_modules', {})}.items():
        if k.startswith('_') or k in ('learn', 'run', 'training', 'terms'): continue
        if isinstance(v, (bool, int, float, str)): found[k] = v
        elif isinstance(v, Path): found[k] = v.name
        elif isinstance(v, (tuple, list)) and _few_and_plain(v): found[k] = list(v)
        elif isinstance(v, dict) and _few_and_plain(v.values()): found[k] = v
        elif depth and (isinstance(v, nn.Module) or callable(v)): found[k] = described(v, depth - 1)
    return found


def _few_and_plain(values): return 0 < len(values) <= 20 and all(isinstance(o, (int, float, str)) for o in values)
