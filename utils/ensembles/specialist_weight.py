"""How much specialists count, tuned on held-out people."""

import numpy as np

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.data.labels import Labelling
from utils.data.splits import FOLDS
from utils.ensembles.combining import corrected
from utils.evaluation.kept import HEAVIEST
from utils.evaluation.scores import exact_score

WEIGHTS = np.linspace(0, HEAVIEST, 41)  # 0 leaves them out


def tune_weight(
    logits: np.ndarray, own_logits: np.ndarray, labels: np.ndarray, whole: Labelling, own: Labelling, metric: str
) -> float:
    """The weight of `WEIGHTS` whose predictions score best by `metric`; among equals the smallest."""

    def scored(weight: float):
        answers = corrected(logits, own_logits, weight, whole, own)
        return exact_score(METRICS[metric], labels, answers, whole.num_classes)

    return float(max(WEIGHTS, key=lambda weight: (scored(weight), -weight)))


def cross_fitted_scores(
    logits: np.ndarray,
    own_logits: np.ndarray,
    labels: np.ndarray,
    persons: np.ndarray,
    whole: Labelling,
    own: Labelling,
    metric: str,
) -> np.ndarray:
    """(N, C) scores of the corrected model, each person's under a weight that was tuned on other people only.

    What they score is what a tuned weight is worth on new people; the tuned weight's own score flatters itself.
    """
    scores, people = np.empty(logits.shape), np.random.RandomState(0).permutation(np.unique(persons))
    if len(people) < 2:
        raise InputError("the weight of a specialist is tuned across people, and only one person is held out")
    for some in np.array_split(people, min(FOLDS, len(people))):  # scikit-learn's GroupKFold takes long to import
        fold = np.isin(persons, some)
        rest = ~fold
        weight = tune_weight(logits[rest], own_logits[rest], labels[rest], whole, own, metric)
        scores[fold] = corrected(logits[fold], own_logits[fold], weight, whole, own)
    return scores
