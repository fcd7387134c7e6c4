"""Hard voting in whole numbers, so that a tie is a tie.

Shapes: F files, N rows, C classes. `answers` is (F, N) int64, the class id that each file gives each row; `weights` is
(F,) int64 from `whole_weights`.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from utils.base.errors import InputError
from utils.data.labels import Labelling

LABELLING = Labelling()


def whole_weights(weights: Sequence[float], files: int) -> np.ndarray:
    """(F,) int64 in the exact ratio of the decimal numbers given: 0.1, 0.2, 0.3 become 1, 2, 3 and 0.1 + 0.2 ties 0.3.

    Raises `InputError` for another count than `files`, a weight that is not above 0, and weights too far apart for
    their sum to be exact in 63 bits.
    """
    if len(weights) != files:
        raise InputError(f"{len(weights)} weights for {files} files: give one weight per file")
    exact = [Fraction(str(weight)) for weight in weights]
    if min(exact) <= 0:
        raise InputError(f"weight {min(weights)} is not above 0")
    unit = Fraction(math.gcd(*(w.numerator for w in exact)), math.lcm(*(w.denominator for w in exact)))
    whole = [int(weight / unit) for weight in exact]
    if sum(whole) >= 2**63:
        raise InputError(f"weights {min(weights)} and {max(weights)} are too far apart to be added exactly")
    return np.array(whole, np.int64)


def tally(answers: np.ndarray, weights: np.ndarray, num_classes: int) -> np.ndarray:
    """(N, C) int64: the weight each class gets in each row."""
    sums = np.zeros((answers.shape[1], num_classes), np.int64)
    rows = np.arange(answers.shape[1])
    for file_answers, weight in zip(answers, weights, strict=True):
        sums[rows, file_answers] += weight
    return sums


def class_votes(answers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) int64: the value of most weight in each row; among equals the one that the earliest file gives."""
    sums = tally(answers, weights, int(answers.max()) + 1)
    backing = np.take_along_axis(sums, answers.T, axis=1)  # (N, F): the weight behind each file's answer
    return answers[backing.argmax(1), np.arange(answers.shape[1])]  # argmax takes the first file of the largest


def attribute_votes(answers: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(N,) int64: mask, gender and age voted apart by the rule of `class_votes` and put together again.

    The class that results may be one that no file gives.
    """
    votes = {name: class_votes(values, weights) for name, values in LABELLING.decode(answers).items()}
    return LABELLING.encode(**votes)


def most_disputed(answers: np.ndarray, weights: np.ndarray, limit: int) -> np.ndarray:
    """Up to `limit` rows on which the files disagree, those with least weight behind their leading class first."""
    leading = tally(answers, weights, LABELLING.num_classes).max(1)
    order = np.argsort(leading, kind="stable")
    return order[leading[order] < weights.sum()][:limit]
