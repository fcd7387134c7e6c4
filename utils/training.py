"""The parts of a fine-tuning run that can be asserted: its record, data set and pictures."""

import atexit
import json
import logging
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import nn

from utils.checkpoints import DROPPED, as_saved, differences, preprocessing, read_checkpoint
from utils.clip import build
from utils.data import Photographs, read_photographs
from utils.errors import InputError
from utils.evaluation import EVALUATION_BATCH, HeldOut
from utils.exports import push_to_hub
from utils.heads import head_family, sweep_head
from utils.labels import Labelling
from utils.mixing import Mixing
from utils.options import PICTURES, Options
from utils.pictures import save_sheet
from utils.splits import Split, check_unseen, make_split
from utils.start import read_start
from utils.states import Progress
from utils.sweeps import keep_top
from utils.trainable import without_age_head
from utils.transforms import LabelledSquares, pipeline, square_root_weights
from utils.weights import Weights

log = logging.getLogger(__name__)

NO_SCORES = ("epoch", "step", "lr", "train_loss")  # of a row of the history
NOT_TRAINING = {  # options that do not steer training: where things lie, how they are loaded, what is written beside
    "data_location", "model_location", "pretrained_location", "relabel", "workers",
    "save_every", "save_img", "overwrite", "report_to", "no_cache", "compile", "gradient_checkpointing", "resume",
    "checkpointing_steps", "keep_top", "push_to_hub", "fast_dev_run", "mixed_precision",
}  # fmt: skip


def checkpoint_file(options: Options, prefix: str = "") -> Callable[[int], Path]:
    """The checkpoint's path as a function of the epoch."""
    stem = f"{prefix}{options.name}_seed{options.random_seed}_i{options.i}_epoch"
    return lambda epoch: options.model_location / f"{stem}{epoch}.pt"


def saved_epochs(options: Options) -> list[int]:
    """The epochs that leave a checkpoint, the last one last."""
    every = options.save_every or options.epochs
    return [*range(every, options.epochs, every), options.epochs]


def steering(options: Options) -> dict:
    """The options that steer training, as plain values; the metric is one where an epoch is chosen by it."""
    plain = {name: value for name, value in options.as_dict().items() if name not in NOT_TRAINING}
    if options.keep == "last" and options.patience is None:
        del plain["metric"]
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


@dataclass(frozen=True)
class Task:
    """What a run starts from, learns from and is scored on; `record` is everything that steers it, to tell whether a
    checkpoint is what its options would make.
    """

    start: Weights
    anchor: Weights
    photographs: Photographs
    split: Split
    rows: np.ndarray  # sorted positions of the photographs to train on
    held_out: HeldOut
    family: dict
    record: dict

    @property
    def labelling(self) -> Labelling:
        return self.held_out.labelling

    @property
    def preprocessing(self) -> dict:
        return self.held_out.preprocessing


def read_task(accelerator: Accelerator, options: Options, epochs_asked: int, labelling: Labelling) -> Task:
    """Read weights and photographs. Raises `InputError` for what does not fit together, such as a start that has seen
    people who are held out here.
    """
    start, anchor = read_start(options)
    photographs = read_photographs(options.data_location, options.relabel)
    split = make_split(photographs, options.val_ratio, options.split_seed, options.split_by)
    for weights in (start, anchor):
        if weights.meta is not None:
            check_unseen(split, weights.meta["split"], photographs, weights.source)
    rows, held_out_rows = _without_ages(photographs, split.train, options.drop_ages), split.held_out
    if options.fast_dev_run:
        few = 2 * options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes
        by_class = rows[np.argsort(photographs.labels(labelling)[rows], kind="stable")]
        rows = np.sort(by_class[np.linspace(0, len(rows) - 1, min(few, len(rows))).round().astype(int)])
        held_out_rows = held_out_rows[: 2 * EVALUATION_BATCH]
    recipe = preprocessing(start.config["image_size"])
    evaluation = options.replace(batch_size=EVALUATION_BATCH)  # as in main.py, whatever the training batch
    held_out = HeldOut(accelerator, photographs, held_out_rows, labelling, recipe, evaluation, decode_all=True)
    labels, fingerprint = photographs.labels(labelling)[rows], held_out.squares.fingerprint()
    family = head_family(anchor, labelling, options.head_init, split.digest, labels, fingerprint)
    record = {
        **steering(options),
        "epochs asked": epochs_asked,
        "mixed_precision": accelerator.mixed_precision,
        "start": start.backbone_digest,
        "anchor, head, labels and photographs": family["inputs"],
    }
    return Task(start, anchor, photographs, split, rows, held_out, family, record)


