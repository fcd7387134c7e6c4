"""One fine-tuning run, ready for its loop: the model, the batches, the optimizer, and what is saved of them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn
from torch.optim.swa_utils import AveragedModel

from utils.base.options import Options
from utils.base.runtime import from_main
from utils.data.augmentation import EpochSampler, LabelledSquares
from utils.data.loading import EpochLoader
from utils.evaluation.alarms import alarm_lines
from utils.models.checkpoints import save_checkpoint
from utils.models.clip import Classifier
from utils.models.weights import digest
from utils.training.history import draw_history, save_history
from utils.training.records import RunFiles, saved_tensors
from utils.training.resume_state import Progress, State
from utils.training.sheets import save_predictions
from utils.training.task import Task
from utils.training.tracking import log_picture

log = logging.getLogger(__name__)

TOLD_EPOCHS = 3


@dataclass
class Job:
    """All that the training loop works with, on the accelerator's device.

    `model` and `optimizer` are what accelerate prepared, `bare` is the model itself, `ema` its moving average or None.
    """

    accelerator: Accelerator
    options: Options
    task: Task
    files: RunFiles
    train_set: LabelledSquares
    bare: Classifier
    ema: AveragedModel | None
    loss_fn: Callable
    model: nn.Module
    loader: EpochLoader
    sampler: EpochSampler
    optimizer: torch.optim.Optimizer
    schedule: torch.optim.lr_scheduler.LambdaLR

    @property
    def shown(self) -> nn.Module:
        """The model whose weights are evaluated and saved."""
        return self.ema.module if self.ema else self.bare

    @property
    def state(self) -> State:
        """What the run goes on from when it is stopped."""
        parts = {"model": self.bare, "optimizer": self.optimizer, "schedule": self.schedule, "ema": self.ema}
        parts["scaler"] = self.accelerator.scaler
        return State(self.files.state, self.task.record_of(self.accelerator), self.accelerator, parts)

    @property
    def epoch_steps(self) -> int:
        """Steps of an epoch, the last one perhaps of fewer batches."""
        return -(-len(self.loader) // self.accelerator.gradient_accumulation_steps)

    def name_photographs(self, epoch: int, first: int, last: int, most: int = 3) -> str:
        """In words: the photographs at these places of an epoch's order."""
        rows = self.train_set.rows[self.sampler.order(epoch)[first:last]]
        ids = self.task.photographs.ids[rows]
        return ", ".join(ids[:most]) + (f" and {len(ids) - most} others" if len(ids) > most else "")

    def tell_epoch(self, epoch: int, what: str) -> None:
        """Log a line about an epoch; `TOLD_EPOCHS` of them, evenly spread up to the last, come on the terminal."""
        epochs = self.options.epochs
        every = -(-epochs // TOLD_EPOCHS)
        told = (epochs - epoch) % every == 0
        log.log(logging.INFO if told else logging.DEBUG, "epoch %d of %d: %s", epoch, epochs, what)

    def save_epoch(self, progress: Progress) -> None:
        """Write the history, and with `--save-every` the checkpoint of this epoch."""
        row = progress.history[-1]
        epoch = row["epoch"]

        def write() -> None:
            if self.options.report_to != "none":
                save_history(self.files.final.stem, progress.history)
            if epoch in self.files.saved_epochs[:-1]:
                save_checkpoint(self.files.of_epoch(epoch), saved_tensors(self.shown), self.meta(row, epoch))

        from_main(self.accelerator, write)

    def save(self, progress: Progress, logits: np.ndarray | None) -> dict:
        """Write the final checkpoint and what belongs to it; returns the row of the epoch whose weights it holds.

        `logits` (N, C) are the held-out ones of the last epoch, None when nobody is held out.
        """
        row, held_out, options = progress.history[-1], self.task.held_out, self.options
        if row["epoch"] < options.epochs:
            log.info("stopped: %s has not improved for %d epochs", options.metric, options.patience)
        if options.keep == "best" and progress.best.get("epoch", row["epoch"]) != row["epoch"]:
            self.shown.load_state_dict(progress.best["weights"])
            row = progress.history[progress.best["epoch"] - 1]
            logits = held_out.predict(self.shown)
            log.info("kept epoch %d, the best of %d by %s", row["epoch"], len(progress.history), options.metric)
        if logits is not None and not options.fast_dev_run:
            classes = held_out.labelling.classes
            for line in alarm_lines(held_out.labels, [logits], classes, options.metric):
                log.info(line)

        def write() -> None:
            state_dict = saved_tensors(self.shown)
            if logits is not None:
                held_out.keep(digest(state_dict), logits)
                sheet = save_predictions(held_out, logits, self.files.final.stem)
                log_picture(self.accelerator, "held_out_predictions", sheet)
                log.debug("held-out predictions: %s", sheet)
            if options.report_to != "none":
                log.debug("curves of the epochs: %s", draw_history(self.files.final.stem, progress.history))
            save_checkpoint(self.files.final, state_dict, self.meta(row, options.epochs))  # with it the run is done
            self.files.state.unlink(missing_ok=True)

        from_main(self.accelerator, write)
        return row

    def meta(self, row: dict, epoch: int) -> dict:
        """The record of a checkpoint that holds the weights of the epoch of `row`, and is named after `epoch`."""
        return self.task.meta(row) | {"ingredient": self.files.ingredient(epoch)}
