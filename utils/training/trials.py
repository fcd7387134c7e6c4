"""One trial of a study: options are suggested, and a model is trained with them and scored after each epoch; or one
for each fold of the people, scored after each fold.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna
import torch
from accelerate import Accelerator

from utils.base.errors import Diverged, NoRoom
from utils.base.flags import EVALUATION_BATCH
from utils.base.metrics import METRICS
from utils.base.options import Options
from utils.base.terminal import aside
from utils.data.reading import read_photographs, reading_of
from utils.data.splits import make_folds
from utils.evaluation.folded import OutOfFold
from utils.evaluation.held_out import views
from utils.models.checkpoints import read_checkpoint
from utils.models.model_files import named_place
from utils.models.sweeps import across_folds
from utils.training import studies

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trials:
    """What the trials of a study share.

    `space` holds the limits of numbers and the lists of choices, `common` the options that are not searched. `train`
    is `finetune.run`; `pooled` scores the checkpoints of the folds so far. The study is to have `count` trials in
    all.
    """

    study: optuna.Study
    space: dict
    common: Options
    train: Callable
    pooled: Callable[[Sequence[Path]], float] | None  # of a study that knows folds
    count: int

    @property
    def sign(self) -> int:
        """What a score is reported times, so that more is better."""
        return METRICS[self.common.metric].sign

    def objective(self, trial: optuna.Trial) -> float:
        """Train one trial, which keeps a log file of its own, and tell in one line what came of it; returns its score.

        Raises `optuna.TrialPruned` for a trial below the median, one that diverged and one too large for the GPU.
        """
        trial.set_user_attr("worker", studies.worker())
        number = studies.original_number(self.study.trials[trial.number])
        chosen = suggest(trial, self.space)
        options = self.common.replace(**chosen, random_seed=number, resume=True)
        place = f"trial {number} ({studies.counted(self.study)} of {self.count})"
        log.debug("%s begins: %s", place, studies.in_words(chosen))
        try:
            with aside(options.verbose):
                name, score = (self._one_split if options.folds is None else self._folds)(trial, options)
        except KeyboardInterrupt:  # a signal
            trial.set_user_attr(studies.INTERRUPTED, True)
            raise
        except (optuna.TrialPruned, Diverged, NoRoom, torch.OutOfMemoryError) as error:
            log.info("%s: %s; %s", place, str(error).splitlines()[0], studies.in_words(chosen))
            studies.remove_traces(options.name, number, options.model_location)
            torch.cuda.empty_cache()
            raise optuna.TrialPruned(str(error)) from error
        trial.set_user_attr("checkpoint", name)
        log.info("%s: %s %.4f; %s", place, options.metric, score, studies.in_words(chosen))
        return self.sign * score

    def _one_split(self, trial: optuna.Trial, options: Options) -> tuple[str, float]:
        """Train one model; returns the name of its file and its score."""
        path, scores = self.train(options, after_epoch=self.reporter(trial))
        return path.name, scores[options.metric]

    def _folds(self, trial: optuna.Trial, options: Options) -> tuple[str, float]:
        """Train a model for each fold; returns what they are called together, and everybody's score, out of fold.

        After each fold the score of the people of all folds so far is reported. What is done already is skipped.
        """
        paths, score = [], 0.0
        for fold in range(options.folds):
            paths.append(self.train(options.replace(fold=fold))[0])
            score = self.pooled(paths)
            trial.report(self.sign * score, len(paths))
            if len(paths) < options.folds and trial.should_prune():
                raise optuna.TrialPruned(f"pruned, below the median after fold {fold} of {options.folds}")
        return across_folds([named_place(path) for path in paths]).path.name, score

    def reporter(self, trial: optuna.Trial) -> Callable[[int, dict], None]:
        """A function that reports an epoch's score to the study, and raises `optuna.TrialPruned` below the median."""

        def after_epoch(epoch: int, scores: dict) -> None:
            trial.report(self.sign * scores[self.common.metric], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned(f"pruned, below the median after epoch {epoch}")

        return after_epoch


def pooled_scorer(accelerator: Accelerator, options: Options) -> Callable[[Sequence[Path]], float]:
    """A function that gives the score, by `--metric`, of the people of all folds together whose models it is given,
    the first fold's first: counted over all of them, and no mean of the folds' scores.
    """
    photographs = read_photographs(options.data_location, options.relabel, reading_of(options))
    folds = make_folds(photographs, options.folds, options.split_seed, options.split_by)
    how = options.replace(batch_size=EVALUATION_BATCH)
    views_of = [views(accelerator, photographs, fold.held_out, how) for fold in folds]

    def pooled(paths: Sequence[Path]) -> float:
        models = [read_checkpoint(path) for path in paths]
        parts = [view(model) for view, model in zip(views_of, models, strict=False)]
        logits = [part.logits(model) for part, model in zip(parts, models, strict=True)]
        return OutOfFold(parts).score(np.concatenate(logits)).record()[options.metric]

    return pooled


def suggest(trial: optuna.Trial, space: dict) -> dict:
    """One trial's options; what can have one value only is not asked for."""

    def number(name: str, log: bool = False) -> float | int:
        low, high = space[f"{name}_limits"]
        if low == high:
            return low
        kind = trial.suggest_int if isinstance(low, int) else trial.suggest_float
        return kind(name, low, high, log=log)

    def choice(name: str, values: list) -> int:
        return trial.suggest_categorical(name, values) if len(values) > 1 else values[0]

    return {
        "lr": number("lr", log=True),
        "wd": number("wd"),
        "epochs": number("epochs"),
        "aug_strength": number("aug_strength"),
        "label_smoothing": number("label_smoothing"),
        "batch_size": choice("batch_size", space["batch_sizes"]),
        "i": choice("i", space["indices"]),
    }
