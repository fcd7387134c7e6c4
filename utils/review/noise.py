"""How probable it is that a label is wrong: what the label says against what the photographs say.

Each label, or statistic, is either an ordinary one or, with an unknown probability, a wrong one; both are fitted by
expectation and maximisation. What is said of a person's label is fitted on other people only.

Shapes: U units, V values. `features` (U, K) are log-odds, `persons` (U,) names.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import logistic
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression, LogisticRegression

from utils.data.splits import cross_folds

# What is believed before a look at the labels: as if one wrong label had been seen among 30. Of the labels of ten
# well-known test sets at least 3.3 % are wrong (Northcutt, Athalye, Mueller 2021).
SEEN, SEEN_WRONG = 30, 1
ROUNDS, SETTLED = 30, 1e-4  # of fitting, and the change of the share of wrong labels below which it ends


@dataclass(frozen=True)
class Judged:
    """What is thought of U labels.

    `probs` (U, V) are those of the true value by the photographs alone, `posterior` (U, V) by the given label as well.
    `share` (U,) is the share of wrong labels among those that each was judged by.
    """

    probs: np.ndarray
    posterior: np.ndarray
    share: np.ndarray


def share_of(wrong: np.ndarray) -> float:
    """The share of wrong labels, of the probabilities (U,) that each is wrong."""
    return float((wrong.sum() + SEEN_WRONG) / (len(wrong) + SEEN))


def judge_values(features: np.ndarray, given: np.ndarray, persons: np.ndarray, num_values: int) -> Judged:
    """Judge (U,) given values by logistic regression under label noise (Bootkrajang and Kabán 2012): a label is wrong
    with a probability that is the same for all, and then any other value is as likely.

    The regression gives the log-odds a temperature, as a model may be too sure or not sure enough, and a bias.
    """
    probs, posterior = np.zeros((2, len(given), num_values))
    share = np.zeros(len(given))
    for rest, own in cross_folds(given, persons):
        values = np.unique(given[rest])
        if len(values) == 1:  # nothing to tell apart
            probs[own, values[0]] = posterior[own, given[own]] = 1
            continue
        regression, share[own] = _fit_values(features[rest], given[rest], values, num_values)
        probs[np.ix_(own, values)] = regression.predict_proba(features[own])
        posterior[own] = _posterior(probs[own], given[own], share[own][0])
    return Judged(probs, posterior, share)


def _fit_values(
    features: np.ndarray, given: np.ndarray, values: np.ndarray, num_values: int
) -> tuple[LogisticRegression, float]:
    probs, believed, share = np.zeros((len(given), num_values)), np.eye(num_values)[given], 1.0
    every = np.repeat(features, len(values), axis=0), np.tile(values, len(given))
    regression = LogisticRegression(max_iter=1000, warm_start=True)
    for _ in range(ROUNDS):
        regression.fit(*every, sample_weight=believed[:, values].ravel())
        probs[:, values] = regression.predict_proba(features)
        before, share = share, share_of(1 - believed[np.arange(len(given)), given])
        if abs(share - before) < SETTLED:
            break
        believed = _posterior(probs, given, share)
    return regression, share


def _posterior(probs: np.ndarray, given: np.ndarray, share: float) -> np.ndarray:
    """(U, V) probabilities of the true value, of those by the photographs and the given one."""
    num_values = probs.shape[1]
    noise = np.full((num_values, num_values), share / (num_values - 1))
    np.fill_diagonal(noise, 1 - share)
    joint = probs * noise[given]
    return joint / joint.sum(-1, keepdims=True)


@dataclass(frozen=True)
class JudgedNumbers(Judged):
    """As `Judged`, of numbers in V ranges: `looks` (U,) is the number that the photographs look like, and
    `suggested` (U, V) the one within each range, 0 where nobody is.
    """

    looks: np.ndarray
    suggested: np.ndarray


def judge_numbers(
    features: np.ndarray, numbers: np.ndarray, ranges: np.ndarray, persons: np.ndarray, num_ranges: int
) -> JudgedNumbers:
    """Judge (U,) stated numbers, which lie in the (U,) `ranges`, by what the photographs read.

    The reading is the linear combination of features that goes with the number. Readings of right labels scatter
    around a rising curve, as of a measuring instrument whose error is logistic ("classical calibration", Osborne
    1991); a wrong label tells nothing of the reading. So a number beside a limit is as good as one beyond it.
    """
    shape = len(numbers), num_ranges
    probs, posterior, suggested = np.zeros((3, *shape))
    share, looks = np.zeros(len(numbers)), np.zeros(len(numbers))
    for rest, own in cross_folds(ranges, persons):
        readings = LinearRegression().fit(features[rest], numbers[rest]).predict(features)
        curve, scale, share[own] = _fit_numbers(readings[rest], numbers[rest])
        density = logistic.pdf(readings[own, None], curve.predict(numbers[rest]), scale)  # (own, rest)
        in_range = np.eye(num_ranges)[ranges[rest]]
        mass, years = density @ in_range, density @ (in_range * numbers[rest, None])
        probs[own], looks[own] = mass / mass.sum(-1, keepdims=True), years.sum(-1) / mass.sum(-1)
        suggested[own] = years / np.maximum(mass, np.finfo(float).tiny)
        right = logistic.pdf(readings[own], curve.predict(numbers[own]), scale)
        wrong = _odds_to_probability(share[own][0], density.mean(-1), right)
        posterior[own] = wrong[:, None] * probs[own]
        posterior[own, ranges[own]] += 1 - wrong
    return JudgedNumbers(probs, posterior, share, looks, suggested)


def _fit_numbers(readings: np.ndarray, numbers: np.ndarray) -> tuple[IsotonicRegression, float, float]:
    wrong, share = np.zeros(len(numbers)), 1.0
    for _ in range(ROUNDS):
        curve = IsotonicRegression(out_of_bounds="clip").fit(numbers, readings, sample_weight=1 - wrong)
        expected = curve.predict(numbers)
        spread = np.sqrt(np.average((readings - expected) ** 2, weights=1 - wrong))
        scale = max(spread * np.sqrt(3) / np.pi, 1e-9)  # of the logistic distribution with that deviation
        before, share = share, share_of(wrong)
        if abs(share - before) < SETTLED:
            break
        density = logistic.pdf(readings[:, None], expected, scale)
        wrong = _odds_to_probability(share, density.mean(-1), logistic.pdf(readings, expected, scale))
    return curve, scale, share


def judge_outliers(statistic: np.ndarray) -> np.ndarray:
    """(U,) the probability that each is no ordinary one, of a statistic that is large for those.

    Two groups (Efron 2004): ordinary ones are logistic with the median and the quartiles that are there, the others
    lie anywhere above the median.
    """
    middle = np.median(statistic)
    scale = np.median(np.abs(statistic - middle)) / np.log(3)
    highest = statistic.max()
    if scale == 0 or highest == middle:
        return np.zeros(len(statistic))
    ordinary = logistic.pdf(statistic, middle, scale)
    other = np.where(statistic > middle, 1 / (highest - middle), 0)
    found, share = np.zeros(len(statistic)), 1.0
    for _ in range(ROUNDS):
        before, share = share, share_of(found)
        if abs(share - before) < SETTLED:
            break
        found = _odds_to_probability(share, other, ordinary)
    return found


def _odds_to_probability(share: float, other: np.ndarray, ordinary: np.ndarray) -> np.ndarray:
    """The probability of being one of the `share` whose density is `other`, and none of the ordinary ones."""
    return share * other / (share * other + (1 - share) * ordinary)
