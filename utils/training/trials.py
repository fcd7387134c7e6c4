"""One trial of a study: options are suggested, a model is trained with them and scored after each epoch."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import optuna
import torch

from utils.base.errors import Diverged, Interrupted, NoRoom
from utils.base.metrics import METRICS
from utils.base.options import Options
from utils.base.terminal import aside
from utils.training import studies

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Trials:
    """What the trials of a study share.

    `space` holds the limits of numbers and the lists of choices, `common` the options that are not searched. `train`
    is `finetune.run`. The study is to have `count` trials in all.
    """

    study: optuna.Study
    space: dict
    common: Options
    train: Callable
    count: int

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
                path, scores = self.train(options, after_epoch=self.reporter(trial))
        except Interrupted:
            trial.set_user_attr(studies.INTERRUPTED, True)
            raise
        except (optuna.TrialPruned, Diverged, NoRoom, torch.OutOfMemoryError) as error:
            log.info("%s: %s; %s", place, str(error).splitlines()[0], studies.in_words(chosen))
            studies.remove_states(options.name, number, options.model_location)
            torch.cuda.empty_cache()
            raise optuna.TrialPruned(str(error)) from error
        trial.set_user_attr("checkpoint", path.name)
        log.info("%s: %s %.4f; %s", place, options.metric, scores[options.metric], studies.in_words(chosen))
        return METRICS[options.metric].sign * scores[options.metric]

    def reporter(self, trial: optuna.Trial) -> Callable[[int, dict], None]:
        """A function that reports an epoch's score to the study, and raises `optuna.TrialPruned` below the median."""

        def after_epoch(epoch: int, scores: dict) -> None:
            trial.report(METRICS[self.common.metric].sign * scores[self.common.metric], epoch)
            if trial.should_prune():
                raise optuna.TrialPruned(f"pruned, below the median after epoch {epoch}")

        return after_epoch


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
