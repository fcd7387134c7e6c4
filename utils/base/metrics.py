"""The metrics: each a mean of fractions of counts, so that it is exact as a score and quick over resamplings.

A new one is a new entry of `METRICS`, and nothing else. This module imports nothing, since `--metric` lists its names.
A score is larger the better. People see it as it is, and of a loss what is lost, in nats.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction

NAT = 2**32  # parts of a nat in which losses are counted, so that their sums are exact in any order


@dataclass(frozen=True)
class Metric:
    """The mean, over the fractions with a denominator above zero, of numerators by denominators.

    `fractions(right, true, predicted, lost)` gives both, (..., K) each, of how often each class was predicted rightly,
    was true and was predicted, and of the cross entropy of its photographs in parts of a nat, (..., C) each. `is_loss`
    says that it looks at the last of these, which answers that are classes alone do not tell.
    """

    title: str
    fractions: Callable
    is_loss: bool = False

    def __call__(self, confusion, lost=None) -> Fraction:
        """The exact score of a (C, C) confusion matrix of integers, rows being the true classes, and of (C,) integers
        `lost`; 0 of an empty one.
        """
        counts = self.fractions(confusion.diagonal(), confusion.sum(1), confusion.sum(0), lost)
        scores = [Fraction(int(part), int(whole)) for part, whole in zip(*counts, strict=True) if whole]
        return sum(scores, Fraction(0)) / max(1, len(scores))

    @property
    def sign(self) -> int:
        """What turns a score into what people see, and back."""
        return -1 if self.is_loss else 1

    def shown(self, score: Fraction) -> float:
        """A score as people see it."""
        return float(self.sign * score)


def _total(counts):
    return counts.sum(-1, keepdims=True)


METRICS = {
    "accuracy": Metric("accuracy", lambda right, true, *_: (_total(right), _total(true))),
    # TP by (2 TP + FP + FN) / 2; as in scikit-learn, a class that neither occurs nor is predicted does not count
    "macro_f1": Metric("macro-F1", lambda right, true, predicted, _: (2 * right, true + predicted)),
    "balanced_accuracy": Metric("balanced accuracy", lambda right, true, *_: (right, true)),
    "log_loss": Metric("log-loss", lambda _, true, __, lost: (-_total(lost), NAT * _total(true)), is_loss=True),
}
PUBLISHED = "accuracy", "macro_f1"


def shown_metrics(metric: str = "macro_f1") -> list[str]:
    """The metrics that a table shows: the two published ones, and the one that something was selected by."""
    return list(dict.fromkeys([*PUBLISHED, metric]))
