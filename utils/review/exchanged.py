"""Two photographs of a group whose labels were exchanged, as when files are given each other's names.

Shapes: N photographs, V values, G groups, P pairs of values.
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from utils.review.noise import ROUNDS, SEEN, SEEN_WRONG, Judged

TINY, HUGE = np.finfo(float).tiny, 700.0  # the latter a logarithm


def exchanged(judged: Judged, given: np.ndarray, groups: Sequence[np.ndarray]) -> list[tuple[float, int, int]]:
    """For each group the two photographs that were exchanged most probably, and the probability of it; groups whose
    photographs all have the same value are left out.

    Either all labels of a group are right, or one is wrong, or two of different values were exchanged. How often
    photographs of two values are exchanged is fitted for each two by expectation and maximisation.
    """
    every = np.arange(len(given))
    gains = np.log(np.maximum(judged.probs, TINY))
    gains -= gains[every, given][:, None]  # (N, V) of log-likelihood, by having another value
    right = judged.posterior[every, given]
    odds_wrong = (1 - right) / np.maximum(right, TINY)
    values = list(combinations(range(gains.shape[1]), 2))
    likelihood, highest = np.zeros((2, len(groups), len(values)))  # (G, P) of the mean exchange, and of the likeliest
    pairs = np.zeros((len(groups), len(values), 2), int)
    for g, members in enumerate(groups):
        for p, (low, high) in enumerate(values):
            ones, others = (members[given[members] == value] for value in (low, high))
            if len(ones) and len(others):
                each = np.exp(np.minimum(gains[ones, high][:, None] + gains[others, low], HUGE))
                one, other = np.unravel_index(each.argmax(), each.shape)
                likelihood[g, p], highest[g, p] = each.mean(), each.max() / each.size
                pairs[g, p] = ones[one], others[other]
    otherwise = np.array([1 + odds_wrong[members].sum() for members in groups])
    shares = np.full(len(values), SEEN_WRONG / SEEN / len(values))
    for _ in range(ROUNDS):
        whole = likelihood @ shares + (1 - shares.sum()) * otherwise
        posterior = shares * likelihood / whole[:, None]
        shares = (posterior.sum(0) + SEEN_WRONG / len(values)) / (len(groups) + SEEN)
    whole = likelihood @ shares + (1 - shares.sum()) * otherwise
    sure = shares * highest / whole[:, None]
    best = sure.argmax(-1)
    return [(float(sure[g, p]), *map(int, pairs[g, p])) for g, p in enumerate(best) if highest[g, p] > 0]
