"""Is the gain real? A recipe selects on one half of the held-out people and is scored on the other half."""

from dataclasses import dataclass

import numpy as np

from utils.base.errors import InputError
from utils.base.metrics import METRICS, shown_metrics
from utils.data.splits import person_folds
from utils.evaluation.scores import Gain, exact_score
from utils.models.averaging import Mixture
from utils.soups.evaluator import Evaluator
from utils.soups.recipes import make_soup


@dataclass(frozen=True)
class NestedGain:
    """What a recipe gains on people that it did not select on: `gains` by each metric, and all of it in `lines`."""

    gains: dict[str, Gain]
    lines: list[str]


def nested_gain(whole: Evaluator, recipe: str) -> NestedGain:
    """Let a recipe select on one half of the people and score it on the other half, both ways round.

    Each time the soup is compared with the ingredient that is best on the half that selects. The gains put both ways
    together: each person is predicted by what the other half selected.
    """
    held_out, ingredients = whole.held_out, whole.ingredients
    people = len(np.unique(held_out.persons))
    if people < 4:
        raise InputError(f"--nested needs two people in each half, and {people} are held out: leave it out")
    soup_logits, single_logits = np.zeros((2, len(held_out.labels), held_out.labelling.num_classes), np.float32)
    halves = person_folds(held_out.labels, held_out.persons, 2)
    lines = []
    for chosen_on, reported_on in (halves, halves[::-1]):
        half = Evaluator(
            held_out, ingredients, whole.metric_name, whole.journals, whole.start, chosen_on, whole.budget
        )
        soup = make_soup(half, recipe)
        single = ingredients[half.order[0]]
        for logits, mixture in ((soup_logits, soup.mixture), (single_logits, Mixture.of([single]))):
            partial = held_out.partial(mixture)
            logits[reported_on] = partial.evaluate(reported_on)
            partial.keep()
        others = len(np.unique(held_out.persons[reported_on]))
        soup_scores, single_scores = (_scores(half, reported_on, logits) for logits in (soup_logits, single_logits))
        lines.append(
            f"{recipe} chosen on {len(np.unique(held_out.persons[chosen_on]))} people ({len(soup.mixture.members)} "
            f"members): {soup_scores} on the other {others}; best single {single_scores}"
        )
    gains = held_out.gain(soup_logits, single_logits)
    shown = shown_metrics(whole.metric_name)
    lines += [f"both ways together, gain in {name} over the best single: {gains[name]}" for name in shown]
    return NestedGain(gains, lines)


def _scores(evaluator: Evaluator, positions: np.ndarray, logits: np.ndarray) -> str:
    """The scores of (N, C) logits at some of the held-out photographs, in words."""
    labels, parts = evaluator.held_out.labels[positions], []
    for name in shown_metrics(evaluator.metric_name):
        score = exact_score(METRICS[name], labels, logits[positions], logits.shape[1])
        parts.append(f"{name} {METRICS[name].shown(score):.4f}")
    return ", ".join(parts)
