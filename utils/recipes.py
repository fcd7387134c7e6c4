"""The recipes: from ingredients and their scores to a mixture, one function each.

Each takes a `Kitchen` and returns a `Mixture`. What a recipe chooses, it chooses on the kitchen's held-out
photographs, by its metric, with a strict rise asked for; candidates are dropped as soon as they cannot win.
"""

import time
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from utils.geometry import norms_and_cosines, task_gram
from utils.kitchen import Kitchen
from utils.learned import learned, learned_by_layer
from utils.options import SELECT_NOTHING
from utils.search import greedy_soup
from utils.soups import Mixture

ALPHAS = np.linspace(0.1, 0.9, 9)  # shares of the start that wise-ft tries
EVERY_SUBSET = 12  # up to so many ingredients radin ranks all subsets
RANDOM_SUBSETS = 4096  # and beyond, so many drawn ones


def uniform(kitchen: Kitchen) -> Mixture:
    """The mean of all ingredients (Wortsman et al. 2022, "Model soups", the uniform soup); nothing is selected."""
    return Mixture.of(kitchen.ingredients)


def greedy(kitchen: Kitchen) -> Mixture:
    """The published greedy soup (Wortsman et al. 2022, "Model soups", recipe 1): best ingredient first, the next one
    stays if the score of the average rises.
    """

    def challenge(members: list, best):
        return kitchen.challenge(Mixture.of(members), best)

    kitchen.steps = list(greedy_soup(kitchen.ingredients, kitchen.scores, challenge))
    return Mixture.of([step.candidate for step in kitchen.steps if step.accepted])


def greedy_replacement(kitchen: Kitchen) -> Mixture:
    """Greedy selection with replacement (Caruana et al. 2004, "Ensemble selection from libraries of models", section
    2.1, there for predictions): an ingredient may be added again, which weights it.

    Here it goes round in the order of the greedy soup, adding whatever raises the score, until a round adds nothing,
    instead of trying all before each addition: the first round is the greedy soup and costs as little.
    """
    order = kitchen.order
    members, best = [kitchen.ingredients[order[0]]], kitchen.scores[order[0]]
    rising = True
    while rising:
        rising = False
        for k in order:
            if len({one.digest for one in members} | {kitchen.ingredients[k].digest}) == 1:
                continue  # the best ingredient once more is still itself
            score = kitchen.challenge(Mixture.of([*members, kitchen.ingredients[k]]), best)
            if score is not None:
                members, best, rising = [*members, kitchen.ingredients[k]], score, True
    return Mixture.of(members)


def pruned(kitchen: Kitchen) -> Mixture:
    """The pruned soup (Dansereau et al. 2023, "Model soups to increase inference without increasing compute time"):
    from all ingredients, the worst ones first, drop each whose loss raises the score; repeated until none does.
    """
    members = list(reversed(kitchen.order))  # worst first
    best = kitchen.score(kitchen.taste(uniform(kitchen)))
    rising = True
    while rising:
        rising = False
        for k in list(members):
            rest = [other for other in members if other != k]
            if not rest:
                break
            score = kitchen.challenge(Mixture.of([kitchen.ingredients[other] for other in rest]), best)
            if score is not None:
                members, best, rising = rest, score, True
    return Mixture.of([kitchen.ingredients[k] for k in members])


def top_k(kitchen: Kitchen) -> Mixture:
    """The mean of the k best ingredients, for the k that scores best; of equal ones the smallest."""
    ranked = [kitchen.ingredients[k] for k in kitchen.order]
    chosen, best = ranked[:1], kitchen.scores[kitchen.order[0]]
    for k in range(2, len(ranked) + 1):
        score = kitchen.challenge(Mixture.of(ranked[:k]), best)
        if score is not None:
            chosen, best = ranked[:k], score
    return Mixture.of(chosen)


