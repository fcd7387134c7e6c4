"""The parts of a fine-tuning run that can be asserted: its record, data set, parameter groups and pictures."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

from utils.checkpoints import read_checkpoint
from utils.errors import InputError
from utils.evaluation import HeldOut
from utils.labels import Labelling
from utils.metrics import Scores
from utils.options import PICTURES, Options
from utils.pictures import save_sheet
from utils.splits import Split
from utils.transforms import LabelledSquares, pipeline, square_root_weights
from utils.weights import Weights

NOT_TRAINING = {  # options that do not steer training: where things lie, how they are loaded, what is written beside
    "data_location", "model_location", "pretrained_location", "relabel", "workers",
    "save_every", "save_img", "overwrite", "report_to",
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
    """The options that steer training, as plain values."""
    plain = {name: value for name, value in options.as_dict().items() if name not in NOT_TRAINING}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}


def record(options: Options, start: Weights, family: dict) -> dict:
    """Everything that steers training, to tell whether a checkpoint is what these options would make."""
    return {
        **steering(options),
        "start": start.backbone_digest,
        "anchor, head, labels and photographs": family["inputs"],
    }


def already_done(path: Path, wanted: dict, overwrite: bool) -> dict | None:
    """The record of the checkpoint at `path` when the same options made it, None when it is to be trained.

    Raises `InputError` that shows the difference when other options made it and `overwrite` is not set.
    """
    if overwrite or not path.is_file():
        return None
    meta = read_checkpoint(path).meta
    if meta is None:
        raise InputError(f"{path} is there already and has no record: choose another --name, or pass --overwrite")
    if different := differences(meta["options"], wanted):
        raise InputError(
            f"{path} was trained with other options, where relabel.csv counts as labels ({different}): choose another "
            "--name (NAME of training.sh), or pass --overwrite"
        )
    return meta


def differences(before: dict, now: dict) -> str:
    """What differs between two records, as `name before -> now; ...`; empty when nothing does."""
    return "; ".join(
        f"{name} {before.get(name)} -> {now.get(name)}"
        for name in sorted(before.keys() | now.keys())
        if before.get(name) != now.get(name)
    )


def meta(
    options: Options,
    start: Weights,
    family: dict,
    held_out: HeldOut,
    split: Split,
    scores: Scores | None,
    epoch: int,
) -> dict:
    """The record that a fine-tuned checkpoint carries."""
    return {
        "model": start.config,
        "labelling": held_out.labelling.record(),
        "preprocessing": held_out.preprocessing,
        "options": record(options, start, family),
        "epoch": epoch,
        "split": split.record(),
        "held_out": held_out.record,
        "family": family,
        "start": {"source": Path(start.source).name, "digest": start.backbone_digest},
        "scores": scores and scores.record(),
        "made_from": [],
    }


def train_set(
    squares, rows: np.ndarray, labels: np.ndarray, labelling: Labelling, options: Options
) -> LabelledSquares:
    """The photographs at `rows`; with `--old-aug True` those of the oldest class once more, under `train2`."""
    passes = [rows]
    if options.old_aug:
        passes.append(rows[labelling.decode(labels[rows])["age"] == 2])
        if not len(passes[1]):
            raise InputError(f"--old-aug True: no training person is {labelling.age_limits[1]} or older")
    all_rows = np.concatenate(passes)
    which = np.repeat(np.arange(len(passes)), [len(part) for part in passes])
    pipelines = [pipeline(kind, strength=options.aug_strength) for kind in ("train", "train2")[: len(passes)]]
    return LabelledSquares(squares, all_rows, labels[all_rows], pipelines, which, options.random_seed)


def sampling_weights(train_set: LabelledSquares, options: Options) -> np.ndarray | None:
    """(N,) probabilities for `--sampler balanced`, None for `shuffle`."""
    return square_root_weights(train_set.labels) if options.sampler == "balanced" else None


def logit_adjustment(train_set: LabelledSquares, options: Options, num_classes: int) -> torch.Tensor:
    """(C,) float32 `tau * log(share)`, with each class's share of what is drawn in an epoch.

    A class without examples counts as less than one photograph.
    """
    drawn = np.bincount(train_set.labels, sampling_weights(train_set, options), minlength=num_classes)
    shares = np.maximum(drawn / drawn.sum(), 1 / (len(train_set) + 1))
    return torch.from_numpy(options.logit_adjustment * np.log(shares)).float()


def blank_head(weights: Weights, labelling: Labelling) -> dict[str, torch.Tensor]:
    """A zero head, for a model that is only asked for its features."""
    return {
        "classification_head.weight": torch.zeros(labelling.num_classes, weights.config["projection_dim"]),
        "classification_head.bias": torch.zeros(labelling.num_classes),
    }


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict]:
    """AdamW's groups: no decay on biases, norms and the class token, which are the tensors of one dimension."""
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]


def save_augmented(train_set: LabelledSquares, labelling: Labelling, stem: str, count: int = 32) -> Path:
    """A sheet of photographs as the first epoch will see them, to check by eye; the oversampled ones come last."""
    positions = np.linspace(0, len(train_set) - 1, min(count, len(train_set))).round().astype(int)
    squares = np.stack(
        [_displayable(train_set[1, int(position)][0], train_set.pipelines[0]) for position in positions]
    )
    captions = [labelling.classes[train_set.labels[position]] for position in positions]
    return save_sheet(PICTURES / stem / "augmented.png", squares, captions, title="augmented training photographs")


def _displayable(pixel_values: torch.Tensor, transform) -> np.ndarray:
    """Normalised (3, S, S) pixel values back to (S, S, 3) uint8."""
    normalisation = next(step for step in transform.transforms if type(step).__name__ == "Normalize")
    image = pixel_values.permute(1, 2, 0).numpy() * np.array(normalisation.std) + np.array(normalisation.mean)
    return (image * 255).round().clip(0, 255).astype(np.uint8)


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
