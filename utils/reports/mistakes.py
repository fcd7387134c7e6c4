"""What a model gets wrong: error rates, confusion matrices, the photographs themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.base.pictures import save_confusion, save_sheet
from utils.data.labels import Labelling
from utils.evaluation.held_out import HeldOut
from utils.evaluation.scores import confusion_matrix, log_softmax

PER_SHEET = 48


@dataclass(frozen=True)
class ErrorRate:
    """How many are `wrong` of the `total` photographs whose true value of `attribute` is `value`."""

    attribute: str  # "class", or one attribute
    value: str
    wrong: int
    total: int

    def __str__(self) -> str:
        percent = f"{100 * self.wrong / self.total:5.1f} %" if self.total else "      -"
        return f"{self.attribute:8} {self.value:32} {self.wrong:6d} of {self.total:<5d} wrong {percent}"


def confusions(labels: np.ndarray, preds: np.ndarray, labelling: Labelling) -> dict[str, np.ndarray]:
    """The confusion matrix of the class and, where a class is made of several attributes, of each of them."""
    found = {"class": confusion_matrix(labels, preds, labelling.num_classes)}
    truth, guess = labelling.decode(labels), labelling.decode(preds)
    if len(labelling.attributes) > 1:
        for name, values in labelling.values.items():
            found[name] = confusion_matrix(truth[name], guess[name], len(values))
    return found


def value_names(attribute: str, labelling: Labelling) -> Sequence[str]:
    return labelling.classes if attribute == "class" else labelling.values[attribute]


def error_rates(matrices: dict[str, np.ndarray], labelling: Labelling) -> list[ErrorRate]:
    """One line per class and per value of each attribute."""
    return [
        ErrorRate(attribute, name, int(row.sum() - row[k]), int(row.sum()))
        for attribute, matrix in matrices.items()
        for k, (name, row) in enumerate(zip(value_names(attribute, labelling), matrix, strict=True))
    ]


def worst_rates(rates: Sequence[ErrorRate], count: int = 3) -> str:
    """The classes and values of attributes that are wrong most often, in one line; of equal ones the larger first."""
    wrong = sorted((one for one in rates if one.wrong), key=lambda one: (-one.wrong / one.total, -one.total))
    return "; ".join(f"{one.attribute} {one.value} ({one.wrong} of {one.total})" for one in wrong[:count]) or "nothing"


def save_report(folder: Path, held_out: HeldOut, logits: np.ndarray, model: str, who: str) -> list[Path]:
    """Write a model's confusion matrices and sheets of all misclassified photographs into `folder`; returns the files.

    `who` says in words whose photographs these are.

    Sheets of an earlier report that are no longer needed are removed.
    """
    preds = logits.argmax(-1)
    pictures = [
        save_confusion(
            folder / f"confusion_{name}.png", matrix, value_names(name, held_out.labelling), f"{model}, {who}"
        )
        for name, matrix in confusions(held_out.labels, preds, held_out.labelling).items()
    ]
    sheets = save_misclassified(folder, held_out, logits, who)
    for stale in set(folder.glob("misclassified_*.png")) - set(sheets):
        stale.unlink()
    return pictures + sheets


def save_misclassified(folder: Path, held_out: HeldOut, logits: np.ndarray, who: str) -> list[Path]:
    """Sheets of every misclassified photograph with true and predicted labels, the surest mistakes first."""
    preds = logits.argmax(-1)
    sureness = log_softmax(logits)[np.arange(len(preds)), preds]
    wrong = np.flatnonzero(preds != held_out.labels)
    wrong = wrong[np.argsort(-sureness[wrong], kind="stable")]
    names, sheets = held_out.labelling.classes, []
    for first in range(0, len(wrong), PER_SHEET):
        some = wrong[first : first + PER_SHEET]
        captions = [
            f"{held_out.ids[k]}\n{np.exp(sureness[k]):.0%} sure\n"
            f"true: {names[held_out.labels[k]]}\npredicted: {names[preds[k]]}"
            for k in some
        ]
        title = f"{who}: misclassified {first + 1} to {first + len(some)} of {len(wrong)}, the surest mistakes first"
        sheets.append(folder / f"misclassified_{len(sheets) + 1:03d}.png")
        save_sheet(sheets[-1], held_out.squares_at(some), captions, title=title)
    return sheets