def model_stock(kitchen: Kitchen) -> Mixture:
    """Model Stock (Jang et al. 2024, "Model Stock: All we need is just a few fine-tuned models"): tensor by tensor
    `t * mean + (1 - t) * start` with `t = N cos / (1 + (N - 1) cos)`, where `cos` is the mean cosine between
    two ingredients' differences from the start. The paper is silent on angles beyond a right one: there t is 0.

    It selects nothing, so it looks at no photographs.
    """
    count = len(kitchen.ingredients)
    weights = {}
    for name, gram in task_gram([one.state_dict for one in kitchen.ingredients], kitchen.start.state_dict).items():
        _, cosines = norms_and_cosines(gram)
        cosine = max(0.0, float(cosines[~np.eye(count, dtype=bool)].mean()))
        t = round(count * cosine / (1 + (count - 1) * cosine), 6)  # digits that no order of summation changes
        weights[name] = (*[t / count] * count, 1 - t)
    return Mixture.of([*kitchen.ingredients, kitchen.start], weights)


def wise_ft(kitchen: Kitchen) -> Mixture:
    """WiSE-FT (Wortsman et al. 2022, "Robust fine-tuning of zero-shot models"): `(1 - alpha) * tuned + alpha * start`
    for the alpha that scores best, 0 among them. Here the tuned model is the greedy soup, as the soups paper's
    appendix does; alpha counts from the tuned end, the paper's counts from the other.
    """
    chosen = greedy(kitchen)
    best = kitchen.score(kitchen.taste(chosen))
    soup = chosen
    for alpha in ALPHAS.round(2).tolist():
        shares = [round((1 - alpha) * share, 12) for share in soup.shares]
        candidate = Mixture.of([*soup.members, kitchen.start], [*shares, alpha])
        score = kitchen.challenge(candidate, best)
        if score is not None:
            chosen, best = candidate, score
    return chosen


def radin(kitchen: Kitchen) -> Mixture:
    """RADIN (Menes and Risser-Maroix 2024, "RADIN: Souping on a budget"): sets of ingredients are ranked by the score
    of their averaged logits, which the cache has, and only the best of them are averaged and really evaluated, as many
    as the kitchen's `budget`.

    Up to twelve ingredients all sets are ranked; of more, the k best for each k and drawn sets (seed 0). Averaged are
    log-probabilities, so that no ingredient counts more for being surer of itself.
    """
    count = len(kitchen.ingredients)
    log_probs = np.stack(kitchen.log_probs)
    if count <= EVERY_SUBSET:
        sets = {subset for k in range(2, count + 1) for subset in combinations(range(count), k)}
    else:
        rng = np.random.default_rng(0)
        drawn = (np.flatnonzero(rng.random(count) < rng.random()) for _ in range(RANDOM_SUBSETS))
        sets = {tuple(sorted(kitchen.order[:k])) for k in range(2, count + 1)}
        sets |= {tuple(map(int, subset)) for subset in drawn if len(subset) > 1}
    ranked = sorted(sets, key=lambda subset: (-kitchen.score(log_probs[list(subset)].mean(0)), len(subset), subset))
    chosen, best = kitchen.order[:1], kitchen.scores[kitchen.order[0]]
    for subset in ranked[: kitchen.budget]:
        score = kitchen.challenge(Mixture.of([kitchen.ingredients[k] for k in subset]), best)
        if score is not None:
            chosen, best = subset, score
    return Mixture.of([kitchen.ingredients[k] for k in chosen])


RECIPES = {
    "uniform": uniform,
    "greedy": greedy,
    "greedy-replacement": greedy_replacement,
    "pruned": pruned,
    "top-k": top_k,
    "radin": radin,
    "learned": learned,
    "learned-by-layer": learned_by_layer,
    "model-stock": model_stock,
    "wise-ft": wise_ft,
}


@dataclass(frozen=True)
class Dish:
    """A recipe's soup, and what it took: (N, C) `logits` of the kitchen's photographs, the greedy search's `steps`,
    how many photographs its decisions `looked_at`, and the same in words.
    """

    recipe: str
    mixture: Mixture
    logits: np.ndarray
    steps: list
    looked_at: int
    effort: str
    seconds: float


def cook(kitchen: Kitchen, recipe: str) -> Dish:
    """Follow one of the `RECIPES` to a soup and taste it."""
    begin = time.perf_counter()
    kitchen.begin(recipe)
    mixture = RECIPES[recipe](kitchen)
    looked_at, effort = kitchen.looked_at, kitchen.effort()
    logits = kitchen.taste(mixture)
    if recipe in SELECT_NOTHING:
        looked_at, effort = 0, "nothing is selected"
    return Dish(recipe, mixture, logits, kitchen.steps, looked_at, effort, time.perf_counter() - begin)
