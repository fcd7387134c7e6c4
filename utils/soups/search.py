"""Searches over candidate soups that stop looking at one as soon as it can no longer win, and stay exact.

Nothing here knows of models: predictions come from a function, so that every law can be tested on tables.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from utils.evaluation.scores import confusion_matrix

Metric = Callable[[np.ndarray], Fraction]


@dataclass(frozen=True)
class Outcome:
    """What came of a score_above: `score` is None when the candidate was dropped before all photographs were seen.

    `seen` counts the photographs looked at and `correct` those of them that were right.
    """

    score: Fraction | None
    seen: int
    correct: int


def score_above(
    best: Fraction | None,
    labels: np.ndarray,
    num_classes: int,
    metric: Metric,
    order: np.ndarray,
    predict: Callable[[np.ndarray], np.ndarray],
    batch_size: int,
    batches: int = 1,
) -> Outcome:
    """Whether a candidate scores strictly above `best`, looking at no more photographs than that takes.

    `labels` (N,) are class ids below `num_classes`; `order` (N,) says which photograph is looked at when;
    `predict(positions)` gives their class ids and is asked for `batches` times `batch_size` at once. After each batch
    the candidate is completed as if all that remain were right, which maximises accuracy and every class's F1 at once
    (no false positive is added, and no class that is only predicted): a bound that could be reached. At or below
    `best` the candidate is dropped, and a full evaluation would have rejected it too. None as `best` asks for the
    score.
    """
    confusion = np.zeros((num_classes, num_classes), np.int64)
    remaining = np.bincount(labels[order], minlength=num_classes)
    seen = 0

    def lost() -> bool:
        return best is not None and metric(confusion + np.diag(remaining)) <= best

    if lost():  # nothing beats a perfect score
        return Outcome(None, 0, 0)
    for start in range(0, len(order), batch_size * batches):
        ahead = order[start : start + batch_size * batches]
        preds = predict(ahead)
        for k in range(0, len(ahead), batch_size):
            truth = labels[ahead[k : k + batch_size]]
            confusion += confusion_matrix(truth, preds[k : k + batch_size], num_classes)
            remaining -= np.bincount(truth, minlength=num_classes)
            seen += len(truth)
            if lost():
                return Outcome(None, seen, int(confusion.trace()))
    return Outcome(metric(confusion), seen, int(confusion.trace()))


def hardest_first(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) positions in the order in which to look at a candidate whose (N, C) logits are expected to be like these.

    They are sorted by margin, the true class's logit less the largest other one: first what is wrong by far, then what
    is nearly right, last what is right beyond doubt. Equal ones keep their order.
    """
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return np.argsort(logits[rows, labels] - others.max(-1), kind="stable")


def fewest(outcomes: Sequence[Outcome], errors_to_beat: Sequence[int]) -> int:
    """The photographs that any exact procedure looks at for these decisions by accuracy.

    A candidate is accepted only when all were seen, and rejected only when as many errors as the best has were.
    """
    return sum(
        one.seen if one.score is not None else errors for one, errors in zip(outcomes, errors_to_beat, strict=True)
    )


@dataclass(frozen=True)
class Step:
    """One decision of a search: `score` is that of the candidate soup, None when it was dropped early."""

    candidate: Any
    score: Fraction | None
    accepted: bool


def greedy_soup(
    ingredients: Sequence, scores: Sequence[Fraction], score_above: Callable[[list, Fraction], Fraction | None]
) -> Iterator[Step]:
    """The published greedy soup (Wortsman et al. 2022, recipe 1), with a strict rise asked for; yields each decision.

    Ingredients are sorted by their own `scores`, best first, equal ones in the order given. The best one starts the
    soup; each next one stays if the average with it is strictly better than the best so far:
    `score_above(members, best)` gives its score, or None (or any score) when it is not. Scores are compared exactly.
    """
    order = sorted(range(len(ingredients)), key=lambda k: -scores[k])
    members, best = [ingredients[order[0]]], scores[order[0]]
    yield Step(members[0], best, True)
    for k in order[1:]:
        candidate = [*members, ingredients[k]]
        score = score_above(candidate, best)
        accepted = score is not None and score > best
        if accepted:
            members, best = candidate, score
        yield Step(ingredients[k], score, accepted)
