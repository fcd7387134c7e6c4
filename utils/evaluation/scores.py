"""Scores as exact counts: integers until the end, then divided once.

`answers` are what is scored: (N,) predicted classes, or (N, C) logits or log-probabilities, of which the largest in
each row is the prediction (of equal ones the first), and of which alone a loss can be told.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from utils.base.metrics import METRICS, NAT, Metric, shown_metrics
from utils.data.labels import Labelling

LEAST = np.finfo(np.float64).eps  # a probability below 2.2e-16 counts as that, as in scikit-learn


def confusion_matrix(labels: np.ndarray, preds: np.ndarray, num_classes: int) -> np.ndarray:
    """(C, C) int64 counts; rows are the true classes, columns the predicted ones."""
    return np.bincount(labels * num_classes + preds, minlength=num_classes**2).reshape(num_classes, num_classes)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """(N, C) logits to log-probabilities, in float64."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def cross_entropies(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) cross entropies in nats of (N, C) logits."""
    return -log_softmax(logits)[np.arange(len(labels)), labels]


def lost_parts(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) int64 cross entropies of (N, C) logits in parts of a nat."""
    return np.rint(np.minimum(cross_entropies(logits, labels), -math.log(LEAST)) * NAT).astype(np.int64)


def preds_of(answers: np.ndarray) -> np.ndarray:
    """(N,) predicted classes."""
    return answers if answers.ndim == 1 else answers.argmax(-1)


def count(metric: Metric, labels: np.ndarray, answers: np.ndarray, num_classes: int) -> tuple[np.ndarray, np.ndarray]:
    """What a metric scores: the (C, C) confusion matrix, and (C,) int64 parts of a nat that the photographs of each
    true class lost, zeros unless the metric is a loss. Counts of several sets of photographs may be added.
    """
    lost = np.zeros(num_classes, np.int64)
    if metric.is_loss:
        np.add.at(lost, labels, lost_parts(answers, labels))
    return confusion_matrix(labels, preds_of(answers), num_classes), lost


def exact_score(metric: Metric, labels: np.ndarray, answers: np.ndarray, num_classes: int) -> Fraction:
    """The score of answers by a metric."""
    return metric(*count(metric, labels, answers, num_classes))


def told_metrics(answers: np.ndarray) -> dict[str, Metric]:
    """The metrics that can score such answers."""
    return {name: metric for name, metric in METRICS.items() if answers.ndim > 1 or not metric.is_loss}


@dataclass(frozen=True)
class Scores:
    """How one model did on a labelled set: the exact score by each metric, `images` and how many are `correct`; `loss`
    is the mean cross entropy in nats. `relabelled` images were scored against labels that relabel.csv changed.
    """

    values: dict[str, Fraction]
    images: int
    correct: int
    loss: float
    attributes: dict[str, Fraction]  # accuracy of mask, gender and age apart
    relabelled: int = 0

    def record(self) -> dict:
        """Plain numbers for a log, a tracker or a checkpoint."""
        return {
            "images": self.images,
            "relabelled": self.relabelled,
            "correct": self.correct,
            **{name: METRICS[name].shown(value) for name, value in self.values.items()},
            "loss": self.loss,
            **{f"accuracy_{name}": float(value) for name, value in self.attributes.items()},
        }

    def told(self, metric: str = "macro_f1") -> str:
        """In words, with the score by `metric`."""
        parts = ", ".join(f"{name} {float(value):.4f}" for name, value in self.attributes.items())
        scores = in_words(self.values, metric)
        return f"{scores} ({parts})" if parts else scores


def in_words(values: dict[str, Fraction], metric: str) -> str:
    """The scores of `values` that are shown beside the one by `metric`."""
    return ", ".join(
        f"{METRICS[name].title} {METRICS[name].shown(values[name]):.4f}" for name in shown_metrics(metric)
    )


def score(logits: np.ndarray, labels: np.ndarray, labelling: Labelling) -> Scores:
    """Scores of (N, C) logits against (N,) labels; of equal logits the first class is predicted."""
    preds = logits.argmax(axis=-1)
    truth, guess = labelling.decode(labels), labelling.decode(preds)
    return Scores(
        values={name: exact_score(one, labels, logits, labelling.num_classes) for name, one in METRICS.items()},
        images=len(labels),
        correct=int((labels == preds).sum()),
        loss=float(cross_entropies(logits, labels).mean()),
        attributes={name: Fraction(int((truth[name] == guess[name]).sum()), len(labels)) for name in truth},
    )


def bootstrap_scores(
    labels: np.ndarray, answers: np.ndarray, persons: np.ndarray, num_classes: int, samples: int = 2000, seed: int = 0
) -> dict[str, np.ndarray]:
    """(samples,) scores by each metric that can be told, of resampled people (Efron 1979), each with all their
    photographs.

    A person, not a photograph, is the unit: seven pictures of one face are far from independent.
    """
    people, person_of = np.unique(persons, return_inverse=True)
    preds, every = preds_of(answers), slice(None)
    right, true, predicted, lost = np.zeros((4, len(people), num_classes))
    for counts, rows, classes, more in (
        (right, labels == preds, labels, 1),
        (true, every, labels, 1),
        (predicted, every, preds, 1),
        (lost, every, labels, lost_parts(answers, labels) if answers.ndim > 1 else 0),
    ):
        np.add.at(counts, (person_of[rows], classes[rows]), more)
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(len(people), np.full(len(people), 1 / len(people)), size=samples)  # (samples, people)
    resampled = [draws @ counts for counts in (right, true, predicted, lost)]  # (samples, C) each
    return {name: _mean_of_fractions(*metric.fractions(*resampled)) for name, metric in told_metrics(answers).items()}


def _mean_of_fractions(parts: np.ndarray, wholes: np.ndarray) -> np.ndarray:
    """(samples,) means of the fractions `parts / wholes`, (samples, K) each, whose denominator is above zero."""
    return np.nanmean(np.divide(parts, wholes, out=np.full_like(wholes, np.nan), where=wholes > 0), axis=-1)


def interval(samples: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The percentile interval of bootstrap samples."""
    low, high = np.quantile(samples, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


@dataclass(frozen=True)
class Gain:
    """How much more one way of predicting scores than another on the same photographs, and how sure that is; a loss
    gains what it falls by.

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
    labels: np.ndarray, answers: np.ndarray, baseline: np.ndarray, persons: np.ndarray, num_classes: int
) -> dict[str, Gain]:
    """The gain of `answers` over those of a `baseline`, as `gain_over_mean`."""
    return gain_over_mean(labels, answers, [baseline], persons, num_classes)


def gain_over_mean(
    labels: np.ndarray,
    answers: np.ndarray,
    baselines: Sequence[np.ndarray],
    persons: np.ndarray,
    num_classes: int,
) -> dict[str, Gain]:
    """The gain of `answers` over the mean score of the `baselines` by each metric that tells all of them, by a paired
    bootstrap over people.

    All are scored on the same resamplings, so what makes some people hard for all cancels out.
    """
    after = bootstrap_scores(labels, answers, persons, num_classes)
    before = [bootstrap_scores(labels, one, persons, num_classes) for one in baselines]
    gains = {}
    for name in (name for name in after if all(name in one for one in before)):
        score, *others = (exact_score(METRICS[name], labels, one, num_classes) for one in (answers, *baselines))
        baseline_score = sum(others) / len(others)
        samples = after[name] - sum(one[name] for one in before) / len(before)
        low, high = interval(samples)
        probability = float((samples > 0).mean() + (samples == 0).mean() / 2)
        gains[name] = Gain(float(score - baseline_score), low, high, probability)
    return gains


def expected_row(labels: np.ndarray, every: Sequence[np.ndarray], persons: np.ndarray, num_classes: int) -> dict:
    """The mean of what several models score, which is what one of them is expected to, as `score_row` tells scores."""
    samples = [bootstrap_scores(labels, one, persons, num_classes) for one in every]
    row = {"images": len(labels), "persons": len(np.unique(persons))}
    for name, metric in told_metrics(every[0]).items():
        scores = [exact_score(metric, labels, one, num_classes) for one in every]
        row[name] = metric.shown(sum(scores) / len(scores))
        row[f"{name}_interval"] = interval(metric.sign * sum(one[name] for one in samples) / len(samples))
    return row


def score_row(labels: np.ndarray, answers: np.ndarray, persons: np.ndarray, num_classes: int) -> dict:
    """The scores of answers by each metric that can be told, with 95 % bootstrap intervals over people, as plain
    numbers.
    """
    samples = bootstrap_scores(labels, answers, persons, num_classes)
    row = {"images": len(labels), "persons": len(np.unique(persons))}
    for name, metric in told_metrics(answers).items():
        row[name] = metric.shown(exact_score(metric, labels, answers, num_classes))
        row[f"{name}_interval"] = interval(metric.sign * samples[name])
    return row
