"""What a model gets wrong: error rates, confusion matrices, the photographs themselves."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from utils.base.pictures import save_confusion, save_sheet
from utils.base.tables import write_table
from utils.data.labels import Labelling
from utils.evaluation.held_out import HeldOut
from utils.evaluation.scores import confusion_matrix, log_softmax

PER_SHEET = 48
MOST_CLASSES = 40  # in a picture, a chart or a table; of more the worst are shown, and files have them all


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


def most_mixed_up(matrix: np.ndarray, count: int) -> list[int]:
    """The classes of a confusion matrix, in order; of more than `count` those that most mistakes are about."""
    if len(matrix) <= count:
        return list(range(len(matrix)))
    wrong = matrix - np.diag(matrix.diagonal())
    order = np.argsort(-(wrong.sum(0) + wrong.sum(1)), kind="stable")
    return sorted(order[:count].tolist())


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
    matrices = confusions(held_out.labels, logits.argmax(-1), held_out.labelling)
    pictures = []
    for name, matrix in matrices.items():
        names, shown = value_names(name, held_out.labelling), most_mixed_up(matrix, MOST_CLASSES)
        part = f"{model}, {who}"
        if len(shown) < len(matrix):
            part += f", the {len(shown)} of {len(matrix)} that most mistakes are about"
        some = matrix[np.ix_(shown, shown)]
        totals = matrix.sum(1)[shown]
        pictures.append(
            save_confusion(folder / f"confusion_{name}.png", some, [names[k] for k in shown], part, totals)
        )
    save_whole(folder, matrices, held_out.labelling)
    sheets = save_misclassified(folder, held_out, logits, who)
    for stale in set(folder.glob("misclassified_*.png")) - set(sheets):
        stale.unlink()
    return pictures + sheets


def save_whole(folder: Path, matrices: dict[str, np.ndarray], labelling: Labelling) -> None:
    """Write as tables what has too many values for pictures: confusion matrices, and the scores of each value."""
    for name, matrix in matrices.items():
        names = value_names(name, labelling)
        places = [folder / f"{what}_{name}.csv" for what in ("confusion", "scores")]
        if len(matrix) <= MOST_CLASSES:
            for stale in places:
                stale.unlink(missing_ok=True)
            continue
        rows = ([value, *row] for value, row in zip(names, matrix.tolist(), strict=True))
        write_table(places[0], [f"true {name}", *names], rows)
        right, true, said = matrix.diagonal(), matrix.sum(1), matrix.sum(0)
        scores = zip(names, true.tolist(), right.tolist(), said.tolist(), strict=True)
        write_table(places[1], [name, "images", "right", "predicted"], map(list, scores))


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
