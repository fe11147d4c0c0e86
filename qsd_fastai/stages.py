"A recipe's run: one stage after another, each tracked, resumable and exported, and the table of what came out"
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pandas as pd
from fastai.torch_core import set_seed

from .arms import chosen_arms, settings_of
from .callbacks.finished import Finished
from .callbacks.found import described
from .callbacks.many import ManyProcesses
from .callbacks.save_state import Diverged, SaveState
from .callbacks.track_run import TrackRun
from .closing import Closing, files_by_path, reference_of
from .data.table import write_table
from .distillation import QualityDistillation
from .distributed import processes
from .files import file_hash, in_one_move, save_figure, save_frame
from .judging.energy import taught_energies
from .judging.judgement import merged
from .judging.seeds import curve_notes
from .models.heads.partial_fc import whole_centers
from .plots.history import history_figure
from .plots.quality import quality_agreement_figure, quality_histogram_figure
from .plots.style import said_of, signed
from .private import without_folders
from .quality import comparable
from .runs.curves import curve_charts
from .runs.folder import FREE, RunFolder, stage_file, stage_run
from .runs.keys import under
from .runs.made import table_content
from .runs.wandb_run import finish_run, kept_beside, log_files, start_run, trial_id, uses
from .runs.wandb_tables import figure_images, log_closing
from .terminal import for_terminal

__all__ = ['Run', 'Stage']

TUNING = ('tune_epochs', 'tune_lr')           # What the baseline does not depend on
METHOD = ('map_norm', 'pairs', 'settings', 'weight') # What nothing but a stage with QSD depends on


