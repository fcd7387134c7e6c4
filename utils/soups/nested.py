"""Is the gain real? Soups chosen on one half of the held-out people, reported on the other."""

from pathlib import Path

import numpy as np

from utils.base.errors import InputError
from utils.base.metrics import METRICS
from utils.data.splits import person_folds
from utils.evaluation.held_out import HeldOut, PartialLogits
from utils.evaluation.scores import confusion_matrix, paired_gain
from utils.models.averaging import Mixture
from utils.models.checkpoints import Checkpoint
from utils.soups.evaluator import Evaluator
from utils.soups.recipes import make_soup


def nested_lines(
    held_out: HeldOut,
    ingredients: list[Checkpoint],
    metric_name: str,
    journals: Path,
    start: Checkpoint | None,
    recipe: str,
    budget: int,
) -> list[str]:
    """What a recipe is worth when it selects on one half of the people and is scored on the other, both ways round.

    Each way the soup is set against the best single ingredient of the same half; the last lines put both ways
    together, where each person was predicted by what others chose.
    """
    people = len(np.unique(held_out.persons))
    if people < 4:
        raise InputError(f"--nested needs two people in each half, and {people} are held out: leave it out")
    soup_preds, single_preds = np.zeros((2, len(held_out.labels)), np.int64)
    sides = person_folds(held_out.labels, held_out.persons, 2)
    lines = []
    for chosen_on, reported_on in (sides, sides[::-1]):
        evaluator = Evaluator(held_out, ingredients, metric_name, journals, start, chosen_on, budget)
        soup = make_soup(evaluator, recipe)
        single = ingredients[evaluator.order[0]]
        for preds, mixture in ((soup_preds, soup.mixture), (single_preds, Mixture.of([single]))):
            partial = PartialLogits(held_out, mixture)
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
    return lines


def _scores(held_out: HeldOut, positions: np.ndarray, preds: np.ndarray) -> str:
    confusion = confusion_matrix(held_out.labels[positions], preds[positions], held_out.labelling.num_classes)
    return ", ".join(f"{name} {float(metric(confusion)):.4f}" for name, metric in METRICS.items())
