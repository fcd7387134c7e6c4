"""Two photographs of a group whose labels were exchanged, as when files are given each other's names.

Shapes: N photographs, V values, G groups, E pairs of photographs of a group with different labels.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from scipy.special import expit, logit

from utils.review.noise import ROUNDS, SEEN, SEEN_WRONG, TINY, Judged, share_of

HUGE = 700.0  # nats, whose exponential is still a number


def judge_exchanges(
    judged: Judged, given: np.ndarray, groups: Sequence[np.ndarray]
) -> tuple[Judged, list[tuple[float, int, int]]]:
    """Tell labels that are wrong by themselves from two labels of a group that were exchanged.

    Returns the labels judged anew, what is wrong by an exchange taken off, and for each group the likeliest exchange
    with its probability. How often a label is wrong by itself, and how often photographs of any two values are
    exchanged, at most once in a group, is fitted by expectation and maximisation.
    """
    one, other, group, kind, alike = _pairs(given, groups)
    if not len(one):
        return judged, []
    every, kinds = np.arange(len(given)), kind.max() + 1
    likelihoods = np.log(np.maximum(judged.probs, TINY))
    likelihoods -= likelihoods[every, given][:, None]  # (N, V) by having another value than the given one
    right = judged.posterior[every, given]
    evidence = _logit(1 - right) - _logit(judged.share)  # that a label is wrong, whatever the share of such labels
    share, shares = judged.share, np.full(kinds, SEEN_WRONG / SEEN / kinds)
    for _ in range(ROUNDS):
        odds = evidence + _logit(share)
        gains = likelihoods - np.logaddexp(0, odds)[:, None]
        exchange = shares[kind] / alike * np.exp(np.minimum(gains[one, given[other]] + gains[other, given[one]], HUGE))
        whole = 1 - shares.sum() + np.bincount(group, exchange, len(groups))
        sure = exchange / whole[group]
        moved = np.bincount(one, sure, len(given)) + np.bincount(other, sure, len(given))
        wrong = expit(odds) * (1 - np.minimum(moved, 1))
        share = share_of(wrong)
        shares = (np.bincount(kind, sure, kinds) + SEEN_WRONG / kinds) / (len(groups) + SEEN)
    posterior = judged.posterior * (wrong / np.maximum(1 - right, TINY))[:, None]
    posterior[every, given] = 1 - wrong
    order = np.lexsort([-sure, group])
    first = order[np.unique(group[order], return_index=True)[1]]
    swaps = [(float(sure[k]), int(one[k]), int(other[k])) for k in first]
    return replace(judged, posterior=posterior, share=share), swaps


def _logit(probability: np.ndarray) -> np.ndarray:
    return logit(np.clip(probability, 1e-15, 1 - 1e-15))


def _pairs(given: np.ndarray, groups: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
    """(E,) the two positions of each pair, its group, the number of its pair of values, and how many pairs of the
    group have these values.
    """
    values = {pair: k for k, pair in enumerate(combinations(range(given.max() + 1), 2))}
    rows = []
    for g, members in enumerate(groups):
        some = [(i, j) for i, j in combinations(members[np.argsort(given[members], kind="stable")], 2)]
        some = [(i, j, g, values[given[i], given[j]]) for i, j in some if given[i] != given[j]]
        kinds = [row[3] for row in some]
        rows += [(*row, kinds.count(row[3])) for row in some]
    return tuple(np.array(rows, int).reshape(-1, 5).T)
