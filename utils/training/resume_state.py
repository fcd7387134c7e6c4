"""The state of a run on disk, from which a run that was stopped goes on as if it had not been.

All that training draws at random is a function of (seed, epoch, sample), so a state needs no random generators: with
the weights, the optimizer's moments and the place in the epoch the next step is the one that would have come.
"""

import logging
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import torch
from accelerate import Accelerator
from pydantic import Field, model_validator
from torch import nn

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.base.options import Options
from utils.base.records import Count, Record, check_record
from utils.base.runtime import from_main
from utils.models.weights import read_kept_archive, save_archive
from utils.training.recorded_options import differences

log = logging.getLogger(__name__)

REMEDY = "remove it, or pass --overwrite to begin anew"


@dataclass
class Progress:
    """Where a run is, as of its last optimizer step."""

    epoch: int = 1  # the one it is in
    seen: int = 0  # photographs of this epoch, on all processes together
    step: int = 0  # optimizer steps in all
    total_loss: torch.Tensor | float = 0.0  # of this epoch: a sum over batches, weighted by their photographs
    history: list[dict] = field(default_factory=list)  # a row per epoch done
    best: dict = field(default_factory=dict)  # epoch and score of the best epoch, and its weights if they are wanted
    tracker: str = field(default_factory=lambda: uuid.uuid4().hex[:8])  # the tracker's run, which goes on too

    def step_done(self, seen: int, total_loss: torch.Tensor) -> None:
        self.step, self.seen, self.total_loss = self.step + 1, seen, total_loss.clone()

    def note_best(self, row: dict, metric: str, model: nn.Module | None) -> None:
        """Remember the epoch of this row when its score is above all before, with the weights of `model` if given."""
        score = METRICS[metric].sign * row[metric]
        if not self.best or score > self.best["score"]:
            weights = model and {name: tensor.detach().cpu().clone() for name, tensor in model.state_dict().items()}
            self.best = {"epoch": row["epoch"], "score": score, "weights": weights}

    def finished(self, epochs: int, patience: int | None) -> bool:
        """Whether all `epochs` are done, or `patience` of them in a row have not improved the score."""
        waited = len(self.history) - self.best.get("epoch", len(self.history))
        return self.epoch > epochs or (patience is not None and waited >= patience)

    def epoch_done(self, row: dict) -> None:
        self.history.append(row)
        self.epoch, self.seen, self.total_loss = self.epoch + 1, 0, 0.0


class ProgressRecord(Record):
    """`Progress` as it lies in a file."""

    epoch: Annotated[int, Field(ge=1)]
    seen: Count
    step: Count
    total_loss: float
    history: list[dict[str, Any]]
    best: dict[str, Any]
    tracker: str

    @model_validator(mode="after")
    def _has_a_row_per_epoch(self):
        if [row.get("epoch") for row in self.history] != list(range(1, self.epoch)):
            raise ValueError(f"epoch {self.epoch} with {len(self.history)} rows of earlier ones")
        return self


class StateRecord(Record):
    """The state of one run as it lies in a file."""

    record: dict[str, Any]
    progress: ProgressRecord
    parts: dict[str, Any]


class State:
    """The state of one run in one file, which appears whole or not at all.

    `parts` are what has a `state_dict`: the model, the optimizer and so on; they are the same on every process, so the
    main process writes. `record` tells what steers the run.
    """

    def __init__(self, path: Path, record: dict, accelerator: Accelerator, parts: dict[str, Any]):
        self.path, self.record, self.accelerator = path, record, accelerator
        self.parts = {name: part for name, part in parts.items() if part is not None}

    def save(self, progress: Progress) -> None:
        """Replace the state on disk; all processes call it."""
        total = torch.as_tensor(progress.total_loss, device=self.accelerator.device)
        total = self.accelerator.reduce(total, "mean").item()

        def write() -> None:
            parts = {name: part.state_dict() for name, part in self.parts.items()}
            content = {"record": self.record, "progress": {**vars(progress), "total_loss": total}, "parts": parts}
            save_archive(self.path, content)

        from_main(self.accelerator, write)

    def load(self, stored: dict | None) -> Progress:
        """Take up what `read_state` read; without it begin anew."""
        if stored is None:
            return Progress()
        try:
            for name, part in self.parts.items():
                part.load_state_dict(stored["parts"][name])
        except (KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
            raise InputError(f"{self.path} holds another model or optimizer ({error}): {REMEDY}") from error
        progress = Progress(**stored["progress"])
        log.info("going on behind step %d, in epoch %d, from %s", progress.step, progress.epoch, self.path)
        return progress


def read_state(path: Path, record: dict, options: Options) -> dict | None:
    """The state on disk that a run resumes; none without `--resume`, without a file, or when it is of other options
    and `--overwrite` says so.

    Raises `InputError` when it is of other options, and when it is damaged.
    """
    if not path.is_file():
        return None
    if not options.resume:
        log.info("%s was left by a run that was stopped: --resume goes on from it; begun anew", path)
        return None
    try:
        stored = read_kept_archive(path)
        check_record(stored, StateRecord, path, "is damaged", REMEDY)
    except InputError as error:
        if not options.overwrite:
            raise InputError(f"{path} is damaged: {REMEDY}") from error
        told = f"{path} is damaged"
    else:
        different = differences(stored["record"], record)
        if not different:
            return stored
        told = f"{path} is the state of a run with other options ({different})"
        if not options.overwrite:
            raise InputError(f"{told}: go on with those, or pass --overwrite to begin anew")
    log.info("%s: begun anew", told)
    return None


def state_file(checkpoint: Path) -> Path:
    """Where the state of the run lies that ends in this checkpoint."""
    return checkpoint.parent / "states" / checkpoint.name
