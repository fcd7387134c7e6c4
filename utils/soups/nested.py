"""Is the gain real? A recipe selects on one half of the held-out people and is scored on the other half."""

from dataclasses import dataclass

import numpy as np

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.data.splits import person_folds
from utils.evaluation.held_out import HeldOut
from utils.evaluation.scores import Gain, confusion_matrix, paired_gain
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
    soup_preds, single_preds = np.zeros((2, len(held_out.labels)), np.int64)
    halves = person_folds(held_out.labels, held_out.persons, 2)
    lines = []
    for chosen_on, reported_on in (halves, halves[::-1]):
        half = Evaluator(
            held_out, ingredients, whole.metric_name, whole.journals, whole.start, chosen_on, whole.budget
        )
        soup = make_soup(half, recipe)
        single = ingredients[half.order[0]]
        for preds, mixture in ((soup_preds, soup.mixture), (single_preds, Mixture.of([single]))):
            partial = held_out.partial(mixture)
            preds[reported_on] = partial.evaluate(reported_on).argmax(-1)
            partial.keep()
        others = len(np.unique(held_out.persons[reported_on]))
        soup_scores, single_scores = (_scores(held_out, reported_on, preds) for preds in (soup_preds, single_preds))
        lines.append(
            f"{recipe} chosen on {len(np.unique(held_out.persons[chosen_on]))} people ({len(soup.mixture.members)} "
            f"members): {soup_scores} on the other {others}; best single {single_scores}"
        )
    gains = paired_gain(held_out.labels, soup_preds, single_preds, held_out.persons, held_out.labelling.num_classes)
    lines += [f"both ways together, {name} of the soup minus the best single: {gain}" for name, gain in gains.items()]
    return NestedGain(gains, lines)


def _scores(held_out: HeldOut, positions: np.ndarray, preds: np.ndarray) -> str:
    confusion = confusion_matrix(held_out.labels[positions], preds[positions], held_out.labelling.num_classes)
    return ", ".join(f"{name} {float(metric(confusion)):.4f}" for name, metric in METRICS.items())
