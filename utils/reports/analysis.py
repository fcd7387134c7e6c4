"""The numbers of a report on predictions for held-out photographs.

Shapes: N photographs, C classes; `labels` and `preds` are (N,) class ids, `logits` (N, C).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from utils.data.labels import Labelling
from utils.data.photographs import Photographs
from utils.evaluation.held_out import HeldOut
from utils.evaluation.scores import log_softmax, score_row
from utils.reports.rival import changed

BINS = 10  # of confidence
WORST, CONFIDENT, LOST, WON = "worst", "confident", "lost", "won"
OTHER = "other model"  # the kind of what a model is compared with
PER_KIND = 60  # mistakes on each of the lists


@dataclass(frozen=True)
class ValueScores:
    """How well one class, or one value of an attribute, is predicted; NaN where the denominator is zero."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def value_scores(labels: np.ndarray, preds: np.ndarray, names: Sequence[str]) -> list[ValueScores]:
    """scikit-learn's precision, recall, F1 and support of each of the `names`, which the class ids index."""
    from sklearn.metrics import precision_recall_fscore_support

    every = np.arange(len(names))
    columns = precision_recall_fscore_support(labels, preds, labels=every, zero_division=np.nan)
    return [
        ValueScores(name, float(precision), float(recall), float(f1), int(support))
        for name, precision, recall, f1, support in zip(names, *columns, strict=True)
    ]


def value_tables(held_out: HeldOut, preds: np.ndarray) -> dict[str, list[ValueScores]]:
    """Precision, recall, F1 and support of each class and, where a class is made of several attributes, of each value
    of them.
    """
    labelling = held_out.labelling
    truth, guess = labelling.decode(held_out.labels), labelling.decode(preds)
    tables = {"class": value_scores(held_out.labels, preds, labelling.classes)}
    values = labelling.values
    return tables | {name: value_scores(truth[name], guess[name], values[name]) for name in several(labelling)}


def several(labelling: Labelling) -> tuple[str, ...]:
    """The attributes that a class is made of, where they are more than the class itself."""
    return labelling.attributes if len(labelling.attributes) > 1 else ()


def part_rows(held_out: HeldOut, preds: np.ndarray) -> dict[str, dict]:
    """Scores with intervals of each of several attributes that the class is made of, by its name."""
    labelling = held_out.labelling
    truth, guess = labelling.decode(held_out.labels), labelling.decode(preds)
    return {
        name: score_row(truth[name], guess[name], held_out.persons, len(labelling.values[name]))
        for name in several(labelling)
    }


@dataclass(frozen=True)
class NumberErrors:
    """Among the photographs whose number is in a `span`: how many have a wrong class, and how many a wrong value of
    the attribute that the number is cut into.
    """

    span: str
    groups: int
    photographs: int
    wrong: int
    wrong_value: int


@dataclass(frozen=True)
class Number:
    """An attribute that is a number, and the (N,) `numbers` of the held-out photographs: a person's age in years."""

    name: str
    unit: str
    numbers: np.ndarray
    limits: tuple[int, ...]

    @property
    def near(self) -> int:
        """How near to a limit is near: a tenth of the narrowest group, of the ages under 30 three years."""
        return max(1, round(min(np.diff((0, *self.limits))) / 10))

    @property
    def axis(self) -> str:
        return f"{self.name} in {self.unit}" if self.unit else self.name

    def borders(self) -> list[range]:
        """The numbers near each limit."""
        return [range(limit - self.near, limit + self.near) for limit in self.limits]


def numbers_of(held_out: HeldOut, photographs: Photographs) -> list[Number]:
    """The attributes of the classes that are numbers."""
    return [
        Number(name, photographs.labelling[name].unit, photographs.values[name][held_out.rows], limits)
        for name, limits in held_out.labelling.limits.items()
    ]


def errors_of_numbers(
    chosen: np.ndarray, held_out: HeldOut, number: Number, preds: np.ndarray, span: str = ""
) -> NumberErrors:
    """The errors among the photographs whose number is one of `chosen`."""
    rows = np.isin(number.numbers, chosen)
    truth, guess = (held_out.labelling.decode(classes)[number.name] for classes in (held_out.labels, preds))
    groups = len(np.unique(held_out.persons[rows]))
    wrong, wrong_value = (int((one != other)[rows].sum()) for one, other in ((held_out.labels, preds), (truth, guess)))
    return NumberErrors(span, groups, int(rows.sum()), wrong, wrong_value)


