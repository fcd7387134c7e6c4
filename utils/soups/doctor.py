"""The doctor: a check of the ingredients before they are averaged, and a diagnosis of a soup that disappoints."""

from collections.abc import Sequence

import numpy as np

from utils.base.metrics import METRICS
from utils.evaluation.folded import OutOfFold
from utils.evaluation.scores import bootstrap_scores, cross_entropies
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.soups.evaluator import Evaluator
from utils.soups.recipes import Soup
from utils.soups.task_vectors import norms_and_cosines, task_gram

SAMPLE = 64  # photographs for the loss between two ingredients
FAR = 4  # standard deviations of the other ingredients' scores that one must lie below them to be called bad
BARRIER = 0.05  # nats that the loss halfway may lie above the mean of the ends


def examine(evaluator: Evaluator) -> list[str]:
    """What the ingredients have in common, how small a difference these people can tell, and whether the ingredients
    average well, one line each; the verdict comes last.

    `checkpoints.check_same_kind` has passed. If the evaluator has a start: the length of each ingredient's difference
    from it and the cosines between these, over all weights. The verdict compares the loss of the two best ingredients
    with the loss of their average, on at most `SAMPLE` photographs. Of three folds or more, the line before it
    compares models of neighbouring folds so.
    """
    ingredients = evaluator.ingredients
    lines = [f"{len(ingredients)} ingredients with the same tensors, classes and preprocessing", _family(ingredients)]
    if evaluator.start is not None:
        lines += _task_vectors(evaluator)
    if len(ingredients) > 1:
        lines.append(_standard_errors(evaluator))
    lines += _between_folds(evaluator)
    if len(ingredients) > 1:
        first, second = (ingredients[k].name for k in evaluator.order[:2])
        ends, halfway = losses_between(evaluator)
        verdict = "a BARRIER: their average will not do" if barrier(ends, halfway) else "no barrier"
        lines.append(
            f"loss on {len(_some(evaluator))} photographs of {first} {ends[0]:.3f}, halfway {halfway:.3f}, "
            f"of {second} {ends[1]:.3f}: {verdict}"
        )
    return lines


def _standard_errors(evaluator: Evaluator) -> str:
    """How unsure scores are: the deviation over resampled people of the best, and of the next one behind it."""
    best, other = (_resampled(evaluator, k) for k in evaluator.order[:2])
    title, held_out = METRICS[evaluator.metric_name].title, evaluator.held_out
    count = len(np.unique(held_out.persons[evaluator.positions]))
    return (
        f"{count} {held_out.whose}: the standard error of {title} is {best.std():.3f}, that of the difference between "
        f"the two best ingredients {(best - other).std():.3f}"
    )


def _resampled(evaluator: Evaluator, k: int) -> np.ndarray:
    """The score of the k-th ingredient in each of many resamplings of the people, the same for all ingredients."""
    persons, logits = evaluator.held_out.persons[evaluator.positions], evaluator.logits[k]
    return bootstrap_scores(evaluator.labels, logits, persons, logits.shape[1])[evaluator.metric_name]


def _far_below(evaluator: Evaluator, scores: np.ndarray, worst: int) -> bool:
    """Whether an ingredient is bad: far below the others by their own spread, and outside of what chance among these
    people makes of its difference to the best one.
    """
    others = np.delete(scores, worst)
    if len(others) < 2 or others.mean() - scores[worst] <= FAR * others.std():
        return False
    chance = (_resampled(evaluator, int(scores.argmax())) - _resampled(evaluator, worst)).std()
    return bool(scores.max() - scores[worst] > 2 * chance)


def _family(ingredients: Sequence[Checkpoint]) -> str:
    recorded = [one for one in ingredients if one.family is not None]
    if not recorded:
        return "no records: nothing tells whether they share a start"
    family, split = recorded[0].family, recorded[0].split
    some = "" if len(recorded) == len(ingredients) else f" ({len(ingredients) - len(recorded)} have no record)"
    if split.get("folds"):
        people = f"one division into {split['folds']} folds ({split['partition']})"
        return f"{people} and one start (a {family['head_init']} head for each fold, {family['folds']})"
    return f"one split ({split['digest']}) and one start ({family['head_init']} head {family['inputs']}){some}"


def _task_vectors(evaluator: Evaluator) -> list[str]:
    openers = [one.parts[0].state_dict for one in evaluator.ingredients]  # of one fold, whose models have one start
    norms, cosines = norms_and_cosines(sum(task_gram(openers, evaluator.start.parts[0].state_dict).values()))
    far = int(norms.argmax())
    lines = [
        f"distance from the start {norms.min():.3g} to {norms.max():.3g} (longest: {evaluator.ingredients[far].name})"
    ]
    if len(openers) > 1:
        pairs = cosines[~np.eye(len(openers), dtype=bool)]
        least = int(cosines.sum(0).argmin())
        lines.append(
            f"cosine between their differences from it {pairs.mean():.2f} on average, {pairs.min():.2f} at least (the "
            f"odd one out: {evaluator.ingredients[least].name})"
        )
    return lines


