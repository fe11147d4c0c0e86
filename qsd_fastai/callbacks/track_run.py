"The Weights & Biases callback: one run that holds all one wants to look at afterwards"
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import torch
from fastai.callback.core import Callback
from fastai.callback.tracker import SaveModelCallback
from fastai.torch_core import get_model, rank_distrib
from fastcore.basics import store_attr

from ..data.loaders import picture_files
from ..distributed import processes
from ..evaluation.metrics import RetrievalMetric, VerificationMetric, hardest_pairs, hardest_queries, judge_of
from ..fits import is_fit
from ..models.heads.partial_fc import whole_state_dict
from ..plots.pictures import hardest_figure, hardest_pairs_figure
from ..plots.quality import quality_histogram_figure
from ..plots.style import said_of, signed
from ..runs.history import History
from ..runs.keys import under
from ..runs.made import made_with, peak_memory, reset_peak_memory
from ..runs.wandb_run import (
    active_run,
    finish_run,
    kept_beside,
    last_known,
    log_files,
    log_soon,
    send_rows,
    start_run,
    wandb,
)
from ..runs.wandb_tables import figure_images, hardest_table, pairs_table
from ..shown import shown
from ..tensors import numbers
from .found import body_name, found_config
from .judged import judged_pairs, judged_search
from .loss_terms import loss_terms

__all__ = ['TrackRun']

STEPS = {'train': 'batch', 'lr': 'batch', 'valid': 'epoch', 'mean': 'epoch', 'cost': 'epoch'} # What curves are over


def valid_key(
    name:str, # As the recorder prints it
)->str: # In a run
    "The key of what an epoch ended with"
    return {'train_loss': 'mean/smooth_loss', 'valid_loss': 'valid/loss'}.get(name, f'valid/{name}')