class Run:
    """The folder, the W&B group and the stages of a recipe. Nothing is written before the first stage.

    A run that ends before its first epoch is over leaves its folder free. One that was stopped later is resumed:
    stages that had begun must be asked for with the options they were made with, the others may differ, and what
    changed stands in `run.json`.

    Started several times by `torchrun` or `accelerate launch`, fits are `ManyProcesses`, embedding is shared out, and
    the first process writes and tracks."""
    def __init__(self,
        recipe:str,          # Its name: a new folder is `runs/<recipe>-<date>-<time>`
        args:dict,           # Its options, `locals()` at the top of a recipe: `out`, `resume`, `seed`, `group`, ...
    ):
        _check_epochs(args)
        self.args = {k: v for k,v in args.items() if k not in ('out', 'resume')}
        if tables := settings_of(args.get('arms') or ''): self.args['settings'] = tables
        self.resume = args.get('resume', False)
        self.folder = RunFolder(recipe, args.get('out'), self.args, self.resume, stagewise=True)
        self.out,self.results,self.judged,self.current,self.table = self.folder.out,{},{},None,None
        self.trained = [] # Stages; others took a model as it is

    def of_table(self,
        table:pd.DataFrame, # To be trained and judged on
    )->pd.DataFrame: # The same
        """The table of the run; `ValueError` where nothing could be learned from it

        At a resume it must be the one that the run was begun with, wherever it lies now."""
        train = table['split'] == 'train'
        counts = table.loc[train, 'identity'].value_counts()
        if not comparable(counts):
            raise ValueError(f'The table has {train.sum()} training pictures of {len(counts)} identities, '
                             f'{counts.max() if len(counts) else 0} of one at most. Give two pictures of an identity '
                             'or more, and two identities: training and labels compare them.')
        self.folder.of_table(table_content(table))
        self.table = table
        return table

    @contextmanager
    def stage(self,
        title:str,   # In tables and of the W&B run
        epochs:int,  # For the line that is printed
    ):
        "One fit from a fresh seed. A run that ends before its first epoch leaves nothing"
        if not self.results: self.folder.open()
        print(f'\n== {title}: {epochs} epochs')
        set_seed(self.args['seed'], reproducible=True)
        self.current = Stage(self, title)
        try: yield self.current
        except BaseException as e:
            if isinstance(e, Diverged): self.folder.note(diverged=title)
            self.current.failed()
            self.folder.free()
            raise

    def run_id(self,
        title:str, # Of a stage
    )->str:
        "The id of its W&B run"
        return stage_run(self.folder.id, title)

    def show_quality(self,
        labelled:pd.DataFrame, # With computed labels in `quality`
    ):
        "Labels of the training pictures as a table and as pictures, beside `true_quality` where the table has it"
        if processes()[0]: return
        write_table(labelled, self.out/'labelled'/'images.csv')
        train = labelled['split'] == 'train'
        computed = labelled.loc[train, 'quality']
        said = f'{len(computed):,} training pictures; {self.of}'
        save_figure(signed(quality_histogram_figure(computed), said), self.out/'quality.png')
        if 'true_quality' not in labelled: return
        known = labelled.loc[train, 'true_quality']
        correlation = known.rank().corr(computed.rank())
        what = f'the computed quality with true_quality over {len(known):,} training pictures'
        print(f'\nRank correlation of {what}: {correlation:.2f}')
        self.current.wandb_run.summary['final/quality_rank_correlation'] = correlation
        save_figure(signed(quality_agreement_figure(computed, known, correlation), said),
                    self.out/'quality_agreement.png')

    def finish(self,
        said:str, # What the figures are of, above the table
    )->pd.DataFrame: # A row a stage
        """Write `results.csv`, and print it in %; all arms in one figure each, as files and as a W&B run of their own

        That run is left out where the run is one seed of `compare.py`, which closes all of them. What stages would
        have gone on from goes: their weights are in the learners that they have left."""
        results = pd.DataFrame(self.results).T.dropna(axis=1, how='all') # Too few pairs for a rate
        if processes()[0]:
            self.folder.close()
            return results
        save_frame(results, self.out/'results.csv')
        self._close(results)
        self.folder.note(results=file_hash(self.out/'results.csv'))
        for file in self.out.glob('*.state'): file.unlink()
        self.folder.close()
        # the middle third is in the file: a terminal has no room for it
        shown = (100*results[[c for c in results if not c.endswith(' middle')]]).round(1)
        print(f'\n{said}\n\n{for_terminal(shown)}')
        print(f'\nEverything of this run is in {self.out}')
        return results

    def _close(self, results):
        closing = Closing(self.judged, files_by_path(self.table))
        for k,figure in closing.figures.items():
            said = '; '.join(filter(None, (closing.notes.get(k), self.of)))
            save_figure(signed(figure, said), self.out/stage_file(f'all_{k}.png'))
        for k,frame in closing.frames.items(): save_frame(frame, self.out/f'all_{k}.csv', index=False)
        self.folder.note(curves=curve_notes(closing.curves, closing.of))
        if self.compared: return
        trial = trial_id()
        known = {'stage': 'comparison', 'reference': self.run_id(reference_of(list(self.judged)))}
        run = start_run(name=f'{self.name} comparison', group=self.group, dir=self.out, job_type='compare',
                        id=trial or self.run_id('comparison'), config={**without_folders(self.args), **known},
                        tracked=not self.args.get('no_wandb'))
        if trial: run.summary.update(under('final', list(self.results.values())[-1])) # What a sweep goes by
        uses(run, *(f'{self.run_id(title)}-evaluation' for title in self.judged))
        tables = {'results': results.rename_axis('arm').reset_index(), **closing.frames}
        log_closing(run, tables, closing.figures, curve_charts(closing.curves, closing.of))
        finish_run(run)

    @property
    def of(self):
        "What is trained and judged on, for figures"
        root = '' if self.table is None else Path(self.table.attrs.get('root', '')).name
        return said_of(self.args.get('arch'), root, f'run {self.name}')

    @property
    def group(self):
        "Of its W&B runs"
        return self.args.get('group') or self.out.name

    @property
    def compared(self):
        "Is it one seed of `compare.py`? Its folder lies in the one that the group is named after"
        whole = self.out.absolute().parent
        return self.group == whole.name and (whole/'run.json').is_file()

    @property
    def name(self):
        "What it is called: its folder; a seed of a comparison is called after that, too"
        return f'{self.group} {self.out.name}' if self.compared else self.out.name


def _check_epochs(args):
    for k in ('epochs', 'tune_epochs'):
        if args.get(k, 1) < 0: raise ValueError(f'--{k.replace("_", "-")} is {args[k]}. It is 0 or more.')
    given = 'weights' if 'weights' in args else 'pretrained'
    if args.get('epochs') == 0 and not args.get(given):
        raise ValueError(f'--epochs 0 takes weights as they are, and there are none. Name them with --{given}.')


