"""Several models' predictions put together: the average that a specialist corrects, soft voting, weighted means.

Shapes: N photographs, C classes. `logits` are (N, C) float32; scores are (N, C) float64, of which the largest in each
row is the prediction (of equal ones the first).
"""

from collections.abc import Sequence

import numpy as np

from utils.data.labels import Labelling, own_class
from utils.evaluation.scores import log_softmax


def corrected(
    logits: np.ndarray, own_logits: np.ndarray, weight: float, whole: Labelling, own: Labelling
) -> np.ndarray:
    """`log p(class) + weight * log p_own(its part of class)`, a product of experts.

    `own_logits` are those of specialists, which tell some attributes of the `whole` apart: `own`.
    """
    return log_softmax(logits) + weight * log_softmax(own_logits)[:, own_class(whole, own)]


def corrected_mean(logits: Sequence[np.ndarray], weight: float, whole: Labelling, own: Labelling) -> np.ndarray:
    """(N, C) scores of a model, whose logits come first, corrected by the mean of some specialists."""
    return corrected(logits[0], soft_vote(logits[1:], "log"), weight, whole, own)


def class_log_probs(logits: np.ndarray, whole: Labelling, own: Labelling) -> np.ndarray:
    """(N, C) log-probabilities of a model of the labelling `own`; a specialist gives each class of the `whole` the one
    of its own attributes.
    """
    return log_softmax(logits)[:, own_class(whole, own)]


def weighted_mean(log_probs: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """(N, C) sum of `weights` times `log_probs`; those of weight 0 are left out, even if they are NaN."""
    return sum(weight * one for weight, one in zip(weights, log_probs, strict=True) if weight)


def min_max_scaled(probs: np.ndarray) -> np.ndarray:
    """Each row scaled so that its smallest value becomes 0 and its largest 1; a row of equal values becomes zeros."""
    low = probs.min(-1, keepdims=True)
    spread = probs.max(-1, keepdims=True) - low
    return np.divide(probs - low, spread, out=np.zeros_like(probs), where=spread > 0)


RULES = {
    "minmax": lambda log_probs: min_max_scaled(np.exp(log_probs)),  # the published competition project's rule
    "mean": np.exp,
    "log": lambda log_probs: log_probs,
}


def soft_vote(logits: Sequence[np.ndarray], rule: str = "minmax") -> np.ndarray:
    """Scores of several models' logits: min-max scaled probabilities summed, or the mean of probabilities (`mean`) or
    of log-probabilities (`log`).
    """
    return sum(RULES[rule](log_softmax(one)) for one in logits) / len(logits)


def soft_vote_log_probs(logits: Sequence[np.ndarray], rule: str) -> np.ndarray:
    """(N, C) logarithms of the probabilities that `as_probs` makes of a soft vote; that of zero is -inf."""
    with np.errstate(divide="ignore"):
        return np.log(as_probs(soft_vote(logits, rule), rule))


def as_probs(scores: np.ndarray, rule: str = "log") -> np.ndarray:
    """(N, C) probabilities in the order of the scores: rows of logits or log-probabilities (`log`) are exponentiated,
    sums of (scaled) probabilities divided by their total. All classes of a row of NaN are equally likely.
    """
    probs = np.exp(log_softmax(scores)) if rule == "log" else scores / scores.sum(-1, keepdims=True)
    return np.where(np.isnan(probs), 1 / probs.shape[-1], probs)
