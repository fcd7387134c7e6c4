"""From an ensemble's scores to classes: one temperature, and one bias per class.

Shapes: N photographs, C classes. `scores` are (N, C) float64 mean log-probabilities, `bias` is (C,) in nats; predicted
is the largest of `log_softmax(scores / temperature) + bias`.
"""

import math
from dataclasses import dataclass

import numpy as np

from utils.base.metrics import METRICS
from utils.data.splits import cross_folds
from utils.evaluation.kept import COLDEST, HOTTEST
from utils.evaluation.scores import cross_entropies, exact_score, log_softmax

TAUS = (-0.5, -0.25, 0.25, 0.5, 0.75, 1.0)  # below 0: away from rare classes, for models trained to favour them
SHRINKS = (0.25, 0.5, 1.0)
VALUES = np.linspace(-1.5, 1.5, 13)  # nats that one class may gain or lose
ROUNDS = 3
NO_BIAS = "none"


@dataclass(frozen=True)
class Calibration:
    """A temperature and a bias; `rule` says in words where the bias comes from, `NO_BIAS` when it is zero."""

    temperature: float
    bias: np.ndarray
    rule: str = NO_BIAS

    def without_bias(self) -> "Calibration":
        return Calibration(self.temperature, np.zeros_like(self.bias))

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """(N, C) calibrated scores, of which the largest in each row is the prediction."""
        return log_softmax(scores / self.temperature) + self.bias


def log_loss(scores: np.ndarray, labels: np.ndarray) -> float:
    """Mean cross entropy of (N, C) scores in nats."""
    return float(cross_entropies(scores, labels).mean())


def fit_temperature(scores: np.ndarray, labels: np.ndarray) -> float:
    """The temperature, from `COLDEST` to `HOTTEST`, under which the scores have the least log-loss (Guo et al. 2017).

    The loss is convex in 1 / temperature, so that the one zero of its slope is found by halving.
    """
    right = scores[np.arange(len(labels)), labels].mean()

    def slope(inverse: float) -> float:
        return (np.exp(log_softmax(scores * inverse)) * scores).sum(-1).mean() - right

    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if slope(math.exp(middle)) > 0 else (middle, high)
    return math.exp(-(low + high) / 2)


def post_hoc_adjustment(class_counts: np.ndarray, tau: float) -> np.ndarray:
    """(C,) `-tau * log p(class)`, its mean taken off, to be added to a trained model's log-probabilities (Menon et al.
    2021, "Long-tail learning via logit adjustment", equation 9, post hoc).

    The sign is minus: rare classes gain. `training.dataset.loss_adjustment`, which the loss adds while a model learns,
    has the sign plus. Each class counts one more photograph than it has, so that one without any has a finite bias.
    """
    log_prior = np.log((class_counts + 1) / (class_counts + 1).sum())
    return -tau * (log_prior - log_prior.mean())


def class_bias(log_probs: np.ndarray, labels: np.ndarray, metric: str) -> np.ndarray:
    """(C,) the bias that coordinate ascent finds for (N, C) `log_probs`: class by class the value of `VALUES` that
    scores best, of equal ones the nearest to zero, in up to `ROUNDS` rounds.

    It fits the people it is given closely; `calibrate` shrinks it, or leaves it out.
    """
    num_classes = log_probs.shape[1]
    classes = np.arange(num_classes)

    def scored(bias: np.ndarray):
        return exact_score(METRICS[metric], labels, log_probs + bias, num_classes)

    bias = np.zeros(num_classes)
    for _ in range(ROUNDS):
        before = bias
        for class_id in classes:
            changed = [np.where(classes == class_id, value, bias) for value in sorted(VALUES, key=abs)]
            bias = max(changed, key=scored)
        if (bias == before).all():
            break
    return bias


def biases(log_probs: np.ndarray, labels: np.ndarray, class_counts: np.ndarray, metric: str) -> dict[str, np.ndarray]:
    """The biases to choose from by their rule in words; no bias comes first."""
    found = {NO_BIAS: np.zeros(len(class_counts))}
    found |= {f"logit adjustment, tau {tau:g}": post_hoc_adjustment(class_counts, tau) for tau in TAUS}
    fitted = class_bias(log_probs, labels, metric)
    return found | {f"per class, times {shrink:g}": shrink * fitted for shrink in SHRINKS}


def calibrate(
    scores: np.ndarray, labels: np.ndarray, persons: np.ndarray, class_counts: np.ndarray, metric: str
) -> Calibration:
    """Fit the temperature, and choose the bias across people.

    Each rule of a bias, and the temperature before it, is fitted outside each fold of people and predicts the people
    inside. The rule that scores best by `metric` on all people is then fitted to everybody; of equal ones the first,
    so that no bias wins a tie. `selection.choose` finds out on other people whether the bias is worth keeping.
    """
    answers = {}
    for rest, fold in cross_folds(labels, persons):
        temperature = fit_temperature(scores[rest], labels[rest])
        outside, inside = (log_softmax(scores[rows] / temperature) for rows in (rest, fold))
        for rule, bias in biases(outside, labels[rest], class_counts, metric).items():
            answers.setdefault(rule, np.empty_like(scores))[fold] = inside + bias
    rule = max(answers, key=lambda rule: exact_score(METRICS[metric], labels, answers[rule], len(class_counts)))
    temperature = fit_temperature(scores, labels)
    return Calibration(
        temperature, biases(log_softmax(scores / temperature), labels, class_counts, metric)[rule], rule
    )
