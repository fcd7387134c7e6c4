"""Two photographs of a group whose labels were exchanged, as when files are given each other's names.

Shapes: N photographs, V values, G groups, E pairs of photographs of a group with different labels.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from utils.review.noise import ROUNDS, SEEN, SEEN_WRONG, Judged, share_of

TINY, HUGE = np.finfo(float).tiny, 700.0  # the latter a logarithm


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
    right = np.maximum(judged.posterior[every, given], TINY)
    odds = (1 - right) / right
    single, share, shares = judged.share, judged.share, np.full(kinds, SEEN_WRONG / SEEN / kinds)
    for _ in range(ROUNDS):
        wrong = 1 / (1 + (1 - share) / np.maximum(share, TINY) / np.maximum(odds * (1 - single) / single, TINY))
        gains = likelihoods + np.log1p(-wrong)[:, None]
        exchange = shares[kind] / alike * np.exp(np.minimum(gains[one, given[other]] + gains[other, given[one]], HUGE))
        whole = 1 - shares.sum() + np.bincount(group, exchange, len(groups))
        sure = exchange / whole[group]
        moved = np.bincount(one, sure, len(given)) + np.bincount(other, sure, len(given))
        wrong *= 1 - np.minimum(moved, 1)
        share = np.full(len(given), share_of(wrong))
        shares = (np.bincount(kind, sure, kinds) + SEEN_WRONG / kinds) / (len(groups) + SEEN)
    posterior = judged.posterior * (wrong / np.maximum(1 - right, TINY))[:, None]
    posterior[every, given] = 1 - wrong
    best = [np.flatnonzero(group == g) for g in np.unique(group)]
    found = [some[sure[some].argmax()] for some in best]
    swaps = [(float(sure[k]), int(one[k]), int(other[k])) for k in found]
    return replace(judged, posterior=posterior, share=share), swaps


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
