"""How probable it is that a label is wrong: what the label says against what the photographs say.

Each label, or statistic, is either an ordinary one or, with an unknown probability, a wrong one, and both are fitted
by maximum likelihood. What photographs say of a person is fitted on other people only, and the share of wrong labels
is one for all.

Shapes: U units, V values. `features` (U, K) are log-odds, `persons` (U,) names.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logit, softmax
from scipy.stats import logistic
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LinearRegression

from utils.data.splits import cross_folds

# What is believed before a look at the labels: as if one wrong label had been seen among 30. Of the labels of ten
# well-known test sets at least 3.3 % are wrong (Northcutt, Athalye, Mueller 2021).
SEEN, SEEN_WRONG = 30, 1
ROUNDS, SETTLED = 100, 1e-5  # of expectation and maximisation, and the change of a share below which it ends
TINY = np.finfo(float).tiny


@dataclass(frozen=True)
class Judged:
    """What is thought of U labels.

    `probs` (U, V) are those of the true value by the photographs alone, `posterior` (U, V) by the given label as well.
    `share` is that of wrong labels among all: one of a part of the people would be the smaller, the more of the labels
    in the other part are wrong, and these would then come behind.
    """

    probs: np.ndarray
    posterior: np.ndarray
    share: float


def share_of(wrong: np.ndarray) -> float:
    """The share of wrong labels, of the probabilities (U,) that each is wrong."""
    return float((wrong.sum() + SEEN_WRONG) / (len(wrong) + SEEN))


def judge_values(features: np.ndarray, given: np.ndarray, persons: np.ndarray, num_values: int) -> Judged:
    """Judge (U,) given values by logistic regression under label noise (Bootkrajang and Kabán 2012): a label is wrong
    with a probability that is the same for all, and then any other value is as likely.

    `features` (U, V - 1) are log-odds of each value but the first against the first. The regression gives them a
    temperature, as a model may be too sure or not sure enough, and a bias.
    """
    probs, shares = np.zeros((len(given), num_values)), []
    features = np.column_stack([np.ones(len(given)), features])
    for rest, own in cross_folds(given, persons):
        values = np.unique(given[rest])
        if len(values) == 1:  # nothing to tell apart
            probs[own, given[own]] = 1
            continue
        weights, share = _fit_values(features[rest], given[rest], num_values)
        shares.append(share)
        probs[own] = softmax(features[own] @ weights, axis=-1)
    share = float(np.mean(shares or SEEN_WRONG / SEEN))
    return Judged(probs, _posterior(probs, given, share), share)


def _fit_values(features: np.ndarray, given: np.ndarray, num_values: int) -> tuple[np.ndarray, float]:
    """The (V, V) weights and the share of wrong labels that are the most probable after a look at the labels.

    Beforehand models are believed to be as sure as they say: weights of log-odds are normal about 1, or about 0 for
    those of other values, with a deviation of 1.
    """
    rows, believed_weights = np.arange(len(given)), np.eye(num_values)
    believed_weights[0, 0] = 0  # the first row are biases

    def loss(point: np.ndarray) -> tuple[float, np.ndarray]:
        weights, share = point[:-1].reshape(num_values, num_values), expit(point[-1])
        probs = softmax(features @ weights, axis=-1)
        each_other = share / (num_values - 1)
        likelihood = each_other + probs[rows, given] * (1 - share - each_other)
        believed = _posterior(probs, given, share)
        off = (weights - believed_weights) * (np.arange(num_values) > 0)[:, None]
        prior = SEEN_WRONG * np.log(share) + (SEEN - SEEN_WRONG) * np.log1p(-share) - (off**2).sum() / 2
        of_weights = features.T @ (probs - believed) + off
        of_share = (len(given) + SEEN) * share - (1 - believed[rows, given]).sum() - SEEN_WRONG
        return -np.log(likelihood).sum() - prior, np.append(of_weights.ravel(), of_share)

    start = np.append(believed_weights.ravel(), logit(SEEN_WRONG / SEEN))
    found = minimize(loss, start, jac=True, method="L-BFGS-B").x
    return found[:-1].reshape(num_values, num_values), float(expit(found[-1]))


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

    The reading is the linear combination of features that goes with the number. Readings scatter around a rising
    curve, as of a measuring instrument whose error is logistic ("classical calibration", Osborne 1991), or they tell
    nothing of the number. So a number beside a limit is as good as one beyond it. A reading that tells nothing comes
    of a wrong label or of a face that the models cannot read. As nothing tells which, no more labels are taken for
    wrong than was believed beforehand.
    """
    shape = len(numbers), num_ranges
    probs, suggested = np.zeros((2, *shape))
    looks, other, right = np.zeros((3, len(numbers)))
    shares = []
    for rest, own in cross_folds(ranges, persons):
        readings = LinearRegression().fit(features[rest], numbers[rest]).predict(features)
        curve, scale, share = _fit_numbers(readings[rest], numbers[rest])
        shares.append(share)
        values, first, counts = np.unique(numbers[rest], return_index=True, return_counts=True)
        density = counts * logistic.pdf(readings[own, None], curve.predict(values), scale)  # (own, values)
        in_range = np.eye(num_ranges)[ranges[rest][first]]
        mass, years = density @ in_range, density @ (in_range * values[:, None])
        probs[own], looks[own] = mass / mass.sum(-1, keepdims=True), years.sum(-1) / mass.sum(-1)
        suggested[own] = years / np.maximum(mass, TINY)
        other[own] = density.sum(-1) / counts.sum()
        right[own] = logistic.pdf(readings[own], curve.predict(numbers[own]), scale)
    unrelated = float(np.mean(shares))
    share = min(unrelated, SEEN_WRONG / SEEN)
    wrong = _odds_to_probability(unrelated, other, right) * share / unrelated
    posterior = wrong[:, None] * probs
    posterior[np.arange(len(numbers)), ranges] += 1 - wrong
    return JudgedNumbers(probs, posterior, share, looks, suggested)


def _fit_numbers(readings: np.ndarray, numbers: np.ndarray) -> tuple[IsotonicRegression, float, float]:
    """The curve of readings, the scale of their error, and the share of readings that tell nothing of the number."""
    values, value_of, counts = np.unique(numbers, return_inverse=True, return_counts=True)
    right, share = np.ones(len(numbers)), 1.0
    for _ in range(ROUNDS):
        curve = IsotonicRegression(out_of_bounds="clip").fit(numbers, readings, sample_weight=right)
        expected = curve.predict(values)
        spread = np.sqrt(np.average((readings - expected[value_of]) ** 2, weights=right))
        scale = max(spread * np.sqrt(3) / np.pi, 1e-9)  # of the logistic distribution with that deviation
        before, share = share, share_of(1 - right)
        if abs(share - before) < SETTLED:
            break
        density = logistic.pdf(readings[:, None], expected, scale)
        own = density[np.arange(len(numbers)), value_of]
        right = 1 - _odds_to_probability(share, density @ counts / len(numbers), own)
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
