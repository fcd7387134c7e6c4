"""What a fine-tuning run starts from, learns from and is scored on."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator

from utils.base.digests import digest_of
from utils.base.errors import InputError
from utils.base.flags import EVALUATION_BATCH
from utils.base.options import Options
from utils.data import competition
from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.data.prompts import default_prompts, read_prompts
from utils.data.reading import Reading, asked_labelling, read_photographs, reading_of
from utils.data.sanity import alike_names, check_classes, check_learned, small_classes, told_copies
from utils.data.splits import Split, check_unseen, split_of
from utils.evaluation.held_out import HeldOut
from utils.models.clip import build
from utils.models.heads import chosen_init, head_family, sweep_head
from utils.models.pretrained import read_pretrained
from utils.models.weights import Weights
from utils.training.parameters import check_tower
from utils.training.recorded_options import steering
from utils.training.records import scores_of


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
    whole: Labelling  # all attributes, of which a specialist learns some
    held_out: HeldOut
    family: dict
    record: dict
    reading: Reading
    prompts: list[list[str]]  # of each class

    @property
    def labelling(self) -> Labelling:
        return self.held_out.labelling

    @property
    def preprocessing(self) -> dict:
        return self.held_out.preprocessing

    def head(self, accelerator: Accelerator) -> dict[str, torch.Tensor]:
        """The head that all runs of the sweep start from, as `classification_head.*` tensors."""
        anchor, rows, num_classes = self.anchor, self.rows, self.labelling.num_classes

        def training_features():
            blank = {
                "classification_head.weight": torch.zeros(num_classes, anchor.config["projection_dim"]),
                "classification_head.bias": torch.zeros(num_classes),
            }
            frozen = build(anchor.config, {**anchor.backbone(), **blank}, anchor.source)
            features = self.held_out.predict(frozen, "probe", rows, output="embed")
            return features, self.photographs.labels(self.labelling)[rows], self.photographs.persons[rows]

        return sweep_head(accelerator, anchor, self.family, self.labelling, training_features, self.prompts)

    def oddities(self) -> list[str]:
        """What is to be warned of before training, a line each."""
        squares, held_out = self.held_out.squares, self.held_out.rows
        lines = (
            small_classes(self.photographs, self.labelling),
            alike_names(self.labelling),
            told_copies(self.photographs, squares, held_out, self.rows),
        )
        return [line for line in lines if line]

    def record_of(self, accelerator: Accelerator) -> dict:
        """What a state on disk must agree with."""
        return self.record | {"processes": accelerator.num_processes}

    def meta(self, row: dict) -> dict:
        """The record that a fine-tuned checkpoint carries; `row` is of the epoch whose weights it holds."""
        return {
            "model": self.start.config,
            "labelling": self.labelling.record(),
            "preprocessing": self.preprocessing,
            "options": self.record,
            "epoch": row["epoch"],
            "split": self.split.record(),
            "held_out": self.held_out.record,
            "family": self.family,
            "start": {"source": Path(self.start.source).name, "digest": self.start.backbone_digest},
            "scores": scores_of(row),
            "made_from": [],
            **self.reading.record(),
        }


def read_task(accelerator: Accelerator, options: Options, epochs_asked: int) -> Task:
    """Read weights and photographs; the classes are made of all attributes, or of those of a specialist.

    Raises `InputError` for what does not fit together, such as a start that has seen people who are held out here.
    """
    start, anchor = read_pretrained(options)
    check_tower(start.config, options)
    reading = reading_of(options)
    photographs = read_photographs(options.data_location, options.relabel, reading)
    whole = asked_labelling(photographs, options)
    labelling = whole if options.attributes is None else asked_labelling(photographs, options, options.attributes)
    _check_names(whole, options)
    check_classes(photographs, labelling)
    prompts = read_prompts(options.prompts, labelling, whole) if options.prompts else default_prompts(labelling)
    chosen_init(anchor, options.head_init, options.prompts)
    split = split_of(photographs, options)
    for weights in (start, anchor):
        if weights.meta is not None:
            check_unseen(split, weights.meta["split"], photographs, weights.source)
    rows, held_out_rows = _without_ages(photographs, split.train, options.drop_ages), split.held_out
    check_learned(photographs, labelling, rows, held_out_rows)
    if options.fast_dev_run:
        few = 2 * options.batch_size * options.gradient_accumulation_steps * accelerator.num_processes
        by_class = rows[np.argsort(photographs.labels(labelling)[rows], kind="stable")]
        rows = np.sort(by_class[np.linspace(0, len(rows) - 1, min(few, len(rows))).round().astype(int)])
        held_out_rows = held_out_rows[: 2 * EVALUATION_BATCH]
    how = start.preprocessing()
    evaluation = options.replace(batch_size=EVALUATION_BATCH)  # as in main.py, whatever the training batch
    held_out = HeldOut(accelerator, photographs, held_out_rows, labelling, how, evaluation, decode_all=True)
    labels, fingerprint = photographs.labels(labelling)[rows], held_out.squares.fingerprint()
    folds = split.folded and [split.folded.partition, digest_of(photographs.labels(labelling))]
    family = head_family(anchor, labelling, options.head_init, split.digest, labels, fingerprint, folds, prompts)
    record = {
        **steering(options),
        "epochs asked": epochs_asked,
        "mixed_precision": accelerator.mixed_precision,
        "start": start.backbone_digest,
        "anchor, head, labels and photographs": family["inputs"],
    }
    return Task(start, anchor, photographs, split, rows, whole, held_out, family, record, reading, prompts)


def _check_names(whole: Labelling, options: Options) -> None:
    """Raise `InputError` for an attribute or a value that there is not, before anything is decoded."""
    for told in options.oversample or ():
        whole.value(told, "--oversample")
    if options.half_cutmix_within:
        whole.only(options.half_cutmix_within, "--half-cutmix-within")


def _without_ages(photographs: Photographs, rows: np.ndarray, drop_ages: tuple[int, int] | None) -> np.ndarray:
    """The rows of people who are not of these ages (first and last)."""
    if drop_ages is None:
        return rows
    first, last = drop_ages
    ages = competition.years(photographs)[rows]
    kept = rows[(ages < first) | (ages > last)]
    if not len(kept):
        raise InputError(f"--drop-ages {first}-{last} leaves nobody to train on")
    return kept
