"""The recipes: each is a function that takes an `Evaluator` and returns a `Mixture`, the soup.

A recipe that selects does so on the evaluator's held-out photographs by the evaluator's metric. A candidate must score
strictly above the best so far, and is dropped as soon as it no longer can.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from utils.base.flags import RECIPES
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.soups.evaluator import Evaluator
from utils.soups.learned import learned as learned  # recipes too
from utils.soups.learned import learned_by_layer as learned_by_layer
from utils.soups.search import greedy_soup
from utils.soups.task_vectors import norms_and_cosines, task_gram

ALPHAS = np.linspace(0.1, 0.9, 9)  # shares of the start that wise-ft tries
EVERY_SUBSET = 12  # up to so many ingredients radin ranks all subsets
RANDOM_SUBSETS = 4096  # and beyond, so many drawn ones


def uniform(evaluator: Evaluator) -> Mixture:
    """The mean of all ingredients (Wortsman et al. 2022, "Model soups", the uniform soup); nothing is selected."""
    return Mixture.of(evaluator.ingredients)


def greedy(evaluator: Evaluator) -> Mixture:
    """The published greedy soup (Wortsman et al. 2022, "Model soups", recipe 1): the best ingredient first; each next
    one stays if the score of the average rises.
    """

    def score_above(members: list, best):
        return evaluator.score_above(Mixture.of(members), best)

    steps = greedy_soup(evaluator.ingredients, evaluator.scores, score_above)
    evaluator.steps = list(evaluator.progress(steps, "greedy soup", total=len(evaluator.ingredients)))
    return Mixture.of([step.candidate for step in evaluator.steps if step.accepted])


def greedy_replacement(evaluator: Evaluator) -> Mixture:
    """Greedy selection with replacement (Caruana et al. 2004, "Ensemble selection from libraries of models", section
    2.1, there for predictions): an ingredient may be added again, which gives it more weight.

    The paper tries all ingredients before each addition. Here rounds go through the ingredients in the order of the
    greedy soup and add each that raises the score, until a round adds none. So the first round is the greedy soup.
    """
    order = evaluator.order
    members, best = [evaluator.ingredients[order[0]]], evaluator.scores[order[0]]
    rising = True
    while rising:
        rising = False
        for k in evaluator.progress(order, "greedy soup with replacement, one round"):
            if len({one.digest for one in members} | {evaluator.ingredients[k].digest}) == 1:
                continue  # the best ingredient once more is still itself
            score = evaluator.score_above(Mixture.of([*members, evaluator.ingredients[k]]), best)
            if score is not None:
                members, best, rising = [*members, evaluator.ingredients[k]], score, True
    return Mixture.of(members)


def pruned(evaluator: Evaluator) -> Mixture:
    """The pruned soup (Dansereau et al. 2023, "Model soups to increase inference without increasing compute time"):
    start with all ingredients; the worst first, drop each without which the score rises; repeat until none is dropped.
    """
    members = list(reversed(evaluator.order))  # worst first
    best = evaluator.score(evaluator.evaluate(uniform(evaluator)))
    rising = True
    while rising:
        rising = False
        for k in evaluator.progress(list(members), "pruned soup, one round"):
            rest = [other for other in members if other != k]
            if not rest:
                break
            score = evaluator.score_above(Mixture.of([evaluator.ingredients[other] for other in rest]), best)
            if score is not None:
                members, best, rising = rest, score, True
    return Mixture.of([evaluator.ingredients[k] for k in members])


def top_k(evaluator: Evaluator) -> Mixture:
    """The mean of the k best ingredients, for the k whose soup scores best; of equal ones the smallest."""
    ranked = [evaluator.ingredients[k] for k in evaluator.order]
    chosen, best = ranked[:1], evaluator.scores[evaluator.order[0]]
    for k in evaluator.progress(range(2, len(ranked) + 1), "top-k soup"):
        score = evaluator.score_above(Mixture.of(ranked[:k]), best)
        if score is not None:
            chosen, best = ranked[:k], score
    return Mixture.of(chosen)


def model_stock(evaluator: Evaluator) -> Mixture:
    """Model Stock (Jang et al. 2024, "Model Stock: All we need is just a few fine-tuned models"): tensor by tensor
    `t * mean + (1 - t) * start` with `t = N cos / (1 + (N - 1) cos)`, where `cos` is the mean cosine between
    two ingredients' differences from the start. The paper is silent on angles above 90 degrees: there t is 0.

    It selects nothing, so it looks at no photographs. Each fold has angles of its own.
    """
    of_folds = zip(*(one.parts for one in evaluator.ingredients), strict=True)
    each = [_stock(members, start) for members, start in zip(of_folds, evaluator.start.parts, strict=True)]
    return each[0] if len(each) == 1 else Mixture.across_folds(each)


def _stock(members: Sequence[Checkpoint], start: Checkpoint) -> Mixture:
    count = len(members)
    weights = {}
    for name, gram in task_gram([one.state_dict for one in members], start.state_dict).items():
        _, cosines = norms_and_cosines(gram)
        cosine = max(0.0, float(cosines[~np.eye(count, dtype=bool)].mean()))
        t = round(count * cosine / (1 + (count - 1) * cosine), 6)  # no order of summation changes these digits
        weights[name] = (*[t / count] * count, 1 - t)
    return Mixture.of([*members, start], weights)


def wise_ft(evaluator: Evaluator) -> Mixture:
    """WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"): `(1 - alpha) * tuned + alpha * start`
    for the alpha that scores best, 0 included. Here the tuned model is the greedy soup, as in the appendix of "Model
    soups". Alpha is the share of the start; in the paper it is that of the tuned model.
    """
    chosen = greedy(evaluator)
    best = evaluator.score(evaluator.evaluate(chosen))
    soup = chosen
    for alpha in evaluator.progress(ALPHAS.round(2).tolist(), "wise-ft"):
        shares = [round((1 - alpha) * share, 12) for share in soup.shares]
        candidate = Mixture.of([*soup.members, evaluator.start], [*shares, alpha])
        score = evaluator.score_above(candidate, best)
        if score is not None:
            chosen, best = candidate, score
    return chosen


def radin(evaluator: Evaluator) -> Mixture:
    """RADIN (Menes and Risser-Maroix 2024, "RADIN: Souping on a budget"): rank sets of ingredients by the score of
    their averaged predictions, which costs no forward pass; make and evaluate the soups of the first `budget` sets.

    Up to twelve ingredients all sets are ranked; of more, the k best for each k and sets drawn at random (seed 0). The
    predictions averaged are log-probabilities, so that an ingredient does not count more for larger logits.
    """
    count = len(evaluator.ingredients)
    log_probs = np.stack(evaluator.log_probs)
    if count <= EVERY_SUBSET:
        sets = {subset for k in range(2, count + 1) for subset in combinations(range(count), k)}
    else:
        rng = np.random.default_rng(0)
        drawn = (np.flatnonzero(rng.random(count) < rng.random()) for _ in range(RANDOM_SUBSETS))
        sets = {tuple(sorted(evaluator.order[:k])) for k in range(2, count + 1)}
        sets |= {tuple(map(int, subset)) for subset in drawn if len(subset) > 1}
    ranked = sorted(sets, key=lambda subset: (-evaluator.score(log_probs[list(subset)].mean(0)), len(subset), subset))
    chosen, best = evaluator.order[:1], evaluator.scores[evaluator.order[0]]
    for subset in evaluator.progress(ranked[: evaluator.budget], "radin"):
        score = evaluator.score_above(Mixture.of([evaluator.ingredients[k] for k in subset]), best)
        if score is not None:
            chosen, best = subset, score
    return Mixture.of([evaluator.ingredients[k] for k in chosen])


@dataclass(frozen=True)
class Soup:
    """The soup of a recipe: its mixture, its (N, C) `logits` on the evaluator's photographs, and what it took.

    `steps` are the decisions of the greedy search, `looked_at` counts the photographs that the recipe's decisions
    looked at, and `effort` says the same in words.
    """

    recipe: str
    mixture: Mixture
    logits: np.ndarray
    steps: list
    looked_at: int
    effort: str
    seconds: float


def recipe_function(recipe: str) -> Callable[[Evaluator], Mixture]:
    """The function here of one of the `flags.RECIPES`: its name with underscores."""
    return globals()[recipe.replace("-", "_")]


def make_soup(evaluator: Evaluator, recipe: str) -> Soup:
    """Make the soup of one of the `flags.RECIPES` and evaluate it."""
    begin = time.perf_counter()
    evaluator.begin(recipe)
    mixture = recipe_function(recipe)(evaluator)
    looked_at, effort = evaluator.looked_at, evaluator.effort()
    logits = evaluator.evaluate(mixture)
    if not RECIPES[recipe].selects:
        looked_at, effort = 0, "nothing is selected"
    return Soup(recipe, mixture, logits, evaluator.steps, looked_at, effort, time.perf_counter() - begin)
