"""The metrics: each a mean of fractions of counts, so that it is exact as a score and quick over resamplings.

A new one is a new entry of `METRICS`, and nothing else. This module imports nothing, since `--metric` lists its names.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction


@dataclass(frozen=True)
class Metric:
    """The mean, over the fractions with a denominator above zero, of numerators by denominators.

    `fractions(right, true, predicted)` gives both, (..., K) each, of how often each class was predicted rightly, was
    true and was predicted, (..., C) each.
    """

    title: str
    fractions: Callable

    def __call__(self, confusion) -> Fraction:
        """The exact score of a (C, C) confusion matrix of integers, rows being the true classes; 0 of an empty one."""
        counts = self.fractions(confusion.diagonal(), confusion.sum(1), confusion.sum(0))
        scores = [Fraction(int(part), int(whole)) for part, whole in zip(*counts, strict=True) if whole]
        return sum(scores, Fraction(0)) / max(1, len(scores))


METRICS = {
    "accuracy": Metric("accuracy", lambda right, true, _: (right.sum(-1, keepdims=True), true.sum(-1, keepdims=True))),
    # TP by (2 TP + FP + FN) / 2; as in scikit-learn, a class that neither occurs nor is predicted does not count
    "macro_f1": Metric("macro-F1", lambda right, true, predicted: (2 * right, true + predicted)),
}


def shown_metrics(metric: str) -> list[str]:
    """The metrics that a table shows: the two published ones, and the one that something was selected by."""
    return list(dict.fromkeys(["accuracy", "macro_f1", metric]))