def _without_ages(photographs: Photographs, rows: np.ndarray, drop_ages: tuple[int, int] | None) -> np.ndarray:
    """The rows of people who are not of these ages (first and last)."""
    if drop_ages is None:
        return rows
    first, last = drop_ages
    kept = rows[(photographs.ages[rows] < first) | (photographs.ages[rows] > last)]
    if not len(kept):
        raise InputError(f"--drop-ages {first}-{last} leaves nobody to train on")
    return kept


def starting_head(accelerator: Accelerator, task: Task) -> dict[str, torch.Tensor]:
    """The head that all runs of the sweep start from, as `classification_head.*` tensors."""
    anchor, rows = task.anchor, task.rows

    def training_features():
        blank = {
            "classification_head.weight": torch.zeros(task.labelling.num_classes, anchor.config["projection_dim"]),
            "classification_head.bias": torch.zeros(task.labelling.num_classes),
        }
        frozen = build(anchor.config, {**anchor.backbone(), **blank}, anchor.source)
        features = task.held_out.predict(frozen, "probe", rows, output="embed")
        return features, task.photographs.labels(task.labelling)[rows], task.photographs.persons[rows]

    return sweep_head(accelerator, anchor, task.family, task.labelling, training_features)


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
    raise InputError(
        f"{path} was trained with other options, where relabel.csv counts as labels ({different}): choose another "
        "--name (NAME of training.sh), or pass --overwrite"
    )


def _dropped(note: Path, wanted: dict) -> dict | None:
    """What `--keep-top` left of a checkpoint that the same options made."""
    if not note.is_file():
        return None
    try:
        left = json.loads(note.read_text(encoding="utf-8"))
        return left if not differences(left["options"], wanted) else None
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{note} is damaged: remove it, and its run is trained again") from error


