"""Hard voting in whole numbers, so that a tie is a tie.

Shapes: F files, N rows, C classes. `answers` is (F, N) int64, the class id that each file gives each row; `weights` is
(F,) int64 from `whole_weights`.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from utils.base.errors import InputError
from utils.data import competition
from utils.data.labels import Labelling, plain
from utils.data.origins import origin_of, told_classes
from utils.data.submissions import Submission


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


def classes_of_vote(files: Sequence[Submission], mode: str) -> Labelling:
    """What the answers of all files mean: what their records tell, else the competition's classes, if they can be.

    A vote on classes is right whatever they mean; numbers then stand for them. Raises `InputError` for files of
    different classes, and where attributes are to be voted on and there are none.
    """
    told = told_classes([one.path for one in files])
    known, source = told or (competition.labelling(), None)
    largest = max(int(one.answers.max()) for one in files)
    odd = ""
    if known.attributes == competition.labelling().attributes:
        untold = (one for one in files if not origin_of(one.path))
        odd = next((f"{one.path} {words}" for one in untold if (words := competition.oddity(one.answers))), "")
    if mode == "attribute":
        if len(known.attributes) < 2:
            odd = f"{source} is of {known.num_classes} classes that are made of no attributes"
        if odd:
            raise InputError(f"{odd}: vote with --mode class if it belongs here, else leave it out")
    elif not told and (odd or largest >= known.num_classes):
        return plain(tuple(map(str, range(largest + 1))))
    return known


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


def attribute_votes(answers: np.ndarray, weights: np.ndarray, labelling: Labelling) -> np.ndarray:
    """(N,) int64: the attributes voted apart by the rule of `class_votes` and put together again.

    The class that results may be one that no file gives.
    """
    votes = {name: class_votes(values, weights) for name, values in labelling.decode(answers).items()}
    return labelling.encode(**votes)


def repeated(files: Sequence[Submission], answers: np.ndarray) -> dict[int, int]:
    """For each file that gives the answers of an earlier one everywhere, and by the same models as their records
    tell, the number of that one: a soup and what an age specialist of weight 0 makes of it.
    """
    origins, found = [origin_of(one.path) for one in files], {}
    for k, origin in enumerate(origins):
        same = [j for j in range(k) if origin and origin.models and origins[j] and origins[j].models == origin.models]
        equal = [j for j in same if (answers[j] == answers[k]).all()]
        found |= {k: equal[0]} if equal else {}
    return found


def most_disputed(answers: np.ndarray, weights: np.ndarray, limit: int) -> np.ndarray:
    """Up to `limit` rows on which the files disagree, those with least weight behind their leading class first."""
    leading = tally(answers, weights, int(answers.max()) + 1).max(1)
    order = np.argsort(leading, kind="stable")
    return order[leading[order] < weights.sum()][:limit]
