"""The pooled search over folds decides as the plain procedure that scores every candidate on every fold in full."""

from fractions import Fraction

import numpy as np
import pytest

from utils.base.metrics import METRICS
from utils.evaluation.scores import count
from utils.soups.search import fold_after_fold, greedy_soup, hardest_first, score_above

TABLES = [range(500), pytest.param(range(500, 2_500), marks=pytest.mark.slow)]  # of each metric: 10,000 in all


class Folds:
    """Small whole numbers as the logits of M recipes on the people of K folds; those of a set of recipes are their
    mean in each fold, and its predictions the largest, so that gains, losses and ties all occur.
    """

    def __init__(self, seed: int):
        rng = np.random.default_rng(seed)
        self.recipes, folds, self.num_classes = (int(rng.integers(2, high)) for high in (6, 5, 5))
        sizes = rng.integers(1, 5, folds)
        self.fold_of = np.repeat(np.arange(folds), sizes)
        self.labels = rng.integers(0, self.num_classes, len(self.fold_of))
        skill = rng.integers(0, 3) * (np.arange(self.num_classes) == self.labels[:, None])
        self.logits = rng.integers(0, 4, (self.recipes, len(self.labels), self.num_classes)) + skill
        self.rng = rng

    def answers(self, members: list[int], positions: np.ndarray) -> np.ndarray:
        """What the models of each fold say to their own people at these positions, by (M, C) logits."""
        answers = np.empty((len(positions), self.num_classes), np.float32)
        for fold in np.unique(self.fold_of[positions]):
            own = self.fold_of[positions] == fold
            answers[own] = self.logits[members][:, positions[own]].mean(0)
        return answers

    def score(self, members: list[int], metric) -> Fraction:
        """That of everybody: each fold is counted by itself, and the counts are added."""
        confusion, lost = 0, 0
        for fold in np.unique(self.fold_of):
            rows = np.flatnonzero(self.fold_of == fold)
            more = count(metric, self.labels[rows], self.answers(members, rows), self.num_classes)
            confusion, lost = confusion + more[0], lost + more[1]
        return metric(confusion, lost)


def brute_force(table: Folds, metric, own: list[Fraction], tie_wins: bool = False) -> tuple[list[int], Fraction]:
    """The published procedure: every candidate is scored on every fold in full."""
    order = sorted(range(table.recipes), key=lambda k: (-own[k], k))
    members, best = order[:1], own[order[0]]
    for k in order[1:]:
        reached = table.score([*members, k], metric)
        if reached > best or (tie_wins and reached == best):
            members, best = [*members, k], reached
    return members, best


def early(table: Folds, metric, own: list[Fraction], seed: int) -> tuple[list[int], Fraction, int]:
    """The search as it is done: members, score, and how many candidates were dropped before all was seen."""
    dropped, everybody = 0, np.arange(len(table.labels))

    def look(members, best):
        nonlocal dropped
        hardest = hardest_first(table.answers(members[:-1], everybody), table.labels)
        order = fold_after_fold(hardest, table.fold_of, block=1 + seed % 5)
        outcome = score_above(
            best, table.labels, table.num_classes, metric, order,
            lambda some: table.answers(members, some), 1 + seed % 4, 1 + seed % 3,
        )  # fmt: skip
        dropped += outcome.seen < len(order)
        return outcome.score

    steps = [step for step in greedy_soup(range(table.recipes), own, look) if step.accepted]
    return [step.candidate for step in steps], steps[-1].score, dropped


@pytest.mark.parametrize("seeds", TABLES, ids=lambda seeds: f"from {seeds[0]}")
@pytest.mark.parametrize("name", METRICS)
def test_pooled_greedy_with_early_rejection_is_brute_force_ties_included(name, seeds):
    metric = METRICS[name]
    gains = dropped = ties = 0
    for seed in seeds:
        table = Folds(seed)
        own = [table.score([k], metric) for k in range(table.recipes)]
        expected = brute_force(table, metric, own)
        *reached, fewer = early(table, metric, own, seed)
        assert tuple(reached) == expected, seed
        gains += len(expected[0]) > 1
        dropped += fewer > 0
        ties += brute_force(table, metric, own, tie_wins=True)[0] != expected[0]
    assert gains > len(seeds) // 10  # the tables hold gains,
    assert dropped > len(seeds) // 10  # losses that are seen early,
    assert ties > len(seeds) // 20 or metric.is_loss  # and ties that a weak comparison would take for gains


def test_the_mean_of_the_folds_scores_would_decide_otherwise():
    """So it matters that counts are pooled: a fold of one person has no more say than this person."""
    metric, others = METRICS["accuracy"], 0
    for seed in range(200):
        table = Folds(seed)
        folds = [np.flatnonzero(table.fold_of == fold) for fold in np.unique(table.fold_of)]

        def mean_of_folds(members, table=table, folds=folds):
            return sum(
                metric(*count(metric, table.labels[rows], table.answers(members, rows), table.num_classes))
                for rows in folds
            ) / len(folds)

        pooled = [table.score([k], metric) for k in range(table.recipes)]
        each = [mean_of_folds([k]) for k in range(table.recipes)]
        others += int(np.argmax(pooled)) != int(np.argmax(each))
    assert others > 10


@pytest.mark.parametrize("seed", range(50))
def test_fold_after_fold_keeps_everybody_and_each_block(seed):
    rng = np.random.default_rng(seed)
    size, folds, block = (int(rng.integers(low, high)) for low, high in ((1, 60), (1, 6), (0, 20)))
    order, fold_of = rng.permutation(size), rng.integers(0, folds, size)
    found, block = fold_after_fold(order, fold_of, block), max(1, block)
    assert sorted(found.tolist()) == list(range(size))
    for start in range(0, size, block):
        before, after = order[start : start + block], found[start : start + block]
        assert sorted(before.tolist()) == sorted(after.tolist())
        assert (np.diff(fold_of[after]) >= 0).all()  # one fold after the other,
        for fold in range(folds):  # and within a fold as before
            assert after[fold_of[after] == fold].tolist() == before[fold_of[before] == fold].tolist()
    assert fold_after_fold(order, np.zeros(size, int), block).tolist() == order.tolist()
