"""Scores as exact counts: integers until the end, then divided once."""

from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from utils.base.metrics import METRICS
from utils.data.labels import Labelling


def confusion_matrix(labels: np.ndarray, preds: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) int64 counts; rows are the true classes, columns the predicted ones."""
    return np.bincount(labels * num_classes + preds, minlength=num_classes**2).reshape(num_classes, num_classes)


@dataclass(frozen=True)
class Scores:
    """How one model did on a labelled set; `loss` is the mean cross entropy in nats."""

    confusion: np.ndarray
    loss: float
    attributes: dict[str, Fraction]  # accuracy of mask, gender and age apart

    @cached_property
    def values(self) -> dict[str, Fraction]:
        """The exact score by each metric."""
        return {name: metric(self.confusion) for name, metric in METRICS.items()}

    def record(self) -> dict:
        """Plain numbers for a log, a tracker or a checkpoint."""
        return {
            "images": int(self.confusion.sum()),
            "correct": int(self.confusion.trace()),
            **{name: float(value) for name, value in self.values.items()},
            "loss": self.loss,
            **{f"accuracy_{name}": float(value) for name, value in self.attributes.items()},
        }

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {float(value):.4f}" for name, value in self.attributes.items())
        scores = ", ".join(f"{METRICS[name].title} {float(value):.4f}" for name, value in self.values.items())
        return f"{scores} ({parts})" if parts else scores


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(N, C) logits to log-probabilities, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def score(logits: np.ndarray, labels: np.ndarray, labelling: Labelling) -> Scores:
    """Scores of (N, C) logits against (N,) labels; of equal logits the first class is predicted."""
    preds = logits.argmax(axis=-1)
    truth, guess = labelling.decode(labels), labelling.decode(preds)
    return Scores(
        confusion=confusion_matrix(labels, preds, labelling.num_classes),
        loss=float(-log_softmax(logits)[np.arange(len(labels)), labels].mean()),
        attributes={name: Fraction(int((truth[name] == guess[name]).sum()), len(labels)) for name in truth},
    )


def bootstrap_scores(
    labels: np.ndarray, preds: np.ndarray, persons: np.ndarray, num_classes: int, samples: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """(samples,) scores by each metric of resampled people, each with all their photographs (Efron 1979).

    A person, not a photograph, is the unit: seven pictures of one face are far from independent.
    """
    people, person_of = np.unique(persons, return_inverse=True)
    right, true, predicted = np.zeros((3, len(people), num_classes))
    for counts, rows, classes in (
        (right, labels == preds, labels),
        (true, slice(None), labels),
        (predicted, slice(None), preds),
    ):
        np.add.at(counts, (person_of[rows], classes[rows]), 1)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=samples)  # (samples, people)
    right, true, predicted = (draws @ counts for counts in (right, true, predicted))  # (samples, C) each
    scores = {}
    for name, metric in METRICS.items():
        parts, wholes = metric.fractions(right, true, predicted)
        scores[name] = _mean_of_fractions(parts, wholes)
    return scores


def _mean_of_fractions(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """(samples,) means of the fractions `parts / wholes`, (samples, K) each, whose denominator is above zero."""
    return np.nanmean(np.divide(parts, wholes, out=np.full_like(wholes, np.nan), where=wholes > 0), axis=-1)


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap samples."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Gain:
    """How much more one way of predicting scores than another on the same photographs, and how sure that is.

    `low` and `high` bound the 95 % bootstrap interval of the difference over people. `probability` is the share of
    resamplings in which the difference is above zero; those without a difference count half.
    """

    difference: float
    low: float
    high: float
    probability: float

    def __str__(self) -> str:
        if self.difference == self.low == self.high == 0:
            return "no difference"
        return f"{self.difference:+.3f} [{self.low:+.3f}, {self.high:+.3f}], a gain in {self.probability:.0%}"


def paired_gain(
    labels: np.ndarray, preds: np.ndarray, baseline: np.ndarray, persons: np.ndarray, num_classes: int
) -> dict[str, Gain]:
    """The gain of `preds` (N,) over `baseline` (N,) by each metric, by a paired bootstrap over people.

    Both are scored on the same resamplings, so what makes some people hard for both cancels out.
    """
    after, before = (bootstrap_scores(labels, one, persons, num_classes) for one in (preds, baseline))
    gains = {}
    for name, metric in METRICS.items():
        score, baseline_score = (metric(confusion_matrix(labels, one, num_classes)) for one in (preds, baseline))
        samples = after[name] - before[name]
        low, high = interval(samples)
        probability = float((samples > 0).mean() + (samples == 0).mean() / 2)
        gains[name] = Gain(float(score - baseline_score), low, high, probability)
    return gains


def score_row(labels: np.ndarray, preds: np.ndarray, persons: np.ndarray, num_classes: int) -> dict:
    """The scores of (N,) predictions by each metric, with 95 % bootstrap intervals over people, as plain numbers."""
    confusion = confusion_matrix(labels, preds, num_classes)
    samples = bootstrap_scores(labels, preds, persons, num_classes)
    row = {"images": len(labels), "persons": len(np.unique(persons))}
    for name, metric in METRICS.items():
        row |= {name: float(metric(confusion)), f"{name}_interval": interval(samples[name])}
    return row