def barrier(ends: Sequence[float], halfway: float) -> bool:
    """Whether the loss halfway between two models lies above the mean of theirs (Frankle et al. 2020)."""
    return bool(halfway > np.mean(ends) + BARRIER)


def _between_folds(evaluator: Evaluator) -> list[str]:
    """Of three folds or more: whether the mean over folds will do, which out-of-fold scores cannot tell, since it has
    seen everybody. On people of each fold, the models of the next two, which both have seen them, are compared with
    their average.
    """
    held_out, best = evaluator.held_out, evaluator.ingredients[evaluator.order[0]]
    if not isinstance(held_out, OutOfFold) or len(best.parts) < 3:
        return []
    positions, count = evaluator.positions[_some(evaluator)], len(best.parts)
    losses = [[], [], []]
    for fold, people in enumerate(held_out.parts):
        own = positions[held_out.fold_of[positions] == fold] - held_out.starts[fold]
        one, other = (best.parts[(fold + k) % count] for k in (1, 2))
        for told, models in zip(losses, ([one], [one, other], [other]), strict=True):
            logits = people.partial(Mixture.of(models)).evaluate(own)
            told.append(cross_entropies(logits, people.labels[own]))
    first, halfway, second = (float(np.concatenate(one).mean()) for one in losses)
    verdict = "no barrier"
    if barrier((first, second), halfway):
        verdict = (
            "a BARRIER between folds: their mean will not do; hand in the refit soup, which training.sh trains, or "
            "predict with all models (inference.py --members folds)"
        )
    return [
        f"loss on {len(positions)} photographs of the models of two folds that have seen them {first:.3f} and "
        f"{second:.3f}, halfway {halfway:.3f}: {verdict}"
    ]


def _some(evaluator: Evaluator) -> np.ndarray:
    """At most `SAMPLE` of the evaluator's positions, spread evenly."""
    count = len(evaluator.labels)
    return np.unique(np.linspace(0, count - 1, min(SAMPLE, count)).astype(int))


def losses_between(evaluator: Evaluator) -> tuple[tuple[float, float], float]:
    """Mean cross entropy in nats of the two best ingredients, and of their average.

    It is measured on at most `SAMPLE` photographs, spread evenly over all of them.
    """
    some = _some(evaluator)
    pair, labels = evaluator.order[:2], evaluator.labels[some]
    partial = evaluator.held_out.partial(Mixture.of([evaluator.ingredients[k] for k in pair]))
    halfway = partial.evaluate(evaluator.positions[some])
    partial.let_go()
    every = *(evaluator.logits[k][some] for k in pair), halfway
    *ends, between = (float(cross_entropies(logits, labels).mean()) for logits in every)
    return tuple(ends), between


def diagnosis(evaluator: Evaluator, soup: Soup) -> str | None:
    """One sentence that says why a soup disappoints and what to do; None when it does not disappoint.

    A greedy soup disappoints when it keeps one of several ingredients, a uniform soup when it scores below the mean of
    its members.
    """
    name, count, sign = evaluator.metric_name, len(evaluator.ingredients), evaluator.metric.sign
    scores = np.array([float(score) for score in evaluator.scores])
    if soup.recipe == "greedy" and len(soup.mixture.members) == 1 < count:
        what = f"greedy kept one of {count}: no average has a better {name} than {sign * scores.max():.4f}"
    elif soup.recipe == "uniform" and (reached := float(evaluator.score(soup.logits))) < scores.mean():
        what = f"the uniform soup's {name} {sign * reached:.4f} is worse than its members' mean"
        what += f" {sign * scores.mean():.4f}"
    else:
        return None
    worst = int(scores.argmin())
    ends, halfway = losses_between(evaluator)
    if barrier(ends, halfway):
        rates = {one.meta["options"].get("lr") for one in evaluator.ingredients if one.meta}
        rate = f" (now {', '.join(map(str, sorted(rates - {None})))})" if rates - {None} else ""
        return (
            f"{what}; halfway between the two best the loss is {halfway:.3f} against {ends[0]:.3f} and {ends[1]:.3f}, "
            f"so they lie in different basins: share one start and lower the learning rate{rate}"
        )
    spread = scores.max() - scores.min()
    if _far_below(evaluator, scores, worst):
        odd = evaluator.ingredients[worst].name
        return f"{what}; {odd} scores {sign * scores[worst]:.4f}, far worse than the others: drop it (--indices)"
    return (
        f"{what}; there is no barrier (loss halfway {halfway:.3f} against {ends[0]:.3f} and {ends[1]:.3f}) and the "
        f"ingredients differ by {spread:.4f} at most on {len(evaluator.labels)} photographs: hold out more, or "
        "vary the ingredients more (seeds, longer training)"
    )