def check_steps(train_set: LabelledSquares, per_step: int, parts: int) -> None:
    """Say what an epoch of whole steps leaves out. Raises `InputError` when there is not even one, where a step is
    made of several `parts` (processes, accumulated batches) that would weigh differently.
    """
    count = len(train_set)
    if count < per_step and parts > 1:
        raise InputError(
            f"{count} photographs to train on are less than a step of {per_step} (--batch-size times "
            "--gradient-accumulation-steps times processes): lower one of them"
        )
    left = count % per_step
    if left and count > per_step:
        log.info("an epoch is %d steps of %d: %d photographs, other ones each time, are left out",
                 count // per_step, per_step, left)  # fmt: skip


def meta(task: Task, row: dict) -> dict:
    """The record that a fine-tuned checkpoint carries; `row` is of the epoch whose weights it holds."""
    return {
        "model": task.start.config,
        "labelling": task.labelling.record(),
        "preprocessing": task.preprocessing,
        "options": task.record,
        "epoch": row["epoch"],
        "split": task.split.record(),
        "held_out": task.held_out.record,
        "family": task.family,
        "start": {"source": Path(task.start.source).name, "digest": task.start.backbone_digest},
        "scores": scores_of(row),
        "made_from": [],
    }


def scores_of(row: dict) -> dict | None:
    """The held-out scores in a row of the history; None when nobody is held out."""
    return {name: value for name, value in row.items() if name not in NO_SCORES} if "loss" in row else None


def saved_tensors(model: nn.Module) -> dict[str, torch.Tensor]:
    """What a checkpoint of a trained model holds, without what only training needs."""
    return as_saved(without_age_head(model.state_dict()))


def finished(progress: Progress, options: Options) -> bool:
    """Whether all epochs are done, or `--patience` of them in a row have not raised the score."""
    waited = len(progress.history) - progress.best.get("epoch", len(progress.history))
    return progress.epoch > options.epochs or (options.patience is not None and waited >= options.patience)


def rehearsal(options: Options, prefix: str) -> Options:
    """With `--fast-dev-run` the options of a run that leaves no checkpoint; others as they are."""
    if not options.fast_dev_run:
        return options
    folder = tempfile.mkdtemp(prefix="fast_dev_run.")
    for made in (folder, PICTURES / f"{prefix}fast_dev_run_seed{options.random_seed}_i{options.i}_epoch1"):
        atexit.register(shutil.rmtree, made, ignore_errors=True)
    kept = {"pretrained_location": options.pretrained_location or options.model_location, "report_to": "none"}
    kept |= {"save_every": None, "keep_top": None, "push_to_hub": None, "resume": False}
    return options.replace(name="fast_dev_run", epochs=1, model_location=Path(folder), **kept)


def publish(options: Options, checkpoint: Path, ingredient: bool) -> None:
    """What is left to do once a run's checkpoint is there: the hub, and `--keep-top` for an ingredient."""
    if options.push_to_hub:
        log.info("on the hub: %s", push_to_hub(options.push_to_hub, read_checkpoint(checkpoint)))
    if options.keep_top and ingredient:
        for path in keep_top(options.model_location, options.name, options.keep_top, options.metric):
            log.info("%s is not among the best %d: removed", path, options.keep_top)


def train_set(task: Task, options: Options) -> LabelledSquares:
    """The photographs to train on; with `--old-aug True` those of the oldest class once more, under `train2`."""
    photographs, labelling, rows = task.photographs, task.labelling, task.rows
    labels = photographs.labels(labelling)
    passes = [rows]
    if options.old_aug:
        passes.append(rows[labelling.decode(labels[rows])["age"] == 2])
        if not len(passes[1]):
            raise InputError(f"--old-aug True: no training person is {labelling.age_limits[1]} or older")
    all_rows = np.concatenate(passes)
    which = np.repeat(np.arange(len(passes)), [len(part) for part in passes])
    pipelines = [pipeline(kind, options.aug_strength) for kind in ("train", "train2")[: len(passes)]]
    mixing = None
    if options.mixup or options.half_cutmix:
        of_these = labels[all_rows], photographs.masks[all_rows], labelling.num_classes
        mixing = Mixing(*of_these, options.mixup, options.half_cutmix)
    ages = photographs.ages[all_rows] if options.age_regression else None
    squares = task.held_out.squares
    return LabelledSquares(squares, all_rows, labels[all_rows], pipelines, which, options.random_seed, mixing, ages)


def sampling_weights(train_set: LabelledSquares, options: Options) -> np.ndarray | None:
    """(N,) probabilities for `--sampler balanced`, None for `shuffle`."""
    return square_root_weights(train_set.labels) if options.sampler == "balanced" else None


def logit_adjustment(
    train_set: LabelledSquares, options: Options, num_classes: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """(C,) float32 `tau * log(share)`, with each class's share of what an epoch's loss is made of: how often it is
    drawn, times its weight in the loss.

    A class without examples counts as less than one photograph.
    """
    drawn = np.bincount(train_set.labels, sampling_weights(train_set, options), minlength=num_classes)
    drawn = drawn if weights is None else drawn * weights.numpy()
    shares = np.maximum(drawn / drawn.sum(), 1 / (len(train_set) + 1))
    return torch.from_numpy(options.logit_adjustment * np.log(shares)).float()


def images_in(task: Task, train_set: LabelledSquares, order: np.ndarray, most: int = 3) -> str:
    """In words: the photographs at these positions of the training set."""
    ids = task.photographs.ids[train_set.rows[order]]
    return ", ".join(ids[:most]) + (f" and {len(ids) - most} others" if len(ids) > most else "")


def save_augmented(train_set: LabelledSquares, labelling: Labelling, stem: str, count: int = 32) -> Path:
    """A sheet of photographs as the first epoch will see them, to check by eye; the oversampled ones come last."""
    positions = np.linspace(0, len(train_set) - 1, min(count, len(train_set))).round().astype(int)
    squares, targets, *_ = zip(*(train_set[1, int(position)] for position in positions), strict=True)
    captions = [_in_words(target, labelling) for target in targets]
    return save_sheet(
        PICTURES / stem / "augmented.png", np.stack(squares), captions, title="augmented training photographs"
    )


def _in_words(target: int | np.ndarray, labelling: Labelling) -> str:
    """A class, or the shares of those that are mixed, the larger one first."""
    if not isinstance(target, np.ndarray):
        return labelling.classes[target]
    present = sorted(np.flatnonzero(target), key=lambda k: -target[k])
    if len(present) == 1:
        return labelling.classes[present[0]]
    return "\n".join(f"{target[k]:.0%} {labelling.classes[k]}" for k in present)


def save_predictions(held_out, logits: np.ndarray, stem: str, count: int = 32) -> Path:
    """A sheet of held-out photographs, evenly spread, with true and predicted classes."""
    positions = np.linspace(0, len(logits) - 1, min(count, len(logits))).round().astype(int)
    preds = logits.argmax(-1)[positions]
    truth = held_out.labels[positions]
    classes = held_out.labelling.classes
    captions = [
        f"{classes[label]}" if label == pred else f"true: {classes[label]}\npredicted: {classes[pred]}"
        for label, pred in zip(truth, preds, strict=True)
    ]
    squares = np.stack([held_out.squares[row] for row in held_out.rows[positions]])
    title = "held-out photographs and their classes; in bold those that are predicted wrong"
    return save_sheet(PICTURES / stem / "predictions.png", squares, captions, wrong=preds != truth, title=title)