def usual_every(
    n:int, # Batches in an epoch
)->int:
    "Batches from one that is logged to the next: every one where they are few, every tenth of 100 and more"
    return min(10, max(1, n//10))


class TrackRun(Callback):
    """Logs a fit to Weights & Biases, from its configuration to the hardest cases

    Every loss term and learning rate a batch, or every few of a long epoch (`every`), metrics, pictures a second and
    memory an epoch, and at the end the model, the table, the quality histogram, the hardest queries with their ranked
    gallery, the hardest pairs, and of what `Retrieval` and `Verification` judged the curves (CMC, ROC and DET, errors
    with the worst rejected) and the thirds by quality. Where `SaveModelCallback` loads the best model, all of these are
    of its epoch: the artifact has the alias best, otherwise last, and its epoch and figures; `final/` in the summary
    has them, too. Figures of `valid/` stand in the summary as the best epoch had them and as the last one had.
    validate, get_preds and lr_find log nothing. What is embedded or compared anew (maps of embeddings and of energy,
    gains over another model) recipes add, and in Python `judge_search` and `judge_pairs` give it.

    Goes on with the active run of `wandb.init`, each row at once, so that what callbacks of your own log with
    `commit=False` joins it; or starts one, with rows of batches some seconds apart, and finishes it. A fit that ends in
    an exception, Ctrl-C say, leaves its run open; it is marked as failed when the next one starts, or when Python ends.
    Without an API key the run is kept offline, and a line says how to upload it; without W&B the numbers are in
    `batches` and `epochs` all the same. fastai's own `WandbCallback` does not run with current fastcore."""
    # after the Recorder, the schedulers, the progress bar, and SaveModelCallback, which loads the best model at the end
    order = SaveModelCallback.order + 4
    left = None  # the run that one of these has started and not finished

    def __init__(self,
        project:str='qsd_fastai', # Where the run goes, when this starts it
        run_name:str=None,        # Shown in W&B
        group:str=None,           # Runs to be compared
        config:dict=None,         # Beside what is found in the learner, which stands under `found`, `found_second`
        dir='runs',               # Where W&B keeps its files
        id:str=None,              # Of a run to go on with
        hardest:int=16,           # Queries in the table of the hardest, and pairs of each kind
        log_model:bool=True,      # Keep the model as an artifact?
        log_table:bool=True,      # Keep the table of pictures as an artifact?
        every:int=None,           # Batches from one that is logged to the next; by default `usual_every`
        into=None,                # A run to log to, whose owner judges the model; else that of `wandb.init`, or its own
    ):
        store_attr()
        self.ended = None # Epoch of the model, once a fit is over
        self.wandb_run = self.held = None
        self.to_come = 0  # fits that are of the same run, after the one at hand
        self.batches,self.epochs = History(),History()
        self.logged = (None, 0, 0)  # id of the run that was logged to last, and how many batches and epochs

    __repr__ = shown

    def __getstate__(self):
        "For `Learner.export`"
        return {**self.__dict__, 'wandb_run': None, 'held': None, 'into': None}

    def state_dict(self):
        "What was logged so far, for a fit that is resumed"
        return {'batches': self.batches.state_dict(), 'epochs': self.epochs.state_dict()}

    def load_state_dict(self,
        state:dict, # Of `state_dict`
    ):
        "Go on from there"
        self.batches.load_state_dict(state['batches'])
        self.epochs.load_state_dict(state['epochs'])

    @contextmanager
    def of_two_fits(self):
        "Two fits within this are one run, as those of `fine_tune` are: what is of its end comes after the second"
        self.to_come = 1
        try: yield
        finally: self.to_come,self.held = 0,None

    def before_fit(self):
        self.fits,self.begun = is_fit(self.learn),False
        self.tracks = self.fits and rank_distrib() == 0
        self.wandb_run = None

    def before_epoch(self):
        "The run starts with the first epoch: by then every callback has agreed to the fit"
        self.begun = self.fits
        if not self.tracks or self.wandb_run is not None: return
        held,self.held = self.held,None
        if held is None: reset_peak_memory(getattr(self.dls, 'device', None)) # Else of a stage before this one
        if held is None and TrackRun.left is not None and active_run() is TrackRun.left:
            finish_run(TrackRun.left, failed=True)
        self.wandb_run = self.into or held or active_run()
        self.ours = self.wandb_run is None or (held is not None and held is TrackRun.left)
        if self.wandb_run is None:
            self.wandb_run = start_run(self.project, self.run_name, self.group, self.dir, self.id, job_type='train')
            TrackRun.left = self.wandb_run
        part = 'found' if held is None else 'found_second' # Of `fine_tune`: other rates and epochs
        known = {part: found_config(self.learn), **made_with(), **(self.config or {})}
        self.wandb_run.config.update(known, allow_val_change=True)
        for part,step in STEPS.items(): self.wandb_run.define_metric(f'{part}/*', step_metric=step)
        for name in self.recorder.metric_names:
            if name in ('epoch', 'train_loss', 'time'): continue
            best = 'min' if name in ('valid_loss', 'eer') else 'max'
            self.wandb_run.define_metric(valid_key(name), step_metric='epoch', summary=f'{best},last')
        self.known,self.known_batch = last_known(self.wandb_run, 'epoch'),last_known(self.wandb_run, 'batch', -1)
        run,*done = self.logged
        self.first_batch,self.first_epoch = done if run == self.wandb_run.id else (0, 0)  # `fine_tune` is two fits
        if run != self.wandb_run.id: self.batches,self.epochs = History(),History()
        if held is None: self.best = None # Else the best epoch may be of the fit before
        self.trained,self.rows,self.cost = False,0,{}

    def before_train(self):
        self.pictures,self.start = 0,time.perf_counter()
        # an epoch that was stopped in the middle is done again, the same to the last digit
        self.again = getattr(getattr(self.learn, 'save_state', None), 'exact', False)

    def after_batch(self):
        if not self.tracks or not self.training: return
        self.trained = True
        self.pictures += len(self.yb[0])
        batch = self.first_batch + self.epoch*self.n_iter + self.iter
        if batch % (self.every or usual_every(self.n_iter)): return
        # one transfer: each that waits for the device holds up the next step
        row = numbers(under('train', {'loss': self.loss, **loss_terms(self.learn)}))
        row |= {f'lr/group{i}': h['lr'] for i,h in enumerate(self.opt.hypers)} | {'batch': batch}
        self.batches.add(row)
        if not self.again or batch > self.known_batch: log_soon(self.wandb_run, row)

    def after_train(self):
        if not self.tracks: return
        send_rows(self.wandb_run)
        pace = processes()[1]*self.pictures/(time.perf_counter() - self.start)
        memory = peak_memory(getattr(self.dls, 'device', None))
        self.cost = under('cost', {'pictures_a_second': pace, **memory}) if self.pictures else {}

    def after_epoch(self):
        if not self.tracks: return
        # else it was done before a resume; what W&B has not got, for the process was killed, is logged again
        if self.trained or self.first_epoch + self.epoch >= self.known: self._log_epoch()
        self.rows = len(self.recorder.values)
        if self._keeper is not None and self._keeper.new_best: self.best = self._epoch_state()

    @property
    def _keeper(self):
        "What loads the best model at the end"
        savers = (cb for cb in self.learn.cbs if isinstance(cb, SaveModelCallback))
        return next((cb for cb in savers if not cb.every_epoch and not cb.at_end), None)

    def _epoch_state(self):
        "What is known of the model as it is after an epoch: figures, the hardest queries, pairs"
        search,pairs = (judge_of(self.learn.metrics, o) for o in (RetrievalMetric, VerificationMetric))
        hard = hardest_queries(search.store, self.hardest) if search else ()
        found = pairs.found() if pairs else None
        curves = [search and judged_search(search), pairs and judged_pairs(pairs)] if self.into is None else ()
        # named as a judgement names them
        figures = {k.removeprefix('valid/').replace('_', ' '): float(v) for k,v in self._figures().items()
                   if k.startswith('valid/')}
        epoch = self.first_epoch + self.epoch + 1
        return {'epoch': epoch, 'figures': figures, 'hard': hard, 'pairs': found and found[0].per_pair,
                'curves': [o for o in curves if o]}

    def _figures(self):
        found = zip(self.recorder.metric_names[1:], self.recorder.values[-1])
        return {valid_key(k): v for k,v in found if v is not None and v == v}

    def _log_epoch(self):
        row = self._figures()
        collected = getattr(self.learn, 'loss_terms', None)
        means = collected.epochs[-1] if collected and collected.epochs else {}
        row |= {f'mean/{k}': v for k,v in means.items() if k != 'epoch'}
        row |= {**self.cost, 'epoch': self.first_epoch + self.epoch + 1}
        self.epochs.add(row)
        self.wandb_run.log(row)

    def after_fit(self):
        # by every process: each has some of the centers of a `PartialFC`
        weights = whole_state_dict(get_model(self.learn.model)) if self.begun and self.log_model else None
        if not self.tracks or self.wandb_run is None: return
        send_rows(self.wandb_run) # Of an epoch that was cancelled
        # early stopping lets nobody see its last epoch
        if self.trained and len(self.recorder.values) > self.rows: self._log_epoch()
        batches = self.first_batch + self.n_epoch*len(self.dls.train)
        self.logged = self.wandb_run.id,batches,self.first_epoch + self.n_epoch
        if self.to_come:
            self.to_come,self.held = self.to_come - 1,self.wandb_run
            return
        table = getattr(self.dls, 'table', None)
        state = (self._epoch_state() if self._keeper is None else self.best) if self.recorder.values else None
        known = {'epoch': state['epoch'], **state['figures']} if state else {}
        self.ended = known.get('epoch')
        # who gave the run judges for itself: one figure has one name there
        own = known if self.into is None else {k: v for k,v in known.items() if k == 'epoch'}
        self.wandb_run.summary.update(under('final', own))
        if not self.wandb_run.disabled: self._log_end(weights, table, state, known)
        if self.ours:
            finish_run(self.wandb_run)
            TrackRun.left = None

    def _log_end(self, weights, table, state, known):
        "The model, the table, pictures"
        if self.log_model:
            alias = 'last' if self._keeper is None else 'best'
            known |= {'monitor': self._keeper.monitor} if self._keeper else {}
            self._log_artifact('model', 'model', 'model.pth', lambda f: torch.save(weights, f), known, [alias])
        if table is None: return
        if self.log_table: self._log_table(table)
        with kept_beside(self.wandb_run): self._log_pictures(table, state)

    def _log_table(self, table):
        file,write = 'images.csv',partial(table.to_csv, index=False)
        if len(table) > 100_000: file,write = 'images.parquet',table.to_parquet
        self._log_artifact('table', 'dataset', file, write, table.attrs.get('record'))

    def _log_artifact(self, name, kind, file, write, metadata=None, aliases=None):
        with tempfile.TemporaryDirectory() as tmp:
            write(Path(tmp)/file)
            log_files(self.wandb_run, name, kind, [Path(tmp)/file], metadata, aliases)

    def _log_pictures(self, table, state):
        "Quality histogram, curves, hardest queries and pairs, as W&B tables and as pictures"
        quality = table.loc[table['split'] == 'train', 'quality'].astype(float)
        logged,plots = {},{}
        if quality.notna().any():
            logged['histograms/quality'] = wandb.Histogram(quality.dropna().to_numpy(), num_bins=40)
            plots['quality'] = quality_histogram_figure(quality)
        state = state or {'hard': (), 'pairs': None, 'curves': ()}
        hard,pairs,shown = state['hard'],state['pairs'],(picture_files(table).to_numpy(), table['path'].to_numpy())
        if len(hard):
            logged['tables/hardest_queries'] = hardest_table(hard, *shown)
            if self.into is None: plots['hardest_queries'] = hardest_figure(hard.head(8), shown[0])
        if pairs is not None:
            hard = hardest_pairs(pairs, self.hardest)
            logged['tables/hardest_pairs'] = pairs_table(hard, *shown)
            some = hard.groupby('same', sort=False).head(8)
            if self.into is None: plots['hardest_pairs'] = hardest_pairs_figure(some, shown[0])
        for made in state['curves']:
            drawn,charts = made()
            plots,logged = {**plots, **drawn},{**logged, **under('charts', charts)}
        of = said_of(body_name(self.learn.model), Path(table.attrs.get('root', '')).name)
        logged |= figure_images({k: signed(o, of) for k,o in plots.items()})
        if logged: self.wandb_run.log(logged)
