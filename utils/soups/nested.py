"""Is the gain real? A recipe selects on some of the held-out people and is scored on the others."""

from dataclasses import dataclass

import numpy as np

from utils.base.errors import InputError
from utils.base.metrics import METRICS, shown_metrics
from utils.data.splits import person_folds
from utils.evaluation.scores import Gain, exact_score
from utils.soups.evaluator import Evaluator
from utils.soups.recipes import make_soup


@dataclass(frozen=True)
class NestedGain:
    """What a recipe gains on people that it did not select on: `gains` by each metric over the expected single model,
    all of it in `lines`, and its scores as a `row`.
    """

    gains: dict[str, Gain]
    lines: list[str]
    row: dict


def nested_gain(whole: Evaluator, recipe: str) -> NestedGain:
    """Let a recipe select on one half of the people and score it on the other half, both ways round; in a folded sweep
    on all folds but one, and score it on that one.

    The gains put all ways together: each person is predicted by what others selected. They are those over the expected
    single model, with which nothing is selected.
    """
    held_out, ingredients = whole.held_out, whole.ingredients
    people = len(np.unique(held_out.persons))
    if people < 4:
        raise InputError(f"--nested needs two people in each half, and {people} are held out: leave it out")
    logits, lines = np.zeros((len(held_out.labels), held_out.labelling.num_classes), np.float32), []
    for chosen_on, reported_on in _ways(whole):
        half = Evaluator(
            held_out, ingredients, whole.metric_name, whole.journals, whole.start, chosen_on, whole.budget
        )
        soup = make_soup(half, recipe)
        partial = held_out.partial(soup.mixture)
        logits[reported_on] = partial.evaluate(reported_on)
        partial.let_go()
        single = whole.logits[half.order[0]]
        others = len(np.unique(held_out.persons[reported_on]))
        soup_scores, single_scores = (_scores(half, reported_on, one) for one in (logits, single))
        lines.append(
            f"{recipe} chosen on {len(np.unique(held_out.persons[chosen_on]))} people ({len(soup.mixture.members)} "
            f"members): {soup_scores} on the other {others}; best single {single_scores}"
        )
    gains = held_out.gain(logits, *whole.logits)
    shown = shown_metrics(whole.metric_name)
    lines += [f"all ways together, gain in {name} over the expected single model: {gains[name]}" for name in shown]
    row = held_out.row(f"{recipe} soup, nested", f"{recipe} soup, selected on other people", logits)
    return NestedGain(gains, lines, row)


def _ways(whole: Evaluator) -> list[tuple[np.ndarray, np.ndarray]]:
    """The positions of people who select and of those who report, one way after the other."""
    held_out, every = whole.held_out, np.arange(len(whole.held_out.labels))
    folds = np.unique(held_out.fold_of)
    if len(folds) == 1:
        halves = person_folds(held_out.labels, held_out.persons, 2)
        return [tuple(halves), tuple(halves[::-1])]
    return [(every[held_out.fold_of != fold], every[held_out.fold_of == fold]) for fold in folds]


def _scores(evaluator: Evaluator, positions: np.ndarray, logits: np.ndarray) -> str:
    """The scores of (N, C) logits at some of the held-out photographs, in words."""
    labels, parts = evaluator.held_out.labels[positions], []
    for name in shown_metrics(evaluator.metric_name):
        score = exact_score(METRICS[name], labels, logits[positions], logits.shape[1])
        parts.append(f"{name} {METRICS[name].shown(score):.4f}")
    return ", ".join(parts)
