"""What a run trains on: photographs, how often each is drawn, how much each class weighs in the loss."""

import logging

import numpy as np
import torch

from utils.base.errors import InputError
from utils.base.options import Options
from utils.data import competition
from utils.data.augmentation import LabelledSquares, pipeline, square_root_weights
from utils.data.labels import Labelling
from utils.data.mixing import Mixing
from utils.data.photographs import Photographs
from utils.training.task import Task

log = logging.getLogger(__name__)


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
        steps = count // per_step
        told = "an epoch is %d steps of %d: %d photographs, other ones each time, are left out"
        log.debug(told, steps, per_step, left)


def train_set(task: Task, options: Options) -> LabelledSquares:
    """The photographs to train on; those of each `--oversample`, and of the oldest with `--old-aug True`, once more
    under `train2`.
    """
    photographs, labelling, rows = task.photographs, task.labelling, task.rows
    labels = photographs.labels(labelling)
    passes = [rows]
    oldest = [("--old-aug True", competition.oldest(task.whole))] if options.old_aug else []
    for flag, told in (*oldest, *(("--oversample", told) for told in options.oversample or ())):
        passes.append(_of_value(photographs, task.whole, rows, told, flag))
    all_rows = np.concatenate(passes)
    which = np.repeat(np.minimum(np.arange(len(passes)), 1), [len(part) for part in passes])
    pipelines = [pipeline(kind, options.aug_strength, options.hflip) for kind in ("train", "train2")[: len(passes)]]
    mixing = None
    if options.mixup or options.half_cutmix:
        mixing = Mixing(
            labels=labels[all_rows],
            alike=_alike(task, options.half_cutmix_within)[all_rows],
            num_classes=labelling.num_classes,
            mixup=options.mixup,
            half_cutmix=options.half_cutmix,
        )
    return LabelledSquares(
        squares=task.held_out.squares,
        rows=all_rows,
        labels=labels[all_rows],
        pipelines=pipelines,
        which=which,
        seed=options.random_seed,
        mixing=mixing,
        ages=competition.years(photographs)[all_rows] if options.age_regression else None,
    )


def _of_value(photographs: Photographs, whole: Labelling, rows: np.ndarray, told: str, flag: str) -> np.ndarray:
    """Those of the `rows` that have a value, told as `mask=incorrect`."""
    name, value = whole.value(told, flag)
    found = rows[photographs.labels(whole.only((name,)))[rows] == value]
    if not len(found):
        raise InputError(f"{flag}: no photograph to train on has the {name} {whole[name].values[value]}")
    return found


def _alike(task: Task, within: tuple[str, ...] | None) -> np.ndarray:
    """(N,) what photographs must have in common whose halves are mixed: the attributes `within`, by default those in
    which photographs of a group differ, and where there are none, as without groups, all.
    """
    photographs, whole = task.photographs, task.whole
    own = within or tuple(name for name in whole.attributes if name not in photographs.shared) or whole.attributes
    return photographs.labels(whole.only(own))


def sampling_weights(train_set: LabelledSquares, options: Options) -> np.ndarray | None:
    """(N,) probabilities for `--sampler balanced`, None for `shuffle`."""
    return square_root_weights(train_set.labels) if options.sampler == "balanced" else None


def loss_adjustment(
    train_set: LabelledSquares, options: Options, num_classes: int, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """(C,) float32 `+tau * log(share)`, which the loss adds to the logits (Menon et al. 2021, "Long-tail learning via
    logit adjustment", equation 10); `tau` is `--logit-adjustment`.

    The sign is plus: rare classes get less in training, so that the model learns to give them more.
    `ensembles.calibration.post_hoc_adjustment` corrects a model that was trained without it, and has the sign minus.

    A class's share is of what an epoch's loss is made of: how often it is drawn, times its weight in the loss. A class
    without examples counts as less than one photograph.
    """
    drawn = np.bincount(train_set.labels, sampling_weights(train_set, options), minlength=num_classes)
    drawn = drawn if weights is None else drawn * weights.numpy()
    shares = np.maximum(drawn / drawn.sum(), 1 / (len(train_set) + 1))
    return torch.from_numpy(options.logit_adjustment * np.log(shares)).float()


def class_weights(labels: np.ndarray, kind: str, num_classes: int) -> torch.Tensor | None:
    """(C,) float32 weights of classes in the loss, one on average over the photographs; None for `none`."""
    if kind == "none":
        return None
    counts = np.maximum(np.bincount(labels, minlength=num_classes), 1)
    weights = counts ** {"sqrt": -0.5, "balanced": -1.0}[kind]
    return torch.from_numpy(weights / weights[labels].mean()).float()
