"""Whom models are scored on, as all of them see these people."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from accelerate import Accelerator

from utils.base.options import Options
from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.data.reading import read_photographs, recorded_reading
from utils.data.splits import Split, evaluation_splits, splits_digest
from utils.evaluation.folded import OutOfFold, folded_views
from utils.evaluation.held_out import HeldOut, views
from utils.models.checkpoints import Checkpoint


@dataclass(frozen=True)
class People:
    """The photographs, their split (of models across folds one of each fold), who is held out in words, and `view`,
    which gives the held-out photographs with the classes and the preprocessing of a checkpoint.
    """

    photographs: Photographs
    splits: list[Split]
    who: str
    view: Callable[[Checkpoint], HeldOut | OutOfFold]

    @property
    def digest(self) -> str:
        return splits_digest(self.splits)

    @property
    def scored_on(self) -> str:
        rows = np.concatenate([one.held_out for one in self.splits])
        return images_of(self.who, self.digest, self.photographs.relabelled[rows])

    def class_counts(self, labelling: Labelling) -> np.ndarray:
        """(C,) photographs of each class that models were trained on; across folds on everyone."""
        trained_on = np.unique(np.concatenate([one.train for one in self.splits]))
        return np.bincount(self.photographs.labels(labelling)[trained_on], minlength=labelling.num_classes)


def images_of(who: str, split: str, relabelled: np.ndarray) -> str:
    """What is scored on in words, of (N,) flags of the images whose labels relabel.csv changed."""
    changed = f", {relabelled.sum()} of them relabelled" if relabelled.any() else ""
    of = who if who.startswith("held-out images") else f"images of {who}"
    return f"{len(relabelled)} {of} (split {split}){changed}"


def read_people(accelerator: Accelerator, options: Options, checkpoints: list[Checkpoint]) -> People:
    """Read the photographs and split them; raises `InputError` when one of the checkpoints has seen held-out ones."""
    photographs = read_photographs(options.data_location, options.relabel, recorded_reading(checkpoints))
    splits, who = evaluation_splits(photographs, options, checkpoints)
    each = [views(accelerator, photographs, one.held_out, options) for one in splits]
    return People(photographs, splits, who, folded_views(each) if len(splits) > 1 else each[0])