class Stage:
    "One fit of a `Run`: its callbacks, its W&B run, its files"
    def __init__(self,
        run:Run,   # That it is part of
        title:str, # As `Run.stage` has it
    ):
        self.run,self.title,self.first,self.method = run,title,not run.results,None
        self.name = stage_file(title)
        self.begun = run.resume and title in run.folder.kept['stages'] # Before
        self._wandb_run = self.track = None
        self.trains = False # Until it is asked for callbacks

    def cbs(self,
        *cbs, # Of the method and the schedule; `None` is passed over
    )->list:
        "Callbacks of the fit: those given, the state that it is resumed from, and tracking"
        cbs,self.trains = [cb for cb in cbs if cb is not None],True
        self.method = next((cb for cb in cbs if isinstance(cb, QualityDistillation)), None)
        self.track = TrackRun(into=self.wandb_run)
        if processes()[1] > 1: cbs.append(ManyProcesses(self.run.args.get('sync_bn', False)))
        state,learner = (self.run.out/f'{self.name}{end}' for end in ('.state', '.pkl'))
        done = self.begun and learner.is_file() and not state.is_file()
        return [*cbs, Finished(learner) if done else SaveState(state, self.run.resume), self.track]

    @property
    def wandb_run(self):
        "The W&B run of this stage; it begins when somebody asks, and then what the stage is made with is noted"
        if self._wandb_run is None:
            run,args = self.run,self.run.args
            strange = {*(TUNING if self.first else ()), *(() if self.method else METHOD)}
            run.folder.begin(self.title, [k for k in args if k not in {*FREE, *strange}])
            first = self.title if self.first else next(iter(run.results))
            arms = chosen_arms(args['arms'], shuffle_quality=args.get('shuffle_quality')) if args.get('arms') else []
            known = {k: v for k,v in without_folders(args).items() if k not in {*strange, *METHOD, 'shuffle_quality'}}
            known |= {'stage': 'baseline' if self.first else 'fine-tuning', 'arm': self.title, **self._taught_how(arms),
                      'reference': run.run_id(reference_of([first, *(o.title for o in arms)]))}
            self._wandb_run = start_run(name=f'{run.name} {self.title}', group=run.group, dir=run.out,
                                        id=run.run_id(self.title), job_type=self._job, config=known,
                                        tracked=not args.get('no_wandb'))
            uses(self._wandb_run, *(f'{run.run_id(first)}-{k}' for k in ('model', 'table') if first in run.trained))
        return self._wandb_run

    @property
    def _job(self):
        "What W&B is told that is done: a model that is taken as it is is judged alone"
        return 'evaluate' if not self.trains else 'train' if self.first else 'fine-tune'

    def _taught_how(self, arms):
        "What of `METHOD` is in use, which an arm may have otherwise than the options say; nothing where nobody teaches"
        method,args = self.method,self.run.args
        if method is None or method.weight == 0: return {}
        weight = described(method.weight) if callable(method.weight) else method.weight
        used = {'map_norm': method.qsd.map_norm, 'pairs': method.pairs, 'weight': weight}
        labels = next((o.labels for o in arms if o.title == self.title), 'computed')
        return {**{k: used.get(k, args[k]) for k in METHOD if k in args},
                'labels': labels if method.labels == 'given' else method.labels}

    def failed(self):
        "End its W&B run as failed; it is not said where that is if it will not stay"
        if self._wandb_run is not None: finish_run(self._wandb_run, failed=True, said=self.run.folder.begun)

    def done(self,
        learn,       # The learner as it came out
        *judgements, # Of it: `Judgement`
    ):
        "Keep the learner, its figures and its plots, and end the W&B run"
        figures = {k: v for o in judgements for k,v in o.figures.items()}
        self.run.results[self.title] = figures
        if self.trains: self.run.trained.append(self.title)
        with whole_centers(learn.model) if processes()[1] > 1 else nullcontext():
            if processes()[0]: return
            with in_one_move((self.run.out/f'{self.name}.pkl').absolute()) as part: learn.export(part)
        self.wandb_run.summary.update(under('final', figures))
        judged = self.run.judged[self.title] = merged(dict(enumerate(judgements)))
        if self.method and (energies := taught_energies(learn, self.method)): judged.plots['energy'] = energies
        for figure in judged.plots.values(): signed(figure, f'{self.title}; {self.run.of}')
        for k,figure in judged.plots.items(): save_figure(figure, self.run.out/f'{self.name}_{k}.png')
        for k,frame in judged.frames.items(): save_frame(frame, self.run.out/f'{self.name}_{k}.csv', index=False)
        if self.track: self._save_history()
        if not self.wandb_run.disabled: self._log(judged, figures)
        finish_run(self.wandb_run)

    def _save_history(self):
        "Numbers of batches and epochs, these as a picture too; those of a stage that was finished before stand already"
        for k in ('batches', 'epochs'):
            frame = getattr(self.track, k).frame()
            if len(frame): save_frame(frame, self.run.out/f'{self.name}_{k}.csv', index=False)
        if not len(epochs := self.track.epochs.frame()): return
        figure = signed(history_figure(epochs), f'{self.title}; {self.run.of}') # In W&B these are curves
        save_figure(figure, self.run.out/f'{self.name}_history.png')

    def _log(self, judged, figures):
        of = {name: f'{said}, {self.title}' for name,said in judged.of.items()}
        charts = under('charts', curve_charts(judged.curves, of))
        with kept_beside(self.wandb_run): self.wandb_run.log({**figure_images(judged.plots), **charts})
        files = [self.run.out/f'{self.name}_{k}.csv' for k in judged.frames]
        epoch = {'epoch': self.track.ended} if self.track and self.track.ended else {}
        if files: log_files(self.wandb_run, 'evaluation', 'evaluation', files, {**figures, **epoch})
