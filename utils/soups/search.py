"""Searches over candidate soups that stop looking at one as soon as it can no longer win, and stay exact.

Nothing here knows of models: answers come from a function, so that every law can be tested on tables.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from utils.base.metrics import Metric
from utils.evaluation.scores import count


@dataclass(frozen=True)
class Outcome:
    """What `score_above` found: `score` is None when the candidate was dropped before all photographs were seen.

    `seen` counts the photographs looked at and `correct` those of them that were predicted rightly.
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
    """Whether a candidate scores strictly above `best`, found out on no more photographs than that takes.

    `labels` (N,) are class ids below `num_classes`. `order` (N,) says in which order the photographs are looked at.
    `predict(positions)` gives the answers to them (`evaluation.scores`), for `batches` times `batch_size` of them at
    once.

    After each batch the score is computed as if all remaining photographs were predicted rightly and beyond doubt.
    That is the highest score still possible: it maximises accuracy and every class's recall and F1 at once, since it
    adds no false positive and no class that is only predicted, and it adds no loss. When it is not above `best` the
    candidate is dropped; a full evaluation would have rejected it too. With None as `best` nothing is dropped.
    """
    confusion, lost = np.zeros((num_classes, num_classes), np.int64), np.zeros(num_classes, np.int64)
    remaining = np.bincount(labels[order], minlength=num_classes)
    seen = 0

    def is_beaten() -> bool:
        return best is not None and metric(confusion + np.diag(remaining), lost) <= best

    if is_beaten():  # nothing beats a perfect score
        return Outcome(None, 0, 0)
    for start in range(0, len(order), batch_size * batches):
        ahead = order[start : start + batch_size * batches]
        answers = predict(ahead)
        for k in range(0, len(ahead), batch_size):
            truth = labels[ahead[k : k + batch_size]]
            more = count(metric, truth, answers[k : k + batch_size], num_classes)
            confusion, lost = confusion + more[0], lost + more[1]
            remaining -= np.bincount(truth, minlength=num_classes)
            seen += len(truth)
            if is_beaten():
                return Outcome(None, seen, int(confusion.trace()))
    return Outcome(metric(confusion, lost), seen, int(confusion.trace()))


def hardest_first(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """(N,) positions of the photographs, those first that these (N, C) logits predict worst.

    A candidate with similar logits loses soonest in this order. The key is the margin, the true class's logit less the
    largest other one, ascending. Equal ones keep their order.
    """
    rows = np.arange(len(labels))
    others = logits.copy()
    others[rows, labels] = -np.inf
    return np.argsort(logits[rows, labels] - others.max(-1), kind="stable")


def fold_after_fold(order: np.ndarray, fold_of: np.ndarray, block: int) -> np.ndarray:
    """The (N,) positions of `order` in blocks, and in each block one fold's after the other's, by (N,) `fold_of`.

    To look at a photograph of another fold takes another model, which has to be made, so a search changes folds
    seldom; the hardest photographs of all folds still come first. With one fold nothing changes.
    """
    place = np.arange(len(order)) // max(1, block)
    return order[np.lexsort((np.arange(len(order)), fold_of[order], place))]


def fewest(outcomes: Sequence[Outcome], errors_to_beat: Sequence[int]) -> int:
    """How many photographs any exact procedure has to look at for these decisions by accuracy.

    To accept a candidate it must see all photographs; to reject one it must see as many errors as the best soup has.
    """
    return sum(
        one.seen if one.score is not None else errors for one, errors in zip(outcomes, errors_to_beat, strict=True)
    )


@dataclass(frozen=True)
class Step:
    """One decision of the greedy search: `score` is that of the soup with the candidate, None when it was dropped."""

    candidate: Any
    score: Fraction | None
    accepted: bool


def greedy_soup(
    ingredients: Sequence, scores: Sequence[Fraction], score_above: Callable[[list, Fraction], Fraction | None]
) -> Iterator[Step]:
    """The published greedy soup (Wortsman et al. 2022, recipe 1); yields each decision.

    Ingredients are sorted by their own `scores`, the best first, equal ones as given. The first one starts the soup.
    Each next one stays if the average with it scores strictly above the best so far; the paper also keeps equal ones.
    `score_above(members, best)` gives that score, or None when it is not above `best`. Scores are compared exactly.
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
