"""The files of a run: where they lie, and whether the same options have made them already."""

import atexit
import logging
import shlex
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from utils.base.errors import InputError
from utils.base.files import PICTURES
from utils.base.options import Options
from utils.base.records import read_record
from utils.models.checkpoints import as_saved, read_checkpoint
from utils.models.exports import push_to_hub
from utils.models.keep_top import DroppedNote, keep_top
from utils.models.model_files import DROPPED
from utils.training.grid import run_stem
from utils.training.index_options import saved_epochs
from utils.training.parameters import without_age_head
from utils.training.recorded_options import differences
from utils.training.resume_state import state_file

log = logging.getLogger(__name__)


NO_SCORES = ("epoch", "step", "lr", "train_loss")  # of a row of the history


@dataclass(frozen=True)
class RunFiles:
    """The files of one run, by its options."""

    options: Options

    @property
    def stem(self) -> str:
        return run_stem(self.options)

    def of_epoch(self, epoch: int) -> Path:
        return self.options.model_location / f"{self.stem}_epoch{epoch}.pt"

    @property
    def final(self) -> Path:
        """The checkpoint with which the run is done."""
        return self.of_epoch(self.options.epochs)

    @property
    def saved_epochs(self) -> list[int]:
        return saved_epochs(self.options)

    @property
    def state(self) -> Path:
        """What a stopped run goes on from."""
        return state_file(self.final)

    @property
    def log_name(self) -> str:
        return f"training/{self.stem}"

    @property
    def next_command(self) -> str:
        """What to type when a sweep is done: ingredients go into a soup, a specialist goes beside one."""
        options = self.options
        words = ["accelerate", "launch", "main.py", "--greedy-soup", "--name", options.name]
        if options.attributes:
            words = ["python", "validation.py", "--weighted-ensemble", self.final.name]
        return shlex.join([*words, *location_flags(options)])

    def ingredient(self, epoch: int) -> dict:
        """What the record of a checkpoint tells of its place in a sweep."""
        options = self.options
        place = {"name": options.name, "seed": options.random_seed, "i": options.i, "epoch": epoch}
        return place if options.folds is None else place | {"fold": options.fold, "folds": options.folds}

    def already_done(self, wanted: dict) -> dict | None:
        """The record of the final checkpoint when it is there and the options in `wanted` made it, as they made those
        of earlier epochs; None when the run is to be done.
        """
        overwrite = self.options.overwrite
        *_, done = [already_done(self.of_epoch(epoch), wanted, overwrite) for epoch in self.saved_epochs]
        if done is not None:
            there = "is there already" if self.final.is_file() else "was removed by --keep-top"
            log.info("%s %s, trained with the same options: skipped", self.final, there)
        return done

    def publish(self) -> None:
        """What is left to do once the final checkpoint is there: the hub, and `--keep-top` for an ingredient."""
        options = self.options
        if not self.final.is_file():  # removed by --keep-top
            return
        self.state.unlink(missing_ok=True)
        if options.push_to_hub:
            log.info("on the hub: %s", push_to_hub(options.push_to_hub, read_checkpoint(self.final)))
        if options.keep_top and not options.attributes:
            for path in keep_top(options.model_location, options.name, options.keep_top, options.metric):
                log.info("%s is not among the best %d: removed", path, options.keep_top)


def location_flags(options: Options) -> list[str]:
    """The flags under which another script finds the same photographs and checkpoints."""
    flags = []
    if options.data_location != Path("data"):
        flags += ["--data-location", str(options.data_location)]
    if options.model_location != Path("model"):
        flags += ["--model-location", str(options.model_location)]
    return flags


def already_done(path: Path, wanted: dict, overwrite: bool) -> dict | None:
    """The record of the checkpoint at `path` when the same options made it, None when it is to be trained.

    A checkpoint that `--keep-top` removed counts as there for the same options, unless `overwrite` is set, and as not
    there for others. Raises `InputError` that shows the difference when other options made it and `overwrite` is not
    set.
    """
    if not path.is_file():
        return None if overwrite else _dropped(path.with_suffix(DROPPED), wanted)
    try:
        meta = read_checkpoint(path).meta
    except InputError:
        if overwrite:
            return None
        raise
    different = differences(meta["options"], wanted) if meta else "no record"
    if not different:
        return meta
    if overwrite:
        return None
    if meta is None:
        raise InputError(f"{path} is there already and has no record: choose another --name, or pass --overwrite")
    labels = ", where relabel.csv counts as labels" if "labels" in different else ""
    raise InputError(
        f"{path} was trained with other options{labels} ({different}): choose another --name (NAME of training.sh), "
        "or pass --overwrite"
    )


def _dropped(note: Path, wanted: dict) -> dict | None:
    """What `--keep-top` left of a checkpoint that the same options made."""
    if not note.is_file():
        return None
    left = read_record(note, DroppedNote, "note of --keep-top", "remove it, and its run is trained again")
    return left.model_dump() if not differences(left.options, wanted) else None


def scores_of(row: dict) -> dict | None:
    """The held-out scores in a row of the history; None when nobody is held out."""
    return {name: value for name, value in row.items() if name not in NO_SCORES} if "loss" in row else None


def saved_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint of a trained model holds, without what only training needs."""
    return as_saved(without_age_head(model.state_dict()))


def fast_dev_run_options(options: Options) -> Options:
    """With `--fast-dev-run` the options of a run that leaves no checkpoint; others as they are."""
    if not options.fast_dev_run:
        return options
    folder = tempfile.mkdtemp(prefix="fast_dev_run.")
    kept = {"pretrained_location": options.pretrained_location or options.model_location, "report_to": "none"}
    kept |= {"save_every": None, "keep_top": None, "push_to_hub": None, "resume": False}
    options = options.replace(name="fast_dev_run", epochs=1, model_location=Path(folder), **kept)
    for made in (folder, PICTURES / RunFiles(options).final.stem):
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    return options