def errors_by_number(held_out: HeldOut, number: Number, preds: np.ndarray) -> dict[int, NumberErrors]:
    """The errors of each number that occurs, ascending."""
    every = np.unique(number.numbers)
    return {int(one): errors_of_numbers(one, held_out, number, preds, str(one)) for one in every}


def errors_near_borders(held_out: HeldOut, number: Number, preds: np.ndarray) -> list[NumberErrors]:
    """The errors near each limit, and those of all others."""
    parts = {f"{near[0]} to {near[-1]}": np.array(near) for near in number.borders()}
    parts["all others"] = np.setdiff1d(number.numbers, np.concatenate(list(parts.values())))
    return [errors_of_numbers(chosen, held_out, number, preds, span) for span, chosen in parts.items()]


@dataclass(frozen=True)
class Reliability:
    """Whether a model is right as often as its confidence says, the probability of the class that it predicts.

    For each bin of confidence that occurs: the mean confidence, the part that is right, the count. `error` is the
    expected calibration error: the mean of |right - confidence| over bins, weighed by count (Naeini et al. 2015).
    """

    confidence: np.ndarray
    right: np.ndarray
    counts: np.ndarray

    @property
    def error(self) -> float:
        return float(np.average(np.abs(self.right - self.confidence), weights=self.counts))

    @property
    def mean_confidence(self) -> float:
        return float(np.average(self.confidence, weights=self.counts))


def calibration(logits: np.ndarray, labels: np.ndarray) -> Reliability:
    """scikit-learn's calibration curve of the predicted class in `BINS` bins of equal width."""
    from sklearn.calibration import calibration_curve

    confidence, is_right = np.exp(log_softmax(logits)).max(-1), logits.argmax(-1) == labels
    right, mean_confidence = calibration_curve(is_right, confidence, n_bins=BINS)
    inner_edges = np.linspace(0, 1, BINS + 1)[1:-1]
    counts = np.bincount(np.searchsorted(inner_edges, confidence), minlength=BINS)
    return Reliability(mean_confidence, right, counts[counts > 0])


@dataclass(frozen=True)
class Mistake:
    """A misclassified photograph: its position among the held-out ones, its cross entropy in nats, the probabilities
    of the predicted and of the true class, the attributes that are wrong, and which lists of mistakes it is in. On the
    list `WON` are photographs that are no mistake, but one of another model's.
    """

    position: int
    loss: float
    sureness: float
    true_probability: float
    attributes: tuple[str, ...]
    kinds: tuple[str, ...]


def mistakes(
    logits: np.ndarray, labels: np.ndarray, labelling: Labelling, other: np.ndarray | None = None
) -> list[Mistake]:
    """All misclassified photographs, the highest loss first.

    The `PER_KIND` of the highest loss are `WORST`, the `PER_KIND` whose wrong class has the highest probability are
    `CONFIDENT`. If `other` are the (N,) classes that another model predicts, what only that one gets right is `LOST`,
    and what only this one gets right comes last, `WON`.
    """
    log_probs, preds = log_softmax(logits), logits.argmax(-1)
    wrong = np.flatnonzero(preds != labels)
    losses, sureness = -log_probs[wrong, labels[wrong]], np.exp(log_probs[wrong, preds[wrong]])
    by_loss, by_sureness = (np.argsort(np.argsort(-values, kind="stable")) for values in (losses, sureness))  # ranks
    lists = {WORST: by_loss < PER_KIND, CONFIDENT: by_sureness < PER_KIND}
    won, lost = changed(labels, preds, preds if other is None else other)
    lists[LOST] = lost[wrong]
    kinds = {wrong[k]: tuple(kind for kind, there in lists.items() if there[k]) for k in range(len(wrong))}
    truth, guess = labelling.decode(labels), labelling.decode(preds)
    return [
        Mistake(
            position=int(k),
            loss=float(-log_probs[k, labels[k]]),
            sureness=float(np.exp(log_probs[k, preds[k]])),
            true_probability=float(np.exp(log_probs[k, labels[k]])),
            attributes=tuple(name for name in truth if truth[name][k] != guess[name][k]),
            kinds=kinds.get(k, (WON,)),
        )
        for k in (*wrong[np.argsort(by_loss)], *np.flatnonzero(won))
    ]
