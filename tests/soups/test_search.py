"""The early-rejecting search decides as the plain procedure does, and looks at as little as it can."""

from fractions import Fraction

import numpy as np
import pytest

from utils.base.metrics import METRICS
from utils.evaluation.scores import exact_score
from utils.soups.search import Outcome, fewest, greedy_soup, hardest_first, score_above


class Table:
    """Random logits of every set of ingredients: correlated, so that gains, losses and ties all occur."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.count, self.num_classes = int(self.rng.integers(2, 6)), int(self.rng.integers(2, 5))
        self.labels = self.rng.integers(0, self.num_classes, int(self.rng.integers(3, 16)))
        self.skill, self.known = self.rng.random(), {}

    def logits(self, members: list[int]) -> np.ndarray:
        """One class is sure, by 1 or 2 for all photographs: so there are few losses, and ties of their sums."""
        key = frozenset(members)
        if key not in self.known:
            guesses = self.rng.integers(0, self.num_classes, len(self.labels))
            right = self.rng.random(len(self.labels)) < self.skill
            preds = np.where(right, self.labels, guesses)
            self.known[key] = self.rng.integers(1, 3) * np.eye(self.num_classes, dtype=np.float32)[preds]
        return self.known[key]

    def score(self, metric, members: list[int]) -> Fraction:
        """On every photograph at once."""
        return exact_score(metric, self.labels, self.logits(members), self.num_classes)


def brute_force(table: Table, metric, tie_wins: bool = False) -> list[int]:
    """The published procedure in its shortest form: every candidate is scored on every photograph."""

    def score(members):
        return table.score(metric, members)

    order = sorted(range(table.count), key=lambda k: (-score([k]), k))
    members, best = order[:1], score(order[:1])
    for k in order[1:]:
        reached = score([*members, k])
        if reached > best or (tie_wins and reached == best):
            members, best = [*members, k], reached
    return members


def early(table: Table, name: str, batch_size: int, batches: int) -> tuple[list[int], list[Outcome], list[int]]:
    outcomes, to_beat = [], []

    def look(members, best):
        order = table.rng.permutation(len(table.labels))
        outcome = score_above(
            best, table.labels, table.num_classes, METRICS[name], order,
            lambda some: table.logits(members)[some], batch_size, batches,
        )  # fmt: skip
        outcomes.append(outcome)
        to_beat.append(len(table.labels) - int(best * len(table.labels)))
        return outcome.score

    own = [table.score(METRICS[name], [k]) for k in range(table.count)]
    steps = list(greedy_soup(range(table.count), own, look))
    assert sorted(step.candidate for step in steps) == list(range(table.count))
    assert max(step.score for step in steps if step.accepted) >= max(own)  # never below the best single
    return [step.candidate for step in steps if step.accepted], outcomes, to_beat


@pytest.mark.parametrize("name", METRICS)
def test_tables_are_decided_as_by_brute_force_ties_included(name):
    accepted = ties = 0
    for seed in range(500):  # ten thousand of them, over folds: test_folded_search.py
        table = Table(seed)
        expected = brute_force(table, METRICS[name])
        assert early(table, name, 1 + seed % 4, 1 + seed % 3)[0] == expected, seed
        accepted += len(expected) > 1
        ties += brute_force(table, METRICS[name], tie_wins=True) != expected
    assert accepted > 50  # the tables hold gains
    assert ties > 50  # and ties that a weak comparison would take for gains


def test_one_by_one_no_rejection_by_accuracy_looks_further_than_the_deciding_error():
    for seed in range(300):
        table = Table(seed)
        _, outcomes, to_beat = early(table, "accuracy", 1, 1)
        for outcome, errors in zip(outcomes, to_beat, strict=True):
            if outcome.score is None:
                assert outcome.seen - outcome.correct == errors
        assert sum(one.seen for one in outcomes) >= fewest(outcomes, to_beat)


def test_with_the_errors_first_a_rejection_looks_at_as_many_photographs_as_the_best_has_errors():
    labels, preds = np.zeros(10, int), np.array([0, 1, 0, 1, 1, 0, 0, 0, 0, 0])
    order = np.argsort(preds == labels, kind="stable")
    outcome = score_above(Fraction(8, 10), labels, 2, METRICS["accuracy"], order, preds.__getitem__, 1)
    assert outcome == Outcome(None, 2, 0)
    assert fewest([outcome], [2]) == 2


def test_a_candidate_is_dropped_by_macro_f1_exactly_when_all_remaining_right_would_not_do():
    labels, preds = np.array([0, 0, 0, 1, 1, 1]), np.array([1, 0, 0, 1, 1, 1])
    order, metric = np.arange(6), METRICS["macro_f1"]
    whole = exact_score(metric, labels, preds, 2)  # the first is wrong, all others are right
    assert score_above(whole, labels, 2, metric, order, preds.__getitem__, 1) == Outcome(None, 1, 0)
    below = whole - Fraction(1, 10**9)
    assert score_above(below, labels, 2, metric, order, preds.__getitem__, 1) == Outcome(whole, 6, 5)


def test_a_candidate_is_dropped_by_log_loss_exactly_when_no_further_loss_would_not_do():
    labels, metric = np.array([0, 0, 0, 0]), METRICS["log_loss"]
    logits = np.log([[0.25, 0.75], [0.5, 0.5], [1 - 1e-15, 1e-15], [1 - 1e-15, 1e-15]])  # log 4 and log 2 are lost
    whole = exact_score(metric, labels, logits, 2)
    assert float(whole) == pytest.approx(-np.log(8) / 4)
    assert score_above(whole, labels, 2, metric, np.arange(4), logits.__getitem__, 1) == Outcome(None, 2, 1)
    below = whole - Fraction(1, 10**12)
    assert score_above(below, labels, 2, metric, np.arange(4), logits.__getitem__, 1) == Outcome(whole, 4, 3)


@pytest.mark.parametrize("name", METRICS)
def test_a_score_depends_neither_on_the_order_nor_on_the_batches(name):
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 18, 300), rng.normal(0, 5, (300, 18)).astype(np.float32)
    whole = exact_score(METRICS[name], labels, logits, 18)
    for batch_size in (1, 7, 64):
        order = rng.permutation(300)
        outcome = score_above(None, labels, 18, METRICS[name], order, logits.__getitem__, batch_size, 2)
        assert outcome.score == whole


def test_without_a_score_to_beat_all_is_looked_at():
    labels, preds = np.array([0, 1, 1]), np.array([1, 0, 0])
    outcome = score_above(None, labels, 2, METRICS["accuracy"], np.arange(3), preds.__getitem__, 2)
    assert outcome == Outcome(Fraction(0), 3, 0)


def test_the_hardest_come_first():
    logits = np.array([[5.0, 0, 0], [0, 1, 0], [0.4, 0.5, 0], [0, 0, 9]], np.float32)
    labels = np.array([0, 1, 0, 1])  # sure, right, nearly right, wrong by far
    assert hardest_first(logits, labels).tolist() == [3, 2, 1, 0]


def test_an_equal_score_is_no_gain():
    steps = list(greedy_soup("ab", [Fraction(1, 2), Fraction(1, 3)], lambda members, best: Fraction(1, 2)))
    assert [step.accepted for step in steps] == [True, False]
