"""Several models' predictions put together: the age-corrected average, soft voting, weighted means.

Shapes: N photographs, C classes. `logits` are (N, C) float32; scores are (N, C) float64, of which the largest in each
row is the prediction (of equal ones the first).
"""

from collections.abc import Sequence

import numpy as np

from utils.data.labels import ALL_ATTRIBUTES, Labelling
from utils.evaluation.scores import log_softmax


def age_corrected(logits: np.ndarray, age_logits: np.ndarray, weight: float, labelling: Labelling) -> np.ndarray:
    """`log p(class) + weight * log p_age(age of class)`, a product of experts; `age_logits` are (N, 3)."""
    return log_softmax(logits) + weight * log_softmax(age_logits)[:, _age_of_class(labelling)]


def age_corrected_mean(logits: Sequence[np.ndarray], weight: float, labelling: Labelling) -> np.ndarray:
    """(N, 18) scores of a model, whose logits come first, corrected by the mean of some age specialists."""
    return age_corrected(logits[0], soft_vote(logits[1:], "log"), weight, labelling)


def class_log_probs(logits: np.ndarray, labelling: Labelling) -> np.ndarray:
    """(N, 18) log-probabilities of a model; an age specialist gives each class the one of its age."""
    of_class = slice(None) if labelling.attributes == ALL_ATTRIBUTES else _age_of_class(Labelling(ALL_ATTRIBUTES))
    return log_softmax(logits)[:, of_class]


def weighted_mean(log_probs: Sequence[np.ndarray], weights: Sequence[float]) -> np.ndarray:
    """(N, C) sum of `weights` times `log_probs`; those of weight 0 are left out, even if they are NaN."""
    return sum(weight * one for weight, one in zip(weights, log_probs, strict=True) if weight)


def _age_of_class(labelling: Labelling) -> np.ndarray:
    return labelling.decode(np.arange(labelling.num_classes))["age"]


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
